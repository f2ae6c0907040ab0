"""An inferred table takes every value of the files and gives back what stood in them; what is ambiguous stays text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import SchemaMismatch
from engine.postgres.inference import Inference, columns_of
from engine.postgres.plan import FIELD_TYPE_KEY
from tests.effort import examples
from tests.postgres.cases import CASES, TYPES_OF_OURS
from tests.postgres.forms import FORMS, ISO_8601_ALONE
from tests.postgres.loading import load, query
from tests.postgres.test_types import create_tables, read

if TYPE_CHECKING:
    from collections.abc import Sequence


def inferred(*blocks: Sequence[str | None]) -> str:
    inference = Inference()
    for block in blocks:
        inference.add(pa.record_batch({"v": pa.array(block, pa.string())}))
    [column] = inference.columns()
    return column.type


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", "0", None], "bigint"),
        (["9223372036854775807", "-9223372036854775808"], "bigint"),
        (["9223372036854775808"], "numeric(38,0)"),
        (["1" * 39], "numeric"),
        (["00123", "1"], "text"),
        (["+1"], "text"),
        (["-0"], "text"),
        ([" 1"], "text"),
        (["1 "], "text"),
        ([""], "text"),
        (["1", ""], "text"),
        (["0x10"], "text"),
        (["1_000"], "text"),
        (["1,5"], "text"),
        (["٣"], "text"),
        (["1\n"], "text"),
        (["1.50", "-2.25"], "numeric(38,2)"),
        (["1.5", "2.25", "3"], "numeric"),
        (["0.1", "0.30000000000000004"], "numeric"),
        (["-0.05"], "numeric(38,2)"),
        (["1.5", "-0.0"], "text"),
        ([".5"], "text"),
        (["5."], "text"),
        (["01.5"], "text"),
        (["1e5", "2"], "double precision"),
        (["1e-05", "0.30000000000000004", "1.7976931348623157e+308", "5e-324", "NaN", "-Infinity", "-0.0"], "double precision"),
        (["1e5", "9007199254740993"], "text"),
        (["1e5", "0.300000000000000041"], "text"),
        (["1e400"], "text"),
        (["1e-400"], "text"),
        (["nan"], "text"),
        (["true", "false", None], "boolean"),
        (["true"], "boolean"),
        (["t", "f"], "boolean"),
        (["f", "f"], "text"),
        (["t", "true"], "text"),
        (["TRUE", "FALSE"], "text"),
        (["yes", "no"], "text"),
        (["2024-01-31", "0001-01-01"], "date"),
        (["2024-02-30"], "text"),
        (["0000-01-01"], "text"),
        (["1/2/2024"], "text"),
        (["31.01.2024"], "text"),
        (["20240131"], "bigint"),
        (["2024-01-31", "2024-01-31 10:00"], "text"),
        (["2024-01-31", "infinity"], "text"),
        (["2024-01-31 10:00", "2024-01-31T10:00:00.123456"], "timestamp without time zone"),
        (["2024-01-31 10:00:00.1234567"], "text"),
        (["2024-01-31 24:00"], "text"),
        (["2024-01-31 10:00Z", "2024-01-31T10:00:00.5+02:30"], "timestamp with time zone"),
        (["2024-01-31 10:00Z", "2024-01-31 10:00"], "text"),
        (["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], "uuid"),
        (["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"], "text"),
        (["x"], "text"),
        ([None, None], "text"),
    ],
)
def test_each_kind_of_text(values: list[str | None], expected: str) -> None:
    assert inferred(values) == expected
    assert inferred(*[[value] for value in values]) == expected
    assert inferred([None], *[[value] for value in reversed(values)], []) == expected


def test_the_last_value_of_many_counts() -> None:
    assert inferred(*[["1"] * 1000] * 50, ["1"] * 999 + ["1a"]) == "text"


def test_names_are_kept_and_files_must_agree() -> None:
    inference = Inference()
    inference.add(pa.record_batch({"Patient ID": ["1"], "": ["x"], "ž": pa.nulls(1, pa.string())}))
    assert [(column.name, column.type) for column in inference.columns()] == [("Patient ID", "bigint"), ("", "text"), ("ž", "text")]
    with pytest.raises(SchemaMismatch, match="same columns"):
        inference.add(pa.record_batch({"Patient ID": ["1"]}))


LINKED = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FAMILIES = ("integer", "numeric", "double precision", "boolean", "date", "timestamp", "timestamptz", "uuid", "text")


@LINKED
@given(
    st.sampled_from(FAMILIES).flatmap(
        lambda kind: st.lists(st.none() | st.sampled_from([f for f in FORMS[kind] if f.isprintable() and f not in ISO_8601_ALONE]), min_size=1, max_size=4)
    )
)
def test_what_is_inferred_loses_nothing(module_database: str, values: list[str | None]) -> None:
    """Exact text for all but moments and doubles, which keep their value: PostgreSQL is asked whether it is the same."""
    kind = inferred(values)
    query(module_database, f"DROP TABLE IF EXISTS guessed; CREATE TABLE guessed (n serial, v {kind})")
    assert not any(load(module_database, "guessed", pa.array(values, pa.string())))
    stored = [row[0] for row in query(module_database, "SELECT v::text FROM guessed ORDER BY n")]
    if kind.startswith("timestamp"):
        values = [row[0] for row in query(module_database, f"SELECT v::{kind}::text FROM unnest(%s::text[]) WITH ORDINALITY AS x(v, n) ORDER BY n", values)]
    if kind == "double precision":
        assert [None if one is None else float(one) for one in stored] == [None if one is None else float(one) for one in values]
    elif kind == "boolean":
        assert [None if one is None else one[0] for one in stored] == [None if one is None else one[0] for one in values]
    else:
        assert stored == values


@LINKED
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False).map(repr), min_size=1, max_size=50))
def test_doubles_in_their_shortest_form_are_never_text(values: list[str]) -> None:
    assert inferred([*values, "1e+20"]) == "double precision"


DOMAINS = {"positive": "integer", "amount": "numeric(7,2)"}
"""PostgreSQL describes a query's column of a domain by its base type."""


