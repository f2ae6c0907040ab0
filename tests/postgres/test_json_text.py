"""Nested values become JSON from which each of them can be read back, and which PostgreSQL stores without changing it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.postgres.json_text import has_json, json_text
from engine.postgres.ways import Refused
from tests.effort import examples
from tests.postgres.loading import load, query


def texts(*values: Any, kind: pa.DataType) -> list[str | None]:
    """The JSON of each value in a list of its own, without the brackets: as one stands inside of something."""
    assert has_json(pa.list_(kind))
    elements = pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), pa.array(values, kind))
    return [None if text is None else text[1:-1] for text in json_text(elements).to_pylist()]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.bool_(), True, "true"),
        (pa.int64(), -(2**63), "-9223372036854775808"),
        (pa.uint64(), 2**64 - 1, "18446744073709551615"),
        (pa.decimal128(38, 10), Decimal("1234567890123456789012345678.0000000010"), "1234567890123456789012345678.0000000010"),
        (pa.decimal128(5, 2), Decimal("-0.50"), "-0.50"),
        (pa.float64(), 0.1, "0.1"),
        (pa.float64(), 5e-324, "5e-324"),
        (pa.float64(), float("nan"), '"NaN"'),
        (pa.float64(), float("inf"), '"Infinity"'),
        (pa.float32(), float("-inf"), '"-Infinity"'),
        (pa.float64(), -0.0, '"-0"'),
        (pa.float32(), 0.1, "0.1"),
        (pa.float16(), 0.5, "0.5"),
        (pa.string(), 'say "x\\y"\n\t\r\x01\x1f ž🧬', r'"say \"x\\y\"\n\t\r\u0001\u001f ž🧬"'),
        (pa.large_string(), "", '""'),
        (pa.dictionary(pa.int8(), pa.string()), "a", '"a"'),
        (pa.binary(), b"\0\xff", r'"\\x00ff"'),
        (pa.binary(2), b"ab", r'"\\x6162"'),
        (pa.uuid(), bytes(range(16)), '"00010203-0405-0607-0809-0a0b0c0d0e0f"'),
        (pa.json_(pa.string()), '{"a" : [1]}', '{"a" : [1]}'),
        (pa.null(), None, "null"),
        (pa.int8(), None, "null"),
        (pa.string(), None, "null"),
        (pa.struct({"a": pa.int8()}), None, "null"),
        (pa.struct({"a": pa.int8(), 'q"': pa.list_(pa.string())}), {"a": None, 'q"': ["x", None]}, r'{"a":null,"q\"":["x",null]}'),
        (pa.struct([]), {}, "{}"),
        (pa.list_(pa.list_(pa.int8())), [[1], [], None], "[[1],[],null]"),
        (pa.list_(pa.int8(), 2), [1, 2], "[1,2]"),
        (pa.map_(pa.string(), pa.int8()), [("a", 1), ("b", None)], '{"a":1,"b":null}'),
        (pa.map_(pa.string(), pa.int8()), [], "{}"),
        (pa.map_(pa.int32(), pa.bool_()), [(1, True)], '{"1":true}'),
        (pa.map_(pa.bool_(), pa.bool_()), [(True, True)], '{"true":true}'),
    ],
)
def test_each_type_has_one_form(kind: pa.DataType, value: Any, expected: str) -> None:
    assert texts(value, value, kind=kind) == [expected, expected]


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        (pa.date32(), 0, '"1970-01-01"'),
        (pa.time64("us"), 1, '"00:00:00.000001"'),
        (pa.time32("s"), 86_399, '"23:59:59"'),
        (pa.timestamp("us"), 1, '"1970-01-01T00:00:00.000001"'),
        (pa.timestamp("ns"), 1, '"1970-01-01T00:00:00.000000001"'),
        (pa.timestamp("s", "Europe/Prague"), 0, '"1970-01-01T00:00:00+00:00"'),
        (pa.timestamp("s"), -62_135_596_800, '"0001-01-01T00:00:00"'),
    ],
)
def test_each_moment_has_one_form(kind: pa.DataType, raw: int, expected: str) -> None:
    stored = pa.array([raw], pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)
    assert json_text(pa.StructArray.from_arrays([stored], ["v"])).to_pylist() == [f'{{"v":{expected}}}']


def test_null_at_the_top_is_null_not_json() -> None:
    assert json_text(pa.array([None, {"a": None}], pa.struct({"a": pa.int8()}))).to_pylist() == [None, '{"a":null}']


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (pa.array([["a\0"]]), "NUL"),
        (pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8())), "twice"),
        (pa.StructArray.from_arrays([pa.array([-62_135_596_801]).view(pa.timestamp("s"))], ["v"]), "years 1 to 9999"),
        (pa.array([{"a\0": 1}]), "NUL"),
    ],
)
def test_what_json_or_jsonb_would_lose_is_refused(values: pa.Array, rule: str) -> None:
    with pytest.raises(Refused, match=rule):
        json_text(values)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
ROWS = st.lists(
    st.none()
    | st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "d": st.none() | st.decimals(-(10**20), 10**20, places=6, allow_nan=False),
            "f": st.none() | st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: str(value) != "-0.0"),
            "t": st.none() | TEXT,
            "l": st.none() | st.lists(st.none() | TEXT, max_size=4),
            "m": st.none() | st.dictionaries(TEXT, st.none() | st.integers(-9, 9), max_size=4).map(lambda found: list(found.items())),
            "s": st.none() | st.fixed_dictionaries({"a": st.none() | st.booleans()}),
        }
    ),
    min_size=1,
    max_size=30,
)
KIND = pa.struct(
    {
        "n": pa.int64(),
        "d": pa.decimal128(38, 6),
        "f": pa.float64(),
        "t": pa.string(),
        "l": pa.list_(pa.string()),
        "m": pa.map_(pa.string(), pa.int8()),
        "s": pa.struct({"a": pa.bool_()}),
    }
)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.integers(0, 5))
def test_postgresql_gives_every_value_back(module_database: str, rows: list[dict[str, Any] | None], skipped: int) -> None:
    values = pa.array([None] * skipped + rows, KIND).slice(skipped)
    expected = [None if row is None else {**row, "m": None if row["m"] is None else dict(row["m"])} for row in rows]
    for kind in ("json", "jsonb"):
        query(module_database, f"DROP TABLE IF EXISTS nested; CREATE TABLE nested (n serial, v {kind})")
        assert not any(load(module_database, "nested", values))
        stored = [row[0] for row in query(module_database, "SELECT v::text FROM nested ORDER BY n")]
        found = [None if text is None else json.loads(text, parse_float=Decimal) for text in stored]
        for row in found:
            if row is not None and row["f"] is not None:
                row["f"] = float(row["f"])
        assert found == expected
