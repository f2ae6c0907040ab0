"""PostgreSQL as a source of rows: one query, one snapshot, one ordered stream of record batches.

A reader has a thread and a connection. One of them, the leader, opens the transaction; where the query can be cut into page ranges, more readers
join its snapshot and all take ranges in turn. A turnstile keeps the order. Batches are converted by the type rules in the readers' threads, those
of a single reader in others.

Memory: for each reader one batch in the driver's hands (about `BATCH_BYTES` as sent), `READ_AHEAD` waiting, one with the caller, and
`BUDGET_BYTES` of what readers bring ahead of their turn.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from engine import memory, stages, workers
from engine.errors import ConnectionFailed, FerryError, ProcessingError
from engine.libpq import connect, is_encrypted, query_failed
from engine.postgres import batches, splitting
from engine.postgres import plan as planning
from engine.postgres.reader import AdbcReader, Ended
from engine.postgres.turnstile import Turnstile
from engine.results import RowsDescription

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import psycopg

    from engine.postgres.plan import Plan
    from engine.postgres.reader import Delivery, Reader, Shared
    from engine.postgres.source_options import PostgresSourceOptions
    from engine.protocols import Form

READ_AHEAD = 2
BUDGET_BYTES = 32 << 20
CONVERTERS = 2
CLEANUP_SECONDS = 10.0
LOCK_NOT_AVAILABLE = "55P03"


class PostgresSource:
    """The rows of one query (`RowSource`).

    Example:
        >>> source = PostgresSource(PostgresSourceOptions(query="SELECT 1 AS one", host="localhost"))  # doctest: +SKIP
        >>> with source.read() as stream:  # doctest: +SKIP
        ...     table = stream.reader.read_all()
    """

    def __init__(self, options: PostgresSourceOptions) -> None:
        self._options = options

    @contextlib.contextmanager
    def read(self, form: Form = "typed") -> Iterator[Stream]:
        """Check and describe the query, then stream its rows from one snapshot, in `REPEATABLE READ READ ONLY` transactions.

        Raises:
            ConfigurationError: The query may not run, or asks for what cannot be.
            ConnectionFailed: The server was not reached.
            QueryFailed: The server ended the query.
            UnrepresentableValue: A value does not fit its Arrow type (`typed` form).
        """
        with stages.current().busy("planning"):
            plan, readers, notes = workers.call(lambda: self._plan(form))
        with self._stream(plan, readers, notes) as stream:
            yield stream

    def _stream(self, plan: Plan, readers: int, notes: list[str]) -> Stream:
        return Stream(self._options, plan, readers, notes)

    def describe(self, form: Form = "typed") -> RowsDescription:
        """See `RowSource.describe`."""
        plan, _, notes = workers.call(lambda: self._plan(form))
        return RowsDescription(self._options.where, tuple(f"{c.name} {c.declared}" for c in plan.columns), plan.schema, plan.estimated_rows, tuple(notes))

    def _plan(self, form: Form) -> tuple[Plan, int, list[str]]:
        options = self._options
        with connect(options) as connection:
            notes = [] if is_encrypted(connection) else [f"the connection to PostgreSQL at {options.where} is not encrypted (see sslmode, require_tls)"]
            plan = self._planned(connection, form)
            readers, reasons = splitting.readers(connection, options.readers, plan.split)
        if form == "typed":
            notes += planning.text_notes(plan, options.policy)
        return plan, readers, notes + reasons

    def _planned(self, connection: psycopg.Connection[Any], form: Form) -> Plan:
        return planning.plan(connection, form, self._options)


class Stream:
    """Rows on their way (`RowStream`): readers in threads, the turnstile between, and the Arrow reader that empties it."""

    budget = BUDGET_BYTES
    ahead = READ_AHEAD

    def __init__(self, options: PostgresSourceOptions, plan: Plan, readers: int, notes: list[str]) -> None:
        memory.settle()
        self._meter = stages.current()
        self.notes = notes
        self.estimated_rows = plan.estimated_rows
        self.reader = pa.RecordBatchReader.from_batches(plan.schema, self._receive())
        self._options = options
        self._plan = plan
        self._readers = [self._reader() for _ in range(readers)]
        self._threads: list[Future[None]] = []
        self._turns = Turnstile[Future[Any]](plan.parts, budget=self.budget, ahead=self.ahead)
        self._opened: Future[None] = Future()
        self._converters = ThreadPoolExecutor(CONVERTERS, thread_name_prefix="ferry-convert")
        self._deadline: float | None = None

    def _reader(self) -> Reader:
        return AdbcReader(self._options, self._plan)

    def __enter__(self) -> Self:
        self._start(partial(self._lead, self._readers[0]))
        try:
            workers.wait(self._opened)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(workers.start(lambda: self._watched(work), name="ferry-read"))

    def _close(self) -> None:
        """End the statements that still run: cancelled, not drained, because draining waits for all their rows. One that still connects ends by itself."""
        self._turns.close()
        for _ in range(int(CLEANUP_SECONDS / workers.POLL_SECONDS)):
            running = [(reader, thread) for reader, thread in zip(self._readers, list(self._threads), strict=False) if reader.connected and not thread.done()]
            if not running:
                break
            for reader, _ in running:
                workers.start(reader.cancel, name="ferry-cancel")
            wait([thread for _, thread in running], timeout=workers.POLL_SECONDS)
        self._converters.shutdown(wait=False, cancel_futures=True)

    def _receive(self) -> Iterator[pa.RecordBatch]:
        """Converted batches in order, cut to `batch_size` rows."""
        rows = 0
        for pending in self._arrivals():
            try:
                batch = workers.wait(pending)
            except batches.UnfitRow as unfit:
                raise unfit.refusal(rows) from None
            rows += batch.num_rows
            most = self._options.batch_size or max(1, batch.num_rows)
            for start in range(0, batch.num_rows, most):
                yield batch.slice(start, most)

    def _arrivals(self) -> Iterator[Future[Any]]:
        """What the readers bring, in order."""
        while True:
            workers.still_wanted()
            try:
                pending = self._turns.get(workers.POLL_SECONDS)
            except TimeoutError:
                if self._turns.closed:  # whoever reads in another thread must not take this for the end of the rows
                    raise ProcessingError("the rows were asked for after their stream was left") from None
                continue
            if pending is None:
                return
            yield pending

    # What follows runs in the readers' threads.

    def _watched(self, work: Callable[[], None]) -> None:
        """Run it, and have the stream end with its error, if there is one."""
        try:
            self._meter.run("reading", work)
        except Ended as error:
            self._fail(query_failed(self._options, error.sqlstate, rows=self._rows()), error)
        except FerryError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(ProcessingError(f"reading from PostgreSQL at {self._options.where} failed after {self._rows():,} rows"), error)
            raise

    def _fail(self, error: FerryError, behind: BaseException | None = None) -> None:
        """Hand the error to the waiting thread; what is behind it gives a log its frames, as if it were raised `from None`."""
        if behind is not None:
            error.__context__, error.__suppress_context__ = behind, True
        if self._opened.done():
            self._turns.fail(error)
        else:
            self._opened.set_exception(error)

    def _rows(self) -> int:
        return sum(reader.rows for reader in self._readers)

    def _lead(self, reader: Reader) -> None:
        """Open the transaction, let others join its snapshot, and read like them: the server ends an idle one, and a snapshot with it."""
        with reader:
            shared = self._begin(reader)
            if self._plan.ranges is not None and self._options.statement_timeout:
                self._deadline = time.monotonic() + self._options.statement_timeout
            self._opened.set_result(None)  # the schema is known; the first row may take hours
            for other in self._readers[1:]:
                if shared is not None:
                    self._start(partial(self._follow, other, shared))
            self._take_turns(reader)

    def _begin(self, reader: Reader) -> Shared | None:
        """What others join by; None where nobody else is needed, or can join."""
        reader.begin()
        if len(self._readers) == 1:
            return None
        try:
            shared = reader.export()
        except Ended as error:
            if not error.sqlstate:
                raise
            self.notes.append(f"read by one reader: the server shares no snapshot (SQLSTATE {error.sqlstate})")
            reader.rollback()
            reader.begin()
            return None
        reader.hold()
        return shared

    def _follow(self, reader: Reader, shared: Shared) -> None:
        """Help the leader, or let it be: as long as nothing was taken, nothing is lost."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(reader)
                reader.join(shared)
            except (Ended, ConnectionFailed) as error:
                self._missed(error)
                return
            self._take_turns(reader)

    def _missed(self, error: Ended | ConnectionFailed) -> None:
        if self._turns.exhausted:
            return  # it came too late, or nobody wants it: not worth a word
        if isinstance(error, ConnectionFailed):
            why = str(error)
        elif error.sqlstate == LOCK_NOT_AVAILABLE:
            why = "another session waits for the table"
        else:
            why = f"the leading reader's snapshot is not known at the other end of its connection; is a pooler between? (SQLSTATE {error.sqlstate or 'none'})"
        self.notes.append(f"one reader of {len(self._readers)} could not take part: {why}")

    def _take_turns(self, reader: Reader) -> None:
        """Read as long as turns are left. The last one ends with the commit, which only a server that is still there answers: what came was whole."""
        turn = self._turns.take()
        while turn is not None:
            self._read(reader, turn)
            ended, turn = turn, self._turns.take()
            if turn is None:
                reader.commit()
            self._turns.end(ended)

    def _read(self, reader: Reader, turn: int) -> None:
        with reader.open(turn, self._deadline) as deliveries:
            for delivery in deliveries:
                reader.rows += delivery.rows
                if self._turns.closed or not self._brought(turn, delivery):
                    return

    def _brought(self, turn: int, delivery: Delivery) -> bool:
        """Whether anybody wants it."""
        converted = self._converted(delivery.convert)
        with self._meter.busy("waiting_for_room"):
            return self._turns.put(turn, converted, delivery.size)

    def _converted(self, convert: Callable[[], Any]) -> Future[Any]:
        """By several readers: here and now, while the rows are in this core's cache; by one: elsewhere, since it has the next ones to receive."""
        if len(self._readers) == 1:
            return self._converters.submit(self._meter.run, "converting", convert)
        done: Future[Any] = Future()
        try:
            done.set_result(self._meter.run("converting", convert))
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to whoever takes the batch, in its turn
            done.set_exception(error)
        return done
