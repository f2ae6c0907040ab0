"""The README is true: its examples run, and its tables say what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from engine.jobs import RouteOptions
from engine.libpq import PostgresOptions
from engine.load_jobs import ReadOptions
from engine.postgres.destination_options import PostgresDestinationOptions
from engine.postgres.source_options import PostgresSourceOptions
from engine.postgres.types import type_table
from engine.stores.local import FolderOptions
from engine.stores.rest import RestOptions
from engine.stores.s3 import S3Options
from engine.stores.sftp import SftpOptions

if TYPE_CHECKING:
    from engine import embedded
    from engine.options import Options

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next one of any level."""
    return re.split(r"\n#{2,3} ", README.split(f" {title}\n", 1)[1], maxsplit=1)[0]


@pytest.fixture
def study(database: str) -> str:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE patients AS SELECT 1 AS patient_id, date '1980-01-01' AS born")
        connection.execute("CREATE TABLE lab_results AS SELECT 1 AS result_id, now() AS taken_at")
    return database


def test_the_python_example_runs(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code[1].replace("postgresql://localhost/study", study), names)
    assert names["names"] == ["patient_id", "born"]
    assert names["result"].rows == 1
    assert "1 rows" in capsys.readouterr().out


def test_the_shell_examples_run(study: str, tmp_path: Path, s3_server: embedded.S3, bucket: str) -> None:
    (tmp_path / "cohort.sql").write_text("SELECT * FROM patients;\n")
    block = re.search(r"## From a shell\n\n```text\n(.*?)```", README, re.DOTALL)
    assert block
    commands = [shlex.split(line.replace("s3://study/", f"s3://{bucket}/")) for line in block[1].splitlines()]
    environment = {
        "FERRY_DATABASE": study,
        "MINIO_ENDPOINT": s3_server.endpoint_url,
        "MINIO_ACCESS_KEY": s3_server.access_key,
        "MINIO_SECRET_KEY": s3_server.secret_key,
    }
    assert len(commands) == 3
    for command in commands:
        source = str(Path(__file__).parent.parent)
        ran = subprocess.run(
            [sys.executable, "-c", "from engine.cli import main; main()", *command[1:]],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("title", "options"),
    [
        ("Source: PostgreSQL", PostgresSourceOptions),
        ("Source or destination: folder or NFS", FolderOptions),
        ("Source or destination: S3", S3Options),
        ("Source or destination: SFTP", SftpOptions),
        ("Destination: REST", RestOptions),
        ("Destination: PostgreSQL (loads)", PostgresDestinationOptions),
        ("Reading files of rows", ReadOptions),
        ("Every transfer and export", RouteOptions),
    ],
)
def test_option_tables_name_exactly_the_options(title: str, options: type[Options]) -> None:
    shown = {name for line in section(title).splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    not_shown = {"user", "dbname", "chunk_size_mb"} if issubclass(options, PostgresOptions) else set()
    assert shown | not_shown == set(options.model_fields) | set(options.aliases) | not_shown


def test_the_type_table_is_the_codes_own() -> None:
    lines = [
        f"| `{name}` | {csv} | {parquet} |" if name not in ("arrays", "everything else") else f"| {name} | {csv} | {parquet} |"
        for name, csv, parquet in type_table()
    ]
    assert "\n".join(lines) in section("Types")


def test_no_placeholder_is_left() -> None:
    assert "PENDING" not in README.replace("`PENDING`", "")  # the one state of Prefect's


def test_the_section_on_parallel_reads_states_the_bounds_of_the_code() -> None:
    from engine.options import MIB
    from engine.postgres.source_options import MOST_READERS
    from engine.postgres.splitting import MOST_BY_ITSELF, RANGE_BYTES, SPLIT_FROM_BYTES

    text = section("Parallel reads")
    assert f"of {SPLIT_FROM_BYTES // MIB} MiB or more" in text
    assert f"{RANGE_BYTES // MIB} MiB each" in text
    assert MOST_BY_ITSELF == 4
    assert "four at most" in text
    assert f"{MOST_READERS} at most: see" in README


def test_the_memory_table_states_the_bounds_of_the_code() -> None:
    from engine.formats.parquet import ROW_GROUP_ROWS
    from engine.jobs import ROW_GROUP_BYTES
    from engine.options import MIB
    from engine.postgres.copy_source import CopyStream, EncodedStream
    from engine.postgres.reader import BATCH_BYTES
    from engine.postgres.source import BUDGET_BYTES as AHEAD_BYTES
    from engine.stores.s3_parts import MOST_PARTS, part_size
    from engine.stores.s3_upload import BUDGET_BYTES, SINGLE_REQUEST_BYTES
    from engine.stores.sftp_read import READ_AHEAD_BYTES

    memory = section("Memory")
    assert f"about {BATCH_BYTES // MIB} MiB as sent" in memory
    assert f"{ROW_GROUP_BYTES // MIB} MiB or {ROW_GROUP_ROWS:,} rows" in memory
    assert f"{BUDGET_BYTES // MIB} MiB in flight" in memory
    assert f"{SINGLE_REQUEST_BYTES // MIB} MiB before" in memory
    assert f"{READ_AHEAD_BYTES // MIB} MiB asked for ahead" in memory
    assert f"with `reader: copy` {CopyStream.budget // MIB} MiB of rows, or {EncodedStream.budget // MIB} MiB of lines" in memory
    assert f"{AHEAD_BYTES // MIB} MiB that are read ahead of their turn" in memory
    default = S3Options(bucket="b").chunk_size_mb
    assert f"hold {sum(part_size(number, default * MIB) for number in range(1, MOST_PARTS + 1)) // 2**30} GiB" in memory
