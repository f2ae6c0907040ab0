"""A reader without the ADBC driver: COPY … TO STDOUT off the socket in large pieces, by asyncpg.

Its event loop runs in the reader's own thread, and only while that waits for the server; so a consumer that is slow stops it from receiving.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import uvloop

from engine.errors import IntegrityError, SchemaMismatch
from engine.postgres import copy_connection
from engine.postgres.reader import Delivery, Ended, Reader

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from engine.postgres.copy_plan import CopyPlan
    from engine.postgres.source_options import PostgresSourceOptions

CLOSE_SECONDS = 5.0
SMALL_PIECE_BYTES = 128 << 10
NAP_SECONDS = 0.001
"""Slept, loop and all, after a small piece: the next one is larger then. A server sends 8 KiB at a time, and being woken for each costs both ends more than
the data does. Measured, 6 M rows of lineitem received and dropped: 1.1 s of CPU instead of 2.8, and 5.5 s instead of 6.3 until all was there."""
CONNECTION_LOST = "08"
"""The class of conditions that asyncpg itself raises when the connection broke."""
QUERY_CANCELED = "57014"
T = TypeVar("T")


class Collector(Protocol):
    """Pieces of one part's stream → deliveries."""

    @property
    def ended(self) -> bool:
        """Whether the stream itself says that nothing more comes; not every one does."""

    def feed(self, piece: bytes) -> Iterator[Delivery]:
        """Take the next piece; gives what is enough for one."""

    def end(self) -> Iterator[Delivery]:
        """The rest."""


class Layout(Protocol):
    """What COPY writes, and what it becomes."""

    options: Mapping[str, Any]  # of COPY, as asyncpg names them
    is_counted: bool  # whether deliveries know their rows
    nap_seconds: float  # as `NAP_SECONDS`, where TCP holds what comes meanwhile

    def collector(self) -> Collector:
        """For one part."""


class CopyReader(Reader):
    """Reads by asyncpg (`Reader`)."""

    def __init__(self, options: PostgresSourceOptions, plan: CopyPlan, layout: Layout) -> None:
        super().__init__(options, plan)
        self._way = plan.way
        self._sent = tuple(plan.sent)
        self._layout = layout
        self._lock = threading.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._unwanted = False

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._loop = self._runner.get_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # it would log the server's text, which may hold a value
        try:
            self._connection = self._run(copy_connection.connect(self._options, self._way))
        except BaseException:
            self._runner.close()
            raise
        self.connected = True
        return self

    def __exit__(self, *exception: object) -> None:
        with self._runner, contextlib.suppress(*copy_connection.ERRORS):
            self._loop.run_until_complete(self._connection.close(timeout=CLOSE_SECONDS))

    def hold(self) -> None:
        """See `Reader.hold`. COPY's bytes do not say what they mean: columns of other types would be other values, not an error."""
        prepared = self._run(self._connection.prepare(self._plan.statement(0), name=""))  # a named one would stay behind in a pooler's connection
        for column, expected, found in zip(self._plan.columns, self._sent, prepared.get_attributes(), strict=False):
            if found.type.oid != expected:
                raise SchemaMismatch(f"column {column.name!r} has another type than was announced; was the table altered meanwhile?")

    def begin(self) -> None:
        """See `Reader.begin`."""
        super().begin()
        self.hold()

    @contextlib.contextmanager
    def open(self, part: int, deadline: float | None = None) -> Iterator[Iterator[Delivery]]:
        """See `Reader.open`."""
        self._limit(deadline)
        arrived: asyncio.Queue[Delivery | str | BaseException] = asyncio.Queue(1)
        collector = self._layout.collector()
        copying = self._loop.create_task(self._copy(self._plan.statement(part), collector, arrived))
        try:
            yield self._deliveries(collector, arrived)
        finally:
            if not copying.done():
                copying.cancel()
                self._loop.run_until_complete(self._hang_up())

    def cancel(self) -> None:
        """See `Reader.cancel`."""
        with self._lock:
            if self._task is not None and not self._unwanted:
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._unwanted = True

    def _execute(self, text: str) -> None:
        self._run(self._connection.execute(text))

    def _row(self, text: str) -> tuple[str, ...]:
        return tuple(map(str, self._run(self._connection.fetchrow(text))))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the server, within reach of `cancel`."""
        with self._lock:
            self._task = task = self._loop.create_task(work)
            if self._unwanted:
                task.cancel()
        try:
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise Ended(QUERY_CANCELED) from None
        except copy_connection.ERRORS as error:
            raise _ended(error) from error
        finally:
            with self._lock:
                self._task = None

    async def _copy(self, query: str, collector: Collector, arrived: asyncio.Queue[Delivery | str | BaseException]) -> None:
        """One COPY; last comes its command tag, or the error that ended it."""
        # A Unix socket holds some 200 kB: longer naps would stop the server.
        nap_seconds = self._layout.nap_seconds if copy_connection.is_tcp(self._connection) else NAP_SECONDS

        async def take(piece: bytes) -> None:
            for delivery in collector.feed(piece):
                await arrived.put(delivery)
            if len(piece) < SMALL_PIECE_BYTES and not collector.ended:
                time.sleep(nap_seconds)  # noqa: ASYNC251 - on purpose: the loop must not be woken either

        try:
            last: str | BaseException = await self._connection.copy_from_query(query + "\n", output=take, **self._layout.options)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to whoever waits
            last = error
        await arrived.put(last)

    def _deliveries(self, collector: Collector, arrived: asyncio.Queue[Delivery | str | BaseException]) -> Iterator[Delivery]:
        rows = 0
        while not isinstance(item := self._run(arrived.get()), str):
            if isinstance(item, copy_connection.ERRORS):
                raise _ended(item) from item
            if isinstance(item, BaseException):  # of ours: the server goes on sending
                self._loop.run_until_complete(self._hang_up())
                raise item
            rows += item.rows
            yield item
        sent = int(item.rpartition(" ")[2])
        rest = list(collector.end())
        if self._layout.is_counted and rows + sum(delivery.rows for delivery in rest) != sent:
            raise IntegrityError(f"the server sent {sent:,} rows, and others came; nothing was published")
        if not self._layout.is_counted:
            self.rows += sent
        yield from rest

    async def _hang_up(self) -> None:
        """Have the server cancel, then leave: asyncpg's own close after a cancelled COPY may wait for an answer that it has stopped reading."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection._cancel(self._loop.create_future())  # noqa: SLF001 - the request alone, which has no public name
        self._connection.terminate()


def _ended(error: BaseException) -> Ended:
    """What asyncpg raised: the server's code, or that the connection broke."""
    state = getattr(error, "sqlstate", None) or ""
    return Ended(None if not state or state.startswith(CONNECTION_LOST) else state)
