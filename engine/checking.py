"""What a connector would do, found out without doing it (`ferry connectors check`)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import jobs, layers, workers
from engine.control import connectors, host_keys
from engine.copy_jobs import CopyJob
from engine.errors import ConfigurationError, FerryError
from engine.load_jobs import LoadJob
from engine.results import human_bytes
from engine.routes.archive import Archive
from engine.routes.load import chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.control.connectors import StoredConnector
    from engine.control.database import ControlDatabase
    from engine.protocols import FileStore, SendsBody
    from engine.registry import PinnedKeys
    from engine.results import RowsDescription

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


def validate(stored: StoredConnector, pinned: PinnedKeys | None = None) -> jobs.Job:
    """The job of a connector, with nothing opened.

    Raises:
        ConfigurationError: What is wrong with it.
    """
    return jobs.connector_job(layers.merged_connector(stored), pinned=pinned)


def check(control: ControlDatabase, connector_id: int, *, offline: bool = False) -> Checked:
    """Validate a connector and, unless `offline`, try both of its ends.

    The query is planned and not run, or the files are listed; the destination is probed and left as it is.
    """
    try:
        return _checked(control, connector_id, offline=offline)
    except FerryError as error:
        return Checked(connector_id, str(error), exit_code=error.exit_code)


def _checked(control: ControlDatabase, connector_id: int, *, offline: bool) -> Checked:
    stored = workers.call(lambda: connectors.read_connector(control, connector_id))
    job = validate(stored, lambda host, port: host_keys.pinned(control, host, port))
    if isinstance(job, jobs.ExportJob):
        return _checked_export(connector_id, job, offline=offline)
    if isinstance(job, CopyJob):
        return _checked_copy(connector_id, job, offline=offline)
    if isinstance(job, LoadJob):
        return _checked_load(connector_id, job, offline=offline)
    return _checked_transfer(connector_id, job, offline=offline)


def _checked_export(connector_id: int, job: jobs.ExportJob, *, offline: bool) -> Checked:
    path = job.target.name(1)
    place = f"{job.store.url(path)}" + (" and further numbered files" if job.target.chunked else "")
    if offline:
        return Checked(connector_id, None, f"would write {place} (neither end was tried)", (*job.notes, *job.store.notes))
    problems: dict[str, FerryError] = {}
    with _noted(problems, "source"):
        rows = job.source.describe(job.layout.form)
    with _noted(problems, "destination"):
        standing = workers.call(lambda: _try_destination(job, path))
    if problems:
        return _refused(connector_id, problems)
    if standing and job.target.exists == "skip":
        return Checked(connector_id, None, f"would leave {job.store.url(path)} as it is, and read nothing (if_exists: skip)", (*job.notes, *job.store.notes))
    would = f"would write {place}{' (replacing the one that is there)' if standing else ''}: {_rows(rows)}"
    return Checked(connector_id, None, would, (*job.notes, *rows.notes, *job.store.notes))


def _rows(rows: RowsDescription) -> str:
    count = f"{len(rows.columns)} column{'' if len(rows.columns) == 1 else 's'}"
    columns = ", ".join(rows.columns[:COLUMNS_SHOWN]) + (", …" if len(rows.columns) > COLUMNS_SHOWN else "")
    about = f", about {rows.estimated_rows:,} rows" if rows.estimated_rows is not None else ""
    return f"{count} ({columns}){about} from {rows.where}"


def _checked_copy(connector_id: int, job: CopyJob, *, offline: bool) -> Checked:
    would = f"would copy rows into {job.store.shown} ({job.disposition})"
    if offline:
        return Checked(connector_id, None, f"{would} (neither end was tried)", tuple(job.store.notes))
    problems: dict[str, FerryError] = {}
    with _noted(problems, "source"):
        rows = job.source.describe("exact")
    with _noted(problems, "destination"):
        made = workers.call(job.store.standing if problems else lambda: job.store.would(rows.schema))
    if problems:
        return _refused(connector_id, problems)
    return Checked(connector_id, None, f"{would}: {_rows(rows)}; {made}", (*rows.notes, *job.store.notes))


def _checked_transfer(connector_id: int, job: jobs.TransferJob, *, offline: bool) -> Checked:
    pattern, verb = job.orders.pattern, "move" if job.orders.delete_source else "copy"
    ways = f"{_root(job.source)}/{pattern} to {_root(job.store)}"
    if offline:
        return Checked(connector_id, None, f"would {verb} {ways} (neither end was tried)", (*job.notes, *job.source.notes, *job.store.notes))
    problems: dict[str, FerryError] = {}
    with contextlib.closing(job.source), contextlib.closing(job.store):
        with _noted(problems, "destination"):
            workers.call(lambda: job.store.probe("ferry-probe"))
        with _noted(problems, "source"):
            steps = workers.call(job.plan)
    if problems:
        return _refused(connector_id, problems)
    refused = [step.result for step in steps if step.result.state == "failed"]
    count = f"{len(steps):,} file{'' if len(steps) == 1 else 's'}, {human_bytes(sum(step.file.size for step in steps))}"
    notes = (*job.notes, *dict.fromkeys((*job.source.notes, *job.store.notes)), *(str(file) for file in refused[:3]))
    return Checked(connector_id, None, f"would {verb} {ways}: {count} by now, without regard to what was delivered before", notes)


def _checked_load(connector_id: int, job: LoadJob, *, offline: bool) -> Checked:
    ways = f"{_root(job.source)}/{job.orders.pattern} into {job.store.shown}"
    archive = job.archive
    then = "" if archive is None else f"; then moved to {_root(archive)}"
    if offline:
        return Checked(connector_id, None, f"would load {ways} (neither end was tried){then}", (*job.source.notes, *job.store.notes))
    problems: dict[str, FerryError] = {}
    with contextlib.closing(job.source):
        with _noted(problems, "destination"):
            standing = workers.call(job.store.standing)
        with _noted(problems, "source"):
            files = workers.call(lambda: chosen(job.source, job.orders))
        if archive is not None:
            with contextlib.closing(archive), _noted(problems, "archive_path"):
                workers.call(lambda: Archive(job.source, archive, job.orders.base))
                workers.call(lambda: archive.probe("ferry-probe"))
    if problems:
        return _refused(connector_id, problems)
    count = f"{len(files):,} file{'' if len(files) == 1 else 's'}, {human_bytes(sum(file.size for file in files))}"
    table = "a new table" if standing is None else f"the table has {len(standing)} columns"
    notes = tuple(dict.fromkeys((*job.source.notes, *job.store.notes)))
    return Checked(connector_id, None, f"would load {ways} ({table}): {count} by now, without regard to what was loaded before{then}", notes)


def _root(end: FileStore | SendsBody) -> str:
    """How an end's root is shown."""
    return end.url("*").removesuffix("/*")


def _refused(connector_id: int, problems: dict[str, FerryError]) -> Checked:
    text = "; ".join(f"{end}: {error}" for end, error in problems.items())
    return Checked(connector_id, f"connector {connector_id}: {text}", exit_code=min(error.exit_code for error in problems.values()))


@contextlib.contextmanager
def _noted(problems: dict[str, FerryError], end: str) -> Iterator[None]:
    """Keep what is wrong with one end, so that the other is tried too."""
    try:
        yield
    except FerryError as error:
        problems[end] = error


def _try_destination(job: jobs.ExportJob, path: str) -> bool:
    """Whether a file stands at the path; raises where a run would."""
    if job.target.exists == "replace":
        job.store.probe(path)
        with contextlib.suppress(FerryError):  # a key that may write and not look is enough for a run
            return job.store.stat(path) is not None
        return False
    standing = job.store.stat(path) is not None
    if standing and job.target.exists == "fail":
        raise ConfigurationError(f"{job.store.url(path)} exists already (if_exists: fail)")
    if not standing:
        job.store.probe(path)
    return standing
