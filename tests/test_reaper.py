"""Runs that die at any point leave no record that says `started`, no part upload and no temporary file; and nothing else is touched."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine import connector as connectors
from engine import embedded, reaper
from engine.control import leases
from engine.control.database import ControlDatabase
from tests.control.platform import GATED, KILL, Control, until
from tests.effort import slow, spread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = socket.gethostname()
QUICK = "SELECT i FROM generate_series(1, 10) i"


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")


def at(owner: str, function: str, condition: str = "True", *, after: bool = False) -> str:
    """Code that kills its process at the call of a function, or after it."""
    module, _, name = owner.rpartition(".")
    return f"""
import functools, importlib
try:
    owner = importlib.import_module("{owner}")
except ModuleNotFoundError:
    owner = getattr(importlib.import_module("{module}"), "{name}")
true = owner.{function}
def patched(*args, **more):
    if not {after} and ({condition}):
        {KILL}
    result = true(*args, **more)
    if {after} and ({condition}):
        {KILL}
    return result
owner.{function} = patched
"""


# Each with the states that the ledger's rows may be in afterwards.
POINTS = {
    "after the record, before the lease": (at("engine.control.leases", "acquire"), []),
    "after the lease, before anything": (at("engine.control.leases", "acquire", after=True), []),
    "with the first file noted, before it is begun": (at("engine.stores.local.LocalWriter", "__enter__"), ["swept"]),
    "with files finished, before one is published": (at("engine.control.leases.Ledger", "record", "args[2] == 'publishing'"), ["swept"] * 3),
    "between the note of a publication and the publication": (
        at("engine.control.leases.Ledger", "record", "args[2] == 'publishing'", after=True),
        ["swept"] * 3,
    ),
    "between a publication and its note": (at("engine.control.leases.Ledger", "record", "args[2] in ('written', 'replaced')"), ["ambiguous", "swept", "swept"]),
    "between two publications": (
        at("engine.control.leases.Ledger", "record", "args[2] == 'publishing' and args[1].endswith('2.csv')"),
        ["replaced", "swept", "swept"],
    ),
    "after the lease was released, before the record is ended": (at("engine.control.runs", "update_run_record"), ["replaced"] * 3),
}


@pytest.mark.parametrize("point", spread(POINTS, 9))
def test_a_run_that_is_killed_at_any_point_is_closed_and_runs_again(control: Control, point: str) -> None:
    code, states = POINTS[point]
    connector = control.connector(QUICK, max_file_rows=4)
    engine.run_connector(connector)
    before = {path.name for path in control.folder.iterdir()}
    process = control.process(connector, code)
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert control.statuses(connector) == ["success", "started"]
    reaped: list[reaper.Reaped] = []

    def reap() -> bool:
        reaped.append(reaper.reap())
        return bool(reaped[-1].runs)

    until(reap)
    dead = control.records(connector)[1]
    assert [(run["id"], run["connector_id"], run["prefect_flow_run_id"]) for run in reaped[-1].runs] == [(dead["id"], connector, dead["prefect_flow_run_id"])]
    assert (dead["status"], dead["rows_ingested"]) == ("failed", {0: 0, 1: 4, 3: 10}[states.count("replaced")])
    assert dead["finished_at"] is not None
    assert dead["log_summary"].startswith("abandoned: ")
    assert f"process {process.pid}" in dead["log_summary"]
    assert HOST in dead["log_summary"]
    assert {path.name for path in control.folder.iterdir()} == before
    assert [file["state"] for file in control.files(connector) if file["run_id"] == dead["id"]] == states
    assert reaped[-1].problems == []
    assert reaper.reap() == reaper.Reaped()
    assert engine.run_connector(connector).rows == 10
    assert control.statuses(connector) == ["success", "failed", "success"]


def stream_and_kill(control: Control, connector: int, under_way: Callable[[], object]) -> None:
    """Kill a run while its query streams and its output is under way."""
    with control.close_gate():
        process = control.process(connector)
        until(lambda: control.waiting() == 1)
        until(under_way)
        process.kill()
        process.wait(timeout=30)
    assert control.statuses(connector) == ["started"]


@pytest.mark.parametrize("closed_by", ["reap", slow("the same connector"), slow("another connector")])
def test_a_run_that_is_killed_while_it_streams_into_a_folder_is_cleared_away(control: Control, closed_by: str) -> None:
    connector, other = control.connector(GATED.format(rows=60_000)), control.connector(csv_filename="other.csv")
    stream_and_kill(control, connector, lambda: any(path.stat().st_size for path in control.folder.glob(".x.csv.*.part")))
    (temporary,) = control.folder.iterdir()
    (control.folder / ".y.csv.0123456789ab.part").write_text("somebody else's")
    control.override(connector, query=QUICK)
    until(lambda: not control.lease(connector)["held"])
    if closed_by == "reap":
        assert reaper.reap().leftovers == 1
    else:
        assert engine.run_connector(connector if closed_by == "the same connector" else other).status == "success"
    record = control.records(connector)[0]
    assert record["status"] == "failed"
    assert record["log_summary"].startswith("abandoned: no sign of life since 20")
    assert temporary.exists() == (closed_by == "another connector")
    engine.run_connector(connector)
    expected = {".y.csv.0123456789ab.part", "x.csv", *(["other.csv"] if closed_by == "another connector" else [])}
    assert {path.name for path in control.folder.iterdir()} == expected


def test_nothing_of_a_run_is_touched_while_its_lease_lasts(control: Control) -> None:
    """Neither its record, however old, nor its file."""
    connector = control.connector(GATED.format(rows=20_000))
    with control.close_gate():
        process = control.process(connector)
        until(lambda: control.waiting() == 1)
        control.execute("UPDATE cai_connector_runs SET started_at = '2000-01-01', log_summary = regexp_replace(log_summary, 'since ....', 'since 2000')")
        until(lambda: control.execute("SELECT clock_timestamp() > acquired_at + interval '3 seconds' AS later FROM ferry_leases")[0]["later"])
        assert reaper.reap() == reaper.Reaped()
        (temporary,) = control.folder.iterdir()
        assert temporary.name.endswith(".part")
    assert process.wait(timeout=30) == 0
    assert control.statuses(connector) == ["success"]


# --- S3 -------------------------------------------------------------------------------------------------------------


def uploads(s3_client: Any, bucket: str) -> set[str]:
    return {upload["UploadId"] for upload in s3_client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])}


def parts(s3_client: Any, bucket: str, upload: str) -> list[Any]:
    return list(s3_client.list_parts(Bucket=bucket, Key="out/x.csv", UploadId=upload).get("Parts", []))


def begin_upload(s3_client: Any, bucket: str, *, parts: int = 1) -> str:
    """Somebody else's upload at the key of our file."""
    upload = str(s3_client.create_multipart_upload(Bucket=bucket, Key="out/x.csv")["UploadId"])
    for number in range(1, parts + 1):
        s3_client.upload_part(Bucket=bucket, Key="out/x.csv", UploadId=upload, PartNumber=number, Body=bytes(5 << 20))
    return upload


