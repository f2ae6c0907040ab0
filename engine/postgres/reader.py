"""One reader: a connection that reads one statement after another in one transaction, through ADBC's COPY stream.

The driver is kept in autocommit, where it adds no BEGIN of its own. Every method blocks, and is called in the reader's own thread, but for `cancel`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import adbc_driver_manager as adbc
import adbc_driver_postgresql
from adbc_driver_manager import _reader  # the public reader reports errors without their SQLSTATE

from engine.libpq import connection_failed
from engine.postgres.plan import begin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.postgres.source_options import PostgresSourceOptions

BATCH_BYTES = 4 << 20
LOCK_SECONDS = 1
# Behind a pooler a session may keep what another client has set: what decides the meaning of a query or the text of a value is taken from the leader.
_SHARED = """
SELECT pg_catalog.pg_export_snapshot(), string_agg(format('pg_catalog.set_config(%L, %L, true)', name, setting), ', ')
FROM pg_catalog.pg_settings WHERE name IN (
    'search_path', 'TimeZone', 'DateStyle', 'lc_monetary', 'lc_numeric', 'lc_time', 'default_text_search_config', 'standard_conforming_strings',
    'backslash_quote', 'transform_null_equals', 'array_nulls', 'xmlbinary', 'xmloption'
)"""


@dataclass(frozen=True, slots=True)
class Shared:
    """What a transaction is joined by: the name of its snapshot, and calls of `set_config` that make its settings another one's."""

    snapshot: str
    settings: str


class Reader:
    """A connection for reading.

    Attributes:
        rows: Rows received so far.
        connected: Whether a connection stands, so that `cancel` can reach what runs.

    Example:
        >>> with Reader(options) as reader:  # doctest: +SKIP
        ...     reader.begin()
        ...     with reader.open("SELECT 1") as batches:
        ...         rows = sum(batch.num_rows for batch in batches)
        ...     reader.commit()
    """

    def __init__(self, options: PostgresSourceOptions) -> None:
        self.rows = 0
        self.connected = False
        self._options = options
        self._handles = contextlib.ExitStack()
        self._statement: adbc.AdbcStatement | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        library = adbc_driver_postgresql._driver_path()  # noqa: SLF001 - the package has no public name for it below its dbapi, which imports pandas
        try:
            database = self._handles.enter_context(adbc.AdbcDatabase(driver=library, uri=self._options.conninfo()))
            self._connection = self._handles.enter_context(adbc.AdbcConnection(database))
        except adbc.Error as error:
            self._handles.close()
            raise connection_failed(self._options, str(error)) from None
        self.connected = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._handles.close()

    def begin(self, *, in_ranges: bool = False) -> None:
        """Open the transaction."""
        self._execute(begin(self._options, in_ranges=in_ranges))

    def export(self) -> Shared:
        """What others join this transaction by, until it ends.

        Raises:
            adbc.Error: The server does not give it; the transaction is spoilt then.
        """
        with self._running(_SHARED) as batches:
            row = batches.read_all()
            return Shared(str(row[0][0]), str(row[1][0]))

    def join(self, shared: Shared, statement: str) -> None:
        """Open the transaction on another one's snapshot, with its settings, and hold the table too.

        The other one holds it already and will wait for our rows: were we to wait behind an ALTER TABLE that waits for it, none would move again.

        Raises:
            adbc.Error: Another server is at the other end (a pooler between?), or somebody waits for the table.
        """
        self._execute(begin(self._options, in_ranges=True, snapshot=shared.snapshot))
        with self._running(f"SELECT {shared.settings}") as batches:
            batches.read_all()
        self._execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        self.hold(statement)
        self._execute("SET LOCAL lock_timeout TO DEFAULT")

    def hold(self, text: str) -> None:
        """Have a statement parsed: that locks its table against being altered until the transaction ends."""
        with self._open() as statement:
            statement.set_sql_query(text + "\n")
            statement.execute_schema()

    @contextlib.contextmanager
    def open(self, statement: str, deadline: float | None = None) -> Iterator[_reader.AdbcRecordBatchReader]:
        """The rows of a statement, as the driver delivers them; a batch is what the server sends in about `BATCH_BYTES`.

        Args:
            statement: One query.
            deadline: When, on the monotonic clock, the server shall end it.

        Raises:
            adbc.Error: While it is read, too.
        """
        if deadline is not None:
            self._execute(f"SET LOCAL statement_timeout = {max(1, int((deadline - time.monotonic()) * 1000))}")
        with self._running(statement) as batches:
            yield batches

    def commit(self) -> None:
        """End the transaction. Only a server that is still there answers: the stream was whole."""
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Give the transaction up."""
        self._execute("ROLLBACK")

    def cancel(self) -> None:
        """End what runs, from any thread."""
        with self._lock, contextlib.suppress(adbc.Error):
            if self._statement is not None:
                self._statement.cancel()

    @contextlib.contextmanager
    def _running(self, text: str) -> Iterator[_reader.AdbcRecordBatchReader]:
        """Returns with the first row, which may take hours."""
        with self._open() as statement:
            statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            statement.set_sql_query(text + "\n")
            handle, _ = statement.execute_query()
            with _reader.AdbcRecordBatchReader._import_from_c(handle.address) as batches:  # noqa: SLF001 - the way its own dbapi takes
                yield batches

    def _execute(self, text: str) -> None:
        with self._open() as statement:
            statement.set_sql_query(text)
            statement.execute_update()

    @contextlib.contextmanager
    def _open(self) -> Iterator[adbc.AdbcStatement]:
        """A fresh statement (its options stick), known to `cancel` while it is open."""
        statement = adbc.AdbcStatement(self._connection)
        self._statement = statement
        try:
            yield statement
        finally:
            with self._lock:
                self._statement = None
                statement.close()
