r"""CSV files into record batches: every record becomes a row or is rejected by line and rule, and no value changes on the way.

What is read is RFC 4180 as `csv_grammar` tells, in the encodings and compressions of `decoding`. NULL is a bare field that equals the NULL text, by
default an empty one; a quoted field is never NULL (as in PostgreSQL's `COPY … (FORMAT csv)`). `\.` is a value as any other.

pyarrow parses blocks of whole records. What it would let through is looked for first, so that only a block with something amiss is looked at
record by record: unclosed and stray quotes, NUL, empty lines (a row of NULLs to pyarrow), carriage returns (a line end to it),
a byte order mark at the beginning of a value. Its messages hold values, so none of them is shown.
"""

from __future__ import annotations

import concurrent.futures
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
from pyarrow import csv

from engine import workers
from engine.errors import ConfigurationError, ProcessingError
from engine.formats import csv_values
from engine.formats.csv_blocks import Block, Blocks
from engine.formats.csv_grammar import Grammar
from engine.formats.csv_rejects import Expected, Inspection, Places, Reject, inspect, not_text, other_delimiter, places
from engine.formats.decoding import COMPRESSIONS, Utf8Stream, checked_encoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["CsvBlock", "CsvInput", "CsvReader", "Reject"]


@dataclass(frozen=True, slots=True)
class CsvInput:
    """How CSV files are written.

    Attributes:
        delimiter: One ASCII character that is no letter, digit, sign, point, quote or line end.
        null: The bare text that means NULL.
        encoding: Any name that Python knows; UTF-8 may begin with a byte order mark.
        header: Whether the first record holds the column names.
        compression: `none`, `gzip` or `zstd`.
        columns: The names, where there is no header.

    Raises:
        ConfigurationError: One of them cannot be.

    Example:
        >>> CsvInput(delimiter=";", encoding="latin1").encoding
        'iso8859-1'
    """

    delimiter: str = ","
    null: str = ""
    encoding: str = "utf-8"
    header: bool = True
    compression: str = "none"
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter.isalnum() or self.delimiter in '"\r\n\0.+-':
            tab = "; a tab is $'\\t' in the shell" if self.delimiter in {"\\t", "tab", "TAB"} else ""
            raise ConfigurationError(f"'delimiter' is one ASCII character, and no letter, digit, sign, point, quote or line end{tab}")
        if any(c in self.null for c in (self.delimiter, '"', "\r", "\n", "\0")):
            raise ConfigurationError("'null' may not hold the delimiter, a quote, a line end or NUL")
        if self.compression not in COMPRESSIONS:
            raise ConfigurationError(f"'compression': CSV knows {', '.join(COMPRESSIONS)}, not {self.compression!r}")
        if self.header == bool(self.columns):
            raise ConfigurationError("column names come from the header, or from 'columns' where there is none")
        if fault := _faulty(self.columns):
            raise ConfigurationError(f"'columns': {fault}")
        object.__setattr__(self, "encoding", checked_encoding(self.encoding))


