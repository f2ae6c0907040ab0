"""PostgreSQL as a source of rows: one query, one snapshot, one ordered stream of record batches.

A thread of its own reads the driver's COPY stream, others convert batches by the type rules, and the caller gets them in order.
Memory: one batch in the driver's hands, `READ_AHEAD` waiting, one with the caller; a batch is what the server sends in about `BATCH_BYTES`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import adbc_driver_manager as adbc
import adbc_driver_postgresql
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import _reader  # the public reader reports errors without their SQLSTATE

from engine import workers
from engine.errors import FerryError, ProcessingError, SchemaMismatch, UnrepresentableValue
from engine.libpq import connect, connection_failed, is_encrypted, query_failed
from engine.postgres import plan as planning
from engine.postgres.convert import Unfit
from engine.postgres.plan import Plan, begin
from engine.results import RowsDescription

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import psycopg

    from engine.postgres.source_options import PostgresSourceOptions
    from engine.protocols import Form

BATCH_BYTES = 4 << 20
READ_AHEAD = 2
CONVERTERS = 2
CLEANUP_SECONDS = 10.0


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
        """Check and describe the query, then stream its rows from one `REPEATABLE READ READ ONLY` transaction.

        Raises:
            ConfigurationError: The query may not run, or asks for what cannot be.
            ConnectionFailed: The server was not reached.
            QueryFailed: The server ended the query.
            UnrepresentableValue: A value does not fit its Arrow type (`typed` form).
        """
        plan, notes = workers.call(lambda: self._plan(form))
        with self._stream(plan, notes) as stream:
            yield stream

    def _stream(self, plan: Plan, notes: list[str]) -> Stream:
        return Stream(self._options, plan, notes)

    def describe(self, form: Form = "typed") -> RowsDescription:
        """See `RowSource.describe`."""
        plan, notes = workers.call(lambda: self._plan(form))
        return RowsDescription(self._options.where, tuple(f"{c.name} {c.declared}" for c in plan.columns), plan.estimated_rows, tuple(notes))

    def _plan(self, form: Form) -> tuple[Plan, list[str]]:
        options = self._options
        with connect(options) as connection:
            notes = [] if is_encrypted(connection) else [f"the connection to PostgreSQL at {options.where} is not encrypted (see sslmode, require_tls)"]
            plan = self._planned(connection, form)
        if form == "typed":
            notes += planning.text_notes(plan, options.policy)
        return plan, notes

    def _planned(self, connection: psycopg.Connection[Any], form: Form) -> Plan:
        return planning.plan(connection, form, self._options)


class Stream:
    """Rows on their way (`RowStream`): a reading thread, a bounded queue, and the reader that empties it."""

    def __init__(self, options: PostgresSourceOptions, plan: Plan, notes: list[str]) -> None:
        self.notes = notes
        self.estimated_rows = plan.estimated_rows
        self.reader = pa.RecordBatchReader.from_batches(plan.schema, self._receive())
        self._options = options
        self._plan = plan
        self._rows = 0
        self._batches: queue.Queue[Future[pa.RecordBatch] | None] = queue.Queue(READ_AHEAD)
        self._opened: Future[None] = Future()
        self._stop = threading.Event()
        self._statement: adbc.AdbcStatement | None = None
        self._statement_lock = threading.Lock()
        self._converters = ThreadPoolExecutor(CONVERTERS, thread_name_prefix="ferry-convert")

    def __enter__(self) -> Self:
        self._thread = workers.start(self._read, name="ferry-read")
        try:
            workers.wait(self._opened)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        """End the query if it still runs: cancelled, not drained, because draining waits for all its rows."""
        self._stop.set()
        for _ in range(int(CLEANUP_SECONDS / workers.POLL_SECONDS)):
            if self._thread.done():
                break
            workers.start(self._cancel, name="ferry-cancel")
            with contextlib.suppress(TimeoutError):
                self._thread.exception(timeout=workers.POLL_SECONDS)
        self._converters.shutdown(wait=False, cancel_futures=True)

    def _cancel(self) -> None:
        with self._statement_lock, contextlib.suppress(adbc.Error):
            if self._statement is not None:
                self._statement.cancel()

    def _receive(self) -> Iterator[pa.RecordBatch]:
        """Converted batches in order, cut to `batch_size` rows."""
        for batch in self._arrivals():
            most = self._options.batch_size or max(1, batch.num_rows)
            for start in range(0, batch.num_rows, most):
                yield batch.slice(start, most)

    def _arrivals(self) -> Iterator[Any]:
        """What the reading thread has put into the queue, in order."""
        while True:
            workers.still_wanted()
            try:
                pending = self._batches.get(timeout=workers.POLL_SECONDS)
            except queue.Empty:
                continue
            if pending is None:
                return
            yield workers.wait(pending)

    # What follows runs in the reading thread.

    def _read(self) -> None:
        try:
            self._read_all()
            self._put(None)
        except adbc.Error as error:
            self._fail(query_failed(self._options, error.sqlstate or None, rows=self._rows), error)
        except FerryError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(ProcessingError(f"reading from PostgreSQL at {self._options.where} failed after {self._rows:,} rows"), error)
            raise

    def _fail(self, error: FerryError, behind: BaseException | None = None) -> None:
        """Hand the error to the waiting thread; what is behind it gives a log its frames, as if it were raised `from None`."""
        if behind is not None:
            error.__context__, error.__suppress_context__ = behind, True
        if not self._opened.done():
            self._opened.set_exception(error)
            return
        failed: Future[pa.RecordBatch] = Future()
        failed.set_exception(error)
        self._put(failed)

    def _put(self, item: Future[pa.RecordBatch] | None) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._batches.put(item, timeout=workers.POLL_SECONDS)
                return

    def _read_all(self) -> None:
        with self._connection() as connection:
            _execute(connection, begin(self._options))
            with self._open_statement(connection) as statement:
                statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
                statement.set_sql_query(self._plan.statement + "\n")
                self._opened.set_result(None)  # the schema is known; execute_query returns with the first row, which may take hours
                handle, _ = statement.execute_query()
                with _reader.AdbcRecordBatchReader._import_from_c(handle.address) as reader:  # noqa: SLF001 - the way its own dbapi takes
                    self._check_schema(reader.schema)
                    self._forward(reader)
            _execute(connection, "COMMIT")  # only a server that is still there answers: the stream was whole

    def _forward(self, reader: _reader.AdbcRecordBatchReader) -> None:
        for batch in reader:
            if self._stop.is_set():
                return
            self._put(self._converters.submit(self._convert, batch, self._rows))
            self._rows += batch.num_rows

    @contextlib.contextmanager
    def _connection(self) -> Iterator[adbc.AdbcConnection]:
        library = adbc_driver_postgresql._driver_path()  # noqa: SLF001 - the package has no public name for it below its dbapi, which imports pandas
        try:
            database = adbc.AdbcDatabase(driver=library, uri=self._options.conninfo())
        except adbc.Error as error:
            raise connection_failed(self._options, str(error)) from None
        with database:
            try:
                connection = adbc.AdbcConnection(database)
            except adbc.Error as error:
                raise connection_failed(self._options, str(error)) from None
            with connection:
                yield connection

    @contextlib.contextmanager
    def _open_statement(self, connection: adbc.AdbcConnection) -> Iterator[adbc.AdbcStatement]:
        """The streaming statement, known to `_cancel` while it is open."""
        statement = adbc.AdbcStatement(connection)
        self._statement = statement
        try:
            yield statement
        finally:
            with self._statement_lock:
                self._statement = None
                statement.close()

    def _check_schema(self, delivered: pa.Schema) -> None:
        """Columns that no conversion would look at must already have the announced type, even if no row comes."""
        for column, rule, field in zip(self._plan.columns, self._plan.rules, delivered, strict=False):
            if rule.convert is None and field.type != rule.arrow:
                raise self._mismatch(column.name, field.type, rule.arrow)

    # What follows runs in any thread.

    def _mismatch(self, name: str, delivered: pa.DataType, announced: pa.DataType) -> SchemaMismatch:
        return SchemaMismatch(f"column {name!r} arrived as {delivered}, not as the {announced} that was announced; was the table altered meanwhile?")

    def _convert(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        """Apply the rules; `first_row` is the number of rows before this batch."""
        columns = [batch.column(i) for i in range(batch.num_columns)]
        shown = len(self._plan.columns)
        for position, wrong in zip(self._plan.shape_checks, columns[shown:], strict=True):
            if pc.any(wrong).as_py():
                self._refuse(position, first_row + pc.index(wrong, value=True).as_py(), "more than one dimension, or a lower bound other than 1")
        fields = self._plan.schema
        return pa.RecordBatch.from_arrays([self._convert_column(i, columns[i], first_row) for i in range(shown)], schema=fields)

    def _convert_column(self, position: int, array: pa.Array, first_row: int) -> pa.Array:
        rule, name = self._plan.rules[position], self._plan.columns[position].name
        if rule.convert is not None:
            try:
                array = rule.convert(array)
            except Unfit as unfit:
                self._refuse(position, first_row + unfit.index, unfit.why)
        if array.type != rule.arrow:
            raise self._mismatch(name, array.type, rule.arrow)
        return array

    def _refuse(self, position: int, row: int, why: str) -> None:
        name = self._plan.columns[position].name
        raise UnrepresentableValue(
            f"column {name!r} ({self._plan.columns[position].declared}), row {row + 1:,}: {why}; "
            f"write the column as text with --unrepresentable {name}=text, or choose CSV"
        )


def _execute(connection: adbc.AdbcConnection, text: str) -> None:
    with adbc.AdbcStatement(connection) as statement:
        statement.set_sql_query(text)
        statement.execute_update()
