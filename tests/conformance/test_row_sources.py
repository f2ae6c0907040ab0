"""What every source of rows promises (`RowSource`, `EncodesItself`), run against each of them."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from engine import registry, workers
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, QueryFailed, SchemaMismatch, UnrepresentableValue
from engine.formats.csv import CsvFormat
from engine.postgres import connectorx_source
from engine.postgres import plan as planning
from engine.postgres.reader import BATCH_BYTES
from engine.protocols import EncodesItself
from engine.stores.memory import MemoryStore
from tests.effort import spread
from tests.postgres.cases import CASES, TEXTS, TYPES_OF_OURS

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from engine.protocols import CsvDialect, Form

READERS = ("adbc", "copy", "connectorx")
UNPROMISED = {
    ("connectorx", "test_batches_are_bounded_in_bytes_and_rows"): "memory whatever a row weighs",  # its batches are counted in rows
    ("connectorx", "test_a_value_that_does_not_fit_names_column_and_row"): "every type in Parquet",  # dates are refused, by name, before a row comes
}
"""Tests that a reader does not pass, and what of its `NOT_PROMISED`, which every run that chooses it prints, says so."""
FORMS: tuple[Form, ...] = ("text", "typed")


@pytest.fixture(params=READERS)
def make(request: pytest.FixtureRequest, database: str) -> Callable[..., Any]:
    """A source of a query's rows; with keys of its configuration."""
    if reason := UNPROMISED.get((request.param, request.function.__name__)):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    def source(query: str, **options: Any) -> Any:
        config = {"connection_string": database, "query": query, "reader": request.param, **options}
        return registry.row_source(registry.POSTGRES, registry.row_source_options(registry.POSTGRES, config, where="source"))

    return source


@pytest.fixture
def make_encoded(database: str) -> Callable[..., Any]:
    """A source that writes CSV itself."""

    def source(query: str, **options: Any) -> Any:
        config = {"connection_string": database, "query": query, "reader": "copy", **options}
        made = registry.row_source(registry.POSTGRES, registry.row_source_options(registry.POSTGRES, config, where="source"))
        assert isinstance(made, EncodesItself)
        return made

    return source


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database) as connection:
        for statement in statements:
            connection.execute(statement)


def table(source: Any, form: Form = "typed") -> pa.Table:
    with source.read(form) as stream:
        return stream.reader.read_all()