class CsvReader:
    r"""The blocks of one file, in order, once. While one is used the next is read, so a few blocks are in memory whatever the file's size.

    Making a reader reads the header.

    Attributes:
        names: Of the columns.

    Args:
        file: At its beginning; read by other threads too, but never by two at once. The caller closes it.
        dialect: How it is written.

    Raises:
        ProcessingError: The file has no header, or one without names of its own for all columns; it is something else than was declared; and while
            iterating: nobody can tell its records apart. Messages name line and rule; the caller adds the file.
        IntegrityError: A compressed file is damaged or cut off.

    Example:
        >>> import io
        >>> reader = CsvReader(io.BytesIO(b'id,note\n007,""\n008,\n009\n'), CsvInput())
        >>> reader.names
        ('id', 'note')
        >>> block = next(iter(reader))
        >>> block.text().to_pylist()
        [{'id': '007', 'note': ''}, {'id': '008', 'note': None}]
        >>> block.rejects
        [Reject(line=4, rule='1 field where 2 were expected', raw=b'009')]
    """

    def __init__(self, file: BinaryIO, dialect: CsvInput) -> None:
        self._dialect = dialect
        self._grammar = Grammar(dialect.delimiter)
        self._blocks = Blocks(Utf8Stream(file, dialect.encoding, dialect.compression), self._grammar)
        header = self._header() if dialect.header else b""
        self.names = self._names(header) if dialect.header else dialect.columns
        self._expected = Expected(len(self.names), header, dialect.encoding, self._grammar)
        self._parser = _Parser(self.names, dialect)

    def __iter__(self) -> Iterator[CsvBlock]:
        ahead = workers.start(self._next, name="ferry-csv")
        try:
            while (block := workers.wait(ahead)) is not None:
                ahead = workers.start(self._next, name="ferry-csv")
                yield CsvBlock(block, self._expected, self._parser)
        finally:
            concurrent.futures.wait([ahead])  # from here on the file is its opener's alone

    def _next(self) -> Block | None:
        return self._blocks.next(columns=len(self.names))

    def _header(self) -> bytes:
        first = self._blocks.first()
        if first is None:
            raise ProcessingError("the file is empty (0 bytes): not even a header is there")
        text, record = first
        header = text[: record.end]
        if not header:
            raise ProcessingError("line 1: an empty line, where the header was expected")
        if header.startswith(b"sep=") and len(header) == len("sep=,"):
            raise ProcessingError("line 1: a separator line for Excel, where the header was expected: remove it")
        if (record.rule or record.fields == 1) and (fits := other_delimiter(text, self._blocks.second(), self._dialect.delimiter)):
            other, fields = fits
            raise ProcessingError(f"line 1: 'delimiter' {self._dialect.delimiter!r} makes one column of what {other!r} would make {fields} of: give that")
        if record.rule:
            raise ProcessingError(f"line 1: the header has {record.rule}")
        return header

    def _names(self, header: bytes) -> tuple[str, ...]:
        try:
            names = tuple(name.decode() for name in self._grammar.fields(header))
        except UnicodeDecodeError:
            raise ProcessingError(f"line 1: the header is {not_text(self._dialect.encoding)}") from None
        if fault := _faulty(names):
            raise ProcessingError(f"line 1: {fault}")
        return names


def _faulty(names: Sequence[str]) -> str:
    """What is wrong with column names, by their positions: a header that is missing would make values of them."""
    first: dict[str, int] = {}
    for position, name in enumerate(names, 1):
        if not name:
            return f"column {position} has no name"
        if "\0" in name:
            return f"the name of column {position} holds a NUL byte"
        if (earlier := first.setdefault(name, position)) < position:
            return f"columns {earlier} and {position} have the same name"
    return "column 1 begins with a second byte order mark" if names and names[0].startswith("\ufeff") else ""


class _Parser:
    """pyarrow's CSV parser, on blocks of whole records."""

    def __init__(self, names: tuple[str, ...], dialect: CsvInput) -> None:
        self.schema = pa.schema([(name, pa.string()) for name in names])
        self._dialect = dialect

    def __call__(self, data: pa.Buffer, types: Sequence[pa.DataType]) -> list[pa.Array] | None:
        """The columns; None when a record or a value is not as it should be."""
        if not data.size:
            return [pa.array([], kind) for kind in types]
        if bytes(memoryview(data)[: len(BOM_UTF8)]) == BOM_UTF8:  # of a value: pyarrow takes one away
            data = pa.py_buffer(BOM_UTF8 + data.to_pybytes())
        names = [str(position) for position in range(len(types))]
        try:
            table = csv.read_csv(
                data,
                csv.ReadOptions(column_names=names, block_size=data.size + 1),  # at once, so that each column is one array
                csv.ParseOptions(delimiter=self._dialect.delimiter, ignore_empty_lines=False),
                csv.ConvertOptions(
                    column_types=dict(zip(names, types, strict=True)),
                    null_values=[self._dialect.null],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    true_values=csv_values.TRUE,
                    false_values=csv_values.FALSE,
                ),
            )
        except pa.ArrowInvalid:  # its text holds the record, or the value
            return None
        return [column.chunk(0) for column in table.columns]


