"""What a connector would do, found out without doing it (`ferry connectors check`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import jobs, layers, workers
from engine.control import connectors
from engine.errors import FerryError

if TYPE_CHECKING:
    from engine.control.database import ControlDatabase

COLUMNS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a connector.

    Attributes:
        connector_id: Which.
        problem: Why it cannot run; None when it can, as far as was tried.
        would: What it would do, in words.
        notes: Remarks that a user should read.
        exit_code: 0, or that of the problem.
    """

    connector_id: int
    problem: str | None
    would: str = ""
    notes: tuple[str, ...] = ()
    exit_code: int = 0


def check(control: ControlDatabase, connector_id: int, *, offline: bool = False) -> Checked:
    """Validate a connector and, unless `offline`, try both of its ends: the query is planned and not run, the destination is probed and left as it is."""
    try:
        return _checked(control, connector_id, offline=offline)
    except FerryError as error:
        return Checked(connector_id, str(error), exit_code=error.exit_code)


def _checked(control: ControlDatabase, connector_id: int, *, offline: bool) -> Checked:
    stored = connectors.read_connector(control, connector_id)
    job = jobs.connector_job(layers.merged_connector(stored))
    path = job.target.name(1)
    place = f"{job.store.url(path)}" + (" and further numbered files" if job.target.chunked else "")
    if offline:
        return Checked(connector_id, None, f"would write {place} (neither end was tried)", (*job.notes, *job.store.notes))
    rows = job.source.describe(job.layout.form)
    standing = workers.call(lambda: job.store.stat(path))
    workers.call(lambda: job.store.probe(path))
    columns = ", ".join(rows.columns[:COLUMNS_SHOWN]) + (", …" if len(rows.columns) > COLUMNS_SHOWN else "")
    about = f", about {rows.estimated_rows:,} rows" if rows.estimated_rows is not None else ""
    then = {"replace": " (replacing the one that is there)", "skip": " but leave it, since it is there", "fail": " but fail, since it is there"}
    would = f"would write {place}{then[job.target.exists] if standing else ''}: {len(rows.columns)} columns ({columns}){about} from {rows.where}"
    return Checked(connector_id, None, would, (*job.notes, *rows.notes, *job.store.notes))