NOT_NOTED = at("engine.control.leases.Ledger", "record", "more.get('leftover')")


@pytest.mark.parametrize("point", ["parts are up", slow("the upload is not noted yet")])
def test_a_run_that_is_killed_while_it_streams_to_s3_leaves_no_upload_and_another_at_its_key_survives(
    control: Control, s3_client: Any, s3_options: dict[str, Any], point: str
) -> None:
    bucket = s3_options["bucket"]
    connector = control.connector(GATED.format(rows=60_000), {**s3_options, "prefix": "out"}, types=("postgres", "s3"))
    another = begin_upload(s3_client, bucket)
    if point == "parts are up":
        stream_and_kill(control, connector, lambda: [upload for upload in uploads(s3_client, bucket) - {another} if parts(s3_client, bucket, upload)])
        assert len(uploads(s3_client, bucket)) == 2
    else:
        assert control.process(connector, NOT_NOTED).wait(timeout=30) == -signal.SIGKILL
        assert len(uploads(s3_client, bucket)) == 2
    control.override(connector, query=QUICK)
    until(lambda: not control.lease(connector)["held"])
    reaped = reaper.reap()
    assert (len(reaped.runs), reaped.leftovers, reaped.problems) == (1, 1, [])
    assert uploads(s3_client, bucket) == {another}
    assert control.records(connector)[0]["log_summary"].startswith("abandoned: no sign of life since 20")
    assert engine.run_connector(connector).status == "success"
    assert s3_client.get_object(Bucket=bucket, Key="out/x.csv")["Body"].read().count(b"\n") == 11
    assert uploads(s3_client, bucket) == {another}


