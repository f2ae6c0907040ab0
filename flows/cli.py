"""`ferry deploy | schedule | unschedule | schedules | serve | demo`, joined to `ferry` by the entry point group `ferry.commands`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from dataclasses import asdict
from typing import Annotated

import typer

from engine.errors import ConfigurationError, Interrupted
from flows import demo

DEPLOY_HELP = """Make the work pool and the deployments on the Prefect server that PREFECT_API_URL names.

Doing it again changes nothing, and keeps all schedules. Workers are Prefect's own: prefect worker start --pool default --type process.
"""
SERVE_HELP = """Run a Prefect server, the deployments and a worker on this machine, until Ctrl-C.

For one machine; the UI is at the address that is printed. DATABASE_URL names the control database.
"""


def register(app: typer.Typer) -> None:
    """Add the commands to `ferry`."""
    app.command("deploy", help=DEPLOY_HELP)(deploy)
    app.command("schedule", help='Run connector ID by a cron schedule: ferry schedule 7 "0 3 * * *" --timezone Europe/Prague')(schedule)
    app.command("unschedule", help="Take the schedule of connector ID away.")(unschedule)
    app.command("schedules", help="List the schedules of all connectors.")(schedules)
    app.command("serve", help=SERVE_HELP)(serve)
    app.command("demo", help=demo.HELP)(demo.demo)


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def deploy(as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text is DEPLOY_HELP."""
    _need_prefect()
    from flows import deploy as deployment

    done = deployment.deploy()
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(f"{done.server} is Prefect {done.version}")
    typer.echo(f"work pool {done.work_pool} (process), queue {done.work_queue}")
    typer.echo(f"deployment {deployment.DEPLOYMENT}  {done.deployment_id}")
    typer.echo("deployment reap/default, every minute")
    typer.echo("next, on each machine that shall work: prefect worker start --pool default --type process")


def schedule(
    connector_id: Annotated[int, typer.Argument(metavar="ID", min=1, show_default=False)],
    cron: Annotated[str, typer.Argument(metavar="CRON", help='Five fields: "0 3 * * *".', show_default=False)],
    timezone: Annotated[str, typer.Option(metavar="TZ", help="An IANA name.")] = "UTC",
    as_json: AsJson = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text stands in `register`."""
    _need_prefect()
    from flows import deploy as deployment

    made = deployment.schedule(connector_id, cron, timezone)
    typer.echo(json.dumps(asdict(made)) if as_json else f"connector {made.connector_id} runs at {made.cron} ({made.timezone})")


def unschedule(connector_id: Annotated[int, typer.Argument(metavar="ID", min=1, show_default=False)]) -> None:
    """The command; its help text stands in `register`."""
    _need_prefect()
    from flows import deploy as deployment

    taken = deployment.unschedule(connector_id)
    typer.echo(f"connector {connector_id} " + ("runs by no schedule any more" if taken else "had no schedule"))


def schedules(as_json: AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """The command; its help text stands in `register`."""
    _need_prefect()
    from flows import deploy as deployment

    found = deployment.schedules()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
        return
    for one in found:
        typer.echo(f"connector {one.connector_id}  {one.cron}  {one.timezone}" + ("" if one.active else "  (paused)"))
    if not found:
        typer.echo('no connector has a schedule; ferry schedule ID "0 3 * * *" makes one')


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; another than this machine's own wants PREFECT_SERVER_API_AUTH_STRING.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The most flow runs at once.", show_default=False)] = None,
) -> None:
    """The command; its help text is SERVE_HELP."""
    _need_prefect()
    from engine.control.database import ControlDatabase
    from flows import serve as serving

    with ControlDatabase() as control:
        control.query("SELECT 1 AS one")  # a wrong DATABASE_URL shows now, not with the first run
    with contextlib.suppress(Interrupted), serving.serve(host=host, port=port, limit=limit) as up:
        typer.echo(f"serving connectors of {control.where}; Ctrl-C stops")
        typer.echo(f"UI   {up.ui_url}\nAPI  {up.api_url}")
        up.wait()


def _need_prefect() -> None:
    if importlib.util.find_spec("prefect") is None:
        raise ConfigurationError("Prefect is not installed: pip install 'arrow-ferry[flows]'")
