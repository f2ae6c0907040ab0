"""TPC-H's table `lineitem`, made by tpchgen-cli and kept in an embedded PostgreSQL."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from engine.embedded import Postgres

# TPC-H specification 1.4.1; https://www.tpc.org/tpch/
TABLE = """
CREATE TABLE lineitem (
    l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, l_linenumber integer NOT NULL,
    l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL, l_tax numeric(15,2) NOT NULL,
    l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL,
    l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL,
    l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, l_comment varchar(44) NOT NULL
)"""
PIECE = 1 << 20


def database(server: Postgres, scale: float) -> str:
    """The URL of a database whose `lineitem` is of that scale (1: 6,001,215 rows), filled now if it is not there.

    Table and rows come in one transaction, so the table's existence says that it is complete.
    """
    name = f"tpch_{scale:g}".replace(".", "_")
    with psycopg.connect(server.url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = server.url_of(name)
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT to_regclass('lineitem')").fetchone() == (None,):
            connection.execute(TABLE)
            _fill(connection, scale)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) lineitem")
    return url


def rows(url: str) -> int:
    """How many there are."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM lineitem").fetchone()
    return int(found[0]) if found else 0


def server_version(url: str) -> str:
    """Of PostgreSQL."""
    with psycopg.connect(url) as connection:
        return connection.info.parameter_status("server_version") or "unknown"


def _fill(connection: psycopg.Connection, scale: float) -> None:
    """From the generator's standard output into COPY; FREEZE, so that the first reader has no hint bits to write."""
    generator = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
    command = [str(generator), "csv", f"--scale-factor={scale:g}", "--tables=lineitem", "--stdout", "--quiet"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        connection.cursor().copy("COPY lineitem FROM STDIN (FORMAT csv, HEADER, FREEZE)") as copy,
    ):
        if process.stdout is None:
            raise AssertionError("asked for above")
        while piece := process.stdout.read(PIECE):
            copy.write(piece)
        if process.wait():
            raise RuntimeError(f"tpchgen-cli ended with {process.returncode}")
