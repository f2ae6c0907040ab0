"""One run of a connector at a time, and only its holder writes: races, takeovers, pauses, and a control database that goes away."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine.control import leases
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError, LeaseLost
from tests.control.network import network
from tests.control.platform import GATED, PAUSE, Control, is_paused, told, until
from tests.effort import slow

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

PAIRS = 20


def take(connector: int) -> leases.Lease:
    claim = leases.acquire(connector, None, None)
    assert isinstance(claim, leases.Lease)
    return claim


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, temporary files too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the race -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_each_pair_of_processes_exactly_one_works(control: Control) -> None:
    """Two processes that are up already begin at once, twenty times over."""
    connector = control.connector(GATED.format(rows=10))
    pair = [control.process(connector, "", "loop") for _ in range(2)]

    def ended(status: str, times: int) -> bool:
        return control.statuses(connector).count(status) == times

    for number in range(1, PAIRS + 1):
        with control.close_gate():
            for process in pair:
                assert process.stdin
                process.stdin.write("go\n")
                process.stdin.flush()
            until(partial(ended, "skipped", number))
            assert control.waiting() <= 1
        until(partial(ended, "success", number))
    said = [[json.loads(line) for line in process.communicate(timeout=30)[0].splitlines()] for process in pair]
    assert all({one["status"], other["status"]} == {"success", "skipped"} for one, other in zip(*said, strict=True))
    records = {record["id"]: record for record in control.records(connector)}
    assert len(records) == 2 * PAIRS
    for pair_of_ends in zip(*said, strict=True):
        winner, loser = sorted(pair_of_ends, key=lambda end: str(end["status"]), reverse=True)
        holder = f"run {winner['run_id']} (flow run {records[winner['run_id']]['prefect_flow_run_id']}) on "
        assert holder in loser["text"]
        assert records[loser["run_id"]]["log_summary"] == loser["text"]
        assert (records[loser["run_id"]]["status"], records[loser["run_id"]]["rows_ingested"]) == ("skipped", 0)
    assert [file["token"] for file in control.files(connector)] == list(range(1, PAIRS + 1))


def test_of_forty_threads_on_twenty_connectors_twenty_get_a_lease(control: Control) -> None:
    numbers = [control.connector() for _ in range(PAIRS)] * 2
    begin = threading.Barrier(len(numbers))

    def claim(number: int) -> Any:
        begin.wait()
        return leases.acquire(number, number, f"flow-{number}")

    with ThreadPoolExecutor(len(numbers)) as pool:
        claims = list(pool.map(claim, numbers))
    held = [one for one in claims if isinstance(one, leases.Lease)]
    refused = [one for one in claims if isinstance(one, leases.Holder)]
    assert sorted(lease.connector_id for lease in held) == sorted(set(numbers))
    assert sorted(holder.run_id or 0 for holder in refused) == sorted(set(numbers))
    assert all(f"run {holder.run_id} (flow run flow-{holder.run_id}) on " in str(holder) for holder in refused)
    for lease in held:
        with lease:
            lease.check()


def test_tokens_only_grow_whether_a_lease_was_released_or_expired(control: Control) -> None:
    connector = control.connector()
    seen = []
    for number in range(6):
        lease = take(connector)
        seen.append(lease.token)
        if number % 2:
            control.expire(connector)
            lease._control.close()
        else:
            with lease:
                pass
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_release_by_an_earlier_holder_changes_nothing(control: Control) -> None:
    connector = control.connector()
    first = take(connector)
    control.expire(connector)
    second = take(connector)
    with second:
        with first:
            pass
        assert control.lease(connector)["held"]
        assert control.lease(connector)["token"] == second.token
        second.check()


# --- renewal --------------------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_beyond_its_length(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    connector = control.connector()
    with take(connector) as lease:
        query = "SELECT clock_timestamp() > acquired_at + interval '5 seconds' AS old FROM ferry_leases"
        until(lambda: control.execute(query)[0]["old"])
        assert control.lease(connector)["held"]
        lease.check()
        assert isinstance(leases.acquire(connector, None, None), leases.Holder)
    assert not control.lease(connector)["held"]


@pytest.mark.parametrize("text", ["1", "0", "-5", "1.9", "86401", "soon", "nan", "inf"])
def test_a_length_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", text)
    with pytest.raises(ConfigurationError, match="FERRY_LEASE_SECONDS is a number of seconds from 2 to 86400"):
        leases.lease_seconds()


def test_the_holder_learns_that_its_lease_was_taken_over(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "4")
    connector = control.connector()
    with take(connector) as lost:
        control.expire(connector)
        with take(connector) as lease:
            until(lambda: lost._refused)
            with pytest.raises(LeaseLost, match=rf"connector {connector} \(token 1\) has ended, or was taken over"):
                lost.check()
            lease.check()
        assert not control.lease(connector)["held"]


# --- the ledger -----------------------------------------------------------------------------------------------------


def ledger_of(lease: leases.Lease) -> tuple[ControlDatabase, leases.Ledger]:
    database = ControlDatabase()
    return database, leases.Ledger(database, lease, lambda path: f"memory://{path}")


@pytest.mark.parametrize("how", ["taken over", "expired", "released"])
def test_the_ledger_refuses_a_row_of_a_lease_that_ended(control: Control, how: str) -> None:
    """The holder's own clock says that it has a minute left: the database decides."""
    connector = control.connector()
    lease = take(connector)
    database, ledger = ledger_of(lease)
    with database:
        ledger.record("x", "writing")
        if how == "released":
            control.execute("UPDATE ferry_leases SET expires_at = NULL")
        else:
            control.expire(connector)
        if how == "taken over":
            take(connector)._control.close()
        lease.check()
        with pytest.raises(LeaseLost):
            ledger.record("x", "publishing")
        with pytest.raises(LeaseLost):
            ledger.record("y", "writing")
        with pytest.raises(LeaseLost):
            lease.check()
    lease._control.close()
    assert [(file["path"], file["state"]) for file in control.files(connector)] == [("x", "writing")]


