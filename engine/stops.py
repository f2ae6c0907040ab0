"""What stops a run (Ctrl-C, SIGTERM, an orchestrator's way to cancel) says of what was delivered before it came."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from engine.errors import FerryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.results import RunResult

_DELIVERED = "ferry_delivered"
_PARTLY = "ferry_partly"


def note_delivered(stop: BaseException, result: RunResult) -> None:
    """Let what stops a run say that it came too late: everything was delivered."""
    stop.__dict__[_DELIVERED] = result


def delivered(stop: BaseException) -> RunResult | None:
    """What was delivered in spite of what stopped the run, or None."""
    found: RunResult | None = stop.__dict__.get(_DELIVERED)
    return found


@contextlib.contextmanager
def noting_delivery() -> Iterator[Callable[[RunResult], RunResult]]:
    """From a result to the end of the block, whatever stops the process comes too late, and says so (`delivered`).

    An error of ours is no stop: it tells of something that is not as it should be, although everything was delivered.

    Yields:
        What notes the result, and gives it back.

    Example:
        >>> with noting_delivery() as noted, contextlib.closing(store):  # doctest: +SKIP
        ...     return noted(export(source, layout, store, target))
    """
    noted: RunResult | None = None

    def note(result: RunResult) -> RunResult:
        nonlocal noted
        noted = result
        return result

    try:
        yield note
    except FerryError:
        raise
    except BaseException as stop:
        if noted is not None:
            note_delivered(stop, noted)
        raise


def note_partly(stop: BaseException, files: int, *, not_ended: int) -> None:
    """Let an interrupt say how many files had been delivered before it came, and how many could not be given up in time."""
    stop.__dict__[_PARTLY] = files, not_ended


def partly(stop: BaseException) -> tuple[int, int]:
    """How many files were delivered before an interrupt, and how many may have left something unfinished behind."""
    found: tuple[int, int] = stop.__dict__.get(_PARTLY, (0, 0))
    return found


def may_remain(stop: BaseException) -> str:
    """What to add where an interrupt is told of: files that could not be given up in time; empty where there were none."""
    _, not_ended = partly(stop)
    return f"; of {not_ended:,} whose server does not answer something unfinished may remain there" if not_ended else ""
