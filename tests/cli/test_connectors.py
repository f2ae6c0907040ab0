"""Connectors from the command line: what they say when all is well, and one clear line, a failed record and nothing opened when it is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from engine import embedded, registry
from engine.control import tables
from engine.control.database import ControlDatabase
from tests.cli.test_bad_input import SECRET, ferry, refused
from tests.effort import slow, spread

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"connection_string": "env:DATABASE_URL", "query": "SELECT i AS id FROM generate_series(1, 10) i", "csv_filename": "x.csv"}


class Platform:
    """Writes connectors into a control database as the platform does."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        with ControlDatabase(url) as control:
            tables.init(control, registry.TYPE_CODES)

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def connector(self, source: Any = None, destination: Any = None, *, types: tuple[str, str] = ("postgres", "nfs"), **override: Any) -> int:
        """Store one; a configuration is a dict, JSON text, or None."""
        ends = []
        for end, code, config in (
            ("source", types[0], GOOD if source is None else source),
            ("destination", types[1], destination or {"path": str(self.folder)}),
        ):
            value = config if isinstance(config, str) or config == "NULL" else json.dumps(config)
            code_id = self.execute(
                "INSERT INTO ad_lookup_codes (lookup_code) VALUES (%s) ON CONFLICT (lookup_code) DO UPDATE SET id = ad_lookup_codes.id RETURNING id", code
            )
            insert = f"INSERT INTO cai_defined_{end}s (name, {end}_type_lookup_code_id, config) VALUES (%s, %s, %s) RETURNING id"
            ends.append(self.execute(insert, end, code_id[0][0], None if value == "NULL" else value)[0][0])
        insert = "INSERT INTO cai_connectors (name, defined_source_id, defined_destination_id, source_config_override) VALUES ('Lab', %s, %s, %s) RETURNING id"
        return int(self.execute(insert, *ends, json.dumps(override) if override else None)[0][0])

    def last_record(self, connector: int) -> tuple[Any, ...]:
        query = "SELECT status, log_summary, finished_at IS NOT NULL FROM cai_connector_runs WHERE connector_id = %s ORDER BY id DESC LIMIT 1"
        return self.execute(query, connector)[0]

    def ferry(self, *arguments: str, **environment: str) -> Any:
        return ferry(*arguments, env={"DATABASE_URL": self.url, **environment})


@pytest.fixture
def platform(database: str, tmp_path: Path) -> Platform:
    return Platform(database, tmp_path / "out")


