"""Which queries are read in page ranges: those whose ranges are proven to be the query; every other one is one stream, and says why."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ConfigurationError
from engine.libpq import connect
from engine.postgres import plan as planning
from engine.postgres import splitting
from engine.postgres.source_options import PostgresSourceOptions
from engine.postgres.splitting import Ranges

if TYPE_CHECKING:
    from engine import embedded
    from engine.postgres.plan import Plan
    from engine.protocols import Form

SETUP = """
CREATE TABLE t AS
    SELECT i, i::numeric(12, 2) AS n, md5(i::text) AS s, NULLIF(i % 5, 0) AS k, timestamptz '2024-01-01' + i * interval '1 hour' AS ts, date '2024-01-01' + i % 9 AS d,
           ARRAY[i, i + 1] AS a, jsonb_build_object('a', i) AS j, i % 2 = 0 AS b, '2' || i AS "FROM"
    FROM generate_series(1, 3000) i;
CREATE TABLE "Odd ""name"" x" AS SELECT i AS "SELECT", md5(i::text) AS "a b" FROM generate_series(1, 3000) i;
CREATE TABLE wide (i int, pad text); INSERT INTO wide SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 200) i; DELETE FROM wide WHERE i > 150;
CREATE VIEW v AS SELECT * FROM t;
CREATE VIEW v_ctid AS SELECT ctid, i FROM t;
CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
CREATE TABLE parent (i int, s text); CREATE TABLE child () INHERITS (parent);
INSERT INTO parent SELECT i, md5(i::text) FROM generate_series(1, 3000) i; INSERT INTO child SELECT * FROM parent;
CREATE TABLE part (i int, s text) PARTITION BY RANGE (i);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10000); CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10000) TO (20000);
INSERT INTO part SELECT i, md5(i::text) FROM generate_series(1, 3000) i;
CREATE TABLE guarded AS SELECT * FROM t; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY odd ON guarded USING (i % 2 = 1);
CREATE TABLE keyed (i int PRIMARY KEY, s text); INSERT INTO keyed SELECT i, md5(i::text) FROM generate_series(1, 3000) i;
CREATE SCHEMA other; CREATE TABLE other.t AS SELECT i FROM generate_series(1, 3000) i; CREATE VIEW other.w AS SELECT * FROM public.t;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 * 2; END';
CREATE FUNCTION fickle(int) RETURNS int LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN $1; END';
CREATE FUNCTION steady(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN extract(microseconds FROM now()); END';
CREATE FUNCTION fullname(t) RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN now()::text; END';
CREATE FUNCTION at_once(int, int) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
CREATE OPERATOR <<<>>> (leftarg = int, rightarg = int, procedure = at_once);
ANALYZE;
"""


@pytest.fixture(scope="module")
def tables(module_database: str) -> str:
    with psycopg.connect(module_database, autocommit=True) as connection:
        connection.execute(SETUP)
        connection.execute("CREATE ROLE reads_all LOGIN PASSWORD 'x'")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reads_all")
        connection.execute("CREATE ROLE reads_columns LOGIN PASSWORD 'x'")
        connection.execute("GRANT SELECT (i, s) ON t TO reads_columns")
    return module_database


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "SPLIT_FROM_BYTES", 0)
    monkeypatch.setattr(splitting, "RANGE_BYTES", 5 * 8192)


def planned(database: str, query: str, form: Form = "typed") -> Plan:
    options = PostgresSourceOptions.parse({"connection_string": database, "query": query}, where="source")
    with connect(options) as connection:
        return planning.plan(connection, form, options)


def as_role(database: str, role: str) -> str:
    return re.sub("//postgres:[^@]*@", f"//{role}:x@", database)


def rows(database: str, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database) as connection:
        return [row for statement in statements for row in connection.execute(statement)]


SPLIT = (
    "SELECT * FROM t",
    "TABLE t",
    "/* a */ TABLE -- b\n public . t -- c\n",
    "select i from t",
    "SELECT * FROM t;",
    "SELECT * FROM public.t AS x WHERE x.i > 10 OR x.s IS NULL",
    "SELECT i, twice(i), lower(s), n * 2 + 1, -n FROM t x WHERE k IS NOT NULL -- the last\n",
    "SELECT DISTINCT_ON.i FROM t DISTINCT_ON",
    "SELECT i IS DISTINCT FROM 3 AS changed FROM t WHERE s IS DISTINCT FROM 'x'",
    "SELECT \"FROM\", 'FROM u' AS lied FROM t WHERE \"FROM\" <> $$ FROM ; $$ AND s <> E'it\\'s FROM'",
    'SELECT * FROM "Odd ""name"" x"',
    'SELECT "SELECT", "a b" FROM "Odd ""name"" x" "Where" WHERE "Where"."SELECT" > 7',
    "SELECT extract(year FROM ts), substring(s FROM 1 FOR 2), trim(BOTH 'a' FROM s), overlay(s PLACING 'x' FROM 1), position('a' IN s) FROM t",
    "SELECT ts AT TIME ZONE 'UTC', date_trunc('day', ts), to_char(ts, 'YYYY'), ts + interval '1 day', s::varchar(5), n::numeric(8, 1), ts::timestamp(3) FROM t",
    "SELECT CASE WHEN i > 1 THEN coalesce(s, 'x') ELSE NULL END, greatest(i, k), nullif(i, 1), a[1], a[1:2], j ->> 'a', j -> 'a', i IN (1, 2), s LIKE 'a%' FROM t",
    "SELECT ROW(i, s), t, s COLLATE \"C\", i BETWEEN 1 AND 5, s ~ '^[a-f]', (i, k) = (1, 2), ARRAY[i] && ARRAY[1] FROM t",
    "SELECT i FROM t WHERE b",
    "SELECT i FROM t WHERE NOT (b AND i > 5)\n\n",
    "SELECT 1 AS one FROM t WHERE i > 2990",
    "SELECT t.i FROM other.t WHERE i > 5",
    "SELECT i FROM part_1",
    "SELECT i FROM child",
    "SELECT * FROM wide",
    "SELECT i FROM keyed WHERE i > 1",
)


@pytest.mark.parametrize("form", ["typed", "text"])
@pytest.mark.parametrize("query", SPLIT)
def test_plain_scans_are_split_into_ranges_that_are_the_query_in_the_tables_order(tables: str, query: str, form: Form) -> None:
    plan = planned(tables, query, form)
    assert plan.parts > 3, plan.split
    statements = [plan.statement(part) for part in range(plan.parts)]
    assert rows(tables, *statements) == rows(tables, plan.wrapped(plan.query))


WHOLE = {
    "SELECT * FROM t ORDER BY i": "no plain scan",
    "SELECT * FROM t ORDER BY 1 LIMIT 5": "no plain scan",
    "SELECT * FROM t LIMIT 2000": "no plain scan",
    "SELECT * FROM t OFFSET 10": "no plain scan",
    "SELECT * FROM t FETCH FIRST 10 ROWS ONLY": "no plain scan",
    "SELECT DISTINCT b FROM t": "no plain scan",
    "SELECT DISTINCT ON (b) i FROM t": "no plain scan",
    "SELECT count(*) FROM t": "no plain scan",
    "SELECT b, max(i) FROM t GROUP BY b": "no plain scan",
    "SELECT max(i) FROM t HAVING max(i) > 1": "no plain scan",
    "SELECT i, row_number() OVER () FROM t": "no plain scan",
    "SELECT generate_series(1, 2), i FROM t": "no plain scan",
    "SELECT unnest(a) FROM t": "no plain scan",
    "SELECT * FROM t TABLESAMPLE SYSTEM (50)": "no plain scan",
    "SELECT * FROM t UNION ALL SELECT * FROM t": "no plain scan",
    "SELECT * FROM t x, t y WHERE x.i = y.i": "no plain scan",
    "SELECT * FROM t JOIN keyed USING (i)": "no plain scan",
    "SELECT i, (SELECT count(*) FROM keyed) FROM t": "no plain scan",
    "SELECT i FROM t WHERE i IN (SELECT i FROM keyed)": "no plain scan",
    "SELECT i FROM t WHERE EXISTS (SELECT 1 FROM keyed WHERE keyed.i = t.k)": "no plain scan",
    "SELECT s FROM keyed WHERE i = 7": "no plain scan",
    "SELECT * FROM t WHERE false": "no plain scan",
    "SELECT * FROM part": "no plain scan",
    "SELECT * FROM part WHERE i < 5000": "no ordinary table",
    "SELECT * FROM parent": "no plain scan",
    "VALUES (1), (2)": "no plain scan",
    "SELECT 1": "no plain scan",
    "SELECT * FROM generate_series(1, 100)": "no plain scan",
    "WITH x AS (SELECT * FROM t) SELECT * FROM x": "no plain scan",
    "(SELECT * FROM t)": "not written",
    "SELECT * FROM (SELECT * FROM t) x": "not written",
    "SELECT * FROM ONLY t": "no ordinary table",
    "SELECT * FROM ONLY parent": "no ordinary table",
    "SELECT * FROM t AS x(one, two)": "more than a table",
    "SELECT * FROM t *": "more than a table",
    "SELECT * FROM t FOR UPDATE": "no plain scan",
    "SELECT * FROM v": "no ordinary table",
    "SELECT * FROM v_ctid": "no ordinary table",
    "SELECT * FROM other.w": "no ordinary table",
    "SELECT * FROM m": "no ordinary table",
    "SELECT * FROM guarded": "row-level security",
    "SELECT ctid, i FROM t": "system column ctid",
    "SELECT xmin::text, i FROM t": "system column xmin",
    "SELECT i FROM t WHERE ctid > '(1,1)'": "no plain scan",
    "SELECT i FROM t WHERE tableoid = 't'::regclass": "system column tableoid",
    "SELECT random(), i FROM t": "random",
    "SELECT i FROM t WHERE random() < 0.5": "random",
    "SELECT fickle(i) FROM t": "fickle",
    "SELECT i FROM t WHERE fickle(i) > 3": "fickle",
    "SELECT i FROM t WHERE steady(i) > 3": "steady",
    "SELECT t.fullname FROM t": "fullname",
    "SELECT i FROM t WHERE i <<<>>> 3": "<<<>>>",
    "SELECT i, pg_backend_pid() FROM t": "pg_backend_pid",
    "SELECT i, now() FROM t": "moment",
    "SELECT i FROM t WHERE ts < transaction_timestamp()": "transaction_timestamp",
    "SELECT i, clock_timestamp() FROM t": "clock_timestamp",
    "SELECT i, CURRENT_TIMESTAMP FROM t": "CURRENT_TIMESTAMP",
    "SELECT i, localtime FROM t": "LOCALTIME",
    "SELECT i FROM t WHERE d > current_date - 5": "CURRENT_DATE",
    "SELECT i FROM t WHERE d <> 'today'": "moment",
    "SELECT i FROM t WHERE ts <> timestamptz 'NOW'": "moment",
    "SELECT i, age(ts) FROM t": "CURRENT_DATE",
    "SELECT i, txid_current_if_assigned() FROM t": "txid_current_if_assigned",
    "SELECT i, current_setting('TimeZone') FROM t": "current_setting",
}


@pytest.mark.parametrize("query", WHOLE)
def test_everything_else_is_one_stream_and_says_why(tables: str, query: str) -> None:
    plan = planned(as_role(tables, "reads_all") if "guarded" in query else tables, query)
    assert isinstance(plan.split, str)
    assert WHOLE[query] in plan.split
    assert plan.parts == 1
    assert plan.statement() == plan.wrapped(plan.query)


def test_a_cast_of_the_users_own_that_may_differ_stops_splitting(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 3000) i; CREATE TYPE pair AS (a int, b int)")
        connection.execute(
            "CREATE FUNCTION made(pair) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 1; END'; CREATE CAST (pair AS int) WITH FUNCTION made(pair)"
        )
    assert "made" in str(planned(database, "SELECT (i, i)::pair::int FROM t").split)


def test_small_tables_are_not_looked_at_twice(tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "SPLIT_FROM_BYTES", 1 << 30)
    assert planned(tables, "SELECT * FROM t").split == "its table has less than 1024 MiB"


@pytest.mark.parametrize("count", [0, 1])
def test_tables_of_no_page_or_one_are_one_range(database: str, count: int) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(f"CREATE TABLE t AS SELECT i FROM generate_series(1, {count}) i")
    plan = planned(database, "SELECT * FROM t")
    assert plan.parts == 1
    assert len(rows(database, plan.statement())) == count


def test_long_values_beside_the_table_make_ranges_of_fewer_pages(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t (i int, s text); ALTER TABLE t ALTER s SET STORAGE EXTERNAL")
        connection.execute("INSERT INTO t SELECT i, repeat(md5(i::text), 500) FROM generate_series(1, 1000) i")
    ranges = planned(database, "SELECT * FROM t").ranges
    assert ranges
    assert ranges.pages == 1
    assert ranges.count == rows(database, "SELECT pg_relation_size('t') / 8192")[0][0]


def test_rights_to_single_columns_are_rights_to_read_them_in_one_stream(tables: str) -> None:
    """PostgreSQL asks for rights to the whole table before it tells a row's place."""
    assert "does not take a page range" in str(planned(as_role(tables, "reads_columns"), "SELECT i, s FROM t").split)


def test_row_level_security_matters_only_to_whom_it_applies(tables: str) -> None:
    assert planned(tables, "SELECT * FROM guarded").parts > 3


def test_a_plan_that_reads_the_table_in_parallel_is_seen_through(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT i, repeat('x', 100) AS s FROM generate_series(1, 100000) i; ANALYZE t")
        name = database.rpartition("/")[2]
        for setting in ("parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0"):
            connection.execute(f"ALTER DATABASE {name} SET {setting}")
    with psycopg.connect(database) as connection:
        assert splitting.explain(connection, "SELECT * FROM t")["Node Type"] == "Gather"
    assert planned(database, "SELECT * FROM t").parts > 3


def test_switched_off_tid_scans_are_one_stream(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 3000) i")
        connection.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET enable_tidscan = off")
    assert "PostgreSQL 14" in str(planned(database, "SELECT * FROM t").split)


NAMES = st.sampled_from(["t", "T", '"t"', "public.t", "public . t", '"public"."t"'])
ALIASES = st.sampled_from(["", " x", " AS x", ' "x y"', ' AS "FROM"', " /* FROM */ x", " -- x\n"])
CONDITIONS = st.sampled_from(
    [
        "",
        "i > 5",
        "i > 5 OR i < 3",
        "s <> '' -- end",
        "s = $a$ ) OR (1=1 $a$",
        "NOT b",
        "s <> ') WHERE (' AND (i > 1)",
        "i = ANY (ARRAY[1, 2, 3])",
        "k IS NULL /* x */",
    ]
)
COLUMNS = st.sampled_from(["*", "i", "i, s", "lower(s), n + 1", "i AS from_here", "'FROM x'::text AS y", "CASE WHEN b THEN s END", "extract(day FROM ts)"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=COLUMNS, name=NAMES, alias=ALIASES, condition=CONDITIONS)
def test_however_it_is_written_the_ranges_are_the_query(tables: str, columns: str, name: str, alias: str, condition: str) -> None:
    plan = planned(tables, f"SELECT {columns}\nFROM {name}{alias}" + (f" WHERE {condition}" if condition else ""))
    assert plan.parts > 3
    assert rows(tables, *(plan.statement(part) for part in range(plan.parts))) == rows(tables, plan.wrapped(plan.query))


@pytest.mark.system
def test_an_older_server_splits_too(system_postgres: embedded.Postgres) -> None:
    with psycopg.connect(system_postgres.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS splitting AS SELECT i, md5(i::text) AS s, now() AS ts FROM generate_series(1, 3000) i")
    plan = planned(system_postgres.url, "SELECT i, lower(s), extract(year FROM ts) FROM splitting WHERE i > 5 OR s = ''")
    assert plan.parts > 3, plan.split
    assert rows(system_postgres.url, *(plan.statement(part) for part in range(plan.parts))) == rows(system_postgres.url, plan.wrapped(plan.query))


def test_auto_takes_cores_and_free_connections_into_account(tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges("", None, "t", pages=1, count=100)
    with psycopg.connect(tables) as connection:
        monkeypatch.setattr(splitting, "_cores", lambda: 2)
        assert splitting.readers(connection, "auto", ranges) == (2, [])
        monkeypatch.setattr(splitting, "_cores", lambda: 64)
        assert splitting.readers(connection, "auto", ranges) == (splitting.MOST_BY_ITSELF, [])
        assert splitting.readers(connection, 7, ranges) == (7, [])
        assert splitting.readers(connection, 7, replace(ranges, count=3)) == (3, [])
        assert splitting.readers(connection, "auto", "a reason") == (1, [])
        assert splitting.readers(connection, 1, "a reason") == (1, [])
        assert splitting.readers(connection, 2, "a reason") == (1, ["read as one stream, not by 2 readers: a reason"])
        monkeypatch.setattr(splitting, "_FREE", "SELECT false, 1")
        assert splitting.readers(connection, "auto", ranges) == (1, [])
        monkeypatch.setattr(splitting, "_FREE", "SELECT false, -3")
        assert splitting.readers(connection, "auto", ranges) == (1, [])


@pytest.mark.parametrize(("value", "parsed"), [("auto", "auto"), (None, "auto"), (1, 1), ("1", 1), (32, 32), ("4", 4)])
def test_readers_is_auto_or_a_number(value: object, parsed: object) -> None:
    assert PostgresSourceOptions.parse({"query": "SELECT 1", "readers": value}, where="source").readers == parsed


@pytest.mark.parametrize("value", [0, 33, "x", "-1", "2.5", 2.0, True, "AUTO", "", [2]])
def test_readers_is_nothing_else(value: object) -> None:
    with pytest.raises(ConfigurationError, match="'readers' is 'auto' or a number from 1 to 32"):
        PostgresSourceOptions.parse({"query": "SELECT 1", "readers": value}, where="source")
