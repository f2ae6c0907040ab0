"""The command `ferry`: one module per group of commands, loaded with the command line itself; heavy libraries only when they run.

Exit codes: 0 success, 1 failure, 2 usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.exceptions import TyperException

from engine.cli import connectors, copy, db, export, files, load, log, run, runs, transfer
from engine.cli.stderr import tell
from engine.errors import FerryError, Interrupted, describe, frames

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    name="ferry",
    help="Move rows and files between PostgreSQL, S3, SFTP, folders and REST endpoints: fast, in bounded memory, without changing a value.",
    add_completion=False,
    rich_markup_mode=None,  # rich costs a fifth of a second that --help need not wait for
    pretty_exceptions_enable=False,
)
app.command("export", help=export.HELP)(export.export)
app.command("transfer", help=transfer.HELP)(transfer.transfer)
app.command("load", help=load.HELP)(load.load)
app.command("copy", help=copy.HELP)(copy.copy)
app.command("run", help=run.HELP)(run.run)
app.add_typer(runs.app, name="runs")
app.add_typer(files.app, name="files")
app.add_typer(connectors.app, name="connectors")
app.add_typer(db.app, name="db")


def _join_commands() -> None:
    """Commands of other packages: this one knows no orchestrator, and `flows` joins its own."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="ferry.commands"):
        entry.load()(app)


_join_commands()


def _version(asked: bool) -> None:  # noqa: FBT001 - typer's callback form
    if asked:
        from importlib.metadata import version

        typer.echo(f"arrow-ferry {version('arrow-ferry')}")
        raise typer.Exit


@app.callback()
def _common(
    debug: bool = typer.Option(False, "--debug", help="Show the engine's log, and the frames of an error."),  # noqa: FBT001, FBT003 - read from the arguments by main(), typer's form
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),  # noqa: FBT001, FBT003
) -> None:
    """What all commands take."""


def main() -> None:
    """Run `ferry`; every error becomes one line on standard error and an exit code."""
    if sys.stderr is None:  # it was closed before we began
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv[1:])
    _handle_signals()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy comes with pyarrow: its linear algebra would start threads that spin at first
    gc.set_threshold(50_000)  # the libraries' own objects would be searched through dozens of times while they load
    heard = log.listen(debug=debug)
    try:
        code = app(args=arguments or ["--help"], prog_name="ferry", standalone_mode=False)
    except (FerryError, Interrupted) as error:
        text = _stopped(error) if isinstance(error, Interrupted) else str(error)
        _report(text, with_frames=debug and not heard.told_error)
        if isinstance(error, Interrupted):
            _leave_now(error.exit_code)
        sys.exit(error.exit_code)
    except TyperException as error:
        if error.format_message().startswith("Usage:"):  # a group without a command shows its help
            tell(f"{error.format_message()}\n")
        else:
            _report(f"{error.format_message()} (see ferry --help)", with_frames=debug)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last resort: the text of a foreign error may hold a cell value or a secret
        _report(f"{describe(error)} (--debug)", with_frames=debug)
        sys.exit(1)
    heard.tell_kept()
    gc.freeze()  # a process that ends would search through all that its libraries made once more
    sys.exit(code if isinstance(code, int) else 0)


def _stopped(stop: Interrupted) -> str:
    from engine.stops import delivered, may_remain, partly

    if delivered(stop) is not None:
        return f"{stop}; everything had been delivered by then"
    files, _ = partly(stop)
    before = f"{files:,} file{'' if files == 1 else 's'} had been delivered, " if files else ""
    return f"{stop}; {before}what was not finished was removed{may_remain(stop)}"


def _leave_now(code: int) -> None:
    """Wait for no thread that waits for a server: Python would join it at the end, and the first Ctrl-C is the only one that is heard.

    A thread that nobody joins may be in a library that calls back, which crashes a Python that is ending.
    """
    if any(thread.name.startswith("ferry-") for thread in threading.enumerate()):
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _report(message: str, *, with_frames: bool) -> None:
    error = sys.exc_info()[1]
    if with_frames and error is not None:
        tell(frames(error) + "\n")
    tell(f"ferry: {message}\n")


def _handle_signals() -> None:
    """The first Ctrl-C or SIGTERM stops the run; later ones wait, so that the cleaning up is not cut short."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the form of a handler
        for known in (signal.SIGINT, signal.SIGTERM):
            signal.signal(known, signal.SIG_IGN)
        raise Interrupted(number)

    for known in (signal.SIGINT, signal.SIGTERM):
        signal.signal(known, stop)
