"""What needs no connector: a query or files here, a target there.

The keyword arguments of `export` are shorthands for keys of a connector's configuration; `source_options` and `dest_options` reach all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import copy_jobs, ends, jobs, load_jobs, registry
from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from engine.results import Progress, RunResult


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
    readers: str | int | None = None,
    reader: str | None = None,
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
        readers: `auto`, or how many connections read a large table at once.
        reader: What reads the rows: `adbc` (default), `copy`, which needs the extra `turbo`, or `connectorx`, which needs the extra of that name.
        endpoint_url: The S3 server; empty means AWS.
        statement_timeout: Seconds after which the server ends the query.
        if_exists: `replace`, `skip` or `fail`.
        source_options: Any key of a PostgreSQL source.
        dest_options: Any key of the destination.
        on_progress: Called in this thread after each batch.

    Returns:
        Rows, bytes, seconds, schema and files as delivered, and where the time went (`stages`).

    Raises:
        FerryError: What went wrong; nothing stands at the target then.

    Example:
        >>> engine.export("TABLE patients", "patients.parquet", database="postgresql://localhost/study")  # doctest: +SKIP
    """
    kind, place, filename = _target(target)
    source = {
        **_source(query, database, source_options, timezone=timezone, statement_timeout=statement_timeout, batch_size=batch_size),
        **_given(format=format, compression=compression, max_file_rows=max_file_rows, max_file_mb=max_file_mb),
        **_given(delimiter=delimiter, header=header, null=null, unrepresentable=unrepresentable, readers=readers, reader=reader),
        **_numeric(numeric, numeric_default),
        **_given(filename=filename),
    }
    destination = {**place, **(dest_options or {}), **_given(chunk_size_mb=chunk_size_mb, if_exists=if_exists, endpoint_url=endpoint_url)}
    return jobs.export_job(registry.POSTGRES, source, kind, destination).run(on_progress)


