"""One written rule for every PostgreSQL type, for CSV (`text`), for Parquet and Arrow users (`typed`), and for another PostgreSQL (`exact`).

A rule says how the column is asked for (a chain of casts), what the driver then delivers, and which Arrow type is handed on.
The casts exist because the driver gets several types wrong without a word (±infinity, money, oid above 2³¹, arrays of two dimensions)
and delivers others as raw wire bytes; `::text` is PostgreSQL's own text of a value
(https://www.postgresql.org/docs/current/datatype.html).

`text` form: bool, integers and text types as they are; everything else as `::text`, money as `::numeric::text`.
`typed` form: the table below; what has no entry is text.
`exact` form: the same, but as text where the type has a value that its Arrow type cannot hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.errors import ConfigurationError
from engine.postgres import convert
from engine.postgres.convert import Convert  # noqa: TC001 - read at run time by dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.protocols import Form

MAX_DECIMAL_PRECISION = 76
MAX_DECIMAL128_PRECISION = 38


@dataclass(frozen=True, slots=True)
class PgType:
    """A row of `pg_type`, with what it refers to.

    Attributes:
        name: The type's own name (`int4`, `_numeric`).
        builtin: Whether it stands in `pg_catalog`.
        kind: `typtype`: b base, c composite, d domain, e enum, p pseudo, r range, m multirange.
        base: A domain's type, with `base_typmod`.
        element: An array's element.
    """

    name: str
    builtin: bool
    kind: str
    base: PgType | None = None
    base_typmod: int = -1
    element: PgType | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a query as the server describes it. `declared` is the type in SQL: `numeric(10,2)`, `mood[]`."""

    name: str
    type: PgType
    typmod: int
    declared: str


@dataclass(frozen=True, slots=True)
class Rule:
    """How one column travels.

    Attributes:
        arrow: The Arrow type handed on.
        casts: What the column is cast to, in order; none means as it is.
        convert: What turns the delivered array into `arrow`; raises `convert.Unfit` at a value that does not fit.
        checks_shape: The column is an array whose dimensions must be checked by the server.
        note: For the table in the README.
    """

    arrow: pa.DataType
    casts: tuple[str, ...] = ()
    convert: Convert | None = None
    checks_shape: bool = False
    note: str = "exact"

    def expression(self, column: str) -> str:
        """The select-list entry for a column of the wrapped query."""
        return "::".join((column, *self.casts))


AS_TEXT = Rule(pa.string(), ("text",), note="PostgreSQL's text")
_MONEY_TEXT = Rule(pa.string(), ("numeric", "text"), note="PostgreSQL's text of money::numeric")
_PLAIN_TEXT = {
    "bool": Rule(pa.bool_()),
    "int2": Rule(pa.int16()),
    "int4": Rule(pa.int32()),
    "int8": Rule(pa.int64()),
    "text": Rule(pa.string()),
    "varchar": Rule(pa.string()),
    "bpchar": Rule(pa.string(), note="exact, padded with blanks"),
    "name": Rule(pa.string()),
}
# The driver's decimal is slower than its text, and text is what a decimal can be checked against.
_PLAIN_TYPED = {
    **_PLAIN_TEXT,
    "float4": Rule(pa.float32()),
    "float8": Rule(pa.float64()),
    "oid": Rule(pa.int64(), ("int8",), note="exact, as a signed 64-bit number"),
    "bytea": Rule(pa.binary()),
    "uuid": Rule(pa.uuid(), note="exact, logical type UUID"),
    "json": Rule(pa.json_(pa.string()), note="exact text, logical type JSON"),
    "jsonb": Rule(pa.json_(pa.string()), note="PostgreSQL's text, logical type JSON"),
    "date": Rule(pa.date32(), convert=convert.date, note="exact; ±infinity is unrepresentable"),
    "time": Rule(pa.time64("us"), convert=convert.time, note="exact; 24:00 is unrepresentable"),
    "timestamp": Rule(pa.timestamp("us"), convert=convert.timestamp, note="exact, without zone; ±infinity and years from 294247 on are unrepresentable"),
    "timestamptz": Rule(
        pa.timestamp("us", tz="UTC"), convert=convert.timestamp, note="the instant, in UTC; ±infinity and years from 294247 on are unrepresentable"
    ),
    "money": Rule(
        pa.decimal128(19, 2),
        ("numeric", "text"),
        convert.decimal(pa.decimal128(19, 2)),
        note="exact; more than two fraction digits (lc_monetary) are unrepresentable",
    ),
}
_PSEUDO_WITH_TEXT = frozenset({"record", "_record", "anyarray", "unknown", "void"})


@dataclass(frozen=True, slots=True)
class TypePolicy:
    """What the user decided about values and columns (CONFIGURATION, "Behaviour").

    Attributes:
        numeric: Column → (precision, scale) for numerics without their own; `*` is the default.
        as_text: Columns written as exact text; `*` is every column that could hold an unrepresentable value.
    """

    numeric: Mapping[str, tuple[int, int]]
    as_text: frozenset[str]


