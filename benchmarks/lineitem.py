"""TPC-H's table `lineitem`, made by tpchgen-cli and kept in an embedded PostgreSQL."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pyarrow as pa
from psycopg import sql
from pyarrow import csv, parquet

if TYPE_CHECKING:
    from engine.embedded import Postgres

# TPC-H specification 1.4.1; https://www.tpc.org/tpch/
COLUMNS = {
    **dict.fromkeys(("l_orderkey", "l_partkey", "l_suppkey"), "bigint"),
    "l_linenumber": "integer",
    **dict.fromkeys(("l_quantity", "l_extendedprice", "l_discount", "l_tax"), "numeric(15,2)"),
    **dict.fromkeys(("l_returnflag", "l_linestatus"), "char(1)"),
    **dict.fromkeys(("l_shipdate", "l_commitdate", "l_receiptdate"), "date"),
    "l_shipinstruct": "char(25)",
    "l_shipmode": "char(10)",
    "l_comment": "varchar(44)",
}
PIECE = 1 << 20


def made(server: Postgres, scale: float) -> str:
    """The URL of the database for tables of that scale; made now if it is not there."""
    name = f"tpch_{scale:g}".replace(".", "_")
    with psycopg.connect(server.url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.url_of(name)


def database(server: Postgres, scale: float) -> str:
    """The URL of a database whose `lineitem` is of that scale (1: 6,001,215 rows), filled now if it is not there.

    Table and rows come in one transaction, so the table's existence says that it is complete.
    """
    url = made(server, scale)
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT to_regclass('lineitem')").fetchone() == (None,):
            connection.execute(table("lineitem", "NOT NULL"))
            _fill(connection, scale)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) lineitem")
    return url


def table(name: str, constraint: str = "") -> str:
    """The statement that makes it."""
    return f"CREATE TABLE {name} ({', '.join(f'{column} {type_} {constraint}' for column, type_ in COLUMNS.items())})"


def arrow_types() -> dict[str, pa.DataType]:
    """Its columns as Arrow has them."""
    arrow = {"bigint": pa.int64(), "integer": pa.int32(), "numeric(15,2)": pa.decimal128(15, 2), "date": pa.date32()}
    return {column: arrow.get(type_, pa.string()) for column, type_ in COLUMNS.items()}


def file(folder: Path, scale: float, suffix: str) -> Path:
    """The rows as a file, made now if it is not there: `.csv` by the generator, `.parquet` (zstd) from that by pyarrow."""
    path = folder / f"lineitem-{scale:g}{suffix}"
    if path.exists():
        return path
    unfinished = path.with_name(f"making-{path.name}")
    if suffix == ".csv":
        with unfinished.open("wb") as target:
            subprocess.run(_generator(scale), stdout=target, check=True)
    else:
        convert, read = csv.ConvertOptions(column_types=arrow_types()), csv.ReadOptions(block_size=8 << 20)
        with (
            csv.open_csv(file(folder, scale, ".csv"), convert_options=convert, read_options=read) as reader,
            parquet.ParquetWriter(unfinished, reader.schema, compression="zstd") as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
    return unfinished.rename(path)


def rows(url: str, name: str = "lineitem") -> int:
    """How many a table has."""
    with psycopg.connect(url) as connection:
        found = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))).fetchone()
    return int(found[0]) if found else 0


def server_version(url: str) -> str:
    """Of PostgreSQL."""
    with psycopg.connect(url) as connection:
        return connection.info.parameter_status("server_version") or "unknown"


def _fill(connection: psycopg.Connection, scale: float) -> None:
    """From the generator's standard output into COPY; FREEZE, so that the first reader has no hint bits to write."""
    with (
        subprocess.Popen(_generator(scale), stdout=subprocess.PIPE) as process,
        connection.cursor().copy("COPY lineitem FROM STDIN (FORMAT csv, HEADER, FREEZE)") as copy,
    ):
        if process.stdout is None:
            raise AssertionError("asked for above")
        while piece := process.stdout.read(PIECE):
            copy.write(piece)
        if process.wait():
            raise RuntimeError(f"tpchgen-cli ended with {process.returncode}")


def _generator(scale: float) -> list[str]:
    program = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
    return [str(program), "csv", f"--scale-factor={scale:g}", "--tables=lineitem", "--stdout", "--quiet"]