def running(database: str, fragment: str) -> list[int]:
    """Backends that run a statement of ours now."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'arrow-ferry' AND state = 'active' AND query LIKE %s"
    with psycopg.connect(database) as connection:
        return [row[0] for row in connection.execute(query, [f"%{fragment}%"])]


def connected(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arrow-ferry' AND datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def test_nothing_is_opened_before_with(make: Callable[..., Any]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        source = make("SELECT 1", connection_string=f"postgresql://u@127.0.0.1:{nobody.getsockname()[1]}/x")
        reading = source.read()
        with pytest.raises(ConnectionFailed, match="nothing listens there"), reading:
            pass


@pytest.mark.parametrize("form", FORMS)
def test_the_schema_is_known_before_the_first_batch_and_without_rows(make: Callable[..., Any], form: Form) -> None:
    query = "SELECT 1 AS a, 'x' AS b, ARRAY[1] AS c, 1.5::numeric(9,2) AS d WHERE false"
    with make(query).read(form) as stream:
        assert stream.reader.schema.names == ["a", "b", "c", "d"]
        assert stream.reader.read_all().num_rows == 0


def test_every_row_comes_in_order(make: Callable[..., Any]) -> None:
    found = table(make("SELECT i, repeat('x', i % 100) AS pad FROM generate_series(1, 300000) i"))
    assert found.column("i").to_pylist() == list(range(1, 300_001))


def test_batches_are_bounded_in_bytes_and_rows(make: Callable[..., Any]) -> None:
    with make("SELECT repeat('x', 1000) AS a FROM generate_series(1, 30000) i").read() as stream:
        assert max(batch.nbytes for batch in stream.reader) < 2 * BATCH_BYTES
    with make("SELECT i FROM generate_series(1, 1000) i", batch_size=300).read() as stream:
        assert [batch.num_rows for batch in stream.reader] == [300, 300, 300, 100]


def test_a_value_larger_than_a_batch_arrives(make: Callable[..., Any]) -> None:
    found = table(make("SELECT repeat('žx', 10000000) AS a, 1 AS b UNION ALL SELECT 'small', 2"))
    assert [len(value) for value in found.column("a").to_pylist()] == [20_000_000, 5]


def test_leaving_early_cancels_within_a_second(make: Callable[..., Any], database: str) -> None:
    with make("SELECT generate_series(1, 1000000000) AS i, repeat('x', 100) AS pad /* abandoned */").read() as stream:
        stream.reader.read_next_batch()
        until(lambda: running(database, "abandoned"))
        left = time.monotonic()
    assert time.monotonic() - left < 1.5
    until(lambda: not running(database, "abandoned"), 1)
    until(lambda: not connected(database), 2)


def test_a_query_that_has_sent_nothing_yet_is_cancelled_too(make: Callable[..., Any], database: str) -> None:
    with make("SELECT pg_sleep(600) /* silent */").read():
        until(lambda: running(database, "COPY%silent"))
        left = time.monotonic()
    assert time.monotonic() - left < 1.5
    until(lambda: not running(database, "silent"), 1)


def test_whoever_stops_waiting_ends_the_query(make: Callable[..., Any], database: str) -> None:
    class Unwanted(Exception):
        pass

    def check() -> None:
        if running(database, "COPY%unwanted"):
            raise Unwanted

    with pytest.raises(Unwanted), workers.watching(check), make("SELECT pg_sleep(600) /* unwanted */").read() as stream:
        stream.reader.read_all()
    until(lambda: not running(database, "unwanted"), 2)


@pytest.mark.parametrize("form", FORMS)
def test_one_read_only_snapshot_serves_all_rows(make: Callable[..., Any], database: str, form: Form) -> None:
    execute(database, "CREATE TABLE t AS SELECT i, repeat('x', 1000) AS pad FROM generate_series(1, 50000) i")
    with make("TABLE t").read(form) as stream:
        first = stream.reader.read_next_batch().num_rows
        execute(database, "DELETE FROM t")
        assert first + sum(batch.num_rows for batch in stream.reader) == 50_000
    asked = "SELECT current_setting('transaction_isolation') AS a, current_setting('transaction_read_only') AS b, current_setting('client_encoding') AS c"
    assert table(make(asked), form).to_pylist() == [{"a": "repeatable read", "b": "on", "c": "UTF8"}]


def test_settings_hold_for_the_transaction_alone(make: Callable[..., Any]) -> None:
    source = make("SELECT current_setting('TimeZone') AS zone, '2024-01-01 12:00+00'::timestamptz::text AS t", timezone="Asia/Kolkata")
    assert table(source).to_pylist() == [{"zone": "Asia/Kolkata", "t": "2024-01-01 17:30:00+05:30"}]


WRITES = ("DELETE FROM t", "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "SELECT deletes()", "SELECT 1; DELETE FROM t", "SELECT a FROM t FOR UPDATE")


@pytest.mark.parametrize("query", WRITES)
def test_nothing_is_written(make: Callable[..., Any], database: str, query: str) -> None:
    function = "CREATE FUNCTION deletes() RETURNS int LANGUAGE sql AS 'DELETE FROM t; SELECT 1'"
    execute(database, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)", function)
    with pytest.raises((ConfigurationError, QueryFailed)):
        table(make(query))
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize("query", ["SELECT 1 AS a -- comment", "SELECT 1 AS a; -- comment", "TABLE one", "VALUES (1)", "SELECT ';' AS a"])
def test_honest_queries_run(make: Callable[..., Any], database: str, query: str) -> None:
    execute(database, "CREATE TABLE one (a int)", "INSERT INTO one VALUES (1)")
    assert table(make(query)).num_rows == 1


def test_an_ended_backend_is_one_transient_error(make: Callable[..., Any], database: str) -> None:
    query = "SELECT i, md5(i::text), CASE WHEN i > 50000 THEN pg_sleep(0.01) END FROM generate_series(1, 100000000) i /* ended */"

    def kill() -> None:
        for pid in until(lambda: running(database, "COPY%ended")):
            execute(database, f"SELECT pg_terminate_backend({pid})")

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(QueryFailed) as caught:
        table(make(query))
    thread.join()
    assert caught.value.sqlstate in ("57P01", None)
    assert caught.value.transient


@pytest.mark.parametrize(
    ("query", "sqlstate", "options"),
    [
        ("SELECT 1 / (i - 90000) FROM generate_series(1, 100000) i", "22012", {}),
        ("SELECT ('canary' || i)::text::int FROM generate_series(1, 10) i", "22P02", {}),
        ("SELECT pg_sleep(30)", "57014", {"statement_timeout": 0.3}),
        ("SELECT i / (i - 1) FROM generate_series(1, 10) i", "22012", {}),
    ],
)
def test_the_servers_errors_carry_their_sqlstate_and_no_value(make: Callable[..., Any], query: str, sqlstate: str, options: dict[str, Any]) -> None:
    with pytest.raises(QueryFailed) as caught:
        table(make(query, **options))
    assert caught.value.sqlstate == sqlstate
    assert sqlstate in str(caught.value)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_value_that_does_not_fit_names_column_and_row(make: Callable[..., Any]) -> None:
    for value, kind in (("infinity", "date"), ("NaN", "numeric(9,2)"), ("24:00", "time")):
        query = f"SELECT i, (CASE WHEN i = 70000 THEN '{value}' END)::{kind} AS d FROM generate_series(1, 100000) i"
        with pytest.raises(UnrepresentableValue, match=r"column 'd' \(.*\), row 70,000: ") as caught:
            table(make(query))
        assert "--unrepresentable d=text" in str(caught.value)


def test_a_shape_that_does_not_fit_names_column_and_row(make: Callable[..., Any]) -> None:
    with pytest.raises(UnrepresentableValue, match=r"column 'd' \(integer\[\]\), row 3: "):
        table(make("SELECT d FROM (VALUES (ARRAY[1]), (NULL), ('{{1},{2}}'::int[])) x(d)"))
    with pytest.raises(UnrepresentableValue, match=r"column 'd' \(numeric\(6,2\)\[\]\), row 3: "):
        table(make("SELECT d::numeric(6,2)[] FROM (VALUES (ARRAY[1.5]), (NULL), ('{2,NaN}'::numeric[])) x(d)"))


def test_describing_runs_nothing(make: Callable[..., Any]) -> None:
    described = make("SELECT 1 AS a, pg_sleep(600) AS b").describe()
    assert described.columns == ("a integer", "b void")


def test_a_table_that_was_altered_since_it_was_planned_is_an_error(make: Callable[..., Any], database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bytes are a bigint, a timestamp or a double, and look alike on the wire."""
    execute(database, "CREATE TABLE t AS SELECT 1::int8 AS a")
    planned = planning.plan

    def then_altered(*arguments: Any) -> Any:
        made = planned(*arguments)
        execute(database, "ALTER TABLE t ALTER a TYPE float8")
        return made

    monkeypatch.setattr(planning, "plan", then_altered)
    with pytest.raises(SchemaMismatch, match=r"column 'a' .*was the table altered meanwhile"):
        table(make("TABLE t"))


