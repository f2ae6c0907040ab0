"""What a command that moves data says at its end: a summary or JSON, also when some files were not delivered."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import typer

from engine.errors import PartlyFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.results import RunResult


@contextlib.contextmanager
def told(*, as_json: bool, quiet: bool, more: Mapping[str, Any] | None = None) -> Iterator[Callable[[RunResult], None]]:
    """Yields what shows a result; a `PartlyFailed` that passes through is shown with all of its files first."""

    def show(result: RunResult) -> None:
        if as_json:
            typer.echo(json.dumps({**(more or {}), **result.to_dict()}, ensure_ascii=False))
        elif not quiet:
            typer.echo(str(result))

    try:
        yield show
    except PartlyFailed as failure:
        if failure.result is not None:
            show(failure.result)
        raise
