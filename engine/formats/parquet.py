"""Parquet: row groups closed by rows or by bytes, whichever comes first, and types that a load can restore.

The writer keeps one row group of Arrow batches, encodes it in one go and forgets it; batches that are larger than a row group are cut.
Memory: one row group as Arrow, and once more while it is being encoded.

How it is encoded was chosen by measurement: 2 M rows of TPC-H lineitem in row groups of 150,000, zstd, one thread (pyarrow 26):

| settings, each with those above it | s | MB |
|---|---|---|
| pyarrow's defaults, zstd level 3 | 1.39 | 58.3 |
| dictionaries only where values repeat | 1.03 | 50.0 |
| decimals of up to 18 digits as integers | 0.96 | 50.1 |
| zstd level 1 (-1 is 4 % faster, and its files 7 % larger) | 0.85 | 50.8 |

Without statistics the third took 0.86 s; they stay, since readers skip row groups by them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from engine.errors import ConfigurationError, ProcessingError

if TYPE_CHECKING:
    from engine.protocols import FileWriter, Form

COMPRESSIONS = ("zstd", "snappy", "gzip", "lz4", "brotli", "none")
ROW_GROUP_ROWS = 1 << 20
ROW_GROUP_BYTES = 24 << 20
_LEVELS = {"zstd": 1, "gzip": 6, "brotli": 4}
_SAMPLE_ROWS, _SAMPLE_BYTES = 20_000, 4 << 20
_REPEATING = 0.2
"""Distinct values in a sample, as a part of its rows, up to which a dictionary is tried."""


class ParquetFormat:
    """The layout of one export (`Format`).

    Args:
        compression: One of `COMPRESSIONS`.
        row_group_bytes: Arrow bytes after which a row group closes.
        row_group_rows: Rows after which a row group closes.
    """

    suffix = ".parquet"
    form: Form = "typed"

    def __init__(self, *, compression: str = "zstd", row_group_bytes: int = ROW_GROUP_BYTES, row_group_rows: int = ROW_GROUP_ROWS) -> None:
        if compression not in COMPRESSIONS:
            raise ConfigurationError(f"'compression': Parquet knows {', '.join(COMPRESSIONS)}, not {compression!r}")
        self.compression = compression
        self.row_group_bytes = row_group_bytes
        self.row_group_rows = row_group_rows

    def encoder(self, schema: pa.Schema) -> ParquetEncoder:
        """An encoder for this schema.

        Raises:
            ConfigurationError: Two columns of one name: readers would find only one of them.
        """
        for position, name in enumerate(schema.names):
            first = schema.names.index(name)
            if first != position:
                raise ConfigurationError(f"columns {first + 1} and {position + 1} are both named {name!r}, which Parquet does not hold; rename one with AS")
        return ParquetEncoder(self, schema)


class ParquetEncoder:
    """Batches into row groups (`Encoder`)."""

    def __init__(self, layout: ParquetFormat, schema: pa.Schema) -> None:
        self.pending = 0
        self._layout = layout
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._dictionaries: list[str] | None = None
        self._writer: parquet.ParquetWriter | None = None

    def prepare(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """The batch in pieces that fit a row group."""
        size = max(batch.nbytes, 1)
        by_bytes = int(batch.num_rows * self._layout.row_group_bytes / size)
        rows = max(1, min(by_bytes, self._layout.row_group_rows))
        return [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)]

    def weigh(self, prepared: list[pa.RecordBatch]) -> int:
        """Arrow bytes: encoded they are hardly ever more."""
        return sum(piece.nbytes for piece in prepared)

    def write(self, file: FileWriter, prepared: list[pa.RecordBatch]) -> None:
        """Collect; a full row group is encoded and written."""
        for piece in prepared:
            if self._waiting and self._would_overflow(piece):
                self._flush(file)
            self._waiting.append(piece)
            self._waiting_rows += piece.num_rows
            self.pending += piece.nbytes

    def close(self, file: FileWriter) -> None:
        """The last row group and the footer."""
        self._flush(file)
        self._open(file).close()
        self._writer = None

    def _would_overflow(self, piece: pa.RecordBatch) -> bool:
        rows, size = self._waiting_rows + int(piece.num_rows), self.pending + int(piece.nbytes)
        return rows > self._layout.row_group_rows or size > self._layout.row_group_bytes

    def _flush(self, file: FileWriter) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_rows, self.pending = [], 0, 0
        if self._dictionaries is None:
            self._dictionaries = _repeating(table.slice(0, min(_SAMPLE_ROWS, int(table.num_rows * _SAMPLE_BYTES / max(table.nbytes, 1)))))
        try:
            self._open(file).write_table(table, row_group_size=self._layout.row_group_rows)
        except pa.ArrowException:
            raise ProcessingError("a row group could not be written as Parquet") from None  # the library's text could name a value

    def _open(self, file: FileWriter) -> parquet.ParquetWriter:
        if self._writer is None:
            name = self._layout.compression
            self._writer = parquet.ParquetWriter(
                _Sink(file),
                self._schema,
                compression=name,
                compression_level=_LEVELS.get(name),
                use_dictionary=self._dictionaries or False,
                store_decimal_as_integer=True,
                version="2.6",
                store_schema=True,
            )
        return self._writer


def _repeating(sample: pa.Table) -> list[str]:
    """The columns of Parquet that have few values, of which a dictionary makes less; elsewhere it only costs: built, found too large and dropped."""
    leaves = (_leaf(name, column.combine_chunks()) for name, column in zip(sample.column_names, sample.columns, strict=True))
    return [path for path, values in leaves if pc.count_distinct(values).as_py() <= _REPEATING * len(values)]


def _leaf(path: str, values: pa.Array) -> tuple[str, pa.Array]:
    """A column's values, and what Parquet calls them."""
    if isinstance(values, pa.ExtensionArray):
        return _leaf(path, values.storage)
    if pa.types.is_list(values.type):
        return _leaf(f"{path}.list.element", values.flatten())
    return path, values


class _Sink(io.RawIOBase):
    """What the library needs of a file: write and tell, forward only."""

    def __init__(self, file: FileWriter) -> None:
        self._file = file
        self._start = file.size

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.size - self._start
