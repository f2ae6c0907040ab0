"""One connection that rows are loaded through: its statements, its small answers, its COPY of record batches, all in one transaction, cancelled from outside.

ADBC takes the batches, so everything else of the transaction goes through its connection too: the table's DDL, the ledger, dlt's bookkeeping.
The driver is kept in autocommit, where it adds no BEGIN of its own.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

import adbc_driver_manager as adbc
import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import _reader  # as in source.py: the public reader reports errors without their SQLSTATE
from psycopg import sql

from engine import workers
from engine.errors import FerryError, IntegrityError
from engine.libpq import connection_failed
from engine.postgres.load_errors import load_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from engine.libpq import PostgresOptions

CLEANUP_SECONDS = 10.0
ELSEWHERE_SECONDS = 0.4
T = TypeVar("T")


class _Unwanted(Exception):  # noqa: N818 - an end, not an error
    """Ends a COPY that nobody waits for: the driver would send the remaining batches to a server that has given up."""


class Session:
    """A connection for one load. Answers are fetched within a transaction: the driver prepares them first, and a pooler may change servers in between.

    Every method but `call` blocks: call them within `call`, or in a worker thread.

    Example:
        >>> with Session(options, "loading into public.visits") as session:  # doctest: +SKIP
        ...     session.call(lambda: session.fetch("SELECT 1"))
        [(1,)]
    """

    def __init__(self, options: PostgresOptions, what: str) -> None:
        """`what` is being done, for messages: `loading into public.visits`."""
        self._options = options
        self.what = what
        self._stop = threading.Event()
        self._left = threading.Event()
        self._sent = 0
        self._elsewhere = True  # whether the worker is in nobody's reach: connecting, or within the reader of batches
        self._lock = threading.Lock()
        self._statement: adbc.AdbcStatement | None = None
        self._pending: Future[Any] | None = None
        self._handles = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._connection = self.call(self._connect)
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the connection, and with it end a transaction that was not committed."""
        if self._pending is None or self._pending.done() or (not self._left.is_set() and self._end(self._pending)):
            self._handles.close()

    def call(self, work: Callable[[], T]) -> T:
        """Run blocking `work` in a worker thread; whoever stops waiting cancels the statement that runs, and ends the session."""
        future = workers.start(lambda: self._run(work), name="ferry-load")
        self._pending = future
        try:
            return workers.wait(future)
        except BaseException:
            self._end(future)
            raise

    def _run(self, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            if self._left.is_set():  # nobody waits for this thread any more: it closes up behind itself
                self._handles.close()

    def settle(self) -> bool:
        """End what still runs for somebody who has gone; whether the session can be used further."""
        if self._pending is not None and not self._pending.done() and not self._left.is_set():
            self._end(self._pending)
        return not self._stop.is_set()

    def begin(self) -> None:
        """Open the transaction, with the settings that shape how text is read, for it alone (CONFIGURATION: "PostgreSQL session")."""
        settings = {"DateStyle": "ISO", "IntervalStyle": "postgres", "idle_in_transaction_session_timeout": "0"}
        if self._options.statement_timeout is not None:
            settings["statement_timeout"] = str(int(self._options.statement_timeout * 1000))
        lines = [f"SET LOCAL {name} = {literal(value)}" for name, value in settings.items()]
        self.execute("; ".join(["BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE", *lines]))

    def commit(self) -> None:
        """Make everything since `begin` stand."""
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        self.execute("ROLLBACK")

    def execute(self, text: str) -> None:
        """Run statements that return no rows."""
        with self._translated(), self._open() as statement:
            statement.set_sql_query(text)
            statement.execute_update()

    def fetch(self, text: str) -> list[tuple[Any, ...]]:
        """The rows that one statement returns; few."""
        with self._translated(), self._open() as statement:
            statement.set_sql_query(text + "\n")
            handle, _ = statement.execute_query()
            with _reader.AdbcRecordBatchReader._import_from_c(handle.address) as reader:  # noqa: SLF001 - the way its own dbapi takes
                return [row for batch in reader for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]

    def ingest(self, reader: pa.RecordBatchReader, table: str, schema: str | None) -> int:
        """COPY every batch into a table that has these columns, which the driver matches by name and whose types must fit exactly; returns the rows.

        Args:
            reader: What is sent. An exception of its own comes out as it is.
            table: The table's name.
            schema: Its schema; None: a temporary table.
        """
        raised: list[BaseException] = []
        self._sent = 0
        watched = pa.RecordBatchReader.from_batches(reader.schema, self._watched(reader, raised))
        target = {"adbc.ingest.temporary": "true"} if schema is None else {"adbc.ingest.target_db_schema": schema}
        try:
            with self._translated(), self._open() as statement:
                statement.set_options(**{"adbc.ingest.target_table": table, "adbc.ingest.mode": "adbc.ingest.mode.append", **target})
                statement.bind_stream(watched)
                taken = int(statement.execute_update())
        except FerryError:
            if raised:
                raise raised[0] from None
            raise
        if taken != self._sent:
            raise IntegrityError(f"{self.what}: {self._sent:,} rows were sent and {taken:,} taken; nothing of it was committed")
        return taken

    def _watched(self, reader: pa.RecordBatchReader, raised: list[BaseException]) -> Iterator[pa.RecordBatch]:
        """The reader's batches, until nobody wants them; an exception is kept, since the driver would make text of it."""
        try:
            for batch in self._read(reader):
                self._still_wanted()
                self._sent += batch.num_rows
                yield batch
        except GeneratorExit:  # the driver lets go of the stream: its own error tells why
            raise
        except BaseException as error:
            raised.append(error)
            raise

    def _read(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            self._elsewhere = True
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            finally:
                self._elsewhere = False
            yield batch

    def _still_wanted(self) -> None:
        if self._stop.is_set():
            raise _Unwanted

    def _connect(self) -> adbc.AdbcConnection:
        library = adbc_driver_postgresql._driver_path()  # noqa: SLF001 - the package has no public name for it below its dbapi, which imports pandas
        try:
            database = self._handles.enter_context(adbc.AdbcDatabase(driver=library, uri=self._options.conninfo()))
            connection: adbc.AdbcConnection = self._handles.enter_context(adbc.AdbcConnection(database))
        except adbc.Error as error:
            raise connection_failed(self._options, str(error)) from None
        self._elsewhere = False
        return connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except adbc.Error as error:
            raise load_failed(self._options, error, self.what) from None

    @contextlib.contextmanager
    def _open(self) -> Iterator[adbc.AdbcStatement]:
        """A fresh statement (its options stick), known to `_cancel` while it is open."""
        with adbc.AdbcStatement(self._connection) as statement:
            self._statement = statement
            try:
                yield statement
            finally:
                with self._lock:
                    self._statement = None

    def _end(self, future: Future[Any]) -> bool:
        """Cancel until the worker has come back; False: it has not, and closes the connection when it does.

        A worker that connects, or waits for the next batch, is not within reach of a cancellation: nobody waits long for it.
        """
        if future.done():
            return True
        self._stop.set()
        for i in range(int(CLEANUP_SECONDS / workers.POLL_SECONDS)):
            if self._elsewhere and i * workers.POLL_SECONDS >= ELSEWHERE_SECONDS:
                break
            workers.start(self._cancel, name="ferry-cancel")
            with contextlib.suppress(TimeoutError):
                future.exception(timeout=workers.POLL_SECONDS)
                return True
        self._left.set()
        return future.done()

    def _cancel(self) -> None:
        with self._lock, contextlib.suppress(adbc.Error):
            if self._statement is not None:
                self._statement.cancel()


def literal(value: object) -> str:
    """A value as SQL text. Parameters would go through the driver's other path, which knows fewer types."""
    return sql.Literal(value).as_string(None)


def identifier(*names: str) -> str:
    """A quoted, perhaps qualified name."""
    return sql.Identifier(*names).as_string(None)