def rule_for(column: Column, form: Form, policy: TypePolicy) -> Rule:
    """The rule of one column.

    Raises:
        ConfigurationError: The type has no rule (a pseudo-type without text).
    """
    kind, typmod = without_domain(column.type, column.typmod)
    if kind.kind == "p" and kind.name not in _PSEUDO_WITH_TEXT:
        raise ConfigurationError(f"column {column.name!r}: type {column.declared} has no text; cast it in the query or leave it out")
    text = _MONEY_TEXT if kind.builtin and kind.name == "money" else AS_TEXT
    if form == "text":
        return _text_rule(kind, text)
    if form == "typed" and column.name in policy.as_text:
        return text
    rule = _typed_rule(kind, typmod, policy.numeric.get(column.name, policy.numeric.get("*")))
    return text if (form == "exact" or "*" in policy.as_text) and can_refuse(rule) else rule


def can_refuse(rule: Rule) -> bool:
    """Whether a value could be unrepresentable under this rule."""
    return rule.convert is not None or rule.checks_shape


def _text_rule(kind: PgType, text: Rule) -> Rule:
    return _PLAIN_TEXT.get(kind.name, text) if kind.builtin else text


def without_domain(kind: PgType, typmod: int) -> tuple[PgType, int]:
    """A domain is its base type, with the modifier that the domain gave it."""
    while kind.kind == "d" and kind.base is not None:
        kind, typmod = kind.base, kind.base_typmod
    return kind, typmod


def sent_as(column: Column, rule: Rule) -> str:
    """The type that a column comes as over the wire, by its own name (`int4`, `text[]`)."""
    if rule.casts:
        return rule.casts[-1]
    kind, _ = without_domain(column.type, column.typmod)
    return f"{without_domain(kind.element, -1)[0].name}[]" if kind.element else kind.name


def _typed_rule(kind: PgType, typmod: int, asked: tuple[int, int] | None) -> Rule:
    if kind.element is not None:
        return _array_rule(kind.element, typmod, asked)
    if not kind.builtin or kind.kind != "b":
        return AS_TEXT
    if kind.name == "numeric":
        return _numeric_rule(typmod, asked)
    return _PLAIN_TYPED.get(kind.name, AS_TEXT)


def _numeric_rule(typmod: int, asked: tuple[int, int] | None) -> Rule:
    """numeric(p,s) is a decimal; without precision it is exact text, unless the user named one."""
    bounds = numeric_bounds(typmod) or asked
    if bounds is None:
        return Rule(pa.string(), ("text",), note="exact text; a decimal with --numeric COLUMN=P,S or --numeric-default P,S")
    arrow = decimal_type(*bounds)
    if arrow is None:
        return Rule(pa.string(), ("text",), note="exact text: no Arrow decimal has that precision")
    return Rule(arrow, ("text",), convert.decimal(arrow), note="exact; NaN and ±infinity are unrepresentable")


def numeric_bounds(typmod: int) -> tuple[int, int] | None:
    """(precision, scale) of a numeric's type modifier, as src/include/utils/numeric.h packs them; None when unconstrained."""
    header = 4
    if typmod < header:
        return None
    packed = typmod - header
    return (packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def decimal_type(precision: int, scale: int) -> pa.DataType | None:
    """The Arrow decimal for numeric(precision, scale), or None above 76 digits.

    PostgreSQL allows a negative scale and a scale above the precision, Parquet neither: both widen.
    """
    if scale < 0:
        precision, scale = precision - scale, 0
    precision = max(precision, scale)
    if precision > MAX_DECIMAL_PRECISION:
        return None
    return pa.decimal128(precision, scale) if precision <= MAX_DECIMAL128_PRECISION else pa.decimal256(precision, scale)


def _array_rule(element: PgType, typmod: int, asked: tuple[int, int] | None) -> Rule:
    """An array is a list of its element's type; one dimension that starts at 1, which the server is asked about."""
    inner, inner_typmod = without_domain(element, typmod)
    rule = _typed_rule(inner, inner_typmod, asked)
    if inner.element is not None:  # a domain over an array, in an array
        return AS_TEXT
    casts = rule.casts or ((inner.name,) if element.kind == "d" else ())
    return Rule(
        pa.list_(rule.arrow),
        tuple(f"{cast}[]" for cast in casts),
        convert.each(rule.convert, rule.arrow) if rule.convert else None,
        checks_shape=True,
        note="list of its element's type; more than one dimension, or a lower bound other than 1, is unrepresentable",
    )


def type_table() -> list[tuple[str, str, str]]:
    """The rules as rows for people: PostgreSQL type, CSV, Parquet. The README shows them, and a test compares."""

    def row(name: str, rule: Rule) -> tuple[str, str, str]:
        text = _PLAIN_TEXT.get(name) or (_MONEY_TEXT if name == "money" else AS_TEXT)
        shown = "UUID" if rule.arrow == pa.uuid() else "JSON" if rule.arrow == pa.json_(pa.string()) else str(rule.arrow)
        return name, text.note, f"{shown}: {rule.note}"

    plain = [row(name, rule) for name, rule in _PLAIN_TYPED.items()]
    bounded, unbounded = _numeric_rule((10 << 16 | 2) + 4, None), _numeric_rule(-1, None)
    array = _array_rule(PgType("int4", builtin=True, kind="b"), -1, None)
    return [
        *plain,
        ("numeric(p,s)", AS_TEXT.note, f"decimal128(p, s), decimal256 above 38 digits, string above 76: {bounded.note}"),
        ("numeric", AS_TEXT.note, f"{unbounded.arrow}: {unbounded.note}"),
        ("arrays", AS_TEXT.note, f"list: {array.note}"),
        ("everything else", AS_TEXT.note, f"{AS_TEXT.arrow}: {AS_TEXT.note}"),
    ]
