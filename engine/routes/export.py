"""Rows to files: query → record batches → format → bytes → store.

    source's threads        preparing threads          one writing thread            the store's threads
    read and convert   →    encode, compress      →    write in order, rotate   →    upload parts

The calling thread only passes batches on and waits, in short steps, so that an interrupt acts at once. At most `IN_FLIGHT` batches, or
`IN_FLIGHT_BYTES` of smaller ones, are between source and store. Nothing stands at a final name before the source has ended well and the counts agree.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from engine import paths, stages, workers
from engine.errors import ConfigurationError, IntegrityError, ProcessingError
from engine.protocols import EncodesItself, FileDestination, FileSource, TakesLines
from engine.results import FileResult, Progress, RunResult
from engine.routes.delivery import Delivery, NullJournal
from engine.stops import note_delivered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import pyarrow as pa

    from engine.protocols import EncodedStream, Encoder, Exists, FileWriter, Format, Journal, LineEncoder, Lines, RowSource, RowStream
    from engine.results import FileState, Receipt, Verification

PREPARERS = 2
IN_FLIGHT = 3
IN_FLIGHT_BYTES = 6 << 20
T = TypeVar("T")


class Store(FileSource, FileDestination, Protocol):
    """Where exports go: they also look for, and clear away, chunks of an earlier delivery."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows go and how they are cut into files.

    Attributes:
        path: The file's path below the store's root; with a limit, `x.csv` becomes `x-00001.csv` and so on.
        suffix: The part of the path that the number goes in front of: `.csv.gz`.
        max_file_rows: Rows after which another file is begun.
        max_file_bytes: Bytes that no file exceeds, unless one row alone does.
        exists: What to do when a file stands there already.
        verify: The least level of verification; None: what costs no second read.
    """

    path: str
    suffix: str
    max_file_rows: int | None = None
    max_file_bytes: int | None = None
    exists: Exists = "replace"
    verify: Verification | None = None

    @property
    def chunked(self) -> bool:
        """Whether names carry a number."""
        return bool(self.max_file_rows or self.max_file_bytes)

    def name(self, number: int) -> str:
        """The path of the file with this number, counted from 1."""
        stem = self.path.removesuffix(self.suffix)
        return f"{stem}-{number:05d}{self.suffix}" if self.chunked else self.path


def export(
    source: RowSource,
    layout: Format,
    store: Store,
    target: Target,
    *,
    journal: Journal | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Stream the source's rows into one file, or into numbered files, and publish them together.

    Args:
        source: Where rows come from; opened here.
        layout: The format of the files.
        store: Where files go.
        target: Path, limits and what to do when something stands there.
        journal: The run's ledger, which is asked before anything is published or deleted.
        on_progress: Called in the calling thread after each batch.

    Returns:
        Rows, bytes and files as delivered; one file of state `skipped` when `exists="skip"` found the target standing.

    Raises:
        FerryError: Nothing was published, or (a failure while publishing several files) only files that are whole.
        BaseException: A signal; where it came while everything was being published, `engine.stops.delivered` tells the result.
    """
    with stages.measuring() as meter:
        return _export(source, layout, store, target, journal or NullJournal(), on_progress, meter)


def _export(
    source: RowSource, layout: Format, store: Store, target: Target, journal: Journal, on_progress: Callable[[Progress], None] | None, meter: stages.Meter
) -> RunResult:
    started = time.monotonic()
    standing = workers.call(lambda: store.stat(target.name(1))) if target.exists != "replace" else None
    if standing is not None:
        url = store.url(target.name(1))
        if target.exists == "fail":
            raise ConfigurationError(f"{url} exists already (--if-exists fail); choose another name, or --if-exists replace or skip")
        skipped = FileResult(path=url, bytes=standing.size, rows=None, sha256=None, state="skipped")
        return RunResult(0, 0, time.monotonic() - started, None, (skipped,), (f"{url} exists already and was left as it is (--if-exists skip)",))
    delivery = Delivery(store, target.exists, journal, verify=target.verify)
    stop: BaseException | None = None
    try:
        with delivery, _Lane(delivery, layout, target, meter) as lane:
            if isinstance(source, EncodesItself) and isinstance(layout, TakesLines) and not target.chunked:
                with source.read_encoded(layout.dialect) as lines:
                    _pass_lines(lines, lane, delivery, on_progress)
                    schema, came = lines.schema, lines.notes
            else:
                with source.read(layout.form) as stream:
                    _pass_on(stream, lane, delivery, on_progress)
                    schema, came = stream.reader.schema, stream.notes
            meter.switch("publishing")  # this thread publishes from here on
    except BaseException as stopped:
        if not delivery.delivered:
            raise
        stop = stopped  # a signal while files were being published: what it stopped was delivered
    meter.switch(None)
    removed = _remove_later_chunks(store, target, len(delivery.paths), journal)
    files = tuple(_file_result(store, path, writer, rows) for path, writer, rows in zip(delivery.paths, delivery.writers, delivery.rows, strict=True))
    notes = (*came, *store.notes, *removed)
    result = RunResult(lane.rows_in, sum(f.bytes for f in files), time.monotonic() - started, schema, files, notes, stages=meter.total())
    if stop is not None:
        note_delivered(stop, result)
        raise stop
    return result


