"""Ways to write a table into one file.

Each is a function, and runs as a process of its own:

    BENCH_TABLE=lineitem python -m benchmarks.contenders ferry_csv TARGET

The database is `FERRY_DATABASE`, the S3 server stands in `MINIO_ENDPOINT`, `MINIO_ACCESS_KEY` and `MINIO_SECRET_KEY`. To add a way, add a function: its
first docstring line is its name in tables, and it imports its libraries itself, so that nobody pays for those of another. One that only starts
a program replaces itself by it (`os.execvp`). Other libraries are used as their manuals show it, with what they need to write these tables at all.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl
    import pyarrow as pa

Place = Literal["folder", "s3"]
TABLE = os.environ.get("BENCH_TABLE", "lineitem")
QUERY = f"SELECT * FROM {TABLE}"
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to write the table to a target in `place` that ends in `suffix`."""

    name: str
    label: str
    place: Place
    suffix: str
    write: Callable[[str], None]


CONTENDERS: dict[str, Contender] = {}


def contender(place: Place, suffix: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Enter a function into `CONTENDERS`."""

    def enter(write: Callable[[str], None]) -> Callable[[str], None]:
        label = (write.__doc__ or write.__name__).splitlines()[0].rstrip(".")
        CONTENDERS[write.__name__] = Contender(write.__name__, label, place, suffix, write)
        return write

    return enter


@contender("folder", ".csv")
def row_by_row(target: str) -> None:
    """Row by row: server-side cursor, fetchmany(10_000), csv.writer."""
    import csv

    import psycopg

    with (
        psycopg.connect(os.environ["FERRY_DATABASE"]) as connection,
        connection.cursor("rows") as cursor,
        Path(target).open("w", encoding="utf-8", newline="") as file,
    ):
        cursor.execute(QUERY)
        writer = csv.writer(file)
        writer.writerow([column.name for column in cursor.description or ()])
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            writer.writerows(rows)


@contender("folder", ".csv")
def ferry_csv(target: str) -> None:
    """arrow-ferry → CSV."""
    import engine

    engine.export(QUERY, target)


@contender("folder", ".parquet")
def ferry_parquet(target: str) -> None:
    """arrow-ferry → Parquet (zstd)."""
    import engine

    engine.export(QUERY, target)


@contender("folder", ".csv")
def ferry_csv_copy(target: str) -> None:
    """arrow-ferry → CSV, `reader: copy`."""
    import engine

    engine.export(QUERY, target, reader="copy")


@contender("folder", ".parquet")
def ferry_parquet_copy(target: str) -> None:
    """arrow-ferry → Parquet (zstd), `reader: copy`."""
    import engine

    engine.export(QUERY, target, reader="copy")


@contender("s3", ".csv")
def ferry_csv_s3(target: str) -> None:
    """arrow-ferry → CSV on S3."""
    import engine

    engine.export(QUERY, target)


@contender("s3", ".parquet")
def ferry_parquet_s3(target: str) -> None:
    """arrow-ferry → Parquet (zstd) on S3."""
    import engine

    engine.export(QUERY, target)


@contender("folder", ".csv")
def psql_csv(target: str) -> None:
    r"""`psql \copy`."""
    from benchmarks.loaders import psql

    program = psql()
    os.execvp(program, [program, "-qX", os.environ["FERRY_DATABASE"], "-c", rf"\copy ({QUERY}) to '{target}' (format csv, header)"])  # noqa: S606 - no shell is wanted


@contender("folder", ".csv")
def psycopg_copy(target: str) -> None:
    """Psycopg 3 `cursor.copy`."""
    import psycopg

    with (
        psycopg.connect(os.environ["FERRY_DATABASE"]) as connection,
        connection.cursor().copy(f"COPY ({QUERY}) TO STDOUT (FORMAT csv, HEADER)".encode()) as copy,
        Path(target).open("wb") as file,
    ):
        file.writelines(copy)


@contender("folder", ".csv")
def adbc_csv(target: str) -> None:
    """ADBC, one stream, pyarrow's writer → CSV."""
    from pyarrow import csv

    with _adbc_reader() as reader:
        first = _plain(reader.read_next_batch())
        with csv.CSVWriter(target, first.schema) as writer:
            writer.write_batch(first)
            for batch in reader:
                writer.write_batch(_plain(batch))


@contender("folder", ".parquet")
def adbc_parquet(target: str) -> None:
    """ADBC, one stream, pyarrow's writer → Parquet (zstd)."""
    from pyarrow import parquet

    with _adbc_reader() as reader, parquet.ParquetWriter(target, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


@contender("folder", ".csv")
def connectorx_csv(target: str) -> None:
    """Connectorx, pyarrow's writer → CSV."""
    import connectorx
    from pyarrow import csv

    csv.write_csv(connectorx.read_sql(os.environ["FERRY_DATABASE"], QUERY, return_type="arrow"), target)


@contender("folder", ".parquet")
def connectorx_parquet(target: str) -> None:
    """Connectorx, pyarrow's writer → Parquet (zstd)."""
    import connectorx
    from pyarrow import parquet

    parquet.write_table(connectorx.read_sql(os.environ["FERRY_DATABASE"], QUERY, return_type="arrow"), target, compression="zstd")


@contender("folder", ".csv")
def polars_connectorx_csv(target: str) -> None:
    """Polars `read_database_uri` (connectorx) → CSV."""
    _polars("connectorx").write_csv(target)


@contender("folder", ".parquet")
def polars_connectorx_parquet(target: str) -> None:
    """Polars `read_database_uri` (connectorx) → Parquet (zstd)."""
    _polars("connectorx").write_parquet(target)


@contender("folder", ".csv")
def polars_adbc_csv(target: str) -> None:
    """Polars `read_database_uri` (adbc) → CSV."""
    import polars as pl

    frame = _polars("adbc")
    frame.with_columns(column.ext.storage() for column in frame if isinstance(column.dtype, pl.BaseExtension)).write_csv(target)


@contender("folder", ".parquet")
def polars_adbc_parquet(target: str) -> None:
    """Polars `read_database_uri` (adbc) → Parquet (zstd)."""
    _polars("adbc").write_parquet(target)


@contender("folder", ".csv")
def pandas_csv(target: str) -> None:
    """Pandas, SQLAlchemy, chunks (decimals become floats) → CSV."""
    with Path(target).open("w", encoding="utf-8", newline="") as file:
        for number, chunk in enumerate(_pandas_chunks()):
            chunk.to_csv(file, index=False, header=number == 0)


@contender("folder", ".parquet")
def pandas_parquet(target: str) -> None:
    """Pandas, SQLAlchemy, chunks (decimals become floats) → Parquet (zstd)."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = None
    writer = None
    for chunk in _pandas_chunks():
        table = pa.Table.from_pandas(chunk, schema=schema, preserve_index=False)
        schema = table.schema
        writer = writer or parquet.ParquetWriter(target, schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()


@contender("folder", ".csv")
def dlt_csv(target: str) -> None:
    """Dlt `sql_database` (pyarrow) → CSV."""
    _dlt(target, "csv")


@contender("folder", ".parquet")
def dlt_parquet(target: str) -> None:
    """Dlt `sql_database` (pyarrow) → Parquet."""
    _dlt(target, "parquet")


@contender("folder", ".csv")
def duckdb_csv(target: str) -> None:
    """DuckDB, PostgreSQL extension → CSV."""
    _duckdb(target)


@contender("folder", ".parquet")
def duckdb_parquet(target: str) -> None:
    """DuckDB, PostgreSQL extension → Parquet (zstd)."""
    _duckdb(target)


@contender("s3", ".csv")
def duckdb_csv_s3(target: str) -> None:
    """DuckDB, PostgreSQL extension → CSV on S3."""
    _duckdb(target)


@contender("s3", ".parquet")
def duckdb_parquet_s3(target: str) -> None:
    """DuckDB, PostgreSQL extension → Parquet (zstd) on S3."""
    _duckdb(target)


@contextlib.contextmanager
def _adbc_reader() -> Iterator[pa.RecordBatchReader]:
    import adbc_driver_postgresql.dbapi as adbc

    with adbc.connect(os.environ["FERRY_DATABASE"]) as connection, connection.cursor() as cursor:
        cursor.execute(QUERY)
        yield cursor.fetch_record_batch()


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Extension types (the driver's numeric) as what they are stored in: pyarrow writes them no other way into CSV."""
    import pyarrow as pa

    columns = [column.storage if isinstance(column, pa.ExtensionArray) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _polars(engine: Literal["connectorx", "adbc"]) -> pl.DataFrame:
    import polars as pl

    return pl.read_database_uri(QUERY, os.environ["FERRY_DATABASE"], engine=engine)


def _pandas_chunks() -> Iterator[Any]:
    import pandas as pd
    import sqlalchemy

    address = os.environ["FERRY_DATABASE"].replace("postgresql://", "postgresql+psycopg://", 1)
    with sqlalchemy.create_engine(address).connect().execution_options(stream_results=True) as connection:
        yield from pd.read_sql(sqlalchemy.text(QUERY), connection, chunksize=100_000)


def _dlt(target: str, file_format: Literal["csv", "parquet"]) -> None:
    """Its pipeline writes a folder, in which we look for the file."""
    import tempfile

    import dlt
    from dlt.sources.sql_database import sql_table

    os.environ["DATA_WRITER__DISABLE_COMPRESSION"] = "true"  # of CSV: the others write it plain
    with tempfile.TemporaryDirectory(dir=Path(target).parent) as folder:
        pipeline = dlt.pipeline("bench", destination=dlt.destinations.filesystem(f"{folder}/out"), dataset_name="made", pipelines_dir=f"{folder}/work")
        address = os.environ["FERRY_DATABASE"].replace("postgresql://", "postgresql+psycopg://", 1)
        pipeline.run(sql_table(address, TABLE, backend="pyarrow", chunk_size=100_000), loader_file_format=file_format).raise_on_failed_jobs()
        (made,) = Path(folder, "out", "made", TABLE).iterdir()
        made.rename(target)


def _duckdb(target: str) -> None:
    from benchmarks import duckdb_way

    interpreter = duckdb_way.python()
    if interpreter is None:
        sys.exit("DuckDB's PostgreSQL extension cannot be had here")
    os.execv(interpreter, [str(interpreter), str(Path(duckdb_way.__file__)), "export", QUERY, target])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    CONTENDERS[sys.argv[1]].write(sys.argv[2])
