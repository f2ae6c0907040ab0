"""The footer of a Parquet file whose row groups were encoded apart, each as a file of its own.

A footer is one struct, `FileMetaData` (https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift), in Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md):

    struct    field, field, …, a zero byte
    field     a byte: type in the low half, distance from the field before in the high one, or 0 and the number as a varint | the value
    integers  varint of the zigzag form: 0, -1, 1, -2 … are 0, 1, 2, 3 …
    binary    varint length | bytes
    list      a byte: the elements' type in the low half, how many in the high one, or 15 and a varint | the elements

All that a row group says of itself stays true elsewhere, but for where things begin: `ROW_GROUP` names these. What is not one of them is passed over as bytes,
so that nothing needs to be known of it. Page indexes and bloom filters, which name more places, must not be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import ProcessingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAGIC = b"PAR1"
_LENGTH_BYTES = 4
_BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(3, 13)
_INTEGERS, _BOOLEANS = (_I16, _I32, _I64), (1, 2)
_SHORT_LIST = 15
_GOES_ON = 0x80  # the highest bit of a varint's bytes but the last
_SCHEMA, _NUM_ROWS, _ROW_GROUPS = 2, 3, 4  # of FileMetaData
OFFSET = "offset"
COLUMN_META_DATA: Mapping[int, Any] = {9: OFFSET, 11: OFFSET}  # of the data and the dictionary pages
COLUMN_CHUNK: Mapping[int, Any] = {2: OFFSET, 3: COLUMN_META_DATA}  # file_offset
ROW_GROUP: Mapping[int, Any] = {1: COLUMN_CHUNK, 5: OFFSET}  # columns, file_offset


class Footer:
    """The footer of a file that grows by row groups.

    Args:
        empty: A finished file of the same schema and settings, without rows.

    Example:
        >>> footer = Footer(empty)  # doctest: +SKIP
        >>> for file in files_of_one_row_group:  # doctest: +SKIP
        ...     out.write(footer.add(file, len(out), rows))
        >>> out.write(footer.end())  # doctest: +SKIP
    """

    def __init__(self, empty: memoryview) -> None:
        self._empty = _metadata(empty)
        self._fields = {number: (start, end) for number, start, end in _fields(self._empty, 0)}
        self._schema_end = self._fields[_SCHEMA][1]
        self._row_groups: list[bytes] = []
        self._rows = 0

    def add(self, file: memoryview, position: int, rows: int) -> memoryview:
        """Another row group.

        Args:
            file: A finished file that has this row group alone.
            position: Where its bytes will begin, counted from the beginning of the whole file.
            rows: How many it has.

        Returns:
            Its bytes.
        """
        metadata = _metadata(file)
        if metadata[: self._schema_end] != self._empty[: self._schema_end]:
            raise ProcessingError("a row group was written with another schema than its file")
        places = {number: (start, end) for number, start, end in _fields(metadata, self._schema_end, _SCHEMA)}
        start, end = places[_ROW_GROUPS]
        _, count, first = _list(metadata, start)
        if count != 1:
            raise ProcessingError(f"a row group was written as {count}")
        edits: list[tuple[int, int, bytes]] = []
        _walk(metadata, first, ROW_GROUP, position - len(MAGIC), edits)
        self._row_groups.append(_edited(metadata, first, end, edits))
        self._rows += rows
        return file[len(MAGIC) : -_tail_bytes(file)]

    def end(self) -> bytes:
        """What stands behind the last row group: the footer, its length and the magic bytes."""
        count = len(self._row_groups)
        head = bytes([count << 4 | _STRUCT]) if count < _SHORT_LIST else bytes([_SHORT_LIST << 4 | _STRUCT]) + _varint(count)
        edits = [(*self._fields[_NUM_ROWS], _integer(self._rows)), (*self._fields[_ROW_GROUPS], head + b"".join(self._row_groups))]
        made = _edited(self._empty, 0, len(self._empty), edits)
        return made + len(made).to_bytes(_LENGTH_BYTES, "little") + MAGIC


def _metadata(file: memoryview) -> bytes:
    """The `FileMetaData` of a finished file."""
    return bytes(file[-_tail_bytes(file) : -_LENGTH_BYTES - len(MAGIC)])


def _tail_bytes(file: memoryview) -> int:
    return int.from_bytes(file[-_LENGTH_BYTES - len(MAGIC) : -len(MAGIC)], "little") + _LENGTH_BYTES + len(MAGIC)


def _edited(data: bytes, start: int, end: int, edits: list[tuple[int, int, bytes]]) -> bytes:
    """A part of the data with other bytes at some places, which are in order."""
    parts: list[bytes] = []
    for first, last, instead in edits:
        parts += [data[start:first], instead]
        start = last
    return b"".join([*parts, data[start:end]])


def _fields(data: bytes, at: int, number: int = 0) -> Iterator[tuple[int, int, int]]:
    """The number of each field of a struct, and where its value begins and ends; from `at` on, where `number` was the field before."""
    while head := data[at]:
        number, at = _next_field(data, head, number, at)
        end = _end(data, at, head & 0x0F, in_struct=True)
        yield number, at, end
        at = end


def _walk(data: bytes, at: int, known: Mapping[int, Any], shift: int, edits: list[tuple[int, int, bytes]]) -> int:
    """Collect every offset in a struct, and what it becomes; 0 is none. Gives where the struct ends; in one pass, since tables may have many columns."""
    number = 0
    while head := data[at]:
        number, at = _next_field(data, head, number, at)
        what, kind = known.get(number), head & 0x0F
        if what is OFFSET:
            value, end = _number(data, at), _varint_end(data, at)
            if value:
                edits.append((at, end, _integer(value + shift)))
            at = end
        elif what is None:
            at = _end(data, at, kind, in_struct=True)
        elif kind == _STRUCT:
            at = _walk(data, at, what, shift, edits)
        else:
            _, count, at = _list(data, at)
            for _ in range(count):
                at = _walk(data, at, what, shift, edits)
    return at + 1


def _next_field(data: bytes, head: int, number: int, at: int) -> tuple[int, int]:
    """The number of the field whose head stands here, and where its value begins."""
    if distance := head >> 4:
        return number + distance, at + 1
    return _number(data, at + 1), _varint_end(data, at + 1)


def _end(data: bytes, at: int, kind: int, *, in_struct: bool = False) -> int:
    """Where a value ends; a field's type says of a boolean which it is."""
    if kind in _INTEGERS:
        return _varint_end(data, at)
    if kind == _BINARY:
        length, at = _unsigned(data, at)
        return at + length
    if kind == _STRUCT:
        return _walk(data, at, {}, 0, [])
    if kind in (_LIST, _SET):
        kind, count, at = _list(data, at)
        for _ in range(count):
            at = _end(data, at, kind)
        return at
    if kind in _BOOLEANS:
        return at if in_struct else at + 1
    if kind in (_BYTE, _DOUBLE):
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
