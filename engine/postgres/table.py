"""A table as the catalog describes it, and types as the server writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from engine.errors import ConfigurationError, FerryError, ResourceError
from engine.libpq import query_failed
from engine.postgres.columns import Column
from engine.postgres.session import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.libpq import PostgresOptions

    Fetch = Callable[[str], Sequence[tuple[Any, ...]]]

MOST_BYTES = 63
"""Of a name; PostgreSQL cuts longer ones (https://www.postgresql.org/docs/current/limits.html)."""
_MOST_SHOWN = 100
_LOADABLE = {"r": "table", "p": "partitioned table", "f": "foreign table"}
_OTHERS = {"v": "view", "m": "materialized view", "i": "index", "I": "index", "S": "sequence", "c": "composite type", "t": "TOAST table"}

_RELATION = """
SELECT c.oid::bigint, c.relkind::text, c.relrowsecurity AND row_security_active(c.oid), has_table_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'INSERT')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = {schema} AND c.relname = {table}
"""

# `below` walks from a column's type down through domains and arrays; its last step says what the values are.
_COLUMNS = """
WITH RECURSIVE attributes AS (
    SELECT a.attnum, a.attname::text AS name, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated::text AS generated, a.attidentity::text AS identity, a.atthasdef
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = {oid}::oid AND a.attnum > 0 AND NOT a.attisdropped
), below(attnum, depth, type, typmod, arrays, domain, not_null) AS (
    SELECT attnum, 0, atttypid, atttypmod, '', false, false FROM attributes
    UNION ALL
    SELECT b.attnum, b.depth + 1, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE b.typmod END,
           b.arrays || CASE WHEN t.typtype = 'd' THEN '' ELSE '[]' END, b.domain OR t.typtype = 'd', b.not_null OR (t.typtype = 'd' AND t.typnotnull AND b.arrays = '')
    FROM below b JOIN pg_catalog.pg_type t ON t.oid = b.type
    WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0 AND t.typname NOT IN ('int2vector', 'oidvector'))
), deepest AS (
    SELECT DISTINCT ON (attnum) * FROM below ORDER BY attnum, depth DESC
)
SELECT a.name, pg_catalog.format_type(a.atttypid, a.atttypmod), NOT (a.attnotnull OR d.not_null), a.generated, a.identity,
       a.atthasdef OR a.identity <> '' OR EXISTS (SELECT FROM pg_catalog.pg_type u WHERE u.oid = a.atttypid AND u.typdefault IS NOT NULL),
       CASE WHEN d.arrays = '' AND t.typtype = 'e' THEN 'enum'
            WHEN d.arrays = '' AND t.typtype = 'c' THEN 'composite'
            WHEN d.arrays = '' AND t.typtype IN ('r', 'm') AND t.typnamespace <> 'pg_catalog'::regnamespace THEN 'range'
            WHEN d.domain THEN pg_catalog.format_type(d.type, d.typmod) || d.arrays
            ELSE '' END
FROM attributes a JOIN deepest d USING (attnum) JOIN pg_catalog.pg_type t ON t.oid = d.type
ORDER BY a.attnum
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that stands.

    Attributes:
        schema: Its schema's name.
        name: Its own.
        columns: In their order.
        identities: Names of columns that are GENERATED ALWAYS AS IDENTITY.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    identities: frozenset[str] = frozenset()

    def column(self, name: str) -> Column | None:
        """The column of exactly that name."""
        return next((column for column in self.columns if column.name == name), None)


def read_table(fetch: Fetch, schema: str, name: str) -> Table | None:
    """The table, or None if there is none.

    Raises:
        ConfigurationError: Something of that name is no table.
        ResourceError: The role may not insert, or COPY is closed to it by row security.
    """
    found = fetch(_RELATION.format(schema=literal(schema), table=literal(name)))
    if not found:
        return None
    oid, kind, row_security, may_insert = found[0]
    shown = f"{schema}.{name}"
    if kind not in _LOADABLE:
        raise ConfigurationError(f"{shown} is a {_OTHERS.get(kind, 'thing')}, not a table: rows are not loaded into it")
    if not may_insert:
        raise ResourceError(f"permission denied: the role may not insert into {shown} (GRANT INSERT)")
    if row_security:
        raise ResourceError(
            f"row security of {shown} applies to the role, and PostgreSQL has no COPY into such a table: load as its owner, or as a role with BYPASSRLS"
        )
    rows = fetch(_COLUMNS.format(oid=int(oid)))
    columns = tuple(
        Column(name, type_, nullable=nullable, generated=generated != "" or identity == "a", base=base, default=default)
        for name, type_, nullable, generated, identity, default, base in rows
    )
    return Table(schema, name, columns, frozenset(row[0] for row in rows if row[4] == "a"))


def missing_tables(fetch: Fetch, schema: str, names: Sequence[str]) -> list[str]:
    """Those of the names that no relation of the schema has.

    Asked of the catalog: `to_regclass` answers from a cache, which within a transaction need not know what others have committed since.
    """
    found = fetch(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "  # noqa: S608 - quoted
        f"WHERE n.nspname = {literal(schema)} AND c.relname IN ({', '.join(map(literal, names))})"
    )
    return [name for name in names if (name,) not in found]


_UNDEFINED_OBJECT = "42704"
_PLAIN = re.compile(r"""(?:[^\W\d]\w*|"(?:[^"]|"")+")(?:[ .](?:[^\W\d]\w*|"(?:[^"]|"")+"))*[ ]*(?:\([\d\s,-]*\))?[\w ]*(?:\[\d*\])*""")


def declared_types(connection: psycopg.Connection[Any], texts: Sequence[tuple[str, str]], options: PostgresOptions) -> list[tuple[str, str]]:
    """Types as people write them (`int`, `varchar(20)`) as the server writes them, each with `Column.base`.

    Args:
        connection: Within a transaction, which ends when a type is refused.
        texts: (column, type) pairs; the column is for messages.
        options: Where the connection goes, for messages.

    Raises:
        ConfigurationError: The server knows no such type, or it is not a type alone.
    """
    return [_declared_type(connection, column, text.strip(), options) for column, text in texts]


def _declared_type(connection: psycopg.Connection[Any], column: str, text: str, options: PostgresOptions) -> tuple[str, str]:
    if not _PLAIN.fullmatch(text):
        raise ConfigurationError(f"column {column!r}: {text!r} is no type (integer, numeric(12,2), text[] …)")
    parsed = connection.pgconn.prepare(b"", f"SELECT NULL::{text}".encode())  # described, never run: it tells type and modifier
    if parsed.status != pq.ExecStatus.COMMAND_OK:
        raise _no_type(parsed, column, text, options)
    found = connection.pgconn.describe_prepared(b"")
    try:
        row = connection.execute(_DECLARED, {"oid": found.ftype(0), "typmod": found.fmod(0), "text": text}).fetchone()
    except psycopg.ProgrammingError:  # more than a type: `integer AS x`
        row = None
    if row is None:
        raise ConfigurationError(f"column {column!r}: the server knows no type {text!r}")
    return str(row[0]), str(row[1])


# A description shows what is below a domain; only the type's name tells of the domain itself.
_DECLARED = """
SELECT format_type(CASE WHEN named.typtype = 'd' THEN named.oid ELSE t.oid END, CASE WHEN named.typtype = 'd' THEN -1 ELSE %(typmod)s END),
       CASE WHEN t.typtype = 'e' THEN 'enum' WHEN t.typtype = 'c' THEN 'composite'
            WHEN t.typtype IN ('r', 'm') AND t.typnamespace <> 'pg_catalog'::regnamespace THEN 'range'
            WHEN named.typtype = 'd' THEN format_type(t.oid, %(typmod)s) ELSE '' END
