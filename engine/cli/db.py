"""`ferry db init | check`: the tables of the control database."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
app = typer.Typer(help="Make and check the tables of the control database (DATABASE_URL).", no_args_is_help=True, rich_markup_mode=None)


@app.command("init", help="Make the tables that are missing, and columns that ferry's own lack; nothing else that is there is altered.")
def init(as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands above."""
    from engine import registry
    from engine.control import tables
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        made = tables.init(control, registry.TYPE_CODES)
        where = control.where
    if as_json:
        typer.echo(json.dumps({"made": made}))
    else:
        typer.echo(f"made in {where}: {', '.join(made)}" if made else f"nothing was missing in {where}")


@app.command("check", help="Say what is missing or differs, and which rights this role lacks. Exit code 1 if anything is.")
def check(as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands above."""
    from engine import registry
    from engine.control import tables
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        found = tables.check(control, registry.TYPE_CODES)
        where = control.where
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    elif found.problems:
        typer.echo("\n".join([*found.problems, *found.statements]))
    else:
        typer.echo(f"the control database at {where} has what connectors need")
    if found.problems:
        raise typer.Exit(1)
