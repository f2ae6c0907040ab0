"""Every PostgreSQL type arrives exactly, by its written rule, or is refused by name: nothing changes silently."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from engine import registry
from engine.errors import ConfigurationError, UnrepresentableValue
from engine.postgres.plan import FIELD_TYPE_KEY
from engine.postgres.source_options import PostgresSourceOptions
from engine.postgres.types import decimal_type, numeric_bounds
from tests.effort import spread
from tests.postgres.cases import CASES, SYSTEM_CASES, TYPES_OF_OURS, Case

if TYPE_CHECKING:
    from engine import embedded
    from engine.protocols import Form


def read(database: str, query: str, form: Form = "typed", /, **options: Any) -> pa.Table:
    """All rows of a query through the source."""
    parsed = PostgresSourceOptions.parse({"connection_string": database, "query": query, **options}, where="source")
    with registry.row_source(registry.POSTGRES, parsed).read(form) as stream:
        found: pa.Table = stream.reader.read_all()
        return found


def rows(database: str, query: str) -> list[Any]:
    """What psycopg reads, by another way than the engine's."""
    with psycopg.connect(database) as connection:
        connection.execute("SET DateStyle = 'ISO'; SET bytea_output = 'hex'; SET extra_float_digits = 1; SET IntervalStyle = 'postgres'")
        return [row[0] for row in connection.execute(query)]


def create_tables(database: str, cases: tuple[Case, ...], before: str) -> None:
    """One table per case, `t0`, `t1` …: the values, then NULL; `r0` … with the values that Parquet refuses."""
    with psycopg.connect(database) as connection:
        connection.execute(before)
        for i, case in enumerate(cases):
            for prefix, values in (("t", case.values), ("r", case.refused)):
                connection.execute(f"CREATE TABLE {prefix}{i} (n serial, v {case.sql_type})")
                for value in values:
                    connection.execute(f"INSERT INTO {prefix}{i} (v) VALUES (%s::{case.sql_type})", [value])
            connection.execute(f"INSERT INTO t{i} (v) VALUES (NULL)")


@pytest.fixture(scope="module")
def typed_database(module_database: str) -> str:
    create_tables(module_database, CASES, TYPES_OF_OURS)
    return module_database


def numbered() -> list[Any]:
    return [pytest.param(i, case, id=case.id) for i, case in enumerate(CASES)]


@pytest.mark.parametrize(("i", "case"), numbered())
def test_typed_values_equal_the_servers(typed_database: str, i: int, case: Case) -> None:
    column = read(typed_database, f"SELECT v FROM t{i} ORDER BY n").column(0)
    oracle = case.oracle or case.as_text
    expected = rows(typed_database, f"SELECT {oracle} FROM t{i} ORDER BY n")
    assert [python_text(value, column.type) for value in scalars(column)] == expected
    assert column.null_count == 1


@pytest.mark.parametrize(("i", "case"), spread(numbered(), 2))
def test_text_form_is_postgresqls_own_text(typed_database: str, i: int, case: Case) -> None:
    column = read(typed_database, f"SELECT v FROM t{i} ORDER BY n", "text").column(0)
    kept = {"char(6)": "format('%s', v)", "bool": "v"}  # text types travel as they are; a cast would strip the blanks of char(n)
    expected = rows(typed_database, f"SELECT {kept.get(case.sql_type, case.as_text)} FROM t{i} ORDER BY n")
    if pa.types.is_integer(column.type):
        assert [None if v is None else str(v) for v in column.to_pylist()] == expected
    else:
        expected[-1] = None  # format() makes NULL an empty string
        assert column.to_pylist() == expected


@pytest.mark.system
def test_types_of_extensions_arrive_as_their_text(system_postgres: embedded.Postgres) -> None:
    create_tables(system_postgres.url, SYSTEM_CASES, "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree")
    for i, case in enumerate(SYSTEM_CASES):
        test_typed_values_equal_the_servers(system_postgres.url, i, case)
        test_text_form_is_postgresqls_own_text(system_postgres.url, i, case)


@pytest.mark.parametrize(("i", "case"), [p for p in numbered() if p.values[1].refused])
def test_values_that_parquet_cannot_hold_stop_the_run_and_are_exact_as_text(typed_database: str, i: int, case: Case) -> None:
    for n, value in enumerate(case.refused, start=1):
        query = f"SELECT v FROM (SELECT v, 0 AS part, n FROM t{i} UNION ALL SELECT v, 1, n FROM r{i} WHERE n = {n}) x ORDER BY part, n"
        with pytest.raises(UnrepresentableValue) as caught:
            read(typed_database, query)
        assert "'v'" in str(caught.value)
        assert f"row {len(case.values) + 2}:" in str(caught.value)
        assert value not in str(caught.value).replace("±infinity", "").replace("NaN, ", "").replace("24:00 is", "")
        for asked in ("text", "v=text", {"v": "text"}):
            column = read(typed_database, query, unrepresentable=asked).column(0)
            assert column.to_pylist()[-1:] == rows(typed_database, f"SELECT {case.as_text} FROM r{i} WHERE n = {n}")


