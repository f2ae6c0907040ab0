"""Files to files: bytes as they are, several files at once, each of them whole at its destination or not there at all.

    plan (one listing)  →  for each file:  ledger → copy, verify → ledger → publish → ledger  →  for a move: ledger → delete the source → ledger

One file's failure stops no other. The calling thread only waits, in short steps, so that an interrupt acts at once: files under way are given up,
those that are being published are published.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import random
import secrets
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from engine import workers
from engine.errors import ConfigurationError, FerryError, FileChanged, LeaseLost, OutcomeUnknown, PartlyFailed, TransferFailed, describe
from engine.protocols import SendsBody
from engine.results import DELIVERED, Progress, RunResult, printable
from engine.routes.delivery import NullJournal
from engine.routes.transfer_body import PIECE_BYTES, Rate, Watched, pieces
from engine.routes.transfer_checks import Aliases, itself, may_be_itself, refuse_folded
from engine.routes.transfer_plan import Orders, Step, Store, plan
from engine.routes.transfer_preview import preview
from engine.routes.transfer_queue import Queue
from engine.routes.unmatched import Unmatched
from engine.stops import note_partly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from engine.protocols import Exists, FileInfo, FileSource, Journal
    from engine.results import FileResult, FileState, Receipt

ATTEMPTS = 3
GIVE_UP_SECONDS = 10.0
"""How long a stopped transfer waits for files whose server does not answer; what they leave is in the ledger of a connector, and said to who runs a command."""
PAUSE_SECONDS = 0.5
"""Before the second attempt at a file; doubled for each further one, with jitter."""


def transfer(
    source: FileSource,
    destination: Store | SendsBody,
    orders: Orders,
    *,
    journal: Journal | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Move or copy files.

    Args:
        source: Where they come from.
        destination: Where they go.
        orders: Which ones, and how.
        journal: The run's ledger, which is asked before anything is published or deleted.
        on_progress: Called in the calling thread several times a second.

    Returns:
        What became of each file, in the order of their paths; `counts` is `files`.

    Raises:
        PartlyFailed: Some were not delivered; its `result` tells of all.
        ConfigurationError: Nothing was moved.
        FerryError: The listing failed, or the lease was lost: nothing more was published.

    Example:
        >>> transfer(LocalStore(FolderOptions(path="/in")), S3Store(S3Options(bucket="out")), Orders(pattern="*.csv"))  # doctest: +SKIP
    """
    started, journal = time.monotonic(), journal or NullJournal()
    steps = workers.call(lambda: plan(source, destination, orders, journal))
    moves = _Moves(source, destination, orders, journal)
    with Unmatched(source, orders.base, orders.pattern) as unmatched:
        files = workers.call(lambda: preview(steps, destination, orders)) if orders.dry_run else moves.run(steps, on_progress)
        unmatched_note = workers.call(unmatched.note)
    delivered = sum(file.bytes for file in files if file.state in DELIVERED)
    notes = (*dict.fromkeys((*source.notes, *destination.notes)), *unmatched_note)
    result = RunResult(0, delivered, time.monotonic() - started, None, tuple(files), notes, counts="files")
    if result.failed:
        raise PartlyFailed(_told(result), replace(result, status="failed"), transient=moves.may_help)
    return result


def _told(result: RunResult) -> str:
    """`3 of 5 files delivered …; failed: a.csv (why), …`."""
    named = [f"{printable(str(file.source))} ({printable(str(file.error))})" for file in result.failed[:3]]
    more = len(result.failed) - len(named)
    return f"{result.headline}: {'; '.join(named)}{f'; and {more:,} more' if more else ''}"


class _StoppedError(Exception):
    """The calling thread wants no more."""


