"""Values of CSV parsed straight to Arrow types by pyarrow, where its parser and PostgreSQL's input functions agree.

pyarrow takes forms that PostgreSQL refuses or understands differently, tried on pyarrow 26 and PostgreSQL 18 (`tests/formats/test_csv_values.py` compares them):

| type | pyarrow takes | PostgreSQL |
|---|---|---|
| integers | `0xFFFFFFFF` as int32 -1, `0xFFFFFFFFFFFFFFFF` as int64 -1 | out of range; no hexadecimal at all before 16 |
| numeric(10,2) | `100000000`, one digit too many; `1e+-2`; and `0e-679504100` ends the process | out of range; refused; 0 |
| float | `1e400` as infinity, `1e-400` as 0 | out of range |
| timestamp | `2024-01-05 12` | refused |
| timestamp with time zone | offsets to ±23:59 | to ±15:59 |
| date, timestamp | the year 0000 | refused |

A column that may hold one of these is not parsed here: the caller's own rules decide about each value. Integers and numeric are parsed straight only
where no field of the block begins like the exotic ones; else their texts are looked at first. What else pyarrow takes
(spaces around numbers, `1e2` for 100, `12:34`) PostgreSQL takes for the same value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRUE = ["t", "true", "True", "TRUE", "T", "1"]
FALSE = ["f", "false", "False", "FALSE", "F", "0"]
_FIRST = {pa.date32(): -719_162, pa.timestamp("us"): -62_135_596_800_000_000}  # 0001-01-01: days, microseconds since 1970
_VERY_SMALL = re.compile(rb"[0-9.][eE]-|0{30}")
_LATE_OFFSET = "[+-](1[6-9]|2[0-9])(:?[0-9]{2})?$"
_NAIVE_LENGTHS = {10, 16, 19, *range(21, 27)}  # date, minutes, seconds, fractions of them: all but hours
_SHORTEST_ZONED = 20  # `2024-01-05 12:34:56Z`: an hour alone with the longest offset has 19


def parsed_as(wanted: pa.DataType, *, exotic: bool) -> pa.DataType:
    """The type that pyarrow's CSV reader is asked for; `checked` makes the wanted one of it.

    Args:
        wanted: The type of a column.
        exotic: Whether a field of the block may begin as `0x1F` or `1e-5` do.

    Raises:
        TypeError: pyarrow has no parser for this type that means what PostgreSQL does.
    """
    if pa.types.is_timestamp(wanted) and wanted.unit == "us":
        return pa.string()
    if pa.types.is_signed_integer(wanted) or pa.types.is_decimal128(wanted):
        return pa.string() if exotic else wanted
    if wanted not in {pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.date32(), pa.time64("us")}:
        raise TypeError(f"CSV is not parsed straight to {wanted}")
    return wanted


def checked(columns: Sequence[pa.Array], schema: pa.Schema, text: pa.Buffer, as_text: Callable[[int], pa.Array]) -> list[pa.Array] | None:
    """The columns in the types of the schema; None when a value may not be in the plain form of its type.

    Args:
        columns: In the types that `parsed_as` gives.
        schema: The types wanted.
        text: What the columns were parsed from.
        as_text: Gives the text of a column, by its position.
    """
    done = []
    for position, kind in enumerate(schema.types):
        values = _parsed(columns[position], kind)
        if values is None or not _agreed(values):
            return None
        if pa.types.is_floating(kind) and _may_be_lost(values, text) and _lost(values, as_text(position)):
            return None
        done.append(values)
    return done


def _parsed(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The values in their type, where they are still text; None if they cannot be."""
    if values.type == kind:
        return values
    plain = _plain_timestamps(values, kind.tz) if pa.types.is_timestamp(kind) else not _exotic(values, b"xX" if pa.types.is_integer(kind) else b"eE")
    try:
        return pc.cast(values, kind) if plain else None
    except pa.ArrowInvalid:
        return None


def _exotic(texts: pa.Array, letters: bytes) -> bool:
    values = texts.buffers()[2]
    data = values.to_pybytes() if values else b""
    return any(letter in data for letter in letters)


def _plain_timestamps(texts: pa.Array, zone: str | None) -> bool:
    lengths = set(pc.unique(pc.binary_length(texts)).to_pylist()) - {None}
    if zone is None:
        return lengths <= _NAIVE_LENGTHS
    return min(lengths, default=_SHORTEST_ZONED) >= _SHORTEST_ZONED and not _any(pc.match_substring_regex(texts, _LATE_OFFSET))


def _agreed(values: pa.Array) -> bool:
    """Whether all these values are in the range that PostgreSQL allows them."""
    if pa.types.is_floating(values.type):
        return not _any(pc.invert(pc.is_finite(values)))
    if pa.types.is_decimal(values.type):
        return _fits(values)
    first = _FIRST.get(pa.timestamp("us") if pa.types.is_timestamp(values.type) else values.type)
    if first is None or values.null_count == len(values):
        return True
    return bool(pc.min(values).cast(pa.int64() if values.type != pa.date32() else pa.int32()).as_py() >= first)


def _fits(values: pa.Array) -> bool:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _may_be_lost(values: pa.Array, text: pa.Buffer) -> bool:
    return _any(pc.equal(values, pa.scalar(0, values.type))) and _VERY_SMALL.search(text) is not None


def _lost(values: pa.Array, texts: pa.Array) -> bool:
    """Whether a number other than zero became zero."""
    zeros = pc.equal(values, pa.scalar(0, values.type))
    return _any(pc.match_substring_regex(pc.filter(texts, zeros), "^[^eE]*[1-9]"))


def _any(mask: pa.BooleanArray) -> bool:
    return bool(pc.any(mask).as_py())
