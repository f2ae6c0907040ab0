"""The compiled half of the COPY BINARY reader: a function for each kind of value, which writes a field of the wire into the columns of a batch.

How those stand in memory says `copy_layout.py`, what the wire sends `copy_binary.py`; `copy_rows.py` walks over the rows, and `copy_compiled.py` compiles.

Nothing that is read is believed: a field comes here only when it lies whole within the source, is read only in the length that its kind has, and written
only where its line has room. A row that is given up half-way comes again, and writes the same places.

Some indexes are unsigned: numba adds Python's "negative counts from the end" to signed ones, which costs as much as the load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from engine.postgres.copy_layout import BOOL, DATA, INT16, INT32, INT64, KIND, LIST, NULLS, OFFSETS, ROOM, SETTING, SIXTEEN, SLACK, TEXT, VALID, WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")
Bytes: TypeAlias = Any
Lines: TypeAlias = Any
"""Arrays of uint8, and of int64 in two dimensions: numba infers what numpy's own types cannot say."""

FINE, FULL, UNFIT, CORRUPT = range(4)
"""How a field was written: it was; its line has no room; its value does not fit, so that nothing of worth stands there; it is not in the form of its kind."""

LONGEST_FIELD = 0x3FFFFFFF
"""Bytes; PostgreSQL makes none that is longer (MaxAllocSize, src/include/utils/memutils.h)."""

U8: Any = np.uint8
U64: Any = np.uint64
I64: Any = np.int64


def compiled(function: F) -> F:
    """Part of the machine code. Nothing in it raises (`error_model`), which would need numba when it runs; as one function it takes a third less time."""
    return numba.njit(error_model="numpy", forceinline=True)(function)  # type: ignore[no-any-return]


def _pointer(context: Any, builder: Any, array: Any, arguments: Any, bits: int) -> Any:
    """The place in an array of bytes that the first two arguments name, as that of a number."""
    data = context.make_array(array)(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(bits).as_pointer())


def _load(bits: int, *, swapped: bool) -> Any:
    """A number at any place in an array, by one load and one byte swap, where shifts and ors of single bytes take twice as long."""
    number: Any = {16: types.int16, 32: types.int32, 64: types.int64}[bits]

    def load(_context: Any, src: Any, _at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_pointer(context, builder, signature.args[0], arguments, bits))
            value.align = 1
            return builder.bswap(value) if swapped else value

        return number(src, types.int64), generate

    return intrinsic(load)


def _store(bits: int) -> Any:
    """A number to any place in an array, in the machine's own order of bytes."""
    number: Any = {16: types.int16, 32: types.int32, 64: types.int64}[bits]

    def store(_context: Any, out: Any, _at: Any, _value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[2], _pointer(context, builder, signature.args[0], arguments, bits)).align = 1
            return context.get_dummy_value()

        return types.void(out, types.int64, number), generate

    return intrinsic(store)


