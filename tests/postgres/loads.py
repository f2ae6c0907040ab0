"""What tests of loads share: a destination in the test's database, batches, and what stands there afterwards."""

from __future__ import annotations

from typing import Any

import psycopg
import pyarrow as pa

from engine.postgres.columns import Column
from engine.postgres.destination import PostgresDestination
from engine.postgres.destination_options import PostgresDestinationOptions
from engine.postgres.load_ledger import FileIdentity

IDS = (Column("id", "integer", nullable=False), Column("name", "text"))


def destination(url: str, table: str = "people", *, run: str | None = None, **more: Any) -> PostgresDestination:
    return PostgresDestination(PostgresDestinationOptions.parse({"connection_string": url, "table": table, **more}, where="destination"), run=run)


def reader(**columns: pa.Array) -> pa.RecordBatchReader:
    batch = pa.record_batch(columns)
    return pa.RecordBatchReader.from_batches(batch.schema, [batch])


def people(*ids: int, name: str | None = "x") -> pa.RecordBatchReader:
    return reader(id=pa.array(ids, pa.int32()), name=pa.array([name] * len(ids), pa.string()))


def file(path: str = "/data/a.csv", version: str = "v1") -> FileIdentity:
    return FileIdentity(path, version, 10)


def casts(**columns: str) -> dict[str, str]:
    """How the server casts columns that are sent as text."""
    return {name: f'CAST("{name}" AS {type_})' for name, type_ in columns.items()}


def load(target: PostgresDestination, *files: tuple[FileIdentity, pa.RecordBatchReader], wanted: tuple[Column, ...] = IDS) -> list[int | None]:
    """Load files; the rows of each, or None where it was loaded before."""
    with target.open(wanted) as opened:
        counts: list[int | None] = []
        for identity, rows in files:
            with opened.file(identity) as one:
                counts.append(None if one.earlier else one.write(rows))
    return counts


def fetch(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def types(url: str, table: str = "people") -> list[tuple[str, str]]:
    return fetch(
        url,
        "SELECT attname::text, format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END FROM pg_attribute "
        f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )


def state(url: str) -> dict[str, tuple[Any, ...]]:
    """Every relation of the database with its columns and its rows as text, the bookkeeping among them."""
    relations = fetch(
        url,
        "SELECT c.oid::regclass::text, (SELECT array_agg(attname || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), c.relkind::text FROM pg_class c "
        "WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_' OR nspname = 'information_schema')",
    )
    found: dict[str, tuple[Any, ...]] = {
        name: (columns, kind, fetch(url, f"SELECT t::text FROM {name} t ORDER BY 1") if kind == "r" else None) for name, columns, kind in relations
    }
    return {**found, "schemas": tuple(fetch(url, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_temp|^pg_toast' ORDER BY 1"))}
