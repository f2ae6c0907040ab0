"""Ways to write the table `lineitem` into one file.

Each is a function, and runs as a process of its own:

    python -m benchmarks.contenders ferry_csv TARGET

The database is `FERRY_DATABASE`, the S3 server stands in `MINIO_ENDPOINT`, `MINIO_ACCESS_KEY` and `MINIO_SECRET_KEY`. To add a way, add a function: its
first docstring line is its name in tables, and it imports its libraries itself, so that nobody pays for those of another. One that only starts
a program replaces itself by it (`os.execvp`).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Place = Literal["folder", "s3"]
QUERY = "SELECT * FROM lineitem"
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


@contender("s3", ".parquet")
def ferry_parquet_s3(target: str) -> None:
    """arrow-ferry → Parquet (zstd) on S3."""
    import engine

    engine.export(QUERY, target)


if __name__ == "__main__":
    CONTENDERS[sys.argv[1]].write(sys.argv[2])