def test_a_connector_runs_and_its_history_is_shown(platform: Platform) -> None:
    connector = platform.connector()
    ran = platform.ferry("run", str(connector), "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["status"], told["rows"], told["connector_id"]) == ("success", 10, connector)
    assert (platform.folder / "x.csv").read_text().count("\n") == 11
    listed = json.loads(platform.ferry("runs", "--json").stdout)
    assert [(one["id"], one["connector_name"], one["status"], one["rows_ingested"]) for one in listed] == [(told["run_id"], "Lab", "success", 10)]
    shown = platform.ferry("runs", "show", str(told["run_id"]))
    assert told["files"][0]["sha256"] in shown.stdout
    assert str(platform.folder / "x.csv") in shown.stdout
    table = platform.ferry("runs", "--connector", str(connector), "--status", "success").stdout
    assert "Lab" in table
    assert "10 rows" in table
    assert platform.ferry("runs", "--status", "failed").stdout == "no runs\n"


def test_a_run_of_a_connector_that_is_being_run_is_skipped(platform: Platform) -> None:
    connector = platform.connector()
    platform.execute("INSERT INTO ferry_leases VALUES (%s, 5, 77, NULL, 'elsewhere', 1, now(), now(), now() + interval '1 hour')", connector)
    ran = platform.ferry("run", str(connector))
    assert ran.returncode == 0
    assert ran.stdout == f"skipped: connector {connector} is being run by run 77 on elsewhere, process 1\n"
    assert platform.last_record(connector)[0] == "skipped"
    assert not platform.folder.exists()


def test_show_tells_each_values_origin_and_no_secret(platform: Platform) -> None:
    source = {"host": "db.example.org", "username": "reader", "password": SECRET, "query": "SELECT 1"}
    connector = platform.connector(
        source, {"bucket": "b", "prefix": "in/", "aws_secret_access_key": SECRET}, types=("SQL_DATABASE", "filesystem"), host="other.example.org"
    )
    shown = platform.ferry("connectors", "show", str(connector), MINIO_ENDPOINT="http://127.0.0.1:9000")
    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["host", "other.example.org", "(override)"] in lines
    assert ["password", "***", "(base)"] in lines
    assert ["path", "in/", "(base)"] in lines
    assert ["endpoint_url", "http://127.0.0.1:9000", "(environment", "MINIO_ENDPOINT)"] in lines
    assert "port=5432" in shown.stdout
    assert SECRET not in shown.stdout + platform.ferry("connectors", "show", str(connector), "--json").stdout
    assert "SQL_DATABASE → filesystem" in platform.ferry("connectors", "list").stdout


def test_show_tells_what_is_stored_where_it_cannot_be_merged(platform: Platform) -> None:
    connector = platform.connector({**GOOD, "connection_string": "env:NOT_SET", "password": SECRET, "query": "SELECT 1\nAS a"}, {"file_pattern": "*"})
    shown = platform.ferry("connectors", "show", str(connector))
    assert shown.returncode == 0
    assert shown.stderr.startswith(f"ferry: warning: connector {connector}: source: ")
    assert "NOT_SET, which is not set; what is stored is shown" in shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["connection_string", "env:NOT_SET", "(base)"] in lines
    assert ["password", "***", "(base)"] in lines
    assert lines[lines.index(["query", "SELECT", "1", "(base)"]) + 1] == ["AS", "a"]
    assert ["path", "(missing)"] in lines
    unknown = platform.ferry("connectors", "show", str(platform.connector({"a": 1}, types=("mongodb", "nfs"))))
    assert (unknown.returncode, "unknown type 'mongodb'" in unknown.stderr) == (0, True)


def test_the_list_tells_what_keeps_a_connector_from_being_whole(platform: Platform) -> None:
    connector = platform.connector()
    assert json.loads(platform.ferry("connectors", "list", "--json").stdout) == [
        {"id": connector, "name": "Lab", "source_type": "postgres", "destination_type": "nfs", "problems": []}
    ]
    platform.execute("UPDATE cai_connectors SET defined_source_id = NULL, defined_destination_id = 4711")
    listed = platform.ferry("connectors", "list")
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0].split() == [str(connector), "Lab", "?", "→", "?"]
    assert "has no source" in listed.stdout
    assert "destination 4711 is not in cai_defined_destinations" in listed.stdout
    assert len(json.loads(platform.ferry("connectors", "list", "--json").stdout)[0]["problems"]) == 2


def test_check_says_what_would_happen_and_moves_nothing(platform: Platform) -> None:
    good = platform.connector()
    checked = platform.ferry("connectors", "check", str(good))
    assert checked.returncode == 0, checked.stderr
    assert f"would write {platform.folder / 'x.csv'}: 1 column (id integer), about 10 rows from 127.0.0.1" in checked.stdout
    assert not platform.folder.exists()
    assert "neither end was tried" in platform.ferry("connectors", "check", str(good), "--offline").stdout
    bad = platform.connector({**GOOD, "query": "SELECT nothing FROM nowhere"})
    every = platform.ferry("connectors", "check", "--all")
    assert every.returncode == 1
    assert f"connector {good}: would write" in every.stdout
    assert "nowhere" in every.stderr
    assert platform.ferry("connectors", "check", str(bad), "--offline").returncode == 0
    assert platform.execute("SELECT count(*) FROM cai_connector_runs") == [(0,)]
    refused(platform.ferry("connectors", "check"), 2, "--all")


