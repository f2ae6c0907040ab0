"""What dead runs left behind: records that say `started`, part uploads, temporary files.

Any engine process may do it, and several at once: records and leases change hands in one statement, leftovers are named exactly.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from engine import jobs, layers, registry, workers
from engine.control import connectors, leases
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError, FerryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.control.database import Row

PAST_THE_END_SECONDS = 0.1
_log = logging.getLogger("engine")


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was closed and removed.

    Attributes:
        runs: Run records closed: `id, connector_id, prefect_flow_run_id`.
        leftovers: Part uploads and temporary files removed.
        problems: What could not be removed, and why; it is tried again the next time.
    """

    runs: list[Row] = field(default_factory=list)
    leftovers: int = 0
    problems: list[str] = field(default_factory=list)


def reap(*, patience: float = 0.0) -> Reaped:
    """Close the records of all dead runs and remove what they left.

    Args:
        patience: Seconds to wait at most for the end of a lease whose holder seems dead already: who comes only once a minute does not leave it to the next time.

    Raises:
        FerryError: The control database did not answer.
    """
    with ControlDatabase() as control:
        pause = leases.seconds_to_next_end(control) if patience else None
        if pause is not None:
            time.sleep(min(pause + PAST_THE_END_SECONDS, patience))
        closed = _close(control)
        removed, problems = _sweep(control, leases.unfinished_files(control))
    return Reaped(closed, removed, problems)


def before_run(connector_id: int) -> None:
    """Close dead runs, and clear away what those of this connector left; a failure is a warning, since the run itself will say what is wrong."""

    def clear() -> None:
        with ControlDatabase() as control:
            _close(control)
            _sweep(control, [file for file in leases.unfinished_files(control) if file["connector_id"] == connector_id])

    try:
        workers.call(clear)
    except FerryError as error:
        _log.warning("connector %s: dead runs could not be looked for: %s", connector_id, error)


def _close(control: ControlDatabase) -> list[Row]:
    closed = leases.close_expired(control)
    for run in closed:
        _log.warning("connector %s: run %s was abandoned, its record is closed", run["connector_id"], run["id"])
    return closed


def _sweep(control: ControlDatabase, files: Iterable[Row]) -> tuple[int, list[str]]:
    removed, problems = 0, []
    for connector_id, group in itertools.groupby(files, key=itemgetter("connector_id")):
        try:
            config = layers.merged_connector(connectors.read_connector(control, connector_id))
            job = jobs.connector_job(config)
            removed += sum(_sweep_file(control, job, config, file) for file in group)
        except FerryError as error:
            problems.append(f"connector {connector_id}: what dead runs left could not be removed: {error}")
            _log.warning(problems[-1])
    return removed, problems


def _sweep_file(control: ControlDatabase, job: jobs.ExportJob, config: dict[str, Any], file: Row) -> bool:
    """Remove one leftover, and note it. A folder may be another machine's own: what is not found there is left to that machine."""
    if job.store.url(file["path"]) != file["url"]:
        leases.mark_swept(control, file)
        raise ConfigurationError(f"the connector's destination has changed since; look for {file['leftover'] or 'a temporary file'} beside {file['url']}")
    found = job.store.sweep(file["path"], file["leftover"] or "")
    elsewhere = registry.kind_of(config["destination_type"], config["destination_config"]) == registry.FOLDER and file["host"] != socket.gethostname()
    if found or not elsewhere:
        leases.mark_swept(control, file)
    return found