def transfer(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    pattern: str | None = None,
    delete_source: bool = False,
    if_exists: str | None = None,
    flatten: bool = False,
    files_in_flight: int | None = None,
    verify: str | None = None,
    min_age: float | None = None,
    limit_rate_mb: float | None = None,
    dry_run: bool = False,
    source_options: Mapping[str, Any] | None = None,
    dest_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Copy or move files between folders, S3 and SFTP, and to REST endpoints, byte for byte.

    Args:
        source: A file or a folder: a path, `file://…`, `s3://bucket/key` or `sftp://user@host:port/path`.
        target: The same, or `https://…`. One file goes to a new name if `target` does not end in `/` and no folder stands there; all else goes into a folder.
        pattern: Which files of a folder: `*` (default) is those directly in it, `**/*` all.
        delete_source: Move: delete each source after its verified delivery.
        if_exists: `replace` (default), `skip` or `fail`, for files that stand at the target.
        flatten: Drop the folders below `source`.
        files_in_flight: Files under way at once, at most.
        verify: The least level of verification: `size`, `checksum` or `read-back`. Default: what costs no second read.
        min_age: Seconds since its last modification that a file must have been left alone; younger ones are left.
        limit_rate_mb: MB (1,000,000 bytes) per second, of all files together; copies within S3 are not slowed down.
        dry_run: Say what would be done.
        source_options: Any key of the source.
        dest_options: Any key of the destination.
        on_progress: Called in this thread several times a second.

    Returns:
        What became of each file, with bytes and seconds.

    Raises:
        PartlyFailed: Some files were not delivered; its `result` tells of each.
        FerryError: Nothing was moved.

    Example:
        >>> engine.transfer("/data/out", "s3://study/2024/", pattern="*.csv", delete_source=True)  # doctest: +SKIP
    """
    came, goes = _rooted(ends.end(source)), _rooted(ends.end(target))
    if came.kind == registry.REST:
        raise ConfigurationError("a REST endpoint is no source of files; it can be the target")
    route = _given(if_exists=if_exists, files_in_flight=files_in_flight, verify=verify, min_age=min_age, limit_rate_mb=limit_rate_mb)
    source_config = {**came.config, **(source_options or {}), **_given(file_pattern=pattern)}
    dest_config = {**goes.config, **(dest_options or {}), **route, **({"flatten": True} if flatten else {})}
    dest_config["delete_source"] = delete_source or dest_config.get("delete_source", source_config.get("delete_source", False))
    job = jobs.transfer_job(came.kind, source_config, goes.kind, dest_config)
    orders = replace(job.orders, base=came.leaf, target=goes.leaf, target_is_folder=goes.is_folder, dry_run=dry_run)
    return replace(job, orders=orders).run(on_progress)


def load(
    source: str | os.PathLike[str],
    target: str,
    *,
    pattern: str | None = None,
    table: str | None = None,
    schema: str | None = None,
    format: str | None = None,  # noqa: A002 - the configuration's own key
    write_disposition: str | None = None,
    primary_key: Sequence[str] | str | None = None,
    columns: Mapping[str, Any] | str | None = None,
    schema_contract: str | None = None,
    on_bad_row: str | None = None,
    max_bad_rows: int | str | None = None,
    on_changed_file: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    null: str | None = None,
    header: bool | None = None,
    delete_source: bool = False,
    archive_path: str | None = None,
    dry_run: bool = False,
    source_options: Mapping[str, Any] | None = None,
    dest_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Load CSV or Parquet files into a PostgreSQL table, each file exactly once.

    Args:
        source: A file or a folder: a path, `file://…`, `s3://bucket/key` or `sftp://user@host:port/path`.
        target: The database's URL.
        pattern: Which files of a folder.
        table: The table; default the file's name.
        schema: PostgreSQL's schema; default `public`.
        format: `csv` or `parquet`; default by the suffix.
        write_disposition: `append` (default), `replace` or `merge`.
        primary_key: Columns that a merge compares.
        columns: Column → type; see `PostgresDestinationOptions`.
        schema_contract: `evolve` (default) or `freeze`.
        on_bad_row: `fail` (default) or `quarantine`.
        max_bad_rows: Rows, or a share such as `1%`, that quarantine takes.
        on_changed_file: `fail`, `reload` or `append`, for a file that was loaded with other content.
        delimiter: Between the fields of a CSV line.
        encoding: Of CSV files.
        null: The bare text that means NULL.
        header: Whether CSV files begin with the columns' names.
        delete_source: Delete each file once its rows are committed.
        archive_path: Move it to this folder (of S3: this prefix of the bucket) of the same store instead.
        dry_run: Say what would be done.
        source_options: Any key of the source.
        dest_options: Any key of the destination.
        on_progress: Called in this thread several times a second.

    Returns:
        Rows, and what became of each file.

    Raises:
        PartlyFailed: Some files were not loaded; its `result` tells of each.
        FerryError: Nothing was loaded.

    Example:
        >>> engine.load("/data/in", "postgresql://localhost/study", pattern="*.csv", table="labs")  # doctest: +SKIP
    """
    came = _rooted(ends.end(source))
    source_config = {**came.config, **(source_options or {}), **_given(file_pattern=pattern)}
    keys = _given(table=table, schema=schema, format=format, write_disposition=write_disposition, primary_key=primary_key, columns=columns)
    keys |= _given(schema_contract=schema_contract, on_bad_row=on_bad_row, max_bad_rows=max_bad_rows, on_changed_file=on_changed_file)
    keys |= _given(delimiter=delimiter, encoding=encoding, null=null, header=header, archive_path=archive_path)
    dest_config = {"connection_string": target, **(dest_options or {}), **keys, **({"delete_source": True} if delete_source else {})}
    name = jobs.snake_case(came.leaf.partition(".")[0])
    job = load_jobs.load_job(came.kind, source_config, dest_config, table=name, leaf=came.leaf, pattern=pattern)
    return replace(job, orders=replace(job.orders, one_file="table" not in dest_config, dry_run=dry_run)).run(on_progress)


def copy(
    query: str,
    target: str,
    *,
    write_disposition: str | None = None,
    table: str | None = None,
    schema: str | None = None,
    database: str | None = None,
    primary_key: Sequence[str] | str | None = None,
    columns: Mapping[str, Any] | str | None = None,
    schema_contract: str | None = None,
    batch_size: int | None = None,
    timezone: str | None = None,
    statement_timeout: float | None = None,
    dry_run: bool = False,
    source_options: Mapping[str, Any] | None = None,
    dest_options: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Copy the rows of a query into a PostgreSQL table, every value as it is, in one transaction.

    Args:
        query: One SELECT, WITH, VALUES or TABLE that changes nothing.
        target: The URL of the table's database.
        write_disposition: `append`, `replace` or `merge`; there is no default.
        table: The table.
        schema: PostgreSQL's schema; default `public`.
        database: The URL of the query's database; else `FERRY_DATABASE`.
        primary_key: Columns that a merge compares.
        columns: Column → type; see `PostgresDestinationOptions`.
        schema_contract: `evolve` (default) or `freeze`.
        batch_size: The most rows in one record batch.
        timezone: The TimeZone of the query's session.
        statement_timeout: Seconds after which the server ends the query.
        dry_run: Say what would be done.
        source_options: Any key of a PostgreSQL source.
        dest_options: Any key of a PostgreSQL destination.
        on_progress: Called in this thread several times a second.

    Returns:
        Rows, and the bytes of their record batches.

    Raises:
        FerryError: What went wrong, with the source or the destination; no row was committed.

    Example:
        >>> engine.copy(
        ...     "TABLE labs", "postgresql://warehouse/study", table="labs", write_disposition="replace", database="postgresql://clinic/lis"
        ... )  # doctest: +SKIP
    """
    source = _source(query, database, source_options, timezone=timezone, statement_timeout=statement_timeout, batch_size=batch_size)
    keys = _given(table=table, schema=schema, write_disposition=write_disposition, primary_key=primary_key, columns=columns, schema_contract=schema_contract)
    job = copy_jobs.copy_job(registry.POSTGRES, source, {"connection_string": target, **(dest_options or {}), **keys})
    return replace(job, dry_run=dry_run).run(on_progress)


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
    readers: str | int | None = None,
    reader: str | None = None,
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
        **_given(unrepresentable=unrepresentable, readers=readers, reader=reader),
        **_numeric(numeric, numeric_default),
    }
    with jobs.row_source(registry.POSTGRES, source).read("typed") as rows:
        yield rows.reader


def _rooted(place: ends.End) -> ends.End:
    """A folder of this machine as the root of its store: links in it may not lead out of it, and it may be the mount point itself."""
    path = Path(place.config["path"], place.leaf) if place.kind == registry.FOLDER else None
    if path is None or not (place.is_folder or path.is_dir()):
        return place
    return replace(place, config={**place.config, "path": str(path)}, leaf="", is_folder=True)


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


def _target(target: str | os.PathLike[str]) -> tuple[str, dict[str, Any], str | None]:
    """Type code, configuration and file name of a target."""
    place = ends.end(target)
    if place.kind == registry.REST:
        return place.kind, place.config, None
    if place.is_folder or (place.kind == registry.FOLDER and Path(place.config["path"], place.leaf).is_dir()):
        raise ConfigurationError(f"{os.fspath(target)!r} is a folder; name the file in it, such as {os.fspath(target).rstrip('/')}/export.csv")
    return place.kind, place.config, place.leaf
