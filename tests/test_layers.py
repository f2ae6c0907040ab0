"""How a configuration is made: layers, aliases, connection strings, removal by null, and references that stay references."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine import connector, layers
from engine.control.connectors import End, StoredConnector
from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.control.platform import Control

SECRET = "s3cr3t-canary"
URL = "postgresql+psycopg2://ann:pw@db.example:5433/study?sslmode=require&target_session_attrs=read-write"
EXPANDED = {
    "host": "db.example",
    "port": "5433",
    "database": "study",
    "username": "ann",
    "password": "pw",
    "sslmode": "require",
    "parameters": {"target_session_attrs": "read-write"},
}


def merged(base: dict[str, Any], override: dict[str, Any], *, code: str = "postgres") -> dict[str, Any]:
    end, folder, query = End(code, base, override), End("nfs", {}, {}), End("postgres", {}, {})
    stored = StoredConnector(1, "Lab", end, folder) if code == "postgres" else StoredConnector(1, "Lab", query, end)
    return dict(layers.merged_connector(stored)["source_config" if code == "postgres" else "destination_config"])


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ({"host": "a", "port": 1}, {"host": "b"}, {"host": "b", "port": 1}),
        ({"user": "a"}, {"username": "b"}, {"username": "b"}),
        ({"username": "a"}, {"user": "b"}, {"username": "b"}),
        ({"dbname": "a", "csv_filename": "x.csv"}, {"database": "b", "filename": "y.csv"}, {"database": "b", "filename": "y.csv"}),
        ({"host": "a"}, {"host": None}, {}),
        ({"user": "a"}, {"username": None}, {}),
        ({"username": "a"}, {"user": None}, {}),
        ({"host": None, "port": None}, {"port": 2}, {"port": 2}),
        ({"connection_string": URL}, {}, EXPANDED),
        ({}, {"connection_string": URL}, EXPANDED),
        ({"host": "x", "port": 1, "connection_string": URL}, {}, EXPANDED),
        ({"connection_string": URL}, {"host": "b", "password": "other"}, {**EXPANDED, "host": "b", "password": "other"}),
        (
            {"host": "a", "port": 1, "username": "ann", "query": "SELECT 1"},
            {"connection_string": "host=b dbname=c"},
            {"host": "b", "port": 1, "username": "ann", "database": "c", "query": "SELECT 1"},
        ),
        ({"connection_string": "host=a user=ann"}, {"connection_string": "host=b"}, {"host": "b", "username": "ann"}),
        ({"connection_string": URL, "query": "SELECT 1"}, {"connection_string": None}, {"query": "SELECT 1"}),
        ({"connection_string": "host=a user=ann password=pw"}, {"password": None}, {"host": "a", "username": "ann"}),
        ({"connection_string": "host=a user=ann password=pw"}, {"user": None}, {"host": "a", "password": "pw"}),
        ({"connection_string": "host=a user=ann"}, {"username": None, "connection_string": "host=b user=bob"}, {"host": "b", "username": "bob"}),
        ({"numeric": {"a": "5,2", "b": "6,2"}}, {"numeric": {"a": "7,2"}}, {"numeric": {"a": "7,2"}}),
    ],
)
def test_the_override_replaces_base_values_key_by_key(base: dict[str, Any], override: dict[str, Any], expected: dict[str, Any]) -> None:
    assert merged(base, override) == expected


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ({"bucket": "a", "prefix": "x"}, {"path": "y"}, {"bucket": "a", "path": "y"}),
        ({"bucket": "a", "path": "x"}, {"prefix": None}, {"bucket": "a"}),
        ({"bucket": "a", "prefix": "x"}, {"path": None, "bucket": "b"}, {"bucket": "b"}),
    ],
)
def test_aliases_of_a_store_mean_one_key(base: dict[str, Any], override: dict[str, Any], expected: dict[str, Any]) -> None:
    assert merged(base, override, code="s3") == expected


def test_each_key_says_where_it_comes_from_and_hides_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_SECRET_KEY", SECRET)
    monkeypatch.setenv("KEY_ID", SECRET)
    end = End("s3", {"bucket": "a", "path": "x", "aws_access_key_id": "env:KEY_ID"}, {"prefix": "y"})
    told = {one.key: (one.value, one.origin) for one in layers.explain(end, "destination", 7)}
    assert told["bucket"] == ("a", "base")
    assert told["path"] == ("y", "override")
    assert told["aws_access_key_id"] == ("env:KEY_ID", "base")
    assert told["aws_secret_access_key"] == ("***", "environment MINIO_SECRET_KEY")
    assert told["chunk_size_mb"] == (8, "default")
    assert SECRET not in str(told)


# --- from the tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["env:THE_SECRET", "file:the_secret"])
def test_references_to_secrets_stay_references(control: Control, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: str) -> None:
    (tmp_path / "the_secret").write_text(f"postgresql://ann:{SECRET}@db.example:5433/study\n")
    monkeypatch.setenv("FERRY_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("THE_SECRET", (tmp_path / "the_secret").read_text().strip())
    destination = {"bucket": "b", "aws_secret_access_key": reference}
    connector_id = control.connector(destination=destination, types=("postgres", "s3"), connection_string=reference)
    config = connector.read_connector_config(connector_id)
    assert SECRET not in json.dumps(config)
    assert config["source_config"]["password"] == f"{reference}#password"
    assert (config["source_config"]["host"], config["source_config"]["username"]) == ("db.example", "ann")
    assert "connection_string" not in config["source_config"]
    assert config["destination_config"]["aws_secret_access_key"] == reference


def test_what_is_referred_to_is_read_when_the_connector_runs(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_DATABASE", control.url)
    connector_id = control.connector(connection_string="env:THE_DATABASE")
    assert engine.run_connector(connector_id).rows == 1
    monkeypatch.delenv("THE_DATABASE")
    with pytest.raises(
        ConfigurationError, match=f"connector {connector_id}: source: 'connection_string' refers to the environment variable THE_DATABASE, which is not set"
    ):
        engine.run_connector(connector_id)


@pytest.mark.parametrize("column_type", ["jsonb", "json", "text"])
def test_configurations_may_be_json_or_text_or_null(control: Control, column_type: str) -> None:
    connector_id = control.connector("SELECT 1 AS a")
    control.override(connector_id, query="SELECT i FROM generate_series(1, 3) i", port=None)
    for table, column in (
        ("cai_defined_sources", "config"),
        ("cai_defined_destinations", "config"),
        ("cai_connectors", "source_config_override"),
        ("cai_connectors", "destination_config_override"),
    ):
        control.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {column_type} USING {column}::{column_type}")
    config = connector.read_connector_config(connector_id)
    assert set(config) == {"connector_id", "connector_name", "source_type", "source_config", "destination_type", "destination_config"}
    assert config["source_config"]["query"] == "SELECT i FROM generate_series(1, 3) i"
    assert "port" not in config["source_config"]
    assert config["destination_config"] == {"path": str(control.folder)}
    control.execute("UPDATE cai_defined_destinations SET config = NULL")
    assert connector.read_connector_config(connector_id)["destination_config"] == {}
    with pytest.raises(ConfigurationError, match=f"connector {connector_id}: destination: 'path' is missing"):
        engine.run_connector(connector_id)
    assert control.records(connector_id)[-1]["log_summary"] == f"connector {connector_id}: destination: 'path' is missing"


def test_empty_text_is_no_configuration_and_wrong_text_is_named_without_being_quoted(control: Control) -> None:
    connector_id = control.connector()
    control.execute("ALTER TABLE cai_connectors ALTER COLUMN source_config_override TYPE text")
    control.execute("UPDATE cai_connectors SET source_config_override = '  '")
    assert engine.run_connector(connector_id).rows == 1
    for text, words in (
        (f'{{"password": "{SECRET}",\n oops', "is no JSON (line 2, column 2)"),
        (f'["{SECRET}"]', "is no JSON object"),
        (f'"{SECRET}"', "is no JSON object"),
    ):
        control.execute("UPDATE cai_connectors SET source_config_override = %s", text)
        with pytest.raises(ConfigurationError) as caught:
            engine.run_connector(connector_id)
        assert str(caught.value) == f"connector {connector_id}: source_config_override {words}"
        assert control.records(connector_id)[-1]["log_summary"] == str(caught.value)
