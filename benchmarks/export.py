"""`make bench`: TPC-H lineitem from an embedded PostgreSQL to a file, by ferry and by the row-by-row way.

Each contender is a process of its own (`python -m benchmarks.contenders NAME …`). They run in turns, A B C A B C …, after one warm-up each; the table shows
medians and, pair by pair, how much longer the row-by-row way takes. Environment: SCALE (default 1), RUNS (default 5), QUICK=1 (scale 0.1, 3 runs).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from engine import embedded
from engine.results import human_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = Path(".bench").absolute()
RESULTS = Path(__file__).parent / "results"
BASELINE = "row by row, CSV"
BUCKET = "bench"
LINEITEM = """CREATE UNLOGGED TABLE lineitem (
    l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber integer, l_quantity numeric(15,2), l_extendedprice numeric(15,2),
    l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date,
    l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44))"""


@dataclass(frozen=True)
class Run:
    """One process: wall and CPU seconds of the client, its largest resident set, and the bytes it wrote."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    written_bytes: int


def main() -> None:
    """Measure, print, and keep the result."""
    quick = os.environ.get("QUICK") == "1"
    scale = os.environ.get("SCALE", "0.1" if quick else "1")
    runs = int(os.environ.get("RUNS", "3" if quick else "5"))
    with contextlib.ExitStack() as servers:
        postgres = servers.enter_context(embedded.postgres(FOLDER / "postgres", settings={"shared_buffers": "1GB", "max_wal_size": "4GB"}))
        s3 = servers.enter_context(embedded.s3(FOLDER / "s3"))
        s3.create_bucket(BUCKET)
        database = load(postgres, scale)
        environment = {
            **os.environ,
            "FERRY_DATABASE": database,
            "MINIO_ENDPOINT": s3.endpoint_url,
            "MINIO_ACCESS_KEY": s3.access_key,
            "MINIO_SECRET_KEY": s3.secret_key,
        }
        measured = measure(contenders(), runs, environment)
    report(measured, scale, runs)


def contenders() -> dict[str, list[str]]:
    """Name → command. A new peer is one function in `benchmarks.contenders` and one line here."""
    out = FOLDER / "out"
    out.mkdir(parents=True, exist_ok=True)
    ferry = [sys.executable, "-m", "benchmarks.contenders", "ferry"]
    return {
        BASELINE: [sys.executable, "-m", "benchmarks.contenders", "row_by_row", str(out / "rows.csv")],
        "ferry, CSV": [*ferry, str(out / "ferry.csv")],
        "ferry, CSV zstd": [*ferry, str(out / "ferry.csv.zst")],
        "ferry, Parquet": [*ferry, str(out / "ferry.parquet")],
        "ferry, Parquet on S3": [*ferry, f"s3://{BUCKET}/ferry.parquet"],
        "ferry, CSV on S3": [*ferry, f"s3://{BUCKET}/ferry.csv"],
    }


def load(server: embedded.Postgres, scale: str) -> str:
    """The URL of a database that holds lineitem at this scale, made now if it is not there."""
    name = f"tpch_{scale.replace('.', '_')}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            return server.url_of(name)
        connection.execute(f"DROP DATABASE IF EXISTS {name}_new")
        connection.execute(f"CREATE DATABASE {name}_new")
    print(f"making TPC-H lineitem at scale {scale} …", file=sys.stderr)
    data = FOLDER / f"tpch-{scale}"
    subprocess.run([Path(sys.executable).parent / "tpchgen-cli", "csv", "-s", scale, "--tables", "lineitem", "--output-dir", data], check=True)
    with psycopg.connect(server.url_of(f"{name}_new"), autocommit=True) as connection:
        connection.execute(LINEITEM)
        with (data / "lineitem.csv").open("rb") as file, connection.cursor().copy("COPY lineitem FROM STDIN (FORMAT csv, HEADER)") as copy:
            while piece := file.read(1 << 20):
                copy.write(piece)
        connection.execute("VACUUM ANALYZE lineitem")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name}_new RENAME TO {name}")
    return server.url_of(name)


def measure(commands: Mapping[str, Sequence[str]], runs: int, environment: Mapping[str, str]) -> dict[str, list[Run]]:
    """Interleaved: every contender once in each round; round 0 is the warm-up and does not count."""
    measured: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            run = run_once(command, environment)
            print(f"round {number}: {name}: {run.seconds:.2f} s", file=sys.stderr)
            if number:
                measured[name].append(run)
    return measured


def run_once(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """One process, timed from outside; it prints the bytes that it wrote."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak, int(output))


def report(measured: Mapping[str, list[Run]], scale: str, runs: int) -> None:
    """Print the table and write it to `benchmarks/results/`."""
    names = ("arrow-ferry", "pyarrow", "adbc-driver-postgresql", "psycopg", "boto3")
    versions = {name: importlib.metadata.version(name) for name in names}
    header = f"lineitem, scale {scale}; medians of {runs} interleaved runs; {os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"
    print(f"\n{header}\n{', '.join(f'{k} {v}' for k, v in versions.items())}; PostgreSQL 18 and SeaweedFS on the same machine\n")
    print(f"{'':24}{'wall s':>8}{'CPU s':>8}{'peak':>12}{'written':>12}{'row by row takes':>20}")
    rows = []
    for name, results in measured.items():
        median = {field: statistics.median(getattr(run, field) for run in results) for field in ("seconds", "cpu_seconds", "peak_bytes", "written_bytes")}
        ratio = statistics.median(slow.seconds / fast.seconds for slow, fast in zip(measured[BASELINE], results, strict=True))
        rows.append({"name": name, **median, "row_by_row_ratio": ratio, "runs": [asdict(run) for run in results]})
        size = f"{human_bytes(median['peak_bytes']):>12}{human_bytes(median['written_bytes']):>12}"
        print(f"{name:24}{median['seconds']:8.2f}{median['cpu_seconds']:8.2f}{size}{ratio:18.1f} x")
    RESULTS.mkdir(exist_ok=True)
    record = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "what": header, "command": "make bench", "versions": versions, "contenders": rows}
    path = RESULTS / f"export-lineitem-{scale}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nkept in benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
