"""Copies as connectors: records, and what a rerun makes of a run that was killed, at any point, by anybody."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine import checking
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError, QueryFailed
from engine.postgres.file_load import Load
from tests.conftest import _new_database
from tests.control.platform import KILL, PAUSE, Control, is_paused, told, until
from tests.effort import slow
from tests.postgres.loads import execute, fetch
from tests.test_reaper import at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine import embedded

ROWS = 1000
QUERY = f"SELECT i AS id, 'CRP' AS analyte FROM generate_series(1, {ROWS}) i"
LOAD = "engine.postgres.file_load.Load"


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "6")


@pytest.fixture
def target(postgres: embedded.Postgres) -> Iterator[str]:
    """The URL of another empty database."""
    with _new_database(postgres) as url:
        yield url


def stored(control: Control, target: str, query: str = QUERY, **destination: Any) -> int:
    more = {"write_disposition": "append", **destination}
    return control.connector(query, {"connection_string": target, "table": "labs", **more}, types=("sql_database", "postgres"))


def count(target: str) -> int:
    return int(fetch(target, "SELECT count(*) FROM labs")[0][0]) if fetch(target, "SELECT to_regclass('labs')") != [(None,)] else 0


def test_a_connector_copies_and_its_record_counts_rows(control: Control, target: str) -> None:
    connector = stored(control, target)
    assert engine.run_connector(connector).rows == ROWS
    record = control.records(connector)[0]
    assert (record["status"], record["rows_ingested"]) == ("success", ROWS)
    assert "public.labs" in record["log_summary"]
    assert [(file["state"], file["file_rows"]) for file in control.files(connector)] == [("written", ROWS)]
    assert engine.run_connector(connector).rows == ROWS
    assert count(target) == 2 * ROWS


def test_the_table_is_named_after_the_connector_and_keys_of_other_routes_have_no_effect(control: Control, target: str) -> None:
    destination: dict[str, Any] = {"table": None, "delimiter": ";", "on_changed_file": "fail", "if_exists": "skip", "delete_source": True}
    assert engine.run_connector(stored(control, target, **destination)).rows == ROWS
    assert fetch(target, "SELECT count(*) FROM lab") == [(ROWS,)]


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ({"write_disposition": None}, "destination: 'write_disposition' is missing: a copy has no default"),
        ({"write_disposition": "merge"}, "destination: write_disposition merge needs primary_key"),
        ({"tabel": "x"}, "destination: unknown key 'tabel'; did you mean 'table'"),
    ],
)
def test_what_cannot_be_is_refused_by_connector(control: Control, target: str, destination: dict[str, Any], message: str) -> None:
    connector = stored(control, target, **destination)
    with pytest.raises(ConfigurationError, match=f"^connector {connector}: {message}"):
        engine.run_connector(connector)
    assert control.statuses(connector) == ["failed"]


def test_a_check_tries_both_ends_and_does_nothing(control: Control, target: str) -> None:
    connector = stored(control, target)
    with ControlDatabase() as opened:
        checked = checking.check(opened, connector)
        assert checked.problem is None
        assert checked.would.startswith("would copy rows into ")
        assert "public.labs (append): 2 columns (id integer, analyte text), about 1,000 rows from " in checked.would
        assert checked.would.endswith("would make public.labs (id integer, analyte text)")
        both = stored(control, "postgresql://127.0.0.1:1/x", "SELECT nothing")
        assert "source: " in str(checking.check(opened, both).problem)
        assert "destination: cannot connect" in str(checking.check(opened, both).problem)
    assert fetch(target, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]


# Each with the rows that are there after the kill.
POINTS = {
    "before the lease": (at("engine.control.leases", "acquire"), 0),
    "with the table made": (at(LOAD, "_make_table", after=True), 0),
    "with all rows sent": (at(LOAD, "_end"), 0),
    "with dlt's row written, before the commit": (at("engine.postgres.dataset.Dataset", "complete", after=True), 0),
    "after the commit, before its note": (at(LOAD, "_commit", after=True), ROWS),
    "after the note of the commit": (at("engine.control.leases.Ledger", "record", after=True), ROWS),
    "before the record is ended": (at("engine.control.runs", "update_run_record"), ROWS),
}


QUICK = ("with all rows sent", "after the commit, before its note", "before the record is ended")


@pytest.mark.parametrize("point", [point if point in QUICK else slow(point) for point in POINTS])
def test_an_append_that_is_killed_at_any_point_has_each_row_once_after_a_rerun(control: Control, target: str, point: str) -> None:
    code, rows_then = POINTS[point]
    connector = stored(control, target)
    assert control.process(connector, code).wait(timeout=60) == -signal.SIGKILL
    assert count(target) == rows_then
    control.execute("UPDATE ferry_leases SET expires_at = clock_timestamp() - interval '1 second'")
    control.execute("UPDATE cai_connector_runs SET log_summary = regexp_replace(log_summary, 'since .*', 'since 2020-01-01 00:00:00 UTC')")
    result = engine.run_connector(connector)
    assert count(target) == ROWS
    assert control.statuses(connector) == ["failed", "success"]
    record = control.records(connector)[-1]
    if rows_then:
        assert (result.rows, [file.state for file in result.files], record["rows_ingested"]) == (0, ["already delivered"], 0)
        assert f"had committed its {ROWS:,} rows, though its record does not say so" in record["log_summary"]
        assert "added none, nor any that the query gives only since then (ferry run ID --redeliver" in record["log_summary"]
    else:
        assert (result.rows, record["rows_ingested"]) == (ROWS, ROWS)
    assert engine.run_connector(connector).rows == ROWS  # the next one is a run of its own
    assert count(target) == 2 * ROWS


@pytest.mark.parametrize("disposition", ["append", slow("replace")])
def test_a_signal_while_the_rows_are_committed_comes_too_late(control: Control, target: str, monkeypatch: pytest.MonkeyPatch, disposition: str) -> None:
    connector, commit = stored(control, target, write_disposition=disposition), Load._commit

    def committed(self: Load, *given: Any) -> None:
        commit(self, *given)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr(Load, "_commit", committed)
    with pytest.raises(KeyboardInterrupt):
        engine.run_connector(connector)
    assert count(target) == ROWS
    record = control.records(connector)[0]
    assert (record["status"], record["rows_ingested"]) == ("success", ROWS)


@pytest.mark.parametrize("disposition", ["replace", slow("merge")])
def test_other_dispositions_copy_again_after_a_kill(control: Control, target: str, disposition: str) -> None:
    connector = stored(control, target, write_disposition=disposition, primary_key="id")
    assert control.process(connector, at("engine.control.runs", "update_run_record")).wait(timeout=60) == -signal.SIGKILL
    assert engine.run_connector(connector).rows == ROWS
    assert count(target) == ROWS


def test_runs_that_fail_after_a_kill_do_not_hide_what_it_had_committed(control: Control, target: str) -> None:
    connector = stored(control, target)
    assert control.process(connector, at("engine.control.runs", "update_run_record")).wait(timeout=60) == -signal.SIGKILL
    control.override(connector, query="SELECT nothing")
    with pytest.raises(QueryFailed):
        engine.run_connector(connector)
    control.override(connector, query=QUERY)
    assert engine.run_connector(connector).files[0].state == "already delivered"
    assert count(target) == ROWS


def test_who_wants_the_rows_once_more_says_so(control: Control, target: str) -> None:
    connector = stored(control, target)
    assert control.process(connector, at("engine.control.runs", "update_run_record")).wait(timeout=60) == -signal.SIGKILL
    assert engine.run_connector(connector, redeliver=True).rows == ROWS
    assert count(target) == 2 * ROWS


def test_equal_numbers_in_another_control_database_are_other_runs(
    control: Control, target: str, postgres: embedded.Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run_connector(stored(control, target))
    with _new_database(postgres) as url:
        other = Control(url, tmp_path / "other")
        connector = stored(other, target)
        monkeypatch.setenv("DATABASE_URL", url)
        assert engine.run_connector(connector).rows == ROWS
        assert (other.records(connector)[0]["id"], connector) == (1, 1)
    assert count(target) == 2 * ROWS


@pytest.mark.slow
def test_a_run_that_slept_through_its_lease_and_its_successor_add_the_rows_once(control: Control, target: str) -> None:
    """Stopped with everything sent, it wakes up when another run of the connector already waits for it."""
    execute(target, "CREATE TABLE labs (id integer, analyte text)")
    connector = stored(control, target)
    first = control.process(connector, at(LOAD, "_commit").replace(KILL, PAUSE))
    until(lambda: is_paused(first))
    until(lambda: not control.lease(connector)["held"])
    second = control.process(connector)
    until(lambda: fetch(target, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
    assert count(target) == 0
    first.send_signal(signal.SIGCONT)
    ends = sorted([told(first)["status"], told(second)["status"]])
    assert ends in (["LeaseLost", "success"], ["success", "success"])
    assert count(target) == ROWS
