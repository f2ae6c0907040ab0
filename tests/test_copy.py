"""Copies end to end: the rows of a query become rows of a table in another database, every value as it is, in one transaction."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine import workers
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, LoadFailed, QueryFailed, ResourceError, SchemaMismatch
from engine.postgres import reader as postgres_reader
from engine.postgres import source as postgres_source
from tests.conftest import _new_database
from tests.control.platform import until
from tests.effort import examples, slow
from tests.postgres.cases import CASES, TYPES_OF_OURS
from tests.postgres.loads import execute, fetch, types
from tests.test_memory import FERRY, peak_mb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine import embedded

LABS = "CREATE TABLE labs AS SELECT i AS id, 'CRP' AS analyte, (i / 8.0)::numeric(9,3) AS value FROM generate_series(1, 1000) i"
EVERY = "TABLE every"  # of every type a column, with each of its values and NULL
OLD = "CREATE TABLE labs (id integer, analyte text, value numeric(9,3)); INSERT INTO labs VALUES (1, 'old', 1), (9999, 'old', 2)"


@pytest.fixture
def target(postgres: embedded.Postgres) -> Iterator[str]:
    """The URL of another empty database."""
    with _new_database(postgres) as url:
        yield url


@pytest.fixture
def labs(database: str) -> str:
    execute(database, LABS)
    return database


def texts(url: str, query: str) -> list[str]:
    """Row texts of a table or query, sorted."""
    with psycopg.connect(url) as connection:
        connection.execute("SET DateStyle = 'ISO'; SET extra_float_digits = 1; SET TimeZone = 'UTC'")
        return sorted(row[0] for row in connection.execute(f"SELECT q::text FROM ({query}) q"))


def copy(source: str, target: str, query: str = "TABLE labs", **options: Any) -> engine.RunResult:
    return engine.copy(query, target, **{"database": source, "table": "labs", "write_disposition": "append", **options})


def count(url: str, table: str = "labs") -> int:
    return int(fetch(url, f'SELECT count(*) FROM "{table}"')[0][0])


def is_there(url: str, table: str = "labs") -> bool:
    return fetch(url, f"SELECT to_regclass('{table}') IS NOT NULL")[0][0] is True


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrix(postgres: embedded.Postgres, module_database: str) -> Iterator[tuple[str, str]]:
    deepest = max(len(case.values + case.refused) for case in CASES)
    with psycopg.connect(module_database) as connection:
        connection.execute(TYPES_OF_OURS)
        connection.execute(f"CREATE TABLE every ({', '.join(f'c{i} {case.sql_type}' for i, case in enumerate(CASES))})")
        casts = ", ".join(f"%s::{case.sql_type}" for case in CASES)
        for n in range(deepest + 1):
            values = [next(iter((case.values + case.refused)[n : n + 1]), None) for case in CASES]
            connection.execute(f"INSERT INTO every VALUES ({casts})", values)
    with _new_database(postgres) as other:
        execute(other, TYPES_OF_OURS, "CREATE SCHEMA standing")
        yield module_database, other


@pytest.mark.parametrize("reader", ["adbc", "copy"])
@pytest.mark.parametrize("schema", ["public", "standing"])
def test_every_value_of_every_type_arrives_as_it_is(matrix: tuple[str, str], schema: str, reader: str) -> None:
    source, target = matrix
    execute(target, f"DROP TABLE IF EXISTS {schema}.every")
    if schema == "standing":
        execute(target, f"CREATE TABLE standing.every ({', '.join(f'c{i} {case.sql_type}' for i, case in enumerate(CASES))})")
    result = engine.copy(EVERY, target, database=source, table="every", schema=schema, write_disposition="append", source_options={"reader": reader})
    assert result.rows == 1 + max(len(case.values + case.refused) for case in CASES)
    assert texts(target, f"TABLE {schema}.every") == texts(source, EVERY)
    below_domains = {"positive": "integer", "amount": "numeric(7,2)"}  # a query's description names the type below a domain
    for i, ((_, made), (_, own)) in enumerate(zip(types(target, f"{schema}.every"), types(source, "every"), strict=True)):
        assert made in {own, below_domains.get(CASES[i].sql_type)}


def test_odd_values_far_behind_plain_ones_arrive_as_they_are(matrix: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = matrix
    monkeypatch.setattr(postgres_reader, "BATCH_BYTES", 4_000)
    plain = f"SELECT e.* FROM (SELECT e.* FROM ({EVERY}) e LIMIT 1) e, generate_series(1, 300)"
    query = f"{plain} UNION ALL {EVERY}"
    result = engine.copy(query, target, database=source, table="wide", write_disposition="append")
    assert result.rows > 300
    assert texts(target, "TABLE wide") == texts(source, query)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            st.none() | st.floats(),
            st.none() | st.decimals(allow_nan=False, allow_infinity=False),
            st.none() | st.binary(),
            st.none() | st.datetimes(),
        ),
        max_size=20,
    )
)
def test_any_row_arrives(matrix: tuple[str, str], rows: list[tuple[Any, ...]]) -> None:
    source, target = matrix
    with psycopg.connect(source) as connection:
        connection.execute("DROP TABLE IF EXISTS any_rows; CREATE TABLE any_rows (a text, b float8, c numeric, d bytea, e timestamp)")
        for row in rows:
            connection.execute("INSERT INTO any_rows VALUES (%s, %s, %s, %s, %s)", row)
    engine.copy("TABLE any_rows", target, database=source, table="any_rows", write_disposition="replace")
    assert texts(target, "TABLE any_rows") == texts(source, "TABLE any_rows")


def test_text_settings_of_either_database_change_nothing(database: str, target: str) -> None:
    hostile = ("DateStyle = 'SQL, DMY'", "IntervalStyle = 'iso_8601'", "extra_float_digits = -10", "bytea_output = 'escape'", "TimeZone = 'Asia/Kathmandu'")
    for url in (database, target):
        execute(url, *(f"ALTER DATABASE {url.rpartition('/')[2].partition('?')[0]} SET {setting}" for setting in hostile))
    query = (
        "SELECT timestamptz '1890-02-03 04:05:06.789+01' AS a, date '2024-02-03' AS b, interval '1 day -2 hours' AS c, 0.1::float8 + 0.2::float8 AS d, "
        r"'\x5c00ff'::bytea AS e, '[2024-02-03 00:00+00,infinity)'::tstzrange AS f, ARRAY[timestamptz 'infinity'] AS g, 0.3::float4 AS h, time '24:00' AS i"
    )
    engine.copy(query, target, database=database, table="t", write_disposition="append")
    assert texts(target, "TABLE t") == texts(database, query)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("0.1::numeric", "float8"),
        ("0.1::numeric(10,2)", "real"),
        ("ARRAY[0.1]::numeric[]", "float8[]"),
        ("1.005::numeric", "numeric(5,2)"),
        ("1.5::numeric", "integer"),
        ("timestamptz '2024-01-31 10:00+02'", "timestamp"),
        ("timestamp '2024-01-31 10:00'", "timestamptz"),
        ("timestamp '2024-01-31 10:00'", "date"),
        ("date '2024-01-31'", "timestamptz"),
        ("timestamp '2024-01-31 10:00:00.123456'", "timestamp(3)"),
        ("timetz '10:00+02'", "time"),
        ("time '10:00'", "timetz"),
        ("'abcd'::text", "varchar(3)"),
        ("70000", "smallint"),
        ("0.1::float8", "real"),
        ("0.1::float8", "numeric"),
        (r"'\x00'::bytea", "text"),
    ],
)
def test_a_value_that_would_change_in_the_tables_type_is_refused(labs: str, target: str, value: str, type_: str) -> None:
    execute(target, f"CREATE TABLE labs (v {type_})")
    with pytest.raises((SchemaMismatch, LoadFailed), match=r"^destination: .*column 'v'"):
        copy(labs, target, f"SELECT {value} AS v")
    assert count(target) == 0


# --- dispositions ---------------------------------------------------------------------------------------------------


def test_an_append_adds_its_rows_each_time(labs: str, target: str) -> None:
    result = copy(labs, target)
    assert (result.rows, [file.state for file in result.files], result.counts) == (1000, ["written"], "rows")
    assert types(target, "labs") == [("id", "integer"), ("analyte", "text"), ("value", "numeric(9,3)")]
    assert texts(target, "TABLE labs") == texts(labs, "TABLE labs")
    copy(labs, target)
    assert count(target) == 2000


def test_a_replace_leaves_the_new_rows_alone(labs: str, target: str) -> None:
    execute(target, OLD)
    result = copy(labs, target, write_disposition="replace")
    assert [file.state for file in result.files] == ["replaced"]
    assert texts(target, "TABLE labs") == texts(labs, "TABLE labs")
    assert copy(labs, target, "SELECT * FROM labs WHERE false", write_disposition="replace").rows == 0
    assert count(target) == 0


def test_a_merge_updates_by_key_and_inserts_the_rest(labs: str, target: str) -> None:
    execute(target, OLD)
    copy(labs, target, write_disposition="merge", primary_key="id")
    assert texts(target, "SELECT * FROM labs WHERE id < 9999") == texts(labs, "TABLE labs")
    assert fetch(target, "SELECT analyte FROM labs WHERE id = 9999") == [("old",)]
    with pytest.raises(LoadFailed, match=r"destination: .*the rows hold 1,000 keys \(id\) more than once, in 2,000 rows"):
        copy(labs, target, "TABLE labs UNION ALL TABLE labs", write_disposition="merge", primary_key="id")


@pytest.mark.parametrize("options", [{}, {"dest_options": {"table": "labs"}}])
def test_the_disposition_has_no_default(labs: str, target: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"destination: 'write_disposition' is missing: a copy has no default; .*append, replace, merge"):
        engine.copy("TABLE labs", target, database=labs, table="labs", **options)
    assert not is_there(target)


def test_rows_bookkeeping_and_mark_are_one_transaction(labs: str, target: str) -> None:
    copy(labs, target)
    written = fetch(
        target,
        "SELECT count(DISTINCT x) FROM (SELECT xmin::text AS x FROM labs UNION ALL SELECT xmin::text FROM _dlt_loads UNION ALL SELECT xmin::text FROM _ferry_loads) r",
    )
    assert written == [(1,)]
    assert fetch(target, "SELECT l.rows, l.rejected, d.status FROM _ferry_loads l JOIN _dlt_loads d USING (load_id)") == [(1000, 0, 0)]


def test_no_rows_make_the_table_all_the_same(labs: str, target: str) -> None:
    assert copy(labs, target, "SELECT * FROM labs WHERE false").rows == 0
    assert types(target, "labs") == [("id", "integer"), ("analyte", "text"), ("value", "numeric(9,3)")]


# --- a query that reads the table that it goes into -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "disposition", "expected"),
    [
        ("SELECT id + 1 AS id, analyte, value FROM labs WHERE id > 500", "replace", (500, 502, 1001)),
        ("TABLE labs", "replace", (1000, 1, 1000)),
        ("SELECT id + 1000 AS id, analyte, value FROM labs", "append", (2000, 1, 2000)),
        ("SELECT id + 500 AS id, analyte, value FROM labs", "merge", (1500, 1, 1500)),
        ("SELECT id, analyte, value, value * 2 AS twice FROM labs", "replace", (1000, 1, 1000)),
        ("SELECT id, analyte, value, value * 2 AS twice FROM labs", "merge", (1000, 1, 1000)),
    ],
)
def test_a_query_may_read_the_table_that_it_goes_into(labs: str, query: str, disposition: str, expected: tuple[int, ...]) -> None:
    before = texts(labs, query)
    key: dict[str, Any] = {"primary_key": "id"} if disposition == "merge" else {}
    engine.copy(query, labs, database=labs, table="labs", write_disposition=disposition, **key)
    assert fetch(labs, "SELECT count(*), min(id), max(id) FROM labs") == [expected]
    if disposition == "replace":
        assert texts(labs, "TABLE labs") == before


def test_a_query_may_read_the_columns_of_the_table_to_which_it_adds_one(labs: str) -> None:
    before = texts(labs, "SELECT *, 1 AS one FROM labs")
    engine.copy("SELECT *, 1 AS one FROM labs", labs, database=labs, table="labs", write_disposition="replace")
    assert texts(labs, "TABLE labs") == before


def test_a_query_whose_columns_change_before_it_runs_is_not_taken_for_the_one_that_was_described(
    labs: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = postgres_source.PostgresSource.read

    def altered(self: Any, form: Any) -> Any:
        execute(labs, "ALTER TABLE labs RENAME value TO other; ALTER TABLE labs ADD value text")
        return read(self, form)

    monkeypatch.setattr(postgres_source.PostgresSource, "read", altered)
    with pytest.raises(SchemaMismatch, match=r"source: .*other columns than a moment ago"):
        copy(labs, target)
    assert not is_there(target)


# --- columns and contract -------------------------------------------------------------------------------------------


def test_columns_select_rename_and_cast(labs: str, target: str) -> None:
    columns = {"lab": {"type": "bigint", "from": "id"}, "value": "numeric(12,4)", "_source_file": "text", "_loaded_at": "timestamptz"}
    result = copy(labs, target, columns=columns)
    assert "not loaded, since 'columns' does not name them: 'analyte'" in str(result)
    assert types(target, "labs") == [("lab", "bigint"), ("value", "numeric(12,4)"), ("_source_file", "text"), ("_loaded_at", "timestamp with time zone")]
    place = labs.rpartition("@")[2]
    assert fetch(target, "SELECT lab, value::text, _source_file, _loaded_at <= now() FROM labs WHERE lab = 9") == [(9, "1.1250", place, True)]


def test_the_contract_decides_about_new_columns(labs: str, target: str) -> None:
    execute(target, "CREATE TABLE labs (id bigint, value numeric(9,3))")
    with pytest.raises(SchemaMismatch, match=r"destination: schema_contract freeze of public.labs: it has no column 'analyte'"):
        copy(labs, target, schema_contract="freeze")
    assert len(types(target, "labs")) == 2
    assert "column 'analyte' (text) added to public.labs" in str(copy(labs, target))
    assert count(target) == 1000


def test_names_go_exactly_or_as_dlt_writes_them(database: str, target: str) -> None:
    execute(target, "CREATE TABLE labs (patient_id integer)")
    result = copy(database, target, 'SELECT 1 AS "Patient ID"')
    assert "column 'Patient ID' is loaded into column 'patient_id'" in str(result)
    copy(database, target, 'SELECT 1 AS "Patient ID", 2 AS "Weird ""; -- %s name"', table="new")
    assert [name for name, _ in types(target, "new")] == ["Patient ID", 'Weird "; -- %s name']


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disposition", [slow("append"), "replace", slow("merge")])
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("(1.0 / (50000 - i))::numeric(9,3)", QueryFailed, r"^source: .*ended the query after [0-9,]+ rows: division by zero"),
        ("i * 20", LoadFailed, r"^destination: .*: row 49,999, column 'value': does not fit numeric\(9,3\) without rounding"),
        ("NULLIF(i, 50000)", LoadFailed, r"^destination: .*: row 49,999, column 'value': NULL in a NOT NULL column"),
        ("50000 - i", LoadFailed, r"^destination: .* a row that breaks a check: constraint 'positive'"),
    ],
    ids=["query", "value", "null", "constraint"],
)
def test_a_copy_that_fails_leaves_the_table_as_it_was(
    database: str, target: str, disposition: str, value: str, kind: type[FerryError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_reader, "BATCH_BYTES", 100_000)
    execute(target, "CREATE TABLE labs (id integer PRIMARY KEY, analyte text, value numeric(9,3) NOT NULL CONSTRAINT positive CHECK (value >= 0))")
    execute(target, "INSERT INTO labs VALUES (1, 'old', 1)")
    options: dict[str, Any] = {"write_disposition": disposition, **({"primary_key": "id"} if disposition == "merge" else {})}
    with pytest.raises(kind, match=message) as caught:
        copy(database, target, f"SELECT i AS id, 'secret' AS analyte, {value} AS value FROM generate_series(2, 60000) i", **options)
    assert "secret" not in str(caught.value)
    assert fetch(target, "SELECT id, analyte, value::text FROM labs") == [(1, "old", "1.000")]
    assert fetch(target, "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace") == [("labs",)]
    until(lambda: not fetch(target, "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"query": "DELETE FROM labs"}, ConfigurationError, "source: the query returns no columns"),
        ({"query": "SELECT 1 AS a; SELECT 2 AS a"}, ConfigurationError, "source: .*more than one statement"),
        ({"query": "SELECT x FROM nowhere"}, QueryFailed, 'source: .*"nowhere" does not exist'),
        ({"query": "SELECT 1 AS a, 2 AS a"}, SchemaMismatch, r"more than one column is named 'a' \(positions 1, 2\)"),
        ({"query": "SELECT 1"}, None, ""),
        ({"query": "SELECT 'happy'::mood AS m"}, ConfigurationError, "destination: column 'm': the server does not take 'mood' for a type: .*; make it there"),
        ({"table": None}, ConfigurationError, "destination: 'table' is missing"),
        ({"table": "_dlt_loads"}, ConfigurationError, "are dlt's"),
        ({"table": "x" * 64}, ConfigurationError, "64 bytes"),
        ({"write_disposition": "upsert"}, ConfigurationError, "'write_disposition' should be 'append', 'replace' or 'merge'"),
        ({"write_disposition": "merge"}, ConfigurationError, "primary_key"),
        ({"dest_options": {"tabel": "x"}}, ConfigurationError, "did you mean 'table'"),
        ({"source_options": {"batchsize": 5}}, ConfigurationError, "did you mean 'batch_size'"),
        ({"columns": {"x": {"from": "nothing"}}}, SchemaMismatch, "destination: 'columns' takes 'nothing', and there is no such column"),
        ({"columns": {"id": "timestamptz"}}, SchemaMismatch, "destination: column 'id': int32 does not go into timestamp with time zone"),
        ({"columns": {"id": "nonsense"}}, ConfigurationError, "'nonsense'"),
        ({"target": "s3://bucket/key"}, ConfigurationError, "no PostgreSQL connection string"),
        ({"target": ""}, ConfigurationError, "'connection_string' is empty"),
        ({"database": "postgresql://127.0.0.1:1/x"}, ConnectionFailed, "^source: cannot connect to PostgreSQL at 127.0.0.1:1/x"),
        ({"target": "postgresql://127.0.0.1:1/x"}, ConnectionFailed, "^destination: cannot connect to PostgreSQL at 127.0.0.1:1/x"),
        ({"database": None}, ConfigurationError, "which database"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, slow(True)])
def test_what_cannot_be_is_refused_by_name_before_a_row_moves(
    labs: str, target: str, change: dict[str, Any], kind: type[FerryError] | None, message: str, dry_run: bool
) -> None:
    execute(labs, "CREATE TYPE mood AS ENUM ('happy')")
    given: dict[str, Any] = {
        "query": "TABLE labs",
        "target": target,
        "database": labs,
        "table": "labs",
        "write_disposition": "append",
        **change,
        "dry_run": dry_run,
    }
    if kind is None:
        engine.copy(**given)
        return
    with pytest.raises(kind, match=message):
        engine.copy(**given)
    assert not is_there(target)


def test_roles_without_rights_are_told_which(labs: str, target: str) -> None:
    execute(target, "CREATE ROLE narrow LOGIN PASSWORD 'x'", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    url = f"postgresql://narrow:x@{target.rpartition('@')[2]}"
    try:
        with pytest.raises(ResourceError, match="destination: permission denied: the role may not make tables"):
            copy(labs, url)
        with pytest.raises(QueryFailed, match=r"source: .*permission denied"):
            copy(f"postgresql://narrow:x@{labs.rpartition('@')[2]}", target)
    finally:
        execute(target, "DROP ROLE narrow")


def test_a_value_that_the_table_does_not_take_is_named_by_row_and_column_or_put_aside(database: str, target: str) -> None:
    execute(target, "CREATE TABLE labs (id smallint, note varchar(3))")
    query = "SELECT i AS id, CASE WHEN i = 70 THEN 'secret' ELSE 'ok' END AS note FROM generate_series(1, 100) i UNION ALL SELECT 40000, 'ok'"
    with pytest.raises(LoadFailed, match=r"destination: .*: row 70, column 'note': longer than 3 characters; nothing of it was loaded") as caught:
        copy(database, target, query)
    assert "secret" not in str(caught.value)
    assert count(target) == 0
    result = copy(database, target, query, dest_options={"on_bad_row": "quarantine", "max_bad_rows": "2"})
    assert result.rows == 99
    assert "2 rows were put aside" in str(result)
    assert fetch(target, "SELECT line, column_name, raw FROM labs__rejected ORDER BY line") == [(70, "note", None), (101, "id", None)]


@pytest.mark.parametrize("end", ["source", "destination"])
def test_a_backend_that_dies_is_an_error_of_its_end(database: str, target: str, end: str) -> None:
    execute(target, OLD)
    url, query = (database, "generate_series") if end == "source" else (target, "COPY %FROM STDIN%")

    def kill() -> None:
        until(
            lambda: fetch(
                url,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%{query}%' AND state = 'active' AND query NOT LIKE '%pg_terminate%'",
            )
        )

    killer = workers.start(kill, name="kill")
    with pytest.raises((QueryFailed, LoadFailed), match=f"^{end}: ") as caught:
        copy(
            database,
            target,
            "SELECT i AS id, 'x' AS analyte, 1::numeric(9,3) AS value FROM generate_series(1, 10000000) i",
            write_disposition="replace",
        )
    killer.result(timeout=30)
    assert caught.value.transient
    assert fetch(target, "SELECT count(*) FROM labs WHERE analyte = 'old'") == [(2,)]
    assert fetch(database, "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%generate_series%' AND state = 'active' AND pid <> pg_backend_pid()") == []


# --- dry run, progress, memory, interrupts --------------------------------------------------------------------------


def test_a_dry_run_tells_rows_and_columns_and_changes_nothing(labs: str, target: str) -> None:
    execute(labs, "ANALYZE labs")
    result = copy(labs, target, dry_run=True)
    assert (result.rows, result.files[0].state, result.files[0].reported) == (0, "planned", {"estimated_rows": "1000"})
    assert "would make public.labs (id integer, analyte text, value numeric(9,3))" in str(result)
    assert "about 1,000 rows would come from" in str(result)
    assert fetch(target, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]
    execute(target, "CREATE TABLE labs (id bigint, value numeric(9,3))")
    assert "would add to public.labs: analyte text" in str(copy(labs, target, dry_run=True))
    assert "public.labs has all columns already" in str(copy(labs, target, dry_run=True, columns={"id": True}))
    assert types(target, "labs") == [("id", "bigint"), ("value", "numeric(9,3)")]


def test_progress_tells_rows_and_bytes_in_the_calling_thread(database: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    seen: list[tuple[engine.Progress, int]] = []
    result = copy(
        database, target, "SELECT i, repeat('x', 50) AS t FROM generate_series(1, 300000) i", on_progress=lambda now: seen.append((now, threading.get_ident()))
    )
    assert {thread for _, thread in seen} == {threading.get_ident()}
    assert any(0 < now.rows < 300_000 for now, _ in seen)
    assert [now.rows for now, _ in seen] == sorted(now.rows for now, _ in seen)
    assert {now.estimated_rows for now, _ in seen} == {300_000}
    assert result.bytes > 300_000 * 50


def test_the_command_copies_and_tells_in_json(labs: str, target: str) -> None:
    command = [*FERRY, "copy", "-", target, "--table", "labs", "--write-disposition", "replace", "--database", labs, "--columns", '{"id": "bigint"}', "--json"]
    ran = subprocess.run(command, input="TABLE labs;\n", capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout)
    assert (told["rows"], told["files"][0]["state"], told["files"][0]["rows"]) == (1000, "replaced", 1000)
    assert [column["name"] for column in told["schema"]] == ["id", "analyte", "value"]
    ran = subprocess.run([*FERRY, "copy", "TABLE labs", target, "--table", "labs", "--database", labs], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "a copy has no default" in ran.stderr


@pytest.mark.parametrize("moment", [slow("the first row"), "rows"])
def test_a_copy_that_is_interrupted_ends_soon_and_leaves_nothing(database: str, target: str, moment: str) -> None:
    execute(target, OLD)
    slow = "pg_sleep(600)::text" if moment == "the first row" else "'x'"
    query = f"SELECT i AS id, {slow} AS analyte, 1::numeric(9,3) AS value FROM generate_series(1, 1000000000) i"
    command = [*FERRY, "copy", query, target, "--table", "labs", "--write-disposition", "replace", "--database", database, "--quiet"]
    active = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '{}'"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: fetch(target, active.format("COPY %labs%FROM STDIN%")) and fetch(database, active.format("%generate_series%")))
        time.sleep(0.5)
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert time.monotonic() - before < 4  # measured: 1 s; the machine may be busy
    until(lambda: not fetch(database, active.format("%generate_series%")), 5)
    until(lambda: not fetch(target, active.format("COPY%")), 5)
    assert fetch(target, "SELECT count(*) FROM labs") == [(2,)]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(database: str, target: str) -> None:
    query = "SELECT i AS id, i::numeric(15,2) AS n, now() AS seen, ARRAY[i] AS list, md5(i::text) AS note FROM generate_series(1, {}) i"
    peaks = []
    for rows in (200_000, 800_000):
        peaks.append(peak_mb(["copy", query.format(rows), target, "--table", f"t{rows}", "--write-disposition", "append", "--database", database]))
        assert count(target, f"t{rows}") == rows
    assert peaks[1] < peaks[0] * 1.25 + 20
    assert peaks[1] < 400
