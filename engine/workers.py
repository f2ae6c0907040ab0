"""Blocking work in threads, waited for so that Ctrl-C and SIGTERM act at once.

Python runs signal handlers in the main thread, between its own instructions: a blocking call into a C library holds them up until
it returns (a query for minutes). So the calling thread makes no such call: a worker thread does, and the caller waits in short steps.
Between them it asks whether the work is still wanted (`watching`): a lost lease ends a run as fast as a signal does.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_SECONDS = 0.2
T = TypeVar("T")
_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextlib.contextmanager
def watching(check: Callable[[], None]) -> Iterator[None]:
    """Have every wait of this thread call `check` too, which raises when the work must end, or shows how far it is."""
    outer = _check.get()

    def both() -> None:
        outer()
        check()

    before = _check.set(both)
    try:
        yield
    finally:
        _check.reset(before)


def still_wanted() -> None:
    """Raise if this thread's work must end; called at each step of a wait."""
    _check.get()()


def wait(future: Future[T]) -> T:
    """The future's result or exception, interruptibly."""
    still_wanted()
    while not concurrent.futures.wait([future], timeout=POLL_SECONDS).done:
        still_wanted()
    return future.result()


def start(work: Callable[[], T], *, name: str) -> Future[T]:
    """Run `work` in a thread of its own.

    A daemon thread, so that a connection attempt that hangs cannot keep an interrupted process alive.
    """
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the waiting thread
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def call(work: Callable[[], T], *, name: str = "ferry-call") -> T:
    """Run blocking `work` in another thread and wait for it interruptibly.

    Example:
        >>> call(lambda: 6 * 7)
        42
    """
    return wait(start(work, name=name))
