"""Connectors run by Prefect: by the API, as a function, and as the engine runs them without it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.effort import slow
from tests.flows.conftest import FERRY, SECRET, SLOW, Control, Prefect, until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.timeout(240)]
ROWS = "SELECT i AS id, md5(i::text) AS pseudonym FROM generate_series(1, 2000) i"
TASKS = ["create_run_record", "read_connector_config", "run_dlt_pipeline", "update_run_record"]


def environment_of(prefect: Prefect | None, control: Control, base: Mapping[str, str]) -> dict[str, str]:
    s3 = control.s3
    keys = {"MINIO_ENDPOINT": s3["endpoint_url"], "MINIO_ACCESS_KEY": s3["aws_access_key_id"], "MINIO_SECRET_KEY": s3["aws_secret_access_key"]}
    without = {k: v for k, v in base.items() if prefect is not None or not k.startswith("PREFECT_API")}
    return {**without, **keys, "DATABASE_URL": control.url, "SOURCE_URL": control.url}


def test_a_console_that_is_gone_ends_no_process() -> None:
    """A worker that dies takes the pipe with it to which its flow runs write; rich would end them."""
    program = """
import logging, sys
from prefect.logging.handlers import PrefectConsoleHandler
from flows.report import outlive_the_console
log = logging.getLogger("engine")
log.addHandler(PrefectConsoleHandler(sys.stderr))
{}
log.warning("nobody reads this")
print("alive")
"""
    for call, said in (("", ""), ("outlive_the_console()", "alive\n")):
        ours, theirs = os.pipe()
        os.close(ours)
        command = [sys.executable, "-c", program.format(call)]
        assert subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=False, timeout=60).stdout == said
        os.close(theirs)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("destination", [slow("filesystem"), "s3"])
def test_a_run_triggered_by_the_api_succeeds(prefect: Prefect, control: Control, destination: str, s3_client: Any) -> None:
    name = f"success_{destination}"
    connector = control.connector(name, ROWS, destination=destination)
    flow_run = prefect.trigger(connector)
    ended = prefect.wait(flow_run)
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert ended["tags"] == [f"connector:{connector}"]
    run_id, status, rows, summary, recorded, finished = control.records(connector)[0]
    assert (status, rows, recorded) == ("success", 2000, flow_run)
    assert finished is not None
    body = s3_client.get_object(Bucket="flows", Key=f"out/{name}.csv")["Body"].read() if destination == "s3" else (control.folder / f"{name}.csv").read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    assert digest in summary
    assert prefect.task_names(flow_run) == TASKS
    until(lambda: len(prefect.artifacts(flow_run)) == 2)
    artifacts = {a["type"]: a for a in prefect.artifacts(flow_run)}
    assert artifacts["progress"]["data"] == 100
    table = json.loads(artifacts["table"]["data"])
    assert [(row["rows"], row["bytes"], row["SHA-256"]) for row in table] == [(2000, len(body), digest)]
    ours = until(
        lambda: [
            log
            for log in prefect.logs(flow_run)
            if log["name"] == "engine" and f"run ends: connector={connector} run={run_id} status=success rows=2000" in log["message"]
        ]
    )
    assert ours[0]["level"] == 20


@pytest.mark.usefixtures("worker")
def test_a_run_that_fails_leaves_both_records_failed_and_shows_no_value(prefect: Prefect, control: Control) -> None:
    query = f"SELECT CASE WHEN i = 1500 THEN ('{SECRET}' || i)::int ELSE i END AS id FROM generate_series(1, 2000) i"
    connector = control.connector("failure", query)
    flow_run = prefect.trigger(connector)
    ended = prefect.wait(flow_run)
    assert ended["state_type"] == "FAILED"
    record = control.records(connector)[0]
    assert record[1:3] == ("failed", 0)
    assert "22P02" in record[3]
    assert record[3] in ended["state"]["message"]
    assert not (control.folder / "failure.csv").exists()
    until(lambda: len(prefect.task_names(flow_run)) == 4)
    logs = until(lambda: (found := prefect.logs(flow_run)) and any(log["name"] == "engine" and log["level"] == 40 for log in found) and found)
    errors = [log for log in logs if log["name"] == "engine" and log["level"] >= 40]
    assert len(errors) == 1
    assert 'File "' in errors[0]["message"]
    assert "engine.errors.QueryFailed" in errors[0]["message"]
    shown = json.dumps([logs, prefect.artifacts(flow_run), ended, prefect.post("/task_runs/filter", {}), record], default=str)
    assert SECRET not in shown
    assert control.url.split(":")[2].split("@")[0] not in shown


@pytest.mark.usefixtures("worker")
def test_an_unknown_connector_fails_and_says_so(prefect: Prefect, control: Control) -> None:
    ended = prefect.wait(prefect.trigger(987654))
    assert ended["state_type"] == "FAILED"
    assert "there is no connector 987654" in ended["state"]["message"]
    assert control.records(987654)[0][1] == "failed"


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_one_idempotency_key_makes_one_run(prefect: Prefect, control: Control) -> None:
    connector = control.connector("once", ROWS)
    runs = {prefect.trigger(connector, idempotency_key=f"connector-{connector}-today") for _ in range(3)}
    assert len(runs) == 1
    assert prefect.wait(runs.pop())["state_type"] == "COMPLETED"
    assert len(control.records(connector)) == 1


def test_parameters_of_another_shape_are_refused_by_the_server(prefect: Prefect) -> None:
    answer = httpx.post(f"{prefect.url}/deployments/{prefect.deployment_id}/create_flow_run", json={"parameters": {"connector_id": "seven"}}, timeout=30)
    assert answer.status_code in {409, 422}


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_a_second_run_ends_as_skipped_and_names_the_first(prefect: Prefect, control: Control) -> None:
    connector = control.connector("pair", SLOW.format(name="pair"), destination="s3")
    first = prefect.trigger(connector)
    until(lambda: control.streaming("pair"))
    second = prefect.trigger(connector)
    ended = prefect.wait(second)
    holder = control.fetch("SELECT id FROM cai_connector_runs WHERE prefect_flow_run_id = %s", first)[0][0]
    assert ended["state_type"] == "COMPLETED"
    assert f"is being run by run {holder}" in ended["state"]["message"]
    record = control.fetch("SELECT status, rows_ingested, log_summary FROM cai_connector_runs WHERE prefect_flow_run_id = %s", second)[0]
    assert record[:2] == ("skipped", 0)
    assert f"run {holder}" in record[2]
    progress = until(lambda: [a for a in prefect.artifacts(first) if a["type"] == "progress" and 0 < float(a["data"]) < 100])
    assert "rows" in progress[0]["description"]
    until(lambda: float(prefect.artifacts(first)[0]["data"]) > float(progress[0]["data"]))
    prefect.post(f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: control.streaming("pair") == 0, 5)
    assert prefect.wait(first)["state_type"] == "CANCELLED"
    assert control.records(connector)[1][1] == "failed"
    assert control.records(connector)[1][3].startswith("cancelled: ")


CALL = "import json, sys; from flows.connector import run_connector_pipeline; print(json.dumps({call}))"


@pytest.mark.parametrize(("call", "serverless"), [("run_connector_pipeline({id})", False), ("run_connector_pipeline.fn({id})", True)])
def test_the_flow_is_a_python_function(prefect: Prefect, control: Control, call: str, serverless: bool) -> None:
    connector = control.connector(f"function_{serverless}", ROWS)
    environment = environment_of(None if serverless else prefect, control, prefect.environment)
    if serverless:
        environment["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"
    code = CALL.format(call=call.format(id=connector))
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120)
    outcome = json.loads(ran.stdout.strip().splitlines()[-1])
    record = control.records(connector)[0]
    assert outcome == {"status": "success", "rows_ingested": 2000, "log_summary": record[3], "run_id": record[0]}
    assert (control.folder / f"function_{serverless}.csv").exists()


def test_a_skipped_call_gives_its_outcome_and_a_failed_one_raises_the_summary_alone(prefect: Prefect, control: Control) -> None:
    connector = control.connector("held", ROWS)
    hold = "INSERT INTO ferry_leases VALUES (%s, 1, 4711, NULL, 'elsewhere', 1, now(), now(), now() + interval '1 hour') RETURNING token"
    import psycopg

    with psycopg.connect(control.url) as connection:
        connection.execute(hold, (connector,))
    code = f"""
