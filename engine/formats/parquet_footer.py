"""The footer of a Parquet file whose row groups were encoded apart, each as a file of its own.

A footer is one struct, `FileMetaData` (https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift), in Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md):

    struct    field, field, …, a zero byte
    field     a byte: type in the low half, distance from the field before in the high one, or 0 and the number as a varint | the value
    integers  varint of the zigzag form: 0, -1, 1, -2 … are 0, 1, 2, 3 …
    binary    varint length | bytes
    list      a byte: the elements' type in the low half, how many in the high one, or 15 and a varint | the elements

All that a row group says of itself stays true elsewhere, but for its number and for where things begin: `ROW_GROUP` names these. What is not one of them is
passed over as bytes, so that nothing needs to be known of it. Page indexes and bloom filters, which name more places, must not be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import ProcessingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAGIC = b"PAR1"
_LENGTH_BYTES = 4
_BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(3, 13)
_BOOLEANS = (1, 2)
_SHORT_LIST = 15
_GOES_ON = 0x80  # the highest bit of a varint's bytes but the last
_NUM_ROWS, _ROW_GROUPS = 3, 4  # of FileMetaData
_ORDINAL = 7  # of RowGroup
OFFSET = "offset"
COLUMN_META_DATA: Mapping[int, Any] = {9: OFFSET, 11: OFFSET}  # of the data and the dictionary pages
COLUMN_CHUNK: Mapping[int, Any] = {2: OFFSET, 3: COLUMN_META_DATA}  # file_offset
ROW_GROUP: Mapping[int, Any] = {1: COLUMN_CHUNK, 5: OFFSET}  # columns, file_offset


class Field(NamedTuple):
    """One field of a struct: number, type, and where its value begins and ends."""

    number: int
    kind: int
    start: int
    end: int


def body(file: memoryview) -> memoryview:
    """A finished file without the magic bytes in front and without its footer."""
    return file[len(MAGIC) : -_tail_bytes(file)]


def footer(file: memoryview) -> bytes:
    """The `FileMetaData` of a finished file."""
    return bytes(file[-_tail_bytes(file) : -_LENGTH_BYTES - len(MAGIC)])


def moved(footer: bytes, ordinal: int, shift: int) -> bytes:
    """The `RowGroup` of the footer of a file that has one, for a file in which it is number `ordinal` and begins `shift` bytes later."""
    (groups,) = (field for field in _fields(footer, 0) if field.number == _ROW_GROUPS)
    _, count, at = _list(footer, groups.start)
    if count != 1:
        raise ProcessingError(f"a row group was written as {count}; its file was not finished")
    edits = list(_offsets(footer, at, ROW_GROUP, shift))
    edits += [(field.start, field.end, _integer(ordinal)) for field in _fields(footer, at) if field.number == _ORDINAL]
    return _edited(footer, at, groups.end, edits)


def joined(footer: bytes, row_groups: Sequence[bytes], rows: int) -> bytes:
    """The end of a file: the footer of one without row groups, with these in it, its length and the magic bytes."""
    places = {field.number: field for field in _fields(footer, 0)}
    head = bytes([len(row_groups) << 4 | _STRUCT]) if len(row_groups) < _SHORT_LIST else bytes([0xF0 | _STRUCT]) + _varint(len(row_groups))
    groups = places[_ROW_GROUPS]
    edits = [(places[_NUM_ROWS].start, places[_NUM_ROWS].end, _integer(rows)), (groups.start, groups.end, head + b"".join(row_groups))]
    made = _edited(footer, 0, len(footer), edits)
    return made + len(made).to_bytes(_LENGTH_BYTES, "little") + MAGIC


def _tail_bytes(file: memoryview) -> int:
    return int.from_bytes(file[-_LENGTH_BYTES - len(MAGIC) : -len(MAGIC)], "little") + _LENGTH_BYTES + len(MAGIC)


def _offsets(data: bytes, at: int, known: Mapping[int, Any], shift: int) -> Iterator[tuple[int, int, bytes]]:
    """Every offset in a struct, and what it becomes; 0 is none."""
    for field in _fields(data, at):
        what = known.get(field.number)
        if what is OFFSET:
            value = _number(data, field.start)
            if value:
                yield field.start, field.end, _integer(value + shift)
        elif what is not None and field.kind == _STRUCT:
            yield from _offsets(data, field.start, what, shift)
        elif what is not None:
            _, count, place = _list(data, field.start)
            for _ in range(count):
                yield from _offsets(data, place, what, shift)
                place = _end(data, place, _STRUCT)


def _edited(data: bytes, start: int, end: int, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """A part of the data with other bytes at some places."""
    parts: list[bytes] = []
    for first, last, instead in sorted(edits):
        parts += [data[start:first], instead]
        start = last
    return b"".join([*parts, data[start:end]])


def _fields(data: bytes, at: int) -> Iterator[Field]:
    number = 0
    while head := data[at]:
        at += 1
        kind, distance = head & 0x0F, head >> 4
        if distance:
            number += distance
        else:
            number = _number(data, at)
            at = _varint_end(data, at)
        end = at if kind in _BOOLEANS else _end(data, at, kind)
        yield Field(number, kind, at, end)
        at = end


def _end(data: bytes, at: int, kind: int) -> int:
    """Where a value ends."""
    if kind in (_I16, _I32, _I64):
        return _varint_end(data, at)
    if kind == _BINARY:
        length, at = _unsigned(data, at)
        return at + length
    if kind == _STRUCT:
        for field in _fields(data, at):
            at = field.end
        return at + 1
    if kind in (_LIST, _SET):
        kind, count, at = _list(data, at)
        for _ in range(count):
            at = _end(data, at, kind)
        return at
    if kind in (_BYTE, *_BOOLEANS, _DOUBLE):
        return at + (8 if kind == _DOUBLE else 1)
    raise ProcessingError(f"a Parquet footer has a field of type {kind}, which none should have")


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """Type and number of the elements, and where they begin."""
    kind, count = data[at] & 0x0F, data[at] >> 4
    if count < _SHORT_LIST:
        return kind, count, at + 1
    count, at = _unsigned(data, at + 1)
    return kind, count, at


def _varint_end(data: bytes, at: int) -> int:
    while data[at] & _GOES_ON:
        at += 1
    return at + 1


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    end = _varint_end(data, at)
    value = 0
    for byte in reversed(data[at:end]):
        value = value << 7 | byte & ~_GOES_ON
    return value, end


def _number(data: bytes, at: int) -> int:
    value, _ = _unsigned(data, at)
    return value >> 1 ^ -(value & 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= _GOES_ON:
        out.append(value & 0x7F | _GOES_ON)
        value >>= 7
    return bytes([*out, value])


def _integer(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)
