"""`ferry runs` and `ferry runs show ID`: the history of connectors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import ConfigurationError, FerryError

if TYPE_CHECKING:
    from engine.control.database import ControlDatabase, Row

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
app = typer.Typer(help="Show the runs of connectors, the newest first; runs that died are closed first.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def list_runs(
    context: typer.Context,
    connector: Annotated[int | None, typer.Option(metavar="ID", help="Of this connector only.", show_default=False)] = None,
    status: Annotated[str | None, typer.Option(metavar="started|success|failed|skipped", help="With this status only.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text stands above."""
    if context.invoked_subcommand is not None:
        return
    from engine.control import runs
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        _close_dead_runs(control)
        found = runs.list_runs(control, connector_id=connector, status=status, limit=limit)
    if as_json:
        typer.echo(_json(found))
    elif found:
        _show_table(found)
    else:
        typer.echo("no runs")


@app.command("show", help="Show one run with its files.")
def show(run_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)], as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands above."""
    from engine.control import runs
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        _close_dead_runs(control)
        run = runs.find_run(control, run_id)
        if run is None:
            raise ConfigurationError(f"there is no run {run_id} in the control database at {control.where}; see ferry runs")
        files = runs.files_of(control, run_id)
    if as_json:
        typer.echo(_json({**run, "files": files}))
        return
    labels = {"run": run["id"], "connector": _connector(run), "status": run["status"], "flow run": run["prefect_flow_run_id"] or "-"}
    labels |= {"started": run["started_at"], "finished": run["finished_at"] or "-", "rows": _count(run["rows_ingested"])}
    typer.echo("\n".join(f"{label:<10}{value}" for label, value in labels.items()))
    typer.echo(f"\n{run['log_summary'] or ''}\n")
    for file in files:
        size = f"{_count(file['file_rows'])} rows  {_count(file['file_bytes'])} bytes  sha256 {file['sha256'] or '-'}  verified {file['verified'] or '-'}"
        typer.echo(f"{file['state']} {file['url']}  " + (size if file["file_bytes"] is not None else f"at {file['changed_at']:%Y-%m-%d %H:%M:%S%z}"))


def _close_dead_runs(control: ControlDatabase) -> None:
    """Who may only read history still sees it."""
    from engine import reaper

    try:
        reaped = reaper.reap()
    except FerryError as error:
        sys.stderr.write(f"ferry: warning: dead runs could not be closed: {error}\n")
        control.close()
        return
    for problem in reaped.problems:
        sys.stderr.write(f"ferry: warning: {problem}\n")


def _show_table(found: list[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("run", "connector", "status", "started", "seconds", "rows", "summary"):
        table.add_column(column, justify="right" if column in {"run", "seconds", "rows"} else "left", no_wrap=column != "connector", overflow="ellipsis")
    for run in found:
        seconds = f"{(run['finished_at'] - run['started_at']).total_seconds():,.1f}" if run["finished_at"] else ""
        summary = (run["log_summary"] or "").partition("\n")[0]
        table.add_row(str(run["id"]), _connector(run), run["status"], f"{run['started_at']:%Y-%m-%d %H:%M:%S}", seconds, _count(run["rows_ingested"]), summary)
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = 1000  # who reads through a pipe gets all of it
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _connector(run: Row) -> str:
    return f"{run['connector_id']} {run['connector_name']}" if run["connector_name"] else f"{run['connector_id']} (not there any more)"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda one: one.isoformat() if hasattr(one, "isoformat") else str(one))