def test_check_tries_both_ends_before_it_says_what_is_wrong(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    connector = platform.connector({**GOOD, "query": "TABLE nowhere"}, {"path": str(tmp_path / "file")})
    refused(platform.ferry("connectors", "check", str(connector)), 1, f"connector {connector}: source: ", "nowhere", "; destination: ", str(tmp_path / "file"))
    good = platform.connector()
    found = json.loads(platform.ferry("connectors", "check", "--all", "--json").stdout)
    assert [(one["connector_id"], one["problem"] is None, one["exit_code"]) for one in found] == [(connector, False, 1), (good, True, 0)]


@pytest.mark.parametrize(("if_exists", "code", "words"), [("skip", 0, "would leave {file} as it is"), ("fail", 2, "{file} exists already (if_exists: fail)")])
def test_check_knows_what_happens_to_a_file_that_stands(platform: Platform, if_exists: str, code: int, words: str) -> None:
    connector = platform.connector(None, {"path": str(platform.folder), "if_exists": if_exists})
    assert "would write" in platform.ferry("connectors", "check", str(connector)).stdout
    assert platform.ferry("run", str(connector)).returncode == 0
    checked = platform.ferry("connectors", "check", str(connector))
    assert checked.returncode == code
    assert words.format(file=platform.folder / "x.csv") in checked.stdout + checked.stderr
    assert platform.ferry("run", str(connector)).returncode == code


@pytest.mark.parametrize(
    ("change", "words"),
    spread(
        [
            ({"source": {**GOOD, "qeury": "SELECT 1"}}, ["'qeury'", "did you mean 'query'"]),
            ({"source": {k: v for k, v in GOOD.items() if k != "query"}}, ["'query' is missing"]),
            ({"destination": {"file_pattern": "*"}}, ["'path' is missing"]),
            ({"destination": {"path": "/x", "if_exist": "skip"}}, ["destination: unknown key 'if_exist'", "did you mean 'if_exists'"]),
            ({"destination": {"prefix": "x"}, "types": ("postgres", "s3")}, ["'bucket' is missing"]),
            ({"types": ("mongodb", "nfs")}, ["unknown type 'mongodb'", "sql_database"]),
            ({"types": ("postgres", "ftp")}, ["unknown type 'ftp'"]),
            ({"destination": {"path": "/x", "hst": "nas"}, "types": ("postgres", "sftp")}, ["unknown key 'hst'", "did you mean 'host'"]),
            ({"source": "NULL"}, ["'query' is missing"]),
            ({"source": "[1, 2]"}, ["no JSON object"]),
            ({"source": {**GOOD, "connection_string": "env:NOT_SET"}}, ["NOT_SET", "not set"]),
            ({"source": {"host": "127.0.0.1", "password": "file:../../etc/passwd", "query": "SELECT 1"}}, ["'password'", "FERRY_SECRETS_DIR"]),
            ({"source": {**GOOD, "port": "abc", "connection_string": None}}, ["'port'"]),
            ({"source": {**GOOD, "csv_filename": "../x.csv"}}, ["../x.csv"]),
            ({"source": {**GOOD, "query": "DELETE FROM cai_connectors"}}, ["changes nothing"]),
        ],
        7,
    ),
)
def test_a_configuration_that_is_wrong_ends_the_record_and_opens_nothing(platform: Platform, change: dict[str, Any], words: list[str]) -> None:
    connector = platform.connector(**change)
    result = platform.ferry("run", str(connector))
    refused(result, 2, *words)
    status, summary, ended = platform.last_record(connector)
    assert (status, ended) == ("failed", True)
    assert result.stderr == f"ferry: {summary}\n"
    assert f"connector {connector}" in summary or "changes nothing" in summary
    assert not platform.folder.exists()
    refused(platform.ferry("connectors", "check", str(connector)), 2, *words)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE cai_connectors SET defined_source_id = NULL", ["has no source"]),
        slow("UPDATE cai_connectors SET defined_destination_id = 4711", ["destination 4711 is not in cai_defined_destinations"]),
        slow("UPDATE cai_defined_sources SET source_type_lookup_code_id = NULL", ["has no type"]),
        (
            f'ALTER TABLE cai_defined_sources ALTER config TYPE text; UPDATE cai_defined_sources SET config = \'{{"password": "{SECRET}", \'',
            ["no JSON", "line 1"],
        ),
        ("ALTER TABLE cai_connectors ALTER source_config_override TYPE text; UPDATE cai_connectors SET source_config_override = '7'", ["no JSON object"]),
    ],
)
def test_rows_that_do_not_fit_together_are_named(platform: Platform, statement: str, words: list[str]) -> None:
    connector = platform.connector()
    platform.execute(statement)
    refused(platform.ferry("run", str(connector)), 2, f"connector {connector}", *words)
    assert platform.last_record(connector)[0] == "failed"
    assert SECRET not in platform.last_record(connector)[1]
    refused(platform.ferry("connectors", "show", str(connector)), 2, *words)


