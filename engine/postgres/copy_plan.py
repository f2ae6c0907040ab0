"""How a query is read by COPY: the plan, with what COPY sends exactly and faster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg
import pyarrow as pa

from engine.postgres.plan import Plan
from engine.postgres.types import sent_as, without_domain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.postgres.copy_connection import Address
    from engine.postgres.types import Column, Rule

# COPY prints these as `::text` does, by the type's own output function (pg_cast has no function for them): the cast would cost the server time.
_PRINTED_ALIKE = frozenset({"numeric", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "float4", "float8", "uuid", "bytea", "json", "jsonb"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan(Plan):
    """How a query will be read.

    Attributes:
        way: To the server that planned it.
    """

    way: Address

    @property
    def sent(self) -> Iterator[int]:
        """The types (OIDs) of the columns that are sent: what the bytes mean. All of them are PostgreSQL's own."""
        for column, rule in zip(self.columns, self.rules, strict=True):
            yield psycopg.adapters.types.get_oid(sent_as(column, rule))


def in_binary(plan: Plan, way: Address) -> CopyPlan:
    """The plan of COPY BINARY."""
    rules = tuple(_in_binary(column, rule) for column, rule in zip(plan.columns, plan.rules, strict=True))
    return CopyPlan(plan.query, plan.columns, rules, plan.shape_checks, plan.estimated_rows, plan.split, way=way)


def _in_binary(column: Column, rule: Rule) -> Rule:
    """Numerics in their exact binary form; JSON as text, since a jsonb's binary form has a number in front.

    A numeric is not cast to what it is already: the server would copy each row for that (a fifteenth of what lineitem costs it).
    """
    element, brackets = (rule.arrow.value_type, "[]") if pa.types.is_list(rule.arrow) else (rule.arrow, "")
    if pa.types.is_decimal128(element):
        return replace(rule, casts=() if _is_numeric(column) else (f"numeric{brackets}",), convert=None)
    if element == pa.json_(pa.string()):
        return replace(rule, casts=(f"text{brackets}",))
    return rule


def _is_numeric(column: Column) -> bool:
    """Whether a column is a numeric (or of a domain over it: the server names its base type), or an array of numerics themselves."""
    kind = column.type.element or column.type
    return bool(kind.builtin and kind.name == "numeric")


def delivered(rule: Rule) -> pa.DataType:
    """The Arrow type that a column has before its rule converts it: of a cast to text, text."""
    last = rule.casts[-1] if rule.casts else ""
    if rule.convert is None or not last.startswith("text"):
        return rule.arrow
    return pa.list_(pa.string()) if last.endswith("[]") else pa.string()


def printed(plan: CopyPlan) -> CopyPlan:
    """The plan (of the `text` form) for columns that the server prints: only casts that change the text, and bool in SQL's words."""
    rules = []
    for column, rule in zip(plan.columns, plan.rules, strict=True):
        kind, _ = without_domain(column.type, column.typmod)
        if pa.types.is_boolean(rule.arrow):
            rules.append(replace(rule, casts=("text",)))
        elif kind.builtin and kind.name in _PRINTED_ALIKE:
            rules.append(replace(rule, casts=()))
        else:
            rules.append(rule)
    return replace(plan, rules=tuple(rules))
