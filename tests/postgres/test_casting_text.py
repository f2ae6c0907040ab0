"""Text is taken as PostgreSQL takes it, or refused by a rule. PostgreSQL itself is asked for every form."""

from __future__ import annotations

import pyarrow as pa
import pytest

from engine.postgres.casting import NULL_IN_NOT_NULL, caster
from engine.postgres.columns import Column
from tests.postgres.loading import difference, load, query, table

BLANKED = (" 1", "1 ", "\t1\n", "\v1\f\r")
NUMBERS = (
    "0",
    "-0",
    "+0",
    "00123",
    "+12",
    "-12",
    "1.0",
    "1.",
    ".5",
    "-.5",
    "1e3",
    "1E-3",
    "1e",
    ".",
    "",
    "-",
    "+",
    "--1",
    "1,5",
    "1 2",
    "1_000",
    "0x10",
    "0X1f",
)
NUMBERS += (
    "-0x1",
    "0xFFFF",
    "0b1",
    "0o7",
    "1.5.2",
    "NaN",
    "nan",
    "-nan",
    "nan(1)",
    "inf",
    "-inf",
    "+Infinity",
    "INFINITY",
    "infinit",
    "x",
    "٣",
    "1e400",
    "1e-400",
)
NUMBERS += (
    "32767",
    "32768",
    "-32768",
    "-32769",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "1" * 40,
    "0." + "0" * 50 + "1",
    "2e-324",
    "3e-324",
)
NUMBERS += (
    "3.4028236e38",
    "1e39",
    "1e-46",
    "0e400",
    "-0.0",
    "99999999.99",
    "99999999.994",
    "999999999",
    "12345",
    "12300",
    "0.00999",
    "1.500",
    "4294967295",
    "1e9999",
)
DATES = ("2024-01-31", "2024-02-30", "2023-02-29", "2024-13-01", "0000-01-01", "0001-01-01", "9999-12-31", "10000-01-01", "5874897-12-31", "5874898-01-01")
DATES += (
    "4713-01-01 BC",
    "4714-11-24 bc",
    "4715-01-01 BC",
    "0044-02-30 BC",
    "infinity",
    "-INFINITY",
    "+infinity",
    "inf",
    "now",
    "today",
    "epoch",
    "1 Jan 2024",
    "1/2/2024",
)
DATES += (
    "31.01.2024",
    "20240131",
    "2024-1-31",
    "2024-01-31T10:00",
    "2024-01-31 10:00",
    "24-01-31",
    " 2024-01-31",
    "2024-01-31\n",
    "2024-01",
    "2024",
    "",
    "02024-01-31",
)
MOMENTS = tuple(
    f"2024-01-31{rest}"
    for rest in (" 10:00", "T10:00", "t10:00", " 10:00:00.1", " 10:00:00.123456", " 10:00:00.1234567", " 10", " 24:00", " 24:00:01", " 23:59:60")
)
MOMENTS += (
    "1999-02-29 00:00",
    "2024-01-31 1:00",
    "2024-01-31  10:00",
    "2024-01-31 10:00 PM",
    "294276-12-31 23:59:59.999999",
    "294277-01-01 00:00",
    "4714-11-24 00:00 BC",
    "99999-01-01",
)
ZONES = ("Z", "z", "+02", "+0200", "+02:00", "+02:30:15", " +02", "-15:59", "+16", "+2", " CET", " Europe/Prague", "+00 BC")
MOMENTS += tuple(f"2024-01-31 10:00:00{zone}" for zone in ZONES)
MOMENTS += ("1890-01-01 00:00:00+00:57:44", "0001-01-01 00:00:00+05", "9999-12-31 23:00:00-05", "0044-03-15 12:00:00+00:57:44 BC", "0000-06-01 00:00Z")
TIMES = (
    "00:00",
    "10:11",
    "10:11:12",
    "10:11:12.5",
    "10:11:12.123456",
    "10:11:12.1234567",
    "24:00",
    "24:00:00",
    "24:00:00.1",
    "23:59:60",
    "25:00",
    "1:02",
    "10",
    "10:11 PM",
    " 10:11",
    "101112",
)
TIMES += ("10:11+02", "10:11:12.5-05:30", "24:00:00+00", "10:11Z")
WORDS = (
    "t",
    "T",
    "tr",
    "true",
    "TRUE",
    "y",
    "yes",
    "on",
    "1",
    "f",
    "false",
    "no",
    "n",
    "off",
    "of",
    "0",
    "o",
    "yess",
    "2",
    "",
    " true",
    "on ",
    "truee",
    "y ",
    "00",
)
UUIDS = (
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
    "a0eebc999c0b4ef8bb6d6bb9bd380a11",
)
UUIDS += (
    "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
    "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "",
)
UUIDS += ("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0-eebc999c0b4ef8bb6d6bb9bd380a11")
BYTES = (
    r"\x",
    r"\x00ff",
    r"\xABcd",
    r"\x0",
    r"\xgg",
    r"\x 00 ff",
    r"\X00",
    "plain",
    "žluť",
    "",
    r"a\\b",
    r"\001\377",
    r"\400",
    r"\1",
    r"a\b",
    "\\",
    r"\\x00",
    r"\\\001",
)
JSONS = (
    '{"a" : 1}',
    "[]",
    "null",
    ' "x" ',
    "",
    " ",
    "{",
    "[1",
    "2],3",
    "1,2",
    '"a',
    'b"',
    "01",
    "1.",
    ".5",
    "-0",
    "NaN",
    "Infinity",
    "1e400",
    "1e131071",
    "1e131072",
    "1e-16383",
    "1e-16384",
)
JSONS += (
    r'"\u0000"',
    r'"\\u0000"',
    r'"\ud800"',
    r'"\ud83d\ude00"',
    r'"\ude00"',
    '"\t"',
    '{"a":1,"a":2}',
    '{"a":1,}',
    "{'a':1}",
    "truE",
    "﻿1",
    '"\\x"',
    "[" * 200 + "]" * 200,
    "1" * 5000,
    "[1]]",
)
BITS = ("10101", "1", "", "101010", "12", "B101", "x1F", " 10101")
AMOUNTS = ("12.34", "-0.01", "12.345", "$12.34", "1,234.50", "(12.34)", "", "92233720368547758.07", "1e3", " 5 ")
LETTERS = ("a", "", "ab", r"\001", "ž", "é", r"\400")
TEXTS = ("", " ", "a", "ab", "abc", "abcd", "abc ", "abcd ", "abc  ", "žluť", "žlu", "🧬🧬🧬", "🧬🧬🧬🧬", "x" * 63, "x" * 64, "ž" * 32, "NULL", r"\N")

