"""A query looked at by the server without being run: may it run, which columns does it give, and how are they asked for.

Only one statement that returns rows and changes nothing is accepted. The server's own Parse decides, in a read-only transaction, through the
extended protocol, which takes one statement alone (https://www.postgresql.org/docs/current/protocol-flow.html): first of the
query as written, which gives errors their position, then of the query as a subquery, where PostgreSQL admits nothing but a query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
from psycopg import generators, pq, sql

from engine.errors import ConfigurationError, FerryError, QueryFailed
from engine.libpq import query_failed
from engine.postgres import splitting
from engine.postgres.splitting import Ranges, Whole
from engine.postgres.types import Column, PgType, Rule, TypePolicy, rule_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.libpq import PostgresOptions
    from engine.postgres.source_options import PostgresSourceOptions
    from engine.protocols import Form

FIELD_TYPE_KEY = b"POSTGRESQL:type"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a query will be read.

    Attributes:
        query: The query, without a last semicolon.
        columns: Its columns, as the server describes them.
        rules: The rule of each.
        shape_checks: Positions of the columns that come with a hidden boolean column after all others: "this array's shape does not fit".
        estimated_rows: The server's guess.
        split: The page ranges that the query is read in, or why it is read as a whole.
    """

    query: str
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    shape_checks: tuple[int, ...]
    estimated_rows: int | None = None
    split: Ranges | str = ""

    @property
    def ranges(self) -> Ranges | None:
        """The page ranges that the query is read in, if it is."""
        return self.split if isinstance(self.split, Ranges) else None

    @property
    def parts(self) -> int:
        """How many statements give the rows, one after another."""
        return self.ranges.count if self.ranges else 1

    @property
    def schema(self) -> pa.Schema:
        """The schema handed on; each field carries its PostgreSQL type, so that a load can restore it."""
        return pa.schema(
            [
                pa.field(column.name, rule.arrow, metadata={FIELD_TYPE_KEY: column.declared.encode()})
                for column, rule in zip(self.columns, self.rules, strict=True)
            ]
        )

    def statement(self, part: int = 0) -> str:
        """What the server is sent for one part, counted from 0."""
        return self.wrapped(self.ranges.query(part) if self.ranges else self.query)

    def wrapped(self, query: str) -> str:
        """A query with every column asked for by its rule; columns are named by position, since names may repeat."""
        names = [f"c{i}" for i in range(len(self.columns))]
        wanted = [rule.expression(f"q.{name}") for name, rule in zip(names, self.rules, strict=True)]
        for i in self.shape_checks:
            unfit = f"coalesce(array_ndims(q.c{i}) > 1 OR array_lower(q.c{i}, 1) <> 1, false)"
            wanted[i] = f"CASE WHEN {unfit} THEN NULL ELSE {wanted[i]} END"  # the driver fails on other lower bounds, with no name of the column
            wanted.append(unfit)
        return f"SELECT {', '.join(wanted)} FROM (\n{query}\n) AS q({', '.join(names)})"  # noqa: S608 - the query is the user's own, checked below


def begin(options: PostgresSourceOptions, *, in_ranges: bool = False, snapshot: str | None = None) -> str:
    """Statements that open a reading transaction, in one line; arguments as those of `opening`."""
    return "; ".join(opening(options, in_ranges=in_ranges, snapshot=snapshot))


def opening(options: PostgresSourceOptions, *, in_ranges: bool = False, snapshot: str | None = None) -> list[str]:
    """Statements that open a reading transaction and set what shapes output, for this transaction alone: poolers share sessions.

    Args:
        options: What was asked for.
        in_ranges: Page ranges will be read, with the settings that they were planned with.
        snapshot: Another transaction's, to read from.
    """
    settings = {
        "DateStyle": "ISO",  # the output half; how a query's own literals are read stays the role's business
        "IntervalStyle": "postgres",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "idle_in_transaction_session_timeout": "0",
    }
    if options.statement_timeout is not None:
        settings["statement_timeout"] = str(int(options.statement_timeout * 1000))
    if options.timezone is not None:
        settings["TimeZone"] = options.timezone
    if in_ranges:
        settings |= splitting.SETTINGS
    joined = [] if snapshot is None else [f"SET TRANSACTION SNAPSHOT {_literal(snapshot)}"]
    lines = [f"SET LOCAL {name} = {_literal(value)}" for name, value in settings.items()]
    return ["BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", *joined, *lines]


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None)


