"""`ferry connectors list | show | check | trust | import | export`."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.outcome import show_json
from engine.cli.stderr import tell
from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from engine.checking import Checked
    from engine.control.connectors import End
    from engine.control.database import ControlDatabase, Row
    from engine.layers import Setting
    from engine.registry import Role

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
app = typer.Typer(help="Look at, check, import and export the connectors of the control database.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list", help="List all connectors, and what keeps some from being whole.")
def list_all(as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands above."""
    from engine.control import connectors
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        found = connectors.list_connectors(control)
    shown = [
        {"id": one["id"], "name": one["name"], "source_type": one["source_type"], "destination_type": one["dest_type"], "problems": connectors.problems(one)}
        for one in found
    ]
    if as_json:
        show_json(shown)
        return
    width = max((len(one["name"]) for one in shown), default=0)
    for one in shown:
        typer.echo(f"{one['id']:>6}  {one['name']:<{width}}  {one['source_type'] or '?'} → {one['destination_type'] or '?'}")
    for problem in (problem for one in shown for problem in one["problems"]):
        typer.echo(problem)
    if not shown:
        typer.echo("no connectors; ferry connectors import FILE.yaml makes some")


@app.command("show", help="Show the merged configuration of connector ID: each value with the layer it comes from, secrets as ***.")
def show(connector_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)], as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands above."""
    from engine.control import connectors
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        stored = connectors.read_connector(control, connector_id)
    ends = {"source": _settings(stored.source, "source", stored.id), "destination": _settings(stored.destination, "destination", stored.id)}
    if as_json:
        told = {end: {"type": getattr(stored, end).type, "settings": [asdict(one) for one in found]} for end, found in ends.items()}
        show_json({"id": stored.id, "name": stored.name, **told})
        return
    typer.echo(f"connector {stored.id}  {stored.name}")
    for end, found in ends.items():
        typer.echo(f"\n{end}: {getattr(stored, end).type}")
        typer.echo("\n".join(_lines(found)))


def _settings(end: End, role: Role, connector_id: int) -> list[Setting]:
    """An end that cannot be merged (a reference that this machine does not have, an unknown type) is shown as it is stored."""
    from engine import layers

    try:
        return layers.explain(end, role, connector_id)
    except ConfigurationError as error:
        tell(f"ferry: warning: {error}; what is stored is shown\n")
        return layers.as_stored(end)


def _lines(found: list[Setting]) -> list[str]:
    """`key  value  (origin)`; what nobody gave comes last and in one line, since it is long."""
    given = [one for one in found if one.origin != "default"]
    width = max((len(one.key) for one in given), default=0)
    lines = []
    for one in given:
        first, *more = _plain(one.value).strip("\n").split("\n") if one.origin != "missing" else [""]
        lines.append(f"  {one.key:<{width}}  {first}{'  ' if first else ''}({one.origin})")
        lines += [f"  {'':<{width}}  {line}" for line in more]
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
        found = []
        for one in wanted:
            found.append(checking.check(control, one, offline=offline))
            if not as_json:
                _tell(found[-1])
    if as_json:
        show_json([asdict(one) for one in found])
    if any(one.exit_code for one in found):
        raise typer.Exit(max(one.exit_code for one in found) if connector_id is not None else 1)


def _tell(checked: Checked) -> None:
    if checked.problem is not None:
        tell(f"ferry: {checked.problem}\n")
    else:
        typer.echo("\n".join([f"connector {checked.connector_id}: {checked.would}", *(f"  note: {note}" for note in checked.notes)]))


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
        after = exchange.connectors_after(control, document)
        changes = exchange.apply(control, document) if apply else exchange.compare(control, document)
    typer.echo("\n".join(changes) if changes else "nothing differs")
    for place, row in after.items():
        _warn_of_what_cannot_run(place, row)
    if changes:
        typer.echo("written" if apply else "nothing was written; --apply writes it")


def _warn_of_what_cannot_run(place: str, row: Row) -> None:
    """An import may be one step of several, or made where the worker's environment is not: no reason to refuse it, but one to say so."""
    from engine import checking
    from engine.control import connectors

    try:
        checking.validate(connectors.stored_connector(row))
    except ConfigurationError as error:
        reason = str(error).removeprefix(f"connector {row['id']}").removeprefix(":").strip()
        tell(f"ferry: warning: {place} could not run: {reason}\n")


@app.command("trust", help="Show the host key of each SFTP server of connector ID, ask, and trust it from now on, in place of what was trusted before.")
def trust(
    connector_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    fingerprint: Annotated[
        str | None, typer.Option(metavar="SHA256:…", help="Do not ask: trust the key if it has this fingerprint.", show_default=False)
    ] = None,
) -> None:
    """The command; its help text stands above."""
    from engine import workers
    from engine.control import host_keys
    from engine.control.database import ControlDatabase
    from engine.stores.sftp_connection import server_host_key

    with ControlDatabase() as control:
        for options in _sftp_ends(control, connector_id):
            server = f"{options.host}:{options.port}"
            key_type, public_key, found = workers.call(functools.partial(server_host_key, options))
            if f"{key_type} {public_key}" in host_keys.pinned(control, options.host, options.port):
                typer.echo(f"{server}: the {key_type} key {found} is trusted already")
                continue
            if not _is_wanted(f"{server} shows the {key_type} key {found}", found, fingerprint):
                raise ConfigurationError(f"{server}: its key {found} is not trusted; nothing was changed")
            host_keys.pin(control, options.host, options.port, key_type, public_key)
            typer.echo(f"{server}: the {key_type} key {found} is trusted from now on")


def _sftp_ends(control: ControlDatabase, connector_id: int) -> list[Any]:
    """Options of those ends of a connector that are SFTP servers."""
    from engine import layers, registry
    from engine.control import connectors

    stored = connectors.read_connector(control, connector_id)
    ends: tuple[tuple[Role, End], ...] = (("source", stored.source), ("destination", stored.destination))
    found = [(role, end) for role, end in ends if registry.kind_of(end.type, {**end.base, **end.override}) == registry.SFTP]
    if not found:
        raise ConfigurationError(f"connector {connector_id} has no SFTP server")
    return [layers.parsed_end(end, role, connector_id) for role, end in found]


def _is_wanted(what: str, found: str, fingerprint: str | None) -> bool:
    """Whether somebody trusts the key: by a fingerprint that was learned elsewhere, or by looking at it now."""
    if fingerprint is not None:
        return found == fingerprint
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{what}; nobody can be asked here: compare it with the server's own and give it as --fingerprint")
    return typer.confirm(f"{what}. Compare it with what the server's administrator says. Trust it?", err=True)


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"cannot read {file}: it is not UTF-8") from None
