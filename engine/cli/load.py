"""`ferry load SOURCE TARGET`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.export import key_values
from engine.cli.outcome import told
from engine.errors import ConfigurationError

HELP = """Load CSV or Parquet files from SOURCE into a table of TARGET, each file exactly once.

SOURCE is a file or a folder: a path, file://…, s3://bucket/key or sftp://user@host:port/path. TARGET is postgresql://user@host/database.
A second run loads what is new, and leaves out what is loaded already.

Example: ferry load /data/in postgresql://localhost/study --pattern '*.csv' --table labs
"""


def load(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A path or URL of a file or a folder.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The database's URL; password: --dest-option password=env:NAME.", show_default=False)],
    pattern: Annotated[str | None, typer.Option(metavar="GLOB", help="Which files of a folder.", show_default=False)] = None,
    table: Annotated[str | None, typer.Option(metavar="NAME", help="The table. Default: the file's name.", show_default=False)] = None,
    schema: Annotated[str | None, typer.Option(metavar="NAME", help="PostgreSQL's schema. Default: public.", show_default=False)] = None,
    format: Annotated[str | None, typer.Option(metavar="csv|parquet", help="Default: by the suffix.", show_default=False)] = None,  # noqa: A002 - the option's name
    write_disposition: Annotated[
        str | None, typer.Option(metavar="append|replace|merge", help="What becomes of the table's rows. Default: append.", show_default=False)
    ] = None,
    primary_key: Annotated[str | None, typer.Option(metavar="A,B", help="Columns that a merge compares.", show_default=False)] = None,
    columns: Annotated[str | None, typer.Option(metavar="FILE|JSON", help='Types, names, selection: {"id": "bigint"}.', show_default=False)] = None,
    contract: Annotated[str | None, typer.Option(metavar="evolve|freeze", help="Whether new columns are added.", show_default=False)] = None,
    on_bad_row: Annotated[str | None, typer.Option(metavar="fail|quarantine", help="A row that cannot be loaded.", show_default=False)] = None,
    max_bad_rows: Annotated[str | None, typer.Option(metavar="N|P%", help="So many are put aside at most.", show_default=False)] = None,
    on_changed_file: Annotated[
        str | None, typer.Option(metavar="fail|reload|append", help="A file that was loaded with other content.", show_default=False)
    ] = None,
    delimiter: Annotated[str | None, typer.Option(metavar="C", help="Between the fields of a CSV line.", show_default=False)] = None,
    encoding: Annotated[str | None, typer.Option(metavar="NAME", help="Of CSV files. Default: UTF-8.", show_default=False)] = None,
    null: Annotated[str | None, typer.Option(metavar="TEXT", help="What means NULL, bare.", show_default=False)] = None,
    header: Annotated[bool | None, typer.Option("--header/--no-header", help="Whether CSV files begin with names.", show_default=False)] = None,
    delete_source: Annotated[bool, typer.Option("--delete-source", help="Delete each file once its rows are committed.")] = False,  # noqa: FBT002 - typer's form
    archive_path: Annotated[str | None, typer.Option(metavar="FOLDER", help="Move it there instead, in the same store.", show_default=False)] = None,
    source_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of the source.", show_default=False)] = None,
    dest_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of the destination.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,  # noqa: FBT002 - typer's form
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,  # noqa: FBT002 - typer's form
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text is HELP."""
    import engine
    from engine.cli.display import progress

    with told(as_json=as_json, quiet=quiet) as show, progress(quiet=quiet, label="load") as on_progress:
        result = engine.load(
            source,
            target,
            pattern=pattern,
            table=table,
            schema=schema,
            format=format,
            write_disposition=write_disposition,
            primary_key=primary_key,
            columns=read_columns(columns),
            schema_contract=contract,
            on_bad_row=on_bad_row,
            max_bad_rows=max_bad_rows,
            on_changed_file=on_changed_file,
            delimiter=delimiter,
            encoding=encoding,
            null=null,
            header=header,
            delete_source=delete_source,
            archive_path=archive_path,
            dry_run=dry_run,
            source_options=key_values(source_option, "--source-option"),
            dest_options=key_values(dest_option, "--dest-option"),
            on_progress=on_progress,
        )
    show(result)


def read_columns(given: str | None) -> str | None:
    """JSON, or the text of a file that holds it."""
    if given is None or given.lstrip().startswith("{"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"--columns: {given!r} is neither JSON nor a file that can be read") from None