import json, traceback
from flows.connector import run_connector_pipeline
print(json.dumps(run_connector_pipeline({connector})))
try:
    run_connector_pipeline(123456)
except ValueError as error:
    print(json.dumps([type(error).__name__, str(error), error.__cause__ is None and error.__suppress_context__]))
"""
    ran = subprocess.run([sys.executable, "-c", code], env=environment_of(prefect, control, prefect.environment), capture_output=True, text=True, check=True)
    skipped, failed = [json.loads(line) for line in ran.stdout.strip().splitlines() if line.startswith(("{", "["))]
    assert skipped["status"] == "skipped"
    assert "run 4711 on elsewhere" in skipped["log_summary"]
    assert failed[0] == "ConfigurationError"
    assert "there is no connector 123456" in failed[1]
    assert failed[2]


@pytest.mark.usefixtures("worker")
def test_every_way_of_running_gives_the_same(prefect: Prefect, control: Control, tmp_path: Path) -> None:
    connector = control.connector("same", ROWS)
    environment = environment_of(None, control, prefect.environment)
    unprefect = "import sys; sys.modules['prefect'] = None; import engine; print(engine.run_connector({id}))"
    digests, summaries = set(), set()
    for way in ("engine", "ferry", "worker"):
        if way == "engine":
            subprocess.run([sys.executable, "-c", unprefect.format(id=connector)], env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        elif way == "ferry":
            subprocess.run([*FERRY, "run", str(connector)], env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        else:
            assert prefect.wait(prefect.trigger(connector))["state_type"] == "COMPLETED"
        digests.add(hashlib.sha256((control.folder / "same.csv").read_bytes()).hexdigest())
        record = control.records(connector)[0]
        assert record[1:3] == ("success", 2000)
        summaries.add(record[3].split("sha256")[1])
        (control.folder / "same.csv").unlink()
    assert len(digests) == len(summaries) == 1
    assert [record[1] for record in control.records(connector)] == ["success"] * 3