FORMS = {
    **dict.fromkeys(("smallint", "integer", "bigint", "oid"), (*NUMBERS, *BLANKED)),
    **dict.fromkeys(("numeric", "numeric(10,2)", "numeric(5,-2)", "numeric(3,5)", "numeric(60,2)", "numeric(100,2)"), (*NUMBERS, *BLANKED)),
    **dict.fromkeys(("real", "double precision"), (*NUMBERS, *BLANKED)),
    "boolean": WORDS,
    "date": DATES,
    **dict.fromkeys(("timestamp", "timestamptz", "timestamp(3)", "timestamptz(0)"), (*DATES, *MOMENTS)),
    **dict.fromkeys(("time", "time(3)", "timetz", "timetz(0)"), TIMES),
    "uuid": UUIDS,
    "bytea": BYTES,
    **dict.fromkeys(("json", "jsonb"), JSONS),
    **dict.fromkeys(("bit(5)", "bit", "varbit", "varbit(5)"), BITS),
    "money": AMOUNTS,
    '"char"': LETTERS,
    **dict.fromkeys(("text", "varchar(3)", "char(3)", "char", "name", "varchar"), TEXTS),
}
ONLY_THE_SERVER_SEES = {"4715-01-01 BC", "5874898-01-01", "294277-01-01 00:00", "0044-02-30 BC"}
"""Odd forms that are sent to the server without a check of their calendar or size: it refuses them, and the file with them."""
ISO_8601_ALONE = {"2024-01-31 10", "2024-01-31 10:00:00+16"}
"""Taken, although PostgreSQL asks for minutes, and for offsets below 16 hours: they mean one moment only."""


