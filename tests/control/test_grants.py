"""`data/grants.sql`: each role can do its work, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import psycopg.errors
import pytest

import engine
from engine import embedded, reaper, registry
from engine.control import tables
from engine.control.database import ControlDatabase

GRANTS = (Path(__file__).parents[2] / "data/grants.sql").read_text(encoding="utf-8")
FERRY = (sys.executable, "-c", "from engine.cli import main; main()")
LOGINS = {"ferry_runner": "grants_worker", "ferry_history": "grants_reader", "ferry_source": "grants_study"}
TABLES = tuple(tables.table_statements())
CONFIGURATIONS = ("ad_lookup_codes", "cai_connectors", "cai_defined_sources", "cai_defined_destinations", "ferry_host_keys")
RUN_COLUMNS = ("status", "finished_at", "rows_ingested", "log_summary")


def columns(table: str) -> list[str]:
    return re.findall(r"^    ([a-z_0-9]+) [A-Z]", tables.table_statements()[table], flags=re.MULTILINE)


def verbs(table: str, names: list[str]) -> list[str]:
    """Every way to touch a table, column by column where rights can be given so."""
    reading = [f"SELECT {name} FROM {table}" for name in names]
    writing = [f"UPDATE {table} SET {name} = {name}" for name in names]
    schema = [
        f"ALTER TABLE {table} ADD more int",
        f"DROP TABLE {table}",
        f"CREATE TRIGGER t AFTER INSERT ON {table} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ]
    return [f"SELECT * FROM {table}", *reading, *writing, f"INSERT INTO {table} DEFAULT VALUES", f"DELETE FROM {table}", f"TRUNCATE {table}", *schema]


ALLOWED = {
    "ferry_runner": {
        *(f"SELECT {name} FROM {table}" for table in TABLES for name in ["*", *columns(table)]),
        *(f"UPDATE cai_connector_runs SET {name} = {name}" for name in RUN_COLUMNS),
        *(f"UPDATE {table} SET {name} = {name}" for table in ("ferry_leases", "ferry_files") for name in columns(table)),
        *(f"INSERT INTO {table} DEFAULT VALUES" for table in ("cai_connector_runs", "ferry_leases", "ferry_files")),
    },
    "ferry_history": {
        *(f"SELECT {name} FROM {table}" for table in ("cai_connector_runs", "ferry_leases", "ferry_files") for name in ["*", *columns(table)]),
        "SELECT id FROM cai_connectors",
        "SELECT name FROM cai_connectors",
    },
    "ferry_source": {"SELECT * FROM results", "SELECT id FROM results", "SELECT value FROM results", "SELECT * FROM positive", "SELECT id FROM positive"},
}
CONTROL_STATEMENTS = [
    *(statement for table in TABLES for statement in verbs(table, columns(table))),
    "SELECT setval('cai_connectors_id_seq', 1)",
    "SELECT nextval('cai_connectors_id_seq')",
    "SELECT setval('cai_connector_runs_id_seq', 1)",
    "CREATE TABLE mine (a int)",
]
SOURCE_STATEMENTS = [
    *verbs("results", ["id", "value"]),
    "SELECT * FROM positive",
    "SELECT id FROM positive",
    "DELETE FROM positive",
    "INSERT INTO positive VALUES (1)",
    "SELECT nextval('results_id_seq')",
    "SELECT * FROM private.notes",
    "CREATE TABLE mine (a int)",
    "CREATE SCHEMA mine",
]


@pytest.fixture(scope="module")
def urls(postgres: embedded.Postgres) -> dict[str, str]:
    """A control and a source database after `grants.sql`, each by the superuser and by the logins."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for name in ("grants_control", "grants_source"):
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    control, source = postgres.url_of("grants_control"), postgres.url_of("grants_source")
    with ControlDatabase(control) as database:
        tables.init(database, registry.TYPE_CODES)
    execute(
        source,
        "CREATE TABLE results AS SELECT i::int AS id, md5(i::text) AS value FROM generate_series(1, 1000) i",
        "CREATE SEQUENCE results_id_seq",
        "CREATE VIEW positive AS SELECT id FROM results WHERE id > 0",
        "CREATE SCHEMA private",
        "CREATE TABLE private.notes (a text)",
    )
    for url in (control, source, control, source):
        execute(url, GRANTS)
    for role, login in LOGINS.items():
        execute(control, f"DROP ROLE IF EXISTS {login}", f"CREATE ROLE {login} LOGIN PASSWORD 'pw'", f"GRANT {role} TO {login}")

    def url_as(login: str, url: str) -> str:
        return re.sub("//postgres:[^@]*@", f"//{login}:pw@", url)

    return {
        "control": control,
        "source": source,
        "ferry_runner": url_as("grants_worker", control),
        "ferry_history": url_as("grants_reader", control),
        "ferry_source": url_as("grants_study", source),
        "ferry_source in the control database": url_as("grants_study", control),
    }