@pytest.mark.parametrize("i", spread([pytest.param(i, id=case.id) for i, case in enumerate(CASES)], 2))
def test_fields_carry_their_postgresql_type(typed_database: str, i: int) -> None:
    declared = rows(typed_database, f"SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 't{i}'::regclass AND attname = 'v'")
    field = read(typed_database, f"SELECT v FROM t{i} LIMIT 0").schema.field(0)
    base_of_domain = {"positive": "integer", "amount": "numeric(7,2)"}  # the protocol describes a domain by its base type
    assert field.metadata[FIELD_TYPE_KEY].decode() == base_of_domain.get(declared[0], declared[0])


def scalars(column: Any) -> Any:
    """Python values; temporal ones as raw numbers, since Python's own types do not reach as far."""
    kind = column.type
    if pa.types.is_date(kind):
        return column.cast(pa.int32()).to_pylist()
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return column.cast(pa.int64()).to_pylist()
    if isinstance(kind, pa.BaseExtensionType):
        return [None if v is None else str(v) for v in column.to_pylist()]
    return column.to_pylist()


def python_text(value: Any, kind: pa.DataType) -> str | None:
    """An Arrow value as the oracle prints it."""
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return struct.pack(">f" if kind == pa.float32() else ">d", value).hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, list):
        return "{" + ",".join(array_item(python_text(item, kind.value_type)) for item in value) + "}"
    return str(value)


def array_item(text: str | None) -> str:
    """One element as PostgreSQL prints it inside an array."""
    if text is None:
        return "NULL"
    if text == "" or text.upper() == "NULL" or any(c in text for c in ',"\\{} '):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


@pytest.mark.parametrize(
    ("precision", "scale", "expected"),
    [
        (5, -2, pa.decimal128(7, 0)),
        (3, 5, pa.decimal128(5, 5)),
        (38, 10, pa.decimal128(38, 10)),
        (39, 10, pa.decimal256(39, 10)),
        (76, 76, pa.decimal256(76, 76)),
        (77, 0, None),
    ],
)
def test_decimal_type_widens_what_parquet_does_not_know(precision: int, scale: int, expected: pa.DataType | None) -> None:
    assert decimal_type(precision, scale) == expected


@pytest.mark.parametrize(
    ("declared", "bounds"),
    [("numeric(10,2)", (10, 2)), ("numeric(5,-2)", (5, -2)), ("numeric(3,5)", (3, 5)), ("numeric(1000,1000)", (1000, 1000)), ("numeric", None)],
)
def test_numeric_bounds_are_those_of_the_declaration(database: str, declared: str, bounds: tuple[int, int] | None) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(f"CREATE TABLE n (v {declared})")
        row = connection.execute("SELECT atttypmod FROM pg_attribute WHERE attrelid = 'n'::regclass AND attname = 'v'").fetchone()
    assert row is not None
    assert numeric_bounds(row[0]) == bounds


def test_scales_outside_parquets_range_keep_their_values(database: str) -> None:
    table = read(database, "SELECT 12345::numeric(5,-2) AS a, 0.00123::numeric(3,5) AS b")
    assert table.to_pylist() == [{"a": Decimal(12300), "b": Decimal("0.00123")}]


def test_numeric_without_precision_becomes_decimal_on_request(database: str) -> None:
    query = "SELECT 1.50::numeric AS a, 2::numeric AS b, sum(x) AS c FROM (VALUES (1::numeric)) t(x)"
    table = read(database, query, numeric={"a": "5,2", "*": [9, 1]})
    assert [str(t) for t in table.schema.types] == ["decimal128(5, 2)", "decimal128(9, 1)", "decimal128(9, 1)"]
    assert table.to_pylist() == [{"a": Decimal("1.50"), "b": Decimal("2.0"), "c": Decimal("1.0")}]


def test_a_numeric_that_does_not_fit_stops_the_run(database: str) -> None:
    with pytest.raises(UnrepresentableValue, match=r"column 'a' \(numeric\), row 3: .*more digits than 5,2 allows"):
        read(database, "SELECT a::numeric FROM (VALUES (1.5), (2.25), (1.125)) t(a)", numeric=["a=5,2"])


@pytest.mark.parametrize(("option", "value"), [("numeric", "nope=5,2"), ("unrepresentable", "nope=text")])
def test_a_policy_for_an_unknown_column_is_refused(database: str, option: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match="'nope'"):
        read(database, "SELECT 1 AS a", "typed", **{option: value})


def test_a_type_without_text_is_refused_by_column(database: str) -> None:
    with pytest.raises(ConfigurationError, match=r"column 'c': type cstring has no text"):
        read(database, "SELECT textout('x') AS c")
