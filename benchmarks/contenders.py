"""One function per contender; each exports lineitem and returns the bytes it wrote. `python -m benchmarks.contenders NAME TARGET`."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

QUERY = "SELECT * FROM lineitem"


def ferry(target: str) -> int:
    """arrow-ferry's own function."""
    import engine

    return engine.export(QUERY, target).bytes


def row_by_row(target: str) -> int:
    """The specification's way: a server-side cursor, `fetchmany(10_000)`, `csv.writer`."""
    import psycopg

    with psycopg.connect(os.environ["FERRY_DATABASE"]) as connection, connection.cursor(name="export") as cursor, Path(target).open("w", newline="") as file:
        cursor.itersize = 10_000
        cursor.execute(QUERY)
        writer = csv.writer(file)
        writer.writerow(column.name for column in cursor.description or ())
        while rows := cursor.fetchmany(10_000):
            writer.writerows(rows)
    return Path(target).stat().st_size


CONTENDERS = {"ferry": ferry, "row_by_row": row_by_row}

if __name__ == "__main__":
    print(CONTENDERS[sys.argv[1]](sys.argv[2]))
