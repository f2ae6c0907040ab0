"""`ferry transfer SOURCE TARGET`."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.export import key_values
from engine.cli.outcome import told

HELP = """Copy files from SOURCE to TARGET, byte for byte; --delete-source moves them.

SOURCE is a file or a folder: a path, file://…, s3://bucket/key or sftp://user@host:port/path (/~/path: from the home folder).
TARGET is the same, or https://… (a REST endpoint). One file goes to a new name if TARGET does not end in / and no folder stands there.

Example: ferry transfer /data/out s3://study/2024/ --pattern '*.csv'
"""


def transfer(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A path or URL of a file or a folder.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A path or URL.", show_default=False)],
    pattern: Annotated[str | None, typer.Option(metavar="GLOB", help="Which files of a folder; '**/*' is all. Default: '*'.", show_default=False)] = None,
    delete_source: Annotated[bool, typer.Option("--delete-source", help="Delete each source after its verified delivery.")] = False,  # noqa: FBT002 - typer's form
    if_exists: Annotated[str | None, typer.Option(metavar="replace|skip|fail", help="When a file stands at TARGET already.", show_default=False)] = None,
    flatten: Annotated[bool, typer.Option("--flatten", help="Drop the folders below SOURCE.")] = False,  # noqa: FBT002 - typer's form
    files_in_flight: Annotated[int | None, typer.Option(metavar="N", help="Files under way at once, at most.", show_default=False)] = None,
    verify: Annotated[str | None, typer.Option(metavar="size|checksum|read-back", help="The least level of verification.", show_default=False)] = None,
    min_age: Annotated[float | None, typer.Option(metavar="S", help="Leave files that were changed less than S seconds ago.", show_default=False)] = None,
    limit_rate: Annotated[
        float | None, typer.Option(metavar="MB/s", help="Million bytes per second, at most; not of copies within S3.", show_default=False)
    ] = None,
    source_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of the source.", show_default=False)] = None,
    dest_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of the destination.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,  # noqa: FBT002 - typer's form
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,  # noqa: FBT002 - typer's form
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text is HELP."""
    import engine
    from engine.cli.display import progress

    with told(as_json=as_json, quiet=quiet) as show, progress(quiet=quiet, label="transfer") as on_progress:
        result = engine.transfer(
            source,
            target,
            pattern=pattern,
            delete_source=delete_source,
            if_exists=if_exists,
            flatten=flatten,
            files_in_flight=files_in_flight,
            verify=verify,
            min_age=min_age,
            limit_rate_mb=limit_rate,
            dry_run=dry_run,
            source_options=key_values(source_option, "--source-option"),
            dest_options=key_values(dest_option, "--dest-option"),
            on_progress=on_progress,
        )
    show(result)