def _pass_on(stream: RowStream, lane: _Lane, delivery: Delivery, on_progress: Callable[[Progress], None] | None) -> None:
    """All batches from the source to the files, counted."""
    lane.begin(stream.reader.schema)
    for batch in stream.reader:
        lane.push(batch)
        if on_progress is not None:
            on_progress(Progress(lane.rows_in, lane.bytes, len(delivery.writers), stream.estimated_rows))
    lane.end()
    if lane.rows_in != sum(delivery.rows):
        raise IntegrityError(f"{lane.rows_in:,} rows were read, but {sum(delivery.rows):,} written; nothing was published")


def _pass_lines(stream: EncodedStream, lane: _Lane, delivery: Delivery, on_progress: Callable[[Progress], None] | None) -> None:
    """All pieces that the source has written itself into the one file; the source counts the rows."""
    lane.begin(stream.schema)
    for piece in stream.pieces:
        lane.push_lines(piece)
        if on_progress is not None:
            on_progress(Progress(stream.lines, lane.bytes, len(delivery.writers), stream.estimated_rows))
    lane.end()
    if stream.rows is None:
        raise IntegrityError("the source did not say how many rows it sent; nothing was published")
    lane.rows_in = delivery.rows[-1] = stream.rows


def _file_result(store: Store, path: str, writer: FileWriter, rows: int) -> FileResult:
    receipt = writer.receipt
    state: FileState = "replaced" if receipt.replaced else "written"
    return FileResult(store.url(path), receipt.bytes, rows, receipt.sha256, state, receipt.verified, receipt.reported)