def test_a_table_that_was_dropped_since_it_was_planned_is_an_error(make: Callable[..., Any], database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(database, "CREATE TABLE t AS SELECT 1::int8 AS a")
    planned = planning.plan

    def then_dropped(*arguments: Any) -> Any:
        made = planned(*arguments)
        execute(database, "DROP TABLE t")
        return made

    monkeypatch.setattr(planning, "plan", then_dropped)
    with pytest.raises(QueryFailed) as caught:
        table(make("TABLE t"))
    assert caught.value.sqlstate == "42P01"


def test_bytes_that_are_not_utf8_stop_the_run(make: Callable[..., Any], postgres: Any) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS ascii")
        connection.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    url = postgres.url_of("ascii")
    execute(url, "CREATE TABLE t (a text)", "INSERT INTO t VALUES ('plain'), (convert_from('\\xe9'::bytea, 'SQL_ASCII'))")
    assert table(make("SELECT a FROM t WHERE a = 'plain'", connection_string=url)).to_pylist() == [{"a": "plain"}]
    with pytest.raises(FerryError, match="text that is not valid in its encoding"):
        table(make("SELECT a FROM t", connection_string=url))


def test_what_is_not_promised_is_said() -> None:
    assert {reason for (reader, _), reason in UNPROMISED.items() if reader == "connectorx"} <= set(connectorx_source.NOT_PROMISED)
    assert {test for _, test in UNPROMISED} <= set(globals())


def test_a_source_can_be_read_again(make: Callable[..., Any], database: str) -> None:
    source = make("SELECT i FROM generate_series(1, 10) i")
    assert table(source) == table(source)
    until(lambda: not connected(database), 2)


# What follows is promised by sources that write CSV themselves.

DIALECTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "semicolon": {"delimiter": ";"},
    "tab, NULL": {"delimiter": "\t", "null": "NULL"},
    "pipe, 0": {"delimiter": "|", "null": "0"},
    "true": {"null": "true"},
}


