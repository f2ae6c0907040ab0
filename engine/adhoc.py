"""Exports without a connector: a query here, a target there.

The keyword arguments of `export` are shorthands for keys of a connector's configuration; `source_options` and `dest_options` reach all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from engine import jobs, registry
from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from engine.results import RunResult
    from engine.routes.export import Progress


def export(
    query: str,
    target: str | os.PathLike[str],
    *,
    database: str | None = None,
    format: str | None = None,  # noqa: A002 - the configuration's own key
    compression: str | None = None,
    batch_size: int | None = None,
    chunk_size_mb: int | None = None,
    max_file_rows: int | None = None,
    max_file_mb: float | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    null: str | None = None,
    timezone: str | None = None,
    numeric: Mapping[str, Any] | Sequence[str] | None = None,
    numeric_default: str | tuple[int, int] | None = None,
    unrepresentable: str | Mapping[str, str] | Sequence[str] | None = None,
    endpoint_url: str | None = None,
    statement_timeout: float | None = None,
    if_exists: str | None = None,
    source_options: Mapping[str, Any] | None = None,
    dest_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Stream the rows of a query into CSV or Parquet files, in a folder or on S3.

    Args:
        query: One SELECT, WITH, VALUES or TABLE that changes nothing.
        target: A path, `file://…` or `s3://bucket/key`; the suffix decides the format unless `format` does.
        database: The database's URL; else `FERRY_DATABASE`.
        format: `csv` or `parquet`.
        compression: CSV: `none`, `gzip`, `zstd`; Parquet: `zstd`, `snappy`, `gzip`, `lz4`, `brotli`, `none`.
        batch_size: The most rows in one record batch.
        chunk_size_mb: MiB in one part of a multipart upload.
        max_file_rows: Rows after which another file is begun: `x-00001.csv`, `x-00002.csv` …
        max_file_mb: MiB that no file exceeds.
        delimiter: Between the fields of a CSV line.
        header: Whether a CSV file begins with its column names.
        null: How NULL is written in CSV, bare; strings that look like it are quoted.
        timezone: The session's TimeZone.
        numeric: Column → (precision, scale) for numerics that have none.
        numeric_default: The same for all others.
        unrepresentable: `stop`, `text`, or column → `text`.
        endpoint_url: The S3 server; empty means AWS.
        statement_timeout: Seconds after which the server ends the query.
        if_exists: `replace`, `skip` or `fail`.
        source_options: Any key of a PostgreSQL source.
        dest_options: Any key of the destination.
        on_progress: Called in this thread after each batch.

    Returns:
        Rows, bytes, seconds, schema and files as delivered.

    Raises:
        FerryError: What went wrong; nothing stands at the target then.

    Example:
        >>> engine.export("TABLE patients", "patients.parquet", database="postgresql://localhost/study")  # doctest: +SKIP
    """
    kind, place, filename = _target(target)
    source = {
        **_source(query, database, source_options, timezone=timezone, statement_timeout=statement_timeout, batch_size=batch_size),
        **_given(format=format, compression=compression, max_file_rows=max_file_rows, max_file_mb=max_file_mb),
        **_given(delimiter=delimiter, header=header, null=null, unrepresentable=unrepresentable),
        **_numeric(numeric, numeric_default),
        "filename": filename,
    }
    destination = {**place, **(dest_options or {}), **_given(chunk_size_mb=chunk_size_mb, if_exists=if_exists, endpoint_url=endpoint_url)}
    return jobs.export_job(registry.POSTGRES, source, kind, destination).run(on_progress)


@contextlib.contextmanager
def stream(
    query: str,
    *,
    database: str | None = None,
    batch_size: int | None = None,
    timezone: str | None = None,
    numeric: Mapping[str, Any] | Sequence[str] | None = None,
    numeric_default: str | tuple[int, int] | None = None,
    unrepresentable: str | Mapping[str, str] | Sequence[str] | None = None,
    statement_timeout: float | None = None,
    source_options: Mapping[str, Any] | None = None,
) -> Iterator[pa.RecordBatchReader]:
    """The rows of a query as Arrow record batches, with the type rules of Parquet applied, in bounded memory.

    Leaving the block early cancels the query. Arguments as in `export`.

    Yields:
        A reader that polars, DuckDB, pandas and pyarrow take as it is.

    Example:
        >>> with engine.stream("TABLE patients", database="postgresql://localhost/study") as reader:  # doctest: +SKIP
        ...     frame = polars.from_arrow(reader)
    """
    source = {
        **_source(query, database, source_options, timezone=timezone, statement_timeout=statement_timeout, batch_size=batch_size),
        **_given(unrepresentable=unrepresentable),
        **_numeric(numeric, numeric_default),
    }
    with jobs.row_source(registry.POSTGRES, source).read("typed") as rows:
        yield rows.reader


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _source(query: str, database: str | None, options: Mapping[str, Any] | None, **values: Any) -> dict[str, Any]:
    """The source's configuration; the database is named here, by its options, or by the environment."""
    options = dict(options or {})
    if database is None and not options.keys() & {"connection_string", "host", "database"}:
        database = os.environ.get("FERRY_DATABASE")
        if not database:
            raise ConfigurationError("which database? Give --database URL (database=… in Python) or set FERRY_DATABASE")
    return {**options, **_given(connection_string=database, **values), "query": query}


def _numeric(columns: Mapping[str, Any] | Sequence[str] | None, default: str | tuple[int, int] | None) -> dict[str, Any]:
    """The key `numeric`, in which `*` stands for all other columns."""
    if default is None:
        return _given(numeric=columns)
    if isinstance(columns, Mapping):
        return {"numeric": {**columns, "*": default}}
    text = default if isinstance(default, str) else f"{default[0]},{default[1]}"
    return {"numeric": [*([columns] if isinstance(columns, str) else columns or []), f"*={text}"]}


def _target(target: str | os.PathLike[str]) -> tuple[str, dict[str, Any], str]:
    """Type code, configuration and file name of a target."""
    text = os.fspath(target)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "s3":
        bucket, _, key = text.removeprefix("s3://").partition("/")
        prefix, _, filename = key.rpartition("/")
        if not bucket or not filename:
            raise ConfigurationError(f"{text!r}: an S3 target is s3://bucket/key, and the key ends in the file's name")
        return registry.S3, {"bucket": bucket, **({"path": prefix} if prefix else {})}, filename
    if scheme not in ("", "file"):
        raise ConfigurationError(f"{text!r}: a target is a path, file://… or s3://bucket/key; {scheme}:// is not known")
    path = Path(unquote(urlsplit(text).path) if scheme else text).expanduser()
    if text.endswith("/") or path.is_dir():
        raise ConfigurationError(f"{text!r} is a folder; name the file in it, such as {Path(text) / 'export.csv'}")
    return registry.FOLDER, {"path": str(path.absolute().parent)}, path.name
