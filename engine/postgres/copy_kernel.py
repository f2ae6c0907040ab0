"""The compiled half of the COPY BINARY reader: where fields stand, then one small function per kind of value.

Each function runs without the GIL over whole columns. What it reads is checked first: `find_fields` and `find_elements` give positions only of
fields that lie whole within the source, and a value function takes a field only in the length that its kind has. They answer with the number of
the first row that is not as it should be, or `FINE`. The wire format is drawn in `copy_binary.py`.

Compiled when first called, for seconds; the machine code is kept beside the module, or in the user's cache (numba's `cache=True`).
Indexes are unsigned: numba adds Python's "negative counts from the end" to signed ones, which costs as much as the load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numba
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")
Bytes: TypeAlias = Any
Positions: TypeAlias = Any
Counts: TypeAlias = Any
"""Arrays of uint8, int32 and int64: numba infers what numpy's own types cannot say."""

FINE = -1
MORE, TRAILER, WRONG_COUNT, WRONG_LENGTH = range(4)
"""How `find_fields` ended: the next row is not all there, the end of the stream, a row of other columns, a length that no field has."""

LONGEST_FIELD = 0x3FFFFFFF
"""Bytes; PostgreSQL makes none that is longer (MaxAllocSize, src/include/utils/memutils.h)."""

U8: Any = np.uint8
U16: Any = np.uint16
U32: Any = np.uint32
U64: Any = np.uint64
I64: Any = np.int64


def compiled(function: F) -> F:
    """Compile for speed, without the GIL; kept on disk where any place for it can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


@compiled
def int16(src: Bytes, at: Any) -> Any:
    """The big-endian number at a position."""
    at = U64(at)
    return np.int16(U16(src[at]) << U16(8) | U16(src[at + U64(1)]))


@compiled
def int32(src: Bytes, at: Any) -> Any:
    """The same, of four bytes; LLVM makes one load and one byte swap of it."""
    at = U64(at)
    return np.int32(U32(src[at]) << U32(24) | U32(src[at + U64(1)]) << U32(16) | U32(src[at + U64(2)]) << U32(8) | U32(src[at + U64(3)]))


@compiled
def int64(src: Bytes, at: Any) -> Any:
    """The same, of eight bytes."""
    at = U64(at)
    high = U64(src[at]) << U64(56) | U64(src[at + U64(1)]) << U64(48) | U64(src[at + U64(2)]) << U64(40) | U64(src[at + U64(3)]) << U64(32)
    low = U64(src[at + U64(4)]) << U64(24) | U64(src[at + U64(5)]) << U64(16) | U64(src[at + U64(6)]) << U64(8) | U64(src[at + U64(7)])
    return I64(high | low)


@compiled
def find_fields(src: Bytes, start: int, positions: Positions, nulls: Counts, sizes: Counts) -> tuple[int, int, int]:
    """Where the fields of each row begin, by column, up to the first row that is not all there; NULLs and bytes of each column are added up.

    Returns:
        Rows found, the position after the last of them, and how it ended.
    """
    columns, most = positions.shape
    end = len(src)
    row, at = 0, start
    while row < most and end - at >= 2:
        count = int16(src, at)
        if count == -1:
            return row, at + 2, TRAILER
        if count != columns:
            return row, at, WRONG_COUNT
        field = at + 2
        for column in range(columns):
            if end - field < 4:
                return row, at, MORE
            length = I64(int32(src, field))
            if length < -1 or length > LONGEST_FIELD:
                return row, at, WRONG_LENGTH
            positions[column, row] = field
            field += 4 + max(length, I64(0))
            if field > end:
                return row, at, MORE
        for column in range(columns):
            length = int32(src, positions[column, row])
            nulls[column] += length < 0
            sizes[column] += max(length, 0)
        row += 1
        at = field
    return row, at, MORE


@compiled
def items_of(src: Bytes, at: Any, length: Any) -> Any:
    """How many elements an array has; -1 where it has another shape than one dimension that starts at 1."""
    dimensions = int32(src, at + 4) if length >= 12 else -1
    if dimensions == 0 and length == 12:
        return 0
    if dimensions == 1 and length >= 20 and int32(src, at + 20) == 1:
        return int32(src, at + 16)
    return -1


@compiled
def find_elements(src: Bytes, at: Positions, offsets: Positions, elements: Positions) -> tuple[int, int, int, int]:
    """Where the elements of arrays begin.

    Returns:
        The first wrong row or `FINE`, the number of elements, how many are NULL, and the bytes of the others.
    """
    count, nulls, total = 0, 0, I64(0)
    offsets[0] = 0
    for row in range(len(at)):
        length = I64(int32(src, at[row]))
        if length >= 0:
            field, end = at[row] + 4 + min(length, 20), at[row] + 4 + length
            items = items_of(src, at[row], length)
            for _ in range(items):
                size = I64(int32(src, field)) if end - field >= 4 else -2
                if size < -1 or size > end - field - 4:
                    return row, count, nulls, total
                elements[count] = field
                count += 1
                nulls += size < 0
                total += max(size, I64(0))
                field += 4 + max(size, I64(0))
            if items < 0 or field != end:
                return row, count, nulls, total
        offsets[row + 1] = count
    return FINE, count, nulls, total


@compiled
def find_nulls(src: Bytes, at: Positions, valid: Bytes) -> None:
    """Arrow's validity bitmap: a set bit for each field that is not NULL."""
    for row in range(len(at)):
        if int32(src, at[row]) >= 0:
            valid[U64(row >> 3)] |= U8(1 << (row & 7))


