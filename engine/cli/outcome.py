"""What commands say at their end: a summary or JSON, of moved data also when some files were not delivered."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from engine.errors import PartlyFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.results import RunResult


def show_json(value: Any) -> None:
    """Print one line of JSON; as ASCII with escapes where standard output cannot carry all of it, such as a name that is not UTF-8."""
    text = _json(value)
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        text = _json(value, ensure_ascii=True)
    typer.echo(text)


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"


def _json(value: Any, *, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, default=lambda one: one.isoformat() if hasattr(one, "isoformat") else str(one))


@contextlib.contextmanager
def told(*, as_json: bool, quiet: bool, stats: bool = False, more: Mapping[str, Any] | None = None) -> Iterator[Callable[[RunResult], None]]:
    """Yields what shows a result, with `stats` its stages too; a `PartlyFailed` that passes through is shown with all of its files first, and then only its headline is left to say."""

    def show(result: RunResult) -> None:
        if as_json:
            show_json({**(more or {}), **result.to_dict()})
        elif not quiet:
            typer.echo(str(result).encode(_encoding(), "backslashreplace").decode(_encoding()))
            if stats and result.stages is not None:
                typer.echo(result.stages.describe(result.seconds))

    try:
        yield show
    except PartlyFailed as failure:
        if failure.result is not None:
            show(failure.result)
            if not as_json and not quiet:
                raise PartlyFailed(failure.result.headline, failure.result) from None
        raise
