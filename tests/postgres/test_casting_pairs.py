"""Every Arrow type against every PostgreSQL type: stored exactly, refused by row, or refused by the column's name. Nothing else."""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import SchemaMismatch
from engine.postgres.casting import caster
from engine.postgres.casting_typed import plain_form
from engine.postgres.columns import Column
from tests.effort import examples, spread
from tests.postgres.loading import column_of, difference, load, query, table

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
UUID_BYTES = bytes.fromhex(UUID.replace("-", ""))


def view(values: list[int | None], storage: pa.DataType, kind: pa.DataType) -> pa.Array:
    return pa.array(values, storage).view(kind)


SAMPLES: dict[str, tuple[pa.Array, list[str | None]]] = {
    "null": (pa.nulls(2), [None, None]),
    "bool": (pa.array([True, False, None]), ["true", "false", None]),
    "int8": (pa.array([-128, 0, 127, None], pa.int8()), ["-128", "0", "127", None]),
    "uint8": (pa.array([255], pa.uint8()), ["255"]),
    "int16": (pa.array([-32768, 32767], pa.int16()), ["-32768", "32767"]),
    "uint16": (pa.array([65535], pa.uint16()), ["65535"]),
    "int32": (pa.array([-(2**31), 2**31 - 1, 16_777_217], pa.int32()), [str(-(2**31)), str(2**31 - 1), "16777217"]),
    "uint32": (pa.array([2**32 - 1], pa.uint32()), [str(2**32 - 1)]),
    "int64": (pa.array([-(2**63), 2**63 - 1, 2**53 + 1, 5], pa.int64()), [str(-(2**63)), str(2**63 - 1), str(2**53 + 1), "5"]),
    "uint64": (pa.array([2**64 - 1, 2**63, 1], pa.uint64()), [str(2**64 - 1), str(2**63), "1"]),
    "float16": (pa.array([1.5, -0.0], pa.float16()), ["1.5", "-0"]),
    "float32": (pa.array([0.1, math.inf, 3.0, -0.0], pa.float32()), ["0.1", "inf", "3", "-0"]),
    "float64": (pa.array([0.1, -math.inf, 5e-324, 4.0, 0.5, math.nan, 1e300]), ["0.1", "-inf", "5e-324", "4", "0.5", "nan", "1e300"]),
    "decimal32": (pa.array([Decimal("1.5")], pa.decimal32(5, 1)), ["1.5"]),
    "decimal64": (pa.array([Decimal("-12.00")], pa.decimal64(10, 2)), ["-12.00"]),
    "decimal128": (pa.array([Decimal("1.50"), Decimal("99999999.99"), None, Decimal("7.00")], pa.decimal128(10, 2)), ["1.50", "99999999.99", None, "7.00"]),
    "decimal128 of scale 0": (pa.array([Decimal(12)], pa.decimal128(38, 0)), ["12"]),
    "decimal128 of scale -2": (pa.array([Decimal(1200)], pa.decimal128(5, -2)), ["1200"]),
    "decimal256": (pa.array([Decimal("9" * 60 + ".01"), Decimal("1.25")], pa.decimal256(70, 2)), ["9" * 60 + ".01", "1.25"]),
    "string": (pa.array(["1", "x", None, ""]), ["1", "x", None, ""]),
    "large_string": (pa.array(["a\u017e"], pa.large_string()), ["a\u017e"]),
    "string_view": (pa.array(["a"], pa.string_view()), ["a"]),
    "dictionary": (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "dictionary of int64": (pa.array([7, None]).dictionary_encode(), ["7", None]),
    "run_end_encoded": (pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", None])), ["a", "a", None]),
    "binary": (pa.array([b"\0\xff", b"", None]), [r"\x00ff", r"\x", None]),
    "large_binary": (pa.array([b"\0"], pa.large_binary()), [r"\x00"]),
    "fixed_size_binary": (pa.array([b"\0\1"], pa.binary(2)), [r"\x0001"]),
    "date32": (pa.array([dt.date(2024, 1, 31), dt.date(1, 1, 1), None]), ["2024-01-31", "0001-01-01", None]),
    "date32 out of range": (view([-2_440_589, 2**31 - 1, -2_440_588], pa.int32(), pa.date32()), ["refused", "refused", "4714-11-24 BC"]),
    "date64": (pa.array([dt.date(2024, 1, 31)], pa.date64()), ["2024-01-31"]),
    "time32": (view([86_399], pa.int32(), pa.time32("s")), ["23:59:59"]),
    "time64": (view([86_399_999_999, 1, 86_400_000_000], pa.int64(), pa.time64("us")), ["23:59:59.999999", "00:00:00.000001", "24:00"]),
    "time64 of ns": (view([1_000, 1_001], pa.int64(), pa.time64("ns")), ["00:00:00.000001", "refused"]),
    "timestamp of s": (view([0, -62_135_596_800], pa.int64(), pa.timestamp("s")), ["1970-01-01 00:00:00", "0001-01-01 00:00:00"]),
    "timestamp of s, far": (view([2**60], pa.int64(), pa.timestamp("s")), ["refused"]),
    "timestamp of us": (
        view([1_500_000, -210_866_803_200_000_000, -210_866_803_200_000_001], pa.int64(), pa.timestamp("us")),
        ["1970-01-01 00:00:01.5", "4714-11-24 00:00:00 BC", "refused"],
    ),
    "timestamp of ns": (view([1_000, 1_001], pa.int64(), pa.timestamp("ns")), ["1970-01-01 00:00:00.000001", "refused"]),
    "timestamp of UTC": (view([0], pa.int64(), pa.timestamp("us", tz="UTC")), ["1970-01-01 00:00:00+00"]),
    "timestamp of Prague": (view([0], pa.int64(), pa.timestamp("ms", tz="Europe/Prague")), ["1970-01-01 00:00:00+00"]),
    "duration": (pa.array([dt.timedelta(days=400, microseconds=1)], pa.duration("us")), ["9600:00:00.000001"]),
    "duration of ns": (view([1_000, 1_001], pa.int64(), pa.duration("ns")), ["00:00:00.000001", "refused"]),
    "interval": (pa.array([(14, -3, 1_000), None, (0, 0, 1_001)], pa.month_day_nano_interval()), ["1 year 2 mons -3 days 00:00:00.000001", None, "refused"]),
    "uuid": (pa.array([UUID_BYTES, None], pa.uuid()), [UUID, None]),
    "json": (pa.array(['{"b" : 1, "a":[]}', None], pa.json_(pa.string())), ['{"b" : 1, "a":[]}', None]),
    "list of int32": (pa.array([[1, None], [], None], pa.list_(pa.int32())), ["{1,NULL}", "{}", None]),
    "list of text": (pa.array([["a", 'q"\\', "", None, "NULL"]], pa.large_list(pa.string())), [r'{a,"q\"\\","",NULL,"NULL"}']),
    "list of fixed size": (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), ["{1,2}"]),
    "list of decimals": (pa.array([[Decimal("1.50"), None]], pa.list_(pa.decimal128(6, 2))), ["{1.50,NULL}"]),
    "struct": (pa.array([{"a": 1, "b": "x"}, None]), ['{"a":1,"b":"x"}', None]),
    "opaque": (pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "inet", "PostgreSQL"), pa.array([b"x"])), ["refused"]),
    "struct with two fields of one name": (pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), ["refused"]),
    "union": (pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]), ["refused"]),
}
TYPES = (
    *("smallint", "integer", "bigint", "oid", "real", "double precision", "numeric", "numeric(10,2)", "numeric(4,1)", "numeric(5,-2)", "numeric(70,2)"),
    *(
        "numeric(100,3)",
        "boolean",
        "text",
        "varchar(2)",
        "varchar",
        "char(3)",
        "name",
        "bytea",
        "uuid",
        "json",
        "jsonb",
        "date",
        "time",
        "time(3)",
        "timestamp",
    ),
    *(
        "timestamp(0)",
        "timestamptz",
        "interval",
        "money",
        "inet",
        "bit(1)",
        "xml",
        "tsvector",
        "point",
        "int4range",
        "int4[]",
        "int8[]",
        "text[]",
        "varchar(2)[]",
    ),
    *("numeric[]", "numeric(6,2)[]", "numeric(3,1)[]", "uuid[]", "jsonb[]", "inet[]", '"char"', "xid8", "time with time zone"),
)
JUDGED_BY_THE_SERVER = {"inet", "inet[]", "interval", "xml", "tsvector", "point", "int4range", "xid8"}
"""Of their text: a value that the server does not take fails the file."""
LISTS_AS_JSON: dict[str, list[str | None]] = {
    "list of int32": ["[1,null]", "[]", None],
    "list of text": [r'["a","q\"\\","",null,"NULL"]'],
    "list of fixed size": ["[1,2]"],
    "list of decimals": ["[1.50,null]"],
}
OTHERWISE: dict[tuple[str, str], list[str | None]] = {
    ("uuid", "bytea"): [r"\xa0eebc999c0b4ef8bb6d6bb9bd380a11", None],
    ("float32", "double precision"): ["0.10000000149011612", "inf", "3", "-0"],
    ("decimal64", "smallint"): ["-12"],
    ("decimal64", "integer"): ["-12"],
    ("decimal64", "bigint"): ["-12"],
    ("decimal128", "smallint"): [None, "7"],
    ("decimal128", "integer"): [None, "7"],
    ("decimal128", "bigint"): [None, "7"],
    **{(name, kind): texts for kind in ("json", "jsonb") for name, texts in LISTS_AS_JSON.items()},
}
"""What is stored of a sample in a type whose text of it differs; only the rows that are not refused."""
HOMES = {
    **dict.fromkeys(("int8", "uint8", "int16"), "smallint"),
    "uint16": "integer",
    "int32": "integer",
    "uint32": "bigint",
    "int64": "bigint",
    "bool": "boolean",
    "float16": "real",
    "float32": "real",
    "float64": "double precision",
    "decimal32": "numeric(10,2)",
    "decimal64": "numeric",
    "decimal128": "numeric(10,2)",
    "decimal256": "numeric(70,2)",
    "decimal128 of scale 0": "numeric",
    "decimal128 of scale -2": "numeric(5,-2)",
    "string": "text",
    "binary": "bytea",
    "date32": "date",
    "date64": "date",
    "time32": "time",
    "time64": "time",
    "timestamp of s": "timestamp",
    "timestamp of UTC": "timestamptz",
    "timestamp of Prague": "timestamptz",
    "duration": "interval",
    "uuid": "uuid",
    "json": "jsonb",
    "list of int32": "int4[]",
    "list of text": "text[]",
    "struct": "jsonb",
    "uint64": "numeric",
    "list of fixed size": "int8[]",
    "list of decimals": "numeric[]",
    "dictionary": "text",
    "large_string": "text",
    "string_view": "varchar",
}


