"""`ferry db init` makes what is missing and alters nothing; `ferry db check` names what differs."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from engine import registry
from engine.control import tables
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError

FERRY = (sys.executable, "-c", "from engine.cli import main; main()")
ALL = list(tables.table_statements())
CONFIGURATIONS = (
    ("cai_defined_sources", "config"),
    ("cai_defined_destinations", "config"),
    ("cai_connectors", "source_config_override"),
    ("cai_connectors", "destination_config_override"),
)


def init(url: str) -> list[str]:
    with ControlDatabase(url) as control:
        return tables.init(control, registry.TYPE_CODES)


def problems(url: str) -> list[str]:
    with ControlDatabase(url) as control:
        return tables.check(control, registry.TYPE_CODES).problems


def fetch(url: str, *statements: str) -> list[Any]:
    """Run statements; the rows of the last one."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_init_makes_all_tables_once(database: str) -> None:
    assert len(problems(database)) == len(ALL)
    assert init(database) == ALL
    assert init(database) == []
    assert problems(database) == []
    assert [row[0] for row in fetch(database, "SELECT lookup_code FROM ad_lookup_codes ORDER BY id")] == list(registry.TYPE_CODES)


@pytest.mark.parametrize("missing", ALL)
def test_init_makes_only_what_is_missing(database: str, missing: str) -> None:
    init(database)
    fetch(database, f"DROP TABLE {missing}")
    assert problems(database) == [f"{missing} is missing; ferry db init makes it"]
    assert init(database) == [missing]
    assert problems(database) == []


def test_init_alters_no_table_that_stands(database: str) -> None:
    fetch(
        database,
        "CREATE TABLE ad_lookup_codes (id BIGINT PRIMARY KEY, lookup_code TEXT, extra INT DEFAULT 3)",
        "INSERT INTO ad_lookup_codes (id, lookup_code) VALUES (7, 'Postgres')",
        "CREATE TABLE cai_connector_runs (note TEXT)",
    )
    assert init(database) == [table for table in ALL if table not in {"ad_lookup_codes", "cai_connector_runs"}]
    assert fetch(database, "SELECT * FROM ad_lookup_codes") == [(7, "Postgres", 3)]
    assert fetch(database, "SELECT attname FROM pg_attribute WHERE attrelid = 'cai_connector_runs'::regclass AND attnum > 0") == [("note",)]


def test_init_is_one_transaction(database: str) -> None:
    fetch(database, "CREATE TABLE elsewhere (a int)", "CREATE INDEX ferry_files_run ON elsewhere (a)")  # the name that an index of ours needs
    with pytest.raises(ConfigurationError, match=r"the tables could not be made .*SQLSTATE 42P07"):
        init(database)
    assert len(problems(database)) == len(ALL)


def test_two_inits_at_once_make_each_table_once(database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(init, [database] * 4))
    assert sorted(made) == [[], [], [], ALL]
    assert problems(database) == []


def test_a_role_that_may_not_make_tables_is_told_so(postgres: Any, database: str) -> None:
    fetch(database, "DROP ROLE IF EXISTS tables_poor", "CREATE ROLE tables_poor LOGIN PASSWORD 'pw'")
    with pytest.raises(ConfigurationError, match="may not create tables"):
        init(database.replace(f"postgres:{postgres.password}", "tables_poor:pw"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER TABLE cai_connectors DROP COLUMN source_config_override", "cai_connectors.source_config_override is missing (jsonb)"),
        ("ALTER TABLE cai_connector_runs DROP COLUMN log_summary", "cai_connector_runs.log_summary is missing (text)"),
        (
            "ALTER TABLE cai_connector_runs ALTER rows_ingested TYPE text",
            "cai_connector_runs.rows_ingested is text, not integer",
        ),
        (
            "ALTER TABLE cai_connector_runs ALTER started_at TYPE date",
            "cai_connector_runs.started_at is date, not timestamp without time zone",
        ),
        ("ALTER TABLE cai_defined_sources ALTER config TYPE integer USING 1", "cai_defined_sources.config is integer, not jsonb"),
        ("ALTER TABLE cai_connector_runs ALTER id DROP DEFAULT", "cai_connector_runs.id has no default; a record cannot be made"),
        (
            "ALTER TABLE cai_connector_runs ADD tenant int NOT NULL",
            "cai_connector_runs.tenant must be given, and ferry does not know it",
        ),
    ],
)
def test_the_check_names_what_differs(database: str, change: str, problem: str) -> None:
    init(database)
    fetch(database, change)
    assert problems(database) == [problem]
    assert init(database) == []
    assert problems(database) == [problem]


