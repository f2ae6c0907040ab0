r"""PostgreSQL's COPY BINARY stream → Arrow record batches.

The format (https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"); every number is big-endian and signed:

    stream    header, row, row, …, trailer
    header    "PGCOPY\n\xff\r\n\0" | int32 flags | int32 length of an extension | the extension
    row       int16 number of fields | field, field, …
    field     int32 length, or -1 for NULL | that many bytes, in the type's own binary form
    trailer   int16 -1

    int2, int4, int8, float4, float8, bool     the value itself; bool is one byte
    text, varchar, char(n), name, json, bytea  the bytes
    date                                       int32 days since 2000-01-01; ±infinity are the largest and the least number
    time                                       int64 microseconds
    timestamp, timestamptz                     int64 microseconds since 2000-01-01 (UTC); ±infinity likewise
    uuid                                       16 bytes
    numeric                                    see copy_numeric.py
    array                                      int32 dimensions | int32 has NULLs | int32 element type |
                                               for each dimension int32 length, int32 lower bound | field, field, …

Pieces may be cut at any byte. Rows that are whole are found as they come in (`Rows`), and made Arrow columns in any thread. Nothing in the stream is
believed: a length is compared with what is left, a field with its type, text with UTF-8; whatever is wrong is one `ProcessingError`.
"""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - read at run time by dataclass
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.errors import ProcessingError
from engine.postgres import copy_kernel as kernel
from engine.postgres import copy_numeric
from engine.postgres.convert import Unfit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER_BYTES = len(SIGNATURE) + 8
PIECE_BYTES = 1 << 20
"""What is one batch: columns are decoded one after another, which takes a third less time while all of it is in a core's own cache, and less memory."""
LARGEST_BATCH = 0x7FFFFFFF
DAYS_TO_2000 = 10_957
MICROSECONDS_TO_2000 = 946_684_800_000_000


class Splitter:
    r"""Pieces of a stream → rows, about `PIECE_BYTES` at a time.

    Args:
        columns: Fields of each row.
        batch_bytes: How many bytes of the stream are one batch; one row that is longer is a batch of its own.
        spare: Where memory is kept for the next batch, or splitter.

    Example:
        >>> splitter = Splitter(1)
        >>> splitter.feed(SIGNATURE + bytes(8) + b"\0\1\0\0\0\1t\xff\xff")
        >>> rows = splitter.end()
        >>> decode(rows, [pa.string()]).to_pylist()
        [['t']]
    """

    def __init__(self, columns: int, batch_bytes: int = PIECE_BYTES, spare: list[Room] | None = None) -> None:
        self._columns = columns
        self._batch_bytes = batch_bytes
        self._spare = [] if spare is None else spare
        self._room = self._another()
        self._size = 0
        self._wanted = batch_bytes
        self._begun = False
        self._ended = False

    def feed(self, piece: bytes) -> Rows | None:
        """Take the next piece; gives rows when there are enough.

        Raises:
            ProcessingError: This is no such stream.
        """
        size = self._size + len(piece)
        if size > LARGEST_BATCH:
            raise _corrupt("a row is longer than 2 GiB")
        if size > len(self._room.held):
            self._room.widen(2 * size, self._size)
        self._room.held[self._size : size] = piece
        self._size = size
        if self._size < self._wanted:
            return None
        rows = self._cut()
        # A row that is not whole yet is looked at again when there is twice as much: each byte is read a few times at most.
        self._wanted = max(self._batch_bytes, 2 * self._size)
        return rows if rows.count else None

    def end(self) -> Rows:
        """The last rows.

        Raises:
            ProcessingError: The stream was cut short, or goes on after its end.
        """
        rows = self._cut()
        if not self._ended:
            raise _corrupt("it ended within a row, or without its trailer")
        return rows

    def _cut(self) -> Rows:
        """The whole rows of what is held; the rest stays."""
        room = self._room
        start = 0 if self._begun else self._header(bytes(room.held[: min(self._size, HEADER_BYTES)]))
        source = np.frombuffer(room.held, np.uint8, self._size)
        most = len(source) // (2 + 4 * self._columns) + 1
        positions = room.positions(self._columns * most).reshape(self._columns, most)
        nulls, sizes = np.zeros(self._columns, np.int64), np.zeros(self._columns, np.int64)
        count, end, how = (0, 0, kernel.MORE) if start is None else kernel.find_fields(source, start, positions, nulls, sizes)
        if self._ended and end < len(source):
            raise _corrupt("it goes on after its trailer")
        if how == kernel.WRONG_COUNT:
            raise _corrupt("a row has another number of fields than the query has columns")
        if how == kernel.WRONG_LENGTH:
            raise _corrupt("a field has a length that no field has")
        if how == kernel.TRAILER:
            self._ended = True
            if end < len(source):
                raise _corrupt("it goes on after its trailer")
        if end:
            self._move_on(end)
        return Rows(source, positions[:, :count], count, nulls, sizes, partial(self._give_back, room))

    def _move_on(self, end: int) -> None:
        """Leave what has been found where it is, and take the rest along."""
        rest = memoryview(self._room.held)[end : self._size]
        self._room, self._size = self._another(), len(rest)
        if len(rest) > len(self._room.held):
            self._room.widen(2 * len(rest), 0)
        self._room.held[: len(rest)] = rest

    def _another(self) -> Room:
        return self._spare.pop() if self._spare else Room(2 * self._batch_bytes)

    def _give_back(self, room: Room) -> None:
        """Called in any thread; what one large row took is not kept."""
        if len(room.held) <= 4 * self._batch_bytes:
            self._spare.append(room)

    def _header(self, held: bytes) -> int | None:
        """Where the first row begins; None while the header is not all there."""
        if held[: len(SIGNATURE)] != SIGNATURE[: len(held)]:
            raise _corrupt("it does not begin with COPY's signature")
        if len(held) < HEADER_BYTES:
            return None
        flags = int.from_bytes(held[len(SIGNATURE) : len(SIGNATURE) + 4], "big")
        extension = int.from_bytes(held[len(SIGNATURE) + 4 : HEADER_BYTES], "big", signed=True)
        if flags >> 16 or extension < 0:
            raise _corrupt("its header asks for what this reader does not know")
        if self._size < HEADER_BYTES + extension:
            return None
        self._begun = True
        return HEADER_BYTES + extension


