"""Where the time of a run goes: the seconds that its threads spent in each stage, by the clock.

A thread is in one stage at a time: what begins inside another stage stops that one's clock until it ends. So no thread has more seconds than the run, and
the thread that was busy for most of them is the one that the others waited for: it limits the run. Waiting for a server, a disk or a core is time of the
stage that needs it. The clock is read once or twice for each batch, or piece of a file, never for a row.
"""

from __future__ import annotations

import contextlib
import threading
import time
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Stage = Literal["planning", "reading", "converting", "encoding", "writing", "publishing", "waiting_for_batches", "waiting_for_room"]
"""Planning: asking the server what the query gives. Reading: a reader connects and takes rows from the server, and waits for them. Converting: rows by the type
rules. Encoding: the file's format, compression too. Writing: opening files, hashing, handing to the store and waiting for it, finishing files. Publishing:
giving them their names; an object of less than 25 MiB, or a body for a REST endpoint, is sent then. Waiting for batches: the thread that writes had none, so
what is before it limits. Waiting for room: a reader had rows that nobody took yet, so what is behind it limits."""
STAGES: tuple[Stage, ...] = get_args(Stage)
_WAITING: tuple[Stage, ...] = ("waiting_for_batches", "waiting_for_room")
_WORKING = tuple(name for name in STAGES if name not in _WAITING)
_LEAST_PART = 0.01
"""Of a stage's seconds, below which a thread does not count as one of those that did it."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of a run.

    Attributes:
        seconds: Of all threads together.
        threads: How many threads did it, apart from those that had less than a hundredth of it.
        busiest: The seconds of the thread that had most.
    """

    seconds: float
    threads: int
    busiest: float


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a run.

    Attributes:
        times: Every stage, in the order of `STAGES`.
        limited_by: The stage that had most of the busiest thread's time.
        busiest: The seconds that this thread was busy.
    """

    times: Mapping[Stage, StageTime]
    limited_by: Stage
    busiest: float

    def describe(self, run_seconds: float) -> str:
        """A table, shares in percent of the run's wall time, and a sentence that says what limited the run."""

        def share(seconds: float) -> str:
            return f"{100 * seconds / run_seconds if run_seconds > 0 else 0:.0f} %"

        lines = [f"{'stage':<20}{'seconds':>9}{'threads':>9}{'busiest':>9}"]
        lines += [f"{_shown(name):<20}{of.seconds:>9.2f}{of.threads:>9}{share(of.busiest):>9}" for name, of in self.times.items()]
        starved, held = (share(self.times[name].busiest) for name in _WAITING)
        limit = f"limited by {_shown(self.limited_by)}: its thread was busy {share(self.busiest)} of the time"
        return "\n".join([*lines, f"{limit}, the writer waited {starved} for batches, a reader {held} for room"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _shown(stage: Stage) -> str:
    return stage.replace("_", " ")


class _Clock:
    """The stages of one thread."""

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._stage: Stage | None = None
        self._since = 0.0

    def switch(self, stage: Stage | None) -> Stage | None:
        """Be in this stage from now on; returns the one before."""
        now, before = time.perf_counter(), self._stage
        if before is not None:
            self.seconds[before] += now - self._since
        self._stage, self._since = stage, now
        return before


class Meter:
    """Measures the threads of one run; every method is for any thread.

    Example:
        >>> meter = Meter()
        >>> with meter.busy("encoding"):
        ...     with meter.busy("writing"):
        ...         time.sleep(0.01)
        >>> meter.total().limited_by
        'writing'
    """

    def __init__(self) -> None:
        self._clocks: list[_Clock] = []
        self._own = threading.local()

    def switch(self, stage: Stage | None) -> Stage | None:
        """Have this thread be in `stage` (None: in no stage) from now on; returns the one that it was in."""
        clock: _Clock | None = getattr(self._own, "clock", None)
        if clock is None:
            clock = self._own.clock = _Clock()
            self._clocks.append(clock)
        return clock.switch(stage)

    @contextlib.contextmanager
    def busy(self, stage: Stage) -> Iterator[None]:
        """Have this thread be in `stage` until the block ends, then in the one before."""
        before = self.switch(stage)
        try:
            yield
        finally:
            self.switch(before)

    def run(self, stage: Stage, work: Callable[..., T], *arguments: Any) -> T:
        """Do `work` in this thread, as `stage`."""
        with self.busy(stage):
            return work(*arguments)

    def total(self) -> Stages:
        """What was measured; of a stage that goes on, what was before it."""
        threads = [clock.seconds for clock in self._clocks] or [_Clock().seconds]
        busiest = max(threads, key=_busy)
        limit = max(_WORKING, key=busiest.__getitem__)
        return Stages({name: _stage_time([thread[name] for thread in threads]) for name in STAGES}, limit, _busy(busiest))


def _busy(thread: Mapping[Stage, float]) -> float:
    return sum(thread[name] for name in _WORKING)


def _stage_time(seconds: list[float]) -> StageTime:
    total = sum(seconds)
    return StageTime(total, sum(one > _LEAST_PART * total for one in seconds), max(seconds))


_current: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextlib.contextmanager
def measuring() -> Iterator[Meter]:
    """A meter for what this thread begins within the block: sources that are opened there take it by `current`."""
    meter = Meter()
    before = _current.set(meter)
    try:
        yield meter
    finally:
        _current.reset(before)


def current() -> Meter:
    """The meter of the run that this thread is in; where nobody measures, one that nobody reads."""
    return _current.get() or Meter()