@pytest.fixture(scope="module")
def matrix(module_database: str) -> str:
    """A table with a column of every type, row n with the n-th value of each; the last has NULLs."""
    columns = ", ".join(f"c{i} {case.sql_type}" for i, case in enumerate(CASES))
    deepest = max(len(case.values + case.refused) for case in CASES)
    with psycopg.connect(module_database) as connection:
        connection.execute(f"{TYPES_OF_OURS}; CREATE TABLE t ({columns})")
        for n in range(deepest + 1):
            cells = [next(iter((case.values + case.refused)[n : n + 1]), None) for case in CASES]
            connection.execute(f"INSERT INTO t VALUES ({', '.join(f'%s::{case.sql_type}' for case in CASES)})", cells)
    return module_database


def by_arrow(source: Any, layout: CsvFormat) -> bytes:
    """The rows by the other way, as lines that quote what must be quoted and nothing else, which is the server's way too."""
    with source.read("text") as stream:
        columns = [column.to_pylist() for column in stream.reader.read_all().columns]
        dialect = layout.dialect(stream.reader.schema)
    return "".join(dialect.delimiter.join(in_line(value, dialect) for value in row) + "\n" for row in zip(*columns, strict=True)).encode()


def in_line(value: Any, dialect: CsvDialect) -> str:
    if value is None:
        return dialect.null
    text = str(value).lower() if isinstance(value, bool) else str(value)
    needs = dialect.quotes_all or text == dialect.null or any(c in text for c in (dialect.delimiter, '"', "\n", "\r"))
    return '"' + text.replace('"', '""') + '"' if needs else text


def by_itself(source: Any, layout: CsvFormat) -> tuple[bytes, int]:
    with source.read_encoded(layout.dialect) as stream:
        pieces = list(stream.pieces)
        assert all(bytes(piece[-1:]) == b"\n" for piece in pieces)
        assert stream.rows is not None
        assert stream.lines >= stream.rows
        return b"".join(pieces), stream.rows


@pytest.mark.parametrize("name", spread(DIALECTS, 6))
def test_its_lines_have_the_same_values_for_every_type(make_encoded: Callable[..., Any], matrix: str, name: str) -> None:
    layout = CsvFormat(**DIALECTS[name], header=False)
    queries = ["TABLE t", *(f"SELECT c{i} FROM t" for i in range(len(CASES)))]
    for query in queries:
        source = make_encoded(query, connection_string=matrix)
        lines, rows = by_itself(source, layout)
        assert lines == by_arrow(source, layout), query
        assert rows == max(len(case.values + case.refused) for case in CASES) + 1


@pytest.mark.parametrize(
    "hostile", ["datestyle = 'SQL, DMY'", "intervalstyle = 'iso_8601'", "extra_float_digits = 0", "bytea_output = 'escape'", "timezone = 'Asia/Kolkata'"]
)
def test_its_lines_do_not_depend_on_the_databases_settings(make_encoded: Callable[..., Any], database: str, hostile: str) -> None:
    query = "SELECT now()::date AS a, '1 day 2 hours'::interval AS b, 0.1::float8 + 0.2::float8 AS c, '\\x00ff'::bytea AS d, now() AS e, true AS f, '\\x00'::bytea::text AS g"
    execute(database, f"ALTER DATABASE {database.rpartition('/')[2]} SET {hostile}")
    source = make_encoded(query)
    assert by_itself(source, CsvFormat())[0][:20] == by_arrow(source, CsvFormat())[:20]
    assert b"0.30000000000000004" in by_itself(source, CsvFormat())[0]


