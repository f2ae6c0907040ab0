"""Deployments and schedules on a real server, and what goes wrong with its address."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine import embedded
from tests.cli.test_bad_input import refused
from tests.effort import slow, spread
from tests.flows.conftest import Control, Prefect, ferry, prefect_server, prefect_worker, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.timeout(240)]
ROOT = Path(__file__).parent.parent.parent


def deployment(server: Prefect, flow: str) -> dict[str, Any]:
    found = dict(server.get(f"/deployments/name/{flow}/default"))
    return {key: found[key] for key in ("id", "entrypoint", "work_pool_name", "work_queue_name", "parameter_openapi_schema", "pull_steps", "schedules")}


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    """What `ferry deploy` and `prefect.yaml` both decide."""
    schedules = [{"cron": s["schedule"].get("cron"), "interval": s["schedule"].get("interval"), "slug": s["slug"]} for s in found["schedules"]]
    parameters = {key: found["parameter_openapi_schema"].get(key) for key in ("properties", "required")}
    return {**found, "schedules": schedules, "parameter_openapi_schema": parameters}


@pytest.mark.slow
def test_deploying_again_changes_nothing_and_keeps_schedules(prefect: Prefect) -> None:
    made = ferry(prefect, "schedule", "4242", "0 3 * * *", "--timezone", "Europe/Prague")
    assert (made.returncode, made.stdout) == (0, "connector 4242 runs at 0 3 * * * (Europe/Prague)\n")
    before = [deployment(prefect, flow) for flow in ("run_connector_pipeline", "reap")]
    again = ferry(prefect, "deploy")
    assert again.returncode == 0, again.stderr
    assert "Prefect 3." in again.stdout
    assert [deployment(prefect, flow) for flow in ("run_connector_pipeline", "reap")] == before
    assert before[0]["entrypoint"] == "flows.connector.run_connector_pipeline"
    assert prefect.get("/work_pools/default")["type"] == "process"
    listed = json.loads(ferry(prefect, "schedules", "--json").stdout)
    assert {"connector_id": 4242, "cron": "0 3 * * *", "timezone": "Europe/Prague", "active": True} in listed
    assert ferry(prefect, "schedule", "4242", "*/5 * * * *").returncode == 0
    listed = json.loads(ferry(prefect, "schedules", "--json").stdout)
    assert [one["cron"] for one in listed if one["connector_id"] == 4242] == ["*/5 * * * *"]
    assert "no schedule any more" in ferry(prefect, "unschedule", "4242").stdout
    assert "had no schedule" in ferry(prefect, "unschedule", "4242").stdout


@pytest.mark.slow
def test_the_yaml_file_makes_the_same(prefect: Prefect, tmp_path: Path) -> None:
    """On a server of its own, and again over what `ferry deploy` made."""
    shutil.copytree(ROOT / "flows", tmp_path / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "flows/prefect.yaml"]
    wanted = [without_times(deployment(prefect, flow)) for flow in ("run_connector_pipeline", "reap")]
    subprocess.run(command, cwd=tmp_path, env=prefect.environment, check=True, capture_output=True, timeout=120)
    assert [without_times(deployment(prefect, flow)) for flow in ("run_connector_pipeline", "reap")] == wanted


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_a_cron_schedule_fires(prefect: Prefect, control: Control) -> None:
    connector = control.connector("scheduled", "SELECT 1 AS a")
    assert ferry(prefect, "schedule", str(connector), "* * * * *").returncode == 0
    try:
        until(lambda: any(record[1] == "success" for record in control.records(connector)), 150)
    finally:
        assert ferry(prefect, "unschedule", str(connector)).returncode == 0
    flow_run = prefect.state(control.records(connector)[0][4])
    assert flow_run["auto_scheduled"]
    assert flow_run["parameters"] == {"connector_id": connector}
    assert (control.folder / "scheduled.csv").exists()


@pytest.mark.parametrize("arguments", [["deploy"], slow(["schedule", "1", "0 3 * * *"]), slow(["unschedule", "1"]), slow(["schedules"])])
def test_without_an_address_there_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    result = ferry(None, *arguments, PREFECT_HOME=str(tmp_path))
    refused(result, 2, "PREFECT_API_URL is not set")


def test_an_address_where_nobody_listens_is_named(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{embedded.free_ports(1)[0]}/api"
    refused(ferry(None, "deploy", PREFECT_HOME=str(tmp_path), PREFECT_API_URL=url), 1, url, "does not answer")


def test_a_server_of_something_else_is_refused(s3_server: Any, tmp_path: Path) -> None:
    result = ferry(None, "deploy", PREFECT_HOME=str(tmp_path), PREFECT_API_URL=f"{s3_server.endpoint_url}/api")
    assert result.returncode in (1, 2)
    assert len(result.stderr.strip().splitlines()) == 1
    assert s3_server.endpoint_url in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    spread(
        [
            (["schedule", "1", "* * * * * *"], "five fields"),
            (["schedule", "1", "@daily"], "five fields"),
            (["schedule", "0", "0 3 * * *"], "ID"),
            (["schedule", "1", "every day"], "every day"),
            (["schedule", "1", "0 3 * * *", "--timezone", "Mars/Base"], "Mars/Base"),
            (["schedule", "x", "0 3 * * *"], "ID"),
        ],
        3,
    ),
)
def test_schedules_that_mean_nothing_are_refused(prefect: Prefect, arguments: list[str], word: str) -> None:
    refused(ferry(prefect, *arguments), 2, word)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Prefect]:
    """A server that asks for a user and a password."""
    with prefect_server(tmp_path, PREFECT_SERVER_API_AUTH_STRING="ferry:the-password") as server:
        yield server


@pytest.mark.slow
def test_an_auth_string_is_asked_for_and_serves_deploy_and_worker(guarded: Prefect, control: Control, tmp_path: Path) -> None:
    refused(ferry(guarded, "deploy"), 1, "401", "PREFECT_API_AUTH_STRING")
    refused(ferry(guarded, "deploy", PREFECT_API_AUTH_STRING="ferry:wrong"), 1, "401")
    guarded.environment["PREFECT_API_AUTH_STRING"] = "ferry:the-password"
    assert ferry(guarded, "deploy").returncode == 0
    connector = control.connector("guarded", "SELECT 1 AS a")
    with prefect_worker(guarded, control, tmp_path / "worker.log"):
        assert guarded.wait(guarded.trigger(connector))["state_type"] == "COMPLETED"
    assert control.records(connector)[0][1] == "success"
    assert "the-password" not in (tmp_path / "worker.log").read_text()
