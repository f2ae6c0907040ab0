"""One reader: a connection that reads one statement after another in one transaction.

`Reader` is what readers have in common, `AdbcReader` reads through ADBC's COPY stream; `copy_reader.py` has another one. Every method blocks, and is
called in the reader's own thread, but for `cancel`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable  # noqa: TC003 - read at run time by dataclass
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import adbc_driver_manager as adbc
import adbc_driver_postgresql
from adbc_driver_manager import _reader  # the public reader reports errors without their SQLSTATE

from engine.libpq import connection_failed
from engine.postgres import batches
from engine.postgres.plan import begin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from engine.postgres.plan import Plan
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


class Ended(Exception):  # noqa: N818 - turned into one of our errors by whoever knows how many rows came before
    """The server ended a statement, or the connection broke.

    Attributes:
        sqlstate: The server's code; None when the connection broke.
    """

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class Delivery:
    """Rows as they came, and what makes of them what the stream hands on.

    Attributes:
        rows: How many.
        size: Bytes that they take.
        convert: The heavy half, for any thread.
    """

    rows: int
    size: int
    convert: Callable[[], Any]


class Reader(ABC):
    """A connection for reading the parts of a plan.

    Attributes:
        rows: Rows received so far.
        connected: Whether a connection stands, so that `cancel` can reach what runs.

    Every method but `cancel` raises `Ended` when the server ends what it does.

    Example:
        >>> with AdbcReader(options, plan) as reader:  # doctest: +SKIP
        ...     reader.begin()
        ...     with reader.open(0) as deliveries:
        ...         batches = [delivery.convert() for delivery in deliveries]
        ...     reader.commit()
    """

    def __init__(self, options: PostgresSourceOptions, plan: Plan) -> None:
        self.rows = 0
        self.connected = False
        self._options = options
        self._plan = plan

    @abstractmethod
    def __enter__(self) -> Self:
        """Connect; raises `ConnectionFailed`."""

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """Close the connection."""

    def begin(self) -> None:
        """Open the transaction."""
        self._execute(begin(self._options, in_ranges=self._plan.ranges is not None))

    def export(self) -> Shared:
        """What others join this transaction by, until it ends; where the server does not give it, the transaction is spoilt."""
        snapshot, settings = self._row(_SHARED)
        return Shared(snapshot, settings)

    def join(self, shared: Shared) -> None:
        """Open the transaction on another one's snapshot, with its settings, and hold the table too.

        The other one holds it already and will wait for our rows: were we to wait behind an ALTER TABLE that waits for it, none would move again.
        It is not given where another server is at the other end (a pooler between?), or somebody waits for the table.
        """
        self._execute(begin(self._options, in_ranges=True, snapshot=shared.snapshot))
        self._row(f"SELECT {shared.settings}")
        self._execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        self.hold()
        self._execute("SET LOCAL lock_timeout TO DEFAULT")

    @abstractmethod
    def hold(self) -> None:
        """Have the first part parsed: that locks its table against being altered until the transaction ends."""

    @abstractmethod
    def open(self, part: int, deadline: float | None = None) -> AbstractContextManager[Iterator[Delivery]]:
        """The rows of a part, about `BATCH_BYTES` as sent at a time.

        Args:
            part: Which, counted from 0.
            deadline: When, on the monotonic clock, the server shall end it.
        """

    def commit(self) -> None:
        """End the transaction. Only a server that is still there answers: the stream was whole."""
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Give the transaction up."""
        self._execute("ROLLBACK")

    @abstractmethod
    def cancel(self) -> None:
        """End what runs, from any thread."""

    def _limit(self, deadline: float | None) -> None:
        if deadline is not None:
            self._execute(f"SET LOCAL statement_timeout = {max(1, int((deadline - time.monotonic()) * 1000))}")

    @abstractmethod
    def _execute(self, text: str) -> None:
        """Run statements without rows."""

    @abstractmethod
    def _row(self, text: str) -> tuple[str, ...]:
        """The one row of a statement; its values are text."""


class AdbcReader(Reader):
    """Reads through the ADBC driver, which is kept in autocommit, where it adds no BEGIN of its own."""

    def __init__(self, options: PostgresSourceOptions, plan: Plan) -> None:
        super().__init__(options, plan)
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

    def hold(self) -> None:
        """See `Reader.hold`."""
        with _translated(), self._open() as statement:
            statement.set_sql_query(self._plan.statement(0) + "\n")
            statement.execute_schema()

    @contextlib.contextmanager
    def open(self, part: int, deadline: float | None = None) -> Iterator[Iterator[Delivery]]:
        """See `Reader.open`."""
        self._limit(deadline)
        with self._running(self._plan.statement(part)) as delivered:
            batches.check_schema(self._plan, delivered.schema)
            yield (Delivery(batch.num_rows, batch.nbytes, partial(batches.convert, self._plan, batch)) for batch in delivered)

    def cancel(self) -> None:
        """See `Reader.cancel`."""
        with self._lock, contextlib.suppress(adbc.Error):
            if self._statement is not None:
                self._statement.cancel()

    @contextlib.contextmanager
    def _running(self, text: str) -> Iterator[_reader.AdbcRecordBatchReader]:
        """Returns with the first row, which may take hours."""
        with _translated(), self._open() as statement:
            statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            statement.set_sql_query(text + "\n")
            handle, _ = statement.execute_query()
            with _reader.AdbcRecordBatchReader._import_from_c(handle.address) as delivered:  # noqa: SLF001 - the way its own dbapi takes
                yield delivered

    def _execute(self, text: str) -> None:
        with _translated(), self._open() as statement:
            statement.set_sql_query(text)
            statement.execute_update()

    def _row(self, text: str) -> tuple[str, ...]:
        with self._running(text) as delivered:
            return tuple(str(column[0]) for column in delivered.read_all())

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


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except adbc.Error as error:
        raise Ended(error.sqlstate or None) from error
