"""The compiled walk over rows of COPY BINARY, which has each field written by the function of its kind (see `copy_kernel.py`; the format: `copy_binary.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.postgres.copy_kernel import CORRUPT, FINE, FULL, I64, LONGEST_FIELD, UNFIT, compiled, int16, int32, offset, put32, put_null, put_number, put_text
from engine.postgres.copy_layout import (
    AT,
    COLUMN,
    ELEMENTS,
    KIND,
    LIST,
    MORE,
    NO_ROOM,
    NUMERIC,
    OFFSETS,
    ROOM,
    ROW,
    TEXT,
    TRAILER,
    UNFIT_COLUMN,
    UNFIT_ROW,
    WRONG_COUNT,
    WRONG_FORM,
    WRONG_LENGTH,
)
from engine.postgres.copy_numeric import put_numeric

if TYPE_CHECKING:
    from engine.postgres.copy_kernel import Bytes, Lines

WHOLE = -1
"""A row that was written; otherwise how decoding ended."""


@compiled
def decode(src: Bytes, most: int, columns: int, lines: Lines, out: Bytes, told: Any) -> Any:
    """Write the rows of the source into the arena, from where `told` stands, until `most` are there or something ends it.

    Returns:
        How it ended; `told` says at which row and byte.
    """
    row, at = told[ROW], told[AT]
    while row < most:
        how, at = put_row(src, at, columns, lines, row, out, told)
        if how != WHOLE:
            break
        row += 1
    else:
        how = NO_ROOM
    told[ROW], told[AT] = row, at
    return how


@compiled
def put_row(src: Bytes, at: Any, columns: int, lines: Lines, row: Any, out: Bytes, told: Any) -> Any:
    """One row.

    Returns:
        WHOLE and the place after it, the end of the stream and the place after that, or what is wrong and where the row begins.
    """
    end, field = len(src), at + 2
    if end < field:
        return MORE, at
    count = int16(src, at)
    if count != columns:
        return (TRAILER, field) if count == -1 else (WRONG_COUNT, at)
    for column in range(columns):
        if end - field < 4:
            return MORE, at
        length = I64(int32(src, field))
        field += 4
        told[COLUMN] = column
        if length < -1 or length > LONGEST_FIELD:
            return WRONG_LENGTH, at
        if length > end - field:
            return MORE, at
        state = put_list(src, field, length, lines, column, row, out) if lines[column, KIND] == LIST else put(src, field, length, lines, column, row, out)
        if state == FULL:
            return NO_ROOM, at
        if state == CORRUPT:
            return WRONG_FORM, at
        if state == UNFIT and told[UNFIT_ROW] < 0:
            told[UNFIT_ROW], told[UNFIT_COLUMN] = row, column
        field += max(length, I64(0))
    return WHOLE, field


@compiled
def put(src: Bytes, at: Any, length: Any, lines: Lines, line: Any, row: Any, out: Bytes) -> Any:
    """One field, or one element of an array."""
    if length < 0:
        return put_null(lines, line, row, out)
    kind = lines[line, KIND]
    if kind == TEXT:
        return put_text(src, at, length, lines, line, row, out)
    if kind == NUMERIC:
        return put_numeric(src, at, length, lines, line, row, out)
    return put_number(src, at, length, lines, line, row, out)


@compiled
def elements(src: Bytes, at: Any, length: Any) -> Any:
    """How many elements an array has; -1 where it has another shape than one dimension that starts at 1, or cannot have so many."""
    dimensions = int32(src, at) if length >= 12 else -1
    if dimensions == 0 and length == 12:
        return I64(0)
    if dimensions == 1 and length >= 20 and int32(src, at + 16) == 1:
        count = I64(int32(src, at + 12))
        return count if count <= (length - 20) // 4 else I64(-1)
    return I64(-1)


@compiled
def put_list(src: Bytes, at: Any, length: Any, lines: Lines, line: Any, row: Any, out: Bytes) -> Any:
    """An array: its elements after those of the row before."""
    if length < 0:
        return put_null(lines, line, row, out)
    offsets, inner = lines[line, OFFSETS] + 4 * row, lines[line, ELEMENTS]
    start, count = offset(out, offsets), elements(src, at, length)
    if count < 0:
        return CORRUPT
    if start + count > lines[line, ROOM]:
        return FULL
    field, end, worst = at + min(length, 20), at + length, FINE
    for element in range(start, start + count):
        size = I64(int32(src, field)) if end - field >= 4 else I64(-2)
        field += 4
        if size < -1 or size > end - field:
            return CORRUPT
        state = put(src, field, size, lines, inner, element, out)
        if state in (FULL, CORRUPT):
            return state
        worst = max(worst, state)
        field += max(size, I64(0))
    put32(out, offsets + 4, start + count)
    return worst if field == end else CORRUPT
