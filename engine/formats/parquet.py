"""Parquet: row groups closed by rows or by bytes, whichever comes first, and types that a load can restore.

Batches are kept until they are a row group; larger ones are cut. Row groups are encoded side by side, each into a file of its own in memory, and joined in
order: byte for byte what one writer makes of them (`parquet_footer.py`). So a file does not wait for one core.
Memory: one row group as Arrow, and `ENCODERS` more while they are being encoded.

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
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from engine import stages
from engine.errors import ConfigurationError, ProcessingError
from engine.formats import parquet_footer

if TYPE_CHECKING:
    from engine.protocols import FileWriter, Form

COMPRESSIONS = ("zstd", "snappy", "gzip", "lz4", "brotli", "none")
ROW_GROUP_ROWS = 1 << 20
ROW_GROUP_BYTES = 24 << 20
ENCODERS = 2
WRITTEN_AT_ONCE = 1 << 20
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
        self._layout = layout
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._dictionaries: list[str] | None = None
        self._meter = stages.current()
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="ferry-encode")
        self._encoding: deque[tuple[Future[_Memory], int, int]] = deque()  # with its rows and Arrow bytes
        self._spare: list[_Memory] = []
        self._footer: parquet_footer.Footer | None = None  # of the current file
        self._start = 0  # where that begins

    @property
    def pending(self) -> int:
        """Arrow bytes: encoded they are hardly ever more."""
        return self._waiting_bytes + sum(size for _, _, size in self._encoding)

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
        """Collect; a full row group is encoded, and written when it is its turn."""
        for piece in prepared:
            if self._waiting and self._would_overflow(piece):
                self._encode()
            self._waiting.append(piece)
            self._waiting_rows += piece.num_rows
            self._waiting_bytes += piece.nbytes
            while len(self._encoding) >= ENCODERS:
                self._write_oldest(file)

    def settle(self, file: FileWriter) -> None:
        """Write the row groups that are full."""
        while self._encoding:
            self._write_oldest(file)

    def close(self, file: FileWriter) -> None:
        """The last row group and the footer."""
        if self._waiting:
            self._encode()
        self.settle(file)
        file.write(self._begun(file).end())
        self._footer = None

    def stop(self) -> None:
        """Nothing more is encoded."""
        self._encoders.shutdown(wait=True, cancel_futures=True)

    def _would_overflow(self, piece: pa.RecordBatch) -> bool:
        rows, size = self._waiting_rows + int(piece.num_rows), self._waiting_bytes + int(piece.nbytes)
        return rows > self._layout.row_group_rows or size > self._layout.row_group_bytes

    def _encode(self) -> None:
        """Have what waits encoded, as one row group."""
        table, rows, size = pa.Table.from_batches(self._waiting, self._schema), self._waiting_rows, self._waiting_bytes
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        if self._dictionaries is None:
            self._dictionaries = _repeating(table.slice(0, min(_SAMPLE_ROWS, int(table.num_rows * _SAMPLE_BYTES / max(table.nbytes, 1)))))
        self._encoding.append((self._encoders.submit(self._meter.run, "encoding", self._encoded, table), rows, size))

    def _encoded(self, table: pa.Table | None) -> _Memory:
        """A file of these rows, in one row group; of none, without row groups."""
        name = self._layout.compression
        try:
            made = self._spare.pop()
        except IndexError:
            made = _Memory()
        made.restart()
        try:
            with parquet.ParquetWriter(
                made,
                self._schema,
                compression=name,
                compression_level=_LEVELS.get(name),
                use_dictionary=self._dictionaries or False,
                store_decimal_as_integer=True,
                version="2.6",
                store_schema=True,
            ) as writer:
                if table is not None:
                    writer.write_table(table, row_group_size=table.num_rows)
        except pa.ArrowException:
            raise ProcessingError("a row group could not be written as Parquet") from None  # the library's text could name a value
        return made

    def _write_oldest(self, file: FileWriter) -> None:
        encoding, rows, _ = self._encoding.popleft()
        before = self._meter.switch(None)  # an encoder's time, not this thread's
        encoded = encoding.result()
        self._meter.switch(before)
        footer = self._begun(file)
        with footer.add(encoded.content, file.size - self._start, rows) as body:
            for at in range(0, len(body), WRITTEN_AT_ONCE):
                file.write(body[at : at + WRITTEN_AT_ONCE])
        self._spare.append(encoded)

    def _begun(self, file: FileWriter) -> parquet_footer.Footer:
        """The current file's footer; what stands before the rows is written first."""
        if self._footer is None:
            empty = self._encoded(None)
            self._footer, self._start = parquet_footer.Footer(empty.content), file.size
            self._spare.append(empty)
            file.write(parquet_footer.MAGIC)
        return self._footer


def _repeating(sample: pa.Table) -> list[str]:
    """The columns of Parquet that have few values, of which a dictionary makes less; elsewhere it only costs: built, found too large and dropped."""
    import pyarrow.compute as pc  # 28 ms, in which the server could send already

    leaves = (_leaf(name, column.combine_chunks()) for name, column in zip(sample.column_names, sample.columns, strict=True))
    return [path for path, values in leaves if pc.count_distinct(values).as_py() <= _REPEATING * len(values)]


def _leaf(path: str, values: pa.Array) -> tuple[str, pa.Array]:
    """A column's values, and what Parquet calls them."""
    if isinstance(values, pa.ExtensionArray):
        return _leaf(path, values.storage)
    if pa.types.is_list(values.type):
        return _leaf(f"{path}.list.element", values.flatten())
    return path, values


class _Memory(io.RawIOBase):
    """A file in memory that is kept for the next row group: 6 M rows of lineitem made 40,000 page faults instead of 113,000, and took 0.3 s of CPU less."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._size = 0

    @property
    def content(self) -> memoryview:
        return memoryview(self._held)[: self._size]

    def writable(self) -> bool:
        return True

    def restart(self) -> None:
        """Forget what was written."""
        self._size = 0

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        end = self._size + len(data)
        self._held[self._size : end] = data
        self._size = end
        return len(data)

    def close(self) -> None:
        """It stays open: the library closes what it has written."""