@pytest.mark.parametrize("name", DIALECTS)
def test_hostile_text_stays_what_it_is(make_encoded: Callable[..., Any], database: str, name: str) -> None:
    execute(database, "CREATE TABLE t (n serial, a text, b int, c varchar)")
    with psycopg.connect(database) as connection:
        for text in (*TEXTS, None):
            connection.execute("INSERT INTO t (a, b, c) VALUES (%s, 1, %s), (%s, NULL, NULL), (NULL, 2, %s)", [text] * 4)
    layout = CsvFormat(**DIALECTS[name])
    for query in ("SELECT a, b, c FROM t ORDER BY n", "SELECT a FROM t ORDER BY n", "SELECT b FROM t ORDER BY n"):
        source = make_encoded(query)
        assert by_itself(source, layout)[0] == by_arrow(source, layout)


def test_its_file_is_the_one_that_psql_copies(make_encoded: Callable[..., Any], database: str) -> None:
    query = "SELECT i, i / 7.0 AS n, now()::date + i AS d, CASE i % 3 WHEN 0 THEN '' WHEN 1 THEN 'a, b' END AS t FROM generate_series(1, 1000) i"
    with psycopg.connect(database) as connection, connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv)") as copied:
        assert by_itself(make_encoded(query), CsvFormat(header=False)) == (b"".join(map(bytes, copied)), 1000)


def test_pieces_end_with_rows_and_the_server_counts_them(make_encoded: Callable[..., Any]) -> None:
    lines, rows = by_itself(make_encoded("SELECT i, E'two\\nlines' AS b FROM generate_series(1, 200000) i"), CsvFormat())
    assert rows == 200_000
    assert lines.count(b"\n") == 400_000
    assert by_itself(make_encoded("SELECT 1 AS a WHERE false"), CsvFormat()) == (b"", 0)


def test_leaving_its_lines_early_cancels_within_a_second(make_encoded: Callable[..., Any], database: str) -> None:
    source = make_encoded("SELECT generate_series(1, 1000000000) AS i, repeat('x', 100) AS pad /* abandoned */")
    with source.read_encoded(CsvFormat().dialect) as stream:
        next(iter(stream.pieces))
        until(lambda: running(database, "abandoned"))
        left = time.monotonic()
    assert time.monotonic() - left < 1.5
    until(lambda: not running(database, "abandoned"), 1)
    until(lambda: not connected(database), 2)


@pytest.mark.parametrize(("query", "sqlstate"), [("SELECT 1 / (i - 90000) FROM generate_series(1, 100000) i", "22012"), ("SELECT pg_sleep(30)", "57014")])
def test_an_error_ends_its_lines(make_encoded: Callable[..., Any], query: str, sqlstate: str) -> None:
    with pytest.raises(QueryFailed) as caught:
        by_itself(make_encoded(query, statement_timeout=1), CsvFormat())
    assert caught.value.sqlstate == sqlstate


def test_an_export_takes_the_sources_own_lines_where_it_can(make_encoded: Callable[..., Any]) -> None:
    from engine.routes.export import Target, export

    query = "SELECT i, 'x' AS b FROM generate_series(1, 1000) i"
    asked: list[str] = []

    class Watched(type(make_encoded(query))):  # type: ignore[misc]
        def read(self, form: Form = "typed") -> Any:
            asked.append("rows")
            return super().read(form)

        def read_encoded(self, dialect: Any) -> Any:
            asked.append("lines")
            return super().read_encoded(dialect)

    def run(target: Target, layout: Any) -> Any:
        return export(Watched(make_encoded(query)._options), layout, MemoryStore(), target)

    assert run(Target("x.csv", ".csv"), CsvFormat()).rows == 1000
    assert run(Target("x.csv.gz", ".csv.gz"), CsvFormat(compression="gzip")).files[0].rows == 1000
    assert run(Target("x.csv", ".csv", max_file_rows=300), CsvFormat()).rows == 1000
    assert run(Target("x.csv", ".csv", max_file_bytes=1 << 20), CsvFormat()).rows == 1000
    assert asked == ["lines", "lines", "rows", "rows"]
