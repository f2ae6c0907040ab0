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
        base: The type below a domain, or `enum`, `composite`, `range` where `type` is one that somebody made; empty where `type` says it all.

    Example:
        >>> Column("born", "date", nullable=False).type
        'date'
    """

    name: str
    type: str
    nullable: bool = True
    generated: bool = False
    base: str = ""
