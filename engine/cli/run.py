"""`ferry run ID`."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.outcome import told

HELP = """Run connector ID of the control database (DATABASE_URL) here and now, without Prefect.

The run record, the lease and the ledger are kept as when a worker runs it. A connector that is being run already is skipped (exit code 0).
"""


def run(
    connector_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    redeliver: Annotated[bool, typer.Option("--redeliver", help="Send files again that were delivered before.")] = False,  # noqa: FBT002 - typer's form
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,  # noqa: FBT002 - typer's form
    stats: Annotated[bool, typer.Option("--stats", help="Show where the time of an export went and what limited it.")] = False,  # noqa: FBT002 - typer's form
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text is HELP."""
    import engine
    from engine.cli.display import progress

    with (
        told(as_json=as_json, quiet=quiet, stats=stats, more={"connector_id": connector_id}) as show,
        progress(quiet=quiet, label=f"connector {connector_id}") as on_progress,
    ):
        result = engine.run_connector(connector_id, redeliver=redeliver, on_progress=on_progress)
    show(result)
