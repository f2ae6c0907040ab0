"""PostgreSQL's rows without the ADBC driver (`reader: copy`): COPY BINARY by asyncpg, made Arrow by compiled code; or CSV that the server writes itself.

Planning, type rules, errors and the queue to the caller are those of `source.py`. The rules are changed in one respect: a numeric that becomes a
decimal128 is not asked for as text, since its binary form is read exactly.
"""

from __future__ import annotations

import contextlib
import importlib.util
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pyarrow as pa

from engine import workers
from engine.errors import IntegrityError, SchemaMismatch
from engine.postgres import copy_connection
from engine.postgres.plan import Plan
from engine.postgres.source import PostgresSource, Stream
from engine.postgres.types import without_domain

if importlib.util.find_spec("numba") is None:  # imported when rows are decoded: that takes half a second and 80 MB
    raise ModuleNotFoundError("numba is missing", name="numba")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.postgres.source_options import PostgresSourceOptions
    from engine.postgres.types import Rule
    from engine.protocols import CsvDialect, Form

PIECE_BYTES = 1 << 20
# COPY prints these as `::text` does, by the type's own output function (pg_cast has no function for them): the cast would cost the server time.
_PRINTED_ALIKE = frozenset({"numeric", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "float4", "float8", "uuid", "bytea", "json", "jsonb"})


class CopySource(PostgresSource):
    """The rows of one query (`RowSource`), or its CSV (`EncodesItself`).

    Example:
        >>> source = CopySource(PostgresSourceOptions(query="SELECT 1 AS one", host="localhost", reader="copy"))  # doctest: +SKIP
        >>> with source.read() as stream:  # doctest: +SKIP
        ...     table = stream.reader.read_all()
    """

    @contextlib.contextmanager
    def read_encoded(self, dialect: Callable[[pa.Schema], CsvDialect]) -> Iterator[EncodedStream]:
        """Check and describe the query, then stream the CSV that the server writes, from one `REPEATABLE READ READ ONLY` transaction.

        Byte for byte what `CsvFormat` makes of `read("text")`. Raises as `read` does.
        """
        plan, notes = workers.call(lambda: self._plan("text"))
        with EncodedStream(self._options, cast("CopyPlan", plan), notes, dialect(plan.schema)) as stream:
            yield stream

    def _stream(self, plan: Plan, notes: list[str]) -> Stream:
        return CopyStream(self._options, cast("CopyPlan", plan), notes)

    def _planned(self, connection: psycopg.Connection[Any], form: Form) -> CopyPlan:
        plan = super()._planned(connection, form)
        way = copy_connection.address(connection, self._options)
        return CopyPlan(plan.query, plan.columns, tuple(map(_in_binary, plan.rules)), plan.shape_checks, plan.estimated_rows, way=way)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan(Plan):
    """How a query will be read by COPY.

    Attributes:
        way: To the server that planned it.
    """

    way: copy_connection.Address

    @property
    def sent(self) -> Iterator[int]:
        """The types (OIDs) of the columns that are sent: what the bytes mean. All of them are PostgreSQL's own."""
        for column, rule in zip(self.columns, self.rules, strict=True):
            kind, _ = without_domain(column.type, column.typmod)
            own = f"{without_domain(kind.element, -1)[0].name}[]" if kind.element else kind.name
            yield psycopg.adapters.types.get_oid(rule.casts[-1] if rule.casts else own)


def _in_binary(rule: Rule) -> Rule:
    """The rule for a column of COPY BINARY: numerics in their exact binary form, JSON as text (a jsonb's binary form has a number in front)."""
    element, brackets = (rule.arrow.value_type, "[]") if pa.types.is_list(rule.arrow) else (rule.arrow, "")
    if pa.types.is_decimal128(element):
        return replace(rule, casts=(f"numeric{brackets}",), convert=None)
    if element == pa.json_(pa.string()):
        return replace(rule, casts=(f"text{brackets}",))
    return rule


class _CopyStream(Stream):
    """What both kinds of stream share: the thread of one `CopyOut`."""

    def __init__(self, options: PostgresSourceOptions, plan: CopyPlan, notes: list[str], query: str, form: dict[str, Any]) -> None:
        super().__init__(options, plan, notes)
        self._copy = copy_connection.CopyOut(options, plan.way, query, form, self._take)

    def _cancel(self) -> None:
        self._copy.cancel()

    # What follows runs in the reading thread.

    def _read_all(self) -> None:
        try:
            self._copy.run(self._begun, self._ended)
        except Exception as error:
            if (known := copy_connection.translated(self._options, error, self._rows)) is None:
                raise
            raise known from None

    def _begun(self, sent: tuple[int, ...]) -> None:
        """The transaction stands, and its statement has columns of these types, which nobody can alter any more."""
        del sent
        self._opened.set_result(None)

    def _take(self, piece: bytes) -> bool:
        raise NotImplementedError

    def _ended(self, rows: int) -> None:
        raise NotImplementedError


