"""Values parsed straight from CSV are those that PostgreSQL makes of the same text; what it refuses is never parsed."""

from __future__ import annotations

import io
import math
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.formats.csv_reader import CsvBlock, CsvInput, CsvReader
from tests.effort import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

# PostgreSQL's type, Arrow's, characters that its values are made of, forms worth trying.
TYPES: dict[str, tuple[pa.DataType, str, list[str]]] = {
    "smallint": (pa.int16(), "0123456789-+xXe_ .", ["32767", "32768", "0x1F", "0XfF", " 0x1", "-0", "007", "+5", "1e2", "5 "]),
    "integer": (pa.int32(), "0123456789-+xXe_ .", ["2147483647", "2147483648", "0xFFFFFFFF", "0b1", "0o7", "\t5"]),
    "bigint": (pa.int64(), "0123456789-+xXe_ .", ["9223372036854775807", "9223372036854775808", "0xFFFFFFFFFFFFFFFF", "1_000"]),
    "real": (pa.float32(), "0123456789-+e. ", ["3.4e38", "3.5e38", "1e-40", "1e-50", "0." + "0" * 50 + "1", "nan", "-0", "0.1", "16777217"]),
    "double precision": (
        pa.float64(),
        "0123456789-+eEinfa. ",
        ["1e308", "1e309", "1e-310", "1e-400", "NaN", "nan(1)", "inf", "0e5", "0.1", "1.", ".5", "0x10"],
    ),
    "numeric(10,2)": (
        pa.decimal128(10, 2),
        "0123456789-+eE. ",
        ["1.", ".5", "+.5", "1e2", "1e-2", "99999999.99", "999999999.9", "NaN", "1.005", "1.000", "-", "100000000", "1e+-2", "0E+-0"],
    ),
    "boolean": (pa.bool_(), "tfTFrueals10 yno", ["t", "f", "true", "False", "TRUE", "1", "0", "yes", "on", "tr", " t", "tRue"]),
    "date": (pa.date32(), "0123456789-/ ", ["2024-02-29", "2023-02-29", "0000-01-01", "0001-01-01", "9999-12-31", "2024-1-5", " 2024-01-05", "infinity"]),
    "time": (pa.time64("us"), "0123456789:. ", ["12:34", "12:34:56.", "12:34:56.123456", "12:34:56.1234567", "24:00:00", "23:59:60", "00:00:00.1"]),
    "timestamp": (
        pa.timestamp("us"),
        "0123456789-:T. Z",
        ["2024-01-05", "2024-01-05 12", "2024-01-05T12:34", "2024-01-05 12:34:56.1", "0000-01-01 00:00:00", "2024-01-05 12:34:56Z", "2024-01-05 24:00:00"],
    ),
    "timestamptz": (
        pa.timestamp("us", "UTC"),
        "0123456789-:T. Z+",
        [f"2024-01-05 12:34:56{zone}" for zone in ("Z", "+00", "-03:30", "+0545", "+15:59", "+16", "-16", "+23:59", "+02:30:15", "", " UTC")]
        + ["2024-01-05 12Z", "2024-01-05 12+02:30", "2024-01-05 12:34+02", "2024-01-05 12:34-16", "0001-01-01 00:00:00+02", "0001-01-01 00:00:00-02"],
    ),
}