def test_a_slow_reaper_spares_the_upload_that_a_new_run_has_just_begun(control: Control, s3_client: Any, s3_options: dict[str, Any]) -> None:
    """It read of a dead run's file with an unknown upload; meanwhile the connector runs again, and its upload has no part yet."""
    bucket = s3_options["bucket"]
    connector = control.connector(QUICK, {**s3_options, "prefix": "out"}, types=("postgres", "s3"))
    dead_run(control, connector, "x.csv", f"s3://{bucket}/out/x.csv", None)
    with ControlDatabase() as database:
        leases.close_expired(database)
        read = leases.unfinished_files(database)
        assert len(read) == 1
        reaper.before_run(connector)
        begun = begin_upload(s3_client, bucket, parts=0)
        reaper._Sweep(database, read)
    assert uploads(s3_client, bucket) == {begun}


# --- what is not ours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "summary",
    [
        None,
        "",
        "somebody's own",
        "running on fumes",
        "running on HOST, process 4711",
        "running on HOST, process 1, since ever",
        "running on HOST, process 1, since 2001-01-01 00:00:00 UTC and counting",
        "really running on HOST, process 1, since 2001-01-01 00:00:00 UTC",
        "running on HOST, process 1, since 9999-99-99 99:99:99 UTC",
    ],
)
def test_records_of_others_stay_as_they_are(control: Control, summary: str | None) -> None:
    add = "INSERT INTO cai_connector_runs (connector_id, status, started_at, log_summary) VALUES (1, 'started', '2001-01-01', %s)"
    control.execute(add, summary)
    before = control.records(1)
    assert reaper.reap() == reaper.Reaped()
    assert control.records(1) == before


def test_records_that_have_ended_stay_as_they_are(control: Control) -> None:
    connector = control.connector()
    engine.run_connector(connector)
    run_id = control.records(connector)[0]["id"]
    control.execute("UPDATE cai_connector_runs SET log_summary = 'running on HOST, process 1, since 2001-01-01 00:00:00 UTC'")
    control.execute("UPDATE ferry_leases SET run_id = %s, expires_at = clock_timestamp() - interval '1 hour'", run_id)
    before = control.records(connector)
    assert reaper.reap() == reaper.Reaped()
    assert control.records(connector) == before


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(("writes", "reads"), [("Pacific/Kiritimati", "Etc/GMT+12"), slow("Etc/GMT+12", "Pacific/Kiritimati")])
def test_the_age_of_a_record_does_not_depend_on_time_zones(monkeypatch: pytest.MonkeyPatch, writes: str, reads: str) -> None:
    """Workers and the platform may have different ones, a day apart; `started_at` has none."""
    monkeypatch.setenv("PGTZ", writes)
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "60")
    young = connectors.create_run_record(1, "flow")
    monkeypatch.setenv("PGTZ", reads)
    assert reaper.reap() == reaper.Reaped()
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    until(lambda: [run["id"] for run in reaper.reap().runs] == [young], 10)


# --- several at once ------------------------------------------------------------------------------------------------


def dead_run(control: Control, connector: int, path: str, url: str, leftover: str | None, *, host: str = HOST) -> int:
    """A run whose process died a while ago, with one file being written."""
    run_id = connectors.create_run_record(connector, "flow")
    control.execute(
        "INSERT INTO ferry_leases VALUES (%s, 1, %s, 'flow', %s, 4711, clock_timestamp() - interval '1 hour', clock_timestamp() - interval '1 hour', clock_timestamp() - interval '59 minutes')"
        " ON CONFLICT DO NOTHING",
        connector,
        run_id,
        host,
    )
    add = "INSERT INTO ferry_files (connector_id, token, path, run_id, url, host, state, leftover, changed_at) VALUES (%s, 1, %s, %s, %s, %s, 'writing', %s, clock_timestamp())"
    control.execute(add, connector, path, run_id, url, host, leftover)
    return run_id


