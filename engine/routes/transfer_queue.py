"""Which file is taken next: as many at once as memory allows, in an order that a move depends on."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from engine import workers
from engine.options import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.routes.transfer_plan import Step

LARGE_BYTES = 32 * MIB
BUDGET_BYTES = 3 * LARGE_BYTES
"""A file counts with its size, a large one with `LARGE_BYTES`, which is about what stores buffer for it: so that memory is bounded."""


class Queue:
    """The files of one transfer, given out to threads that take one after another themselves: asking somebody would cost as much as moving a small file.

    Args:
        steps: What is to be done, by its place among the results.
        is_move: Sources are deleted.
        still_wanted: Raises when nothing more shall be taken.

    Attributes:
        total: How many files there were.
    """

    def __init__(self, steps: Iterable[tuple[int, Step]], *, is_move: bool, still_wanted: Callable[[], None]) -> None:
        self._is_move = is_move
        self._still_wanted = still_wanted
        self._waiting = deque(sorted(steps, key=lambda one: self._turn(one[1])))
        self.total = len(self._waiting)
        self._under_way: dict[int, Step] = {}
        self._weight = 0  # of those
        self._room = threading.Condition()

    def take(self) -> tuple[int, Step] | None:
        """The next file; waits until it may be begun. None when there is no other."""
        with self._room:
            while self._waiting and not self._has_room(self._waiting[0][1]):
                self._room.wait(workers.POLL_SECONDS)
                self._still_wanted()
            self._still_wanted()
            if not self._waiting:
                return None
            number, step = self._waiting.popleft()
            self._under_way[number] = step
            self._weight += _weight(step)
            return number, step

    def end(self, number: int) -> None:
        """A file that was taken has ended, well or not."""
        with self._room:
            self._weight -= _weight(self._under_way.pop(number))
            self._room.notify_all()

    def counts(self) -> tuple[int, int]:
        """Files that have ended, and those under way."""
        with self._room:
            return self.total - len(self._waiting) - len(self._under_way), len(self._under_way)

    def _turn(self, step: Step) -> int:
        """A move sends links before what they may lead to, which is gone afterwards; names that may be one come last, one by one."""
        if step.is_alike:
            return 1
        return -step.file.links if self._is_move else 0

    def _has_room(self, step: Step) -> bool:
        first = next(iter(self._under_way.values()), None)
        if first is None or step.is_alike or self._turn(first) < self._turn(step):
            return first is None
        return self._weight + _weight(step) <= BUDGET_BYTES


def _weight(step: Step) -> int:
    return min(step.file.size, LARGE_BYTES)
