"""Whatever dies, no run is left behind: records end, leftovers go, and a rerun succeeds. Nothing here rests on Prefect's states."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.flows.conftest import LEASE_SECONDS, SLOW, Control, Prefect, ferry, prefect_server, prefect_worker, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.timeout(300)]
REAPED_WITHIN = LEASE_SECONDS + 60 + 30  # the promise, and what a loaded machine takes to start the flow that keeps it


def streaming_process(control: Control, connector: int, name: str) -> int:
    """The process that runs a connector, once parts of its object are on their way."""
    until(lambda: control.streaming(name))
    until(lambda: control.fetch("SELECT 1 FROM ferry_files WHERE connector_id = %s AND leftover IS NOT NULL", connector))
    return int(control.fetch("SELECT process FROM ferry_leases WHERE connector_id = %s", connector)[0][0])


def uploads(s3_client: Any, name: str) -> list[str]:
    found = s3_client.list_multipart_uploads(Bucket="flows", Prefix=f"out/{name}").get("Uploads", [])
    return [upload["UploadId"] for upload in found]


def make_quick(control: Control, connector: int) -> None:
    """Let the next run end soon."""
    quick = """UPDATE cai_connectors SET source_config_override = '{"query": "SELECT 1 AS a"}' WHERE id = %s RETURNING id"""
    import psycopg

    with psycopg.connect(control.url) as connection:
        connection.execute(quick, (connector,))


@pytest.mark.usefixtures("worker")
@pytest.mark.slow
def test_a_flow_process_that_is_killed_is_closed_by_the_reap_deployment(prefect: Prefect, control: Control, s3_client: Any) -> None:
    connector = control.connector("killed", SLOW.format(name="killed"), destination="s3")
    flow_run = prefect.trigger(connector)
    process = streaming_process(control, connector, "killed")
    assert len(uploads(s3_client, "killed")) == 1
    os.kill(process, signal.SIGKILL)
    until(lambda: control.records(connector)[0][1] != "started", REAPED_WITHIN)
    assert control.records(connector)[0][1:3] == ("failed", 0)
    assert control.records(connector)[0][3].startswith("abandoned: no sign of life since 20")
    until(lambda: not uploads(s3_client, "killed"))
    assert prefect.wait(flow_run)["state_type"] == "CRASHED"
    make_quick(control, connector)
    assert prefect.wait(prefect.trigger(connector))["state_type"] == "COMPLETED"
    assert control.records(connector)[0][1] == "success"


@pytest.mark.slow
def test_a_dead_machine_is_closed_once_a_worker_is_up_again(control: Control, s3_client: Any, tmp_path: Path) -> None:
    """Worker and flow process die at once, as when the power goes: nobody is left to tell Prefect."""
    connector = control.connector("machine", SLOW.format(name="machine"), destination="s3")
    with prefect_server(tmp_path) as server:
        assert ferry(server, "deploy").returncode == 0
        with prefect_worker(server, control, tmp_path / "first.log") as first:
            flow_run = server.trigger(connector)
            process = streaming_process(control, connector, "machine")
            os.kill(first.pid, signal.SIGKILL)
            os.kill(process, signal.SIGKILL)
        assert server.state(flow_run)["state_type"] == "RUNNING"
        with prefect_worker(server, control, tmp_path / "second.log"):
            until(lambda: control.records(connector)[0][1] == "failed", REAPED_WITHIN)
            assert control.records(connector)[0][3].startswith("abandoned: ")
            until(lambda: not uploads(s3_client, "machine"))


@pytest.mark.slow
def test_a_killed_worker_and_a_server_that_is_gone_do_not_keep_a_run_from_ending(control: Control, tmp_path: Path) -> None:
    """The flow process lives on without them, delivers, and ends its record."""
    query = "SELECT i, CASE WHEN i % 100 = 0 THEN pg_sleep(0.02) END AS s FROM generate_series(1, 40000) i /* orphan */"
    connector = control.connector("orphan", query)
    with prefect_server(tmp_path) as server:
        assert ferry(server, "deploy").returncode == 0
        with prefect_worker(server, control, tmp_path / "worker.log") as worker:
            server.trigger(connector)
            until(lambda: control.streaming("orphan"))
            os.kill(worker.pid, signal.SIGKILL)
            os.kill(server.process.pid, signal.SIGKILL)
            until(lambda: control.records(connector)[0][1] != "started", 90)
    _, *outcome, said, _, _ = control.records(connector)[0]
    assert outcome == ["success", 40000], said
    assert (control.folder / "orphan.csv").read_bytes().count(b"\n") == 40001


@pytest.mark.slow
def test_two_workers_with_a_limit_of_one_run_two_connectors_at_once_and_the_third_waits(control: Control, tmp_path: Path) -> None:
    names = ("first", "second", "third")
    query = "SELECT i, (SELECT count(pg_advisory_xact_lock_shared(4711))) AS l FROM generate_series(1, 50000) i /* {name} */"
    connectors = [control.connector(name, query.format(name=name)) for name in names]

    def reading() -> int:
        return sum(bool(control.streaming(name)) for name in names)

    with prefect_server(tmp_path) as server:
        assert ferry(server, "deploy").returncode == 0
        # The reap deployment would take one of the two places now and then.
        reap = server.get("/deployments/name/reap/default")["id"]
        for schedule in server.get(f"/deployments/{reap}")["schedules"]:
            server.delete(f"/deployments/{reap}/schedules/{schedule['id']}")
        with (
            psycopg.connect(control.url, autocommit=True) as holder,  # the queries wait for its lock, so that how fast the workers are does not matter
            prefect_worker(server, control, tmp_path / "one.log", "--limit", "1", "--name", "one"),
            prefect_worker(server, control, tmp_path / "two.log", "--limit", "1", "--name", "two"),
        ):
            holder.execute("SELECT pg_advisory_lock(4711)")
            runs = [server.trigger(connector) for connector in connectors]
            until(lambda: reading() == 2, 180)
            third = next(run for run, name in zip(runs, names, strict=True) if not control.streaming(name))
            time.sleep(5)  # a worker asks each second
            assert reading() == 2
            assert server.state(third)["state_type"] == "SCHEDULED"
            holder.execute("SELECT pg_advisory_unlock(4711)")
            assert {server.wait(run)["state_type"] for run in runs} == {"COMPLETED"}
    logs = [(tmp_path / name).read_text() for name in ("one.log", "two.log")]
    assert all("submitting flow run" in log for log in logs)
    assert [control.records(connector)[0][1] for connector in connectors] == ["success"] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_cancelling_by_the_command_line_of_prefect_cleans_up(prefect: Prefect, control: Control, s3_client: Any) -> None:
    connector = control.connector("cancelled", SLOW.format(name="cancelled"), destination="s3")
    flow_run = prefect.trigger(connector)
    streaming_process(control, connector, "cancelled")
    import sys

    subprocess.run([sys.executable, "-m", "prefect", "flow-run", "cancel", flow_run], env=prefect.environment, check=True, capture_output=True, timeout=60)
    until(lambda: control.streaming("cancelled") == 0, 5)
    until(lambda: control.records(connector)[0][1] == "failed")
    assert control.records(connector)[0][3].startswith("cancelled: stopped by SIGTERM")
    assert uploads(s3_client, "cancelled") == []
    assert prefect.wait(flow_run)["state_type"] == "CANCELLED"
    make_quick(control, connector)
    assert prefect.wait(prefect.trigger(connector))["state_type"] == "COMPLETED"