@pytest.mark.parametrize("sql_type", FORMS)
def test_text_becomes_what_postgresql_makes_of_it_or_is_refused(database: str, sql_type: str) -> None:
    """Each form is loaded with the others around it, in one array, as a file would bring it."""
    forms = [form for form in FORMS[sql_type] if form not in ONLY_THE_SERVER_SEES | ISO_8601_ALONE]
    table(database, "loaded", sql_type)
    rules = load(database, "loaded", pa.array([None, *forms]))
    assert rules[0] is None
    taken = [form for form, rule in zip(forms, rules[1:], strict=True) if rule is None]
    assert taken
    table(database, "expected", sql_type, [None, *taken])
    assert difference(database, "loaded", "expected") == []
    shown = {r"\x0", r"\X00", r"\\x00"}  # parts of the rule's own example
    assert not [form for form, rule in zip(forms, rules[1:], strict=True) if rule and len(form.strip()) > 2 and form.strip() in rule and form not in shown]


@pytest.mark.parametrize("sql_type", FORMS)
def test_nothing_that_is_refused_would_have_been_plain(database: str, sql_type: str) -> None:
    """What PostgreSQL takes and gives back in the same words is never refused."""
    table(database, "loaded", sql_type)
    forms = [form for form in FORMS[sql_type] if form not in ONLY_THE_SERVER_SEES]
    rules = load(database, "loaded", pa.array(forms))
    same = "SELECT f FROM unnest(%s::text[]) AS f WHERE pg_input_is_valid(f, %s)"
    plain = [form for (form,) in query(database, same, forms, sql_type) if query(database, f"SELECT %s::{sql_type}::text = %s", form, form) == [(True,)]]
    refused = {form for form, rule in zip(forms, rules, strict=True) if rule}
    assert refused & set(plain) <= {"$12.34"}  # by lc_monetary of this server


@pytest.mark.parametrize(
    ("sql_type", "form", "rule"),
    [
        ("integer", "1.0", "not an integer"),
        ("integer", "2147483648", "does not fit integer"),
        ("numeric(10,2)", "1.005", "does not fit numeric(10,2) without rounding"),
        ("numeric(100,2)", "1.005", "more than 2 digits after the point"),
        ("numeric(10,2)", "x", "not a number"),
        ("real", "1e39", "out of range of real"),
        ("character varying(3)", "abc ", "longer than 3 characters"),
        ("date", "1/2/2024", "not a date as YYYY-MM-DD"),
        ("date", "2023-02-29", "no such day"),
        (
            "timestamp with time zone",
            "2024-01-31 10:00",
            "not a timestamp as YYYY-MM-DD HH:MM:SS with its offset from UTC, or more than six digits of a second",
        ),
        ("timestamp without time zone", "2024-01-31 10:00Z", "not a timestamp as YYYY-MM-DD HH:MM:SS without offset, or more than six digits of a second"),
        ("timestamp(3) without time zone", "2024-01-31 10:00:00.1234", "more than 3 digits of a second"),
        ("text", "a\0b", "holds a NUL byte, which PostgreSQL does not store in text"),
        ("inet", "a\0b", "holds a NUL byte, which PostgreSQL does not store in text"),
        ("bit(5)", "101", "not of 5 bits"),
        ("jsonb", r'"\u0000"', "valid JSON that jsonb does not hold: a NUL, half a surrogate pair, or a number beyond numeric"),
        ("boolean", "", "not a boolean"),
        ("uuid", "x", "not a uuid"),
    ],
)
def test_each_refusal_names_its_rule(sql_type: str, form: str, rule: str) -> None:
    cast = caster(Column("v", sql_type), pa.string()).cast(pa.array([form, None]))
    assert cast.rules is not None
    assert cast.rules.to_pylist() == [rule, None]
    assert cast.values.to_pylist() == [None, None]
    assert cast.refused is not None
    assert cast.refused.to_pylist() == [True, False]


