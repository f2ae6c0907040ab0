"""Looking at a block of CSV record by record: which are rows, where they stand, and by which rule the others are rejected.

Only a block that has something amiss, or of which a line number is asked, is looked at like this: it takes several times as long as parsing.
"""

from __future__ import annotations

from array import array
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.errors import ProcessingError
from engine.formats.csv import DELIMITERS
from engine.formats.csv_grammar import Grammar
from engine.formats.decoding import as_in_file

if TYPE_CHECKING:
    import re

    from engine.formats.csv_blocks import Block

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

    def rows(self) -> re.Pattern[bytes]:
        """Matches what `fault` has nothing against, in text that is UTF-8."""
        return self.grammar.rows(self.fields, BOM_UTF8 + self.header)

    def fault(self, record: bytes, fields: int) -> str:
        """The rule by which a record is rejected whose quotes are right; empty if it is a row."""
        if not record and self.fields > 1:
            return EMPTY_LINE
        if b"\0" in record:
            return NUL
        if not _is_utf8(record):
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


@dataclass(frozen=True, slots=True)
class Places:
    """Where the rows of a block stand.

    Attributes:
        text: The text of the block.
        starts: Where each row begins in it.
        ends: Where it ends there, without its line end.
        lines: The line of the file on which it begins.
    """

    text: bytes
    starts: array[int]
    ends: array[int]
    lines: array[int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in a block.

    Attributes:
        good: The text of its rows alone.
        rejects: The other records, in order.
        starts: Where these begin in the text of the block.
    """

    good: pa.Buffer
    rejects: list[Reject]
    starts: frozenset[int]


def inspect(block: Block, expected: Expected) -> Inspection:
    """Look for the records that are no rows.

    Raises:
        ProcessingError: Nobody can tell where a record ends.
    """
    data = block.text.to_pybytes()
    rows = expected.rows() if _is_utf8(data) else None  # else each record is looked at by itself
    rejects, starts, runs = [], [], []
    at, good_from, line = 0, 0, block.line
    while True:
        end = found.end() if rows and (found := rows.match(data, at)) else at
        line += data.count(b"\n", at, end)
        record = expected.grammar.record(data, end, line, final=True)
        if record is None:
            break
        text = data[record.start : record.end]
        if rule := record.rule or expected.fault(text, record.fields):
            rejects.append(Reject(line, rule, as_in_file(text, expected.encoding)))
            starts.append(end)
            runs.append(data[good_from:end])
            good_from = record.next
        at, line = record.next, line + data.count(b"\n", end, record.next)
    runs.append(data[good_from:])
    return Inspection(pa.py_buffer(b"".join(runs)), rejects, frozenset(starts))


def places(block: Block, inspection: Inspection | None, grammar: Grammar) -> Places:
    """Where each row stands."""
    found = Places(block.text.to_pybytes(), array("q"), array("q"), array("q"))
    rejected = inspection.starts if inspection else frozenset()
    for record in grammar.records(found.text, block.line):
        if record.start not in rejected:
            found.starts.append(record.start)
            found.ends.append(record.end)
            found.lines.append(record.line)
    return found


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


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
