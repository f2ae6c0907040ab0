"""The flow behind the one-minute deployment `reap/default`: closes what dead runs left, and lets Prefect's own view follow."""

import logging
from typing import Any
from uuid import UUID

import httpx
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from engine import reaper
from engine.control import runs
from engine.control.database import ControlDatabase
from engine.errors import FerryError, ProcessingError, describe
from flows.report import outlive_the_console

_log = logging.getLogger("engine")
PATIENCE_SECONDS = 45.0
"""Shorter than the minute to the next run of this flow, longer than half of a lease: a dead run is closed within its lease and a minute."""


@flow(name="reap", persist_result=False)
def reap() -> dict[str, Any]:
    """Close the records of dead runs and remove their leftovers, for all connectors.

    Returns:
        `runs` (ids of the records closed), `leftovers` (how many were removed), `problems`.
    """
    outlive_the_console()
    try:
        reaped = reaper.reap(patience=PATIENCE_SECONDS)
        with ControlDatabase() as control:
            abandoned = runs.list_abandoned(control)  # also those that another engine closed, which does not know Prefect
    except FerryError:
        raise
    except Exception as error:  # noqa: BLE001 - its text may hold what must not be shown
        raise ProcessingError(describe(error)) from None
    for run in abandoned:
        try:
            _tell_prefect(run["prefect_flow_run_id"])
        except httpx.HTTPError as error:  # the next minute tells it
            _log.warning("run %s: Prefect could not be told that it is over (%s)", run["id"], type(error).__name__)
    return {"runs": [run["id"] for run in reaped.runs], "leftovers": reaped.leftovers, "problems": reaped.problems}


def _tell_prefect(flow_run_id: str | None) -> None:
    """A flow run whose process is gone would stay Running for ever, and keep a slot of its worker pool.

    The record may carry an id that is none of Prefect's: whoever called the engine gave it.
    """
    try:
        known = UUID(flow_run_id or "")
    except ValueError:
        return
    with get_client(sync_client=True) as client:
        try:
            found = client.read_flow_run(known)
        except ObjectNotFound:
            return
        if found.state is not None and not found.state.is_final():
            client.set_flow_run_state(known, Crashed(message="abandoned: its process gave no sign of life"), force=True)
