"""A PostgreSQL column as dlt describes columns: one of its dozen data types, and a hint that holds the exact type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.postgres.columns import Column

TYPE_HINT = "x-postgres-type"
"""Names the PostgreSQL type in a column of a dlt schema; `x-` is the prefix that dlt keeps for hints of others."""

_INTEGERS = {"smallint": 16, "integer": 32, "bigint": 64}
_PLAIN = {
    "boolean": "bool",
    "real": "double",
    "double precision": "double",
    "bytea": "binary",
    "date": "date",
    "json": "json",
    "jsonb": "json",
    "time without time zone": "time",
}
_BOUNDED = re.compile(r"([^(]+?)(?:\((\d+)(?:,(-?\d+))?\))?( with(?:out)? time zone)?")


def dlt_type(type_: str) -> dict[str, Any]:
    """The data type that dlt has for a PostgreSQL type, with precision and scale where dlt has them; `text` for whatever dlt knows nothing of.

    Example:
        >>> dlt_type("numeric(12,2)")
        {'data_type': 'decimal', 'precision': 12, 'scale': 2}
    """
    if type_ in _INTEGERS:
        return {"data_type": "bigint", "precision": _INTEGERS[type_]}
    matched = _BOUNDED.fullmatch(type_)
    if type_ in _PLAIN or matched is None:
        return {"data_type": _PLAIN.get(type_, "text")}
    name, first, second, zone = matched.groups()
    precision = {"precision": int(first)} if first else {}
    if name == "numeric":
        return {"data_type": "decimal", **precision, **({"scale": int(second or 0)} if first else {})}
    if name == "timestamp":
        return {"data_type": "timestamp", "timezone": zone == " with time zone", **precision}
    if name == "time" and zone == " without time zone":
        return {"data_type": "time", **precision}
    return {"data_type": "text", **(precision if name == "character varying" else {})}


def dlt_column(column: Column) -> dict[str, Any]:
    """The column in a dlt schema."""
    return {"name": column.name, **dlt_type(column.base or column.type), "nullable": column.nullable, TYPE_HINT: column.type}