class CopyStream(_CopyStream):
    """Rows on their way (`RowStream`): pieces of COPY BINARY, cut into batches of whole rows, decoded in threads."""

    def __init__(self, options: PostgresSourceOptions, plan: CopyPlan, notes: list[str]) -> None:
        from engine.postgres import copy_binary

        super().__init__(options, plan, notes, plan.statement, {"format": "binary"})
        self._expected = tuple(plan.sent)
        self._binary = copy_binary
        self._splitter = copy_binary.Splitter(len(plan.columns) + len(plan.shape_checks))
        self._types = [_delivered(rule) for rule in plan.rules] + [pa.bool_()] * len(plan.shape_checks)

    def _begun(self, sent: tuple[int, ...]) -> None:
        """The bytes do not say what they mean: a column of another type since it was planned would give other values, not an error."""
        for column, expected, found in zip(self._plan.columns, self._expected, sent, strict=False):
            if found != expected:
                raise SchemaMismatch(f"column {column.name!r} has another type than was announced; was the table altered meanwhile?")
        super()._begun(sent)

    def _take(self, piece: bytes) -> bool:
        rows = self._splitter.feed(piece)
        if rows is not None:
            self._forward_rows(rows)
        return not self._stop.is_set()

    def _ended(self, rows: int) -> None:
        self._forward_rows(self._splitter.end())
        if self._rows != rows:
            raise IntegrityError(f"the server sent {rows:,} rows, and {self._rows:,} came; nothing was published")

    def _forward_rows(self, rows: Any) -> None:
        if rows.count:
            self._put(self._converters.submit(self._decode, rows, self._rows))
            self._rows += rows.count

    # What follows runs in any thread.

    def _decode(self, rows: Any, first_row: int) -> pa.RecordBatch:
        try:
            columns = self._binary.decode(rows, self._types)
        except self._binary.UnfitColumn as found:
            self._refuse(found.column, first_row + found.unfit.index, found.unfit.why)
        return self._convert(pa.RecordBatch.from_arrays(columns, names=[""] * len(columns)), first_row)


def _delivered(rule: Rule) -> pa.DataType:
    """The Arrow type that a column has before its rule converts it: of a cast to text, text."""
    last = rule.casts[-1] if rule.casts else ""
    if rule.convert is None or not last.startswith("text"):
        return rule.arrow
    return pa.list_(pa.string()) if last.endswith("[]") else pa.string()


class EncodedStream(_CopyStream):
    """The server's CSV on its way (`protocols.EncodedStream`)."""

    def __init__(self, options: PostgresSourceOptions, plan: CopyPlan, notes: list[str], dialect: CsvDialect) -> None:
        quoted = [f"c{i}" for i, rule in enumerate(plan.rules) if dialect.quotes_all or pa.types.is_string(rule.arrow)]
        form = {"format": "csv", "delimiter": dialect.delimiter, "null": dialect.null, "force_quote": quoted or None}
        super().__init__(options, plan, notes, _printed(plan), form)
        self.schema = plan.schema
        self.rows: int | None = None
        self.pieces = self._arrivals()
        self._held = bytearray()
        self.lines = 0

    def _take(self, piece: bytes) -> bool:
        self._held += piece
        if len(self._held) >= PIECE_BYTES:
            self._forward_lines()
        return not self._stop.is_set()

    def _ended(self, rows: int) -> None:
        self._forward_lines()
        if self.lines < rows:
            raise IntegrityError(f"the server sent {rows:,} rows, and fewer lines came; nothing was published")
        self.rows = rows

    def _forward_lines(self) -> None:
        if not self._held:
            return
        self.lines += self._held.count(b"\n")  # at least one for each row
        held: Future[Any] = Future()
        held.set_result(bytes(self._held))
        self._put(held)
        self._held = bytearray()


def _printed(plan: Plan) -> str:
    """The statement for a plan whose columns the server prints: only casts that change the text, and bool in SQL's words."""
    rules = []
    for column, rule in zip(plan.columns, plan.rules, strict=True):
        kind, _ = without_domain(column.type, column.typmod)
        if pa.types.is_boolean(rule.arrow):
            rules.append(replace(rule, casts=("text",)))
        elif kind.builtin and kind.name in _PRINTED_ALIKE:
            rules.append(replace(rule, casts=()))
        else:
            rules.append(rule)
    return replace(plan, rules=tuple(rules)).statement
