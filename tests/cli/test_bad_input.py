"""Each kind of bad input: one clear line on standard error, the right exit code, no traceback, no secret, and no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from engine import embedded
from tests.effort import slow, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FERRY = (sys.executable, "-c", "from engine.cli import main; main()")
SECRET = "s3cr3t-canary"


def ferry(*arguments: str, env: dict[str, str] | None = None, user: str | None = None, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, in an environment of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MINIO_", "FERRY_", "AWS_", "PG"))}
    return subprocess.run([*FERRY, *arguments], capture_output=True, text=True, env={**clean, **(env or {})}, user=user, input=stdin, check=False, timeout=60)


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line that says what, where and what to do."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ferry: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.stderr
    assert SECRET not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    spread(
        [
            (["export", "--nonsense", "SELECT 1", "x.csv"], ["--nonsense"]),
            (["export"], ["QUERY"]),
            (["export", "SELECT 1"], ["TARGET"]),
            (["exprot"], ["exprot"]),
            (["export", "SELECT 1", "{out}/x.csv"], ["--database", "FERRY_DATABASE"]),
            (["export", "SELECT 1", "{out}/x.xlsx", "--database", "{db}"], ["x.xlsx", ".parquet", "--format"]),
            (["export", "SELECT 1", "{out}/", "--database", "{db}"], ["folder", "name the file"]),
            (["export", "SELECT 1", "ftp://host/x.csv", "--database", "{db}"], ["ftp://"]),
            (["export", "SELECT 1", "s3://bucket", "--database", "{db}"], ["s3://bucket", "folder", "name the file"]),
            (
                ["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--source-option", "conect_timeout=1"],
                ["'conect_timeout'", "did you mean 'connect_timeout'"],
            ),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--dest-option", "file_mod=640"], ["'file_mod'", "'file_mode'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--source-option", "port"], ["--source-option", "KEY=VALUE"]),
            (["export", "SELECT 1", "{out}/x.csv", "--source-option", "host=127.0.0.1", "--source-option", "port=abc"], ["'port'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--if-exists", "maybe"], ["'if_exists'", "'replace', 'skip' or 'fail'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--format", "orc"], ["'format'", "'csv' or 'parquet'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--compression", "zstd"], ["x.csv.zst"]),
            (["export", "SELECT 1", "{out}/x.parquet", "--database", "{db}", "--compression", "lzma"], ["'compression'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--delimiter", "::"], ["'delimiter'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--null", 'a"b'], ["'null'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--max-file-rows", "0"], ["'max_file_rows'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--max-file-rows", "1", "--max-file-mb", "1"], ["not both"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--batch-size", "many"], ["--batch-size"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--numeric", "a=80,2"], ["'numeric'", "76 digits"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--numeric", "10,2"], ["'numeric'", "COLUMN=VALUE"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--unrepresentable", "perhaps"], ["'unrepresentable'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--readers", "many"], ["'readers' is 'auto' or a number from 1 to 32"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "{db}", "--timezone", "Mars/Base"], ["'timezone'", "Mars/Base"]),
            (["export", "SELECT 1", "{out}/x.csv", "--database", "mysql://x"], ["'connection_string'"]),
            (["export", "@missing.sql", "{out}/x.csv", "--database", "{db}"], ["missing.sql"]),
            (["export", "DELETE FROM t", "{out}/x.csv", "--database", "{db}"], ["changes nothing"]),
            (["export", "SELECT 1; SELECT 2", "{out}/x.csv", "--database", "{db}"], ["more than one statement"]),
            (["export", "SELECT 1,\n  FROM t", "{out}/x.csv", "--database", "{db}"], ["line 2, column 3", "42601"]),
            (["export", "SELECT 1 AS a, 2 AS a", "{out}/x.parquet", "--database", "{db}"], ["columns 1 and 2", "'a'"]),
            (["export", "SELECT 1", "{out}/x.csv", "--source-option", "host=127.0.0.1", "--source-option", "password=env:NOT_SET"], ["'password'", "NOT_SET"]),
            (
                ["export", "SELECT 1", "{out}/x.csv", "--source-option", "host=127.0.0.1", "--source-option", "password=file:../../etc/passwd"],
                ["'password'", "FERRY_SECRETS_DIR"],
            ),
            (["export", "SELECT 1", "s3://b/x.csv", "--database", "{db}", "--endpoint-url", "nonsense"], ["'endpoint_url'"]),
            (
                ["export", "SELECT 1", "s3://b/x.csv", "--database", "{db}", "--endpoint-url", "http://10.255.255.1", "--dest-option", "require_tls=true"],
                ["require_tls", "https"],
            ),
        ],
        4,
    ),
)
def test_usage_and_configuration_end_with_2(database: str, tmp_path: Path, arguments: Sequence[str], words: Sequence[str]) -> None:
    execute(database, "CREATE TABLE t (a int)")
    result = ferry(*(a.replace("{out}", str(tmp_path / "out")).replace("{db}", database) for a in arguments))
    refused(result, 2, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("database_of", "words"),
    [
        (lambda _: f"postgresql://user@127.0.0.1:{embedded.free_ports(1)[0]}/db", ["nothing listens there"]),
        (lambda _: "postgresql://user@no-such-host.invalid/db", ["no-such-host.invalid", "host name is unknown"]),
        (lambda db: f"postgresql://postgres:{SECRET}@{db.rpartition('@')[2]}", ["user name or the password"]),
        (lambda db: f"postgresql://nobody_here:{SECRET}@{db.rpartition('@')[2]}", ["user name or the password"]),
        (lambda db: db.rpartition("/")[0] + "/nowhere", ["no database 'nowhere'"]),
        (lambda db: db + "?sslmode=require", ["TLS"]),
    ],
    ids=["refused", "host", "password", "user", "database", "tls"],
)
def test_a_database_that_cannot_be_reached_ends_with_1(database: str, tmp_path: Path, database_of: Any, words: list[str]) -> None:
    url = database_of(database)
    result = ferry("export", "SELECT 1", str(tmp_path / "out/x.csv"), env={"FERRY_DATABASE": url})
    refused(result, 1, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT *\nFROM missing", ["missing", "line 2, column 6", "42P01"]),
        ("SELECT b FROM t", ["column", "42703"]),
        ("SELECT 1 / a FROM t", ["division by zero", "22012"]),
        ("SELECT name::int FROM p", ["22P02"]),
        (f"SELECT *\nFROM t WHERE a = '{SECRET}'", ["22P02", "invalid text representation", "line 2, column 18"]),
        ("SELECT 'infinity'::date AS d", ["column 'd'", "row 1", "--unrepresentable d=text"]),
    ],
)
def test_a_query_that_fails_ends_with_1_and_no_cell(database: str, tmp_path: Path, query: str, words: list[str]) -> None:
    execute(database, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (0)", "CREATE TABLE p (name text)", f"INSERT INTO p VALUES ('{SECRET}')")
    refused(ferry("export", query, str(tmp_path / "out/x.parquet"), "--database", database), 1, *words)
    assert not (tmp_path / "out").exists()


def test_a_role_without_rights_is_told_so(postgres: Any, database: str, tmp_path: Path) -> None:
    execute(database, "CREATE TABLE t (a int)", "DROP ROLE IF EXISTS poor", f"CREATE ROLE poor LOGIN PASSWORD '{SECRET}'")
    poor = database.replace(f"postgres:{postgres.password}", f"poor:{SECRET}")
    refused(ferry("export", "TABLE t", str(tmp_path / "out/x.csv"), "--database", poor), 1, "permission denied", "42501")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"bucket": "no-such-bucket"}, 1, ["no bucket 'no-such-bucket'"]),
        ({"aws_secret_access_key": SECRET}, 1, ["does not accept the access key"]),
        ({"endpoint_url": "http://127.0.0.1:9"}, 1, ["no answer from the S3 server http://127.0.0.1:9"]),
    ],
)
def test_an_s3_server_that_refuses_ends_with_1(database: str, s3_options: dict[str, str], change: dict[str, str], code: int, words: list[str]) -> None:
    options = {**s3_options, **change}
    target = f"s3://{options.pop('bucket')}/x.csv"
    given = [part for key, value in options.items() for part in ("--dest-option", f"{key}={value}")]
    refused(ferry("export", "SELECT 1", target, "--database", database, *given), code, *words)


def test_a_target_that_stands_is_refused_or_skipped(database: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("mine")
    arguments = ("export", "SELECT 1", str(tmp_path / "x.csv"), "--database", database, "--if-exists")
    refused(ferry(*arguments, "fail"), 2, "exists already")
    skipped = ferry(*arguments, "skip")
    assert skipped.returncode == 0
    assert "skipped" in skipped.stdout
    assert (tmp_path / "x.csv").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root is refused no folder; the read-only file system is tested instead")
def test_a_read_only_folder_is_named(database: str, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(ferry("export", "SELECT 1", str(tmp_path / "locked/x.csv"), "--database", database), 1, "permission denied", "locked")


@pytest.mark.system
def test_a_read_only_file_system_is_named(database: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], check=True)
    try:
        refused(ferry("export", "SELECT 1", str(disk / "out/x.csv"), "--database", database), 1, "the file system is read-only", "out/x.csv")
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.system
def test_a_full_disk_leaves_nothing(database: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        result = ferry("export", "SELECT i, md5(i::text) FROM generate_series(1, 200000) i", str(disk / "out/x.csv"), "--database", database)
        refused(result, 1, "the disk is full", "out/x.csv")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, slow(signal.SIGTERM)])
@pytest.mark.parametrize("place", ["folder", "s3"])
@pytest.mark.parametrize("suffix", [".csv", slow(".parquet")])
def test_a_signal_cancels_the_query_and_leaves_nothing(
    database: str, tmp_path: Path, number: signal.Signals, place: str, suffix: str, request: pytest.FixtureRequest
) -> None:
    options = dict(request.getfixturevalue("s3_options")) if place == "s3" else {}
    bucket = options.pop("bucket", "")
    target = f"s3://{bucket}/x{suffix}" if place == "s3" else str(tmp_path / f"out/x{suffix}")
    given = [part for key, value in options.items() for part in ("--dest-option", f"{key}={value}")]
    query = "SELECT i, repeat(md5(i::text), 10), CASE WHEN i > 150000 THEN pg_sleep(0.01) END FROM generate_series(1, 100000000) i"
    process = subprocess.Popen([*FERRY, "export", query, target, "--database", database, *given], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    active = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arrow-ferry' AND query LIKE 'COPY%md5%' AND state = 'active'"
    with psycopg.connect(database, autocommit=True) as connection:
        until(lambda: count(connection, active) == 1)
        time.sleep(1.5)  # parts are on their way by now
        process.send_signal(number)
        until(lambda: count(connection, active) == 0, 2)
    out, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert out == ""
    assert error.strip().splitlines()[-1].startswith(f"ferry: stopped by {number.name}")
    assert "Traceback" not in error
    if place == "s3":
        client = request.getfixturevalue("s3_client")
        assert "Contents" not in client.list_objects_v2(Bucket=bucket)
        assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    else:
        assert not (tmp_path / "out").exists()


def test_success_is_quiet_or_told_as_asked(database: str, tmp_path: Path) -> None:
    import json

    query = tmp_path / "q.sql"
    query.write_text("SELECT 1 AS a;\n-- done\n")
    for arguments, stdin in (([f"@{query}"], None), (["-"], "SELECT 1 AS a")):
        told = ferry("export", *arguments, str(tmp_path / "x.csv"), "--json", env={"FERRY_DATABASE": database}, stdin=stdin)
        assert told.returncode == 0
        assert json.loads(told.stdout)["rows"] == 1
    quiet = ferry("export", "SELECT 1", str(tmp_path / "x.csv"), "--quiet", env={"FERRY_DATABASE": database})
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_debug_shows_frames_but_no_library_text(database: str, tmp_path: Path) -> None:
    result = ferry("export", "SELECT 1 / 0 AS a", str(tmp_path / "x.csv"), "--debug", "--database", database)
    assert result.returncode == 1
    assert 'File "' in result.stderr


def test_references_keep_secrets_out_of_the_argument_list(postgres: Any, database: str, tmp_path: Path) -> None:
    port, name = str(postgres.port), database.rpartition("/")[2]
    given = ["host=127.0.0.1", f"port={port}", "username=postgres", f"database={name}", "password=env:THE_PASSWORD"]
    options = [part for pair in given for part in ("--source-option", pair)]
    result = ferry("export", "SELECT 1", str(tmp_path / "x.csv"), *options, env={"THE_PASSWORD": postgres.password})
    assert result.returncode == 0, result.stderr


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database) as connection:
        for statement in statements:
            connection.execute(statement)


def count(connection: Any, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def until(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
