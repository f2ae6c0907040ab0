r"""Where a record of CSV begins and ends, and what is wrong with one.

RFC 4180, and what it leaves open:

- A record ends at `\n` or `\r\n` outside quotes, both in one file if need be, or at the end of the file. A carriage return alone, outside quotes, ends
  nothing and is an error of its record; a file with no other line ends is refused.
- A quote opens a field only at its beginning, where it must close right before a delimiter or a line end. A quote inside a field that does
  not begin with one, or text after a closing quote, is an error of that record, which ends where its line does. Where the quoted field reaches over
  a line end nobody can tell records apart any more: that fails the file, as a quote that is never closed does.
- Empty lines at the end of a file of several columns are no records. Elsewhere they are, and hold one field.

Lines are counted by `\n`, also inside quotes, as editors do.
"""

from __future__ import annotations

import functools
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import ProcessingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NEWLINE, _RETURN = b"\n\r"
STRAY_QUOTE = "a quote inside a field that does not begin with one"
TEXT_AFTER_QUOTE = "text after a closing quote"
LONE_RETURN = "a carriage return outside quotes that is no line end"


class Record(NamedTuple):
    """One record of a piece of text.

    Attributes:
        start: Where it begins.
        end: Where it ends, without its line end.
        next: Where the next one begins.
        line: The line on which it begins, from 1.
        fields: How many it has.
        rule: What is wrong with its quotes or line end; empty if nothing is.
    """

    start: int
    end: int
    next: int
    line: int
    fields: int
    rule: str


class Grammar:
    """CSV with one delimiter.

    Example:
        >>> Grammar(",").fields(b'1,"a, ""b"" c"')
        [b'1', b'a, "b" c']
    """

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter.encode()
        d = re.escape(self.delimiter)
        # Possessive (`*+`): what does not match fails at once, and no position is remembered.
        self._quoted = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"')
        self._unquoted = re.compile(rb"[^%b\n]*+" % d)
        field = rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^"\r\n%b]*+)' % d
        self._record = re.compile(rb"%b(?:%b%b)*+(?=\r?\n)" % (field, d, field))
        self._records = re.compile(rb"(?:%b(?:%b%b)*+\r?\n)*+" % (field, d, field))

    def holds(self, text: pa.Buffer, *, several: bool, exotic: bool = True) -> bool:
        """Whether a piece of text is whole records whose quotes and line ends are right, without NUL.

        Args:
            text: Looked at as a whole.
            several: Whether each record must have two fields at least.
            exotic: Whether fields may begin as `0x1F` or as `1e-5` do.
        """
        # RE2 takes 1.4 ns a byte for all of this at once, whatever the text, and lets other threads run. Python's own expressions do neither.
        offsets = pa.py_buffer(struct.pack("=qq", 0, text.size))
        whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, text])
        return bool(pc.match_substring_regex(whole, _text(self.delimiter, several=several, exotic=exotic))[0].as_py())

    def records(self, data: bytes, line: int, *, final: bool = True) -> Iterator[Record]:
        """The records of a piece of text that begins with one on that line, as far as their line ends are there.

        Args:
            data: The text.
            line: The line of the file on which it begins.
            final: Whether the text is all that comes, so that every quote must close.

        Raises:
            ProcessingError: Nobody can tell where a record ends.
        """
        start = 0
        while record := self.record(data, start, line, final=final):
            yield record
            line += data.count(b"\n", start, record.next)
            start = record.next

    def record(self, data: bytes, start: int, line: int, *, final: bool) -> Record | None:
        """The record that begins at `start`; None if its line end is not there."""
        end = data.find(b"\n", start)
        if end == -1:
            return None
        if data.find(b'"', start, end) == -1:
            rule = LONE_RETURN if data.find(b"\r", start, max(start, end - 1)) != -1 else ""
            return _ended(data, start, end, line, data.count(self.delimiter, start, end) + 1, rule)
        if found := self._record.match(data, start):
            fields = self._quoted.sub(b"", found[0]).count(self.delimiter) + 1
            return _ended(data, start, data.index(b"\n", found.end()), line, fields, "")
        return self._broken(data, start, line, final=final)

    def end(self, data: bytes, line: int, *, final: bool) -> int:
        """Where the last record of a text ends; arguments and errors as of `records`."""
        at = 0
        while True:
            found = self._records.match(data, at)
            good = found.end() if found else at
            line += data.count(b"\n", at, good)
            record = self.record(data, good, line, final=final)
            if record is None:
                return good
            at, line = record.next, line + data.count(b"\n", good, record.next)

    def rows(self, fields: int, other_than: bytes) -> re.Pattern[bytes]:
        """Matches the rows, any number of them, that stand at the beginning of a text: of so many fields, without faults or NUL, and none that is `other_than`."""
        d = re.escape(self.delimiter)
        field = rb'(?:"[^"\0]*+(?:""[^"\0]*+)*+"|[^"\r\n\0%b]*+)' % d
        more = rb"(?:%b%b){%d}+" % (d, field, fields - 1) if fields > 1 else b""
        return re.compile(rb"(?:(?!%b\r?\n)%b%b\r?\n)*+" % (re.escape(other_than), field, more))

    def fields(self, record: bytes) -> list[bytes]:
        """The values of a record without faults, without their quotes."""
        values = []
        at = 0
        while at <= len(record):
            quoted = self._quoted.match(record, at)
            found = quoted or self._unquoted.match(record, at)
            value = found[0] if found else b""
            values.append(value[1:-1].replace(b'""', b'"') if quoted else value)
            at += len(value) + 1
        return values

    def _broken(self, data: bytes, start: int, line: int, *, final: bool) -> Record | None:
        """As `record`, for one that the expression for good ones does not match: field by field."""
        rule, fields, at = "", 0, start
        while True:
            fields += 1
            quoted = self._quoted.match(data, at)
            if quoted is None and data[at : at + 1] == b'"':
                if final:
                    raise _unclosed(line + data.count(b"\n", start, at))
                return None
            begin = quoted.end() if quoted else at
            rest = self._unquoted.match(data, begin)
            at = rest.end() if rest else begin
            if at == len(data):
                return None
            last = data[at] == _NEWLINE
            tail = data[begin:at].removesuffix(b"\r") if last else data[begin:at]
            if quoted and tail and b"\n" in quoted[0]:
                raise _astray(line + data.count(b"\n", start, quoted.start()), line + data.count(b"\n", start, begin))
            rule = rule or _fault(tail, quoted=quoted is not None)
            if last:
                return _ended(data, start, at, line, fields, rule)
            at += 1


