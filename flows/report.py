"""What Prefect's UI shows of a run: the engine's log lines, a progress artifact that moves, a table of files, the tag `connector:7`.

A thread of its own talks to Prefect's API, with the latest state only: data never waits for it, and an API that is away costs nothing but the picture.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.runtime import flow_run

from engine.connector import Observer
from engine.errors import FerryError, ProcessingError
from engine.results import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.console import Console

    from engine.results import FileResult, Progress, RunResult

PAUSE_SECONDS = 2.0
LAST_WORD_SECONDS = 10.0
FILES_IN_TABLE = 1000
_log = logging.getLogger("engine")


class Reporter(Observer):
    """Tells Prefect how a run goes (`Observer`); `with` spans the run.

    Args:
        connector_id: Whose run.
        flow_run_id: Of the flow run that is told; None tells nobody.
    """

    def __init__(self, connector_id: int, flow_run_id: str | None) -> None:
        self._connector_id = connector_id
        self._flow_run_id = flow_run_id
        self._latest: Progress | None = None
        self._result: RunResult | None = None
        self._error: FerryError | None = None
        self._over = threading.Event()
        self._artifact: UUID | None = None
        self._stack = contextlib.ExitStack()
        # The context tells Prefect's functions which flow run they are called in.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._report,), name="ferry-report", daemon=True)

    def progress(self, now: Progress) -> None:
        """Keep it; the thread takes the latest."""
        self._latest = now

    def finished(self, result: RunResult) -> None:
        """Keep it for the last word."""
        self._result = result

    def failed(self, error: FerryError) -> None:
        """Keep its kind."""
        self._error = error

    def fresh_error(self, summary: str) -> FerryError:
        """An error of the same kind that holds the summary and nothing else: Prefect shows text and chain to everybody."""
        return type(self._error or ProcessingError(""))(summary)

    def __enter__(self) -> Self:
        if self._flow_run_id is not None:
            outlive_the_console()
            self._stack.enter_context(_logged_in_prefect(self._flow_run_id))
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._flow_run_id is not None:
            self._thread.join(LAST_WORD_SECONDS)
        self._stack.close()

    # What follows runs in the reporting thread.

    def _report(self) -> None:
        self._tolerating(self._tag)
        self._tolerating(self._show_progress)
        shown: Progress | None = None
        while not self._over.wait(PAUSE_SECONDS):
            if self._latest is not shown:
                shown = self._latest
                self._tolerating(self._show_progress)
        if self._result is not None:
            self._tolerating(self._show_progress)
            self._tolerating(self._show_files)

    def _tolerating(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the picture is not the work
            _log.debug("connector %s: Prefect was not told (%s)", self._connector_id, type(error).__name__)

    def _tag(self) -> None:
        tags = {*(flow_run.tags or ()), f"connector:{self._connector_id}"}
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(self._flow_run_id), tags=sorted(tags))

    def _show_progress(self) -> None:
        percent, text = _progress(self._latest, self._result)
        if self._artifact is None:
            self._artifact = cast("UUID", create_progress_artifact(percent, key=f"connector-{self._connector_id}-progress", description=text))
        else:
            update_progress_artifact(self._artifact, percent, description=text)

    def _show_files(self) -> None:
        assert self._result is not None  # noqa: S101 - asked before
        files = self._result.files
        rows = [_row(file) for file in files[:FILES_IN_TABLE]]
        more = f"; the first {FILES_IN_TABLE:,} of {len(files):,} files" if len(files) > FILES_IN_TABLE else ""
        description = f"{self._result.headline}{more}"
        create_table_artifact(rows, key=f"connector-{self._connector_id}-files", description=description)


def _row(file: FileResult) -> dict[str, Any]:
    """A line of the table of files."""
    came = {"source": file.source, "error": file.error or ""} if file.source is not None else {"rows": file.rows}
    return {"path": file.path, "state": file.state, **came, "bytes": file.bytes, "SHA-256": file.sha256 or ""}


def _progress(now: Progress | None, result: RunResult | None) -> tuple[float, str]:
    """Per cent and words; the server's guess at the rows may be wrong, so that only a result is 100 per cent."""
    if result is not None:
        return 100.0, f"{result.ingested:,} {result.counts}, {human_bytes(result.bytes)} delivered"
    if now is None:
        return 0.0, "beginning"
    if now.total_files is not None:
        percent = min(99.0, 100 * now.bytes / now.total_bytes) if now.total_bytes else 0.0
        return percent, f"{now.files:,} of {now.total_files:,} files, {human_bytes(now.bytes)} of {human_bytes(now.total_bytes or 0)} so far"
    percent = min(99.0, 100 * now.rows / now.estimated_rows) if now.estimated_rows else 0.0
    return percent, f"{now.rows:,} rows, {human_bytes(now.bytes)} so far" + (f", of about {now.estimated_rows:,} rows" if now.estimated_rows else "")


def outlive_the_console() -> None:
    """Let a console that is gone swallow its lines: a worker that dies takes the pipe with it to which its flow runs write.

    `rich` would raise `SystemExit` at the next line, in whichever thread writes it, and a run that delivers would end as cancelled.
    """
    loggers = (logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict))
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if isinstance(handler, PrefectConsoleHandler):
            _mute_when_gone(handler.console)


def _mute_when_gone(console: Console) -> None:
    def mute() -> None:
        console.quiet = True

    console.on_broken_pipe = mute  # type: ignore[method-assign]  # rich's hook; the console is of Prefect's making


@contextlib.contextmanager
def _logged_in_prefect(flow_run_id: str) -> Iterator[None]:
    """Send the engine's lines to this flow run, from whichever thread they come."""

    def ours(record: logging.LogRecord) -> bool:
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None and str(context.flow_run.id) != flow_run_id:
            return False
        record.flow_run_id = flow_run_id
        return True

    handler = APILogHandler()
    handler.addFilter(ours)
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
