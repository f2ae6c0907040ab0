r"""CSV: RFC 4180 quoting, `\n` line ends as psql's `\copy` writes them, UTF-8 without a byte order mark.

NULL is nothing between two delimiters, the empty string is `""`, so PostgreSQL's `COPY … FROM (FORMAT csv, HEADER)` reads back what was written.
Values arrive as PostgreSQL's own text (the `text` form of a source), so nothing is formatted here.

Compressed files are one zstd frame, or gzip member, after another: each batch is compressed by the thread that encodes it, and every reader
takes the concatenation as one stream (RFC 8878 section 3.1, RFC 1952 section 2.2).
"""

from __future__ import annotations

import pyarrow as pa
from pyarrow import csv

from engine.errors import ConfigurationError, ProcessingError
from engine.protocols import CsvDialect, FileWriter, Form, Lines

DELIMITERS = (",", ";", "\t", "|")
SUFFIXES = {"none": ".csv", "gzip": ".csv.gz", "zstd": ".csv.zst"}
_LEVELS = {"gzip": 6, "zstd": 3}
_ENCODED_AT_ONCE = 16_384  # rows per inner step of the library: a sixth faster than its default of 1,024
_MOST_BYTES = 256 << 20  # Arrow bytes encoded at once, far below what 32-bit offsets hold
_HELD_TYPES = (pa.types.is_string, pa.types.is_boolean, pa.types.is_integer)


class CsvFormat:
    """The layout of one export (`Format`).

    Args:
        delimiter: One of `DELIMITERS`. Values of other types than text are written unquoted, so no character of a number may serve.
        header: Whether each file begins with the column names.
        null: How NULL is written, bare; then every value is quoted, so that a string or number that equals it stays different.
        compression: `none`, `gzip` or `zstd`.

    Raises:
        ConfigurationError: A delimiter or NULL text that could not be told from values.
    """

    form: Form = "text"

    def __init__(self, *, delimiter: str = ",", header: bool = True, null: str = "", compression: str = "none") -> None:
        if delimiter not in DELIMITERS:
            raise ConfigurationError("'delimiter' is a comma, a semicolon, a tab or |")
        if any(c in null for c in (delimiter, '"', "\r", "\n")):
            raise ConfigurationError("'null' may not hold the delimiter, a quote or a line end")
        if compression not in SUFFIXES:
            raise ConfigurationError(f"'compression': CSV knows {', '.join(SUFFIXES)}, not {compression!r}")
        self.suffix = SUFFIXES[compression]
        self.delimiter = delimiter
        self.header = header
        self.null = null
        self.compression = compression

    def dialect(self, schema: pa.Schema) -> CsvDialect:
        """See `TakesLines`."""
        # A file of one column quotes every value: a NULL row is an empty line, which many readers skip, and a bare `\.` ends COPY before PostgreSQL 18.
        return CsvDialect(self.delimiter, self.null, quotes_all=bool(self.null) or len(schema) == 1)

    def encoder(self, schema: pa.Schema) -> CsvEncoder:
        """An encoder for text, booleans and integers; a source's `text` form has nothing else."""
        for field in schema:
            if not any(holds(field.type) for holds in _HELD_TYPES):
                raise ConfigurationError(f"column {field.name!r}: CSV takes text, booleans and integers, not {field.type}")
        return CsvEncoder(self, schema)


class CsvEncoder:
    """Batches into CSV lines (`Encoder`)."""

    pending = 0

    def __init__(self, layout: CsvFormat, schema: pa.Schema) -> None:
        self._layout = layout
        self._options = csv.WriteOptions(
            include_header=False,
            batch_size=_ENCODED_AT_ONCE,
            delimiter=layout.delimiter,
            quoting_style="all_valid" if layout.dialect(schema).quotes_all else "needed",
            null_string=layout.null,
        )
        self._header = self._pack(_header_line(schema, layout.delimiter)) if layout.header else None
        self._begun = False

    def prepare(self, batch: pa.RecordBatch) -> list[pa.Buffer]:
        """Lines of the batch, compressed; one buffer, or several where the batch is huge."""
        return [self._pack(self._encode(piece)) for piece in _pieces(batch)]

    def prepare_lines(self, lines: Lines) -> list[pa.Buffer]:
        """See `LineEncoder`."""
        return [self._pack(pa.py_buffer(lines))]

    def weigh(self, prepared: list[pa.Buffer]) -> int:
        """Exactly the bytes that `write` adds, and those of the header."""
        return sum(int(buffer.size) for buffer in prepared) + (self._header.size if self._header and not self._begun else 0)

    def write(self, file: FileWriter, prepared: list[pa.Buffer]) -> None:
        """The header, once a file, then the lines."""
        self._begin(file)
        for buffer in prepared:
            file.write(buffer)

    def settle(self, file: FileWriter) -> None:
        """Nothing is held back."""

    def close(self, file: FileWriter) -> None:
        """A file without rows is its header, or an empty compressed stream that decompresses to nothing."""
        self._begin(file)
        if file.size == 0 and self._layout.compression != "none":
            file.write(self._pack(pa.py_buffer(b"")))
        self._begun = False

    def stop(self) -> None:
        """No thread works for it."""

    def _begin(self, file: FileWriter) -> None:
        if not self._begun and self._header is not None:
            file.write(self._header)
        self._begun = True

    def _encode(self, batch: pa.RecordBatch) -> pa.Buffer:
        sink = pa.BufferOutputStream()
        try:
            csv.write_csv(batch, sink, self._options)
        except pa.ArrowException:
            raise ProcessingError("a batch could not be written as CSV") from None  # the library's text would name a value
        return sink.getvalue()

    def _pack(self, lines: pa.Buffer) -> pa.Buffer:
        name = self._layout.compression
        return lines if name == "none" else pa.Codec(name, compression_level=_LEVELS[name]).compress(lines)


def _header_line(schema: pa.Schema, delimiter: str) -> pa.Buffer:
    names = (_quoted(name, delimiter) for name in schema.names)
    return pa.py_buffer((delimiter.join(names) + "\n").encode())


def _quoted(name: str, delimiter: str) -> str:
    """A column name, quoted where RFC 4180 asks for it, or where the line would be empty without."""
    needs = name == "" or any(c in name for c in (delimiter, '"', "\r", "\n"))
    return '"' + name.replace('"', '""') + '"' if needs else name


def _pieces(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    count = batch.nbytes // _MOST_BYTES + 1
    rows = max(1, -(-batch.num_rows // count))
    return [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)]
