"""Progress of long work: a moving line on a terminal, a plain line now and then elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import IO, TYPE_CHECKING, cast

from engine.cli.stderr import Stderr, tell
from engine.results import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.results import Progress

PLAIN_SECONDS = 10.0


@contextlib.contextmanager
def progress(*, quiet: bool = False, label: str = "export") -> Iterator[Callable[[Progress], None] | None]:
    """A callback that shows rows, bytes, rate and, by the server's guess at the rows, the time left.

    `NO_COLOR` is obeyed. Nothing is shown when `quiet`.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _moving_line(label) as show:
            yield show
    else:
        yield _plain_lines(label)


def describe(now: Progress, seconds: float) -> str:
    """`1,234,567 rows  89.1 MiB  412,000 rows/s  about 0:12 left`; of files `3 of 12 files  1.2 of 4.0 GiB  310.0 MiB/s  about 0:09 left`."""
    if now.total_files is not None:
        return _describe_files(now, seconds)
    rate = now.rows / seconds if seconds > 0 else 0.0
    parts = [f"{now.rows:,} rows", human_bytes(now.bytes), f"{rate:,.0f} rows/s"]
    if now.estimated_rows and now.rows < now.estimated_rows and rate:
        left = int((now.estimated_rows - now.rows) / rate)
        parts.append(f"about {left // 60}:{left % 60:02d} left")
    if now.files > 1:
        parts.append(f"{now.files} files")
    return "  ".join(parts)


def _describe_files(now: Progress, seconds: float) -> str:
    rate, total = now.bytes / seconds if seconds > 0 else 0.0, now.total_bytes or 0
    parts = [f"{now.files:,} of {now.total_files:,} files", f"{human_bytes(now.bytes)} of {human_bytes(total)}", f"{human_bytes(rate)}/s"]
    if rate and now.bytes < total:
        left = int((total - now.bytes) / rate)
        parts.append(f"about {left // 60}:{left % 60:02d} left")
    return "  ".join(parts)


@contextlib.contextmanager
def _moving_line(label: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[what]}"), TimeElapsedColumn())
    started = time.monotonic()
    with Bar(*columns, console=Console(file=cast("IO[str]", Stderr())), transient=True) as bar:
        task = bar.add_task(label, total=None, what="beginning")

        def show(now: Progress) -> None:
            rows = now.estimated_rows if now.estimated_rows and now.rows <= now.estimated_rows else None
            total, completed = (rows, now.rows) if now.total_files is None else (now.total_bytes, now.bytes)
            bar.update(task, total=total, completed=completed, what=describe(now, time.monotonic() - started))

        yield show


def _plain_lines(label: str) -> Callable[[Progress], None]:
    started = shown = time.monotonic()

    def show(now: Progress) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PLAIN_SECONDS:
            shown = time.monotonic()
            tell(f"{label}: {describe(now, shown - started)}\n")

    return show
