"""Options are checked before anything is opened, and never show a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine import jobs
from engine.errors import ConfigurationError
from engine.options import masked
from engine.postgres.source_options import PostgresSourceOptions

if TYPE_CHECKING:
    from pathlib import Path

SPECIFICATION_SOURCE = {
    "host": "postgres.example.com",
    "port": 5432,
    "database": "source_db",
    "username": "user",
    "password": "canary",
    "query": "SELECT 1",
    "csv_filename": "export_20240101.csv",
    "batch_size": 10000,
    "use_server_side_cursor": True,
    "chunk_size_mb": 5,
}


def parse(**values: object) -> PostgresSourceOptions:
    return PostgresSourceOptions.parse({"query": "SELECT 1", **values}, where="source")


def test_the_specifications_examples_work_unchanged(tmp_path: Path) -> None:
    s3 = {
        "bucket": "output",
        "prefix": "processed/",
        "aws_access_key_id": "minioadmin",
        "aws_secret_access_key": "minioadmin",
        "endpoint_url": "http://127.0.0.1:9000",
    }
    for code, destination in (("s3", s3), ("FILESYSTEM", {"path": str(tmp_path)}), ("nfs", {"path": str(tmp_path)}), ("filesystem", s3), ("MinIO", s3)):
        for source in ("sql_database", "postgres", "postgresql", "DATABASE"):
            job = jobs.export_job(source, SPECIFICATION_SOURCE, code, destination, name="Nightly export")
            assert job.target.path == "export_20240101.csv"


def test_a_connection_string_is_expanded_and_wins() -> None:
    options = parse(
        connection_string="postgresql+psycopg2://ada:canary@db.example:6543/study?sslmode=verify-full&sslrootcert=%2Fca.pem", host="elsewhere", port=1
    )
    assert (options.host, options.port, options.database, options.username, options.sslmode) == ("db.example", 6543, "study", "ada", "verify-full")
    assert options.parameters == {"sslrootcert": "/ca.pem"}
    assert "canary" not in repr(options) + str(options)
    assert "canary" in options.conninfo()


def test_a_later_server_gets_what_it_needs() -> None:
    info = parse(host="h", connect_timeout=3).conninfo()
    for part in ("connect_timeout=3", "application_name=arrow-ferry", "client_encoding=UTF8", "keepalives_idle=30"):
        assert part in info
    assert "options=" not in info


def test_require_tls_asks_libpq_for_it() -> None:
    assert "sslmode=require" in parse(require_tls=True).conninfo()
    assert "sslmode=verify-full" in parse(require_tls=True, sslmode="verify-full").conninfo()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a=10,2", {"a": (10, 2)}), (["a=10,2", "b=3,0"], {"a": (10, 2), "b": (3, 0)}), ('{"a": "10,2"}', {"a": (10, 2)}), ({"*": [38, 9]}, {"*": (38, 9)})],
)
def test_numeric_is_written_in_several_ways(value: object, expected: dict[str, tuple[int, int]]) -> None:
    assert parse(numeric=value).numeric == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("stop", set()), ("text", {"*"}), ("a=text", {"a"}), (["a=text", "b=text"], {"a", "b"}), ({"a": "text", "b": "stop"}, {"a"}), (["a=b=text"], {"a=b"})],
)
def test_unrepresentable_is_written_in_several_ways(value: object, expected: set[str]) -> None:
    assert parse(unrepresentable=value).unrepresentable == expected


def test_references_are_read_in_secret_fields_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pw").write_text("from file\n")
    monkeypatch.setenv("FERRY_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("PW", "from environment")
    assert parse(password="file:pw").conninfo().count("from file") == 1
    assert "from environment" in parse(password="env:PW").conninfo()
    assert parse(host="env:PW").host == "env:PW"
    for wrong in ("file:../pw2", "file:/etc/passwd", "file:missing", "env:MISSING"):
        with pytest.raises(ConfigurationError, match="'password' refers to"):
            parse(password=wrong)


def test_all_problems_come_at_once_without_values() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(port="canary", batch_size=-1, delimiter=None, sslmode="canary")
    assert all(key in str(caught.value) for key in ("'port'", "'batch_size'", "'sslmode'"))
    assert "canary" not in str(caught.value)


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigurationError, match="source: 'query' is missing"):
        PostgresSourceOptions.parse({}, where="source")


@pytest.mark.parametrize(("name", "filename"), [("Lab Results (2024)", "lab_results_2024.csv"), ("nightlyExport", "nightly_export.csv"), ("žluť", "žluť.csv")])
def test_the_connectors_name_names_the_file(name: str, filename: str, tmp_path: Path) -> None:
    source = {k: v for k, v in SPECIFICATION_SOURCE.items() if k != "csv_filename"}
    assert jobs.export_job("postgres", source, "nfs", {"path": str(tmp_path)}, name=name).target.path == filename


def test_chunk_size_without_parts_is_noted(tmp_path: Path) -> None:
    job = jobs.export_job("postgres", SPECIFICATION_SOURCE, "nfs", {"path": str(tmp_path), "chunk_size_mb": 8})
    assert job.notes == ("chunk_size_mb has no effect: nothing is uploaded in parts",)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:canary@h/up", "https://u:***@h/up"),
        ("https://h/up?token=canary&day=1", "https://h/up?token=***&day=1"),
        ("https://h/up?day=1&api_key=canary#x", "https://h/up?day=1&api_key=***#x"),
        ("https://h/up?sig=canary", "https://h/up?sig=***"),
        ("https://h/up?X-Amz-Signature=canary", "https://h/up?X-Amz-Signature=***"),
        ("https://h/{name}?format=csv", "https://h/{name}?format=csv"),
    ],
)
def test_addresses_are_shown_without_what_logs_in(url: str, shown: str) -> None:
    assert masked("url", url) == shown
