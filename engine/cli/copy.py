"""`ferry copy QUERY TARGET`."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.export import key_values, read_query
from engine.cli.load import read_columns
from engine.cli.outcome import told

HELP = """Copy the rows of QUERY into a table of TARGET, every value as it is, in one transaction.

QUERY is SQL, @file.sql, or - for standard input. TARGET is postgresql://user@host/database.
What becomes of the table's own rows must be said: --write-disposition append, replace or merge.

Example: ferry copy "SELECT * FROM labs" postgresql://warehouse/study --table labs --write-disposition replace
"""


def copy(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL, @file.sql, or - (standard input).", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The database's URL; password: --dest-option password=env:NAME.", show_default=False)],
    table: Annotated[str | None, typer.Option(metavar="NAME", help="The table.", show_default=False)] = None,
    schema: Annotated[str | None, typer.Option(metavar="NAME", help="PostgreSQL's schema. Default: public.", show_default=False)] = None,
    write_disposition: Annotated[
        str | None, typer.Option(metavar="append|replace|merge", help="What becomes of the table's rows; no default.", show_default=False)
    ] = None,
    database: Annotated[str | None, typer.Option(metavar="URL", help="The query's database; else FERRY_DATABASE.", show_default=False)] = None,
    primary_key: Annotated[str | None, typer.Option(metavar="A,B", help="Columns that a merge compares.", show_default=False)] = None,
    columns: Annotated[str | None, typer.Option(metavar="FILE|JSON", help='Types, names, selection: {"id": "bigint"}.', show_default=False)] = None,
    contract: Annotated[str | None, typer.Option(metavar="evolve|freeze", help="Whether new columns are added.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="ROWS", help="The most rows in one record batch.", show_default=False)] = None,
    timezone: Annotated[str | None, typer.Option(metavar="TZ", help="The TimeZone of the query's session.", show_default=False)] = None,
    statement_timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds after which the server ends the query.", show_default=False)] = None,
    source_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of a PostgreSQL source.", show_default=False)] = None,
    dest_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of the destination.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,  # noqa: FBT002 - typer's form
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,  # noqa: FBT002 - typer's form
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text is HELP."""
    import engine
    from engine.cli.display import progress

    with told(as_json=as_json, quiet=quiet) as show, progress(quiet=quiet, label="copy") as on_progress:
        result = engine.copy(
            read_query(query),
            target,
            write_disposition=write_disposition,
            table=table,
            schema=schema,
            database=database,
            primary_key=primary_key,
            columns=read_columns(columns),
            schema_contract=contract,
            batch_size=batch_size,
            timezone=timezone,
            statement_timeout=statement_timeout,
            dry_run=dry_run,
            source_options=key_values(source_option, "--source-option"),
            dest_options=key_values(dest_option, "--dest-option"),
            on_progress=on_progress,
        )
    show(result)