class _Lane:
    """The ordered way of batches into files."""

    def __init__(self, delivery: Delivery, layout: Format, target: Target, meter: stages.Meter) -> None:
        self.rows_in = 0
        self._meter = meter
        self._delivery = delivery
        self._layout = layout
        self._target = target
        self._file: FileWriter | None = None
        self._encoder: Encoder
        self._stack = contextlib.ExitStack()
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="ferry-prepare")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ferry-write", initializer=partial(meter.switch, "waiting_for_batches"))
        self._in_flight: deque[tuple[Future[None], int]] = deque()
        self._in_flight_bytes = 0
        self._stopped = threading.Event()

    @property
    def bytes(self) -> int:
        """Bytes handed to the store so far."""
        return sum(writer.size for writer in self._delivery.writers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave no thread that could still touch a file: what has not begun is dropped, what runs is waited for, reading back ends at once."""
        if error is not None:
            self._stopped.set()
        self._preparers.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    def begin(self, schema: pa.Schema) -> None:
        """Open the first file before any row is asked for: an absent bucket should show at once, and no rows still make a file."""
        self._encoder = self._layout.encoder(schema)
        self._stack.callback(self._encoder.stop)
        workers.wait(self._writer.submit(self._open_next))

    def push(self, batch: pa.RecordBatch) -> None:
        """Hand on a batch; waits while too many are on their way."""
        for part, begins_file in self._cut(batch):
            self._pass(self._prepared(self._encoder.prepare, part), part.nbytes, part.num_rows, begins_file)
            self.rows_in += part.num_rows

    def push_lines(self, lines: Lines) -> None:
        """Hand on lines that are encoded already, of rows that nobody counts here."""
        self._pass(self._prepared(cast("LineEncoder", self._encoder).prepare_lines, lines), len(lines), 0, begins_file=False)

    def _prepared(self, prepare: Callable[[T], Any], part: T) -> Future[Any]:
        return self._preparers.submit(self._meter.run, "encoding", prepare, part)

    def _pass(self, prepared: Future[object], size: int, rows: int, begins_file: bool) -> None:  # noqa: FBT001 - private
        self._in_flight.append((self._writer.submit(self._write, prepared, rows, begins_file), size))
        self._in_flight_bytes += size
        while len(self._in_flight) > IN_FLIGHT and self._in_flight_bytes > IN_FLIGHT_BYTES:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        written, size = self._in_flight.popleft()
        workers.wait(written)
        self._in_flight_bytes -= size

    def end(self) -> None:
        """Wait for every batch, then finish the last file."""
        while self._in_flight:
            self._wait_for_oldest()
        workers.wait(self._writer.submit(self._finish))

    def _cut(self, batch: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, bool]]:
        """The batch in pieces that fit the files, each with whether it begins a new one."""
        limit = self._target.max_file_rows
        most = self._piece_rows(batch)
        start = 0
        while start < batch.num_rows:
            used = self.rows_in % limit if limit else 0
            length = min(batch.num_rows - start, most, limit - used if limit else most)
            yield batch.slice(start, length), bool(limit and used == 0 and self.rows_in)
            start += length

    def _piece_rows(self, batch: pa.RecordBatch) -> int:
        """Rows in a piece: small against the byte limit of files, where there is one."""
        limit = self._target.max_file_bytes
        if not limit:
            return max(int(batch.num_rows), 1)
        pieces_in_file = 16
        return max(1, int(batch.num_rows * limit / pieces_in_file / max(batch.nbytes, 1)))

    # What follows runs in the writing thread.

    def _open_next(self) -> FileWriter:
        with self._meter.busy("writing"):
            self._file = _Measured(self._delivery.open(self._target.name(len(self._delivery.paths) + 1)), self._meter)
        return self._file

    def _write(self, preparing: Future[object], rows: int, begins_file: bool) -> None:  # noqa: FBT001 - private, one caller
        prepared = preparing.result()
        file = self._file or self._open_next()
        if begins_file or self._is_full(file, prepared):
            self._finish()
            file = self._open_next()
        with self._meter.busy("encoding"):
            self._encoder.write(file, prepared)
        self._delivery.rows[-1] += rows

    def _is_full(self, file: FileWriter, prepared: object) -> bool:
        """Whether this could make the file longer than it may be; what is being encoded is written first if that is in doubt."""
        limit = self._target.max_file_bytes
        if not limit or not self._delivery.rows[-1]:
            return False
        more = self._encoder.weigh(prepared)
        if file.size + self._encoder.pending + more > limit:
            with self._meter.busy("encoding"):
                self._encoder.settle(file)
        return file.size + self._encoder.pending + more > limit

    def _finish(self) -> None:
        if self._file is not None:
            with self._meter.busy("encoding"):
                self._encoder.close(self._file)
            with workers.watching(self._still_wanted):
                self._file.finish()
            self._file = None

    def _still_wanted(self) -> None:
        if self._stopped.is_set():
            raise ProcessingError("the run was stopped")


class _Measured:
    """A file that an encoder writes to, whose own time is apart from the encoder's (`FileWriter`)."""

    def __init__(self, file: FileWriter, meter: stages.Meter) -> None:
        self._file = file
        self._meter = meter

    @property
    def size(self) -> int:
        return self._file.size

    def write(self, data: bytes | memoryview | pa.Buffer) -> int:
        with self._meter.busy("writing"):
            return self._file.write(data)

    def finish(self) -> None:
        with self._meter.busy("writing"):
            self._file.finish()

    @property
    def receipt(self) -> Receipt:
        return self._file.receipt


def _remove_later_chunks(store: Store, target: Target, last: int, journal: Journal) -> tuple[str, ...]:
    """Chunks of an earlier, longer delivery would be read as part of this one."""
    if not target.chunked or target.exists != "replace":
        return ()
    stem = target.path.removesuffix(target.suffix)
    numbered = re.compile(re.escape(stem) + r"-(\d{5,})" + re.escape(target.suffix))
    pattern = f"{paths.escaped(stem)}-*{paths.escaped(target.suffix)}"

    def remove() -> tuple[str, ...]:
        late = [f for f in store.list(pattern) if (match := numbered.fullmatch(f.path)) and int(match[1]) > last]
        for file in late:
            journal.record(file.path, "deleting")
            store.delete(file)
            journal.record(file.path, "deleted")
        return tuple(f"removed {store.url(file.path)}, left from a longer delivery" for file in late)

    return workers.call(remove)
