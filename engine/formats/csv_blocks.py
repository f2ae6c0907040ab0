"""A stream of CSV text cut into blocks of whole records."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import ProcessingError

if TYPE_CHECKING:
    from engine.formats.csv_grammar import Grammar, Record
    from engine.formats.decoding import Utf8Stream

BLOCK = 4 << 20
"""Bytes of text that a block has, unless one record is larger: measured, smaller ones cost more, larger ones gain little."""
LARGEST_RECORD = 64 << 20
"""Bytes. A value of PostgreSQL may have 1 GB, but a quote that is not closed should not take that much memory before it is noticed."""
_WINDOW = 1 << 12  # bytes looked at first where the end of a text is searched
_NEWLINE = pa.scalar(0x0A, pa.uint8())


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records, as they stand in the file.

    Attributes:
        text: UTF-8, if the file is what it was declared to be; a line end stands behind the last record, also where the file has none.
        line: The line on which it begins, from 1.
        lines: How many it has.
        clean: Whether quotes, line ends and NUL are known to be no trouble; else each record must be looked at.
        exotic: Whether a field may begin as `0x1F` or `1e-5` do.
    """

    text: pa.Buffer
    line: int
    lines: int
    clean: bool = False
    exotic: bool = True


class Blocks:
    """Cuts a stream into blocks.

    Text is kept in pyarrow's buffers and looked at by its kernels: they let other threads run, and their memory is not given back and taken anew
    for every block, which would cost as much as the looking.

    Args:
        stream: At its beginning.
        grammar: Where records end.
    """

    def __init__(self, stream: Utf8Stream, grammar: Grammar) -> None:
        self._stream = stream
        self._grammar = grammar
        self._text = pa.py_buffer(b"")  # read, and not in a block yet
        self._line = 1
        self._final = False  # whether the stream has ended
        self._quoted_line_ends = False  # whether the last block had any at its end, so that the next one may well have too

    def first(self) -> tuple[bytes, Record] | None:
        """The first record, which later blocks do not hold, and the text that it stands in; None where the file has no bytes."""
        size = BLOCK
        while True:
            self._fill(size)
            data = self._data()
            if not data:
                return None
            if record := self._grammar.record(data, 0, 1, final=self._final):
                text = data[: record.next]
                self._pass(record.next, text.count(b"\n"))
                return text, record
            size = self._larger(size)

    def second(self) -> bytes:
        """The text after the first record, at least one line of it."""
        size = BLOCK
        while not self._final and b"\n" not in self._data():
            self._fill(size)
            size = self._larger(size)
        return self._data()

    def next(self, *, columns: int) -> Block | None:
        """The next block, at least one record of it; None at the end.

        Raises:
            ProcessingError: Nobody can tell where a record ends, or one is larger than `LARGEST_RECORD`.
        """
        size = BLOCK
        while True:
            self._fill(size)
            if block := self._clean(several=columns > 1) or self._unclean(several=columns > 1):
                self._pass(block.text.size, block.lines)
                return block
            if self._final:
                return None
            size = self._larger(size)

    def _data(self) -> bytes:
        return bytes(self._text.to_pybytes())

    def _fill(self, size: int) -> None:
        have = self._text.size
        if self._final or have >= size:
            return
        room = pa.allocate_buffer(size)
        view = memoryview(room).cast("B")
        view[:have] = memoryview(self._text).cast("B")
        have += self._stream.readinto(view[have:])
        self._final = have < size
        # Without a line end behind it, pyarrow reads a last field that is bare and empty as quoted, if the one before it is.
        if self._final and have and view[have - 1] != _NEWLINE.as_py():
            self._refuse_returns(bytes(view[:have]))
            view[have] = _NEWLINE.as_py()
            have += 1
        self._text = room.slice(0, have)

    def _clean(self, *, several: bool) -> Block | None:
        """The records that are there, if all is well with them, and if they are not far less than what is there."""
        for find, exotic in ((_last_line_end, False), (_last_line_end_outside_quotes, False), (_last_line_end_outside_quotes, True)):
            if find is _last_line_end and self._quoted_line_ends:
                continue
            block = self._until(find(self._text), several=several)
            if block and 2 * block.text.size > self._text.size and self._grammar.holds(block.text, several=several, exotic=exotic):
                self._quoted_line_ends = find is not _last_line_end
                return replace(block, clean=not _may_be_joined(block.text), exotic=exotic)
        return None

    def _unclean(self, *, several: bool) -> Block | None:
        """The records that are there, told apart one by one: a quote is out of place, or a value as large as all the others."""
        return self._until(self._grammar.end(self._data(), self._line, final=self._final), several=several)

    def _until(self, end: int, *, several: bool) -> Block | None:
        if several:
            end = _without_empty_lines(self._text, end)
        if not end:
            return None
        text = self._text.slice(0, end)
        return Block(text, self._line, pc.equal(_bytes(text), _NEWLINE).true_count)

    def _pass(self, size: int, lines: int) -> None:
        self._text = self._text.slice(size)
        self._line += lines

    def _larger(self, size: int) -> int:
        if size < LARGEST_RECORD:
            return min(2 * size, LARGEST_RECORD)
        self._refuse_returns(self._data())
        raise ProcessingError(
            f"line {self._line}: the record that begins here is larger than {LARGEST_RECORD >> 20} MiB: is there a quote that is not closed, or no line end?"
        )

    def _refuse_returns(self, data: bytes) -> None:
        r"""A file whose lines end in `\r` alone, as on Mac OS before 2001, would be one record."""
        first = data.partition(b"\r")[0]
        if self._line == 1 and b"\n" not in data and len(first) + 1 < len(data) and first.count(b'"') % 2 == 0:
            raise ProcessingError("line 1: the lines end in carriage returns alone: convert them to line feeds")


def _bytes(text: pa.Buffer) -> pa.Array:
    return pa.Array.from_buffers(pa.uint8(), text.size, [None, text])


def _last_line_end(text: pa.Buffer) -> int:
    window = _WINDOW
    while True:
        start = max(0, text.size - window)
        at = text.slice(start).to_pybytes().rfind(b"\n")
        if at != -1 or not start:
            return start + at + 1 if at != -1 else 0
        window *= 16


def _last_line_end_outside_quotes(text: pa.Buffer) -> int:
    """The last line end that an even number of quotes stands before."""
    data = text.to_pybytes()
    at = data.rfind(b"\n")
    odd = data.count(b'"', 0, at + 1) & 1
    while odd and at != -1:
        before = data.rfind(b"\n", 0, at)
        odd ^= data.count(b'"', before + 1, at) & 1
        at = before
    return int(at + 1)


def _without_empty_lines(text: pa.Buffer, end: int) -> int:
    """Leaves the empty lines at the end: only what follows says whether they are in the middle of the file."""
    while end:
        last = text.slice(max(0, end - 3), min(3, end)).to_pybytes()
        empty = next((line for line in (b"\r\n", b"\n") if last == line or last.endswith(b"\n" + line)), b"")
        if not empty:
            break
        end -= len(empty)
    return end


def _may_be_joined(text: pa.Buffer) -> bool:
    """Whether a record may begin with a byte order mark, as where another file begins."""
    if not text.size or pc.max(_bytes(text)).as_py() < BOM_UTF8[0]:
        return False
    data = text.to_pybytes()
    return bool(data.startswith(BOM_UTF8) or b"\n" + BOM_UTF8 in data)
