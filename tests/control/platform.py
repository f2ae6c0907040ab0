"""The control database as the platform and an onlooker see it, and runs of connectors in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from psycopg.rows import dict_row

from engine import registry
from engine.control import tables
from engine.control.database import ControlDatabase

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
GATE = 7  # the advisory lock, in the source's database, that a gated query waits for
# About 640 bytes a row: 60,000 rows are more than S3 takes in one request, so that parts go up.
GATED = (
    "SELECT i, repeat(md5(i::text), 20) AS m, CASE WHEN i = {rows} THEN pg_advisory_xact_lock_shared("
    + str(GATE)
    + ")::text END AS gate FROM generate_series(1, {rows} + 10) i"
)
# What a process may do to itself at a point that a test chooses.
KILL = "__import__('os').kill(__import__('os').getpid(), 9)"
PAUSE = "__import__('os').kill(__import__('os').getpid(), __import__('signal').SIGSTOP)"


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class Control:
    """A control database with ferry's tables, and the database that its connectors read: itself, unless told otherwise."""

    def __init__(self, url: str, folder: Path, source: str | None = None) -> None:
        self.url = url
        self.folder = folder
        self.source = source or url
        self._processes: list[subprocess.Popen[str]] = []
        with ControlDatabase(url) as control:
            tables.init(control, registry.TYPE_CODES)

    def execute(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def connector(
        self, query: str = "SELECT 1 AS a", destination: Any = None, *, types: tuple[str, str] = ("postgres", "nfs"), name: str = "Lab", **source: Any
    ) -> int:
        """Store one that writes `x.csv`, by default into `folder`; returns its id."""
        return self.transfer(types, {"connection_string": self.source, "query": query, "csv_filename": "x.csv", **source}, destination, name=name)

    def transfer(self, types: tuple[str, str], source: Any, destination: Any = None, *, name: str = "Lab") -> int:
        """Store one with these ends, by default to `folder`; returns its id."""
        ends = (("source", types[0], source), ("destination", types[1], destination or {"path": str(self.folder)}))
        ids = []
        for end, code, config in ends:
            add = f"INSERT INTO cai_defined_{end}s (name, {end}_type_lookup_code_id, config) SELECT %s, id, %s FROM ad_lookup_codes WHERE lookup_code = %s RETURNING id"
            ids.append(self.execute(add, name, json.dumps(config), code)[0]["id"])
        add = "INSERT INTO cai_connectors (name, defined_source_id, defined_destination_id) VALUES (%s, %s, %s) RETURNING id"
        return int(self.execute(add, name, *ids)[0]["id"])

    def override(self, connector: int, **source: Any) -> None:
        """Change the source of a connector, as the platform does."""
        self.execute("UPDATE cai_connectors SET source_config_override = %s WHERE id = %s", json.dumps(source), connector)

    def records(self, connector: int) -> list[dict[str, Any]]:
        """Run records, the oldest first."""
        return self.execute("SELECT * FROM cai_connector_runs WHERE connector_id = %s ORDER BY id", connector)

    def statuses(self, connector: int) -> list[str]:
        return [record["status"] for record in self.records(connector)]

    def lease(self, connector: int) -> dict[str, Any]:
        """The row of the lease, with `held`: whether it lasts now."""
        return self.execute("SELECT *, COALESCE(expires_at >= clock_timestamp(), false) AS held FROM ferry_leases WHERE connector_id = %s", connector)[0]

    def files(self, connector: int) -> list[dict[str, Any]]:
        """The ledger of a connector."""
        return self.execute("SELECT * FROM ferry_files WHERE connector_id = %s ORDER BY token, path", connector)

    def expire(self, connector: int) -> None:
        """Let the lease end now, as if its holder had not been heard of."""
        self.execute("UPDATE ferry_leases SET expires_at = clock_timestamp() - interval '1 second' WHERE connector_id = %s", connector)

    def close_gate(self) -> psycopg.Connection[Any]:
        """Have gated queries wait until the connection that is returned is closed."""
        gate = psycopg.connect(self.source, autocommit=True)
        gate.execute("SELECT pg_advisory_lock(%s)", (GATE,))
        return gate

    def waiting(self) -> int:
        """How many queries stand at the gate."""
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        with psycopg.connect(self.source) as connection:
            found = connection.execute(query).fetchone()
        return int(found[0]) if found else 0

    def role(self, *rights: str) -> str:
        """The URL of a new role with these rights: `SELECT ON cai_connectors` …"""
        name, password = f"role_{uuid.uuid4().hex[:12]}", "not-a-secret"
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        for right in rights:
            self.execute(f"GRANT {right} TO {name}")
        return f"postgresql://{name}:{password}@{self.url.rpartition('@')[2]}"

    def process(self, connector: int, before: str = "", *mode: str, **environment: str) -> subprocess.Popen[str]:
        """Run a connector in a process of its own, after the code `before`; see `tests.control.runner`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.control.runner", str(connector), before, *mode],
            env={**os.environ, "DATABASE_URL": self.url, **environment},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End processes that a test left."""
        for process in self._processes:
            process.kill()
            process.communicate()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """How the run of such a process ended, as it says itself."""
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return dict(json.loads(out))


def is_paused(process: subprocess.Popen[str]) -> bool:
    """Whether it has stopped itself, or was."""
    assert process.poll() is None
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
