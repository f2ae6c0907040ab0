"""`reader: connectorx` gives what the ADBC reader gives, or refuses a column by name before a row comes; and it says nothing that it must not."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import pytest
from psycopg import sql

import engine
from engine.errors import ConfigurationError, FerryError, QueryFailed, SchemaMismatch, UnrepresentableValue
from engine.postgres import connectorx_process, connectorx_source
from engine.postgres.source_options import PostgresSourceOptions
from tests.effort import spread
from tests.postgres.cases import CASES, TYPES_OF_OURS
from tests.postgres.test_copy_source import exact
from tests.postgres.test_types import create_tables, numbered, read
from tests.tcp_proxy import Fault, tcp_proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.protocols import Form

FERRY = [sys.executable, "-c", "from engine.cli import main; main()"]
REFUSED = {"date", "time", "timestamp", "timestamptz", "uuid", "date[]", "uuid[]"}


@pytest.fixture(scope="module")
def typed_database(module_database: str) -> str:
    create_tables(module_database, CASES, TYPES_OF_OURS)
    return module_database


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def running(database: str, fragment: str) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s"
    with psycopg.connect(database) as connection:
        return [row[0] for row in connection.execute(query, [f"COPY%{fragment}%"])]


def assert_same(database: str, query: str, form: Form = "typed", /, **options: Any) -> None:
    by_adbc, by_connectorx = (read(database, query, form, reader=reader, **options) for reader in ("adbc", "connectorx"))
    assert by_connectorx.schema.equals(by_adbc.schema, check_metadata=True)
    for name, one, other in zip(by_adbc.schema.names, by_adbc.columns, by_connectorx.columns, strict=True):
        assert exact(one) == exact(other), name
        assert one.null_count == other.null_count


@pytest.mark.parametrize(("i", "case"), spread(numbered(), 16))
def test_every_type_is_as_by_adbc_or_refused(typed_database: str, i: int, case: Any) -> None:
    query = f"SELECT n, v, v AS again FROM t{i} ORDER BY n"
    assert_same(typed_database, query, "text")
    if case.sql_type in REFUSED:
        with pytest.raises(ConfigurationError, match=r"'reader' connectorx does not deliver exactly: 'v' \(.*\), 'again' .*; use --reader adbc"):
            read(typed_database, query, reader="connectorx")
        assert_same(typed_database, query, unrepresentable=["v=text", "again=text"])
    else:
        assert_same(typed_database, query)
        assert_same(typed_database, query, "exact")


@pytest.mark.parametrize(("i", "case"), [p for p in numbered() if p.values[1].refused and p.values[1].sql_type not in REFUSED])
def test_values_that_parquet_cannot_hold_are_found_as_by_adbc(typed_database: str, i: int, case: Any) -> None:
    for n in range(1, len(case.refused) + 1):
        query = f"SELECT v FROM (SELECT v, 0 AS part, n FROM t{i} UNION ALL SELECT v, 1, n FROM r{i} WHERE n = {n}) x ORDER BY part, n"
        assert_same(typed_database, query, "text")
        messages = set()
        for reader in ("adbc", "connectorx"):
            with pytest.raises(UnrepresentableValue) as caught:
                read(typed_database, query, reader=reader)
            messages.add(str(caught.value))
        assert len(messages) == 1


NUMBERS = "{1,NULL,-3}"
ARRAYS = {
    **dict.fromkeys(("int2", "int8", "float4", "float8"), NUMBERS),
    "bool": "{t,NULL}",
    "varchar": '{a,"b c",""}',
    "json": '{"{\\"a\\" : 1}",NULL}',
    "jsonb": '{"1.10"}',
}


@pytest.mark.parametrize("kind", spread(ARRAYS, 4))
def test_more_arrays_are_as_by_adbc(database: str, kind: str) -> None:
    assert_same(database, f"SELECT v::{kind}[] AS v FROM (VALUES ('{ARRAYS[kind]}'), (NULL), ('{{}}')) x(v)")


def test_many_random_rows_are_as_by_adbc(database: str) -> None:
    query = """
        SELECT i, (random() * 1e6)::numeric(12,4) AS n, CASE WHEN i % 7 > 0 THEN random() END AS f, repeat('ž', (random() * 50)::int) AS t,
               CASE WHEN i % 3 = 0 THEN ARRAY[i, NULL, i * 2] END AS a, i % 2 = 0 AS b, ('{"a": ' || i || '}')::jsonb AS j, decode(md5(i::text), 'hex') AS x,
               i::int2 AS s, CASE WHEN i % 5 = 0 THEN i::float4 / 3 END AS r, i::money AS m
        FROM generate_series(1, 30000) i"""
    with psycopg.connect(database) as connection:
        connection.execute(f"SELECT setseed(0.5); CREATE TABLE t AS {query}")
    assert_same(database, "TABLE t")
    assert_same(database, "TABLE t", "text")


def test_every_run_says_what_is_not_promised(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i")
    result = engine.export("TABLE t", tmp_path / "x.parquet", database=database, reader="connectorx", readers=2)
    assert result.rows == 100
    one, note = result.notes
    assert one == "read as one stream, not by 2 readers: connectorx reads by one connection"
    assert note == f"'reader' connectorx does not promise: {', '.join(connectorx_source.NOT_PROMISED)}"


@pytest.mark.parametrize("query", ["WITH x AS MATERIALIZED (SELECT pg_sleep(600)) TABLE x", "SELECT (SELECT pg_sleep(600)) AS a"])
def test_what_holds_the_types_runs_nothing(database: str, query: str) -> None:
    parsed = PostgresSourceOptions.parse({"connection_string": database, "query": query, "reader": "connectorx"}, where="source")
    plan, _, _ = connectorx_source.ConnectorxSource(parsed)._plan("typed")
    assert isinstance(plan, connectorx_source.ConnectorxPlan)
    with psycopg.connect(database) as connection:
        connection.execute("SET statement_timeout = '5s'")
        assert connection.execute(plan.holding.encode()).fetchall() == [(1,)]


def test_files_are_those_that_adbc_gives(database: str, tmp_path: Path) -> None:
    query = "SELECT i, i / 7.0 AS n, now()::date + i AS d, CASE i % 3 WHEN 0 THEN '' WHEN 1 THEN 'a, b' END AS t FROM generate_series(1, 20000) i"
    for reader in ("adbc", "connectorx"):
        engine.export(query, tmp_path / f"{reader}.csv", database=database, reader=reader)
    assert (tmp_path / "adbc.csv").read_bytes() == (tmp_path / "connectorx.csv").read_bytes()


@pytest.mark.parametrize("form", ["text", "typed"])
def test_other_threads_go_on_while_the_server_computes(database: str, form: Form) -> None:
    moments: list[float] = []

    def tick() -> None:
        while not done.wait(0.02):
            moments.append(time.monotonic())

    done = threading.Event()
    thread = threading.Thread(target=tick)
    thread.start()
    read(database, "SELECT pg_sleep(1.5)", form, reader="connectorx")
    done.set()
    thread.join()
    assert max(after - before for before, after in itertools.pairwise(moments)) < 0.5


def test_nothing_of_a_value_reaches_the_terminal(database: str, tmp_path: Path) -> None:
    """connectorx's panics print the server's text."""
    query = "SELECT ('can' || 'ary' || i)::text::int AS a FROM generate_series(1, 10) i"
    command = [*FERRY, "export", query, str(tmp_path / "x.csv"), "--reader", "connectorx", "--database", database]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "SQLSTATE 22P02" in ran.stderr
    assert "canary" not in ran.stdout + ran.stderr
    assert "panick" not in ran.stderr


@pytest.mark.parametrize("password", ["p@ss/w:rd?#[]%41&=+ 'ž\\\"", "%2F", "a" * 200])
def test_a_password_may_be_any(database: str, password: str) -> None:
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(sql.SQL('CREATE ROLE "odd r@le/:?" LOGIN PASSWORD {}').format(password))
        url = psycopg.conninfo.make_conninfo(database, user="odd r@le/:?", password=password)
        assert read(url, "SELECT current_user::text AS a", reader="connectorx").to_pylist() == [{"a": "odd r@le/:?"}]
        parsed = PostgresSourceOptions.parse({"connection_string": url, "query": "SELECT 1"}, where="source")
        with psycopg.connect(url, autocommit=True) as connection:
            plan = connectorx_source.ConnectorxSource(parsed)._planned(connection, "typed")
        assert password not in repr(plan)
        assert plan.url not in repr(plan)
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute('DROP ROLE IF EXISTS "odd r@le/:?"')


def test_what_connectorx_does_otherwise_is_refused_by_name(database: str) -> None:
    with pytest.raises(ConfigurationError, match="'reader' connectorx does not connect with require_auth as libpq does; use --reader adbc"):
        read("", "SELECT 1", reader="connectorx", connection_string=f"{database}?require_auth=scram-sha-256")


def test_types_that_change_between_planning_and_reading_stop_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where connectorx makes the same Arrow type of both."""
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t AS SELECT 0.1::float4 AS a")
    reads = connectorx_source.ConnectorxReader.open

    def altered(self: Any, *arguments: Any) -> Any:
        with psycopg.connect(database) as connection:
            connection.execute("ALTER TABLE t ALTER a TYPE float8 USING 0.1::float8")
        return reads(self, *arguments)

    monkeypatch.setattr(connectorx_source.ConnectorxReader, "open", altered)
    with pytest.raises(SchemaMismatch, match="was the table altered meanwhile"):
        read(database, "TABLE t", reader="connectorx")


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_connection_that_is_cut_is_an_error(postgres: Any, database: str, kind: Literal["reset", "truncate"]) -> None:
    with tcp_proxy(postgres.port) as proxy:
        proxy.arm(Fault(kind, "down", after=3_000_000))
        url = database.replace(str(postgres.port), str(proxy.port))
        with pytest.raises(QueryFailed, match="broke after") as caught:
            read(url, "SELECT i, repeat('x', 100) AS a FROM generate_series(1, 1000000) i", reader="connectorx")
        assert caught.value.transient
        assert proxy.hits


