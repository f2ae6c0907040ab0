"""What a connector costs by itself (`ferry run`) and through a Prefect worker: 1 M rows, one after another in turn.

    RUNS=5 python -m benchmarks.connector

Printed: wall seconds from the call to the end, seconds from the call until the query runs at the server (its first row follows at once), and the
ratio of the two ways, round by round. Server, worker and databases are this machine's own; the single runs go to `benchmarks/results/`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import httpx
import psycopg

from benchmarks import measure, report
from engine import embedded, registry
from engine.control import tables
from engine.control.database import ControlDatabase
from flows import TELEMETRY_OFF
from flows.serve import serve

ROWS = 1_000_000
MOST_SECONDS = 120.0
TABLE = f"""
CREATE TABLE results AS
SELECT i AS id, md5(i::text) AS pseudonym, (i % 997)::numeric(10,2) AS value, now() - i * interval '1 second' AS taken_at FROM generate_series(1, {ROWS}) i
"""
WAYS = ("ferry run", "worker")
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True, slots=True)
class Run:
    """One run: which way, wall seconds, and seconds until its query began."""

    way: str
    seconds: float
    until_query: float


def main() -> None:
    """Measure and print."""
    rounds = int(os.environ.get("RUNS", "5"))
    with tempfile.TemporaryDirectory(prefix="ferry-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL may run as another user
        with embedded.postgres(folder / "postgres") as server, (folder / "prefect.log").open("wb") as log:
            environment = {**TELEMETRY_OFF, "DATABASE_URL": server.url, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "2"}
            connector = prepare(server.url, folder / "out")
            with serve(host="127.0.0.1", port=embedded.free_ports(1)[0], environment=environment, log=log.fileno()) as up:
                runs = [once(way, connector, server.url, up.api_url, environment) for _ in range(rounds + 1) for way in WAYS][len(WAYS) :]
    show(runs)


def prepare(url: str, folder: Path) -> int:
    """The table, the control database and one connector; returns its id."""
    with psycopg.connect(url) as connection:
        connection.execute(TABLE)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE results")
    with ControlDatabase(url) as control:
        tables.init(control, registry.TYPE_CODES)
        source = {"connection_string": "env:DATABASE_URL", "query": "TABLE results", "filename": "results.csv"}
        code = "(SELECT id FROM ad_lookup_codes WHERE lookup_code = %s)"
        control.once(f"INSERT INTO cai_defined_sources VALUES (1, 'results', {code}, %s)", ("postgres", json.dumps(source)))
        control.once(f"INSERT INTO cai_defined_destinations VALUES (1, 'folder', {code}, %s)", ("filesystem", json.dumps({"path": str(folder)})))
        control.once("INSERT INTO cai_connectors VALUES (1, 'results', 1, 1, NULL, NULL)")
    return 1


def once(way: str, connector: int, url: str, api: str, environment: dict[str, str]) -> Run:
    """One run, watched at the database."""
    with psycopg.connect(url, autocommit=True) as watch:
        started = time.time()
        if way == "worker":
            deployment = httpx.get(f"{api}/deployments/name/run_connector_pipeline/default", timeout=30).json()["id"]
            flow_run = httpx.post(f"{api}/deployments/{deployment}/create_flow_run", json={"parameters": {"connector_id": connector}}, timeout=30).json()["id"]
            began = query_began(watch)
            while (state := httpx.get(f"{api}/flow_runs/{flow_run}", timeout=30).json()["state_type"]) not in FINAL:
                time.sleep(0.05)
            succeeded = state == "COMPLETED"
        else:
            process = subprocess.Popen(
                [sys.executable, "-c", "from engine.cli import main; main()", "run", str(connector), "--quiet"], env={**os.environ, **environment}
            )
            began = query_began(watch)
            succeeded = process.wait(timeout=MOST_SECONDS) == 0
        if not succeeded:
            raise RuntimeError(f"{way} did not succeed")
        return Run(way, time.time() - started, began - started)


def query_began(watch: psycopg.Connection[tuple[float]]) -> float:
    """When the connector's COPY began, by the server's clock, which is ours."""
    asked = "SELECT EXTRACT(epoch FROM query_start)::float8 FROM pg_stat_activity WHERE query LIKE 'COPY%%results%%' AND state = 'active'"
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline:
        found = watch.execute(asked).fetchone()
        if found:
            return found[0]
        time.sleep(0.005)
    raise RuntimeError("the query did not begin")


def show(runs: list[Run]) -> None:
    """Medians, and the ratio round by round."""
    by_way = {way: [run for run in runs if run.way == way] for way in WAYS}
    ratios = [worker.seconds / alone.seconds for alone, worker in zip(by_way["ferry run"], by_way["worker"], strict=True)]
    lines = [f"| {way} | {median(r.seconds for r in of):.2f} | {median(r.until_query for r in of):.2f} |" for way, of in by_way.items()]
    print(f"{ROWS:,} rows to CSV, medians of {len(ratios)} interleaved runs\n\n| way | wall s | until the query runs s |\n|---|---:|---:|")
    print("\n".join(lines))
    print(f"\nworker / ferry run: {median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})")
    told = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": measure.machine(), "versions": measure.versions(), "runs": [asdict(run) for run in runs]}
    report.keep("connector", told)


if __name__ == "__main__":
    main()
