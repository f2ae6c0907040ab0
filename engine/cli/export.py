"""`ferry export QUERY TARGET`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.outcome import told
from engine.errors import ConfigurationError

HELP = """Stream the rows of QUERY into TARGET as CSV or Parquet.

QUERY is SQL, @file.sql, or - for standard input. TARGET is a path, file://… or s3://bucket/key;
its suffix decides the format: .csv, .csv.gz, .csv.zst, .parquet.

Example: ferry export "SELECT * FROM patients" s3://study/patients.parquet
"""


def export(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL, @file.sql, or - (standard input).", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A path, file://… or s3://bucket/key.", show_default=False)],
    database: Annotated[str | None, typer.Option(metavar="URL", help="The database; else FERRY_DATABASE.", show_default=False)] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="csv|parquet", help="Default: by the suffix.", show_default=False)] = None,
    compression: Annotated[
        str | None, typer.Option(metavar="NAME", help="CSV: none, gzip, zstd. Parquet: zstd, snappy, gzip, lz4, brotli, none.", show_default=False)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="ROWS", help="The most rows in one record batch.", show_default=False)] = None,
    chunk_size_mb: Annotated[int | None, typer.Option(metavar="MB", help="MiB in one part of a multipart upload.", show_default=False)] = None,
    max_file_rows: Annotated[int | None, typer.Option(metavar="N", help="Begin another file after N rows.", show_default=False)] = None,
    max_file_mb: Annotated[float | None, typer.Option(metavar="MB", help="MiB that no file exceeds.", show_default=False)] = None,
    delimiter: Annotated[str | None, typer.Option(metavar="C", help="Between CSV fields: comma, semicolon, tab or |.", show_default=False)] = None,
    header: Annotated[bool | None, typer.Option("--header/--no-header", help="Column names in the first CSV line.", show_default=False)] = None,
    null: Annotated[str | None, typer.Option(metavar="TEXT", help="How NULL is written in CSV.", show_default=False)] = None,
    timezone: Annotated[str | None, typer.Option(metavar="TZ", help="The session's TimeZone.", show_default=False)] = None,
    numeric: Annotated[list[str] | None, typer.Option(metavar="COLUMN=P,S", help="Precision and scale of a numeric that has none.", show_default=False)] = None,
    numeric_default: Annotated[str | None, typer.Option(metavar="P,S", help="The same for all others.", show_default=False)] = None,
    unrepresentable: Annotated[
        list[str] | None, typer.Option(metavar="stop|text|COLUMN=text", help="Values that Parquet cannot hold.", show_default=False)
    ] = None,
    readers: Annotated[str | None, typer.Option(metavar="auto|N", help="Connections that read a large table at once.", show_default=False)] = None,
    reader: Annotated[
        str | None,
        typer.Option(metavar="adbc|copy|connectorx", help="What reads the rows; copy needs the extra turbo, connectorx its own.", show_default=False),
    ] = None,
    endpoint_url: Annotated[str | None, typer.Option(metavar="URL", help="The S3 server; empty means AWS.", show_default=False)] = None,
    statement_timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds after which the server ends the query.", show_default=False)] = None,
    if_exists: Annotated[str | None, typer.Option(metavar="replace|skip|fail", help="When TARGET stands already.", show_default=False)] = None,
    source_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of a PostgreSQL source.", show_default=False)] = None,
    dest_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any key of the destination.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,  # noqa: FBT002 - typer's form
    stats: Annotated[bool, typer.Option("--stats", help="Show where the time went and what limited the run.")] = False,  # noqa: FBT002 - typer's form
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text is HELP."""
    import engine
    from engine.cli.display import progress

    with told(as_json=as_json, quiet=quiet, stats=stats) as show, progress(quiet=quiet) as on_progress:
        result = engine.export(
            read_query(query),
            target,
            database=database,
            format=format_,
            compression=compression,
            batch_size=batch_size,
            chunk_size_mb=chunk_size_mb,
            max_file_rows=max_file_rows,
            max_file_mb=max_file_mb,
            delimiter="\t" if delimiter == r"\t" else delimiter,
            header=header,
            null=null,
            timezone=timezone,
            numeric=numeric or None,
            numeric_default=numeric_default,
            unrepresentable=unrepresentable or None,
            readers=readers,
            reader=reader,
            endpoint_url=endpoint_url,
            statement_timeout=statement_timeout,
            if_exists=if_exists,
            source_options=key_values(source_option, "--source-option"),
            dest_options=key_values(dest_option, "--dest-option"),
            on_progress=on_progress,
        )
    show(result)


def read_query(argument: str) -> str:
    """SQL as given, from `@file.sql`, or from standard input (`-`).

    Raises:
        ConfigurationError: The file cannot be read, or is not UTF-8.
    """
    if argument == "-":
        return sys.stdin.read()
    if not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read the query from {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"cannot read the query from {path}: it is not UTF-8") from None


def key_values(given: list[str] | None, option: str) -> dict[str, Any]:
    """`["key=value"]` → `{"key": "value"}`."""
    pairs = [text.partition("=") for text in given or []]
    if any(not key or not equals for key, equals, _ in pairs):
        raise ConfigurationError(f"{option} is written KEY=VALUE")
    return {key: value for key, _, value in pairs}
