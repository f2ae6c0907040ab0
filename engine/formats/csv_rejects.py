"""Looking at a block of CSV record by record: which are rows, where they stand, and by which rule the others are rejected.

Only a block that has something amiss, or of which a line number is asked, is looked at like this: it takes some ten times as long as parsing.
"""

from __future__ import annotations

from array import array
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.errors import ProcessingError
from engine.formats.csv import DELIMITERS
from engine.formats.csv_grammar import Grammar
from engine.formats.decoding import as_in_file

if TYPE_CHECKING:
    from engine.formats.csv_blocks import Block
    from engine.formats.csv_grammar import Record

EMPTY_LINE = "an empty line"
NUL = "a NUL byte"
SECOND_HEADER = "a byte order mark and the header again: files were joined"


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is no row.

    Attributes:
        line: The line of the file on which it begins, from 1.
        rule: What is wrong, without a value.
        raw: The record without its line end, as UTF-8; bytes that could not be decoded stand as in the file.
    """

    line: int
    rule: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Expected:
    """What a row of a file looks like.

    Attributes:
        fields: How many it has.
        header: The file's first record, empty where there is none.
        encoding: As declared, for messages.
        grammar: How records are written.
    """

    fields: int
    header: bytes
    encoding: str
    grammar: Grammar

    def fault(self, record: bytes, fields: int) -> str:
        """The rule by which a record is rejected whose quotes are right; empty if it is a row."""
        if not record and self.fields > 1:
            return EMPTY_LINE
        if b"\0" in record:
            return NUL
        try:
            record.decode()
        except UnicodeDecodeError:
            return not_text(self.encoding)
        if self.header and record == BOM_UTF8 + self.header:
            return SECOND_HEADER
        if fields != self.fields:
            return self._count(record, fields)
        return ""

    def _count(self, record: bytes, fields: int) -> str:
        rule = f"{fields} field{'s' if fields > 1 else ''} where {self.fields} {'were' if self.fields > 1 else 'was'} expected"
        fits = next((d for d in DELIMITERS if fields == 1 and record.count(d.encode()) + 1 == self.fields), "")
        return f"{rule}; 'delimiter' {fits!r} would fit" if fits else rule


@dataclass(slots=True)
class Inspection:
    """What was found in a block.

    Attributes:
        text: Its text.
        good: The text of its rows alone.
        rejects: The other records, in order.
        starts: Where each row begins in the block's text.
        ends: Where it ends there, without its line end.
        lines: The line of the file on which it begins.
    """

    text: bytes
    good: pa.Buffer | None = None
    rejects: list[Reject] = field(default_factory=list)
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))

    def add(self, record: Record) -> None:
        """Note a row."""
        self.starts.append(record.start)
        self.ends.append(record.end)
        self.lines.append(record.line)


def inspect(block: Block, expected: Expected) -> Inspection:
    """Look at each record of a block.

    Raises:
        ProcessingError: Nobody can tell where a record ends.
    """
    data = block.text.to_pybytes()
    found = Inspection(data)
    runs = []
    good_from = 0
    for record in expected.grammar.records(data, block.line):
        text = data[record.start : record.end]
        if rule := record.rule or expected.fault(text, record.fields):
            found.rejects.append(Reject(record.line, rule, as_in_file(text)))
            runs.append(data[good_from : record.start])
            good_from = record.next
        else:
            found.add(record)
    runs.append(data[good_from:])
    found.good = pa.py_buffer(b"".join(runs))
    return found


def not_text(encoding: str) -> str:
    """What is said of bytes that are not in the encoding."""
    return f"not valid {encoding}: give 'encoding', such as cp1252, if the file has another one" if encoding == "utf-8" else f"not valid {encoding}"


def other_delimiter(header: bytes, following: bytes, delimiter: str) -> tuple[str, int] | None:
    """The delimiter that makes the same number of columns, two or more, of the header and of the first record, and that number."""
    for other in DELIMITERS:
        fields = _fields(header, Grammar(other)) if other != delimiter else 0
        if fields > 1 and fields == _fields(following, Grammar(other)):
            return other, fields
    return None


def _fields(text: bytes, grammar: Grammar) -> int:
    try:
        record = grammar.record(text, 0, 1, final=True)
    except ProcessingError:
        return 0
    return record.fields if record and not record.rule else 0
