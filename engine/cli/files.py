"""`ferry files` and `ferry files resolve ID`: the ledger of connectors, file by file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from engine.cli.outcome import show_json
from engine.errors import ConfigurationError
from engine.results import LARGEST_INTEGER, LedgerState, human_bytes

if TYPE_CHECKING:
    from engine.control.database import Row
    from engine.control.files import Verdict

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
app = typer.Typer(help="Show the files of connectors by the ledger, those changed last first.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def list_files(
    context: typer.Context,
    connector: Annotated[int | None, typer.Option(metavar="ID", min=1, max=LARGEST_INTEGER, help="Of this connector only.", show_default=False)] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="In this state only, such as ambiguous.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=LARGEST_INTEGER, help="At most so many.")] = 50,
    as_json: AsJson = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text stands above."""
    if context.invoked_subcommand is not None:
        return
    if state is not None and state not in get_args(LedgerState):
        raise ConfigurationError(f"--state is one of {', '.join(get_args(LedgerState))}, not {state!r}")
    from engine.control import files
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        found = files.list_files(control, connector_id=connector, state=state, limit=limit)
    if as_json:
        show_json(found)
    else:
        typer.echo("\n".join(map(_line, found)) or "no files")


@app.command("resolve", help="Settle an ambiguous file, after a look at its destination: it is delivered, or the next run sends it again.")
def resolve(
    file_id: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    verdict: Annotated[str, typer.Argument(metavar="delivered|resend", show_default=False)],
    as_json: AsJson = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text stands above."""
    if verdict not in {"delivered", "resend"}:
        raise ConfigurationError(f"an ambiguous file is resolved as delivered or resend, not {verdict!r}")
    from engine.control import files
    from engine.control.database import ControlDatabase

    with ControlDatabase() as control:
        settled = files.resolve(control, file_id, cast("Verdict", verdict))
    if as_json:
        show_json(settled)
    else:
        typer.echo(f"{_line(settled)}: " + ("noted as delivered" if verdict == "delivered" else "the next run sends it again"))


def _line(file: Row) -> str:
    size = "" if file["file_bytes"] is None else f"  {human_bytes(file['file_bytes'])}"
    came = f"{file['source_path']} -> " if file["source_path"] else ""
    return f"{file['id']}  {file['state']}  connector {file['connector_id']}, run {file['run_id'] or '-'}  {came}{file['url']}{size}  {file['changed_at']:%Y-%m-%d %H:%M:%S%z}"
