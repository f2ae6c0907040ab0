"""Several files held unpublished and published together, in order: one delivery."""

from __future__ import annotations

import concurrent.futures
import contextlib
from typing import TYPE_CHECKING, Self

from engine import workers
from engine.errors import FerryError, LeaseLost, OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from engine.protocols import Earlier, Exists, FileDestination, FileInfo, FileWriter, Journal
    from engine.results import LedgerState, Receipt, Verification


class NullJournal:
    """The ledger of a run that has no connector: nothing is kept (`Journal`)."""

    def record(
        self,
        path: str,
        state: LedgerState,
        *,
        leftover: str | None = None,
        receipt: Receipt | None = None,
        rows: int | None = None,
        source: FileInfo | None = None,
    ) -> None:
        """Keep nothing."""

    def earlier(self, sources: Sequence[str]) -> Mapping[tuple[str, str], Earlier]:
        """Know nothing."""
        del sources
        return {}


class Delivery:
    """Writers that wait for each other; `with` is the transaction.

    Leaving normally publishes every file in the order of opening; leaving by an exception discards every file. A failure while
    publishing discards the files that were not published yet (those before it stand, each of them whole).
    Each step is in the journal before it is taken, and a journal that refuses (`LeaseLost`) stops it.

    Attributes:
        writers: One for each file, in order.
        paths: Where they go.
        rows: How many rows each holds, as whoever writes them counts.
        delivered: Whether every file is published: a signal that came meanwhile is raised all the same, and changes nothing about it.
    """

    def __init__(self, destination: FileDestination, exists: Exists, journal: Journal, *, verify: Verification | None = None) -> None:
        self.writers: list[FileWriter] = []
        self.paths: list[str] = []
        self.rows: list[int] = []
        self.delivered = False
        self._destination = destination
        self._exists = exists
        self._verify = verify
        self._journal = journal
        self._unpublished: list[tuple[str, AbstractContextManager[FileWriter]]] = []

    def open(self, path: str) -> FileWriter:
        """Begin the next file. Blocking: call it from a worker thread."""
        self._journal.record(path, "writing")

        def begun(leftover: str) -> None:
            self._journal.record(path, "writing", leftover=leftover)

        block = self._destination.open_write(path, exists=self._exists, verify=self._verify, on_begin=begun)
        writer = block.__enter__()
        self._unpublished.append((path, block))
        self.writers.append(writer)
        self.paths.append(path)
        self.rows.append(0)
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._discard(error)
            return
        try:
            _uninterrupted(self._publish)
        except BaseException as failure:
            self._discard(failure)
            raise

    def _publish(self) -> None:
        while self._unpublished:
            number = len(self.paths) - len(self._unpublished)
            path, block = self._unpublished[0]
            self._journal.record(path, "publishing")
            self._unpublished.pop(0)
            self._leave(path, block)
            receipt = self.writers[number].receipt
            self._journal.record(path, "replaced" if receipt.replaced else "written", receipt=receipt, rows=self.rows[number])
        self.delivered = True

    def _leave(self, path: str, block: AbstractContextManager[FileWriter]) -> None:
        """Publish one; a clear refusal is noted, so that nobody takes it for an outcome that is not known."""
        remarks = len(self._destination.notes)
        try:
            block.__exit__(None, None, None)
        except OutcomeUnknown:
            self._journal.record(path, "ambiguous")
            raise
        except LeaseLost:
            raise
        except FerryError:
            if len(self._destination.notes) == remarks:  # else something may remain
                with contextlib.suppress(FerryError):
                    self._journal.record(path, "discarded")
            raise

    def _discard(self, error: BaseException) -> None:
        """Remove every file that is not published, whatever goes wrong with one of them. What is not noted is looked for later, and not found."""
        journal: Journal = self._journal
        while self._unpublished:
            path, block = self._unpublished.pop()
            remarks = len(self._destination.notes)
            with contextlib.suppress(Exception, type(error)):  # the same error comes back out of each block
                block.__exit__(type(error), error, error.__traceback__)
            if len(self._destination.notes) > remarks:
                continue  # something may remain
            try:
                journal.record(path, "discarded")
            except FerryError:
                journal = NullJournal()


def _uninterrupted(work: Callable[[], None]) -> None:
    """Run `work` to its end, then let an interrupt through: half a publication would be neither delivered nor discarded."""
    running = workers.start(work, name="ferry-publish")
    interrupt: BaseException | None = None
    while not running.done():
        try:
            concurrent.futures.wait([running], timeout=workers.POLL_SECONDS)
        except BaseException as error:  # noqa: BLE001 - whatever stops a process: Ctrl-C, SIGTERM, an orchestrator's own way
            interrupt = error
    if interrupt is not None:
        raise interrupt
    running.result()
