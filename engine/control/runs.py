"""Run records (`cai_connector_runs`, specification 4.2 and 4.4), and what the ledger holds of each run."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from engine.results import LARGEST_INTEGER

if TYPE_CHECKING:
    from engine.control.database import ControlDatabase, Row

RUNNING = "running on "
"""What the summary of a record begins with while it is `started`: so that ferry closes no record of somebody else's."""
PATIENCE_SECONDS = 45.0
"""How long the end of a run waits for a control database that is away; after that, whoever comes next closes the record."""

DELIVERED_COUNT = f"""
    (SELECT LEAST(COALESCE(sum(CASE WHEN f.source_path IS NULL THEN f.file_rows ELSE 1 END), 0), {LARGEST_INTEGER})::int FROM ferry_files f
     WHERE f.run_id = r.id AND f.state IN ('written', 'replaced', 'removing source', 'moved'))
"""  # noqa: S608 - our own text
"""What a run (`cai_connector_runs r`) has delivered by its ledger, whatever became of it: rows of an export, files of a transfer."""
_RECORDS = """
    SELECT r.id, r.connector_id, c.name AS connector_name, r.status, r.prefect_flow_run_id, r.started_at, r.finished_at, r.rows_ingested, r.log_summary
    FROM cai_connector_runs r LEFT JOIN cai_connectors c ON c.id = r.connector_id
"""


def create_run_record(control: ControlDatabase, connector_id: int, flow_run_id: str) -> int:
    """Insert the record of a run that begins; returns its id."""
    statement = """
        INSERT INTO cai_connector_runs (connector_id, status, prefect_flow_run_id, started_at, log_summary)
        VALUES (%s, 'started', %s, NOW(), %s || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC') RETURNING id
    """
    return int(control.once(statement, (connector_id, flow_run_id, f"{RUNNING}{socket.gethostname()}, process {os.getpid()}, since "))[0]["id"])


def sign_of_life(control: ControlDatabase, run_id: int) -> None:
    """Note that a run which gives its lease back lives: its record has as long as a lease lasts to be ended, before anybody takes it for dead."""
    statement = """
        UPDATE cai_connector_runs
        SET log_summary = regexp_replace(log_summary, ', since .* UTC$', ', since ' || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC')
        WHERE id = %s AND status = 'started' AND log_summary LIKE %s
    """
    control.query(statement, (run_id, RUNNING + "%"))


def update_run_record(control: ControlDatabase, run_id: int, status: str, rows_ingested: int | None = None, log_summary: str | None = None) -> None:
    """End a record; what is None stays as it was. A count that INTEGER cannot hold is stored as the largest one that it can."""
    statement = """
        UPDATE cai_connector_runs
        SET status = %s, finished_at = NOW(), rows_ingested = COALESCE(%s, rows_ingested), log_summary = COALESCE(%s, log_summary)
        WHERE id = %s
    """
    rows = None if rows_ingested is None else min(rows_ingested, LARGEST_INTEGER)
    control.query(statement, (status, rows, log_summary, run_id), patience=PATIENCE_SECONDS)


def unrecorded(control: ControlDatabase, connector_id: int) -> list[Row]:
    """The runs of a connector since its last success, this one among them, of which nobody has noted that they ended well: `id, prefect_flow_run_id`."""
    statement = """
        SELECT id, prefect_flow_run_id FROM cai_connector_runs
        WHERE connector_id = %s AND status IN ('started', 'failed')
          AND id > (SELECT COALESCE(max(id), 0) FROM cai_connector_runs WHERE connector_id = %s AND status = 'success')
        ORDER BY id
    """
    return control.query(statement, (connector_id, connector_id))


def list_abandoned(control: ControlDatabase, *, limit: int = 50) -> list[Row]:
    """The newest records that were closed as abandoned, by whomever: `id, prefect_flow_run_id`."""
    statement = """
        SELECT id, prefect_flow_run_id FROM cai_connector_runs
        WHERE status = 'failed' AND log_summary LIKE 'abandoned:%%' AND finished_at > LOCALTIMESTAMP - interval '1 day' ORDER BY id DESC LIMIT %s
    """
    return control.query(statement, (limit,))


def list_runs(control: ControlDatabase, *, connector_id: int | None = None, status: str | None = None, limit: int = 50) -> list[Row]:
    """The newest records first: `id, connector_id, connector_name, status, prefect_flow_run_id, started_at, finished_at, rows_ingested, log_summary`."""
    statement = f"""
        {_RECORDS}
        WHERE (%s::int IS NULL OR r.connector_id = %s) AND (%s::text IS NULL OR r.status = %s)
        ORDER BY r.id DESC LIMIT %s
    """
    return control.query(statement, (connector_id, connector_id, status, status, limit))


def find_run(control: ControlDatabase, run_id: int) -> Row | None:
    """One record as in `list_runs`, or None."""
    found = control.query(f"{_RECORDS} WHERE r.id = %s", (run_id,))
    return found[0] if found else None


def delivered_count(control: ControlDatabase, run_id: int) -> int:
    """What a run has delivered so far, by its ledger."""
    found = control.query(f"SELECT {DELIVERED_COUNT} AS count FROM cai_connector_runs r WHERE r.id = %s", (run_id,))  # noqa: S608 - our own text
    return int(found[0]["count"]) if found else 0


def files_of(control: ControlDatabase, run_id: int) -> list[Row]:
    """The ledger's rows of one run: `id, url, source_path, state, file_rows, file_bytes, sha256, verified, changed_at`."""
    statement = "SELECT id, url, source_path, state, file_rows, file_bytes, sha256, verified, changed_at FROM ferry_files WHERE run_id = %s ORDER BY path"
    return control.query(statement, (run_id,))