@pytest.fixture
def connector(urls: dict[str, str], tmp_path: Path) -> int:
    """A connector from the source database to a folder."""
    with psycopg.connect(urls["control"], autocommit=True) as connection:
        connection.execute("TRUNCATE cai_connectors, cai_defined_sources, cai_defined_destinations, cai_connector_runs, ferry_leases, ferry_files")
        statement = """
            WITH s AS (
                INSERT INTO cai_defined_sources (name, source_type_lookup_code_id, config)
                SELECT 's', id, '{"connection_string": "env:SOURCE_URL", "query": "TABLE results", "csv_filename": "results.csv"}'
                FROM ad_lookup_codes WHERE lookup_code = 'postgres' RETURNING id
            ), d AS (
                INSERT INTO cai_defined_destinations (name, destination_type_lookup_code_id, config)
                SELECT 'd', id, jsonb_build_object('path', %s::text) FROM ad_lookup_codes WHERE lookup_code = 'filesystem' RETURNING id
            )
            INSERT INTO cai_connectors (name, defined_source_id, defined_destination_id) SELECT 'c', s.id, d.id FROM s, d RETURNING id
        """
        row: Any = connection.execute(statement, (str(tmp_path),)).fetchone()
    return int(row[0])


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def is_refused(url: str, statement: str) -> bool:
    """Whether rights forbid a statement; what else keeps it from working is not asked."""
    with psycopg.connect(url) as connection:
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            return True
        except psycopg.errors.NotNullViolation:
            return False
        finally:
            connection.rollback()
    return False