class Room:
    """Memory for one batch of the stream, used again and again: 6 M rows of lineitem made 150,000 page faults instead of 330,000."""

    def __init__(self, size: int) -> None:
        self.held = bytearray(size)
        self._positions = _empty(0, np.int32)

    def widen(self, size: int, used: int) -> None:
        """Make room for `size` bytes, and keep those that are used."""
        narrow, self.held = self.held, bytearray(size)
        self.held[:used] = memoryview(narrow)[:used]

    def positions(self, count: int) -> npt.NDArray[np.int32]:
        """Room for so many positions."""
        if len(self._positions) < count:
            self._positions = _empty(count, np.int32)
        return self._positions[:count]


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole rows of the stream.

    Attributes:
        source: The bytes that they are in.
        positions: Where each field begins, by column and row.
        count: Rows.
        nulls: NULLs of each column, at most.
        sizes: Bytes of the other fields of each column, at most.
        release: Called when they are decoded: other rows come to the same place then.
    """

    source: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.int32]
    count: int
    nulls: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one column, or of the arrays in it; `nulls` and `size` as in `Rows`."""

    source: npt.NDArray[np.uint8]
    at: npt.NDArray[np.int32]
    nulls: int
    size: int

    def array(self, kind: pa.DataType, *buffers: npt.NDArray[Any], children: Sequence[pa.Array] | None = None) -> pa.Array:
        """An Arrow array of these buffers, with its NULLs."""
        valid, nulls = None, 0
        if self.nulls:
            bits = _bitmap(len(self.at))
            valid, nulls = pa.py_buffer(bits), kernel.find_nulls(self.source, self.at, bits)
        return pa.Array.from_buffers(kind, len(self.at), [valid, *map(pa.py_buffer, buffers)], nulls, children=children)


def decode(rows: Rows, types: Sequence[pa.DataType]) -> list[pa.Array]:
    """The columns of these rows, in Arrow types whose values the wire carries; once, in any thread.

    ±infinity and what 64 bits do not hold come out as the ADBC driver gives them (see `convert.py`).

    Raises:
        ProcessingError: A field is not what its type says.
        UnfitColumn: A numeric that its decimal does not hold.
    """
    columns = []
    for i, kind in enumerate(types):
        fields = Fields(rows.source, rows.positions[i], int(rows.nulls[i]), int(rows.sizes[i]))
        try:
            columns.append(_column(fields, kind))
        except Unfit as unfit:
            raise UnfitColumn(i, unfit) from None
    rows.release()
    return columns


class UnfitColumn(Exception):  # noqa: N818 - a finding, as `Unfit` is
    """A value that does not fit, and the position of its column."""

    def __init__(self, column: int, unfit: Unfit) -> None:
        super().__init__(unfit.why)
        self.column = column
        self.unfit = unfit