def test_a_lease_that_was_left_is_not_held_whatever_a_thread_of_the_run_still_tries(control: Control) -> None:
    with take(control.connector()) as lease:
        lease.check()
    with pytest.raises(LeaseLost):
        lease.check()


def test_the_ledger_keeps_what_a_kill_leaves_and_what_was_delivered(control: Control) -> None:
    connector = control.connector("SELECT i FROM generate_series(1, 25) i", max_file_rows=10)
    result = engine.run_connector(connector)
    rows = control.files(connector)
    assert [(row["path"], row["state"], row["file_rows"]) for row in rows] == [
        ("x-00001.csv", "written", 10),
        ("x-00002.csv", "written", 10),
        ("x-00003.csv", "written", 5),
    ]
    assert all(row["leftover"].endswith(".part") for row in rows)
    assert [row["url"] for row in rows] == [file.path for file in result.files]
    assert [row["sha256"] for row in rows] == [file.sha256 for file in result.files]
    assert [row["run_id"] for row in rows] == [result.run_id] * 3


# --- a lease that is lost in mid-run --------------------------------------------------------------------------------


def steal_before(monkeypatch: pytest.MonkeyPatch, control: Control, connector: int, state: str) -> None:
    """Somebody else takes the lease over just before the run notes that it is about to do this."""
    true = leases.Ledger.record

    def record(ledger: leases.Ledger, path: str, now: Any, **more: Any) -> None:
        if now == state:
            control.expire(connector)
            take(connector)._control.close()
        true(ledger, path, now, **more)

    monkeypatch.setattr(leases.Ledger, "record", record)


