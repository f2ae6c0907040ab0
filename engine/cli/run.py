"""`ferry run ID`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

HELP = """Run connector ID of the control database (DATABASE_URL) here and now, without Prefect.

The run record, the lease and the ledger are kept as when a worker runs it. A connector that is being run already is skipped (exit code 0).
"""


def run(
    connector_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,  # noqa: FBT002 - typer's form
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text is HELP."""
    import engine
    from engine.cli.display import progress

    with progress(quiet=quiet, label=f"connector {connector_id}") as on_progress:
        result = engine.run_connector(connector_id, on_progress=on_progress)
    if as_json:
        typer.echo(json.dumps({"connector_id": connector_id, **result.to_dict()}, ensure_ascii=False))
    elif not quiet:
        typer.echo(str(result))
