r"""Columns that no Arrow type fills: their text goes into a temporary table, and the server casts it when the rows move on.

`CAST(text AS type)` names the type without its modifiers: an explicit cast to `varchar(3)` or `bit(5)` would cut or fill a value without a word, while
the assignment to the column, which follows, raises an error (https://www.postgresql.org/docs/current/sql-createcast.html).
A value that the server does not take fails the file. What it would change in silence is refused before, by `SHAPES`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.ways import Convert, Refused, Way, all_true, characters, require, trimmed

if TYPE_CHECKING:
    from engine.postgres.declared import Declared

_UNMODIFIED = {"character": "bpchar", "bit": 'pg_catalog."bit"'}
"""Names that mean a length of 1 when they stand alone."""
_NUMERIC = r"(?i)^([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,4})?|nan|[+-]?inf(inity)?)$"
_CLOCK_OFFSET = r"(?i)^[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(z|[+-][0-9]{2}(:?[0-9]{2}(:[0-9]{2})?)?)$"
SHAPES = {
    "numeric": (_NUMERIC, "not a number"),
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
_NUL = "holds a NUL byte, which PostgreSQL does not store in text"


def cast_expression(kind: Declared, name: str) -> str:
    """SQL that turns the text in a temporary table's column into the type.

    Args:
        kind: The type stored, below a domain.
        name: The column, quoted for SQL.

    Example:
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
    """The way of text that the server will cast: every row as it is, but those that are refused.

    Args:
        kind: The type stored.
        local: How plain texts of the type are converted without the server, where there is such a way: what it refuses is refused here too.
    """
    checks = [check for check in (_no_nul, _shape(kind), _local(local), _rounding(kind)) if check]

    def convert(values: pa.Array) -> pa.Array:
        for check in checks:
            check(values)
        return values

    return Way(pa.string(), convert, local.rule if local else f"not {kind.name}", by_server=True)


def _no_nul(values: pa.Array) -> pa.Array:
    if b"\0" in characters(values):
        raise Refused(_NUL)
    return values


def _shape(kind: Declared) -> Convert | None:
    if kind.name not in SHAPES or kind.array:
        return None
    pattern, rule = SHAPES[kind.name]
    exact = kind.name in {'"char"', "bit", "bit varying"}

    def check(values: pa.Array) -> pa.Array:
        require(values if exact else trimmed(values), pattern, rule)
        if kind.name == "bit" or (kind.name == "bit varying" and kind.modifiers):
            length = kind.modifiers[0] if kind.modifiers else 1
            holds = pc.equal if kind.name == "bit" else pc.less_equal
            if not all_true(holds(pc.binary_length(values), length)):
                raise Refused(f"not of {length} bits" if kind.name == "bit" else f"longer than {length} bits")
        return values

    return check


def _local(local: Way | None) -> Convert | None:
    """Odd texts are left to the server, the rest must convert without it."""
    if local is None:
        return None

    def check(values: pa.Array) -> pa.Array:
        plain = values
        if local.odd:
            plain = pc.if_else(local.is_odd(values), pa.scalar(None, pa.string()), values)
        local.convert(plain)
        return values

    return check


def _rounding(kind: Declared) -> Convert | None:
    """numeric(p,s), and types with a precision of seconds, would round; so would their arrays."""
    if not kind.modifiers or not (kind.name == "numeric" or re.match("time|interval", kind.name)):
        return None
    scale = kind.modifiers[-1] if kind.name != "numeric" or len(kind.modifiers) > 1 else 0
    if scale < 0:
        finer, rule = r"[^0]", f"rounded by numeric{kind.modifiers} on the server"
    else:
        finer, rule = rf"\.[0-9]{{{scale}}}[0-9]*[1-9]", f"more than {scale} digits after the point"
    if kind.name == "numeric":
        finer += "|[eE][+-]?[0-9]"

    def check(values: pa.Array) -> pa.Array:
        if not all_true(pc.invert(pc.match_substring_regex(values, finer))):
            raise Refused(rule)
        return values

    return check
