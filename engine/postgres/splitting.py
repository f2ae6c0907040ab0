"""May a query be read in pieces, and which? A plain scan of one table can be cut by page ranges (TID range scans, PostgreSQL 14 and newer).

The server decides, by its plans, and nothing is run. A condition on `ctid` is spliced into the query's own text, which is never generated anew;
the plan of the result must be that of the query, its output and its filter the same to the letter, with exactly that TID range for the scan.
So what the few lines below that look at text take for a table or an alias need not be right, only proven right.

Order, limits, aggregates, windows, subqueries, set-returning and volatile functions, views, foreign, partitioned and inherited tables show as
other nodes of the plan. What a plan does not show is asked for: whether functions give every reader the same (`now()` does not), row-level security.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SPLIT_FROM_BYTES = 64 << 20
RANGE_BYTES = 8 << 20
MOST_BY_ITSELF = 4
"""Readers that `auto` takes at most: the memory bound is held by a test with so many."""
SETTINGS = {"max_parallel_workers_per_gather": "0", "enable_seqscan": "off"}
"""For reading ranges: no workers of the server's own, who would mix the order, and no scan of the whole table, which looks cheap where it has few pages."""

_LEXEME = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
  | (?P<string> [eE]'(?:[^'\\]|''|\\.)*' | (?:[bBnNxX]|[uU]&)?'(?:[^']|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
  | (?P<quoted> (?:[uU]&)?"(?:[^"]|"")*" )
  | (?P<cast> ::(?:"(?:[^"]|"")*"|\w+)(?:\.(?:"(?:[^"]|"")*"|\w+))?(?:[ ]varying)?(?:\([-\d, ]+\))? )
  | (?P<word> [^\W\d][\w$]* )
  | (?P<number> \d[\w.]* )
  | (?P<operator> [-+*/<>=~!@\#%^&|`?]+ )
  | (?P<mark> \S )
    """,
    re.VERBOSE | re.DOTALL,
)
# What the server's EXPLAIN writes in capitals within an expression and what means the same in every session; identifiers in capitals are quoted there.
_KEYWORDS = frozenset(
    [
        *("ALL", "AND", "ANY", "ARRAY", "AT", "BOTH", "CASE", "COALESCE", "COLLATE", "DISTINCT", "ELSE", "END", "EXTRACT", "FALSE", "FOR", "FROM"),
        *("GREATEST", "IN", "IS", "LEADING", "LEAST", "NOT", "NULL", "NULLIF", "OR", "OVERLAY", "PLACING", "POSITION", "ROW", "SUBSTRING", "THEN"),
        *("TIME", "TRAILING", "TRIM", "TRUE", "UNKNOWN", "WHEN", "ZONE"),
    ]
)
# "Stable" functions of pg_catalog that depend on their arguments and on settings alone, which are the same for every reader.
_BY_SETTINGS = [
    *("array_to_json", "array_to_string", "concat", "concat_ws", "convert_from", "convert_to", "date_part", "date_trunc", "format", "length"),
    *("json_build_array", "json_build_object", "jsonb_build_array", "jsonb_build_object", "quote_literal", "quote_nullable", "row_to_json"),
    *("timezone", "to_char", "to_date", "to_json", "to_jsonb", "to_number", "to_timestamp"),
]
_MOMENTS = re.compile(r"\b(?:now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


class Whole(Exception):  # noqa: N818 - a finding: the query is read as one stream
    """A query that is not cut; its text says why."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """A query that is read range by range, in this order; together they are its rows, each once.

    Attributes:
        before: The query's text up to its condition, or to where one can stand.
        condition: The query's own condition, without WHERE.
        alias: What the query calls the table.
        pages: Pages in one range.
        count: Ranges; the last one has no end, since the table may grow before it is read.
    """

    before: str
    condition: str | None
    alias: str
    pages: int
    count: int

    def query(self, number: int) -> str:
        """The query for one range, counted from 0.

        Example:
            >>> Ranges("SELECT a FROM t", "b > 1", "t", pages=100, count=3).query(1).replace(chr(10), " ")
            "SELECT a FROM t WHERE t.ctid >= '(100,0)' AND t.ctid < '(200,0)' AND ( b > 1 )"
        """
        limits = [f"{self.alias}.ctid >= '({number * self.pages},0)'"]
        if number < self.count - 1:
            limits.append(f"{self.alias}.ctid < '({(number + 1) * self.pages},0)'")
        if self.condition is not None:
            limits.append(f"(\n{self.condition}\n)")
        return f"{self.before} WHERE {' AND '.join(limits)}"


def explain(connection: psycopg.Connection[Any], statement: str) -> dict[str, Any]:
    """The top node of a statement's plan. By the extended protocol: it takes one statement alone.

    Raises:
        psycopg.Error: The server does not plan it.
    """
    result = connection.pgconn.exec_params(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement}".encode(), None)
    if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(result)
    node: dict[str, Any] = json.loads(result.get_value(0, 0) or b"[]")[0]["Plan"]
    return node


def split(connection: psycopg.Connection[Any], query: str, statement: Callable[[str], str], plan: dict[str, Any]) -> Ranges:
    """The ranges of a query, within a transaction that is rolled back afterwards.

    Args:
        connection: Where the query was described.
        query: Without a last semicolon.
        statement: What is sent for a query: it, wrapped.
        plan: The top node of the plan of `statement(query)`.

    Raises:
        Whole: It is read as one stream.
    """
    node = _scan(plan)
    if node["Node Type"] != "Seq Scan" or "Plans" in node:
        raise Whole("it is no plain scan of one table")
    before, name, alias, condition = _outline(query)
    try:
        pages, size = _table(connection, node, name)
        length = max(1, math.ceil(pages * RANGE_BYTES / max(size, 1)))
        found = Ranges(before, condition, alias, length, max(1, math.ceil(pages / length)))
        connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        whole = explain(connection, statement(query))
        _check_expressions(connection, query, [*whole["Output"], whole.get("Filter", "")])
        connection.execute("; ".join(f"SET LOCAL {name} = {value}" for name, value in SETTINGS.items()))
        for number in {0, found.count - 1}:
            _check_plan(whole, explain(connection, statement(found.query(number))), found, number)
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        raise Whole("the server does not take a page range for its table") from None
    return found


def _scan(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan without the server's own parallel workers on top."""
    children = plan.get("Plans", [])
    return children[0] if plan["Node Type"] in {"Gather", "Gather Merge"} and len(children) == 1 else plan


def _outline(query: str) -> tuple[str, str, str, str | None]:
    """Text up to the end of the table, the table's name, its alias, and the condition, of `SELECT … FROM name [[AS] alias] [WHERE …]` or `TABLE name`."""
    lexemes = [lexeme for lexeme in _LEXEME.finditer(query) if lexeme.lastgroup != "comment"]
    first = _keyword(lexemes, 0)
    at = 1 if first == "TABLE" else _from(lexemes)
    if first not in {"SELECT", "TABLE"} or not _is_name(lexemes, at):
        raise Whole("it is not written SELECT … FROM table WHERE …")
    begin = lexemes[at].start()
    while _text(lexemes, at + 1) == "." and _is_name(lexemes, at + 2):
        at += 2
    name = query[begin : lexemes[at].end()]
    alias = lexemes[at].group()
    after_as = at + 1 + (_keyword(lexemes, at + 1) == "AS")
    if _is_name(lexemes, after_as) and _keyword(lexemes, after_as) != "WHERE":
        at, alias = after_as, lexemes[after_as].group()
    where = at + 1 < len(lexemes)
    if where and _keyword(lexemes, at + 1) != "WHERE":
        raise Whole("more than a table and WHERE follows its FROM")
    before = f"{query[: lexemes[0].start()]}SELECT * FROM {name}" if first == "TABLE" else query[: lexemes[at].end()]  # noqa: S608 - the query's own text
    return before, name, alias, query[lexemes[at + 1].end() :] if where else None


def _from(lexemes: list[re.Match[str]]) -> int:
    """The position after the outermost FROM; that of `IS DISTINCT FROM` is none."""
    depth = 0
    for at in range(len(lexemes)):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(_text(lexemes, at), 0)
        if depth == 0 and _keyword(lexemes, at) == "FROM" and _keyword(lexemes, at - 1) != "DISTINCT":
            return at + 1
    return len(lexemes)


def _text(lexemes: list[re.Match[str]], at: int) -> str:
    return lexemes[at].group() if at < len(lexemes) else ""


def _keyword(lexemes: list[re.Match[str]], at: int) -> str:
    return lexemes[at].group().upper() if at < len(lexemes) and lexemes[at].lastgroup == "word" else ""


def _is_name(lexemes: list[re.Match[str]], at: int) -> bool:
    return at < len(lexemes) and lexemes[at].lastgroup in {"word", "quoted"}


_TABLE = """
SELECT c.relkind = 'r' AND c.oid = to_regclass(%s), c.relhassubclass, row_security_active(c.oid),
       pg_relation_size(c.oid) / current_setting('block_size')::int8, pg_table_size(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""


def _table(connection: psycopg.Connection[Any], node: dict[str, Any], name: str) -> tuple[int, int]:
    """Pages of the table, and its bytes with those of long values beside it (TOAST)."""
    row = connection.execute(_TABLE, [name, node["Schema"], node["Relation Name"]]).fetchone()
    if row is None or not row[0]:
        raise Whole("it names no ordinary table")
    _, has_children, has_policies, pages, size = row
    if has_children:
        raise Whole("other tables inherit from its table")
    if has_policies:
        raise Whole("its table has row-level security")
    if size < SPLIT_FROM_BYTES:
        raise Whole(f"its table has less than {SPLIT_FROM_BYTES >> 20} MiB")
    return pages, size


def _check_plan(whole: dict[str, Any], part: dict[str, Any], ranges: Ranges, number: int) -> None:
    """The plan of a range is that of the query, but for the range."""
    lower, upper = rf"\(?(.+)\.ctid >= '\({number * ranges.pages},0\)'::tid\)", rf" AND \(\1\.ctid < '\({(number + 1) * ranges.pages},0\)'::tid\)\)"
    cond = r"\(" + lower + (upper if number < ranges.count - 1 else "")
    same = all(whole.get(key) == part.get(key) for key in ("Schema", "Relation Name", "Alias", "Output", "Filter"))
    if part["Node Type"] != "Tid Range Scan" or "Plans" in part or not same or not re.fullmatch(cond, part.get("TID Cond", "")):
        raise Whole("the server would not read a page range of its table alone (PostgreSQL 14 and newer do)")


_DIFFERING = """
SELECT proname FROM pg_catalog.pg_proc
WHERE proname = ANY(%s) AND provolatile <> 'i' AND NOT (pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s))
UNION ALL
SELECT o.oprname FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
WHERE o.oprname = ANY(%s) AND o.oprnamespace <> 'pg_catalog'::regnamespace AND p.provolatile <> 'i'
UNION ALL
SELECT p.proname FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND p.provolatile <> 'i'
"""


def _check_expressions(connection: psycopg.Connection[Any], query: str, expressions: Iterable[str]) -> None:
    """Every reader must get the same for a row: each has a transaction, and so a `now()`, of its own."""
    if _MOMENTS.search(query):  # 'today' as a literal has become a constant in the plan
        raise Whole("it depends on the moment at which it is read")
    functions, operators = set[str](), set[str]()
    for expression in expressions:
        lexemes = list(_LEXEME.finditer(expression))
        for at, lexeme in enumerate(lexemes):
            text = lexeme.group()
            if lexeme.lastgroup == "operator":
                operators.add(text)
            elif text in _SYSTEM_COLUMNS:
                raise Whole(f"it uses the system column {text}")
            elif lexeme.lastgroup == "word" and text.isupper() and text not in _KEYWORDS:
                raise Whole(f"it uses {text}")
            elif _is_name(lexemes, at) and _text(lexemes, at + 1) == "(":
                functions.add(text.strip('"').replace('""', '"'))
    row = connection.execute(_DIFFERING, [sorted(functions), _BY_SETTINGS, sorted(operators)]).fetchone()
    if row is not None:
        raise Whole(f"{row[0]} may give every reader another value")


_FREE = """
SELECT pg_is_in_recovery(), (
    SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END)
    FROM pg_catalog.pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')
) - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')
"""


def readers(connection: psycopg.Connection[Any], asked: Literal["auto"] | int, split: Ranges | str) -> tuple[int, list[str]]:
    """How many readers share the ranges, and what a user should know about that.

    `auto`: as many as this machine has cores for us, four at most, and no more than half of the server's free connections.
    """
    if isinstance(split, str):
        return 1, [] if asked in ("auto", 1) else [f"read as one stream, not by {asked} readers: {split}"]
    standby, free = connection.execute(_FREE).fetchone() or (False, 0)
    if standby and asked != 1:
        return 1, ["read by one reader: the server is a standby, where a shared snapshot is not relied on"]
    wanted = min(_cores(), MOST_BY_ITSELF, 1 + int(free) // 2) if asked == "auto" else asked
    return max(1, min(wanted, split.count)), []


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
