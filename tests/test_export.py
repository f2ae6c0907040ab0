"""Exports end to end: every value comes back, files are cut as asked, and whatever goes wrong leaves nothing."""

from __future__ import annotations

import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, QueryFailed, UnrepresentableValue
from engine.formats.csv import CsvFormat
from engine.postgres.source import PostgresSource
from engine.postgres.source_options import PostgresSourceOptions
from engine.routes.export import Target
from engine.routes.export import export as export_route
from engine.stores.memory import MemoryStore
from tests.effort import examples
from tests.postgres.cases import CASES, TYPES_OF_OURS

ALL_TYPES = ", ".join(f"c{i} {case.sql_type}" for i, case in enumerate(CASES))


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database) as connection:
        for statement in statements:
            connection.execute(statement)


def fetch(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()


def copy_from(database: str, table: str, path: Path, options: str = "FORMAT csv, HEADER") -> None:
    with psycopg.connect(database) as connection, connection.cursor().copy(f"COPY {table} FROM STDIN ({options})") as copy:
        copy.write(path.read_bytes())


def differences(database: str, one: str, other: str) -> int:
    """Rows that only one of two tables has, compared as row text (json, xml and point have no equality)."""
    both = f"(SELECT t::text FROM {one} t EXCEPT ALL SELECT t::text FROM {other} t) UNION ALL (SELECT t::text FROM {other} t EXCEPT ALL SELECT t::text FROM {one} t)"
    return int(fetch(database, f"SELECT count(*) FROM ({both}) d")[0][0])


@pytest.fixture
def matrix(database: str) -> str:
    """A table with a column of every type; row n holds the n-th value of each, the last row NULLs."""
    statements = [TYPES_OF_OURS, f"CREATE TABLE original ({ALL_TYPES})", "CREATE TABLE copied (LIKE original)"]
    execute(database, *statements)
    deepest = max(len(case.values + case.refused) for case in CASES)
    with psycopg.connect(database) as connection:
        for n in range(deepest + 1):
            values = [next(iter((case.values + case.refused)[n : n + 1]), None) for case in CASES]
            casts = ", ".join(f"%s::{case.sql_type}" for case in CASES)
            connection.execute(f"INSERT INTO original VALUES ({casts})", values)
    return database


HOSTILE_SETTINGS = """
ALTER DATABASE {name} SET datestyle = 'SQL, DMY';
ALTER DATABASE {name} SET timezone = 'Asia/Kolkata';
ALTER DATABASE {name} SET intervalstyle = 'iso_8601';
ALTER DATABASE {name} SET extra_float_digits = 0;
ALTER DATABASE {name} SET bytea_output = 'escape';
ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '1s';
"""


@pytest.mark.parametrize("hostile", [False, True], ids=["plain", "hostile-settings"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.zst"])
def test_csv_of_every_type_comes_back_by_copy(matrix: str, tmp_path: Path, hostile: bool, suffix: str) -> None:
    if hostile:
        execute(matrix, HOSTILE_SETTINGS.format(name=matrix.rpartition("/")[2]))
    result = engine.export("TABLE original", tmp_path / f"x{suffix}", database=matrix)
    plain = tmp_path / "plain.csv"
    with pa.input_stream(str(tmp_path / f"x{suffix}"), compression="detect") as stream:
        plain.write_bytes(stream.read())
    copy_from(matrix, "copied", plain)
    assert result.rows == fetch(matrix, "SELECT count(*) FROM copied")[0][0]
    assert differences(matrix, "original", "copied") == 0


@pytest.mark.parametrize(
    ("delimiter", "null", "options"),
    [(";", "", "DELIMITER ';'"), ("\t", "NULL", "DELIMITER E'\\t', NULL 'NULL'"), ("|", "0", "DELIMITER '|', NULL '0'"), (",", "true", "NULL 'true'")],
)
def test_other_dialects_come_back_too(matrix: str, tmp_path: Path, delimiter: str, null: str, options: str) -> None:
    engine.export("TABLE original", tmp_path / "x.csv", database=matrix, delimiter=delimiter, null=null, header=False)
    copy_from(matrix, "copied", tmp_path / "x.csv", f"FORMAT csv, {options}")
    assert differences(matrix, "original", "copied") == 0


@pytest.mark.parametrize("case", [c for c in CASES if c.sql_type in ("text", "int4", "bool", "text[]")], ids=lambda c: c.id)
def test_files_of_one_column_come_back(database: str, tmp_path: Path, case: Any) -> None:
    execute(database, f"CREATE TABLE original (v {case.sql_type})", "CREATE TABLE copied (LIKE original)", "INSERT INTO original VALUES (NULL), (NULL)")
    with psycopg.connect(database) as connection:
        for value in case.values:
            connection.execute(f"INSERT INTO original VALUES (%s::{case.sql_type})", [value])
    engine.export("TABLE original", tmp_path / "x.csv", database=database)
    copy_from(database, "copied", tmp_path / "x.csv")
    assert differences(database, "original", "copied") == 0


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            st.none() | st.floats(),
            st.none() | st.integers(-(10**29), 10**29).map(lambda n: Decimal(f"{n}E-9")),
            st.none() | st.binary(max_size=50),
            st.none() | st.datetimes().map(lambda t: t.replace(fold=0)),
        ),
        max_size=20,
    )
)
def test_any_row_comes_back_from_csv_and_from_parquet(postgres: Any, tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    columns = "a text, b float8, c numeric(30,9), d bytea, e timestamp"
    with psycopg.connect(postgres.url) as connection:
        connection.execute(f"DROP TABLE IF EXISTS original, copied; CREATE TABLE original ({columns}); CREATE TABLE copied ({columns})")
        connection.cursor().executemany("INSERT INTO original VALUES (%s, %s, %s, %s, %s)", rows)
    engine.export("TABLE original", tmp_path / "x.csv", database=postgres.url)
    copy_from(postgres.url, "copied", tmp_path / "x.csv")
    assert differences(postgres.url, "original", "copied") == 0
    engine.export("TABLE original", tmp_path / "x.parquet", database=postgres.url)
    found = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert sorted(repr(tuple(row.values())) for row in found) == sorted(map(repr, rows))  # repr: NaN differs from itself


def test_parquet_carries_logical_types(database: str, tmp_path: Path) -> None:
    query = "SELECT gen_random_uuid() u, '{}'::jsonb j, 1.5::numeric(10,2) n, now() z, now()::timestamp t, 'x'::name s"
    engine.export(query, tmp_path / "x.parquet", database=database)
    schema = pq.ParquetFile(tmp_path / "x.parquet").schema
    logical = {schema.column(i).name: str(schema.column(i).logical_type) for i in range(len(schema))}
    assert logical["u"] == "UUID"
    assert logical["j"] == "JSON"
    assert logical["n"] == "Decimal(precision=10, scale=2)"
    assert "isAdjustedToUTC=true" in logical["z"]
    assert "isAdjustedToUTC=false" in logical["t"]
    assert pq.read_schema(tmp_path / "x.parquet").field("n").metadata[b"POSTGRESQL:type"] == b"numeric(10,2)"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".csv.gz"])
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_chunks_hold_all_rows_in_order(database: str, tmp_path: Path, suffix: str, place: str, request: pytest.FixtureRequest) -> None:
    options = request.getfixturevalue("s3_options") if place == "s3" else {}
    target = f"s3://{options['bucket']}/a/x{suffix}" if place == "s3" else str(tmp_path / f"a/x{suffix}")
    result = engine.export("SELECT i FROM generate_series(1, 100000) i", target, database=database, max_file_rows=30_000, dest_options=options)
    assert [f.rows for f in result.files] == [30_000, 30_000, 30_000, 10_000]
    assert [f.path.rpartition("/")[2] for f in result.files] == [f"x-0000{n}{suffix}" for n in (1, 2, 3, 4)]
    shorter = engine.export("SELECT 1 AS i", target, database=database, max_file_rows=30_000, dest_options=options)
    assert [f.state for f in shorter.files] == ["replaced"]
    assert len([n for n in shorter.notes if n.startswith("removed")]) == 3
    if place == "folder":
        assert [p.name for p in (tmp_path / "a").iterdir()] == [f"x-00001{suffix}"]


