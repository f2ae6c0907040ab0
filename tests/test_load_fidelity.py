"""PostgreSQL → file → PostgreSQL: every type comes back as it was, by the whole route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from tests.postgres.cases import CASES, SYSTEM_CASES, TYPES_OF_OURS, Case
from tests.postgres.loads import execute, fetch

if TYPE_CHECKING:
    from pathlib import Path

    from engine import embedded

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
ROWS = st.fixed_dictionaries(
    {
        "name": st.none() | TEXTS | st.sampled_from(["", '"', "NULL", "\\N", "\r\n", "00123", " x "]),
        "dose": st.none() | st.decimals(min_value=-(10**9), max_value=10**9, places=4),
        "share": st.none() | st.floats(width=64),
        "seen": st.none() | st.datetimes(),
        "born": st.none() | st.dates(),
        "raw": st.none() | st.binary(max_size=9),
        "tags": st.none() | st.lists(st.none() | TEXTS, max_size=3),
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
    }
)
KINDS = "name text, dose numeric(14,4), share float8, seen timestamp, born date, raw bytea, tags text[], count bigint"


def fill(url: str, cases: tuple[Case, ...], before: str) -> None:
    """`src`: a column for each type, its values below each other, also those that Parquet cannot hold; an id, and a row of NULLs."""
    every = [(*case.values, *case.refused) for case in cases]
    most = max(map(len, every))
    with psycopg.connect(url) as connection:
        connection.execute(before)
        connection.execute(f"CREATE TABLE src (id integer, {', '.join(f'c{i} {case.sql_type}' for i, case in enumerate(cases))})")
        for row in range(most + 1):
            values = [some[row] if row < len(some) else None for some in every]
            cast = ", ".join(f"%s::{case.sql_type}" for case in cases)
            connection.execute(f"INSERT INTO src VALUES (%s, {cast})", [row, *values])


def differing(url: str, table: str, columns: list[str]) -> list[str]:
    """Columns, or whole rows, whose text is not that of `src`."""
    missing = "SELECT count(*) FROM (SELECT {0} FROM {1} s EXCEPT ALL SELECT {0} FROM {2} s) d"

    def are_equal(what: str) -> bool:
        return fetch(url, missing.format(what, "src", table)) == fetch(url, missing.format(what, table, "src")) == [(0,)]

    if are_equal("s::text"):
        return []
    return [name for name in columns if not are_equal(f"id, {name}::text")] or ["a row"]


def declared(url: str, table: str) -> dict[str, str]:
    kinds = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    with psycopg.connect(url) as connection:
        return dict(connection.execute(kinds, [table]).fetchall())


def return_trip(url: str, folder: Path) -> dict[str, list[str]]:
    """By each way the columns that differ."""
    kinds = declared(url, "src")
    names = list(kinds)
    engine.export("TABLE src", folder / "src.csv", database=url)
    engine.export("TABLE src", folder / "src.parquet", database=url, unrepresentable="text")
    execute(url, *(f"CREATE TABLE {name} (LIKE src)" for name in ("csv_same", "parquet_same")))
    engine.load(folder / "src.csv", url, table="csv_same")
    engine.load(folder / "src.csv", url, table="csv_declared", columns=kinds)
    engine.load(folder / "src.parquet", url, table="parquet_same")
    engine.load(folder / "src.parquet", url, table="parquet_new")
    return {table: differing(url, table, names) for table in ("csv_same", "csv_declared", "parquet_same", "parquet_new")}


def test_every_type_comes_back(database: str, tmp_path: Path) -> None:
    fill(database, CASES, TYPES_OF_OURS)
    assert return_trip(database, tmp_path) == {"csv_same": [], "csv_declared": [], "parquet_same": [], "parquet_new": []}
    assert declared(database, "csv_declared") == declared(database, "src")


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=1, max_size=30))
def test_whatever_the_values_are_they_come_back(database: str, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    execute(database, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", f"CREATE TABLE src (id integer, {KINDS})")
    with psycopg.connect(database) as connection:
        for number, row in enumerate(rows):
            known = {"id": number, **row}
            connection.execute(
                "INSERT INTO src VALUES (%(id)s, %(name)s, %(dose)s, %(share)s, %(seen)s, %(born)s, %(raw)s, %(tags)s::text[], %(count)s)", known
            )
    assert not any(return_trip(database, tmp_path).values())


@pytest.mark.system
def test_types_of_extensions_come_back(system_postgres: embedded.Postgres, tmp_path: Path) -> None:
    fill(
        system_postgres.url, SYSTEM_CASES, "CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS ltree"
    )
    assert not any(return_trip(system_postgres.url, tmp_path).values())
