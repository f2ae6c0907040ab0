"""What commands say at their end: a summary or JSON, of moved data also when some files were not delivered."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import typer

from engine.errors import PartlyFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.results import RunResult


def as_json_text(value: Any) -> str:
    """Values of the control database as JSON."""
    return json.dumps(value, ensure_ascii=False, default=lambda one: one.isoformat() if hasattr(one, "isoformat") else str(one))


@contextlib.contextmanager
def told(*, as_json: bool, quiet: bool, more: Mapping[str, Any] | None = None) -> Iterator[Callable[[RunResult], None]]:
    """Yields what shows a result; a `PartlyFailed` that passes through is shown with all of its files first, and then only its headline is left to say."""

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
            if not as_json and not quiet:
                raise PartlyFailed(failure.result.headline, failure.result) from None
        raise
