"""Values of every PostgreSQL type, the odd ones first of all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A type, values of it as SQL literals, and how Parquet must hold them.

    `oracle` is SQL over a column `v` whose text equals Python's text of the Arrow value; None: the column must be `as_text`, exactly.
    `refused` are values that its Parquet type cannot hold.
    """

    sql_type: str
    values: tuple[str, ...]
    oracle: str | None = None
    refused: tuple[str, ...] = ()
    as_text: str = "v::text"

    @property
    def id(self) -> str:
        return self.sql_type


TEXTS = (
    "",
    " ",
    "NULL",
    r"\N",
    r"\.",
    '"',
    '""',
    "a,b",
    "a;b",
    "a\tb",
    "a|b",
    "line\nfeed",
    "carriage\rreturn",
    "both\r\n",
    "'quote'",
    "žluťoučký 患者 🧬",
    " padded ",
    "00123",
    "=1+1",
)

EPOCH_DAYS = "(v - date '1970-01-01')::text"
MICROSECONDS = "(extract(epoch FROM v) * 1000000)::numeric(30,0)::text"

CASES = (
    Case("bool", ("true", "false"), "initcap(v::text)"),
    Case("int2", ("-32768", "32767", "0"), "v::text"),
    Case("int4", ("-2147483648", "2147483647"), "v::text"),
    Case("int8", ("-9223372036854775808", "9223372036854775807"), "v::text"),
    Case("float4", ("0", "-0", "1.1", "3.4028235e38", "1e-45", "NaN", "Infinity", "-Infinity", "0.3"), "encode(float4send(v), 'hex')"),
    Case(
        "float8", ("0", "-0", "0.1", "1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-Infinity", "0.30000000000000004"), "encode(float8send(v), 'hex')"
    ),
    Case("numeric(10,2)", ("0", "-0.01", "99999999.99", "1.5"), "v::text", refused=("NaN",)),
    Case("numeric(38,0)", ("9" * 38, "-" + "9" * 38), "v::text"),
    Case("numeric(38,38)", ("0." + "9" * 38,), "v::text"),
    Case("numeric(76,10)", ("9" * 66 + "." + "1" * 10,), "v::text"),
    Case("numeric(1000,3)", ("9" * 997 + ".125", "NaN")),
    Case("numeric", ("0", "1.10", "1e-30", "1e60", "123456789012345678901234567890.123456789", "NaN")),
    Case("money", ("12.34", "-0.01", "92233720368547758.07", "0"), "v::numeric::text", as_text="v::numeric::text"),
    Case("text", TEXTS, "v"),
    Case("varchar(40)", TEXTS, "v"),
    Case("char(6)", ("x", "", "ab  ", "žluť"), "CASE WHEN v IS NOT NULL THEN format('%s', v) END"),
    Case("name", ("identifier", ""), "v::text"),
    Case('"char"', ("a", "")),
    Case("bytea", (r"\x", r"\x00ff", r"\x5c6e0a2c22"), "encode(v, 'hex')"),
    Case("date", ("1970-01-01", "0001-01-01", "4713-01-01 BC", "9999-12-31", "10000-01-01", "5874897-12-31"), EPOCH_DAYS, refused=("infinity", "-infinity")),
    Case("time", ("00:00", "23:59:59.999999"), "(extract(epoch FROM v) * 1000000)::bigint::text", refused=("24:00",)),
    Case("timetz", ("00:00+00", "24:00-15:59", "12:34:56.789012+05:30")),
    Case(
        "timestamp",
        ("1970-01-01", "4713-01-01 BC", "0044-03-15 12:00 BC", "2024-02-29 23:59:59.999999", "294246-12-31"),
        MICROSECONDS,
        refused=("infinity", "-infinity", "294276-12-31 23:59:59.999999"),
    ),
    Case(
        "timestamptz",
        ("1970-01-01 00:00+00", "1890-01-01 00:00+00", "2024-03-31 02:30+02", "4713-01-02 00:00+00 BC", "9999-12-31 23:59+00"),
        MICROSECONDS,
        refused=("infinity", "-infinity"),
    ),
    Case("interval", ("1 year 2 mons 3 days 04:05:06.789", "-1 day", "0", "178000000 years", "-00:00:00.000001")),
    Case("uuid", ("00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "v::text"),
    Case("json", ('{"a" : 1, "a":2}', "null", '"x\\n"', "[1,  2]", '{"ž":"ю"}'), "v::text"),
    Case("jsonb", ('{"b": 1.10, "a": null}', "null", "[]", '"\\u0001"'), "v::text"),
    Case("inet", ("10.0.0.1", "10.0.0.1/24", "::1", "2001:db8::/32")),
    Case("cidr", ("10.0.0.0/8", "2001:db8::/32")),
    Case("macaddr", ("08:00:2b:01:02:03",)),
    Case("macaddr8", ("08:00:2b:01:02:03:04:05",)),
    Case("bit(5)", ("10101",)),
    Case("varbit", ("", "101", "1" * 100)),
    Case("oid", ("0", "3000000000", "4294967295"), "v::text"),
    Case("regclass", ("pg_class", "-")),
    Case("regtype", ("integer",)),
    Case("xid", ("4294967295",)),
    Case("xid8", ("18446744073709551615",)),
    Case("cid", ("1",)),
    Case("tid", ("(0,1)",)),
    Case("pg_lsn", ("16/B374D848", "0/0")),
    Case("pg_snapshot", ("10:20:10,14,15",)),
    Case("tsvector", ("'a' 'fat':2,4 'cat':3A", "")),
    Case("tsquery", ("'fat' & ('rat' | 'cat')",)),
    Case("point", ("(1.5,-2)", "(NaN,Infinity)")),
    Case("line", ("{1,-1,0}",)),
    Case("lseg", ("[(0,0),(1,1)]",)),
    Case("box", ("(1,1),(0,0)",)),
    Case("path", ("[(0,0),(1,1)]", "((0,0),(1,1))")),
    Case("polygon", ("((0,0),(1,1),(1,0))",)),
    Case("circle", ("<(1,2),3>",)),
    Case("jsonpath", ('$."a"[*]?(@ > 1)',)),
    Case("int4range", ("[1,5)", "empty", "(,)")),
    Case("numrange", ("[1.10,2)",)),
    Case("tstzrange", ('["2024-01-01 00:00:00+00","2024-01-02 00:00:00+00")',)),
    Case("daterange", ("[2024-01-01,infinity)",)),
    Case("int4multirange", ("{[1,3),[5,7)}", "{}")),
    Case("mood", ("happy", 'so "so"', "ž,"), "v::text"),
    Case("positive", ("1", "2147483647"), "v::text"),
    Case("amount", ("1.50", "99999.99"), "v::text", refused=("NaN",)),
    Case("pair", ('(1,"a,b")', "(,)", '(1,"")', '(2,"say ""x""")')),
    Case("int4[]", ("{1,2}", "{}", "{NULL,3}"), "v::text", refused=("{{1,2},{3,4}}", "[2:3]={1,2}")),
    Case("text[]", ('{a,"b,c"}', '{"",NULL,"NULL"}', '{"q\\"x"}'), "v::text", refused=("{{a},{b}}",)),
    Case("numeric(6,2)[]", ("{1.5,2}", "{}"), "v::text", refused=("{NaN}",)),
    Case("numeric[]", ("{1.5,NaN}", "{}"), "v::text"),
    Case("date[]", ("{2024-01-01}", "{}"), "v::text", refused=("{2024-01-01,infinity}",)),
    Case("uuid[]", ("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",), "v::text"),
    Case("mood[]", ("{happy}",), "v::text"),
    Case("amount[]", ("{1.25}",), "v::text"),
    Case("positive[]", ("{1,2}",), "v::text"),
    Case("inet[]", ("{10.0.0.1,::1}",), "v::text[]::text"),
    Case("pair[]", ('{"(1,a)"}',), "v::text"),
    Case("int2vector", ("1 2",)),
    Case("oidvector", ("1 4000000000",)),
    Case("refcursor", ("c1",)),
)

SYSTEM_CASES = (
    Case("xml", ("<a>x &amp; y</a>", "text")),
    Case("hstore", ('"a"=>"1", "b"=>NULL', "")),
    Case("citext", ("Mixed Case", "", "NULL")),
    Case("ltree", ("Top.Science", "")),
    Case("hstore[]", ('{"\\"a\\"=>\\"1\\""}',), "v::text"),
)
"""Types that the embedded server is built without."""

TYPES_OF_OURS = """
CREATE TYPE mood AS ENUM ('happy', 'so "so"', 'ž,');
CREATE DOMAIN positive AS int4 CHECK (value > 0);
CREATE DOMAIN amount AS numeric(7,2);
CREATE TYPE pair AS (a int4, b text);
"""