def test_a_secret_file_that_is_no_text_is_named_and_not_quoted(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe" + SECRET.encode())
    connector = platform.connector({"host": "127.0.0.1", "password": "file:secret", "query": "SELECT 1"})
    result = platform.ferry("run", str(connector), FERRY_SECRETS_DIR=str(tmp_path))
    refused(result, 2, "'password'", "not UTF-8")
    assert "0xff" not in result.stderr


def test_a_status_that_there_is_not_is_refused(platform: Platform) -> None:
    refused(platform.ferry("runs", "--status", "bogus"), 2, "bogus", "skipped")


def test_a_connector_that_is_not_there_is_named_and_recorded(platform: Platform) -> None:
    refused(platform.ferry("run", "99"), 2, "there is no connector 99")
    assert platform.last_record(99)[0] == "failed"
    refused(platform.ferry("connectors", "show", "99"), 2, "there is no connector 99")
    refused(platform.ferry("connectors", "check", "99"), 2, "there is no connector 99")
    refused(platform.ferry("runs", "show", "99"), 2, "there is no run 99")
    refused(platform.ferry("runs", "--connector", "99999999999"), 2, "--connector")
    refused(platform.ferry("runs", "show", "99999999999"), 2, "there is no run 99999999999")
    refused(platform.ferry("run", "99999999999"), 2, "there is no connector 99999999999")


COMMANDS = (
    ["db", "init"],
    ["db", "check"],
    ["run", "1"],
    ["runs"],
    ["runs", "show", "1"],
    ["connectors", "list"],
    ["connectors", "show", "1"],
    ["connectors", "export"],
)


@pytest.mark.parametrize("arguments", [COMMANDS[0], *(slow(one) for one in COMMANDS[1:])], ids=" ".join)
@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, ["DATABASE_URL is not set"]),
        ("mysql://x", ["DATABASE_URL"]),
        ("  ", ["DATABASE_URL", "empty"]),
        (f"postgresql://user:x@{SECRET}@host/db", ["DATABASE_URL", "%40"]),
        (f"postgresql://user:x/{SECRET}@host/db", ["DATABASE_URL"]),
        (f"postgresql://user:{SECRET}@127.0.0.1:{{closed}}/db", ["control database", "nothing listens there"]),
    ],
    ids=["absent", "malformed", "empty", "at", "slash", "closed"],
)
def test_a_wrong_address_of_the_control_database_is_one_line(arguments: list[str], url: str | None, words: list[str]) -> None:
    environment = {} if url is None else {"DATABASE_URL": url.replace("{closed}", str(embedded.free_ports(1)[0]))}
    refused(ferry(*arguments, env=environment), 2, *words)


def test_a_control_database_without_tables_says_what_makes_them(database: str) -> None:
    refused(ferry("connectors", "list", env={"DATABASE_URL": database}), 2, "ferry db init")
    refused(ferry("run", "1", env={"DATABASE_URL": database}), 2, "ferry db init")
    checked = ferry("db", "check", env={"DATABASE_URL": database})
    assert checked.returncode == 1
    assert "cai_connectors is missing" in checked.stdout
    made = ferry("db", "init", "--json", env={"DATABASE_URL": database})
    assert "ferry_leases" in json.loads(made.stdout)["made"]
    assert ferry("db", "check", env={"DATABASE_URL": database.replace("postgresql://", "postgresql+psycopg2://")}).returncode == 0
    assert "nothing was missing" in ferry("db", "init", env={"DATABASE_URL": database}).stdout
    assert ferry("connectors", "list", env={"DATABASE_URL": database}).stdout.startswith("no connectors")


def test_a_run_that_fails_says_the_same_on_the_terminal_and_in_the_record(platform: Platform) -> None:
    connector = platform.connector({**GOOD, "query": f"SELECT ('{SECRET}' || i)::int AS a FROM generate_series(1, 10) i"})
    result = platform.ferry("run", str(connector))
    refused(result, 1, "22P02")
    assert platform.last_record(connector)[0] == "failed"
    assert result.stderr == f"ferry: {platform.last_record(connector)[1]}\n"
    debug = platform.ferry("run", str(connector), "--debug")
    assert debug.stderr.count("in run_dlt_pipeline") == 1  # the frames stand once, in the log
    assert debug.stderr.endswith(result.stderr)
    assert SECRET not in debug.stderr


