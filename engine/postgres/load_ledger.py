"""What has been loaded: one row per file and table, in the target database, committed with the file's rows.

The row is claimed before the first of the file's rows is sent. Its key is the table, the file's path and the version of its content, so two loads of
one file at once meet there: the second waits for the first, and finds the file loaded, or loads it if the first gave up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.postgres.session import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from engine.postgres.session import Session

    Fetch = Callable[[str], Sequence[tuple[Any, ...]]]

LEDGER = "_ferry_loads"


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """One version of a file, wherever it is kept.

    Attributes:
        path: Where it is, as people find it again: a URL or an absolute path, no secrets. A column `_source_file` holds the same text
            (`ledger_text`: bytes of a name that are not UTF-8 stand in it as escapes).
        version: Tells its content from any other that stood there: ETag, SHA-256, or size and modification time.
        size: In bytes.
        leaving: Not None where the source is taken away after the commit: when it was written there. A replace goes by it after a kill in between.
        origin: What people are told that the rows come from, and `_source_file` holds; empty: the path.
        same: Other versions that count as this one: of a copy, earlier runs whose end was not recorded.
    """

    path: str
    version: str
    size: int
    leaving: str | None = None
    origin: str = ""
    same: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", ledger_text(self.path))
        object.__setattr__(self, "origin", self.origin or self.path)

    def is_version(self, version: str) -> bool:
        """Whether that version is this one, or counts as it."""
        return version == self.version or version in self.same


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that was loaded.

    Attributes:
        path: See `FileIdentity`.
        version: See `FileIdentity`.
        rows: Rows that it brought.
        rejected: Rows of it that were put aside.
        load_id: dlt's id of the load, as in `_dlt_loads`.
        loaded_at: When the transaction began.
        leaving: See `FileIdentity`.
    """

    path: str
    version: str
    rows: int
    rejected: int
    load_id: str
    loaded_at: datetime
    leaving: str | None = None


class LoadLedger:
    """The ledger beside the tables of one schema, as far as one table is concerned. Every method blocks."""

    def __init__(self, schema: str, table: str) -> None:
        self._name = identifier(schema, LEDGER)
        self._schema = schema
        self._table = table

    def create(self, session: Session) -> None:
        """Make the ledger; within a transaction that holds the schema's lock."""
        session.execute(
            f"CREATE TABLE IF NOT EXISTS {self._name} ("
            "id text PRIMARY KEY, table_name text NOT NULL, path text NOT NULL, version text NOT NULL, size bigint NOT NULL, rows bigint NOT NULL, "
            "rejected bigint NOT NULL, load_id text NOT NULL, run text, loaded_at timestamptz NOT NULL, leaving text); "
            f"CREATE INDEX ON {self._name} USING hash (path); "  # hash: a path may be longer than an entry of a B-tree
            f"COMMENT ON TABLE {self._name} IS 'Files that arrow-ferry has loaded; each row was committed with the rows of its file'"
        )

    def is_old(self, fetch: Fetch) -> bool:
        """Whether an earlier version made the ledger, without a column that this one writes; the ledger must exist."""
        return not fetch(
            "SELECT 1 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "  # noqa: S608 - quoted
            f"WHERE n.nspname = {literal(self._schema)} AND c.relname = {literal(LEDGER)} AND a.attname = 'leaving' AND NOT a.attisdropped"
        )

    def upgrade(self, session: Session) -> None:
        """Add what an old ledger lacks; within a transaction that holds the schema's lock. Only the ledger's owner may."""
        session.what = f"adding the column leaving to {self._schema}.{LEDGER}, which an earlier version has made"
        session.execute(f"ALTER TABLE {self._name} ADD COLUMN IF NOT EXISTS leaving text")

    def loaded(self, fetch: Fetch, paths: Iterable[str] | None = None) -> list[Loaded]:
        """The versions of these files (None: of all) that were loaded into the table, the oldest first; the ledger must exist."""
        wanted = None if paths is None else ", ".join(literal(path) for path in paths)
        if wanted == "":
            return []
        rows = fetch(
            # An old ledger has no column `leaving`, and who only asks may not add it.
            f"SELECT path, version, rows, rejected, load_id, loaded_at, to_jsonb(ledger) ->> 'leaving' FROM {self._name} AS ledger "  # noqa: S608 - quoted
            f"WHERE table_name = {literal(self._table)}{'' if wanted is None else f' AND path IN ({wanted})'} ORDER BY loaded_at, version"
        )
        return [Loaded(*row) for row in rows]

    def claim(self, session: Session, file: FileIdentity, load_id: str, run: str | None) -> bool:
        """Write the file's row, unless that very version is loaded; waits for another load of it."""
        values = [self._id(file), self._table, file.path, file.version, file.size, 0, 0, load_id, run, file.leaving]
        rows = session.fetch(
            f"INSERT INTO {self._name} (id, table_name, path, version, size, rows, rejected, load_id, run, leaving, loaded_at) "  # noqa: S608 - quoted
            f"VALUES ({', '.join(literal(value) for value in values)}, now()) ON CONFLICT (id) DO NOTHING RETURNING 1"
        )
        return bool(rows)

    def complete(self, session: Session, file: FileIdentity, *, rows: int, rejected: int) -> None:
        """Count what the file brought, before the commit."""
        session.execute(f"UPDATE {self._name} SET rows = {rows}, rejected = {rejected} WHERE id = {literal(self._id(file))}")  # noqa: S608 - quoted

    def forget(self, session: Session, *, path: str | None = None, but: FileIdentity | None = None) -> None:
        """Remove the rows of a file, or of every file of the table, whose rows are being removed too."""
        conditions = [f"table_name = {literal(self._table)}"]
        conditions += [f"path = {literal(path)}"] if path is not None else []
        conditions += [f"id <> {literal(self._id(but))}"] if but is not None else []
        session.execute(f"DELETE FROM {self._name} WHERE {' AND '.join(conditions)}")  # noqa: S608 - quoted

    def lock(self, session: Session, path: str) -> None:
        """Let no other load of any version of this file into this table go on until the transaction ends."""
        session.execute(f"SELECT pg_advisory_xact_lock({lock_key(self._schema, self._table, path)})")

    def _id(self, file: FileIdentity) -> str:
        return hashlib.sha256(f"{self._table}\0{file.path}\0{file.version}".encode(errors="surrogateescape")).hexdigest()


def ledger_text(path: str) -> str:
    r"""A path as the ledger writes it.

    Example:
        >>> ledger_text("/data/lab.csv"), ledger_text(b"/data/l\xe4b.csv".decode(errors="surrogateescape"))
        ('/data/lab.csv', '/data/l\\udce4b.csv')
    """
    return path if path.isprintable() else path.encode("utf-8", "backslashreplace").decode()


def lock_key(*parts: str) -> int:
    """A 64-bit key for an advisory lock, of our own among those of others."""
    digest = hashlib.sha256("\0".join(("arrow-ferry", *parts)).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