class CsvBlock:
    """Some rows of a file that follow one another, and the records between them that are none."""

    def __init__(self, block: Block, expected: Expected, parser: _Parser) -> None:
        self._block = block
        self._expected = expected
        self._parser = parser
        self._inspection: Inspection | None = None
        self._places: Places | None = None
        self._rows: int | None = None  # once it is known which records are rows
        self._text: pa.RecordBatch | None = None

    @property
    def rows(self) -> int:
        """How many rows `text` and `typed` have."""
        return self._rows if self._rows is not None else len(self.text())

    @property
    def rejects(self) -> list[Reject]:
        """The records that are no rows, in order."""
        if self._rows is None:
            self.text()
        return self._inspection.rejects if self._inspection else []

    def text(self) -> pa.RecordBatch:
        """The rows, all columns text: NULL for what is bare and equals the NULL text, and else what stands there."""
        if self._text is None:
            types = self._parser.schema.types
            arrays = self._parse(types)
            if arrays is None:
                self._inspection = self._inspection or inspect(self._block, self._expected)
                arrays = self._parse(types)
            if arrays is None:
                raise ProcessingError(f"line {self._block.line} or after: the text could not be parsed; this is a defect, please report it")
            self._text = pa.RecordBatch.from_arrays(arrays, schema=self._parser.schema)
        return self._text

    def typed(self, schema: pa.Schema) -> pa.RecordBatch | None:
        """The rows in these types, one for each column, by position; None when a value may not be in the plain form of its type.

        The forms are among those that PostgreSQL's input functions take, for the same value. They may take what is None here: `text` has it all.

        Raises:
            TypeError: A type that text is not parsed to (others than `csv_values.parsed_as` takes), or one too few or too many.
        """
        if len(schema) != len(self._parser.schema):
            raise TypeError(f"{len(schema)} types for {len(self._parser.schema)} columns")
        types = [csv_values.parsed_as(kind, exotic=self._block.exotic) for kind in schema.types]
        arrays = self._parse(types)
        if arrays is None and self._rows is None:
            self.text()  # tells whether it was a record or a value
            arrays = self._parse(types) if self._inspection else None
        if arrays is None:
            return None
        done = csv_values.checked(arrays, schema, self._good(), lambda position: self.text().column(position))
        return None if done is None else pa.RecordBatch.from_arrays(done, schema=schema)

    def line(self, row: int) -> int:
        """The line of the file on which that row begins, from 1.

        Where every row of the block has a line of its own that costs nothing; else the block's records are looked at, once.
        """
        if not self.rejects and self.rows == self._block.lines:
            return self._block.line + row
        return self._found().lines[row]

    def raw(self, row: int) -> bytes:
        """That row as it stands in the file, as UTF-8 and without its line end."""
        found = self._found()
        return found.text[found.starts[row] : found.ends[row]]

    def _found(self) -> Places:
        if self._places is None:
            self._places = places(self._block, self._inspection if self.rejects else None, self._expected.grammar)
        return self._places

    def _good(self) -> pa.Buffer:
        return self._inspection.good if self._inspection else self._block.text

    def _parse(self, types: Sequence[pa.DataType]) -> list[pa.Array] | None:
        """The columns; None when a record may have to be rejected, or a value does not have its type."""
        if not self._block.clean and not self._inspection:
            return None
        arrays = self._parser(self._good(), types)
        if arrays is not None:
            self._rows = len(arrays[0])
        return arrays