def test_null_in_a_not_null_column_is_refused_by_row() -> None:
    cast = caster(Column("v", "integer", nullable=False), pa.string()).cast(pa.array(["1", None, "x"]))
    assert cast.rules is not None
    assert cast.rules.to_pylist() == [None, NULL_IN_NOT_NULL, "not an integer"]


@pytest.mark.parametrize("sql_type", ["date", "timestamp without time zone", "timestamp with time zone", "time without time zone", "numeric(10,2)"])
def test_one_odd_value_sends_the_column_to_the_server_and_only_then(sql_type: str) -> None:
    column = Column("v", sql_type)
    plain = {"numeric(10,2)": "1.50", "time without time zone": "10:00", "timestamp with time zone": "2024-01-31 10:00Z"}.get(sql_type, "2024-01-31")
    odd = {"numeric(10,2)": "NaN", "time without time zone": "24:00"}.get(sql_type, "-infinity")
    sent = {
        "time without time zone": "10:00:00.000000",
        "timestamp without time zone": "2024-01-31 00:00:00.000000",
        "timestamp with time zone": "2024-01-31 10:00:00.000000Z",
    }.get(sql_type, plain)
    direct = caster(column, pa.string())
    assert not direct.by_server
    assert not direct.cast(pa.array([plain, "garbage"])).needs_server
    assert direct.cast(pa.array([plain, odd, "garbage"])).needs_server
    server = caster(column, pa.string(), by_server=True)
    cast = server.cast(pa.array([plain, odd, "garbage"]))
    assert (server.by_server, server.target) == (True, pa.string())
    assert cast.values.to_pylist() == [sent, odd, None]
    assert not cast.needs_server


def test_what_the_csv_parser_parses_is_cast_too() -> None:
    made = caster(Column("v", "numeric(4,2)"), pa.string())
    assert made.plain == pa.decimal128(4, 2)
    too_long = pa.array([12345], pa.int64()).cast(pa.decimal128(38, 0)).view(pa.decimal128(38, 2)).view(pa.decimal128(4, 2))  # as the CSV parser gives it
    cast = made.cast(pa.concat_arrays([pa.array(["1.50"]).cast(pa.decimal128(4, 2)), too_long]))
    assert cast.rules is not None
    assert cast.rules.to_pylist() == [None, "does not fit numeric(4,2) without rounding"]


@pytest.mark.parametrize("sql_type", ["integer", "bigint", "real", "double precision", "boolean", "text", "uuid", "time without time zone"])
def test_what_the_csv_parser_reads_otherwise_stays_text(sql_type: str) -> None:
    assert caster(Column("v", sql_type), pa.string()).plain is None


def test_many_refused_rows_are_found_at_once() -> None:
    forms = [str(n) if n % 3 else f"x{n}" for n in range(30_000)]
    cast = caster(Column("v", "integer"), pa.string()).cast(pa.array(forms))
    assert cast.refused is not None
    assert cast.refused.to_pylist() == [n % 3 == 0 for n in range(30_000)]


def test_what_only_iso_8601_takes_is_the_same_both_ways(database: str) -> None:
    for odd in ([], ["infinity"]):
        table(database, "loaded", "timestamptz")
        assert not any(load(database, "loaded", pa.array(["2024-01-31 10:00:00+16", "2024-01-31 10Z", *odd])))
        table(database, "expected", "timestamptz", ["2024-01-30 18:00:00+00", "2024-01-31 10:00:00+00", *odd])
        assert difference(database, "loaded", "expected") == []