def test_files_stay_below_their_limit(database: str, tmp_path: Path) -> None:
    limit = 1 << 20
    for suffix in (".csv", ".csv.zst", ".parquet"):
        result = engine.export("SELECT i, md5(i::text) FROM generate_series(1, 200000) i", tmp_path / f"x{suffix}", database=database, max_file_mb=1)
        assert result.rows == sum(f.rows or 0 for f in result.files) == 200_000
        assert len(result.files) > 3
        assert all(f.bytes <= limit for f in result.files)
        assert all(f.bytes > limit / 2 for f in result.files[:-1])


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst", ".parquet"])
@pytest.mark.parametrize("limit", [{}, {"max_file_rows": 10}])
def test_no_rows_make_one_valid_file(database: str, tmp_path: Path, suffix: str, limit: dict[str, Any]) -> None:
    result = engine.export("SELECT 1 AS a, 'x' AS b WHERE false", tmp_path / f"x{suffix}", database=database, **limit)
    assert (result.rows, len(result.files)) == (0, 1)
    path = result.files[0].path
    frame = pl.read_parquet(path) if suffix == ".parquet" else pl.read_csv(path)
    assert (frame.columns, frame.height) == (["a", "b"], 0)


def test_results_tell_what_was_delivered(database: str, tmp_path: Path) -> None:
    result = engine.export("SELECT 1 AS a", tmp_path / "x.csv", database=database)
    assert result.files[0].sha256 == __import__("hashlib").sha256((tmp_path / "x.csv").read_bytes()).hexdigest()
    assert result.bytes == (tmp_path / "x.csv").stat().st_size
    assert result.schema is not None
    assert result.schema.names == ["a"]
    assert "1 rows" in str(result)
    assert result.to_dict()["files"][0]["rows"] == 1


