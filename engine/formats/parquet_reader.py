"""Parquet files as record batches: row group by row group, in pieces of bounded bytes, every logical type kept.

Small row groups are fetched as a whole, which asks a store for few ranges; of larger ones each column chunk is read through a buffer of its own.
Memory: one fetched row group, or the buffers (`BUFFERED_BYTES` together), the pages being decoded, and one batch of about `batch_bytes`.

Of what the library reads without a word but not as written, the file is refused: text that is not UTF-8, rows missing, and INT96
timestamps finer than a microsecond (read as microseconds, because in nanoseconds years beyond 2262 wrap).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from engine.errors import ProcessingError

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_BYTES = 8 << 20
FETCHED_WHOLE_BYTES = 32 << 20
BUFFERED_BYTES = 32 << 20
_FEWEST_BUFFERED, _MOST_BUFFERED = 64 << 10, 1 << 20  # bytes per column
_MOST_ROWS = 1 << 16
_FIRST_ROWS = 1 << 13  # until it is known how many bytes a row takes once it is decoded
_MAGIC, _MAGIC_ENCRYPTED = b"PAR1", b"PARE"  # https://parquet.apache.org/docs/file-format/
_SMALLEST = 12  # two magic numbers and the footer's length


class ParquetReader:
    """The rows of one file. Blocking; the file object must stay open while batches are read.

    Args:
        file: Open for reading, with `seek` and `tell`.
        where: The file, as messages name it.
        batch_bytes: Arrow bytes that a batch should have; one row may have more.

    Attributes:
        schema: What the batches have.
        rows: As the footer says; a file with fewer is refused.

    Raises:
        ProcessingError: Not a readable Parquet file. Errors that the file object itself raises pass through.

    Example:
        >>> with open("x.parquet", "rb") as file:  # doctest: +SKIP
        ...     for batch in ParquetReader(file, where="x.parquet"):
        ...         print(batch.num_rows)
    """

    def __init__(self, file: BinaryIO, *, where: str, batch_bytes: int = BATCH_BYTES) -> None:
        self._file = file
        self._where = where
        self._batch_bytes = batch_bytes
        self._check_magic()
        self._parquet = self._open()
        metadata = self._parquet.metadata
        self.rows: int = metadata.num_rows
        self.schema: pa.Schema = self._guarded(lambda: self._parquet.schema_arrow)
        self._dates = self._int96_columns()
        self._row_bytes = 0.0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches in the file's order.

        Raises:
            ProcessingError: Damaged data, or what the module's docstring lists.
        """
        seen = 0
        for group in range(self._parquet.metadata.num_row_groups):
            for batch in self._group(group):
                seen += batch.num_rows
                yield batch
        if seen != self.rows:
            raise self._broken(f"its footer announces {self.rows} rows, and {seen} are there")

    def _check_magic(self) -> None:
        """What kind of file it is, said before the library says it in its words."""
        size = self._file.seek(0, 2)
        self._file.seek(0)
        head = self._file.read(4)
        self._file.seek(max(size - 4, 0))
        tail = self._file.read(4)
        self._file.seek(0)
        if not size:
            raise self._broken("the file is empty")
        if _MAGIC_ENCRYPTED in (head, tail):
            raise self._broken("it is encrypted")
        if head != _MAGIC:
            raise self._broken("it is no Parquet file")
        if size < _SMALLEST or tail != _MAGIC:
            raise self._broken("it is cut off, or still being written: its footer is missing")

    def _open(self) -> parquet.ParquetFile:
        """The footer is read once more where column chunks are to be buffered; it is small."""
        opened = self._guarded(lambda: parquet.ParquetFile(self._file, page_checksum_verification=True, coerce_int96_timestamp_unit="us"))
        metadata = opened.metadata
        # Not the sizes of column chunks: asked for those of an encrypted column, the library ends the process.
        if max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0) <= FETCHED_WHOLE_BYTES:
            return opened
        buffer = min(max(BUFFERED_BYTES // max(metadata.num_columns, 1), _FEWEST_BUFFERED), _MOST_BUFFERED)
        return self._guarded(
            lambda: parquet.ParquetFile(
                self._file, metadata=metadata, page_checksum_verification=True, coerce_int96_timestamp_unit="us", pre_buffer=False, buffer_size=buffer
            )
        )

    def _group(self, group: int) -> Iterator[pa.RecordBatch]:
        metadata = self._parquet.metadata.row_group(group)
        encoded = metadata.total_byte_size / max(metadata.num_rows, 1)
        rows = int(self._batch_bytes / max(encoded, self._row_bytes, 1.0))
        rows = max(1, min(rows, _MOST_ROWS if self._row_bytes else _FIRST_ROWS))
        batches = self._guarded(lambda: self._parquet.iter_batches(batch_size=rows, row_groups=[group]))
        nanoseconds = self._nanoseconds(group, rows)
        while (batch := self._guarded(lambda: next(batches, None))) is not None:
            self._check_values(batch)
            if self._dates:
                self._check_dates(batch, self._guarded(lambda: next(nanoseconds)))
            self._row_bytes = max(self._row_bytes, batch.nbytes / max(batch.num_rows, 1))
            yield batch

    def _check_values(self, batch: pa.RecordBatch) -> None:
        for position, field in enumerate(batch.schema):
            try:
                batch.column(position).validate(full=True)
            except pa.ArrowInvalid:
                raise self._broken(f"column {field.name!r} holds values that are none of its type (text that is not UTF-8, or a broken list)") from None

    def _check_dates(self, batch: pa.RecordBatch, nanoseconds: pa.RecordBatch) -> None:
        for name in self._dates:
            coarse, fine = (part.column(part.schema.get_field_index(name)).cast(pa.int64()) for part in (batch, nanoseconds))
            if not pc.all(pc.equal(pc.multiply(coarse, 1000), fine), min_count=0).as_py():  # both wrap alike
                raise self._broken(f"column {name!r} holds INT96 timestamps finer than a microsecond; write them as another type")

    def _int96_columns(self) -> list[str]:
        """Columns of the old timestamp type. Inside nested values they could not be compared."""
        schema = self._parquet.schema
        paths = [schema.column(i).path for i in range(len(schema.names)) if schema.column(i).physical_type == "INT96"]
        nested = [path for path in paths if path not in self.schema.names]
        if nested:
            raise self._broken(f"column {nested[0].partition('.')[0]!r} has INT96 timestamps inside a nested type; write them as another type")
        return paths

    def _nanoseconds(self, group: int, rows: int) -> Iterator[pa.RecordBatch]:
        """The INT96 columns of a row group once more, as nanoseconds."""
        if self._dates:
            fine = self._guarded(lambda: parquet.ParquetFile(self._file, metadata=self._parquet.metadata, coerce_int96_timestamp_unit="ns"))
            yield from fine.iter_batches(batch_size=rows, row_groups=[group], columns=self._dates)

    def _guarded(self, action: Any) -> Any:
        """The library's errors in our words: theirs may hold a value."""
        try:
            return action()
        except MemoryError:
            raise self._broken("its metadata or a page announces more memory than there is") from None
        except pa.ArrowNotImplementedError:
            raise self._broken("it uses an encoding, a compression or a type that the library does not read") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            encrypted = "encrypt" in str(error) or "decrypt" in str(error)
            raise self._broken("it is encrypted" if encrypted else "its footer or its data is damaged") from None

    def _broken(self, rule: str) -> ProcessingError:
        return ProcessingError(f"{self._where}: not a Parquet file that can be read: {rule}")
