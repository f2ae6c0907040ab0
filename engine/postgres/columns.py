"""A column of a PostgreSQL table, as rows are loaded into it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: Exactly as it stands in the table.
        type: As `format_type()` of PostgreSQL writes it: `integer`, `numeric(12,2)`, `character varying(20)`, `timestamp with time zone`, `text[]`;
            a type that is not on the search path comes with its schema.
        nullable: Whether NULL may be stored.
        generated: Whether only the database fills it (`GENERATED ALWAYS`); such a column is never loaded.
        base: The type below a domain, or `enum`, `composite`, `range` where `type` (or what is below the domain) is one that somebody made;
            empty where `type` says it all, and for arrays of such types.
        default: Whether the database fills it when a row does not: a default, an identity, an expression.

    Example:
        >>> Column("born", "date", nullable=False).type
        'date'
    """

    name: str
    type: str
    nullable: bool = True
    generated: bool = False
    base: str = ""
    default: bool = False
