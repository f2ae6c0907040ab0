"""The compiled half of the COPY BINARY reader: where fields stand, then one small function per kind of value.

Each function runs without the GIL over whole columns. What it reads is checked first: `find_fields` and `find_elements` give positions only of
fields that lie whole within the source, and a value function takes a field only in the length that its kind has. They answer with the number of
the first row that is not as it should be, or `FINE`. The wire format is drawn in `copy_binary.py`.

Compiled when first called, for seconds; the machine code is kept beside the module, or in the user's cache (numba's `cache=True`).
Some indexes are unsigned: numba adds Python's "negative counts from the end" to signed ones, which costs as much as the load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
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

SLACK = 16
"""Bytes behind the last text, which copying may touch."""

U8: Any = np.uint8
U64: Any = np.uint64
I64: Any = np.int64


def compiled(function: F) -> F:
    """Compile for speed, without the GIL; kept on disk where any place for it can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


def _load(bits: int) -> Any:
    """A big-endian number at any place in an array: one load and one byte swap, where shifts and ors of single bytes take twice as long."""
    number: Any = {16: types.int16, 32: types.int32, 64: types.int64}[bits]

    def load(_context: Any, src: Any, _at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            value = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(bits).as_pointer()))
            value.align = 1
            return builder.bswap(value)

        return number(src, types.int64), generate

    return intrinsic(load)


def _memcpy(_context: Any, target: Any, _to: Any, source: Any, _start: Any, _length: Any) -> Any:
    """Copy bytes from a place in one array to a place in another; the caller has checked both. Of a constant length it is one load and one store."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        origin = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        cgutils.raw_memcpy(builder, builder.gep(place, [arguments[1]]), builder.gep(origin, [arguments[3]]), arguments[4], 1)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), generate


_load16, _load32, _load64, _copy = _load(16), _load(32), _load(64), intrinsic(_memcpy)

# Naming the last byte costs nothing, and with NUMBA_BOUNDSCHECK=1 raises an IndexError where it is outside.


@compiled
def int16(src: Bytes, at: Any) -> Any:
    """The number of two bytes at a position."""
    src[U64(at + 1)]
    return _load16(src, I64(at))


@compiled
def int32(src: Bytes, at: Any) -> Any:
    """The number of four bytes at a position."""
    src[U64(at + 3)]
    return _load32(src, I64(at))


@compiled
def int64(src: Bytes, at: Any) -> Any:
    """The number of eight bytes at a position."""
    src[U64(at + 7)]
    return _load64(src, I64(at))


@compiled
def copy(target: Bytes, to: Any, source: Bytes, start: Any, length: Any) -> None:
    """Copy bytes; `length` is not 0."""
    target[U64(to + length - 1)]
    source[U64(start + length - 1)]
    _copy(target, I64(to), source, I64(start), I64(length))


@compiled
def find_fields(src: Bytes, start: int, positions: Positions, nulls: Counts, sizes: Counts) -> tuple[int, int, int]:
    """Where the fields of each row begin, by column, up to the first row that is not all there.

    NULLs and bytes of each column are added up; also those of fields of that row, so the sums are bounds.

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
            length = I64(int32(src, field)) if end - field >= 4 else I64(0)
            if length < -1 or length > LONGEST_FIELD:
                return row, at, WRONG_LENGTH
            positions[column, row] = field
            field += 4 + max(length, I64(0))
            if field > end:
                return row, at, MORE
            nulls[column] += length < 0
            sizes[column] += max(length, I64(0))
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
def find_nulls(src: Bytes, at: Positions, valid: Bytes) -> int:
    """Arrow's validity bitmap: a set bit for each field that is not NULL. Gives the number of those that are."""
    nulls = 0
    for row in range(len(at)):
        if int32(src, at[row]) >= 0:
            valid[U64(row >> 3)] |= U8(1 << (row & 7))
        else:
            nulls += 1
    return nulls


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
        if length == 16:
            copy(out, row * 16, src, at[row] + 4, 16)
        else:
            out[row * 16 : row * 16 + 16] = 0
    return FINE


@compiled
def texts(src: Bytes, at: Positions, offsets: Positions, out: Bytes) -> None:
    """Bytes of any length, one after another; `offsets` has one entry more than rows, `out` SLACK bytes more than the fields have.

    Short ones are copied 16 bytes at a time, and some bytes beyond their end, where the next one goes: twice as fast as memcpy, and four times as a loop.
    """
    size = I64(0)
    offsets[0] = 0
    for row in range(len(at)):
        start, length = I64(at[row]) + 4, I64(int32(src, at[row]))
        if 0 < length <= 64 and start + length + SLACK <= len(src):
            for done in range(0, length, 16):
                copy(out, size + done, src, start + done, 16)
        elif length > 0:
            copy(out, size, src, start, length)
        size += max(length, I64(0))
        offsets[row + 1] = size


@compiled
def is_ascii(data: Bytes) -> Any:
    """Whether no byte has its highest bit set."""
    bits = U8(0)
    for i in range(len(data)):
        bits |= data[i]
    return bits < 128
