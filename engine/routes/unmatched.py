"""The files in subfolders that a pattern leaves out, counted beside the work: who wrote `*` may have meant them."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import TYPE_CHECKING, Self

from engine import paths, workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.protocols import FileInfo, FileSource

MOST_COUNTED = 100_000
COUNTING_SECONDS = 2.0


class Unmatched:
    """Counts them in a thread of its own, until the block ends.

    Args:
        source: Where the files are.
        base: The folder or the file below the source's root that is meant; empty: the root.
        pattern: Which files of it.
        but: Those that nobody would miss: of an archive below the source.

    Example:
        >>> with Unmatched(store, "in", "*.csv") as unmatched:  # doctest: +SKIP
        ...     move()
        ...     unmatched.note()
        ("2 files in subfolders did not match '*.csv' ('**/*' takes all)",)
    """

    def __init__(self, source: FileSource, base: str, pattern: str, *, but: Callable[[FileInfo], bool] = lambda _: False) -> None:
        self._base = base
        self._pattern = pattern
        self._but = but
        self._ended = threading.Event()
        self._counting = workers.start(lambda: self._count(source), name="ferry-count")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Count no more: the source may be closed now."""
        self._ended.set()

    def note(self) -> tuple[str, ...]:
        """What there is to say, as far as it is known by now. Blocking, for a moment."""
        try:
            count = self._counting.result(timeout=COUNTING_SECONDS)
        except Exception:  # noqa: BLE001 - a remark that cannot be made is no reason to fail what was moved
            self._ended.set()
            concurrent.futures.wait([self._counting], timeout=COUNTING_SECONDS)  # who lists on would open a connection that nobody closes
            return ()
        many = f"more than {MOST_COUNTED:,}" if count > MOST_COUNTED else f"{count:,}"
        return (f"{many} file{'' if count == 1 else 's'} in subfolders did not match {self._pattern!r} ('**/*' takes all)",) if count else ()

    def _count(self, source: FileSource) -> int:
        base, pattern = self._base, self._pattern
        if "**/" in pattern or (base and source.stat(base) is not None):
            return 0
        wanted = paths.matcher(paths.join_pattern(base, pattern))
        depth = base.count("/") + 1 if base else 0
        with workers.watching(self._still_wanted):
            count = 0
            for file in source.list(paths.join_pattern(base, "**/*"), ordered=False):
                workers.still_wanted()
                count += file.path.count("/") > depth and not wanted.fullmatch(file.path) and not self._but(file)
                if count > MOST_COUNTED:
                    break
        return count

    def _still_wanted(self) -> None:
        if self._ended.is_set():
            raise concurrent.futures.CancelledError
