"""PostgreSQL as a destination of rows: a table that files are loaded into, each exactly once.

dlt makes and alters the table (`dataset.py`), the rows go by ADBC's COPY, cast beforehand to the table's exact types, and one transaction holds the
file's rows, its row in the ledger (`load_ledger.py`), its rejected rows (`rejected.py`) and dlt's `_dlt_loads`: SIGKILL anywhere leaves all of it or nothing.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from engine import workers
from engine.errors import ConfigurationError, ResourceError
from engine.libpq import connect, is_encrypted, query_failed
from engine.postgres.bookkeeping import BOOKKEEPING
from engine.postgres.contract import Plan, plan
from engine.postgres.file_load import Load
from engine.postgres.load_ledger import LEDGER, Loaded, LoadLedger, ledger_text
from engine.postgres.rejected import rejected_name
from engine.postgres.scratch import scratch, sweep
from engine.postgres.session import Session, identifier
from engine.postgres.table import check_name, declared_types, missing_tables, read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.postgres.columns import Column
    from engine.postgres.destination_options import PostgresDestinationOptions

_PATHS_AT_ONCE = 1000
_MERGE_SINCE = 15_00_00


class PostgresDestination:
    """A table that rows are loaded into (`RowDestination`).

    Example:
        >>> destination = PostgresDestination(PostgresDestinationOptions(table="visits", database="clinic"))  # doctest: +SKIP
        >>> with destination.open([Column("id", "bigint")]) as load, load.file(FileIdentity("/data/a.csv", "etag", 10)) as file:  # doctest: +SKIP
        ...     file.write(reader)
    """

    def __init__(self, options: PostgresDestinationOptions, *, run: str | None = None) -> None:
        """`run` names the run in the ledger; nothing is opened yet.

        Raises:
            ConfigurationError: A name that PostgreSQL cannot keep, or that belongs to dlt or to us.
        """
        check_name("table", options.table)
        check_name("schema", options.table_schema)
        if options.table.startswith("_dlt") or options.table == LEDGER:
            raise ConfigurationError(f"table {options.table!r}: names that begin with _dlt are dlt's, {LEDGER} is the ledger")
        self._options = options
        self._run = run

    @property
    def rejected_table(self) -> str:
        """`schema.table` that takes rejected rows."""
        return f"{self._options.table_schema}.{rejected_name(self._options.table)}"

    def standing(self) -> tuple[Column, ...] | None:
        """The table's columns as they are; None: there is no such table. Blocking.

        Raises:
            ConnectionFailed: The server was not reached.
            ConfigurationError: Something of that name is no table.
            ResourceError: The role may not insert.
        """
        with self._asking() as connection:
            table = read_table(_fetch(connection), self._options.table_schema, self._options.table)
        return table.columns if table else None

    def loaded(self, paths: Iterable[str]) -> dict[str, tuple[Loaded, ...]]:
        """What the ledger knows of these files, the oldest version first; files that it does not know are left out. Blocking.

        Of a table that is not there any more nothing is known. Under replace neither, unless the table is made of just these files, but for those of them
        whose source was to be taken away: what is missing of the others may have been.
        """
        sweep()  # here, since every run asks
        found: dict[str, tuple[Loaded, ...]] = {}
        ledger, paths = LoadLedger(self._options.table_schema, self._options.table), list(paths)
        with self._asking() as connection:
            if missing_tables(_fetch(connection), self._options.table_schema, [LEDGER, self._options.table]):
                return found
            is_made_of_others = False
            if self._options.write_disposition == "replace":
                all_loaded = [one.path for one in ledger.loaded(_fetch(connection))]
                is_made_of_others = sorted(all_loaded) != sorted(map(ledger_text, paths))
            wanted = iter(paths)
            while some := {ledger_text(path): path for path in itertools.islice(wanted, _PATHS_AT_ONCE)}:
                for one in ledger.loaded(_fetch(connection), some):
                    if one.leaving is not None or not is_made_of_others:
                        found[some[one.path]] = (*found.get(some[one.path], ()), one)
        return found

    def plan(self, wanted: Sequence[Column]) -> Plan:
        """Where columns would go, nothing made yet. Blocking; raises as `open`."""
        return self._plan(wanted)[1]

    @contextlib.contextmanager
    def open(self, wanted: Sequence[Column]) -> Iterator[Load]:
        """Plan the columns, then let files be loaded; the table is made or altered when the first of them begins.

        Args:
            wanted: The columns that will be sent, named as in the file or as `columns` renamed them, their types as anybody writes them; an empty
                type: as the table has it, in a new column text.

        Raises:
            ConnectionFailed: The server was not reached.
            ConfigurationError: A type that the server does not know, a name that cannot be.
            SchemaMismatch: The contract, or the table's own demands, refuse these columns.
        """
        wanted, planned, notes = workers.call(lambda: self._plan(wanted))
        with scratch() as folder, Session(self._options, f"loading into {self._options.shown}") as session:
            load = Load(session, wanted, planned, self._options, folder=folder, run=self._run)
            load.notes += notes
            try:
                yield load
                load.finish()
            finally:
                load.leave()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that only reads: a pooler keeps it on one server. psycopg takes timestamps with a zone in the ISO style alone."""
        with connect(self._options) as connection:
            try:
                connection.execute("BEGIN TRANSACTION READ ONLY")
                connection.execute("SET LOCAL DateStyle = 'ISO'")
                yield connection
            except psycopg.Error as error:
                raise query_failed(self._options, error.sqlstate) from None

    def _plan(self, wanted: Sequence[Column]) -> tuple[tuple[Column, ...], Plan, list[str]]:
        """The wanted columns with the server's names of their types, where they go, and notes."""
        options = self._options
        with self._asking() as connection:
            table = read_table(_fetch(connection), options.table_schema, options.table)
            self._check_rights(connection, made=table is not None)
            if options.write_disposition == "merge" and connection.info.server_version < _MERGE_SINCE:
                raise ConfigurationError(f"write_disposition merge needs PostgreSQL 15 or newer (MERGE); {options.where} is older")
            if options.write_disposition == "replace" and table is not None:
                self._check_cascades(connection)
            texts = {column.type: column.name for column in wanted if column.type}
            known = dict(zip(texts, declared_types(connection, [(name, text) for text, name in texts.items()], options), strict=True))
            exact = tuple(replace(c, type=known[c.type][0], base=known[c.type][1]) if c.type else c for c in wanted)
            notes = [] if is_encrypted(connection) else [f"the connection to PostgreSQL at {options.where} is not encrypted (see sslmode, require_tls)"]
        return exact, plan(exact, table, options), notes

    def _check_rights(self, connection: psycopg.Connection[Any], *, made: bool) -> None:
        """Whether the schema, the table, and the bookkeeping beside it stand or can be made."""
        schema = self._options.table_schema
        exists, may_create, may_make = connection.execute(
            "SELECT n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'CREATE'), false), has_database_privilege(current_database(), 'CREATE') "
            "FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = %s",
            [schema],
        ).fetchone() or (False, False, False)
        if not exists and not may_make:
            raise ResourceError(f"there is no schema {schema!r} in {self._options.where}, and the role may not make one (GRANT CREATE ON DATABASE)")
        missing = missing_tables(_fetch(connection), schema, BOOKKEEPING)
        if exists and not may_create and (missing or not made):
            tables = ", ".join([*([] if made else [self._options.table]), *missing])
            raise ResourceError(f"permission denied: the role may not make tables in schema {schema!r} (GRANT CREATE), and these are missing: {tables}")

    def _check_cascades(self, connection: psycopg.Connection[Any]) -> None:
        """A replace deletes every row: no other table's rows may go, or change, with them."""
        found = connection.execute(
            "SELECT conname::text, conrelid::regclass::text FROM pg_catalog.pg_constraint "
            "WHERE contype = 'f' AND confrelid = %s::regclass AND conrelid <> confrelid AND confdeltype IN ('c', 'n', 'd')",
            [identifier(self._options.table_schema, self._options.table)],
        ).fetchone()
        if found:
            raise ConfigurationError(
                f"replacing {self._options.shown} would delete or change rows of {found[1]} with its own (foreign key {found[0]!r}, ON DELETE CASCADE or SET …); "
                "merge instead, or alter the foreign key"
            )


def _fetch(connection: psycopg.Connection[Any]) -> Any:
    return lambda text: connection.execute(text).fetchall()
