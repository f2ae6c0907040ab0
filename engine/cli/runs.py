"""`ferry runs` and `ferry runs show ID`: the history of connectors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.outcome import show_json
from engine.errors import ConfigurationError, FerryError
from engine.results import LARGEST_INTEGER

if TYPE_CHECKING:
    from rich.table import Table

    from engine.control.database import Row

STATUSES = ("started", "success", "failed", "skipped")
SHORTEST_SUMMARY = 12
LONGEST_NAME = 24
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
app = typer.Typer(help="Show the runs of connectors, the newest first; runs that died are closed first.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def list_runs(
    context: typer.Context,
    connector: Annotated[int | None, typer.Option(metavar="ID", min=1, max=LARGEST_INTEGER, help="Of this connector only.", show_default=False)] = None,
    status: Annotated[str | None, typer.Option(metavar="started|success|failed|skipped", help="With this status only.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=LARGEST_INTEGER, help="At most so many.")] = 20,
    as_json: AsJson = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text stands above."""
    if context.invoked_subcommand is not None:
        return
    if status is not None and status not in STATUSES:
        raise ConfigurationError(f"--status is one of {', '.join(STATUSES)}, not {status!r}")
    from engine.control import runs
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        _close_dead_runs()
        found = runs.list_runs(control, connector_id=connector, status=status, limit=limit)
    if as_json:
        show_json(found)
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
        _close_dead_runs()
        run = runs.find_run(control, run_id)
        if run is None:
            raise ConfigurationError(f"there is no run {run_id} in the control database at {control.where}; see ferry runs")
        files = runs.files_of(control, run_id)
    if as_json:
        show_json({**run, "files": files})
        return
    labels = {"run": run["id"], "connector": _connector(run), "status": run["status"], "flow run": run["prefect_flow_run_id"] or "-"}
    labels |= {"started": run["started_at"], "finished": run["finished_at"] or "-", "rows": _count(run["rows_ingested"])}
    typer.echo("\n".join(f"{label:<10}{value}" for label, value in labels.items()))
    typer.echo(f"\n{run['log_summary'] or ''}\n")
    for file in files:
        rows = "" if file["file_rows"] is None else f"{_count(file['file_rows'])} rows  "  # where files are moved nobody has counted
        size = f"{rows}{_count(file['file_bytes'])} bytes  sha256 {file['sha256'] or '-'}  verified {file['verified'] or '-'}"
        typer.echo(f"{file['state']} {file['url']}  " + (size if file["file_bytes"] is not None else f"at {file['changed_at']:%Y-%m-%d %H:%M:%S%z}"))


def _close_dead_runs() -> None:
    """Who may only read history still sees it; the log, told once that could be read, says what was closed and what could not be."""
    from engine import reaper

    try:
        reaper.reap()
    except FerryError as error:
        logging.getLogger("engine").warning("dead runs could not be closed: %s", error)


def _show_table(found: list[Row]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(runs_table(found, console.width))
        return
    console.width = 1000  # who reads through a pipe gets each run in one whole line
    with console.capture() as captured:
        console.print(runs_table(found, console.width))
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def runs_table(found: list[Row], width: int) -> Table:
    """Runs (`engine.control.runs.list_runs`) for people, one a line; the summary gets what is left of the width."""
    from rich import box
    from rich.table import Table

    rows = [
        [
            str(run["id"]),
            _shortened(_connector(run), LONGEST_NAME),
            run["status"],
            f"{run['started_at']:%m-%d %H:%M}",
            _seconds(run),
            _count(run["rows_ingested"]),
        ]
        for run in found
    ]
    titles = ("run", "connector", "status", "started", "seconds", "rows")
    room = width - sum(max(map(len, column)) + 3 for column in zip(titles, *rows, strict=True)) - 2  # padding and the box between columns
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in (*titles, "summary"):
        table.add_column(title, justify="right" if title in {"run", "seconds", "rows"} else "left", no_wrap=True)
    for run, row in zip(found, rows, strict=True):
        table.add_row(*row, _shortened((run["log_summary"] or "").partition("\n")[0], max(room, SHORTEST_SUMMARY)))
    return table


def _seconds(run: Row) -> str:
    return f"{(run['finished_at'] - run['started_at']).total_seconds():,.1f}" if run["finished_at"] else ""


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _connector(run: Row) -> str:
    return f"{run['connector_id']} {run['connector_name'] or '(not there any more)'}"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