def dead_file(control: Control, connector: int, name: str = "x.csv", *, host: str = HOST) -> Path:
    """A run that died while it wrote into the folder; returns its temporary file."""
    control.folder.mkdir(exist_ok=True)
    temporary = control.folder / f".{name}.0123456789ab.part"
    temporary.write_text("half")
    dead_run(control, connector, name, str(control.folder / name), temporary.name, host=host)
    return temporary


def test_reapers_at_once_do_each_thing_once_and_do_not_fail(control: Control, s3_client: Any, s3_options: dict[str, Any]) -> None:
    bucket, ids = s3_options["bucket"], []
    for number in range(8):
        ids.append(control.connector(QUICK, csv_filename=f"{number}.csv"))
        dead_file(control, ids[-1], f"{number}.csv")
    for _ in range(4):
        ids.append(control.connector(QUICK, {**s3_options, "prefix": "out"}, types=("postgres", "s3")))
        dead_run(control, ids[-1], "x.csv", f"s3://{bucket}/out/x.csv", begin_upload(s3_client, bucket))
    begin = threading.Barrier(6)

    def reap(_: int) -> reaper.Reaped:
        begin.wait()
        return reaper.reap()

    with ThreadPoolExecutor(6) as pool:
        reaped = list(pool.map(reap, range(6)))
    assert sorted(run["connector_id"] for one in reaped for run in one.runs) == ids
    assert sum(one.leftovers for one in reaped) == 12
    assert [problem for one in reaped for problem in one.problems] == []
    assert list(control.folder.iterdir()) == []
    assert uploads(s3_client, bucket) == set()
    assert {record["status"] for connector in ids for record in control.records(connector)} == {"failed"}


# --- connectors that have changed since -----------------------------------------------------------------------------


def states(control: Control, connector: int) -> list[str]:
    return [file["state"] for file in control.files(connector)]


def test_leftovers_of_a_connector_that_was_deleted_are_told_once(control: Control) -> None:
    connector = control.connector(QUICK)
    temporary = dead_file(control, connector)
    control.execute("DELETE FROM cai_connectors")
    told = reaper.reap().problems
    assert told == [f"connector {connector}: it was deleted; a run that died left {temporary.name} for {control.folder / 'x.csv'}: remove it by hand"]
    assert reaper.reap() == reaper.Reaped()
    assert states(control, connector) == ["swept"]


def test_leftovers_of_a_destination_that_has_changed_are_told_once_and_keep_none_from_being_removed(control: Control, tmp_path: Path) -> None:
    connector = control.connector(QUICK)
    temporary = dead_file(control, connector, "a.csv")
    other = dead_file(control, connector, "b.csv")
    control.execute("UPDATE ferry_files SET url = %s WHERE path = 'b.csv'", str(tmp_path / "before/b.csv"))
    told = reaper.reap()
    assert told.problems == [
        f"connector {connector}: its destination has changed since; a run that died left {other.name} for {tmp_path / 'before/b.csv'}: remove it by hand"
    ]
    assert told.leftovers == 1
    assert (temporary.exists(), other.exists()) == (False, True)
    assert reaper.reap() == reaper.Reaped()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cai_defined_sources SET config = NULL",
        """UPDATE cai_defined_sources SET config = '{"connection_string": "env:NOT_HERE", "query": "SELECT 1"}'""",
        "DELETE FROM cai_defined_sources",
        "UPDATE cai_connectors SET defined_source_id = NULL",
        "UPDATE cai_connectors SET source_config_override = '[]'",
    ],
)
def test_leftovers_are_removed_whatever_became_of_the_source(control: Control, change: str) -> None:
    connector = control.connector(QUICK)
    temporary = dead_file(control, connector)
    control.execute(change)
    reaped = reaper.reap()
    assert (reaped.leftovers, reaped.problems) == (1, [])
    assert not temporary.exists()
    assert states(control, connector) == ["swept"]


