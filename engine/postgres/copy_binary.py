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

Pieces may be cut at any byte. The rows of a piece are decoded as it comes, while it is in the core's cache, into the memory of a batch (`copy_batch.py`);
its columns are made of that in any thread. Nothing in the stream is believed: a length is compared with what is left, a field with its type, text with
UTF-8; whatever is wrong is one `ProcessingError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.postgres import copy_layout as layout
from engine.postgres.copy_batch import corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.postgres.copy_batch import Batch, BatchPlan

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER_BYTES = len(SIGNATURE) + 8
LARGEST_ROW = 0x7FFFFFFF
_WRONG = {
    layout.WRONG_COUNT: "a row has another number of fields than the query has columns",
    layout.WRONG_LENGTH: "a field has a length that no field has",
}


class Decoder:
    r"""Pieces of a stream → batches.

    Attributes:
        ended: Whether the trailer has come.

    Example:
        >>> decoder = Decoder(BatchPlan([pa.string()]))
        >>> list(decoder.feed(SIGNATURE + bytes(8) + b"\0\1\0\0\0\1t\xff\xff"))
        []
        >>> [column.to_pylist() for batch in decoder.end() for column in batch.columns()]
        [['t']]
    """

    def __init__(self, plan: BatchPlan) -> None:
        self._plan = plan
        self._batch: Batch | None = None
        self._rest = bytearray()
        self._wanted = 0
        self._begun = False
        self.ended = False

    def feed(self, piece: bytes) -> Iterator[Batch]:
        """Take the next piece; gives the batches that are full.

        Raises:
            ProcessingError: This is no such stream.
        """
        if not self._rest:
            yield from self._decode(piece)
            return
        if len(self._rest) + len(piece) > LARGEST_ROW:
            raise corrupt("a row is longer than 2 GiB")
        self._rest += piece
        # A row that is not whole yet is looked at again when there is twice as much: each byte is read a few times at most.
        if len(self._rest) >= self._wanted:
            yield from self._decode(self._rest)

    def end(self) -> Iterator[Batch]:
        """The last rows.

        Raises:
            ProcessingError: The stream was cut short, or goes on after its end.
        """
        yield from self._decode(self._rest)
        if not self.ended:
            raise corrupt("it ended within a row, or without its trailer")
        if self._batch is not None and self._batch.rows:
            yield self._batch.close()

    def _decode(self, piece: bytes | bytearray) -> Iterator[Batch]:
        """The rows that are whole; the rest stays."""
        at = 0 if self._begun else self._header(piece)
        source = np.frombuffer(piece, np.uint8)
        while self._begun and not self.ended:
            batch = self._batch = self._batch or self._plan.begin()
            how, at = batch.add(source, at)
            if how == layout.NO_ROOM:
                self._batch = None if batch.rows else self._plan.begin_long(_lengths(piece, at))
                if batch.rows:
                    yield batch.close()
            elif how == layout.TRAILER:
                self.ended = True
            elif how == layout.MORE:
                break
            else:
                raise corrupt(_WRONG.get(how) or f"a field that is not in the form of {self._plan.types[batch.ended_by]}")
        if self.ended and at < len(source):
            raise corrupt("it goes on after its trailer")
        self._rest = bytearray(piece[at:])
        self._wanted = 2 * len(self._rest)

    def _header(self, held: bytes | bytearray) -> int:
        """Where the first row begins; 0 while the header is not all there."""
        if held[: len(SIGNATURE)] != SIGNATURE[: len(held)]:
            raise corrupt("it does not begin with COPY's signature")
        if len(held) < HEADER_BYTES:
            return 0
        flags = int.from_bytes(held[len(SIGNATURE) : len(SIGNATURE) + 4], "big")
        extension = int.from_bytes(held[len(SIGNATURE) + 4 : HEADER_BYTES], "big", signed=True)
        if flags >> 16 or extension < 0:
            raise corrupt("its header asks for what this reader does not know")
        if len(held) < HEADER_BYTES + extension:
            return 0
        self._begun = True
        return HEADER_BYTES + extension


def _lengths(piece: bytes | bytearray, at: int) -> list[int]:
    """Of the fields of the row that begins here, as many as are there."""
    lengths: list[int] = []
    columns, field = int.from_bytes(piece[at : at + 2], "big"), at + 2
    while len(lengths) < columns and field + 4 <= len(piece):
        lengths.append(max(int.from_bytes(piece[field : field + 4], "big", signed=True), 0))
        field += 4 + lengths[-1]
    return lengths
