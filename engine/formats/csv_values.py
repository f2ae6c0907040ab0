"""Values of CSV parsed straight to Arrow types by pyarrow, where its parser and PostgreSQL's input functions agree.

pyarrow takes forms that PostgreSQL refuses or understands differently, tried on pyarrow 26 and PostgreSQL 18 (`tests/formats/test_csv_values.py` compares them):

| type | pyarrow takes | PostgreSQL |
|---|---|---|
| integers | `0xFFFFFFFF` as int32 -1, `0xFFFFFFFFFFFFFFFF` as int64 -1 | out of range; no hexadecimal at all before 16 |
| numeric(10,2) | `100000000` as one digit too many | out of range |
| float | `1e400` as infinity, `1e-400` as 0 | out of range |
| timestamp | `2024-01-05 12` | refused |
| timestamp with time zone | offsets to ±23:59 | to ±15:59 |
| date, timestamp | the year 0000 | refused |

A column that may hold one of these is not parsed here: the caller's own rules decide about each value. What else pyarrow takes
(spaces around numbers, `1e2` for 100, `12:34`) PostgreSQL takes for the same value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Parsed:
    """A block of rows as pyarrow has parsed it.

    Attributes:
        columns: In the types that `parsed_as` gives.
        text: What they were parsed from.
        hexadecimal: Whether a field of it may begin as `0x1F` does.
        as_text: Gives the text of a column.
    """

    columns: Sequence[pa.Array]
    text: pa.Buffer
    hexadecimal: bool
    as_text: Callable[[int], pa.Array]


def parsed_as(wanted: pa.DataType) -> pa.DataType:
    """The type that pyarrow's CSV reader is asked for; `checked` makes the wanted one of it.

    Raises:
        TypeError: pyarrow has no parser for this type that means what PostgreSQL does.
    """
    if pa.types.is_timestamp(wanted) and wanted.unit == "us":
        return pa.string()
    plain = wanted in {pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.date32(), pa.time64("us")}
    if not plain and not pa.types.is_signed_integer(wanted) and not pa.types.is_decimal128(wanted):
        raise TypeError(f"CSV is not parsed straight to {wanted}")
    return wanted


def checked(block: Parsed, schema: pa.Schema) -> list[pa.Array] | None:
    """The columns in the types of the schema; None when a value may not be in the plain form of its type."""
    if block.hexadecimal and any(pa.types.is_integer(kind) for kind in schema.types):
        return None
    done = []
    for position, kind in enumerate(schema.types):
        parsed = block.columns[position]
        values = _timestamps(parsed, kind) if pa.types.is_timestamp(kind) else parsed
        if values is None or not _agreed(values) or (pa.types.is_floating(kind) and _lost(values, block, position)):
            return None
        done.append(values)
    return done


def _timestamps(texts: pa.Array, kind: pa.DataType) -> pa.Array | None:
    lengths = set(pc.unique(pc.binary_length(texts)).to_pylist()) - {None}
    if kind.tz is None:
        plain = lengths <= _NAIVE_LENGTHS
    else:
        plain = min(lengths, default=_SHORTEST_ZONED) >= _SHORTEST_ZONED and not _any(pc.match_substring_regex(texts, _LATE_OFFSET))
    try:
        return pc.cast(texts, kind) if plain else None
    except pa.ArrowInvalid:
        return None


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


def _lost(values: pa.Array, block: Parsed, position: int) -> bool:
    """Whether a number other than zero became zero."""
    zeros = pc.equal(values, pa.scalar(0, values.type))
    if not _any(zeros) or not _VERY_SMALL.search(block.text):
        return False
    return _any(pc.match_substring_regex(pc.filter(block.as_text(position), zeros), "^[^eE]*[1-9]"))


def _any(mask: pa.BooleanArray) -> bool:
    return bool(pc.any(mask).as_py())