def test_a_store_that_is_away_is_tried_again_and_keeps_no_other_from_being_cleared(control: Control, s3_options: dict[str, Any]) -> None:
    away = {**s3_options, "endpoint_url": f"http://127.0.0.1:{embedded.free_ports(1)[0]}", "prefix": "out"}
    first = control.connector(QUICK, away, types=("postgres", "s3"))
    dead_run(control, first, "x.csv", f"s3://{away['bucket']}/out/x.csv", "upload")
    second = control.connector(QUICK)
    temporary = dead_file(control, second)
    reaped = reaper.reap()
    assert reaped.leftovers == 1
    assert not temporary.exists()
    assert [
        problem.startswith(
            f"connector {first}: what a dead run left for s3://{away['bucket']}/out/x.csv could not be removed, and is tried again: cannot abort an upload of s3://"
        )
        for problem in reaped.problems
    ] == [True]
    assert states(control, first) == ["writing"]
    control.execute(
        "UPDATE cai_defined_destinations SET config = config || jsonb_build_object('endpoint_url', %s::text) WHERE config ? 'bucket'",
        s3_options["endpoint_url"],
    )
    assert reaper.reap() == reaper.Reaped()
    assert states(control, first) == ["swept"]


def test_a_folder_of_another_machine_is_left_to_it_unless_it_is_shared(control: Control) -> None:
    mine, shared = control.connector(QUICK), control.connector(QUICK)
    dead_run(control, mine, "x.csv", str(control.folder / "x.csv"), ".x.csv.ba9876543210.part", host="elsewhere")
    temporary = dead_file(control, shared, "y.csv", host="elsewhere")
    assert reaper.reap().leftovers == 1
    assert not temporary.exists()
    assert (states(control, mine), states(control, shared)) == (["writing"], ["swept"])
    assert control.statuses(mine) == ["failed"]


def test_a_leftover_of_a_machine_that_does_not_come_back_is_told_once_another_has_delivered(control: Control) -> None:
    connector = control.connector(QUICK)
    dead_run(control, connector, "x.csv", str(control.folder / "x.csv"), ".x.csv.ba9876543210.part", host="elsewhere")
    assert reaper.reap().problems == []
    engine.run_connector(connector)
    assert "elsewhere" in reaper.reap().problems[0]
    assert reaper.reap() == reaper.Reaped()
    assert states(control, connector) == ["swept", "written"]


def test_a_leftover_that_cannot_be_removed_keeps_no_other_of_its_connector(control: Control) -> None:
    connector = control.connector(QUICK)
    stuck, other = dead_file(control, connector, "a.csv"), dead_file(control, connector, "b.csv")
    stuck.unlink()
    stuck.mkdir()
    reaped = reaper.reap()
    assert (reaped.leftovers, other.exists()) == (1, False)
    assert "a.csv" in reaped.problems[0]
    stuck.rmdir()
    assert reaper.reap().problems == []
    assert states(control, connector) == ["swept", "swept"]


def test_a_run_longer_than_its_lease_is_not_taken_for_dead_while_its_record_ends(control: Control) -> None:
    connector = control.connector("SELECT pg_sleep(2.5)")
    reaped: list[reaper.Reaped] = []

    def update(*values: Any) -> None:
        reaped.append(reaper.reap())
        connectors.update_run_record(*values)

    outcome = connectors.run(connector, steps=connectors.Steps(update_run_record=update))
    assert [one.runs for one in reaped] == [[]]
    assert outcome["status"] == "success"
    assert control.statuses(connector) == ["success"]


def test_a_share_that_is_not_mounted_is_tried_again(control: Control) -> None:
    connector = control.connector(QUICK)
    dead_run(control, connector, "x.csv", str(control.folder / "x.csv"), ".x.csv.ba9876543210.part")
    control.execute("UPDATE cai_defined_destinations SET config = config || '{\"require_mount\": true}'")
    assert "is the share mounted?" in reaper.reap().problems[0]
    assert states(control, connector) == ["writing"]


def test_a_reaper_that_fails_in_any_way_keeps_no_connector_from_running(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("s3cr3t-canary")

    monkeypatch.setattr(leases, "unfinished_files", fail)
    assert engine.run_connector(control.connector()).status == "success"
    assert "dead runs could not be looked for: unexpected KeyError in fail (test_reaper.py" in caplog.text
    assert "canary" not in caplog.text
