"""A private folder for what dlt keeps while a load runs, gone afterwards; what a killed load left of one is removed by the next run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "ferry-load-"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that nobody else reads. It is locked for as long as its process lives: a kill lets go of the lock.

    Raises:
        OSError: No folder can be made where temporary files go.
    """
    lock = None
    while lock is None:  # another run may take a new folder for one that was left
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _lock(folder, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        _remove(folder, lock)


def sweep() -> None:
    """Remove what killed loads left."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if (lock := _lock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
            _remove(left, lock)


def _lock(folder: Path, how: int) -> int | None:
    """Lock a folder; None: it is in use, or another user's, or gone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, how)
        if folder.exists():
            return lock
    os.close(lock)
    return None


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