@pytest.mark.slow
@pytest.mark.parametrize("sql_type", TYPES)
def test_a_pair_is_exact_or_refused(database: str, sql_type: str) -> None:
    table(database, "loaded", sql_type)
    column = column_of(database, "loaded")
    for name, (values, texts) in SAMPLES.items():
        if sql_type in JUDGED_BY_THE_SERVER and isinstance(texts[0], str) and (pa.types.is_string(plain_form(values.type)[0]) or name == "list of text"):
            continue
        if refused_by_name(column, values.type):
            continue
        query(database, "TRUNCATE loaded")
        rules = load(database, "loaded", values)
        kept = [text for text, rule in zip(texts, rules, strict=True) if rule is None]
        assert "refused" not in kept, name
        table(database, "expected", sql_type, OTHERWISE.get((name, sql_type), kept))
        assert difference(database, "loaded", "expected") == [], name


def refused_by_name(column: Column, kind: pa.DataType) -> bool:
    try:
        caster(column, kind)
    except SchemaMismatch as error:
        return str(error).startswith("column 'v': ") and column.type in str(error)
    return False


@pytest.mark.parametrize("name", spread(HOMES, 3))
def test_every_type_has_a_column_that_takes_all_of_it(database: str, name: str) -> None:
    values, texts = SAMPLES[name]
    table(database, "loaded", HOMES[name])
    assert not any(load(database, "loaded", values))
    table(database, "expected", HOMES[name], texts)
    assert difference(database, "loaded", "expected") == []