def plan(connection: psycopg.Connection[Any], form: Form, options: PostgresSourceOptions) -> Plan:
    """Check and describe a query; nothing of it is executed.

    Raises:
        ConfigurationError: Not one statement that returns rows and changes nothing, a syntax error (with its position),
            a parameter, a column without a rule, or a policy that names no column.
        QueryFailed: The server knows no such table, column or function, or denies them.
    """
    policy = options.policy
    try:
        connection.execute(begin(options))
        described = _check(connection, options.query, options)
        columns = _columns(connection, described)
        _check_names(columns, policy)
        rules = tuple(rule_for(column, form, policy) for column in columns)
        made = Plan(
            query=described.query,
            columns=columns,
            rules=rules,
            shape_checks=tuple(i for i, rule in enumerate(rules) if rule.checks_shape),
        )
        node = splitting.explain(connection, made.wrapped(made.query))
        return replace(made, estimated_rows=node["Plan Rows"], split=_split(connection, made, node))
    except psycopg.errors.InvalidParameterValue:
        raise ConfigurationError(f"'timezone': the server knows no time zone {options.timezone!r}") from None
    except psycopg.Error as error:
        raise query_failed(options, error.sqlstate) from None
    finally:
        if connection.info.transaction_status != pq.TransactionStatus.UNKNOWN:
            connection.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class _Described:
    query: str
    fields: tuple[tuple[str, int, int], ...]  # name, type oid, type modifier


def _check(connection: psycopg.Connection[Any], query: str, options: PostgresOptions) -> _Described:
    raw = _parse(connection, query, options)
    if raw.nparams:
        raise ConfigurationError("the query holds a parameter ($1); write the value into the query")
    if not raw.nfields:
        raise ConfigurationError("the query returns no columns; it must be one SELECT, WITH, VALUES or TABLE that changes nothing")
    bare = _without_last_semicolon(query)
    wrapped = connection.pgconn.prepare(b"", f"SELECT * FROM (\n{bare}\n) AS q".encode())  # noqa: S608 - parsed, not run
    if wrapped.status != pq.ExecStatus.COMMAND_OK:
        state = _diagnosis(wrapped, pq.DiagnosticField.SQLSTATE)
        raise ConfigurationError(
            f"the statement is not a query that only reads (SQLSTATE {state}); it must be one SELECT, WITH, VALUES or TABLE that changes nothing"
        )
    if _fields(_describe(connection)) != _fields(raw):
        raise ConfigurationError("the statement is not one plain query: as a subquery it gives other columns")
    return _Described(bare, _fields(raw))


def _parse(connection: psycopg.Connection[Any], query: str, options: PostgresOptions) -> pq.abc.PGresult:
    """Parse and describe one statement, or say what the server has against it."""
    if not query.strip():
        raise ConfigurationError("the query is empty")
    if "\0" in query:
        raise ConfigurationError("the query holds a NUL character")
    result = connection.pgconn.prepare(b"", query.encode())
    if result.status == pq.ExecStatus.COMMAND_OK:
        return _describe(connection)
    raise _rejected(result, query, options)


def _describe(connection: psycopg.Connection[Any]) -> pq.abc.PGresult:
    """What the parsed statement returns. `pgconn.describe_prepared` would keep the interpreter from every other thread until the server answers."""
    connection.pgconn.send_describe_prepared(b"")
    described: pq.abc.PGresult = connection.wait(generators.execute(connection.pgconn))[-1]
    return described


def _rejected(result: pq.abc.PGresult, query: str, options: PostgresOptions) -> FerryError:
    """The server's words about a statement that has not run. Class 22 (data exception) quotes a literal of the query, which may be a patient's number."""
    state = _diagnosis(result, pq.DiagnosticField.SQLSTATE)
    if not state:
        return query_failed(options, None)
    text = _diagnosis(result, pq.DiagnosticField.MESSAGE_PRIMARY)
    if "multiple commands" in text:
        return ConfigurationError("the query holds more than one statement; it must be one")
    position = _diagnosis(result, pq.DiagnosticField.STATEMENT_POSITION)
    place = f" at {_line_and_column(query, int(position))}" if position else ""
    message = f"PostgreSQL does not accept the query: {text}{place} (SQLSTATE {state})"
    if state.startswith("22"):
        return QueryFailed(f"PostgreSQL does not accept a literal of the query{place} (SQLSTATE {state}, {_condition(state)})", sqlstate=state)
    syntax_error = "42601"
    return ConfigurationError(message) if state == syntax_error else QueryFailed(message, sqlstate=state)