def test_debug_shows_the_log_of_a_run(platform: Platform) -> None:
    connector = platform.connector()
    assert platform.ferry("run", str(connector)).stderr == ""
    debug = platform.ferry("run", str(connector), "--debug")
    assert "10 rows" in debug.stdout
    assert [line.split()[2] for line in debug.stderr.splitlines()] == ["INFO"] * len(debug.stderr.splitlines())
    assert f"connector={connector}" in debug.stderr


def test_what_a_command_has_to_warn_of_is_told_once_it_has_succeeded(platform: Platform) -> None:
    connector = platform.connector()
    platform.execute("INSERT INTO cai_connector_runs (connector_id, status, started_at) VALUES (%s, 'started', now())", connector)
    platform.execute("INSERT INTO ferry_leases VALUES (%s, 1, 1, NULL, 'elsewhere', 1, now(), now(), now() - interval '1 second')", connector)
    shown = platform.ferry("runs", "--json")
    assert shown.stderr == f"ferry: warning: connector {connector}: run 1 was abandoned, its record is closed\n"
    assert json.loads(shown.stdout)[0]["status"] == "failed"
    platform.execute("ALTER TABLE cai_connector_runs ADD CHECK (status <> 'started')")
    ran = platform.ferry("run", str(connector), "--json")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["run_id"] is None
    assert ran.stderr.startswith(f"ferry: warning: connector {connector}: no run record could be made")


@pytest.mark.parametrize("group", ["db", "connectors"])
def test_a_group_without_a_command_shows_its_help(group: str) -> None:
    shown = ferry(group)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith(f"Usage: ferry {group}")


def test_connectors_travel_as_yaml(platform: Platform, tmp_path: Path) -> None:
    connector = platform.connector({**GOOD, "password": SECRET}, numeric={"a": "10,2"})
    exported = platform.ferry("connectors", "export", str(connector))
    assert "password: !keep\n" in exported.stdout
    assert SECRET not in exported.stdout
    file = tmp_path / "connectors.yaml"
    file.write_text(exported.stdout)
    assert platform.ferry("connectors", "import", str(file)).stdout == "nothing differs\n"
    file.write_text(exported.stdout.replace("x.csv", "y.csv"))
    told = platform.ferry("connectors", "import", str(file)).stdout
    assert 'config.csv_filename: "x.csv" → "y.csv"' in told
    assert "--apply writes it" in told
    assert platform.ferry("connectors", "import", str(file), "--apply").stdout.endswith("written\n")
    assert platform.execute("SELECT config ->> 'csv_filename', config ->> 'password' FROM cai_defined_sources") == [("y.csv", SECRET)]
    refused(platform.ferry("connectors", "import", str(tmp_path / "none.yaml")), 2, "none.yaml")
    refused(platform.ferry("connectors", "export", "99"), 2, "there is no connector 99")


def test_an_import_warns_of_connectors_that_could_not_run(platform: Platform, tmp_path: Path) -> None:
    stored = platform.connector()
    file = tmp_path / "connectors.yaml"
    file.write_text(
        "sources: [{id: 1, name: source, type: postgres, config: {connection_string: 'env:NOT_SET', query: SELECT 1}}]\n"
        "connectors: [{name: fresh, source: 1, destination: 1, source_override: {qeury: SELECT 1}}, {id: 70, name: bare}]\n"
    )
    told = platform.ferry("connectors", "import", str(file))
    assert told.returncode == 0
    assert [line.removeprefix("ferry: warning: ") for line in told.stderr.splitlines()] == [
        "connectors[0] could not run: source: 'connection_string' refers to the environment variable NOT_SET, which is not set",
        "connectors[1] could not run: has no source (defined_source_id is NULL)",
        f"connector {stored} could not run: source: 'connection_string' refers to the environment variable NOT_SET, which is not set",
    ]
    assert "unknown key 'qeury'; did you mean 'query'?" in platform.ferry("connectors", "import", str(file), "--apply", NOT_SET=platform.url).stderr
    assert platform.execute("SELECT name FROM cai_connectors ORDER BY name") == [("Lab",), ("bare",), ("fresh",)]
