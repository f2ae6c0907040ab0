"""A stream of CSV text cut into blocks of whole records."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.errors import ProcessingError

if TYPE_CHECKING:
    from engine.formats.csv_grammar import Grammar, Record
    from engine.formats.decoding import Utf8Stream

BLOCK = 4 << 20
"""Bytes of text that a block has, unless one record is larger: measured, smaller ones cost more, larger ones gain nothing."""
NEWLINE = 0x0A
LARGEST_RECORD = 64 << 20
"""Bytes. A value of PostgreSQL may have 1 GB, but a quote that is not closed should not take that much memory before it is noticed."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records, as they stand in the file.

    Attributes:
        text: UTF-8, if the file is what it was declared to be.
        line: The line on which it begins, from 1.
        lines: How many it has; the last one of a file may have no line end.
        clean: Whether quotes, line ends and NUL are known to be no trouble; else each record must be looked at.
        hexadecimal: Whether a field may begin as `0x1F` does.
    """

    text: pa.Buffer
    line: int
    lines: int
    clean: bool = False
    hexadecimal: bool = True


class Blocks:
    """Cuts a stream into blocks.

    Args:
        stream: At its beginning.
        grammar: Where records end.
    """

    def __init__(self, stream: Utf8Stream, grammar: Grammar) -> None:
        self._stream = stream
        self._grammar = grammar
        self._data = b""
        self._line = 1
        self._final = False  # whether the stream has ended

    def first(self) -> tuple[bytes, Record] | None:
        """The first record, which later blocks do not hold, and the text that it stands in; None where the file has no bytes."""
        size = BLOCK
        while True:
            self._fill(size)
            if not self._data:
                return None
            _refuse_returns(self._data)
            if record := self._grammar.record(self._data, 0, 1, final=self._final):
                text = self._data[: record.next]
                self._pass(record.next, text.count(b"\n"))
                return text, record
            size = self._larger(size)

    def peek(self) -> bytes:
        """What has been read already of the next block."""
        return self._data

    def next(self, *, columns: int) -> Block | None:
        """The next block, at least one record of it; None at the end.

        Raises:
            ProcessingError: Nobody can tell where a record ends, or one is larger than `LARGEST_RECORD`.
        """
        size = BLOCK
        while True:
            self._fill(size)
            if self._line == 1:
                _refuse_returns(self._data)
            if block := self._clean(several=columns > 1) or self._unclean(several=columns > 1):
                self._pass(block.text.size, block.lines)
                return block
            if self._final:
                return None
            size = self._larger(size)

    def _fill(self, size: int) -> None:
        if not self._final and len(self._data) < size:
            self._data += self._stream.read(size - len(self._data))
            self._final = len(self._data) < size

    def _clean(self, *, several: bool) -> Block | None:
        """The records that are there, if all is well with them, and if they are not far less than what is there."""
        end = len(self._data) if self._final else _last_line_end(self._data)
        block = self._until(end, several=several)
        if not block or 2 * block.text.size < len(self._data):
            return None
        if self._may_be_joined(block.text.size):
            return None
        plain = self._grammar.holds(block.text, several=several, hexadecimal=False)
        clean = plain or self._grammar.holds(block.text, several=several)
        return replace(block, clean=True, hexadecimal=not plain) if clean else None

    def _unclean(self, *, several: bool) -> Block | None:
        """The records that are there, told apart one by one: a quote is out of place, or a value as large as all the others."""
        end = 0
        for record in self._grammar.records(self._data, self._line, final=self._final):
            end = record.next
        return self._until(end, several=several)

    def _until(self, end: int, *, several: bool) -> Block | None:
        if several:
            end = _without_empty_lines(self._data, end)
        if not end:
            return None
        lines = self._data.count(b"\n", 0, end) + (self._data[end - 1] != NEWLINE)
        return Block(pa.py_buffer(self._data).slice(0, end), self._line, lines)

    def _may_be_joined(self, size: int) -> bool:
        """Whether a record may begin with a byte order mark, as where another file begins."""
        data = self._data
        return BOM_UTF8[:1] in data and (data.startswith(BOM_UTF8) or data.find(b"\n" + BOM_UTF8, 0, size) != -1)

    def _pass(self, size: int, lines: int) -> None:
        self._data = self._data[size:]
        self._line += lines

    def _larger(self, size: int) -> int:
        if size >= LARGEST_RECORD:
            raise ProcessingError(
                f"line {self._line}: the record that begins here is larger than {LARGEST_RECORD >> 20} MiB: is there a quote that is not closed, or no line end?"
            )
        return min(2 * size, LARGEST_RECORD)


def _last_line_end(data: bytes) -> int:
    """The last one that an even number of quotes stands before."""
    at = data.rfind(b"\n")
    odd = b'"' in data and data.count(b'"', 0, at + 1) & 1
    while odd and at != -1:
        before = data.rfind(b"\n", 0, at)
        odd ^= data.count(b'"', before + 1, at) & 1
        at = before
    return at + 1


def _without_empty_lines(data: bytes, end: int) -> int:
    """Leaves the empty lines at the end: only what follows says whether they are in the middle of the file."""
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if data[start:end].strip(b"\r\n"):
            break
        end = start
    return end


def _refuse_returns(data: bytes) -> None:
    r"""A file whose lines end in `\r` alone, as on Mac OS before 2001, would be one record."""
    first = data.partition(b"\r")[0]
    if b"\n" not in data and len(first) + 1 < len(data) and first.count(b'"') % 2 == 0:
        raise ProcessingError("line 1: the lines end in carriage returns alone: convert them to line feeds")
