"""Connectors out of the control database and back: nothing changes on the way, no secret leaves, and a bad file changes nothing."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from engine.control import exchange
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError
from tests.cli.test_bad_input import count, until
from tests.effort import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

FERRY = (sys.executable, "-c", "from engine.cli import main; main()")
SECRET = "s3cr3t-canary"
TABLES = ("cai_defined_sources", "cai_defined_destinations", "cai_connectors")
SOURCES: dict[int, dict[str, Any]] = {
    1: {"host": "db", "port": 5432, "username": "u", "password": SECRET, "schema": "public", "ssl": None, "list": [1, "a"], "nothing": {}},
    2: {"connection_string": f"postgresql://u:{SECRET}@db/x", "query": "SELECT 1,\n  'ž'\nFROM t"},
    3: {"connection_string": "env:STUDY_URL", "password": "file:study-password"},
    4: {},
}
DESTINATIONS: dict[int, dict[str, Any]] = {
    1: {"bucket": "b", "aws_access_key_id": SECRET, "aws_secret_access_key": SECRET, "aws_session_token": SECRET, "endpoint_url": "http://s3:9000"},
    2: {"url": f"https://u:{SECRET}@api/up", "headers": {"X-Key": SECRET, "X-Other": "env:OTHER"}, "auth": {"token": SECRET, "type": "bearer"}},
    3: {"path": "/mnt", "mirrors": [f"https://u:p@{SECRET}@one/"], "passphrase": SECRET, "api_key": SECRET},
}
CONNECTORS = {
    1: (1, 1, {"query": "TABLE a", "host": None}, None),
    2: (2, 2, {"password": SECRET}, {}),
    7: (3, 3, None, {"path": None}),
    8: (None, None, None, None),
}


def code(connection: Any, name: str) -> int:
    return int(connection.execute("SELECT id FROM ad_lookup_codes WHERE lookup_code = %s", (name,)).fetchone()[0])


@pytest.fixture
def stored(control_url: str) -> str:
    """A control database with connectors of every kind; secrets everywhere."""
    with psycopg.connect(control_url) as connection:
        for table, end, entries, kind in ((TABLES[0], "source", SOURCES, "postgres"), (TABLES[1], "destination", DESTINATIONS, "s3")):
            for key, config in entries.items():
                connection.execute(
                    f"INSERT INTO {table} (id, name, {end}_type_lookup_code_id, config) VALUES (%s, %s, %s, %s)",
                    (key, f"{end} {key}: yes", code(connection, kind), Jsonb(config)),
                )
        for key, (source, destination, *overrides) in CONNECTORS.items():
            connection.execute(
                "INSERT INTO cai_connectors VALUES (%s, %s, %s, %s, %s, %s)",
                (key, f"connector {key}", source, destination, *(None if one is None else Jsonb(one) for one in overrides)),
            )
        connection.execute("INSERT INTO cai_defined_sources (id, name) VALUES (5, 'neither type nor config')")
    return control_url


@pytest.fixture
def control(control_url: str) -> Iterator[ControlDatabase]:
    with ControlDatabase(control_url) as opened:
        yield opened


def rows(url: str) -> dict[str, list[Any]]:
    with psycopg.connect(url) as connection:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in TABLES}


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def test_what_was_exported_is_imported_without_a_change(stored: str, control: ControlDatabase) -> None:
    before = rows(stored)
    document = exchange.parse(exchange.dump(exchange.read(control)))
    assert exchange.compare(control, document) == []
    assert exchange.apply(control, document) == []
    assert rows(stored) == before


@pytest.mark.usefixtures("stored")
def test_no_secret_is_exported_and_references_are(control: ControlDatabase) -> None:
    text = exchange.dump(exchange.read(control))
    assert SECRET not in text
    assert "&" not in text
    assert "*" not in text  # no YAML aliases: each !keep stands where it belongs
    for line in (
        "password: !keep",
        "connection_string: !keep",
        "aws_access_key_id: !keep",
        "aws_secret_access_key: !keep",
        "aws_session_token: !keep",
        "url: !keep",
        "X-Key: !keep",
        "X-Other: env:OTHER",
        "token: !keep",
        "mirrors: !keep",
        "passphrase: !keep",
        "api_key: !keep",
        "connection_string: env:STUDY_URL",
        "password: file:study-password",
        "endpoint_url: http://s3:9000",
        "ssl: null",
        "source_override: null",
    ):
        assert f" {line}\n" in text


@pytest.mark.usefixtures("stored")
def test_a_query_of_several_lines_is_a_block_that_people_can_read(control: ControlDatabase) -> None:
    assert "query: |-\n      SELECT 1,\n        'ž'\n      FROM t\n" in exchange.dump(exchange.read(control))


@pytest.mark.usefixtures("stored")
def test_single_connectors_come_with_their_ends_only(control: ControlDatabase) -> None:
    document = exchange.read(control, [7, 1])
    assert [one.id for one in document.connectors] == [1, 7]
    assert [one.id for one in document.sources] == [1, 3]
    assert [one.id for one in document.destinations] == [1, 3]
    with pytest.raises(ConfigurationError, match="no connector 99 in the control database"):
        exchange.read(control, [1, 99])


def test_keep_leaves_the_stored_secret_while_others_change(stored: str, control: ControlDatabase) -> None:
    text = exchange.dump(exchange.read(control)).replace("username: u\n", "username: somebody\n").replace("bucket: b\n", "bucket: other\n")
    lines = exchange.apply(control, exchange.parse(text))
    assert lines == ['~ source 1 config.username: "u" → "somebody"', '~ destination 1 config.bucket: "b" → "other"']
    after = rows(stored)
    assert after["cai_defined_sources"][0][3] == {**SOURCES[1], "username": "somebody"}
    assert after["cai_defined_destinations"][0][3] == {**DESTINATIONS[1], "bucket": "other"}


def test_comparing_writes_nothing_and_shows_no_secret(stored: str, control: ControlDatabase) -> None:
    before = rows(stored)
    text = f"""
