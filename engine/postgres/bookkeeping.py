"""The tables beside those that are loaded: dlt's and the ledger, made once for all tables of a schema.

They are made in a short transaction of their own, so that first loads into several tables do not wait for each other, and taken back by who made them
when nothing was loaded. Whoever loads holds a lock, shared, until the first commit: while anybody does, nobody takes them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.postgres.load_ledger import LEDGER, LoadLedger, lock_key
from engine.postgres.session import identifier, literal
from engine.postgres.table import missing_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.postgres.session import Session

BOOKKEEPING = ("_dlt_version", "_dlt_loads", LEDGER)


class Bookkeeping:
    """Those of one schema, as far as one load is concerned. Every method blocks.

    Args:
        session: The load's.
        schema: PostgreSQL's schema.
        ledger: Makes the ledger.
        make: Has dlt make the schema and its tables.
    """

    def __init__(self, session: Session, schema: str, ledger: LoadLedger, make: Callable[[], None]) -> None:
        self._session = session
        self._schema = schema
        self._ledger = ledger
        self._make = make
        self._made: list[str] = []
        self._made_schema = False
        self._in_use = lock_key(schema, "in use")

    def ensure(self) -> None:
        """Have them stand until the transaction that has begun ends; it may be ended and begun again."""
        session = self._session
        while True:
            session.execute(f"SELECT pg_advisory_xact_lock_shared({self._in_use})")
            if not self._missing() and not self._ledger.is_old(session.fetch):
                return
            session.execute(f"SELECT pg_advisory_xact_lock({lock_key(self._schema)})")
            self._make_missing(self._missing())
            if self._ledger.is_old(session.fetch):
                self._ledger.upgrade(session)
            session.commit()
            session.begin()

    def take_back(self) -> None:
        """Remove what `ensure` has made, if nobody uses it or has used it."""
        if not self._made:
            return
        session = self._session
        session.rollback()  # what failed
        session.begin()
        ledger, loads, versions = (identifier(self._schema, name) for name in (LEDGER, "_dlt_loads", "_dlt_version"))
        used = f"SELECT EXISTS (SELECT FROM {ledger}) OR EXISTS (SELECT FROM {loads}) OR EXISTS (SELECT FROM {versions} WHERE schema_name !~ '^ferry_')"  # noqa: S608 - quoted
        if session.fetch(f"SELECT pg_try_advisory_xact_lock({self._in_use})") == [(True,)] and session.fetch(used) == [(False,)]:
            session.execute(f"DROP TABLE {', '.join(identifier(self._schema, name) for name in self._made)}")
            session.commit()
            if self._made_schema:
                session.begin()
                session.execute(f"DROP SCHEMA {identifier(self._schema)}")  # refused if somebody has put something there
                session.commit()

    def _missing(self) -> list[str]:
        return missing_tables(self._session.fetch, self._schema, BOOKKEEPING)

    def _make_missing(self, missing: list[str]) -> None:
        if not missing:
            return
        found = self._session.fetch(f"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {literal(self._schema)}")  # noqa: S608 - quoted
        self._made_schema = not found
        self._make()
        if LEDGER in missing:
            self._ledger.create(self._session)
        self._made = missing