@pytest.fixture(scope="module")
def server(module_database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(module_database, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def block(*values: str) -> CsvBlock:
    lines = "".join('"' + value.replace('"', '""') + '",x\n' for value in values)
    return next(iter(CsvReader(io.BytesIO(f"a,b\n{lines}".encode()), CsvInput())))


def typed(kind: pa.DataType, *values: str) -> list[Any] | None:
    batch = block(*values).typed(pa.schema([("a", kind), ("b", pa.string())]))
    return None if batch is None else batch.column(0).to_pylist()


def by_server(connection: psycopg.Connection, kind: str, value: str) -> tuple[Any] | None:
    try:
        found = connection.execute(f"SELECT %s::text::{kind}", [value]).fetchone()
    except psycopg.DataError:
        return None
    # psycopg reads the shortest digits of a real as if they were a double precision's.
    return struct.unpack("f", struct.pack("f", *found)) if found and kind == "real" else found


def agree(connection: psycopg.Connection, kind: str, value: str) -> bool:
    """Whether the value was parsed; then it is the server's."""
    found = typed(TYPES[kind][0], value)
    if found is not None:
        wanted = by_server(connection, kind, value)
        assert wanted is not None
        assert found == [wanted[0]]
        if isinstance(wanted[0], float):
            assert math.copysign(1, found[0]) == math.copysign(1, wanted[0])
    return found is not None


@pytest.mark.parametrize("kind", TYPES)
def test_forms_worth_trying(server: psycopg.Connection, kind: str) -> None:
    taken = [value for value in TYPES[kind][2] if agree(server, kind, value)]
    assert 0 < len(taken) < len(TYPES[kind][2])


@pytest.mark.parametrize("kind", TYPES)
def test_any_form(server: psycopg.Connection, kind: str) -> None:
    @given(st.one_of(st.text(st.sampled_from(TYPES[kind][1]), max_size=12), st.sampled_from(TYPES[kind][2]).flatmap(mutated)))
    @settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
    def holds(value: str) -> None:
        agree(server, kind, value)

    holds()


def mutated(value: str) -> st.SearchStrategy[str]:
    return st.tuples(st.integers(0, len(value)), st.sampled_from("019-+:. xXeE"), st.booleans()).map(
        lambda change: value[: change[0]] + change[1] + value[change[0] + change[2] :]
    )


PLAIN = {
    "smallint": ["0", "-32768", "32767"],
    "bigint": ["0", "-9223372036854775808", "9223372036854775807"],
    "real": ["0", "-1.5", "3.4028235e+38", "1e-45"],
    "double precision": ["0", "-0", "0.1", "1.7976931348623157e+308", "5e-324", "1e+23"],
    "numeric(10,2)": ["0.00", "-99999999.99", "1.10"],
    "boolean": ["t", "f"],
    "date": ["0001-01-01", "2024-02-29", "9999-12-31"],
    "time": ["00:00:00", "23:59:59.999999", "12:00:00.5"],
    "timestamp": ["0001-01-01 00:00:00", "2024-02-29 12:00:00.5", "9999-12-31 23:59:59.999999"],
    "timestamptz": ["2024-02-29 12:00:00+00", "1890-01-01 00:00:00.5+05:30", "9999-12-31 23:59:59.999999+11"],
}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_the_server_writes_is_parsed(server: psycopg.Connection, kind: str) -> None:
    texts = [str(server.execute(f"SELECT %s::text::{kind}::text", [value]).fetchone()[0]) for value in PLAIN[kind]]  # type: ignore[index]
    values = [by_server(server, kind, text) for text in texts]
    assert typed(TYPES[kind][0], *texts) == [value[0] for value in values if value]


@pytest.mark.parametrize("kind", TYPES)
def test_null_is_bare_and_an_empty_string_is_no_value(kind: str) -> None:
    schema = pa.schema([("a", TYPES[kind][0]), ("b", pa.string())])
    bare = next(iter(CsvReader(io.BytesIO(b'a,b\n,""\n'), CsvInput()))).typed(schema)
    assert bare is not None
    assert bare.to_pylist() == [{"a": None, "b": ""}]
    assert typed(TYPES[kind][0], "") is None


def test_text_that_looks_like_an_exotic_number_does_not_stop_other_columns() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.int64())])
    reader = CsvReader(io.BytesIO(b'a,b\n0x1F,1\n" 0xF","2"\n1e-5,\n'), CsvInput())
    batch = next(iter(reader)).typed(schema)
    assert batch is not None
    assert batch.to_pylist() == [{"a": "0x1F", "b": 1}, {"a": " 0xF", "b": 2}, {"a": "1e-5", "b": None}]


def test_small_numbers_do_not_stop_other_columns() -> None:
    schema = pa.schema([("a", pa.float64()), ("b", pa.decimal128(5, 2))])
    batch = next(iter(CsvReader(io.BytesIO(b"a,b\n1e-05,1.5\n0,\n0.0,-2\n"), CsvInput()))).typed(schema)
    assert batch is not None
    assert batch.to_pylist() == [{"a": 1e-05, "b": Decimal("1.50")}, {"a": 0.0, "b": None}, {"a": 0.0, "b": Decimal("-2.00")}]


def test_rejects_leave_the_other_rows_typed() -> None:
    schema = pa.schema([("n", pa.int64()), ("m", pa.string())])
    one = next(iter(CsvReader(io.BytesIO(b'a,b\n1,x\n2\n3,"y"z\n4,\xff\n5,\n'), CsvInput())))
    batch = one.typed(schema)
    assert batch is not None
    assert batch.to_pylist() == [{"n": 1, "m": "x"}, {"n": 5, "m": None}]
    assert batch.schema == schema
    assert [reject.line for reject in one.rejects] == [3, 4, 5]
    assert [one.line(row) for row in range(one.rows)] == [2, 6]
    hexadecimal = next(iter(CsvReader(io.BytesIO(b"a,b\n0xFFFFFFFFFFFFFFFF,x\n2\n"), CsvInput())))
    assert hexadecimal.typed(schema) is None


def test_a_value_that_is_not_plain_leaves_the_text() -> None:
    one = block("1", "two", "3")
    assert one.typed(pa.schema([("a", pa.int64()), ("b", pa.string())])) is None
    assert one.rejects == []
    assert one.text().column(0).to_pylist() == ["1", "two", "3"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.decimal256(40, 2), pa.timestamp("ns"), pa.uint8(), pa.list_(pa.int32()), pa.large_string()])
def test_types_that_text_is_not_parsed_to(kind: pa.DataType) -> None:
    with pytest.raises(TypeError, match="CSV is not parsed straight to"):
        typed(kind, "1")


def test_types_are_given_for_all_columns() -> None:
    with pytest.raises(TypeError, match="1 types for 2 columns"):
        block("1").typed(pa.schema([("a", pa.int64())]))