sources:
  - {{id: 1, name: new name, type: postgres, config: {{host: db, password: {SECRET}-2, connection_string: "postgresql://u:{SECRET}@h/d"}}}}
destinations:
  - {{id: 2, name: api, type: s3, config: {{url: "https://u:p@{SECRET}-2@api/up", headers: {{X-Key: {SECRET}-2}}, auth: {{token: env:TOKEN}}}}}}
connectors:
  - {{name: one more, source: 1, destination: 1, source_override: {{password: {SECRET}, query: TABLE t}}}}
"""
    lines = exchange.compare(control, exchange.parse(text))
    assert rows(stored) == before
    assert SECRET not in "\n".join(lines)
    for line in (
        '~ source 1 name: "source 1: yes" → "new name"',
        '~ source 1 config.password: "***" → "***"',
        '+ source 1 config.connection_string: "***"',
        '- source 1 config.schema: "public"',
        "- source 1 config.ssl: null",
        '~ destination 2 config.url: "https://u:***@api/up" → "https://u:***@api/up"',
        '~ destination 2 config.headers.X-Key: "***" → "***"',
        '~ destination 2 config.auth.token: "***" → "env:TOKEN"',
        "+ connector (new) 'one more'",
        '+ connector (new) source_override.password: "***"',
        '+ connector (new) source_override.query: "TABLE t"',
    ):
        assert line in lines


def test_an_empty_control_database_takes_a_whole_export(control_url: str, control: ControlDatabase) -> None:
    text = """