def test_a_connector_runs_under_the_runners_and_the_sources_roles(
    urls: dict[str, str], connector: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", urls["ferry_runner"])
    monkeypatch.setenv("SOURCE_URL", urls["ferry_source"])
    result = engine.run_connector(connector)
    assert (result.status, result.rows) == ("success", 1000)
    assert (tmp_path / "results.csv").exists()
    with psycopg.connect(urls["control"]) as connection:
        assert connection.execute("SELECT status, rows_ingested FROM cai_connector_runs").fetchall() == [("success", 1000)]
        assert connection.execute("SELECT state FROM ferry_files").fetchall() == [("written",)]


def test_the_runner_closes_a_dead_run(urls: dict[str, str], connector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        urls["control"],
        f"INSERT INTO cai_connector_runs (connector_id, status, started_at, log_summary) VALUES ({connector}, 'started', now(), 'running on h, process 1')",
        f"""INSERT INTO ferry_leases (connector_id, token, run_id, host, process, acquired_at, renewed_at, expires_at)
            SELECT {connector}, 1, max(id), 'h', 1, now(), now(), now() - interval '1 minute' FROM cai_connector_runs""",
        f"""INSERT INTO ferry_files (connector_id, token, path, url, host, state, leftover, changed_at)
            VALUES ({connector}, 1, 'gone.csv', '/elsewhere/gone.csv', 'h', 'writing', '.gone', now())""",
    )
    monkeypatch.setenv("DATABASE_URL", urls["ferry_runner"])
    monkeypatch.setenv("SOURCE_URL", urls["ferry_source"])
    assert len(reaper.reap().runs) == 1
    with psycopg.connect(urls["control"]) as connection:
        ((status, summary),) = connection.execute("SELECT status, log_summary FROM cai_connector_runs").fetchall()
        assert status == "failed"
        assert summary.startswith("abandoned: ")
        assert connection.execute("SELECT state FROM ferry_files").fetchall() == [("swept",)]


def test_the_check_finds_nothing_missing_for_the_runner(urls: dict[str, str]) -> None:
    with ControlDatabase(urls["ferry_runner"]) as control:
        assert tables.check(control, registry.TYPE_CODES).problems == []


def test_the_check_names_what_the_history_role_lacks(urls: dict[str, str]) -> None:
    with ControlDatabase(urls["ferry_history"]) as control:
        problems = tables.check(control, registry.TYPE_CODES).problems
    lacked: dict[str, tuple[str, ...]] = {"cai_connector_runs": ("INSERT", "UPDATE"), "ferry_leases": ("INSERT", "UPDATE"), "ferry_files": ("INSERT", "UPDATE")}
    lacked |= {table: ("SELECT",) for table in CONFIGURATIONS if table != "cai_connectors"}
    assert set(problems) == {f"{table}: this role lacks {right}; see data/grants.sql" for table, rights in lacked.items() for right in rights}


def test_the_history_role_sees_runs_and_is_warned_that_it_closes_none(urls: dict[str, str], connector: int) -> None:
    with psycopg.connect(urls["control"]) as connection:
        row: Any = connection.execute(
            "INSERT INTO cai_connector_runs (connector_id, status, started_at, finished_at, log_summary) VALUES (%s, 'success', now(), now(), 'all is well') RETURNING id",
            (connector,),
        ).fetchone()
    for arguments, words in ((["runs"], "success"), (["runs", "show", str(row[0])], "all is well")):
        result = subprocess.run(
            [*FERRY, *arguments], env={"DATABASE_URL": urls["ferry_history"], "PATH": ""}, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
        assert words in result.stdout
        assert f"{connector} c" in result.stdout
        assert len(result.stderr.splitlines()) == 1
        assert "warning: dead runs could not be closed" in result.stderr


@pytest.mark.parametrize("statement", CONTROL_STATEMENTS)
@pytest.mark.parametrize("role", ["ferry_runner", "ferry_history", "ferry_source in the control database"])
def test_in_the_control_database_everything_else_is_refused(urls: dict[str, str], role: str, statement: str) -> None:
    assert is_refused(urls[role], statement) == (statement not in ALLOWED.get(role, set()))


@pytest.mark.parametrize("statement", SOURCE_STATEMENTS)
def test_in_a_source_database_everything_but_reading_is_refused(urls: dict[str, str], statement: str) -> None:
    assert is_refused(urls["ferry_source"], statement) == (statement not in ALLOWED["ferry_source"])


def test_none_of_the_roles_can_log_in_or_has_a_right_over_the_server(urls: dict[str, str]) -> None:
    with psycopg.connect(urls["control"]) as connection:
        found = connection.execute(
            "SELECT rolname, rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = ANY(%s)",
            (list(LOGINS),),
        ).fetchall()
    assert sorted(found) == [("ferry_history", False), ("ferry_runner", False), ("ferry_source", False)]


def test_in_a_database_with_some_of_the_tables_the_others_are_passed_over(database: str) -> None:
    execute(database, "CREATE TABLE cai_connectors (id int, name text, config text)", GRANTS)
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "SELECT has_table_privilege('ferry_runner', 'cai_connectors', 'SELECT'), has_table_privilege('ferry_source', 'cai_connectors', 'SELECT')"
        )
        assert found.fetchone() == (True, False)
