"""Text is taken as PostgreSQL takes it, or refused by a rule. PostgreSQL itself is asked for every form."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from pyarrow import csv

from engine.postgres.casting import NULL_IN_NOT_NULL, caster
from engine.postgres.columns import Column
from tests.effort import spread
from tests.postgres.forms import FORMS, ISO_8601_ALONE, ONLY_THE_SERVER_SEES
from tests.postgres.loading import column_of, difference, ingest, load, query, table


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


@pytest.mark.parametrize("sql_type", spread(FORMS, 2))
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


def test_an_odd_value_is_not_rounded_by_the_server_either() -> None:
    cast = caster(Column("v", "timestamp(3) without time zone"), pa.string(), by_server=True).cast(pa.array(["10000-01-01 00:00:00.1234", "infinity"]))
    assert cast.rules is not None
    assert cast.rules.to_pylist() == ["more than 3 digits after the point", None]


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


@pytest.mark.parametrize(
    "sql_type", ["smallint", "integer", "bigint", "real", "double precision", "boolean", "date", "numeric(4,2)", "time(3)", "timestamp", "timestamptz"]
)
def test_what_the_csv_parser_parses_is_stored_like_the_text(database: str, sql_type: str) -> None:
    form = {"boolean": "t", "date": "2024-01-31", "time(3)": "10:11:12.5", "timestamp": "2024-01-31 10:00", "timestamptz": "2024-01-31 10:00+02"}.get(
        sql_type, "12"
    )
    column = column_of(database, table(database, "loaded", sql_type))
    made = caster(column, pa.string())
    options = csv.ConvertOptions(column_types={"v": made.plain}, true_values=["t"], false_values=["f"])
    parsed = csv.read_csv(io.BytesIO(f"v,w\n{form},\n".encode()), convert_options=options)["v"].combine_chunks()
    assert parsed.type == made.plain
    assert made.cast(parsed).values.equals(made.cast(pa.array([form])).values)
    ingest(database, "loaded", made, made.cast(parsed).values)
    table(database, "expected", sql_type, [form])
    assert difference(database, "loaded", "expected") == []


def test_what_the_csv_parser_lets_through_is_refused() -> None:
    made = caster(Column("v", "numeric(4,2)"), pa.string())
    assert made.plain == pa.decimal128(4, 2)
    too_long = pa.array([12345], pa.int64()).cast(pa.decimal128(38, 0)).view(pa.decimal128(38, 2)).view(pa.decimal128(4, 2))  # as the CSV parser gives it
    cast = made.cast(pa.concat_arrays([pa.array(["1.50"]).cast(pa.decimal128(4, 2)), too_long]))
    assert cast.rules is not None
    assert cast.rules.to_pylist() == [None, "does not fit numeric(4,2) without rounding"]


@pytest.mark.parametrize("sql_type", ["text", "uuid", "oid", "numeric", "numeric(60,2)", "bytea", "json", "inet", "money", "integer[]", "date[]"])
def test_what_the_csv_parser_does_not_know_stays_text(sql_type: str) -> None:
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