@pytest.mark.slow
def test_columns_of_an_export_are_those_of_the_query(module_database: str) -> None:
    create_tables(module_database, CASES, TYPES_OF_OURS)
    for i in range(len(CASES)):
        [declared] = [
            row[0]
            for row in query(module_database, f"SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 't{i}'::regclass AND attname = 'v'")
        ]
        [column] = columns_of(read(module_database, f"SELECT v FROM t{i}").schema)
        assert (column.name, column.type) == ("v", DOMAINS.get(declared, declared))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.null(), "text"),
        (pa.bool_(), "boolean"),
        (pa.int8(), "smallint"),
        (pa.uint8(), "smallint"),
        (pa.int16(), "smallint"),
        (pa.uint16(), "integer"),
        (pa.int32(), "integer"),
        (pa.uint32(), "bigint"),
        (pa.int64(), "bigint"),
        (pa.uint64(), "numeric(20,0)"),
        (pa.float16(), "real"),
        (pa.float32(), "real"),
        (pa.float64(), "double precision"),
        (pa.decimal32(5, 1), "numeric(5,1)"),
        (pa.decimal128(10, 2), "numeric(10,2)"),
        (pa.decimal256(76, 30), "numeric(76,30)"),
        (pa.decimal128(5, -2), "numeric(7,0)"),
        (pa.decimal128(3, 5), "numeric(5,5)"),
        (pa.string(), "text"),
        (pa.large_string(), "text"),
        (pa.string_view(), "text"),
        (pa.dictionary(pa.int8(), pa.string()), "text"),
        (pa.dictionary(pa.int8(), pa.int64()), "bigint"),
        (pa.run_end_encoded(pa.int32(), pa.float32()), "real"),
        (pa.binary(), "bytea"),
        (pa.binary(16), "bytea"),
        (pa.binary_view(), "bytea"),
        (pa.date32(), "date"),
        (pa.date64(), "date"),
        (pa.time32("ms"), "time without time zone"),
        (pa.time64("ns"), "time without time zone"),
        (pa.timestamp("ns"), "timestamp without time zone"),
        (pa.timestamp("ms", "Europe/Prague"), "timestamp with time zone"),
        (pa.duration("s"), "interval"),
        (pa.month_day_nano_interval(), "interval"),
        (pa.uuid(), "uuid"),
        (pa.json_(pa.string()), "json"),
        (pa.list_(pa.int32()), "integer[]"),
        (pa.large_list(pa.timestamp("us", "UTC")), "timestamp with time zone[]"),
        (pa.list_(pa.uuid(), 3), "uuid[]"),
        (pa.list_(pa.list_(pa.int8())), "jsonb"),
        (pa.list_(pa.struct({"a": pa.int8()})), "jsonb"),
        (pa.struct({"a": pa.list_(pa.decimal128(5, 2))}), "jsonb"),
        (pa.map_(pa.string(), pa.float64()), "jsonb"),
        (pa.map_(pa.int32(), pa.date32()), "jsonb"),
    ],
)
def test_every_arrow_type_has_a_column(kind: pa.DataType, expected: str) -> None:
    [column] = columns_of(pa.schema({"v": kind}))
    assert (column.type, column.nullable) == (expected, True)


@pytest.mark.parametrize(
    "kind",
    [
        pa.opaque(pa.binary(), "inet", "PostgreSQL"),
        pa.dense_union([pa.field("a", pa.int8())]),
        pa.struct([("a", pa.int8()), ("a", pa.int8())]),
        pa.map_(pa.float64(), pa.int8()),
        pa.struct({"a": pa.duration("s")}),
        pa.list_(pa.dense_union([pa.field("a", pa.int8())])),
    ],
    ids=str,
)
def test_a_type_without_a_home_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(SchemaMismatch, match="column 'homeless'"):
        columns_of(pa.schema({"ok": pa.int8(), "homeless": kind}))


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(SchemaMismatch, match="columns 1 and 3 are both named 'a'"):
        columns_of(pa.schema([("a", pa.int8()), ("b", pa.int8()), ("a", pa.int8())]))


@pytest.mark.parametrize(
    "written",
    ["integer); DROP TABLE x; --", "integer, b integer", "", "integer DEFAULT (1)", 'x"y', "integer -- x", "integer\n; x", "int\0eger", "a(1)(2)", "integer[1"],
)
def test_metadata_that_is_no_type_never_becomes_sql(written: str) -> None:
    with pytest.raises(SchemaMismatch, match="column 'v': the PostgreSQL type in the file's metadata is no name of a type"):
        columns_of(pa.schema([pa.field("v", pa.int8(), metadata={FIELD_TYPE_KEY: written.encode()})]))


@pytest.mark.parametrize(
    "written",
    [
        '"My Type"',
        'other."My ""Type"""[]',
        "numeric(5,-2)",
        "timestamp(3) with time zone[]",
        '"char"',
        "bit varying(3)",
        "public.hstore",
        "geometry(Point,4326)",
    ],
)
def test_metadata_that_is_a_type_is_kept(written: str) -> None:
    field: Any = pa.field("v", pa.string(), metadata={FIELD_TYPE_KEY: written.encode()})
    assert columns_of(pa.schema([field]))[0].type == written
