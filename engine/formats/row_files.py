"""CSV and Parquet files of a store as rows: one shape for both, so that whoever loads them needs to know neither."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from engine.errors import ConfigurationError, FerryError
from engine.formats.csv_reader import CsvInput, CsvReader
from engine.formats.parquet_reader import ParquetReader
from engine.load_protocols import BatchBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.load_protocols import RowBlock, RowFile
    from engine.protocols import FileInfo, FileSource

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
WINDOW_BYTES = 4 << 20


class CsvFiles:
    """Files of text, whose columns have no types yet (`RowFormat`); compressed if their suffix says so (`.gz`, `.zst`).

    Args:
        delimiter: See `CsvInput`, as all of these.
        null: The bare text that means NULL.
        encoding: Of the files.
        names: Of the columns, where the files have no header.
    """

    is_text = True

    def __init__(self, *, delimiter: str = ",", null: str = "", encoding: str = "utf-8", names: tuple[str, ...] = ()) -> None:
        self._names = names
        self._common = {"delimiter": delimiter, "null": null, "encoding": encoding}
        self._dialect("any.csv")  # refuses at once what cannot be

    @contextlib.contextmanager
    def open(self, source: FileSource, file: FileInfo) -> Iterator[RowFile]:
        """The file's rows; errors name the file."""
        with contextlib.ExitStack() as reading, _naming(source.url(file.path)):
            counted = _Counted(reading.enter_context(source.open_read(file)))
            yield _CsvFile(CsvReader(cast("BinaryIO", counted), self._dialect(file.path)), counted, source.url(file.path), reading)

    def _dialect(self, path: str) -> CsvInput:
        by_suffix = next((kind for suffix, kind in COMPRESSED.items() if path.lower().endswith(suffix)), "none")
        return CsvInput(header=not self._names, columns=self._names, compression=by_suffix, **self._common)


class ParquetFiles:
    """Files whose columns have types (`RowFormat`)."""

    is_text = False

    @contextlib.contextmanager
    def open(self, source: FileSource, file: FileInfo) -> Iterator[RowFile]:
        """The file's rows; errors name the file."""
        ranges = _Ranges(source, file)
        body = io.BufferedReader(ranges, WINDOW_BYTES)
        yield _ParquetFile(ParquetReader(cast("BinaryIO", body), where=source.url(file.path)), ranges)


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """The readers name line and rule; which file it was is said here."""
    try:
        yield
    except FerryError as error:
        if where not in str(error):
            error.args = (f"{where}: {error}",)
        raise


class _CsvFile:
    unit = "line"

    def __init__(self, reader: CsvReader, body: _Counted, where: str, reading: contextlib.ExitStack) -> None:
        self.schema = pa.schema([(name, pa.string()) for name in reader.names])
        self._reader = reader
        self._body = body
        self._where = where
        self._reading = reading

    @property
    def bytes_read(self) -> int:
        return self._body.count

    def __iter__(self) -> Iterator[RowBlock]:
        with _naming(self._where):
            yield from self._reader
            self._reading.close()  # where the store sees that the file has changed meanwhile: before anybody commits its rows


class _ParquetFile:
    unit = "row"

    def __init__(self, reader: ParquetReader, body: _Ranges) -> None:
        self.schema = reader.schema
        self._reader = reader
        self._body = body

    @property
    def bytes_read(self) -> int:
        return self._body.furthest

    def __iter__(self) -> Iterator[RowBlock]:
        first = 1
        for batch in self._reader:
            yield BatchBlock(batch, first)
            first += batch.num_rows


class _Counted:
    """A body that knows how much of it was read."""

    def __init__(self, body: BinaryIO) -> None:
        self.count = 0
        self._body = body

    def read(self, size: int = -1) -> bytes:
        data = self._body.read(size)
        self.count += len(data)
        return data


class _Ranges(io.RawIOBase):
    """A store's file with `seek`: each read is a range of exactly the version that was listed."""

    def __init__(self, source: FileSource, file: FileInfo) -> None:
        super().__init__()
        self._source = source
        self._file = file
        self._at = 0
        self.furthest = 0  # but for the footer, which is read first

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # any writable buffer
        wanted = max(0, min(len(buffer), self._file.size - self._at))
        if wanted == 0:
            return 0
        with self._source.open_read(self._file, self._at, wanted) as body:
            data = body.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        if self._at < self._file.size:
            self.furthest = max(self.furthest, self._at)
        return len(data)


def format_of(path: str) -> str:
    """`csv` or `parquet`, by the suffix.

    Raises:
        ConfigurationError: The suffix says nothing.

    Example:
        >>> format_of("2024/labs.csv.gz"), format_of("x.parquet")
        ('csv', 'parquet')
    """
    name = path.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    for known in ("csv", "parquet"):
        if name.endswith(f".{known}"):
            return known
    raise ConfigurationError(f"{path!r}: the suffix names no format; say --format csv or --format parquet ('format' in a connector)")
