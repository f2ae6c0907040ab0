"""`ferry connectors list | show | check | import | export`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from engine.layers import Setting

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
app = typer.Typer(help="Look at, check, import and export the connectors of the control database.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list", help="List all connectors.")
def list_all(as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands above."""
    from engine.control import connectors
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        found = connectors.list_connectors(control)
    shown = [{"id": one["id"], "name": one["name"], "source_type": one["source_type"], "destination_type": one["dest_type"]} for one in found]
    if as_json:
        typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    for one in shown:
        typer.echo(f"{one['id']:>6}  {one['name']}  {one['source_type'] or '?'} → {one['destination_type'] or '?'}")
    if not shown:
        typer.echo("no connectors; ferry connectors import FILE.yaml makes some")


@app.command("show", help="Show the merged configuration of connector ID: each value with the layer it comes from, secrets as ***.")
def show(connector_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)], as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands above."""
    from engine import layers
    from engine.control import connectors
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        stored = connectors.read_connector(control, connector_id)
    ends = {"source": layers.explain(stored.source, "source", stored.id), "destination": layers.explain(stored.destination, "destination", stored.id)}
    if as_json:
        told = {end: {"type": getattr(stored, end).type, "settings": [asdict(one) for one in found]} for end, found in ends.items()}
        typer.echo(json.dumps({"id": stored.id, "name": stored.name, **told}, ensure_ascii=False, default=str))
        return
    typer.echo(f"connector {stored.id}  {stored.name}")
    for end, found in ends.items():
        typer.echo(f"\n{end}: {getattr(stored, end).type}")
        typer.echo("\n".join(_lines(found)))


def _lines(found: list[Setting]) -> list[str]:
    """`key  value  (origin)`; what nobody gave comes last and in one line, since it is long."""
    given = [one for one in found if one.origin != "default"]
    width = max((len(one.key) for one in given), default=0)
    lines = [f"  {one.key:<{width}}  {_plain(one.value)}  ({one.origin})" for one in given]
    defaults = ", ".join(f"{one.key}={_plain(one.value)}" for one in found if one.origin == "default" and one.value is not None)
    return [*lines, f"  defaults: {defaults}"] if defaults else lines


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@app.command("check", help="Validate connector ID (or --all), try both ends, and say what it would do; nothing is moved. Exit code 1 or 2 if it cannot run.")
def check(
    connector_id: Annotated[int | None, typer.Argument(metavar="ID", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All connectors.")] = False,  # noqa: FBT002 - typer's form
    offline: Annotated[bool, typer.Option("--offline", help="Validate only; open nothing but the control database.")] = False,  # noqa: FBT002 - typer's form
    as_json: AsJson = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text stands above."""
    from engine import checking
    from engine.control import connectors
    from engine.control.database import ControlDatabase

    if (connector_id is None) != every:
        raise ConfigurationError("give the ID of a connector, or --all")
    with ControlDatabase() as control:
        wanted = [one["id"] for one in connectors.list_connectors(control)] if connector_id is None else [connector_id]
        found = [checking.check(control, one, offline=offline) for one in wanted]
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False))
    else:
        for one in found:
            if one.problem is None:
                typer.echo("\n".join([f"connector {one.connector_id}: {one.would}", *(f"  note: {note}" for note in one.notes)]))
            else:
                sys.stderr.write(f"ferry: {one.problem}\n")
    if any(one.exit_code for one in found):
        raise typer.Exit(max(one.exit_code for one in found) if connector_id is not None else 1)


@app.command("export", help="Write connectors (all, or those with these IDs) as YAML, with their sources and destinations; secrets become !keep.")
def export(connector_ids: Annotated[list[int] | None, typer.Argument(metavar="ID …", show_default=False)] = None) -> None:
    """The command; its help text stands above."""
    from engine.control import exchange
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        typer.echo(exchange.dump(exchange.read(control, connector_ids or None)), nl=False)


@app.command("import", help="Compare connectors in FILE (YAML, - for standard input) with those stored, and show what differs; --apply writes it.")
def import_file(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    apply: Annotated[bool, typer.Option("--apply", help="Write it, in one transaction.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text stands above."""
    from engine.control import exchange
    from engine.control.database import ControlDatabase

    document = exchange.parse(_read(file))
    with ControlDatabase() as control:
        changes = exchange.apply(control, document) if apply else exchange.compare(control, document)
    typer.echo("\n".join(changes) if changes else "nothing differs")
    if changes:
        typer.echo("written" if apply else "nothing was written; --apply writes it")


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"cannot read {file}: it is not UTF-8") from None