sources: [{id: 5, name: s, type: PostgreSQL, config: {connection_string: env:URL}}]
destinations: [{id: 6, name: d, type: nfs, config: {path: /mnt}}]
connectors: [{id: 7, name: c, source: 5, destination: 6, source_override: {query: TABLE t, host: null}}]
"""
    document = exchange.parse(text)
    assert [line for line in exchange.apply(control, document) if line.count(" ") == 3] == ["+ source 5 's'", "+ destination 6 'd'", "+ connector 7 'c'"]
    assert exchange.compare(control, document) == []
    assert rows(control_url)["cai_connectors"] == [(7, "c", 5, 6, {"query": "TABLE t", "host": None}, None)]


def test_null_in_an_override_is_a_value_of_its_own(stored: str, control: ControlDatabase) -> None:
    text = "connectors: [{id: 8, name: connector 8, source_override: {host: null, header: true}}]"
    for document, line in ((text, "+ connector 8 source_override.host: null"), (text.replace("host: null, ", ""), "- connector 8 source_override.host: null")):
        assert line in exchange.apply(control, exchange.parse(document))
        assert exchange.compare(control, exchange.parse(document)) == []
    assert rows(stored)["cai_connectors"][-1][4] == {"header": True}
    assert exchange.compare(control, exchange.parse(text.replace("host: null, header: true", "header: 1")))


def test_entries_without_an_id_get_the_next_one(stored: str, control: ControlDatabase) -> None:
    exchange.apply(control, exchange.parse("connectors: [{id: 40, name: given}, {name: next}]"))
    assert [row[:2] for row in rows(stored)["cai_connectors"][-2:]] == [(40, "given"), (41, "next")]


def test_a_lower_id_never_moves_the_sequence_back(stored: str, control: ControlDatabase) -> None:
    execute(stored, "SELECT setval('cai_connectors_id_seq', 100)")  # connectors up to 100 were there, and their runs still are
    exchange.apply(control, exchange.parse("connectors: [{id: 40, name: given}, {name: next}]"))
    assert [row[:2] for row in rows(stored)["cai_connectors"][-2:]] == [(40, "given"), (101, "next")]


def test_keys_are_text_and_texts_are_not_touched(control: ControlDatabase) -> None:
    text = "sources: [{name: n, type: s3, config: {null: NA, yes: no, 7: 08, query: \"a\\n!keep ''\\nb\"}}]"
    exchange.apply(control, exchange.parse(text))
    config = {"null": "NA", "yes": False, "7": "08", "query": "a\n!keep ''\nb"}
    assert config in [entry.config for entry in exchange.read(control).sources]
    assert config in [entry.config for entry in exchange.parse(exchange.dump(exchange.read(control))).sources]


BAD_FILES = [
    ("sources: [{id: 9, name: n, type: s3, config: {password: !keep }}]", "sources[0].config.password is !keep, and nothing is stored there"),
    ("sources: [{id: 1, name: n, type: s3, config: {token: !keep }}]", "sources[0].config.token is !keep, and nothing is stored there"),
    ("sources: [{name: n, type: s3, config: {password: !keep }}]", "sources[0].config.password is !keep"),
    ("sources: [{id: 1, name: n, type: s3, config: {list: [!keep ]}}]", "sources[0].config.list"),
    ("sources: [{id: 1, name: !keep , type: s3}]", "sources[0].name"),
    ("sources: [{id: 1, name: n, type: s3, config: !keep }]", "sources[0].config"),
    ("sources: [{id: 1, name: n, type: s3, config: {password: '***'}}]", "sources[0].config.password is ***"),
    ("sources: [{id: 1, name: n, type: s3, config: {headers: {a: '***'}}}]", "sources[0].config.headers.a is ***"),
    ("sources: [{id: 1, name: n, type: s3, config: {list: ['***']}}]", "sources[0].config.list"),
    ("sources: [{id: 1, name: n, type: s3, config: {url: 'https://u:***@h/'}}]", "sources[0].config.url"),
    ("sources: [{id: 1, name: n, type: s3, config: {url: 'https://h/?token=***'}}]", "sources[0].config.url"),
    ("connections: []", "unknown key 'connections'; did you mean 'connectors'?"),
    ("sources: [{id: 1, name: n, type: s3, confg: {}}]", "unknown key 'sources[0].confg'; did you mean 'config'?"),
    ("connectors: [{id: 1, name: n, soruce: 1}]", "unknown key 'connectors[0].soruce'"),
    ("sources: [{id: 1, name: n}]", "sources[0].type: is missing"),
    ("sources: [{id: 1, type: s3}]", "sources[0].name: is missing"),
    ("sources: [{id: one, name: n, type: s3}]", "sources[0].id"),
    ("sources: [{id: 0, name: n, type: s3}]", "sources[0].id"),
    ("sources: [{id: true, name: n, type: s3}]", "sources[0].id"),
    ("sources: [{id: 1, name: '', type: s3}]", "sources[0].name"),
    ("sources: [{id: 1, name: 7, type: s3}]", "sources[0].name"),
    ("sources: [{id: 1, name: n, type: s3, config: text}]", "sources[0].config"),
    ("sources: [{id: 1, name: n, type: s3, config: {[a]: b}}]", "a key is plain text"),
    (f"sources: [{{id: 1, name: n, type: s3, config: {{{SECRET}, {SECRET}}}}}]", "a key stands twice"),
    ("sources: [{id: 1, name: n, type: s3, config: {password: !keep this}}]", "at line 1, column 57: !keep stands alone"),
    ("sources: [{id: 1, name: n, type: s3, config: {day: 2024-01-01}}]", "sources[0].config.day"),
    ("sources: [{id: 1, name: n, type: s3, config: {factor: .nan}}]", "sources[0].config.factor"),
    ("sources: [{id: 1, name: n, type: s3, config: {bytes: !!binary aGVsbG8=}}]", "sources[0].config.bytes"),
    ('sources: [{id: 1, name: n, type: s3, config: {text: "a\\0b"}}]', "sources[0].config.text"),
    ("sources: [{id: 1, name: n, type: s3, config: &a {inner: *a}}]", "no YAML that ferry reads"),
    ("sources: [{id: 1, name: n, type: s3, config: &a {inner: [*a]}}]", "no YAML that ferry reads"),
    ("sources: {id: 1}", "sources"),
    ("- a\n- b", "the file"),
    ("sources: [{id: 1, name: n, type: s3}, {id: 1, name: m, type: s3}]", "sources[1]: the id 1 stands twice"),
    ("connectors: [{id: 1, name: n, source: 99}]", "connectors[0].source: there is no source 99"),
    ("connectors: [{id: 1, name: n, destination: 99}]", "connectors[0].destination: there is no destination 99"),
    ("sources: [{id: 1, name: n, type: floppy}]", "sources[0].type: 'floppy' is not in ad_lookup_codes"),
    (f"sources:\n  - password: {SECRET}\n   name: [", "at line 3"),
    (f"sources: [{{password: {SECRET}", "no YAML that ferry reads at line"),
    (f"password: {SECRET}: {SECRET}", "no YAML that ferry reads at line"),
    (f"sources: !!python/object/apply:os.system ['{SECRET}']", "no YAML that ferry reads"),
    (f"sources: [{{id: {SECRET}, name: n, type: s3}}]", "sources[0].id"),
    (f"sources: [{{id: 1, name: n, type: s3, config: {SECRET}}}]", "sources[0].config"),
    ("[" * 3000, "no YAML that ferry reads"),
    (f"a: {SECRET}\x07", "no YAML that ferry reads"),
]


@pytest.mark.parametrize(("text", "words"), spread(BAD_FILES, 2))
def test_a_bad_file_is_one_error_that_names_the_place_and_quotes_no_secret(stored: str, control: ControlDatabase, text: str, words: str) -> None:
    before = rows(stored)
    for way in (exchange.compare, exchange.apply):
        with pytest.raises(ConfigurationError) as caught:
            way(control, exchange.parse(text))
        assert words in str(caught.value)
        assert SECRET not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert rows(stored) == before


def test_an_import_waits_for_another_and_compares_with_what_that_wrote(stored: str, control: ControlDatabase) -> None:
    document = exchange.parse("connectors: [{id: 50, name: mine}]")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cai_connectors'::regclass"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(stored) as other:
        other.execute("INSERT INTO cai_connectors (id, name) VALUES (50, 'theirs')")
        importing = pool.submit(exchange.apply, control, document)
        until(lambda: count(other, waiting) == 1)
        other.commit()
        assert importing.result(20) == ['~ connector 50 name: "theirs" → "mine"']


def test_a_failing_last_entry_leaves_nothing_of_the_others(stored: str, control: ControlDatabase) -> None:
    execute(stored, "ALTER TABLE cai_connectors ADD CHECK (name <> 'bad')")
    before = rows(stored)
    text = "sources: [{id: 1, name: changed, type: s3}, {id: 50, name: new, type: s3}]\nconnectors: [{id: 1, name: changed}, {id: 51, name: bad}]"
    with pytest.raises(ConfigurationError, match=r"did not take the connectors \(SQLSTATE 23514\); nothing was written"):
        exchange.apply(control, exchange.parse(text))
    assert rows(stored) == before


def test_a_role_that_may_not_write_is_told_so(postgres: Any, stored: str) -> None:
    execute(stored, "DROP ROLE IF EXISTS exchange_reader", "CREATE ROLE exchange_reader LOGIN PASSWORD 'pw'")
    execute(stored, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO exchange_reader")
    with ControlDatabase(stored.replace(f"postgres:{postgres.password}", "exchange_reader:pw")) as control:
        document = exchange.parse("connectors: [{id: 1, name: changed}]")
        assert exchange.compare(control, document)
        with pytest.raises(ConfigurationError, match="may not write connectors"):
            exchange.apply(control, document)
    execute(stored, "DROP OWNED BY exchange_reader", "DROP ROLE exchange_reader")


@pytest.mark.parametrize("column_type", ["TEXT", "JSON"])
def test_configurations_may_be_kept_as_text(stored: str, control: ControlDatabase, column_type: str) -> None:
    for table, column in (*((table, "config") for table in TABLES[:2]), (TABLES[2], "source_config_override"), (TABLES[2], "destination_config_override")):
        execute(stored, f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {column_type} USING {column}::{column_type}")
    document = exchange.parse(exchange.dump(exchange.read(control)))
    assert exchange.compare(control, document) == []
    assert document.connectors[0].source_override is not None
    document.connectors[0].source_override["query"] = "TABLE b"
    assert exchange.apply(control, document) == ['~ connector 1 source_override.query: "TABLE a" → "TABLE b"']
    assert exchange.compare(control, document) == []


def test_a_configuration_that_is_no_json_object_is_named(stored: str, control: ControlDatabase) -> None:
    execute(stored, f"""UPDATE cai_defined_sources SET config = '["{SECRET}"]' WHERE id = 2""")
    with pytest.raises(ConfigurationError, match=r"^source 2: config is no JSON object$"):
        exchange.read(control)


def test_the_commands_show_then_write(stored: str) -> None:
    def ferry(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        env = {"DATABASE_URL": stored, "PATH": ""}
        return subprocess.run([*FERRY, "connectors", *arguments], env=env, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    exported = ferry("export")
    assert (exported.returncode, exported.stderr) == (0, "")
    assert ferry("import", "-", stdin=exported.stdout).stdout == "nothing differs\n"
    changed = exported.stdout.replace("bucket: b\n", "bucket: other\n")
    line = '~ destination 1 config.bucket: "b" → "other"\n'
    assert ferry("import", "-", stdin=changed).stdout == f"{line}nothing was written; --apply writes it\n"
    assert ferry("import", "-", "--apply", stdin=changed).stdout == f"{line}written\n"
    assert ferry("import", "-", stdin=changed).stdout == "nothing differs\n"
    refused = ferry("import", "-", "--apply", stdin=f"sources: [{{password: {SECRET}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert SECRET not in refused.stderr