def _fault(tail: bytes, *, quoted: bool) -> str:
    """What is wrong with a field that is not quoted, or with what follows the closing quote of one that is."""
    if quoted and tail:
        return TEXT_AFTER_QUOTE
    if b'"' in tail:
        return STRAY_QUOTE
    return LONE_RETURN if b"\r" in tail else ""


@functools.cache
def _text(delimiter: bytes, *, several: bool, exotic: bool) -> str:
    """The expression (RE2) for text that is right."""
    d = rf"\x{delimiter[0]:02x}"
    blank = "".join(c for c in (r"\x20", r"\x09") if c != d)

    def bare(but: str = "") -> str:
        return rf'[^{but}"{d}\r\n\x00]'

    def quoted(but: str = "") -> str:
        return rf'(?:[^{but}"\x00]|"")'

    field = rf'(?:{bare()}*|"{quoted()}*")' if exotic else rf'(?:{_not_exotic(bare, blank)}|"{_not_exotic(quoted, blank)}")'
    record = rf"{field}(?:{d}{field})+" if several else field
    return rf"\A(?:{record}\r?\n)*\z"


def _not_exotic(one: Callable[[str], str], blank: str) -> str:
    """What a field may be that does not begin as `0x1F`, `1e-5` or `1e+-5`, after blanks and a sign; `one` makes a character that is none of some."""
    minus = r"\-"
    rest = f"{one('')}*"
    exponent = f"[eE](?:{one('+' + minus)}{rest}|[+](?:{one(minus)}{rest})?)?"
    zero = f"0(?:{one('xX0-9.eE')}{rest}|{exponent})?"
    number = f"(?:[1-9.][0-9.]*|0[0-9.]+)(?:{one('0-9.eE')}{rest}|{exponent})?"
    word = f"{one('0-9.+' + minus + blank)}{rest}|[+-](?:{one('0-9.')}{rest})?"
    return f"[{blank}]*(?:{word}|[+-]?(?:{zero}|{number}))?"


def _ended(data: bytes, start: int, newline: int, line: int, fields: int, rule: str) -> Record:
    end = newline - 1 if newline > start and data[newline - 1] == _RETURN else newline
    return Record(start, end, newline + 1, line, fields, rule)


def _unclosed(line: int) -> ProcessingError:
    return ProcessingError(
        f"line {line}: a quote opens here and is not closed before the file ends: the file was cut off, or a quote of the value was not doubled"
    )


def _astray(line: int, closes: int) -> ProcessingError:
    return ProcessingError(
        f"line {line}: a quote opens here and closes on line {closes} with text after it, so rows cannot be told apart: close it, or double a quote of the value"
    )