def test_columns_that_a_newer_version_adds_to_its_own_tables_are_made(database: str) -> None:
    init(database)
    before = fetch(database, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'ferry_files' ORDER BY 1")
    fetch(database, "INSERT INTO ferry_files (connector_id, token, path, url, host, state, changed_at) VALUES (1, 1, 'x', 'x', 'h', 'written', now())")
    fetch(database, "ALTER TABLE ferry_files DROP id, DROP source_path, DROP source_version, DROP sha256")
    assert [problem.partition(" ")[0] for problem in problems(database)] == [
        f"ferry_files.{name}" for name in ("id", "sha256", "source_path", "source_version")
    ]
    assert init(database) == [f"ferry_files.{name}" for name in ("id", "sha256", "source_path", "source_version")]
    assert fetch(database, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'ferry_files' ORDER BY 1") == before
    assert fetch(database, "SELECT id FROM ferry_files") == [(1,)]
    assert fetch(database, "SELECT indexname FROM pg_indexes WHERE indexname = 'ferry_files_source'") == [("ferry_files_source",)]
    assert problems(database) == []
    assert init(database) == []


@pytest.mark.parametrize(
    "changes",
    [
        [f"ALTER TABLE {table} ALTER {column} TYPE TEXT" for table, column in CONFIGURATIONS],
        [f"ALTER TABLE {table} ALTER {column} TYPE JSON" for table, column in CONFIGURATIONS],
        [f"ALTER TABLE {table} ALTER id TYPE BIGINT" for table in ALL if not table.startswith("ferry")],
        ["ALTER TABLE cai_connector_runs ALTER id DROP DEFAULT", "ALTER TABLE cai_connector_runs ALTER id ADD GENERATED BY DEFAULT AS IDENTITY"],
        ["ALTER TABLE cai_connector_runs ALTER started_at TYPE TIMESTAMPTZ", "ALTER TABLE cai_connector_runs ALTER finished_at TYPE TIMESTAMPTZ"],
        ["ALTER TABLE cai_connector_runs ALTER status TYPE TEXT", "ALTER TABLE cai_connectors ALTER name TYPE TEXT"],
        ["ALTER TABLE cai_connector_runs ADD tenant INT NOT NULL DEFAULT 1", "ALTER TABLE cai_connector_runs ADD remark TEXT"],
        ["ALTER TABLE cai_connectors ADD schedule TEXT NOT NULL"],
        ["UPDATE ad_lookup_codes SET lookup_code = ' ' || upper(lookup_code) || ' '"],
    ],
    ids=["text", "json", "bigint", "identity", "timestamptz", "names", "more columns", "the platform's own", "codes"],
)
def test_what_does_as_well_is_no_problem(database: str, changes: list[str]) -> None:
    init(database)
    fetch(database, *changes)
    assert problems(database) == []


def test_missing_codes_come_with_the_statements_that_add_them(database: str) -> None:
    init(database)
    fetch(database, "DELETE FROM ad_lookup_codes WHERE lookup_code IN ('nfs', 's3')")
    with ControlDatabase(database) as control:
        found = tables.check(control, registry.TYPE_CODES)
    assert found.problems == ["ad_lookup_codes lacks the codes s3, nfs (only those that your connectors use are needed)"]
    assert init(database) == []
    fetch(database, *found.statements)
    assert problems(database) == []


def test_the_commands_tell_it(database: str) -> None:
    def ferry(*arguments: str) -> tuple[int, str, str]:
        env = {"DATABASE_URL": database, "PATH": ""}
        result = subprocess.run([*FERRY, "db", *arguments], env=env, capture_output=True, text=True, timeout=60, check=False)
        return result.returncode, result.stdout, result.stderr

    where = f"127.0.0.1:{database.rpartition(':')[2]}"
    assert ferry("check") == (1, "".join(f"{table} is missing; ferry db init makes it\n" for table in ALL), "")
    assert ferry("init") == (0, f"made in {where}: {', '.join(ALL)}\n", "")
    assert ferry("init") == (0, f"nothing was missing in {where}\n", "")
    assert ferry("check") == (0, f"the control database at {where} has what connectors need\n", "")
    fetch(database, "DELETE FROM ad_lookup_codes WHERE lookup_code = 'nfs'")
    code, out, _ = ferry("check")
    assert (code, out.splitlines()[-1]) == (1, "INSERT INTO ad_lookup_codes (lookup_code) VALUES ('nfs');")
