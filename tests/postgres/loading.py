"""Rows into a real table, the way that a load takes: cast, `adbc_ingest`, and through a temporary table what the server must cast."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from engine.postgres.casting import Caster, caster
from engine.postgres.columns import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTINGS = "SET DateStyle = 'ISO'; SET bytea_output = 'hex'; SET extra_float_digits = 1; SET IntervalStyle = 'postgres'"
_DESCRIBE = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
       CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) WHEN 'e' THEN 'enum' WHEN 'c' THEN 'composite' ELSE '' END
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = %s::regclass AND a.attname = %s
"""


def query(database: str, statement: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(database) as connection:
        connection.execute(SETTINGS)
        found = connection.execute(statement, parameters or None)
        return found.fetchall() if found.description else []


def column_of(database: str, table: str, name: str = "v") -> Column:
    """A column as the server describes it."""
    [row] = query(database, _DESCRIBE, table, name)
    return Column(row[0], row[1], nullable=row[2], base=row[3])


def ingest(database: str, table: str, made: Caster, values: pa.Array) -> None:
    """Store cast values in the table's column."""
    batch = pa.table({made.column.name: values})
    with contextlib.closing(dbapi.connect(database)) as connection:
        with contextlib.closing(connection.cursor()) as cursor:
            if made.by_server:
                cursor.adbc_ingest("arriving", batch, mode="create", temporary=True)
                name = f'"{made.column.name}"'
                cursor.execute(f"INSERT INTO {table} ({name}) SELECT {made.expression(name)} FROM pg_temp.arriving")
            else:
                cursor.adbc_ingest(table, batch, mode="append")
        connection.commit()


def load(database: str, table: str, values: pa.Array, name: str = "v") -> list[str | None]:
    """Load an array into a table's column. The good rows are stored; what comes back are the rules of the refused ones."""
    column = column_of(database, table, name)
    made = caster(column, values.type)
    cast = made.cast(values)
    if cast.needs_server:
        made = caster(column, values.type, by_server=True)
        cast = made.cast(values)
    assert not cast.needs_server
    assert cast.values.type == made.target
    good = cast.values if cast.refused is None else cast.values.filter(pa.compute.invert(cast.refused))
    ingest(database, table, made, good)
    return [None] * len(values) if cast.rules is None else cast.rules.to_pylist()


def difference(database: str, left: str, right: str, columns: str = "v") -> list[Any]:
    """Rows of one table and not of the other, compared as text."""
    one, other = (f"SELECT ROW({columns})::text FROM {table}" for table in (left, right))
    return query(database, f"({one} EXCEPT ALL {other}) UNION ALL ({other} EXCEPT ALL {one})")


def table(database: str, name: str, sql_type: str, values: Sequence[str | None] = ()) -> str:
    """A table with one column, `v`; the values are PostgreSQL's own reading of their text."""
    with psycopg.connect(database) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (v {sql_type})")
        for value in values:
            connection.execute(f"INSERT INTO {name} VALUES (%s::text::{sql_type})", [value])
    return name