@compiled
def bools(src: Bytes, at: Positions, out: Bytes) -> int:
    """One byte each, into bits."""
    for row in range(len(at)):
        length = int32(src, at[row])
        if length == 1:
            if src[U64(at[row] + 4)]:
                out[U64(row >> 3)] |= U8(1 << (row & 7))
        elif length != -1:
            return row
    return FINE


@compiled
def int16s(src: Bytes, at: Positions, out: Any) -> int:
    """Two bytes each."""
    for row in range(len(at)):
        length = int32(src, at[row])
        if length == 2:
            out[row] = int16(src, at[row] + 4)
        elif length == -1:
            out[row] = 0
        else:
            return row
    return FINE


@compiled
def int32s(src: Bytes, at: Positions, out: Positions, shift: int) -> int:
    """Four bytes each (also float4's bits, and days), plus `shift`, which may wrap: ±infinity does."""
    for row in range(len(at)):
        length = int32(src, at[row])
        if length == 4:
            out[row] = np.int32(int32(src, at[row] + 4) + shift)
        elif length == -1:
            out[row] = 0
        else:
            return row
    return FINE


@compiled
def int64s(src: Bytes, at: Positions, out: Counts, shift: int) -> int:
    """Eight bytes each (also float8's bits, and microseconds), plus `shift`, which may wrap."""
    for row in range(len(at)):
        length = int32(src, at[row])
        if length == 8:
            out[row] = int64(src, at[row] + 4) + shift
        elif length == -1:
            out[row] = 0
        else:
            return row
    return FINE


@compiled
def sixteens(src: Bytes, at: Positions, out: Bytes) -> int:
    """Sixteen bytes each, as they are."""
    for row in range(len(at)):
        length = int32(src, at[row])
        if length not in (16, -1):
            return row
        for i in range(16):
            out[row, i] = src[U64(at[row] + 4 + i)] if length == 16 else U8(0)
    return FINE


def _memcpy(_context: Any, target: Any, _to: Any, source: Any, _start: Any, _length: Any) -> Any:
    """Copy bytes from a place in one array to a place in another; the caller has checked both. A loop over bytes takes twice as long for short texts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        origin = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        cgutils.raw_memcpy(builder, builder.gep(place, [arguments[1]]), builder.gep(origin, [arguments[3]]), arguments[4], 1)
        return context.get_dummy_value()

    return numba.types.void(target, numba.types.int64, source, numba.types.int64, numba.types.int64), generate


_copy = intrinsic(_memcpy)


@compiled
def texts(src: Bytes, at: Positions, offsets: Positions, out: Bytes) -> None:
    """Bytes of any length, one after another; `offsets` has one entry more than rows. `out` is as long as `find_fields` says."""
    size = I64(0)
    offsets[0] = 0
    for row in range(len(at)):
        length = I64(int32(src, at[row]))
        if length > 0:
            _copy(out, size, src, I64(at[row]) + 4, length)
            size += length
        offsets[row + 1] = size
