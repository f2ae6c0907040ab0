"""Tables besides lineitem, for what lineitem does not show: floats, times with zones, uuids, jsonb; many columns; long texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from benchmarks import lineitem

if TYPE_CHECKING:
    from engine.embedded import Postgres

WIDE_COLUMNS = 200
_ROWS = {"events": 6_000_000, "wide": 150_000, "long_text": 200_000}
_EVENTS = """
SELECT i AS id, timestamptz '2020-01-01 00:00+00' + i * interval '1.7 s' AS at, md5(i::text)::uuid AS subject, (i * 7 % 997)::smallint AS kind,
       sqrt(i) AS value, CASE WHEN i % 10 = 0 THEN NULL ELSE ln(i) END AS other, i % 3 = 0 AS valid, 'site ' || i % 40 AS site,
       jsonb_build_object('unit', 'mmol/l', 'n', i % 100) AS details
FROM generate_series(1, {rows}) i
"""
_WIDE = "SELECT {columns} FROM generate_series(1, {{rows}}) i".format(
    columns=", ".join(
        (f"(i * {n} % 10007)::integer AS c{n}", f"(i * {n} % 100003)::numeric(12,2) / 100 AS c{n}", f"'v' || i * {n} % 1009 AS c{n}", f"sqrt(i * {n}) AS c{n}")[
            n % 4
        ]
        for n in range(1, WIDE_COLUMNS + 1)
    )
)
_LONG_TEXT = "SELECT i AS id, repeat(md5(i::text) || E', \"Befund\"\\n', 100) AS note FROM generate_series(1, {rows}) i"
_QUERIES = {"events": _EVENTS, "wide": _WIDE, "long_text": _LONG_TEXT}
NAMES = ("lineitem", *_QUERIES)


def database(server: Postgres, table: str, scale: float) -> str:
    """The URL of a database that has the table at that scale, filled now if it is not there."""
    url = lineitem.database(server, scale) if table == "lineitem" else lineitem.made(server, scale)
    if table == "lineitem":
        return url
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            connection.execute(f"CREATE TABLE {table} AS {_QUERIES[table].format(rows=round(_ROWS[table] * scale))}")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"VACUUM (ANALYZE) {table}")
    return url