class _Moves:
    """The files of one transfer on their way."""

    def __init__(self, source: FileSource, destination: Store | SendsBody, orders: Orders, journal: Journal) -> None:
        self.may_help = False  # whether trying again may help: a failure was transient
        self._source = source
        self._store: Store | None = None
        self._sender: SendsBody | None = None
        if isinstance(destination, SendsBody):  # asked once: it costs microseconds, and there are many files
            self._sender = destination
        else:
            self._store = destination
        self._orders = orders
        self._journal = journal
        self._aliases = Aliases(source)
        self._salt = secrets.token_hex(8) if orders.redeliver else ""
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self._bytes = 0
        self._rate = Rate(orders.bytes_per_second)

    def run(self, steps: list[Step], on_progress: Callable[[Progress], None] | None) -> list[FileResult]:
        """All of them; a result for each."""
        results = [step.result for step in steps]
        todo = [(number, step) for number, step in enumerate(steps) if step.todo != "none"]
        queue = Queue(todo, is_move=self._orders.delete_source, still_wanted=self._still_wanted)
        total_bytes = sum(step.file.size for step in steps if step.todo == "send")
        pool = ThreadPoolExecutor(self._orders.files_in_flight, thread_name_prefix="ferry-file")
        with contextlib.ExitStack() as stack:
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            working: list[Future[None]] = []
            try:
                for _ in range(min(self._orders.files_in_flight, queue.total)):
                    working.append(pool.submit(self._take_files, queue, results))  # noqa: PERF401 - those that have begun must be known when a stop comes in between
                busy = bool(working)
                while busy:
                    ended, rest = concurrent.futures.wait(working, timeout=workers.POLL_SECONDS, return_when=FIRST_EXCEPTION)
                    busy = bool(rest)
                    workers.still_wanted()
                    for one in ended:
                        one.result()
                    if on_progress is not None:
                        on_progress(Progress(0, self._bytes, queue.counts()[0], total_bytes=total_bytes, total_files=queue.total))
            except BaseException as stop:
                self._stopped.set()
                concurrent.futures.wait(working, timeout=GIVE_UP_SECONDS)
                note_partly(stop, sum(result.state in DELIVERED for result in results), not_ended=queue.counts()[1])
                raise
        return results

    # What follows runs in the threads of the pool, one file in each.

    def _take_files(self, queue: Queue, results: list[FileResult]) -> None:
        while (taken := queue.take()) is not None:
            number, step = taken
            try:
                results[number] = self._work(step)
            finally:
                queue.end(number)

    def _work(self, step: Step) -> FileResult:
        try:
            with workers.watching(self._still_wanted):  # for what a store does without passing bytes through here: reading back
                result = self._deliver(step)
        except (_StoppedError, LeaseLost):
            raise
        except FileChanged as changed:
            return replace(step.result, state="left", error=f"{changed}; the next run takes it")
        except OutcomeUnknown as unknown:
            return self._failed(step, unknown, "ambiguous")
        except Exception as error:  # noqa: BLE001 - the next file may be sound
            return self._failed(step, error, "failed")
        if self._orders.delete_source and result.state in DELIVERED:
            if self._store is not None and result.verified == "accepted":  # only of an endpoint is its word enough (specification 6.5)
                return replace(result, error="delivered, but its source is kept: the destination cannot tell what it holds")
            return self._remove_source(step, result)
        return result

    def _failed(self, step: Step, error: Exception, state: FileState) -> FileResult:
        self.may_help = self.may_help or (isinstance(error, FerryError) and error.transient)
        return replace(step.result, state=state, error=describe(error))

    def _deliver(self, step: Step) -> FileResult:
        """The file at its destination; what may pass is tried again."""
        if step.todo == "remove":
            return self._found(step)
        if step.todo == "compare" and self._stands_already(step):
            self._journal.record(step.target, "written", source=step.file)
            return replace(step.result, state="written", verified="read-back")
        is_doubtful = step.todo == "send" and self._orders.delete_source and self._orders.exists == "replace"
        attempts = 1 if self._sender is not None else ATTEMPTS  # a body is sent again by the destination itself
        for attempt in range(1, attempts + 1):
            self._still_wanted()
            try:
                if is_doubtful and self._store is not None and may_be_itself(self._source, self._store, step) and self._stands_already(step):
                    raise itself(step)
                is_doubtful = False  # what stands there from now on may be ours
                return self._attempt(step)
            except (FileChanged, OutcomeUnknown, LeaseLost):
                raise
            except FerryError as error:
                if not error.transient or attempt == attempts:
                    raise
            self._pause(PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        raise AssertionError  # the loop returns or raises

    def _attempt(self, step: Step) -> FileResult:
        if self._sender is not None:
            receipt = replace(self._send(step, self._sender), replaced=bool(step.standing))
        elif self._orders.exists == "skip" and self._stands(step):
            return replace(step.result, state="skipped")
        else:
            try:
                receipt = self._copy(step)
            except ConfigurationError:
                if self._orders.exists == "skip" and self._destination.stat(step.target) is not None:  # another writer was faster
                    return replace(step.result, state="skipped")
                raise
        state: FileState = "replaced" if receipt.replaced else "written"
        result = replace(step.result, bytes=receipt.bytes, sha256=receipt.sha256, state=state, verified=receipt.verified, reported=receipt.reported)
        try:
            self._journal.record(step.target, "replaced" if receipt.replaced else "written", receipt=receipt, source=step.file)
        except LeaseLost:
            raise
        except FerryError as error:  # it is delivered, and must not be sent again for want of a note
            return replace(result, error=f"delivered, but not noted: {error}")
        return result

    @property
    def _destination(self) -> Store:
        assert self._store is not None  # noqa: S101 - asked before
        return self._store

    def _stands(self, step: Step) -> bool:
        return self._destination.stat(step.target) is not None if step.standing is None else step.standing

    def _copy(self, step: Step) -> Receipt:
        destination = self._destination
        if step.is_alike:
            refuse_folded(destination, self._orders.target, step)
        exists: Exists = "replace" if self._orders.exists == "replace" else "fail"

        began = ""

        def begun(leftover: str) -> None:
            nonlocal began
            began = leftover
            self._journal.record(step.target, "writing", leftover=leftover, source=step.file)

        more: Any = {"verify": self._orders.verify, "standing": step.standing}
        with (
            self._noting_failure(step, destination.notes),
            destination.open_write(step.target, size=step.file.size, exists=exists, on_begin=begun, **more) as writer,
        ):
            may_copy = self._orders.bytes_per_second is None or not destination.has_folders  # a rate is kept by what passes through here
            copy_from = getattr(writer, "copy_from", None)  # CopiesWithin: asking by isinstance takes 12 µs in Python 3.11
            if not (may_copy and copy_from is not None and copy_from(self._source, step.file, self._copied)):
                with self._reading(step.file) as body:
                    for data in pieces(body, step.file.size):
                        writer.write(data)
            writer.finish()
            if destination.has_folders:  # what it began is a temporary file then
                self._aliases.refuse(step, began)
            self._still_wanted()
            self._journal.record(step.target, "publishing", source=step.file)
        return writer.receipt

    @contextlib.contextmanager
    def _noting_failure(self, step: Step, notes: list[str]) -> Iterator[None]:
        """What the ledger is told of a delivery that does not end well; nothing where something may remain, so that it is looked for later."""
        remarks = len(notes)
        try:
            yield
        except OutcomeUnknown:
            self._journal.record(step.target, "ambiguous", source=step.file)
            raise
        except LeaseLost:
            raise
        except BaseException:
            if len(notes) == remarks:
                with contextlib.suppress(FerryError):
                    self._journal.record(step.target, "discarded", source=step.file)
            raise

    def _send(self, step: Step, destination: SendsBody) -> Receipt:
        """A file as the body of a request; a kill before the last bytes go out has delivered nothing."""

        def committing() -> None:
            self._still_wanted()
            self._journal.record(step.target, "publishing", source=step.file)

        self._journal.record(step.target, "writing", source=step.file)
        with self._noting_failure(step, destination.notes):
            reading = cast("Callable[[], AbstractContextManager[BinaryIO]]", lambda: self._reading(step.file))
            return destination.send(step.target, reading, step.file.size, key=self._key(step), on_commit=committing, pause=self._pause)

    def _key(self, step: Step) -> str:
        """Tells one delivery from the next: the same bytes under the same name are another one when they were put there anew, or are redelivered."""
        file = step.file
        put_there = int(file.modified.timestamp()) if file.modified else ""  # a HEAD tells whole seconds, a listing more
        told = (step.result.source, file.version, step.result.path, put_there, self._salt)
        return hashlib.sha256("\0".join(map(str, told)).encode()).hexdigest()[:32]

    @contextlib.contextmanager
    def _reading(self, file: FileInfo) -> Iterator[Watched]:
        with self._source.open_read(file) as body:
            yield Watched(body, self._passing)

    def _passing(self, count: int) -> None:
        """Bytes on their way."""
        self._still_wanted()
        self._rate.wait_for(count, self._stopped)
        self._count(count)

    def _copied(self, count: int) -> None:
        """Bytes that are copied without passing through here."""
        self._still_wanted()
        self._count(count)

    def _count(self, count: int) -> None:
        with self._counting:
            self._bytes += count

    def _still_wanted(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError

    def _pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self._still_wanted()

    def _stands_already(self, step: Step) -> bool:
        """Whether an earlier run, which cannot say so, delivered this very file."""
        destination = self._destination
        standing = destination.stat(step.target)
        if standing is None or standing.size != step.file.size:
            return False
        with self._source.open_read(step.file) as mine, destination.open_read(standing) as theirs:
            return self._hash(mine) == self._hash(theirs)

    def _hash(self, body: BinaryIO) -> bytes:
        digest = hashlib.sha256()
        while data := body.read(PIECE_BYTES):
            self._still_wanted()
            digest.update(data)
        return digest.digest()

    def _found(self, step: Step) -> FileResult:
        """An earlier run delivered the file and did not come to delete its source: what stands there is compared with it first."""
        if self._store is not None and not self._stands_already(step):
            gone = "does not stand there any more, or has other bytes"
            raise TransferFailed(f"an earlier run delivered it to {step.result.path}, and it {gone}: its source is kept (--redeliver sends it again)")
        return replace(step.result, state="written", bytes=step.file.size)

    def _remove_source(self, step: Step, result: FileResult) -> FileResult:
        try:
            self._still_wanted()
            self._journal.record(step.target, "removing source", source=step.file)
            self._source.delete(step.file)
            self._journal.record(step.target, "moved", source=step.file)
        except (_StoppedError, LeaseLost):
            raise
        except FileChanged as changed:
            return replace(result, error=f"delivered, but {changed}; the source is kept, and the next run takes it")
        except FerryError as error:
            self.may_help = self.may_help or error.transient
            return replace(result, error=f"delivered, but its source is kept: {error}")
        return replace(result, source_deleted=True)
