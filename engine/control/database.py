"""How the control database is reached: `DATABASE_URL`, statements that are tried again, and errors in our words."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, LiteralString, Self

import psycopg
import psycopg.errors
from psycopg.rows import dict_row
from psycopg.sql import Composed

from engine import workers
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, ProcessingError
from engine.libpq import PostgresOptions, connection_failed, is_encrypted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from types import TracebackType

VARIABLE = "DATABASE_URL"
PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 20.0
Row = dict[str, Any]
Statement = LiteralString | Composed


class ControlDatabase:
    """The control database; one connection, opened at first use, opened again when it broke, shared by threads.

    Every statement is a transaction of its own, so that a pooler in transaction mode is no hindrance. A statement runs in a thread of its own, and one that
    is not answered in time is given up together with its connection: a network that swallows everything must not keep a run from noticing.

    Example:
        >>> with ControlDatabase() as control:  # doctest: +SKIP
        ...     control.query("SELECT id, name FROM cai_connectors")
    """

    def __init__(self, url: str | None = None, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        given = url or os.environ.get(VARIABLE)
        if not given:
            raise ConfigurationError(f"{VARIABLE} is not set: it names the control database (postgresql://user@host:5432/database)")
        try:
            self._options = PostgresOptions.parse({"connection_string": given}, where=VARIABLE)
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace("'connection_string'", VARIABLE)) from None
        self.notes: list[str] = []  # what a user should read in the summary
        self._answer_seconds = answer_seconds
        self._session = _Session(self._options, self.notes)
        self._lock = threading.RLock()

    @property
    def where(self) -> str:
        """For messages: `host:port/database`."""
        return self._options.where

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next statement opens another."""
        with self._lock:
            self._session.close()

    def query(self, statement: Statement, values: Sequence[Any] = (), *, patience: float = 0.0) -> list[Row]:
        """Run one statement that may be run twice without harm, and return its rows.

        Args:
            statement: SQL with `%s` for each value.
            values: The values.
            patience: Seconds during which a database that is away (restarted, failed over) is tried again.

        Raises:
            ConnectionFailed: It is not reached; `exit_code` is 2, since `DATABASE_URL` is what to look at.
            ConfigurationError: Tables, columns or rights are missing.
            ProcessingError: Any other refusal, by its SQLSTATE.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return self.once(statement, values)
            except FerryError as error:
                if not error.transient or time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE_SECONDS)

    def once(self, statement: Statement, values: Sequence[Any] = ()) -> list[Row]:
        """As `query`, for a statement that must not run twice: it is tried again only where the old connection was found dead before."""
        with self._lock:
            session = self._session
            running = workers.start(lambda: session.run(statement, values), name="ferry-control")
            try:
                return running.result(timeout=self._answer_seconds)
            except psycopg.Error as error:
                raise self._translated(error) from None
            except FerryError:
                raise
            except BaseException as error:
                self._give_up(running)
                if isinstance(error, TimeoutError):
                    raise ConnectionFailed(f"the control database at {self.where} did not answer within {self._answer_seconds:.3g} s", transient=True) from None
                raise

    def open(self) -> psycopg.Connection[Row]:
        """The connection, for what needs a transaction of its own.

        Raises:
            ConnectionFailed: As `query`.
        """
        with self._lock:
            return self._session.open()

    def _give_up(self, running: Future[list[Row]]) -> None:
        """Leave the connection to the thread that waits for it; it is closed when that wait ends."""
        session, self._session = self._session, _Session(self._options, self.notes)
        running.add_done_callback(lambda _: session.close())

    def _translated(self, error: psycopg.Error) -> FerryError:
        if error.sqlstate is None:
            return ConnectionFailed(f"the connection to the control database at {self.where} broke", transient=True)
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            return ConfigurationError(f"a table or column is missing in the control database at {self.where}; see ferry db check and ferry db init")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return ConfigurationError(f"the role of {VARIABLE} lacks a right in the control database at {self.where}; see ferry db check and data/grants.sql")
        away = error.sqlstate.startswith(("08", "40", "53", "57")) and error.sqlstate != "57014"
        return ProcessingError(f"the control database at {self.where} refused a statement (SQLSTATE {error.sqlstate})", transient=away)


class _Session:
    """One connection and what follows from its breaking; used by one thread at a time."""

    def __init__(self, options: PostgresOptions, notes: list[str]) -> None:
        self._options = options
        self._notes = notes
        self._connection: psycopg.Connection[Row] | None = None

    def run(self, statement: Statement, values: Sequence[Any]) -> list[Row]:
        try:
            cursor = self.open().execute(statement, values)
            return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError:
            self.close()
            raise

    def open(self) -> psycopg.Connection[Row]:
        if self._connection is None or self._connection.broken or not self._is_alive(self._connection):
            self.close()
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @staticmethod
    def _is_alive(connection: psycopg.Connection[Row]) -> bool:
        """A question without effect: a server that was restarted closed the connection behind our back."""
        try:
            connection.execute("")
        except psycopg.Error:
            return False
        return True

    def _connect(self) -> psycopg.Connection[Row]:
        try:
            # No prepared statements: a pooler may hand the next one to another server process.
            connection = psycopg.connect(self._options.conninfo(), autocommit=True, prepare_threshold=None, row_factory=dict_row)
        except psycopg.OperationalError as error:
            raise self._unreachable(str(error)) from None
        if not self._notes and not is_encrypted(connection):
            self._notes.append(
                f"the connection to the control database at {self._options.where} is not encrypted (see sslmode in {VARIABLE}, FERRY_REQUIRE_TLS)"
            )
        return connection

    def _unreachable(self, text: str) -> ConnectionFailed:
        failure = connection_failed(self._options, text)
        failure.args = (f"the control database ({VARIABLE}): {failure}",)
        failure.exit_code = ConfigurationError.exit_code
        return failure
