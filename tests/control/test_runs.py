"""Run records: how they begin, how they end, and what stays as it was."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

import engine
from engine import connector
from engine.control import runs
from engine.control.database import ControlDatabase

if TYPE_CHECKING:
    from tests.control.platform import Control


def test_a_record_begins_as_started_and_says_where_and_since_when(control: Control) -> None:
    run_id = connector.create_run_record(7, "flow-7")
    (record,) = control.records(7)
    assert record["id"] == run_id
    assert (record["status"], record["prefect_flow_run_id"]) == ("started", "flow-7")
    assert record["started_at"] is not None
    assert (record["finished_at"], record["rows_ingested"]) == (None, None)
    place = re.escape(f"running on {socket.gethostname()}, process {os.getpid()}")
    assert re.fullmatch(place + r", since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", record["log_summary"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None), (5, "before")),
        ((9, None), (9, "before")),
        ((None, "after"), (5, "after")),
        ((0, ""), (0, "")),
        ((2_147_483_647, None), (2_147_483_647, "before")),
        ((2_147_483_648, None), (2_147_483_647, "before")),
        ((3_000_000_000_000, "3,000,000,000,000 rows"), (2_147_483_647, "3,000,000,000,000 rows")),
    ],
)
def test_what_is_not_given_stays_and_a_count_that_integer_cannot_hold_is_the_largest(
    control: Control, given: tuple[int | None, str | None], expected: tuple[int, str]
) -> None:
    run_id = connector.create_run_record(1, "flow")
    other = connector.create_run_record(1, "other")
    control.execute("UPDATE cai_connector_runs SET rows_ingested = 5, log_summary = 'before'")
    connector.update_run_record(run_id, "success", *given)
    changed, same = control.records(1)
    assert (changed["status"], changed["rows_ingested"], changed["log_summary"]) == ("success", *expected)
    assert changed["finished_at"] >= changed["started_at"]
    assert (same["id"], same["status"], same["finished_at"], same["log_summary"]) == (other, "started", None, "before")


def test_the_end_of_a_record_that_somebody_deleted_is_no_error(control: Control) -> None:
    run_id = connector.create_run_record(1, "flow")
    control.execute("DELETE FROM cai_connector_runs")
    connector.update_run_record(run_id, "success", 1, "done")
    assert control.records(1) == []


def test_history_is_newest_first_and_can_be_narrowed(control: Control) -> None:
    first, second = control.connector(name="First"), control.connector(name="Second", connection_string="postgresql://127.0.0.1:1/none")
    for number in (first, second, first):
        try:
            engine.run_connector(number)
        except engine.ConnectionFailed:
            assert number == second
    with ControlDatabase() as database:
        everything = runs.list_runs(database)
        assert [(row["connector_name"], row["status"]) for row in everything] == [("First", "success"), ("Second", "failed"), ("First", "success")]
        assert [row["id"] for row in runs.list_runs(database, limit=2)] == [row["id"] for row in everything[:2]]
        assert [row["connector_id"] for row in runs.list_runs(database, connector_id=first)] == [first, first]
        assert [row["connector_id"] for row in runs.list_runs(database, status="failed")] == [second]
        assert runs.list_runs(database, connector_id=first, status="failed") == []
        found = runs.find_run(database, everything[0]["id"])
        assert found == everything[0]
        assert runs.find_run(database, 0) is None
        (file,) = runs.files_of(database, everything[0]["id"])
        assert (file["url"], file["state"], file["file_rows"]) == (str(control.folder / "x.csv"), "replaced", 1)