def test_a_process_that_is_killed_is_an_error(database: str) -> None:
    with (
        pytest.raises(FerryError, match=r"the process in which connectorx read ended after [\d,]+ rows; nothing was written"),
        connectorx_source.ConnectorxSource(
            PostgresSourceOptions.parse({"connection_string": database, "query": "SELECT generate_series(1, 100000000) AS i"}, where="source")
        ).read() as stream,
    ):
        stream.reader.read_next_batch()
        stream._readers[0].cancel()
        stream.reader.read_all()


def test_nothing_is_left_of_a_run_that_is_killed(database: str) -> None:
    code = f"""
from tests.postgres.test_types import read
read({database!r}, "SELECT pg_sleep(600) /* orphan */", reader="connectorx")
"""
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        until(lambda: running(database, "orphan"))
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not running(database, "orphan"), 2)


def test_a_missing_library_is_named_with_its_extra() -> None:
    code = """
import sys, engine
sys.modules["connectorx"] = None
try:
    engine.export("SELECT 1 AS a", "x.csv", database="postgresql://nowhere/", reader="connectorx")
except engine.ConfigurationError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "'reader' needs connectorx, which is not installed: pip install 'arrow-ferry[connectorx]'"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('code: SqlState(E22P02), message: "canary"', {"sqlstate": "22P02"}),
        ("timed out waiting for connection: db error: canary", {"kind": "unreachable"}),
        ("Error { kind: Io, cause: canary }", {"kind": "broken"}),
        ("canary", {"kind": "other"}),
    ],
)
def test_an_error_is_told_without_its_text(text: str, told: dict[str, str]) -> None:
    assert connectorx_process.told_of(text) == told
