r"""Columns that no Arrow type fills: their text goes into a temporary table, and the server casts it when the rows move on.

`CAST(text AS type)` names the type without its modifiers: an explicit cast to `varchar(3)` or `bit(5)` would cut or fill a value without a word, while
the assignment to the column, which follows, raises an error (https://www.postgresql.org/docs/current/sql-createcast.html).
A value that the server does not take fails the file. What it would change in silence is refused before, by `SHAPES`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.ways import Convert, Refused, Way, all_true, any_true, between, characters, require, trimmed

if TYPE_CHECKING:
    from engine.postgres.declared import Declared

_UNMODIFIED = {"character": "bpchar", "bit": 'pg_catalog."bit"'}
"""Names that mean a length of 1 when they stand alone."""
_NUMBER = r"(?i)^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,4})?|nan)$"
_INFINITY = r"(?i)^[+-]?inf(inity)?$"
_CLOCK_OFFSET = r"(?i)^[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(z|[+-][0-9]{2}(:?[0-9]{2}(:[0-9]{2})?)?)$"
SHAPES = {
    "numeric": (f"{_NUMBER}|{_INFINITY}", "not a number"),
    "money": (r"^-?[0-9]{1,17}(\.[0-9]{1,2})?$", "not an amount as 1234.56, without currency sign and separators, which lc_monetary would decide"),
    "time with time zone": (_CLOCK_OFFSET, "not a time as HH:MM:SS with its offset from UTC, or more than six digits of a second"),
    '"char"': (r"^([\x00-\x7f]?|\\[0-3][0-7]{2})$", "longer than one byte"),
    "bit": ("^[01]*$", "not a string of 0 and 1"),
    "bit varying": ("^[01]*$", "not a string of 0 and 1"),
}
"""Of types that the server would read by a session's settings, or would cut: what their text looks like, and the rule that others break."""
_SERVER_ONLY = (
    *("bit", "bit varying", "box", "cid", "cidr", "circle", "inet", "int2vector", "interval", "jsonpath", "line", "lseg", "macaddr", "macaddr8", "oidvector"),
    *("path", "pg_lsn", "pg_snapshot", "point", "polygon", "refcursor", "tid", "time with time zone", "tsquery", "tsvector", "txid_snapshot", "xid", "xid8"),
    *("xml", '"char"'),
)
_ARRAY = r"(?s)^\s*(\[[-+0-9:\[\]]+=)?\{.*\}\s*$"
_MOST_MONEY = Decimal("92233720368547758.07")
_NUL = "holds a NUL byte, which PostgreSQL does not store in text"


def cast_expression(kind: Declared, name: str) -> str:
    """SQL that turns the text in a temporary table's column into the type.

    Args:
        kind: The type stored, below a domain.
        name: The column, quoted for SQL.

    Example:
        >>> from engine.postgres.declared import declared
        >>> cast_expression(declared("character varying(20)[]"), '"notes"')
        'CAST("notes" AS character varying[])'
    """
    if kind.name == "regclass" and not kind.array:
        return f"regclassin(textout({name}))"  # its cast from text is a function of its own, which takes no `-`
    if kind.name == "money":  # text of money is read by lc_monetary, a numeric is not
        name = f"CAST({name} AS numeric{'[]' * kind.array})"
    return f"CAST({name} AS {_UNMODIFIED.get(kind.name, kind.name) + '[]' * kind.array})"


def reads_numbers(kind: Declared) -> bool:
    """Whether text of a boolean or a number is a value of the type: of numeric and money, and of domains that only the server can look into."""
    ranges = kind.name.endswith(("range", "multirange")) or kind.name.startswith("reg")
    return kind.name not in _SERVER_ONLY and not ranges


def by_server(kind: Declared, local: Way | None) -> Way:
    """The way of text that the server will cast.

    Args:
        kind: The type stored.
        local: How plain texts of the type are converted without the server, where there is such a way. What it refuses is refused here too, and what it takes
            is sent as the text of what it made of it, so that both ways agree; odd texts are sent as they are.
    """
    checks = [check for check in (_no_nul, _shape(kind), None if local and kind.name == "numeric" else _rounding(kind)) if check]

    def convert(values: pa.Array) -> pa.Array:
        for check in checks:
            check(values)
        if local is None or not local.odd:
            return values
        odd = local.is_odd(values)
        plain = local.convert(pc.if_else(odd, pa.scalar(None, pa.string()), values))
        return pc.if_else(odd, values, plain.cast(pa.string()))

    return Way(pa.string(), convert, local.rule if local else f"not {kind.name}", by_server=True)


def _no_nul(values: pa.Array) -> pa.Array:
    if b"\0" in characters(values):
        raise Refused(_NUL)
    return values


def _required(values: pa.Array, pattern: str, rule: str) -> pa.Array:
    require(values, pattern, rule)
    return values


def _shape(kind: Declared) -> Convert | None:
    if kind.array:
        return lambda values: _required(values, _ARRAY, "not an array as {1,2}")
    if kind.name not in SHAPES:
        return None
    pattern, rule = SHAPES[kind.name]
    exact = kind.name in {'"char"', "bit", "bit varying"}

    def check(values: pa.Array) -> pa.Array:
        require(values if exact else trimmed(values), _NUMBER if kind.name == "numeric" and kind.modifiers else pattern, rule)
        if kind.name == "money":
            _money(values)
        if kind.name == "bit" or (kind.name == "bit varying" and kind.modifiers):
            length = kind.modifiers[0] if kind.modifiers else 1
            holds = pc.equal if kind.name == "bit" else pc.less_equal
            if not all_true(holds(pc.binary_length(values), length)):
                raise Refused(f"not of {length} bits" if kind.name == "bit" else f"longer than {length} bits")
        return values

    return check


def _rounding(kind: Declared) -> Convert | None:
    """numeric(p,s), and types with a precision of seconds, would round; so would their arrays."""
    if not kind.modifiers or not (kind.name == "numeric" or re.match("time|interval", kind.name)):
        return None
    scale = kind.modifiers[-1] if kind.name != "numeric" or len(kind.modifiers) > 1 else 0
    finer = rf"\.[0-9]{{{max(scale, 0)}}}[0-9]*[1-9]"
    if scale < 0:
        finer += rf"|[1-9][0-9]{{0,{-scale - 1}}}([.,}}]|$)"
    if kind.name == "numeric":
        finer += "|[eE][+-]?[0-9]"

    def check(values: pa.Array) -> pa.Array:
        if any_true(pc.match_substring_regex(values, finer)):
            raise Refused(f"more than {scale} digits after the point")
        if kind.name == "numeric" and not kind.array:
            _fit_before_the_point(trimmed(values), max(kind.modifiers[0] - scale, 0))
        return values

    return check


def _fit_before_the_point(values: pa.Array, most: int) -> None:
    bare = pc.ascii_ltrim(values, "+-0")
    points = pc.find_substring(bare, ".")
    whole = pc.if_else(pc.less(points, 0), pc.binary_length(bare), points)
    if any_true(pc.and_(pc.greater(whole, most), pc.not_equal(pc.ascii_lower(bare), "nan"))):
        raise Refused(f"more than {most} digits before the point")


def _money(values: pa.Array) -> None:
    between(trimmed(values).cast(pa.decimal128(21, 2)), -_MOST_MONEY, _MOST_MONEY, "an amount that money does not hold")
