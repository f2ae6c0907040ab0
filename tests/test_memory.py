"""Peak memory of the client stays below its bound, and does not grow with the rows."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.effort import slow

if TYPE_CHECKING:
    from pathlib import Path

BOUND_MB = 400
FERRY = (sys.executable, "-c", "from engine.cli import main; main()")
NARROW = "SELECT i, i::numeric(15,2) AS n, now() AS t, md5(i::text) AS a, repeat('x', 60) AS b FROM generate_series(1, {rows}) i"
WIDE = "SELECT repeat(md5(i::text), 32768) AS megabyte FROM generate_series(1, {rows}) i"


# A new process begins with its parent's peak, so that of a test runner would be measured: this small one stands between.
METER = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"


def peak_mb(arguments: list[str]) -> float:
    """Largest resident set of one `ferry` process, in MB (10⁶ bytes)."""
    ran = subprocess.run([sys.executable, "-c", METER, *FERRY, *arguments, "--quiet"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e6


@pytest.mark.parametrize(("suffix", "bound_mb"), [(".csv", 150), slow(".parquet", BOUND_MB)])
@pytest.mark.parametrize(("query", "rows"), [(NARROW, 750_000), slow(WIDE, 150)], ids=["narrow", "wide"])
def test_memory_of_the_copy_reader_is_bounded_and_flat(database: str, tmp_path: Path, suffix: str, bound_mb: int, query: str, rows: int) -> None:
    target = str(tmp_path / f"x{suffix}")
    peak_mb(["export", query.format(rows=1), target, "--database", database, "--reader", "copy"])  # compiles, once
    once, four_times = (peak_mb(["export", query.format(rows=n), target, "--database", database, "--reader", "copy"]) for n in (rows, 4 * rows))
    assert four_times < bound_mb
    assert four_times < once * 1.25 + 20


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("place", ["folder", "s3"])
@pytest.mark.parametrize(("query", "rows"), [(NARROW, 750_000), (WIDE, 150)], ids=["narrow", "wide"])
def test_memory_is_bounded_and_flat(database: str, tmp_path: Path, suffix: str, place: str, query: str, rows: int, request: pytest.FixtureRequest) -> None:
    options: dict[str, Any] = dict(request.getfixturevalue("s3_options")) if place == "s3" else {}
    bucket = options.pop("bucket", "")
    target = f"s3://{bucket}/x{suffix}" if place == "s3" else str(tmp_path / f"x{suffix}")
    given = [part for key, value in options.items() for part in ("--dest-option", f"{key}={value}")]
    once, four_times = (peak_mb(["export", query.format(rows=n), target, "--database", database, *given]) for n in (rows, 4 * rows))
    assert four_times < BOUND_MB
    assert four_times < once * 1.25 + 20


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(("query", "rows"), [(NARROW, 750_000), (WIDE, 300)], ids=["narrow", "wide"])
def test_four_readers_stay_within_the_bound(database: str, tmp_path: Path, suffix: str, query: str, rows: int) -> None:
    """Long values are kept as they are, so that the table is as large as they. With fewer than 300 MB the four have not all begun to read ahead."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE t AS {query.format(rows=0)}")
        for (column,) in connection.execute("SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND attstorage = 'x'").fetchall():
            connection.execute(f"ALTER TABLE t ALTER {column} SET STORAGE EXTERNAL")
        peaks = []
        for times in (1, 3):
            for _ in range(times):
                connection.execute(f"INSERT INTO t {query.format(rows=rows)}")
            peaks.append(peak_mb(["export", "TABLE t", str(tmp_path / f"x{suffix}"), "--database", database, "--readers", "4"]))
    assert peaks[1] < BOUND_MB
    assert peaks[1] < peaks[0] * 1.25 + 20
