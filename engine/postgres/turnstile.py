"""What several readers bring, in the order of their turns, in bounded memory.

Turns are handed out in order. The reader whose turn is at the head is waited for, so it may always bring something; the others bring ahead, until
together they hold `budget` bytes. A turn need not fit in memory: once it is the head, it streams.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turnstile(Generic[T]):
    """Items of turns 0 … `turns` - 1, one turn after another.

    Example:
        >>> turnstile = Turnstile[str](turns=2, budget=100, ahead=2)
        >>> first, second = turnstile.take(), turnstile.take()
        >>> turnstile.put(second, "b", 1), turnstile.put(first, "a", 1), turnstile.end(second), turnstile.end(first)
        (True, True, None, None)
        >>> turnstile.get(1), turnstile.get(1), turnstile.get(1)
        ('a', 'b', None)
    """

    def __init__(self, turns: int, *, budget: int, ahead: int) -> None:
        """`ahead` is how many items may wait for the consumer at the head."""
        self._turns = turns
        self._budget = budget
        self._ahead = ahead
        self._taken = 0
        self._head = 0
        self._held = 0
        self._waiting: dict[int, deque[tuple[T, int]]] = defaultdict(deque)
        self._ended: set[int] = set()
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """Whether nobody takes anything any more."""
        return self._closed

    @property
    def exhausted(self) -> bool:
        """Whether no turn is left for another reader."""
        return self._closed or self._taken == self._turns

    def take(self) -> int | None:
        """The next turn, for the reader that asks; None: there is none left."""
        with self._changed:
            if self.exhausted:
                return None
            self._taken += 1
            return self._taken - 1

    def put(self, turn: int, item: T, size: int) -> bool:
        """Bring an item of `size` bytes; waits for its place. False: nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_place(turn, size))
            if not self._closed:
                self._waiting[turn].append((item, size))
                self._held += size
                self._changed.notify_all()
            return not self._closed

    def end(self, turn: int) -> None:
        """All of a turn has been brought."""
        with self._changed:
            self._ended.add(turn)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Have the consumer raise this at once; the first one counts, and none that comes of being sent home."""
        with self._changed:
            if not self._closed:
                self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """Send every reader home."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def get(self, timeout: float) -> T | None:
        """The next item in order; None: that was the last.

        Raises:
            TimeoutError: None came within so many seconds.
            BaseException: What a reader failed with.
        """
        with self._changed:
            if not self._changed.wait_for(self._has_news, timeout):
                raise TimeoutError
            if self._error is not None:
                raise self._error
            if self._head == self._turns:
                return None
            item, size = self._waiting[self._head].popleft()
            self._held -= size
            self._changed.notify_all()
            return item

    def _has_place(self, turn: int, size: int) -> bool:
        if turn == self._head:
            return len(self._waiting[turn]) < self._ahead
        return self._held + size <= self._budget

    def _has_news(self) -> bool:
        while self._head in self._ended and not self._waiting[self._head]:
            self._ended.remove(self._head)
            del self._waiting[self._head]
            self._head += 1
            self._changed.notify_all()
        return self._error is not None or self._head == self._turns or bool(self._waiting[self._head])