def test_standing_files_are_replaced_skipped_or_refused(database: str, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    assert engine.export("SELECT 1 AS a", target, database=database).files[0].state == "written"
    assert engine.export("SELECT 2 AS a", target, database=database).files[0].state == "replaced"
    assert engine.export("SELECT 3 AS a", target, database=database, if_exists="skip").files[0].state == "skipped"
    with pytest.raises(ConfigurationError, match="exists already"):
        engine.export("SELECT 4 AS a", target, database=database, if_exists="fail")
    assert target.read_text() == "a\n2\n" or target.read_text() == 'a\n"2"\n'


def test_stream_is_typed_and_bounded_by_rows(database: str) -> None:
    with engine.stream("SELECT i, i::numeric(5,0) AS n FROM generate_series(1, 1000) i", database=database, batch_size=300) as reader:
        assert str(reader.schema.field("n").type) == "decimal128(5, 0)"
        assert [b.num_rows for b in reader] == [300, 300, 300, 100]
    with engine.stream("SELECT 1 AS a", database=database) as reader:
        assert pl.from_arrow(reader).to_dicts() == [{"a": 1}]  # type: ignore[union-attr]


def waiting(database: str, fragment: str) -> list[int]:
    """Backends that run a statement of ours now."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'arrow-ferry' AND state = 'active' AND query LIKE %s"
    with psycopg.connect(database) as connection:
        return [row[0] for row in connection.execute(query, [f"%{fragment}%"])]


def until(condition: Any, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def test_leaving_a_stream_early_cancels_the_query(database: str) -> None:
    with engine.stream("SELECT i, pg_sleep(0.0001) FROM generate_series(1, 100000000) i /* abandoned */", database=database):
        until(lambda: waiting(database, "abandoned"))
    until(lambda: not waiting(database, "abandoned"), 5)


SLOW = "SELECT i, md5(i::text), CASE WHEN i > 50000 THEN pg_sleep(0.01) END FROM generate_series(1, 100000000) i"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_killed_backend_is_one_error_and_no_file(database: str, tmp_path: Path, suffix: str, place: str, request: pytest.FixtureRequest) -> None:
    options = request.getfixturevalue("s3_options") if place == "s3" else {}
    target = f"s3://{options['bucket']}/x{suffix}" if place == "s3" else str(tmp_path / f"out/x{suffix}")

    def kill() -> None:
        for pid in until(lambda: waiting(database, "COPY%md5")):
            fetch(database, f"SELECT pg_terminate_backend({pid})")

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(QueryFailed) as caught:
        engine.export(SLOW, target, database=database, dest_options=options)
    thread.join()
    assert caught.value.sqlstate in ("57P01", None)
    assert caught.value.transient
    if place == "s3":
        client, bucket = request.getfixturevalue("s3_client"), options["bucket"]
        assert "Contents" not in client.list_objects_v2(Bucket=bucket)
        assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    else:
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("query", "sqlstate", "options"),
    [
        ("SELECT 1 / (i - 90000) FROM generate_series(1, 100000) i", "22012", {}),
        ("SELECT ('x' || i)::text::int FROM generate_series(1, 10) i", "22P02", {}),
        ("SELECT pg_sleep(30)", "57014", {"statement_timeout": 0.3}),
    ],
)
def test_server_errors_carry_their_sqlstate_and_no_value(database: str, tmp_path: Path, query: str, sqlstate: str, options: dict[str, Any]) -> None:
    with pytest.raises(FerryError) as caught:
        engine.export(query, tmp_path / "out/x.csv", database=database, **options)
    assert sqlstate in str(caught.value)
    assert "x1" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not (tmp_path / "out").exists()


def test_a_value_that_cannot_be_held_leaves_no_file(database: str, tmp_path: Path) -> None:
    query = "SELECT CASE WHEN i = 70000 THEN 'infinity'::date ELSE current_date END AS d FROM generate_series(1, 100000) i"
    with pytest.raises(UnrepresentableValue, match="column 'd' \\(date\\), row 70,000"):
        engine.export(query, tmp_path / "out/x.parquet", database=database)
    assert not (tmp_path / "out").exists()


def test_duplicate_names_pass_csv_and_stop_parquet(database: str, tmp_path: Path) -> None:
    engine.export("SELECT 1 AS a, 2 AS a, 3", tmp_path / "x.csv", database=database)
    assert (tmp_path / "x.csv").read_text().startswith("a,a,?column?\n")
    with pytest.raises(ConfigurationError, match="columns 1 and 2 are both named 'a'"):
        engine.export("SELECT 1 AS a, 2 AS a", tmp_path / "x.parquet", database=database)


WRITES = (
    "DELETE FROM t",
    "INSERT INTO t VALUES (1) RETURNING *",
    "UPDATE t SET a = 2 RETURNING a",
    "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
    "SELECT * INTO u FROM t",
    "CREATE TABLE u (a int)",
    "DROP TABLE t",
    "TRUNCATE t",
    "SELECT 1; DELETE FROM t",
    "SELECT 1; COMMIT; DELETE FROM t",
    "COMMIT",
    "SELECT 1) AS q; DELETE FROM t; SELECT * FROM (SELECT 1",
    "SELECT 1 -- comment\n; DELETE FROM t",
    "/* SELECT */ DELETE FROM t",
    "COPY t TO '/tmp/ferry-should-not-exist'",
    "COPY t TO PROGRAM 'touch /tmp/ferry-should-not-exist'",
    "DO $$ BEGIN DELETE FROM t; END $$",
    "CALL p()",
    "MERGE INTO t USING t s ON false WHEN NOT MATCHED THEN INSERT VALUES (2)",
    "VACUUM t",
    "EXPLAIN ANALYZE DELETE FROM t",
    "SHOW all",
    "SET timezone = 'UTC'",
    "PREPARE x AS SELECT 1",
    "EXECUTE x",
    "DECLARE c CURSOR FOR SELECT 1",
    "LOCK TABLE t",
    "LISTEN x",
    "SELECT deletes()",
    "SELECT nextval('s')",
    "SELECT a FROM t FOR UPDATE",
    "",
    ";",
    "-- nothing",
    "SELECT",
    "SELECT $1::int",
)


@pytest.mark.parametrize("query", WRITES)
def test_only_a_query_that_changes_nothing_runs(database: str, tmp_path: Path, query: str) -> None:
    function = "CREATE FUNCTION deletes() RETURNS int LANGUAGE sql AS 'DELETE FROM t; SELECT 1'"
    execute(
        database, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)", "CREATE SEQUENCE s", function, "CREATE PROCEDURE p() LANGUAGE sql AS 'DELETE FROM t'"
    )
    with pytest.raises((ConfigurationError, QueryFailed)):
        engine.export(query, tmp_path / "out/x.csv", database=database)
    assert fetch(database, "SELECT a FROM t") == [(1,)]
    assert fetch(database, "SELECT last_value, is_called FROM s") == [(1, False)]
    assert fetch(database, "SELECT count(*) FROM pg_class WHERE relname = 'u'") == [(0,)]
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/ferry-should-not-exist").exists()


READS = (
    "SELECT 1 AS a;",
    "SELECT 1 AS a -- comment",
    "SELECT 1 AS a; -- comment",
    "SELECT 1 AS a ; /* one */ ; ",
    "SELECT 1 AS a /* ; */",
    "-- žluť; 🧬\nSELECT 1 AS a;",
    "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
    "VALUES (1)",
    "TABLE one",
    "(SELECT 1 AS a)",
    "SELECT 1 AS a UNION ALL SELECT 2 ORDER BY 1 LIMIT 1",
    "SELECT ';' AS a",
    "SELECT $$ a ; b $$ AS a;",
    "SELECT E'\\';' AS a;",
    "SELECT 'a''; --' AS a",
    'SELECT 1 AS "a;b"',
    "SELECT count(*) FILTER (WHERE true) OVER () AS a FROM one",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM one",
    "SELECT * FROM one TABLESAMPLE SYSTEM (100)",
    "SELECT a FROM one WHERE a IN (SELECT 1)",
    'SELECT 1 AS "q"',
    "SELECT c0 FROM (SELECT 1 AS c0) q",
)


@pytest.mark.parametrize("query", READS)
def test_honest_queries_run(database: str, query: str) -> None:
    execute(database, "CREATE TABLE one (a int)", "INSERT INTO one VALUES (1)")
    with engine.stream(query, database=database) as reader:
        assert reader.read_all().num_rows == 1


def test_one_snapshot_serves_the_whole_export(database: str) -> None:
    execute(database, "CREATE TABLE t AS SELECT i, repeat('x', 1000) AS pad FROM generate_series(1, 50000) i")
    with engine.stream("TABLE t", database=database) as reader:
        first = reader.read_next_batch().num_rows
        execute(database, "DELETE FROM t")
        rest = sum(b.num_rows for b in reader)
    assert first + rest == 50_000


def test_settings_of_the_session_leave_with_the_transaction(database: str, tmp_path: Path) -> None:
    engine.export("SELECT '2024-01-01 12:00+00'::timestamptz AS t", tmp_path / "x.csv", database=database, timezone="Asia/Kolkata")
    assert "2024-01-01 17:30:00+05:30" in (tmp_path / "x.csv").read_text()


def test_the_route_counts_what_a_source_gives(database: str) -> None:
    """With a memory store, by the contracts alone."""
    store = MemoryStore()
    source = PostgresSource(PostgresSourceOptions.parse({"connection_string": database, "query": "SELECT 1 AS a"}, where="source"))
    result = export_route(source, CsvFormat(), store, Target("x.csv", ".csv"))
    assert [f.path for f in store.list()] == ["x.csv"]
    assert result.rows == 1


def test_an_absent_database_is_named(tmp_path: Path, database: str) -> None:
    with pytest.raises(ConnectionFailed, match="there is no database 'nowhere'"):
        engine.export("SELECT 1", tmp_path / "x.csv", database=database.rpartition("/")[0] + "/nowhere")


def test_sql_ascii_databases_stop_at_bytes_that_are_not_utf8(postgres: Any, tmp_path: Path) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS ascii")
        connection.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    url = postgres.url_of("ascii")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t (a text)")
        connection.execute("INSERT INTO t VALUES ('plain'), (convert_from('\\xe9'::bytea, 'SQL_ASCII'))")
    engine.export("SELECT a FROM t WHERE a = 'plain'", tmp_path / "x.csv", database=url)
    with pytest.raises(FerryError, match="text that is not valid in its encoding"):
        engine.export("SELECT a FROM t", tmp_path / "y.csv", database=url)
    assert not (tmp_path / "y.csv").exists()


def test_a_latin1_database_arrives_as_utf8(postgres: Any, tmp_path: Path) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS latin1")
        connection.execute("CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    engine.export("SELECT U&'caf\\00E9' AS a, 1 AS b", tmp_path / "x.csv", database=postgres.url_of("latin1"))
    assert "café" in (tmp_path / "x.csv").read_text(encoding="utf-8")