def _column(fields: Fields, kind: pa.DataType) -> pa.Array:
    """One column by the type that it shall have."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _column(fields, kind.storage_type))
    make = next((make for is_kind, make in _MAKERS if is_kind(kind)), _numbers)
    return make(fields, kind)


def _bools(fields: Fields, kind: pa.DataType) -> pa.Array:
    out = _bitmap(len(fields.at))
    return _made(fields, kind, out, kernel.bools(fields.source, fields.at, out))


def _fixed(fields: Fields, kind: pa.DataType) -> pa.Array:
    """Values of 16 bytes."""
    out = _empty(len(fields.at) * kind.byte_width, np.uint8)
    return _made(fields, kind, out, kernel.sixteens(fields.source, fields.at, out))


def _numbers(fields: Fields, kind: pa.DataType) -> pa.Array:
    """Numbers of two, four or eight bytes, and what is counted in them."""
    count = len(fields.at)
    if kind.bit_width == 16:  # noqa: PLR2004 - int2
        out: npt.NDArray[Any] = _empty(count, np.int16)
        wrong = kernel.int16s(fields.source, fields.at, out)
    elif kind.bit_width == 32:  # noqa: PLR2004 - int4, float4, date
        out = _empty(count, np.int32)
        wrong = kernel.int32s(fields.source, fields.at, out, DAYS_TO_2000 if pa.types.is_date(kind) else 0)
    else:
        out = _empty(count, np.int64)
        wrong = kernel.int64s(fields.source, fields.at, out, MICROSECONDS_TO_2000 if pa.types.is_timestamp(kind) else 0)
    return _made(fields, kind, out, wrong)


def _texts(fields: Fields, kind: pa.DataType) -> pa.Array:
    offsets, out = _empty(len(fields.at) + 1, np.int32), _empty(fields.size + kernel.SLACK, np.uint8)
    kernel.texts(fields.source, fields.at, offsets, out)
    array = fields.array(kind, offsets, out)
    if pa.types.is_string(kind) and not kernel.is_ascii(out[: offsets[-1]]):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            raise _corrupt("text that is not UTF-8") from None
    return array


def _decimals(fields: Fields, kind: pa.DataType) -> pa.Array:
    out = _empty(2 * len(fields.at), np.uint64).reshape(-1, 2)
    limit = 10**kind.precision
    wrong, why = copy_numeric.numerics(fields.source, fields.at, out, kind.scale, np.uint64(limit >> 64), np.uint64(limit & (1 << 64) - 1))
    if why == copy_numeric.UNFIT:
        raise Unfit(wrong, f"NaN, ±infinity or more digits than {kind.precision},{kind.scale} allows")
    return _made(fields, kind, out, wrong)


def _lists(fields: Fields, kind: pa.DataType) -> pa.Array:
    offsets = _empty(len(fields.at) + 1, np.int32)
    elements = _empty(fields.size // 4, np.int32)
    wrong, count, nulls, size = kernel.find_elements(fields.source, fields.at, offsets, elements)
    if wrong != kernel.FINE:
        raise _corrupt(f"an array that is not in the form of {kind}")
    try:
        values = _column(Fields(fields.source, elements[:count], nulls, size), kind.value_type)
    except Unfit as unfit:
        raise Unfit(int(np.searchsorted(offsets, unfit.index, side="right")) - 1, unfit.why) from None
    return fields.array(kind, offsets, children=[values])


_MAKERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Fields, pa.DataType], pa.Array]], ...] = (
    (pa.types.is_list, _lists),
    (pa.types.is_decimal128, _decimals),
    (pa.types.is_string, _texts),
    (pa.types.is_binary, _texts),
    (pa.types.is_boolean, _bools),
    (pa.types.is_fixed_size_binary, _fixed),
)


def _made(fields: Fields, kind: pa.DataType, out: npt.NDArray[Any], wrong: int) -> pa.Array:
    """An array of fixed width, unless a field was not of it."""
    if wrong != kernel.FINE:
        raise _corrupt(f"a field that is not in the form of {kind}")
    return fields.array(kind, out)


def _empty(count: int, kind: Any) -> npt.NDArray[Any]:
    """An array in Arrow's own memory pool, which gives memory back and takes it again; the C library's keeps what threads have freed."""
    return np.frombuffer(pa.allocate_buffer(count * np.dtype(kind).itemsize), kind)


def _bitmap(count: int) -> npt.NDArray[np.uint8]:
    return np.zeros((count + 7) // 8, np.uint8)


def _corrupt(what: str) -> ProcessingError:
    return ProcessingError(f"the server's COPY stream is not as it should be: {what}; the connection, or a proxy in it, changed it")