def _condition(state: str) -> str:
    """The name of a SQLSTATE's condition: `invalid text representation`."""
    try:
        name = psycopg.errors.lookup(state).__name__
    except KeyError:
        name = "DataException"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _diagnosis(result: pq.abc.PGresult, field: pq.DiagnosticField) -> str:
    return (result.error_field(field) or b"").decode(errors="replace")


def _line_and_column(query: str, position: int) -> str:
    before = query[: position - 1]
    return f"line {before.count(chr(10)) + 1}, column {position - 1 - (before.rfind(chr(10)) + 1) + 1}"


def _without_last_semicolon(query: str) -> str:
    """Remove semicolons after the statement; a tokenizer finds them, since comments may follow."""
    if ";" not in query:
        return query
    from sqlglot import TokenError, Tokenizer  # costs 0.2 s: only when there is one
    from sqlglot.dialects.postgres import Postgres
    from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # re-exported, as its documentation uses it

    tokenizer: Tokenizer = Postgres.tokenizer_class(dialect="postgres")
    try:
        tokens = tokenizer.tokenize(query)
    except TokenError:
        return query  # then the server decides
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        last = tokens.pop()
        query = query[: last.start] + " " + query[last.end + 1 :]
    return query


def _fields(result: pq.abc.PGresult) -> tuple[tuple[str, int, int], ...]:
    return tuple(((result.fname(i) or b"").decode(), result.ftype(i), result.fmod(i)) for i in range(result.nfields))


_TYPES = """
WITH RECURSIVE wanted(oid) AS (
    SELECT unnest(%s::oid[])
    UNION
    SELECT inner_oid FROM wanted JOIN pg_catalog.pg_type t ON t.oid = wanted.oid,
        LATERAL (VALUES (t.typbasetype), (CASE WHEN t.typlen = -1 THEN t.typelem END)) AS v(inner_oid)
    WHERE inner_oid <> 0
)
SELECT t.oid, t.typname, t.typnamespace = 'pg_catalog'::regnamespace, t.typtype::text, t.typbasetype, t.typtypmod,
       CASE WHEN t.typcategory = 'A' AND t.typlen = -1 AND t.typname NOT IN ('int2vector', 'oidvector') THEN t.typelem ELSE 0 END
FROM wanted JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
"""


def _columns(connection: psycopg.Connection[Any], described: _Described) -> tuple[Column, ...]:
    oids = [oid for _, oid, _ in described.fields]
    rows = {row[0]: row for row in connection.execute(_TYPES, [oids])}

    def build(oid: int) -> PgType:
        _, name, builtin, kind, base, base_typmod, element = rows[oid]
        return PgType(name, builtin, kind, build(base) if base else None, base_typmod, build(element) if element else None)

    asked = "SELECT format_type(o, m) FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS x(o, m, n) ORDER BY n"
    declared = [row[0] for row in connection.execute(asked, [oids, [typmod for _, _, typmod in described.fields]])]
    return tuple(Column(name, build(oid), typmod, text) for (name, oid, typmod), text in zip(described.fields, declared, strict=True))


def _check_names(columns: Sequence[Column], policy: TypePolicy) -> None:
    """A policy for a column that is not there is a spelling mistake."""
    names = {column.name for column in columns}
    for option, given in (("numeric", policy.numeric.keys()), ("unrepresentable", policy.as_text)):
        for name in sorted(set(given) - names - {"*"}):
            raise ConfigurationError(f"{option!r} names column {name!r}, which the query does not have")


def _split(connection: psycopg.Connection[Any], made: Plan, node: dict[str, Any]) -> Ranges | str:
    try:
        return splitting.split(connection, made.query, made.wrapped, node)
    except Whole as why:
        return str(why)


def text_notes(made: Plan, policy: TypePolicy) -> list[str]:
    """What a user of Parquet should know about columns that became text although they hold numbers, or because it was asked for."""
    asked = sorted(policy.as_text - {"*"})
    texts = (pa.string(), pa.list_(pa.string()))
    pairs = zip(made.columns, made.rules, strict=True)
    numbers = [c.name for c, rule in pairs if c.declared in {"numeric", "numeric[]"} and rule.arrow in texts and c.name not in asked]
    notes = []
    if numbers:
        notes.append(f"numeric without precision, written as exact text: {', '.join(numbers)} (a decimal with --numeric COLUMN=P,S or --numeric-default P,S)")
    if asked:
        notes.append(f"written as text as asked: {', '.join(asked)}")
    return notes