@pytest.mark.parametrize(
    ("sql_type", "values", "rules"),
    [
        ("bigint", pa.array([2**63, 1], pa.uint64()), ["does not fit bigint", None]),
        ("smallint", pa.array([40_000, None], pa.int64()), ["does not fit smallint", None]),
        ("numeric(4,1)", pa.array([Decimal("1.25"), Decimal("1.50")], pa.decimal128(6, 2)), ["does not fit numeric(4,1) without rounding", None]),
        ("double precision", pa.array([2**53 + 1, 2**53], pa.int64()), ["double precision does not hold it exactly", None]),
        ("real", pa.array([0.1, 0.5, math.nan]), ["real does not hold it exactly", None, None]),
        (
            "integer",
            pa.array([1.5, 2.0, math.nan]),
            ["does not fit integer, or has digits after the point", None, "does not fit integer, or has digits after the point"],
        ),
        ("timestamp without time zone", SAMPLES["timestamp of ns"][0], [None, "finer than a microsecond, or out of range"]),
        ("timestamp(0) without time zone", pa.array([1_500_000], pa.timestamp("us")), ["more than 0 digits of a second"]),
        ("character varying(2)", pa.array(["abc", "žž"]).dictionary_encode(), ["longer than 2 characters", None]),
        (
            "numeric(3,1)[]",
            pa.array([[Decimal("1.25")], [Decimal("1.50"), None]], pa.list_(pa.decimal128(6, 2))),
            ["does not fit numeric(3,1) without rounding", None],
        ),
        ("jsonb", pa.array([{"a": "x\0"}, {"a": "y"}]), ["holds a NUL, which PostgreSQL does not store in text", None]),
        ("jsonb", pa.array([[("k", 1), ("k", 2)], [("k", 1)]], pa.map_(pa.string(), pa.int8())), ["a map holds a key twice, which JSON objects do not", None]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_row(sql_type: str, values: pa.Array, rules: list[str | None]) -> None:
    cast = caster(Column("v", sql_type), values.type).cast(values)
    assert cast.rules is not None
    assert cast.rules.to_pylist() == rules


@pytest.mark.parametrize(
    ("sql_type", "kind", "remedy"),
    [
        ("timestamp with time zone", pa.timestamp("us"), "make the column timestamp without time zone"),
        ("timestamp without time zone", pa.timestamp("us", "UTC"), "make the column timestamp with time zone"),
        ("double precision", pa.decimal128(5, 2), "give the column another type"),
        ("date", pa.timestamp("us"), "give the column another type"),
        ("interval year to month", pa.month_day_nano_interval(), "give the column another type"),
        ("interval year to month", pa.string(), "give the column another type"),
        ("integer", pa.struct({"a": pa.int8()}), "give the column another type"),
    ],
)
def test_types_without_a_way_are_refused_with_a_remedy(sql_type: str, kind: pa.DataType, remedy: str) -> None:
    with pytest.raises(SchemaMismatch, match=remedy):
        caster(Column("v", sql_type), kind)


LINKED = settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def many(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | values, min_size=1, max_size=200)


def stored(database: str, sql_type: str, values: pa.Array, shown: str = "v::text") -> list[Any]:
    """What stands in the table, in the order of the array, read by another way."""
    query(database, f"DROP TABLE IF EXISTS loaded; CREATE TABLE loaded (n serial, v {sql_type})")
    assert not any(load(database, "loaded", values))
    return [row[0] for row in query(database, f"SELECT {shown} FROM loaded ORDER BY n")]


@LINKED
@given(many(st.integers(-(2**63), 2**63 - 1)))
def test_integers(module_database: str, values: list[int | None]) -> None:
    texts = [None if value is None else str(value) for value in values]
    assert stored(module_database, "bigint", pa.array(texts, pa.string())) == texts
    assert stored(module_database, "numeric", pa.array(values, pa.int64())) == texts


@LINKED
@given(many(st.decimals(-(10**27), 10**27, places=10, allow_nan=False)))
def test_numerics(module_database: str, values: list[Decimal | None]) -> None:
    texts = [None if value is None else f"{value:f}" if value else f"{abs(value):f}" for value in values]
    for sql_type in ("numeric(38,10)", "numeric(60,10)", "numeric"):
        assert stored(module_database, sql_type, pa.array(texts, pa.string())) == texts
        assert stored(module_database, sql_type, pa.array(values, pa.decimal128(38, 10))) == texts


@LINKED
@given(many(st.floats(width=64).filter(lambda value: not math.isnan(value))))
def test_doubles_keep_every_bit(module_database: str, values: list[float | None]) -> None:
    bits = [None if value is None else struct.pack(">d", value).hex() for value in values]
    texts = [None if value is None else repr(value) for value in values]
    assert stored(module_database, "double precision", pa.array(values, pa.float64()), "encode(float8send(v), 'hex')") == bits
    assert stored(module_database, "double precision", pa.array(texts, pa.string()), "encode(float8send(v), 'hex')") == bits


@LINKED
@given(many(st.floats(width=32).filter(lambda value: not math.isnan(value))))
def test_reals_keep_every_bit(module_database: str, values: list[float | None]) -> None:
    bits = [None if value is None else struct.pack(">f", value).hex() for value in values]
    for given_values in (pa.array(values, pa.float32()), pa.array(values, pa.float64()), pa.array(values, pa.float32()).cast(pa.string())):
        assert stored(module_database, "real", given_values, "encode(float4send(v), 'hex')") == bits


@LINKED
@given(many(st.dates()))
def test_dates(module_database: str, values: list[dt.date | None]) -> None:
    texts = [None if value is None else value.isoformat() for value in values]
    assert stored(module_database, "date", pa.array(texts, pa.string())) == texts
    assert stored(module_database, "date", pa.array(values, pa.date32())) == texts


@LINKED
@given(many(st.datetimes()))
def test_timestamps(module_database: str, values: list[dt.datetime | None]) -> None:
    texts = [None if value is None else value.isoformat(" ") for value in values]
    shown = "to_char(v, 'YYYY-MM-DD HH24:MI:SS') || CASE WHEN date_part('microseconds', v)::int % 1000000 = 0 THEN '' ELSE to_char(v, '.US') END"
    assert stored(module_database, "timestamp", pa.array(texts, pa.string()), shown) == texts
    assert stored(module_database, "timestamp", pa.array(values, pa.timestamp("us")), shown) == texts


OFFSETS = st.integers(-15 * 60, 15 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
INSTANTS = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=OFFSETS)  # noqa: DTZ001


@LINKED
@given(many(INSTANTS))
def test_instants(module_database: str, values: list[dt.datetime | None]) -> None:
    texts = [None if value is None else value.isoformat() for value in values]
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    microseconds = [None if value is None else (value - epoch) // dt.timedelta(microseconds=1) for value in values]
    shown = "(extract(epoch FROM v) * 1000000)::bigint"
    assert stored(module_database, "timestamptz", pa.array(texts, pa.string()), shown) == microseconds
    assert stored(module_database, "timestamptz", pa.array(microseconds, pa.int64()).view(pa.timestamp("us", tz="Asia/Tokyo")), shown) == microseconds


@LINKED
@given(many(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_texts(module_database: str, values: list[str | None]) -> None:
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert stored(module_database, "text", pa.array(values, pa.string()).cast(kind), "v") == values
    assert stored(module_database, "text[]", pa.array([values, None, []], pa.list_(pa.string())), "v") == [values, None, []]
    assert stored(module_database, "jsonb", pa.array([{"v": value} for value in values], pa.struct({"v": pa.string()})), "v->>'v'") == values


@LINKED
@given(many(st.binary(max_size=40)))
def test_bytes(module_database: str, values: list[bytes | None]) -> None:
    texts = [None if value is None else "\\x" + value.hex() for value in values]
    escaped = [None if value is None else "".join(chr(b) if 32 <= b < 127 and b != 92 else f"\\{b:03o}" for b in value) for value in values]
    for given_values in (pa.array(values, pa.binary()), pa.array(texts, pa.string()), pa.array(escaped, pa.string())):
        assert stored(module_database, "bytea", given_values) == texts


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@LINKED
@given(st.lists(JSON_VALUES.map(json.dumps) | st.text(alphabet='[]{},:"\\u0 1eE.-nulltruefalse', max_size=12), min_size=1, max_size=30))
def test_json_is_valid_where_postgresql_says_so(module_database: str, texts: list[str]) -> None:
    for sql_type in ("json", "jsonb"):
        valid = [
            row[0]
            for row in query(module_database, f"SELECT pg_input_is_valid(t, '{sql_type}') FROM unnest(%s::text[]) WITH ORDINALITY AS x(t, n) ORDER BY n", texts)
        ]
        cast = caster(Column("v", sql_type), pa.string()).cast(pa.array(texts))
        assert [True] * len(texts) if cast.rules is None else cast.rules.is_null().to_pylist() == valid


@pytest.mark.parametrize("name", HOMES)
def test_a_part_of_an_array_is_cast_as_the_whole(name: str) -> None:
    """Readers hand on slices; what lies before and after them is not looked at."""
    values, _ = SAMPLES[name]
    made = caster(Column("v", HOMES_AS_WRITTEN.get(HOMES[name], HOMES[name])), values.type)
    whole = made.cast(pa.concat_arrays([values] * 3)).values
    for start in range(len(values)):
        for length in range(len(values) - start + 1):
            part = pa.concat_arrays([values] * 3).slice(len(values) + start, length)
            assert str(made.cast(part).values) == str(whole.slice(len(values) + start, length))


HOMES_AS_WRITTEN = {
    "varchar": "character varying",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "int4[]": "integer[]",
    "int8[]": "bigint[]",
}
"""The types' names as `format_type()` writes them."""


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()], ids=str)
@pytest.mark.parametrize(
    ("type_", "fits", "too_large"), [("numeric(4,2)", 99, 100), ("numeric(3)", 120, None), ("numeric(38,30)", 127, None), ("numeric(60,50)", 127, None)]
)
def test_integers_go_into_narrow_numerics_by_value_not_by_type(kind: pa.DataType, type_: str, fits: int, too_large: int | None) -> None:
    cast = caster(Column("v", type_), kind).cast(pa.array([0, fits, too_large], kind))
    assert [None if value is None else int(value) for value in cast.values.to_pylist()] == [0, fits, None]
    rules = [None, None, None] if cast.rules is None else cast.rules.to_pylist()
    assert [rule is None for rule in rules] == [True, True, too_large is None]
