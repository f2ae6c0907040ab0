"""What a dry run says: a transfer whose destination is looked at, and never written to where somebody could see it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import FerryError
from engine.protocols import SendsBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.results import FileResult
    from engine.routes.transfer_plan import Orders, Step, Store


def preview(steps: Sequence[Step], destination: Store | SendsBody, orders: Orders) -> list[FileResult]:
    """What would become of each file. Blocking.

    Raises:
        FerryError: The destination cannot be reached, or takes no file at all.
    """
    first = next((step for step in steps if step.todo == "send"), None)
    if first is not None:
        _reach(destination, orders.target, first.target)
    return [_foreseen(step, destination, orders) for step in steps]


def _reach(destination: Store | SendsBody, folder: str, path: str) -> None:
    """Folders are looked at: a file that is tried there would be seen, and missing folders made; an upload that is begun and given up leaves nothing."""
    if not isinstance(destination, SendsBody) and destination.has_folders:
        destination.is_folder(folder)
    else:
        destination.probe(path)


def _foreseen(step: Step, destination: Store | SendsBody, orders: Orders) -> FileResult:
    if step.todo != "send" or orders.exists == "replace" or isinstance(destination, SendsBody):
        return step.result
    try:
        stands = destination.stat(step.target) is not None if step.standing is None else step.standing
    except FerryError as error:
        return replace(step.result, state="failed", error=str(error))
    if not stands:
        return step.result
    if orders.exists == "skip":
        return replace(step.result, state="skipped")
    return replace(step.result, state="failed", error=f"{step.result.path} exists already (if_exists: fail)")
