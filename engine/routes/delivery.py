"""Several files held unpublished and published together, in order: one delivery."""

from __future__ import annotations

import concurrent.futures
import contextlib
from typing import TYPE_CHECKING, Self

from engine import workers
from engine.errors import FerryError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from engine.protocols import Exists, FileDestination, FileWriter, Journal
    from engine.results import LedgerState, Receipt


class NullJournal:
    """The ledger of a run that has no connector: nothing is kept (`Journal`)."""

    def record(self, path: str, state: LedgerState, *, leftover: str | None = None, receipt: Receipt | None = None, rows: int | None = None) -> None:
        """Keep nothing."""


class Delivery:
    """Writers that wait for each other; `with` is the transaction.

    Leaving normally publishes every file in the order of opening; leaving by an exception discards every file. A failure while
    publishing discards the files that were not published yet (those before it stand, each of them whole).
    Each step is in the journal before it is taken, and a journal that refuses (`LeaseLost`) stops it.
    """

    def __init__(self, destination: FileDestination, exists: Exists, journal: Journal) -> None:
        self.writers: list[FileWriter] = []
        self.paths: list[str] = []
        self._destination = destination
        self._exists = exists
        self._journal = journal
        self._unpublished: list[tuple[str, AbstractContextManager[FileWriter]]] = []

    def open(self, path: str) -> FileWriter:
        """Begin the next file. Blocking: call it from a worker thread."""
        self._journal.record(path, "writing")
        block = self._destination.open_write(path, exists=self._exists, on_begin=lambda leftover: self._journal.record(path, "writing", leftover=leftover))
        writer = block.__enter__()
        self._unpublished.append((path, block))
        self.writers.append(writer)
        self.paths.append(path)
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
            path, block = self._unpublished[0]
            self._journal.record(path, "publishing")
            self._unpublished.pop(0)
            block.__exit__(None, None, None)

    def _discard(self, error: BaseException) -> None:
        while self._unpublished:
            path, block = self._unpublished.pop()
            with contextlib.suppress(type(error)):  # the same error comes back out of each block
                block.__exit__(type(error), error, error.__traceback__)
            with contextlib.suppress(FerryError):  # what is not noted is looked for, and not found
                self._journal.record(path, "discarded")


def _uninterrupted(work: Callable[[], None]) -> None:
    """Run `work` to its end, then let an interrupt through: half a publication would be neither delivered nor discarded."""
    running = workers.start(work, name="ferry-publish")
    interrupt: BaseException | None = None
    while not running.done():
        try:
            concurrent.futures.wait([running], timeout=workers.POLL_SECONDS)
        except (KeyboardInterrupt, Interrupted) as error:
            interrupt = error
    running.result()
    if interrupt is not None:
        raise interrupt
