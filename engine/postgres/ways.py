"""A way from one Arrow type to another that changes no value: whole columns at once, and the rows that do not fit by name of the rule they break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

Convert = Callable[[pa.Array], pa.Array]


def identity(values: pa.Array) -> pa.Array:
    """As it is."""
    return values


BLANKS = " \t\n\v\f\r"
"""What PostgreSQL skips around numbers, dates and booleans (`isspace` of the C locale)."""


class Refused(Exception):  # noqa: N818 - a finding: it becomes the rule of a row
    """At least one of these values breaks a rule. The message is the rule, never a value."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one column is converted.

    Attributes:
        target: The Arrow type that comes out, which `adbc_ingest` stores as it is.
        convert: The conversion of a whole array. Raises `Refused`, or `pa.ArrowInvalid`, if any value does not fit.
        rule: What a value breaks at which Arrow, not `convert` itself, refuses.
        by_server: `target` is text, which the server casts.
        prepare: What undoes another layout of the same values (dictionaries, views), before `convert`.
        odd: Pattern of texts that PostgreSQL reads in one way only and this way cannot hold: `infinity` in a date, NaN in numeric(p,s).
    """

    target: pa.DataType
    convert: Convert
    rule: str
    by_server: bool = False
    prepare: Convert = identity
    odd: str | None = None

    def is_odd(self, values: pa.Array) -> pa.Array:
        """Which texts are odd; NULL is not."""
        return pc.fill_null(pc.match_substring_regex(trimmed(values), self.odd), fill_value=False)


def isolate(values: pa.Array, way: Way) -> tuple[pa.Array, pa.Array | None]:
    """Convert what fits. Gives the converted values, NULL where one is refused, and for each refused row its rule (None: all fit).

    The array is halved until the failures stand alone: Arrow says that a value does not fit, but not where.
    """
    try:
        return way.convert(values), None
    except Refused as refused:
        rule = str(refused)
    except pa.ArrowInvalid:
        rule = way.rule
    if len(values) <= 1:
        return pa.nulls(len(values), way.target), pa.array([rule] * len(values), pa.string())
    middle = len(values) // 2
    halves = [isolate(values.slice(0, middle), way), isolate(values.slice(middle), way)]
    rules = [pa.nulls(len(converted), pa.string()) if found is None else found for converted, found in halves]
    return pa.concat_arrays([converted for converted, _ in halves]), pa.concat_arrays(rules)


def require(values: pa.Array, pattern: str, rule: str) -> None:
    """Refuse unless every text matches."""
    if not all_true(pc.match_substring_regex(values, pattern)):
        raise Refused(rule)


def all_true(mask: pa.Array) -> bool:
    """Whether no row is false; NULL is not."""
    return bool(pc.all(mask, min_count=0).as_py())


def any_true(mask: pa.Array) -> bool:
    """Whether a row is true."""
    return bool(pc.any(mask, min_count=0).as_py())


def trimmed(values: pa.Array) -> pa.Array:
    """Texts without blanks around them."""
    return pc.ascii_trim(values, BLANKS)


def characters(values: pa.Array) -> bytes:
    """The bytes of all texts of an array, one after another: one search finds a character in any of them."""
    _, offsets, data = values.buffers()
    if data is None or not len(values):
        return b""
    first, last = (memoryview(offsets).cast("i")[values.offset + i] for i in (0, len(values)))
    return bytes(memoryview(data)[first:last])


def between(values: pa.Array, low: object, high: object, rule: str) -> pa.Array:
    """The array itself, if its least and its greatest value lie within the bounds."""
    extremes = pc.min_max(values)
    if extremes["min"].is_valid and not (extremes["min"].as_py() >= low and extremes["max"].as_py() <= high):
        raise Refused(rule)
    return values


def rebuilt(rows: pa.Array, elements: pa.Array) -> pa.Array:
    """The lists of `rows` with other elements: `elements` are those of `rows.flatten()`, converted."""
    lengths = pc.fill_null(pc.list_value_length(rows), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    return pa.ListArray.from_arrays(offsets, elements, mask=rows.is_null() if rows.null_count else None)
