"""A real Prefect server and worker, a control database with connectors, and the API as the platform uses it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from engine import embedded, registry
from engine.control import tables
from engine.control.database import ControlDatabase
from flows import TELEMETRY_OFF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FERRY = (sys.executable, "-c", "from engine.cli import main; main()")
SECRET = "s3cr3t-canary"
LEASE_SECONDS = 8
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SLOW = (
    "SELECT i, repeat(md5(i::text), 20) AS m, CASE WHEN i > 60000 AND i % 100 = 0 THEN pg_sleep(0.01) END AS s FROM generate_series(1, 1000000) i /* {name} */"
)


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


@dataclass
class Control:
    """A control database whose source is itself."""

    url: str
    s3: dict[str, str]
    folder: Path

    def fetch(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query, values).fetchall()

    def connector(self, name: str, query: str, *, destination: str = "filesystem", **source: Any) -> int:
        """Store a connector; returns its id."""
        config = {"bucket": self.s3["bucket"], "prefix": "out"} if destination == "s3" else {"path": str(self.folder)}
        base = {"connection_string": "env:SOURCE_URL", "csv_filename": f"{name}.csv"}
        add = "INSERT INTO cai_defined_{end} (name, {type}_type_lookup_code_id, config) SELECT %s, id, %s FROM ad_lookup_codes WHERE lookup_code = %s RETURNING id"
        with psycopg.connect(self.url) as connection:
            one = connection.execute(add.format(end="sources", type="source"), (name, json.dumps(base), "sql_database")).fetchone()
            other = connection.execute(add.format(end="destinations", type="destination"), (name, json.dumps(config), destination)).fetchone()
            assert one
            assert other
            made = connection.execute(
                "INSERT INTO cai_connectors (name, defined_source_id, defined_destination_id, source_config_override) VALUES (%s, %s, %s, %s) RETURNING id",
                (name, one[0], other[0], json.dumps({"query": query, **source})),
            ).fetchone()
            assert made
            return int(made[0])

    def records(self, connector_id: int) -> list[tuple[Any, ...]]:
        """`id, status, rows_ingested, log_summary, prefect_flow_run_id, finished_at`, newest first."""
        query = (
            "SELECT id, status, rows_ingested, log_summary, prefect_flow_run_id, finished_at FROM cai_connector_runs WHERE connector_id = %s ORDER BY id DESC"
        )
        return self.fetch(query, connector_id)

    def streaming(self, name: str) -> int:
        """Backends that are sending the rows of a query with this mark."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND query NOT LIKE '%%pg_stat_activity%%'"
        return int(self.fetch(query, f"COPY%/* {name} */%")[0][0])


@dataclass
class Prefect:
    """A running Prefect server."""

    url: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    auth: tuple[str, str] | None = None
    deployment_id: str = field(default="")

    def get(self, path: str) -> Any:
        return self._answer("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self._answer("POST", path, json=body)

    def delete(self, path: str) -> None:
        self._answer("DELETE", path)

    def _answer(self, method: str, path: str, **more: Any) -> Any:
        """As the README says: a 503, while SQLite is busy, is asked again."""

        def ask() -> httpx.Response | None:
            answer = httpx.request(method, f"{self.url}{path}", auth=self.auth, timeout=30, **more)
            return None if answer.status_code == 503 else answer

        answer = until(ask)
        assert answer.status_code < 400, answer.text
        return answer.json() if answer.content else None

    def trigger(self, connector_id: int, **more: Any) -> str:
        """Create a flow run as the platform does; returns its id."""
        deployment = self.get("/deployments/name/run_connector_pipeline/default")["id"]
        return str(self.post(f"/deployments/{deployment}/create_flow_run", {"parameters": {"connector_id": connector_id}, **more})["id"])

    def state(self, flow_run_id: str) -> dict[str, Any]:
        return dict(self.get(f"/flow_runs/{flow_run_id}"))

    def wait(self, flow_run_id: str, seconds: float = 90) -> dict[str, Any]:
        """The flow run once its state is final."""
        until(lambda: self.state(flow_run_id)["state_type"] in FINAL, seconds)
        return self.state(flow_run_id)

    def logs(self, flow_run_id: str) -> list[dict[str, Any]]:
        return list(self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200}))

    def artifacts(self, flow_run_id: str) -> list[dict[str, Any]]:
        return list(self.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}}))

    def task_names(self, flow_run_id: str) -> list[str]:
        runs = self.post("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC"})
        return [run["name"].rpartition("-")[0] for run in runs]


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One of Prefect's processes; killed with all of its children at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", *command], env=environment, stdout=output, stderr=output, cwd=log.parent, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def prefect_server(folder: Path, **more: str) -> Iterator[Prefect]:
    """A server on SQLite, in a home of its own."""
    port = embedded.free_ports(1)[0]
    home = folder / "prefect"
    home.mkdir()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MINIO_", "FERRY_", "AWS_", "PG", "DATABASE_URL"))}
    url = f"http://127.0.0.1:{port}/api"
    root = str(Path(__file__).parent.parent.parent)
    environment = {**clean, **TELEMETRY_OFF, "PREFECT_HOME": str(home), "PREFECT_API_URL": url, "PYTHONPATH": root, **more}
    auth = tuple(more["PREFECT_SERVER_API_AUTH_STRING"].split(":")) if "PREFECT_SERVER_API_AUTH_STRING" in more else None
    with running(["server", "start", "--host", "127.0.0.1", "--port", str(port)], environment, folder / "server.log") as process:
        until(lambda: process.poll() is None and answers(url), 120)
        yield Prefect(url, environment, process, auth)  # type: ignore[arg-type]  # a pair


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code in {200, 401}
    except httpx.HTTPError:
        return False


def ferry(prefect: Prefect | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command, in the environment of a server."""
    environment = prefect.environment if prefect else {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "FERRY_", "DATABASE_URL"))}
    return subprocess.run([*FERRY, *arguments], env={**environment, **more}, capture_output=True, text=True, check=False, timeout=120)


@contextlib.contextmanager
def prefect_worker(prefect: Prefect, control: Control, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as the README starts it, with the environment that it names."""
    environment = {
        **prefect.environment,
        "DATABASE_URL": control.url,
        "SOURCE_URL": control.url,
        "MINIO_ENDPOINT": control.s3["endpoint_url"],
        "MINIO_ACCESS_KEY": control.s3["aws_access_key_id"],
        "MINIO_SECRET_KEY": control.s3["aws_secret_access_key"],
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "FERRY_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    with running(["worker", "start", "--pool", "default", "--type", "process", *options], environment, log) as process:
        yield process


@pytest.fixture(scope="session")
def control(postgres: embedded.Postgres, s3_server: embedded.S3, tmp_path_factory: pytest.TempPathFactory) -> Control:
    """The control database of all flow tests; its own bucket and folder."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE flows TEMPLATE template0")
    url = postgres.url_of("flows")
    with ControlDatabase(url) as database:
        tables.init(database, registry.TYPE_CODES)
    s3_server.create_bucket("flows")
    return Control(url, {**s3_server.options(), "bucket": "flows"}, tmp_path_factory.mktemp("flows-out"))


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """The server, with everything deployed."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        deployed = ferry(server, "deploy", "--json")
        assert deployed.returncode == 0, deployed.stderr
        server.deployment_id = json.loads(deployed.stdout)["deployment_id"]
        yield server


@pytest.fixture(scope="session")
def worker(prefect: Prefect, control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker; gives its log."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with prefect_worker(prefect, control, log):
        yield log
