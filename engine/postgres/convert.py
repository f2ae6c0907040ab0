"""Delivered arrays into the Arrow types of the rules; a value that does not fit is found, never changed.

The driver adds 30 years to ±infinity as to any other value, so both wrap to numbers below PostgreSQL's own minimum; years from 294247 on
do the same. Below the minimum nothing is a real date, so one comparison per batch finds all of them.

`pyarrow.compute` is imported where it is used: that takes 28 ms, in which the server could send already.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

Convert = Callable[[pa.Array], pa.Array]

# 4714-11-24 BC, PostgreSQL's first day (https://www.postgresql.org/docs/current/datatype-datetime.html), counted from 1970.
FIRST_DAY = -2_440_588
FIRST_MICROSECOND = FIRST_DAY * 86_400_000_000
MICROSECONDS_A_DAY = 86_400_000_000


class Unfit(Exception):  # noqa: N818 - a finding, turned into UnrepresentableValue by whoever knows column and row
    """A value that the rule's Arrow type cannot hold.

    Attributes:
        index: Its position in the array.
        why: The rule it breaks; no value.
    """

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index
        self.why = why


def date(array: pa.Array) -> pa.Array:
    """date32 without ±infinity."""
    _refuse_below(array.cast(pa.int32()), FIRST_DAY, "±infinity is no date in Arrow")
    return array


def timestamp(array: pa.Array) -> pa.Array:
    """timestamp[us] without ±infinity and without years that 64 bits do not hold."""
    _refuse_below(array.cast(pa.int64()), FIRST_MICROSECOND, "±infinity or a year from 294247 on is no timestamp in Arrow")
    return array


def time(array: pa.Array) -> pa.Array:
    """time64[us] without 24:00."""
    import pyarrow.compute as pc

    raw = array.cast(pa.int64())
    if _any(pc.max(raw), lambda highest: highest >= MICROSECONDS_A_DAY):
        raise Unfit(pc.index(pc.greater_equal(raw, MICROSECONDS_A_DAY), value=True).as_py(), "24:00 is no time of day in Arrow")
    return array


def _refuse_below(raw: pa.Array, first: int, why: str) -> None:
    import pyarrow.compute as pc

    if _any(pc.min(raw), lambda lowest: lowest < first):
        raise Unfit(pc.index(pc.less(raw, first), value=True).as_py(), why)


def _any(extreme: pa.Scalar, breaks: Callable[[int], bool]) -> bool:
    value = extreme.as_py()
    return value is not None and breaks(value)


def decimal(arrow: pa.DataType) -> Convert:
    """Text of numerics into a decimal; NaN, ±infinity, too many digits or a non-zero digit beyond the scale do not fit."""

    def convert(array: pa.Array) -> pa.Array:
        try:
            return array.cast(arrow)
        except pa.ArrowInvalid:
            index = _first_failure(array, arrow)
        raise Unfit(index, f"NaN, ±infinity or more digits than {arrow.precision},{arrow.scale} allows")

    return convert


def _first_failure(array: pa.Array, arrow: pa.DataType) -> int:
    """Bisect: Arrow's message would name the value, not its position."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            array.slice(low, middle - low).cast(arrow)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low


def each(inner: Convert, arrow: pa.DataType) -> Convert:
    """Apply a conversion to the elements of a list array."""

    def convert(array: pa.Array) -> pa.Array:
        import pyarrow.compute as pc

        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        try:
            values = inner(array.values.slice(first, last - first))
        except Unfit as unfit:
            row = pc.sum(pc.less_equal(array.offsets, first + unfit.index)).as_py() - 1
            raise Unfit(row, unfit.why) from None
        offsets = pc.subtract(array.offsets, first)
        return pa.ListArray.from_arrays(offsets, values, type=pa.list_(arrow), mask=array.is_null() if array.null_count else None)

    return convert
