"""What a connector's run writes to the log `engine`, for people to read and programs to parse."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from engine.errors import FerryError, PartlyFailed, frames
from engine.results import printable

if TYPE_CHECKING:
    from engine.results import FileResult, RunResult

log = logging.getLogger("engine")


def say(event: str, **facts: object) -> None:
    """An INFO line: the event, then `key=value`; the facts are also on the record (`ferry`), for JSON formatters.

    Example:
        >>> say("run begins", connector=7, run=12)
    """
    shown = {key: printable(str(value)) for key, value in facts.items()}
    pairs = (f"{key}={json.dumps(text, ensure_ascii=False) if ' ' in text else text}" for key, text in shown.items())
    log.info("%s: %s", event, " ".join(pairs), extra={"ferry": {"event": event, **facts}})


def say_delivered(connector_id: object, run_id: object, result: RunResult) -> None:
    """Each file, each note, and the end of a run that delivered."""
    ids = {"connector": connector_id, "run": run_id}
    for file in result.files:
        _say_file(ids, file)
    for note in result.notes:
        say("note", **ids, text=note)
    say("run ends", **ids, status="success", **{result.counts: result.ingested}, bytes=result.bytes, seconds=round(result.seconds, 2))


def say_failed(connector_id: object, run_id: object, error: FerryError, cause: Exception) -> None:
    """The error of a run, once, with the frames of its cause, and each file where some were delivered."""
    log.error("connector %s: run %s failed: %s\n%s", connector_id, run_id, error, frames(cause))
    if isinstance(error, PartlyFailed) and error.result is not None:
        for file in error.result.files:
            _say_file({"connector": connector_id, "run": run_id}, file)


def _say_file(ids: dict[str, object], file: FileResult) -> None:
    facts: dict[str, object] = {"path": file.path, "rows": file.rows, "bytes": file.bytes, "sha256": file.sha256, "verified": file.verified}
    if file.source is not None:
        facts = {"source": file.source, **facts, "source_deleted": file.source_deleted, **({"error": file.error} if file.error else {})}
    say(f"file {file.state}", **ids, **facts)
