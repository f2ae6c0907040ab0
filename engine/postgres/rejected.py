"""`<table>__rejected`: the rows of files that could not be loaded, as they stood there."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.postgres.load_ledger import lock_key
from engine.postgres.session import identifier, literal
from engine.postgres.table import MOST_BYTES, missing_tables

if TYPE_CHECKING:
    from engine.postgres.load_ledger import FileIdentity
    from engine.postgres.session import Session

SUFFIX = "__rejected"
ROWS = pa.schema([("line", pa.int64()), ("column_name", pa.string()), ("rule", pa.string()), ("raw", pa.binary())])
"""What is known of each row: its line in the file, the column (NULL: the row as a whole), the rule that it breaks, and the line's bytes."""


def rejected_name(table: str) -> str:
    """The name of the table of rejected rows, shortened with a hash where PostgreSQL would cut it.

    Example:
        >>> rejected_name("visits")
        'visits__rejected'
    """
    name = table + SUFFIX
    if len(name.encode()) <= MOST_BYTES:
        return name
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    kept = table.encode()[: MOST_BYTES - len(SUFFIX) - len(digest) - 1].decode(errors="ignore")
    return f"{kept}_{digest}{SUFFIX}"


class Rejected:
    """The table of one target's rejected rows, made when the first one comes. Every method blocks."""

    def __init__(self, schema: str, table: str) -> None:
        self._schema = schema
        self._name = rejected_name(table)

    def write(self, session: Session, rows: pa.RecordBatch, file: FileIdentity, load_id: str) -> None:
        """Store rows (schema `ROWS`) of a file, in the session's transaction."""
        if missing_tables(session.fetch, self._schema, [self._name]):
            self._create(session)
        rows = rows.cast(ROWS)
        known = {"file": pa.scalar(file.origin), "load_id": pa.scalar(load_id)}
        arrays = [*rows.columns, *(pa.repeat(value, rows.num_rows) for value in known.values())]
        batch = pa.RecordBatch.from_arrays(arrays, names=[*ROWS.names, *known])
        session.ingest(pa.RecordBatchReader.from_batches(batch.schema, [batch]), self._name, self._schema)

    def forget(self, session: Session, path: str | None) -> None:
        """Remove what an earlier load put aside of a file, or of every file, that is loaded anew."""
        if not missing_tables(session.fetch, self._schema, [self._name]):
            session.execute(f"DELETE FROM {identifier(self._schema, self._name)}" + (f" WHERE file = {literal(path)}" if path is not None else ""))  # noqa: S608 - quoted

    def _create(self, session: Session) -> None:
        name = identifier(self._schema, self._name)
        session.execute(f"SELECT pg_advisory_xact_lock({lock_key(self._schema, self._name)})")
        session.execute(
            f"CREATE TABLE IF NOT EXISTS {name} (file text NOT NULL, line bigint, column_name text, rule text NOT NULL, raw bytea, "
            f"load_id text NOT NULL, rejected_at timestamptz NOT NULL DEFAULT now())"
        )