FROM pg_catalog.pg_type t, pg_catalog.pg_type named
WHERE t.oid = %(oid)s::oid AND named.oid = to_regtype(%(text)s) AND 'p' NOT IN (t.typtype, named.typtype)
"""


def _no_type(result: pq.abc.PGresult, column: str, text: str, options: PostgresOptions) -> FerryError:
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    if not state:
        return query_failed(options, None)
    reason = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
    hint = "; make it there (CREATE TYPE, CREATE EXTENSION), or give the column another type with 'columns'" if state == _UNDEFINED_OBJECT else ""
    if "serial" in text.lower():
        hint = "; serial is an integer with a default: name the type, the table brings the default"
    return ConfigurationError(f"column {column!r}: the server does not take {text!r} for a type: {reason} (SQLSTATE {state}){hint}")


def check_name(kind: str, name: str) -> None:
    """Refuse a name that PostgreSQL cannot keep as it is.

    Raises:
        ConfigurationError: Empty, a NUL in it, or longer than 63 bytes.
    """
    if not name:
        raise ConfigurationError(
            f'a {kind} has no name; name it with \'columns\' ({{"name": {{"from": …}}}})' if kind == "column" else f"the {kind} has no name"
        )
    if "\0" in name:
        raise ConfigurationError(f"the {kind} name {name!r} holds a NUL character")
    if len(name.encode()) > MOST_BYTES:
        shown = name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}…"
        raise ConfigurationError(f"the {kind} name {shown!r} has {len(name.encode()):,} bytes; PostgreSQL keeps {MOST_BYTES}")


def qualified(table: Table) -> str:
    """The table's quoted name."""
    return identifier(table.schema, table.name)
