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
from typing import TYPE_CHECKING

from engine import jobs, layers, registry, workers
from engine.control import connectors, host_keys, leases
from engine.control.database import ControlDatabase
from engine.errors import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.control.database import Row
    from engine.routes.export import Store

PAST_THE_END_SECONDS = 0.1
_log = logging.getLogger("engine")


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was closed and removed.

    Attributes:
        runs: Run records closed: `id, connector_id, prefect_flow_run_id`.
        leftovers: Part uploads and temporary files removed.
        problems: What could not be removed, and why; it is tried again the next time, unless that cannot help.
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
        sweep = _Sweep(control, leases.unfinished_files(control))
    return Reaped(closed, sweep.removed, sweep.problems)


def before_run(connector_id: int) -> None:
    """Close dead runs, and clear away what those of this connector left; a failure is a warning, since the run itself will say what is wrong."""

    def clear() -> None:
        with ControlDatabase() as control:
            _close(control)
            _Sweep(control, [file for file in leases.unfinished_files(control) if file["connector_id"] == connector_id])

    try:
        workers.call(clear)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no reason not to run
        _log.warning("connector %s: dead runs could not be looked for: %s", connector_id, describe(error))


def _close(control: ControlDatabase) -> list[Row]:
    closed = leases.close_expired(control)
    for run in closed:
        _log.warning("connector %s: run %s was abandoned, its record is closed", run["connector_id"], run["id"])
    return closed


class _Sweep:
    """One pass over leftovers; what cannot be removed keeps nobody from removing the next."""

    def __init__(self, control: ControlDatabase, files: Iterable[Row]) -> None:
        self.removed = 0
        self.problems: list[str] = []
        self._control = control
        for connector_id, group in itertools.groupby(files, key=itemgetter("connector_id")):
            try:
                self._sweep_connector(connector_id, list(group))
            except Exception as error:  # noqa: BLE001 - the next connector's store may be sound
                self._tell(connector_id, f"what dead runs left could not be removed, and is tried again: {describe(error)}")

    def _sweep_connector(self, connector_id: int, files: list[Row]) -> None:
        if files[0]["is_orphan"]:
            for file in files:
                self._leave(file, "it was deleted")
            return
        end, where = connectors.read_destination(self._control, connector_id), f"connector {connector_id}: destination"
        config = layers.merged_end(end, "destination", connector_id)
        store = jobs.destination_store(end.type, config, where=where, pinned=lambda host, port: host_keys.pinned(self._control, host, port))
        kind = registry.kind_of(end.type, config, where=where)
        for file in files:
            if store.url(file["path"]) != file["url"]:
                self._leave(file, "its destination has changed since")
            elif leases.claim_unfinished(self._control, file):
                try:
                    self._sweep_file(store, file, kind)
                except Exception as error:  # noqa: BLE001 - the next file may be removed
                    self._tell(connector_id, f"what a dead run left for {file['url']} could not be removed, and is tried again: {describe(error)}")

    def _sweep_file(self, store: Store, file: Row, kind: str) -> None:
        """A folder may be another machine's own, and a spool is: what is not found there is left to that machine.

        A part upload that is found was not published. A spool file that is found may have been sent; and a temporary file may stand beside the final one, which was
        linked from it (`if_exists: fail`): the next run compares.
        """
        is_elsewhere = kind in {registry.FOLDER, registry.REST} and bool(file["leftover"]) and file["host"] != socket.gethostname()
        found = store.sweep(file["path"], file["leftover"] or "")
        self.removed += found
        if found or not is_elsewhere:
            was_not_published = found and (kind == registry.S3 or (kind != registry.REST and file["source_path"] is None))
            leases.mark_swept(self._control, file, "ambiguous" if file["state"] == "publishing" and not was_not_published else "swept")
        elif file["is_outlived"]:  # a container's name, perhaps: it may never come back
            self._leave(file, f"it was run on {file['host']}, and has delivered since from elsewhere")

    def _leave(self, file: Row, why: str) -> None:
        """Nobody can remove it any more; said once."""
        leases.mark_swept(self._control, file)
        if file["leftover"]:
            self._tell(file["connector_id"], f"{why}; a run that died left {file['leftover']} for {file['url']}: remove it by hand")

    def _tell(self, connector_id: int, problem: str) -> None:
        self.problems.append(f"connector {connector_id}: {problem}")
        _log.warning(self.problems[-1])