def _memcpy(_context: Any, out: Any, _to: Any, source: Any, _start: Any, _length: Any) -> Any:
    """Copy bytes from a place in one array to a place in another; the caller has checked both. Of a constant length it is one load and one store."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        origin = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        cgutils.raw_memcpy(builder, builder.gep(place, [arguments[1]]), builder.gep(origin, [arguments[3]]), arguments[4], 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, source, types.int64, types.int64), generate


_load16, _load32, _load64 = (_load(bits, swapped=True) for bits in (16, 32, 64))
_own32, _store16, _store32, _store64, _copy = _load(32, swapped=False), _store(16), _store(32), _store(64), intrinsic(_memcpy)

# Naming the last byte costs nothing, and with NUMBA_BOUNDSCHECK=1 raises an IndexError where it is outside.


@compiled
def int16(src: Bytes, at: Any) -> Any:
    """The number of two bytes at a position of the stream."""
    src[U64(at + 1)]
    return _load16(src, I64(at))


@compiled
def int32(src: Bytes, at: Any) -> Any:
    """The number of four bytes at a position of the stream."""
    src[U64(at + 3)]
    return _load32(src, I64(at))


@compiled
def int64(src: Bytes, at: Any) -> Any:
    """The number of eight bytes at a position of the stream."""
    src[U64(at + 7)]
    return _load64(src, I64(at))


@compiled
def offset(out: Bytes, at: Any) -> Any:
    """The offset at a position of the arena."""
    out[U64(at + 3)]
    return I64(_own32(out, I64(at)))


@compiled
def put16(out: Bytes, at: Any, value: Any) -> None:
    """Two bytes into the arena."""
    out[U64(at + 1)]
    _store16(out, I64(at), np.int16(value))


@compiled
def put32(out: Bytes, at: Any, value: Any) -> None:
    """Four bytes into the arena; of a larger number the lower ones."""
    out[U64(at + 3)]
    _store32(out, I64(at), np.int32(value))


@compiled
def put64(out: Bytes, at: Any, value: Any) -> None:
    """Eight bytes into the arena."""
    out[U64(at + 7)]
    _store64(out, I64(at), I64(value))


@compiled
def copy(out: Bytes, to: Any, source: Bytes, start: Any, length: Any) -> None:
    """Copy bytes; `length` is not 0."""
    out[U64(to + length - 1)]
    source[U64(start + length - 1)]
    _copy(out, I64(to), source, I64(start), I64(length))


@compiled
def set_bit(out: Bytes, region: Any, row: Any) -> None:
    """Set a bit of a region that has one for each row."""
    out[U64(region + (row >> 3))] |= U8(1 << (row & 7))


@compiled
def clear_bit(out: Bytes, region: Any, row: Any) -> None:
    """Clear a bit of a region that has one for each row."""
    out[U64(region + (row >> 3))] &= ~U8(1 << (row & 7))


@compiled
def put_null(lines: Lines, line: Any, row: Any, out: Bytes) -> Any:
    """NULL: no valid bit, and zeros for a value, or no bytes of text."""
    clear_bit(out, lines[line, VALID], row)
    lines[line, NULLS] = 1
    kind, width = lines[line, KIND], lines[line, WIDTH]
    if kind in (TEXT, LIST):
        at = lines[line, OFFSETS] + 4 * row
        put32(out, at + 4, offset(out, at))
    elif kind == BOOL:
        clear_bit(out, lines[line, DATA], row)
    else:
        first = lines[line, DATA] + row * width
        for at in range(first, first + width):
            out[U64(at)] = 0
    return FINE


@compiled
def put_text(src: Bytes, at: Any, length: Any, lines: Lines, line: Any, row: Any, out: Bytes) -> Any:
    """Bytes of any length, after those of the row before.

    Short ones are copied 16 bytes at a time, and some bytes beyond their end, where the next one goes: twice as fast as memcpy, and four times as a loop.
    """
    offsets = lines[line, OFFSETS] + 4 * row
    start = offset(out, offsets)
    if start + length + SLACK > lines[line, ROOM]:
        return FULL
    to = lines[line, DATA] + start
    if length <= 64 and at + length + SLACK <= len(src):
        for done in range(0, length, 16):
            copy(out, to + done, src, at + done, 16)
    elif length > 0:
        copy(out, to, src, at, length)
    put32(out, offsets + 4, start + length)
    return FINE


@compiled
def put_number(src: Bytes, at: Any, length: Any, lines: Lines, line: Any, row: Any, out: Bytes) -> Any:
    """A value of fixed width: numbers (floats by their bits) plus the line's SETTING, which may wrap (±infinity of dates does), bools, and 16 bytes as they are."""
    kind, data, shift = lines[line, KIND], lines[line, DATA], lines[line, SETTING]
    if length != lines[line, WIDTH]:
        return CORRUPT
    if kind == INT32:
        put32(out, data + 4 * row, I64(int32(src, at)) + shift)
    elif kind == INT64:
        put64(out, data + 8 * row, int64(src, at) + shift)
    elif kind == INT16:
        put16(out, data + 2 * row, int16(src, at))
    elif kind == SIXTEEN:
        copy(out, data + 16 * row, src, at, 16)
    elif src[U64(at)]:
        set_bit(out, data, row)
    else:
        clear_bit(out, data, row)
    return FINE