def test_files_that_are_finished_do_not_appear_once_the_lease_is_lost(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    connector = control.connector("SELECT i FROM generate_series(1, 25) i", max_file_rows=10)
    steal_before(monkeypatch, control, connector, "publishing")
    with pytest.raises(LeaseLost):
        engine.run_connector(connector)
    assert not control.folder.exists()
    assert control.records(connector)[0]["status"] == "failed"
    assert control.records(connector)[0]["log_summary"].startswith(f"the lease of connector {connector} (token 1) has ended, or was taken over")
    assert control.lease(connector)["held"]


def test_no_chunk_of_an_earlier_delivery_is_removed_once_the_lease_is_lost(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    connector = control.connector("SELECT i FROM generate_series(1, 45) i", max_file_rows=10)
    engine.run_connector(connector)
    control.override(connector, query="SELECT i FROM generate_series(101, 115) i")
    steal_before(monkeypatch, control, connector, "deleting")
    with pytest.raises(LeaseLost):
        engine.run_connector(connector)
    assert sorted(contents(control.folder)) == [f"x-0000{n}.csv" for n in range(1, 6)]
    assert control.statuses(connector) == ["success", "failed"]


def test_publication_stops_at_the_file_before_which_the_lease_was_lost(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published before stands, whole, and the ledger says so."""
    connector = control.connector("SELECT i FROM generate_series(1, 25) i", max_file_rows=10)
    true, published = leases.Ledger.record, []

    def record(ledger: leases.Ledger, path: str, now: Any, **more: Any) -> None:
        if now == "publishing":
            published.append(path)
            if len(published) == 2:
                control.expire(connector)
        true(ledger, path, now, **more)

    monkeypatch.setattr(leases.Ledger, "record", record)
    with pytest.raises(LeaseLost):
        engine.run_connector(connector)
    assert list(contents(control.folder)) == ["x-00001.csv"]
    assert next((row["path"], row["state"], row["file_rows"]) for row in control.files(connector)) == ("x-00001.csv", "written", 10)


def stop_and_resume(control: Control, connector: int, process: subprocess.Popen[str], stopped: Callable[[], object]) -> dict[str, bytes]:
    """Wait until the process is paused, let its lease end, run the connector to its end here, resume the process. Returns what the run here left."""
    until(stopped)
    until(lambda: not control.lease(connector)["held"])
    control.override(connector, query="SELECT i FROM generate_series(1001, 1015) i", max_file_rows=10)
    assert engine.run_connector(connector).status == "success"
    delivered = contents(control.folder)
    process.send_signal(signal.SIGCONT)
    return delivered


BEFORE_PUBLISHING = f"""
from engine.routes.delivery import Delivery
true = Delivery._publish
def publish(delivery):
    {PAUSE}
    true(delivery)
Delivery._publish = publish
"""
BEFORE_DELETING = f"""
from engine.control.leases import Ledger
true = Ledger.record
def record(ledger, path, state, **more):
    if state == "deleting":
        {PAUSE}
    true(ledger, path, state, **more)
Ledger.record = record
"""


@pytest.mark.parametrize("point", [slow("streaming"), "publishing", slow("deleting")])
def test_an_owner_that_is_resumed_after_its_lease_ended_publishes_and_deletes_nothing(control: Control, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    query = GATED.format(rows=20_000) if point == "streaming" else "SELECT i FROM generate_series(1, 25) i"
    connector = control.connector("SELECT i FROM generate_series(1, 45) i", max_file_rows=10)
    engine.run_connector(connector)  # five chunks stand there before
    control.override(connector, query=query, max_file_rows=10)
    if point == "streaming":
        control.override(connector, query=query, max_file_rows=10_000)
    gate = control.close_gate()
    process = control.process(connector, {"publishing": BEFORE_PUBLISHING, "deleting": BEFORE_DELETING}.get(point, ""))
    if point == "streaming":
        until(lambda: control.waiting() == 1)
        process.send_signal(signal.SIGSTOP)
    gate.close()
    delivered = stop_and_resume(control, connector, process, lambda: is_paused(process))
    end = told(process)
    assert end["status"] == "LeaseLost", end
    assert contents(control.folder) == delivered
    assert sorted(delivered) == ["x-00001.csv", "x-00002.csv"]
    record = control.records(connector)[1]
    assert (record["status"], record["finished_at"] is None) == ("failed", False)
    assert record["log_summary"].startswith(f"the lease of connector {connector} (token 2) ")
    assert control.statuses(connector) == ["success", "failed", "success"]
    if point != "deleting":
        assert {row["state"] for row in control.files(connector) if row["token"] == 2} <= {"writing", "discarded", "swept"}


def test_another_connector_runs_while_one_is_under_way(control: Control) -> None:
    held, other = control.connector(GATED.format(rows=10)), control.connector(csv_filename="other.csv")
    with control.close_gate():
        process = control.process(held)
        until(lambda: control.waiting() == 1)
        assert engine.run_connector(other).status == "success"
        assert control.lease(held)["held"]
    assert told(process)["status"] == "success"


def test_an_owner_that_is_resumed_before_it_completes_an_upload_leaves_the_newer_object_alone(
    control: Control, s3_client: Any, s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    bucket = s3_options["bucket"]
    connector = control.connector(GATED.format(rows=60_000), s3_options, types=("postgres", "s3"))
    process = control.process(connector, BEFORE_PUBLISHING)
    until(lambda: is_paused(process))
    assert len(s3_client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    until(lambda: not control.lease(connector)["held"])
    control.override(connector, query="SELECT i FROM generate_series(1001, 1015) i")
    result = engine.run_connector(connector)
    process.send_signal(signal.SIGCONT)
    assert told(process)["status"] == "LeaseLost"
    body = s3_client.get_object(Bucket=bucket, Key="x.csv")["Body"].read()
    assert hashlib.sha256(body).hexdigest() == result.files[0].sha256
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket)
    assert control.statuses(connector) == ["failed", "success"]


# --- the network, and rights ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_renewal_that_is_swallowed_by_the_network_is_given_up_for_another_connection(
    control: Control, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "4")
    connector = control.connector()
    with network(postgres.port) as between:
        monkeypatch.setenv("DATABASE_URL", control.url.replace(f":{postgres.port}/", f":{between.port}/"))
        with take(connector) as lease:
            until(lambda: control.execute("SELECT renewed_at > acquired_at AS renewed FROM ferry_leases")[0]["renewed"])
            between.stall()
            stalled = control.lease(connector)["renewed_at"]
            until(lambda: control.execute("SELECT clock_timestamp() > %s + interval '6 seconds' AS later", stalled)[0]["later"])
            assert control.lease(connector)["held"]
            lease.check()
        assert not control.lease(connector)["held"]


RIGHTS = (
    "SELECT ON ad_lookup_codes, cai_defined_sources, cai_defined_destinations, cai_connectors",
    "SELECT, UPDATE ON cai_connector_runs",
    "SELECT, INSERT, UPDATE ON ferry_files",
)


def test_without_a_record_a_run_goes_on_and_is_still_the_only_one(control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("DATABASE_URL", control.role(*RIGHTS, "SELECT, INSERT, UPDATE ON ferry_leases"))
    connector = control.connector(GATED.format(rows=10))
    with ThreadPoolExecutor(1) as pool:
        with control.close_gate():
            first = pool.submit(engine.run_connector, connector)
            until(lambda: control.waiting() == 1)
            second = engine.run_connector(connector)
            assert (second.status, second.run_id) == ("skipped", None)
            assert f"connector {connector} is being run by a run without a record (flow run " in second.notes[0]
        result = first.result(timeout=30)
    assert (result.status, result.rows, result.run_id) == ("success", 20, None)
    assert control.records(connector) == []
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("no run record could be made, the run goes on without: the role of DATABASE_URL lacks a right" in text for text in warnings) == 2
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_without_a_lease_there_is_no_run(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    role = control.role(*RIGHTS, "INSERT ON cai_connector_runs", "USAGE ON SEQUENCE cai_connector_runs_id_seq", "SELECT ON ferry_leases")
    monkeypatch.setenv("DATABASE_URL", role)
    connector = control.connector()
    with pytest.raises(ConfigurationError, match="lacks a right"):
        engine.run_connector(connector)
    assert [(record["status"], "lacks a right" in record["log_summary"]) for record in control.records(connector)] == [("failed", True)]
    assert not control.folder.exists()
    assert control.files(connector) == []
