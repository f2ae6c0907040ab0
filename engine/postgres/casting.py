"""Any Arrow column into the one Arrow type that `adbc_ingest` stores exactly in a given column of PostgreSQL, or not at all.

The driver writes COPY BINARY and the server trusts it: an int64 sent into `double precision`, or a date32 of the wrong epoch, is stored as garbage without an
error, nanoseconds are cut, uint64 wraps, a decimal is rounded. So each pair of types has one written rule here, and a pair without a rule is refused by name.

| PostgreSQL | Arrow type sent |
|---|---|
| smallint, integer, bigint, real, double precision, boolean | int16, int32, int64, float, double, bool |
| numeric(p,s) | decimal128(p,s), decimal256 above 38 digits, by the server above 76 |
| numeric | by the server, since the driver drops zeros at the end: `1.10` would become `1.1`; whole numbers as decimal |
| text, varchar(n), char(n), name, enums | string |
| bytea, uuid | binary, fixed_size_binary(16) |
| json, jsonb | string, arrow.json |
| date, time, timestamp, timestamp with time zone | date32, time64[us], timestamp[us], timestamp[us, UTC] |
| interval | month_day_nano_interval or duration[us] from such, by the server from text |
| oid | int32 of the same four bytes |
| arrays | list of the above; by the server from text, and where the element goes by the server |
| everything else | by the server |

By the server: text in a temporary table, cast with `Caster.expression`. A text column that is sent directly may meet a value which PostgreSQL takes and
the Arrow type cannot hold (`infinity`, years above 9999, BC, 24:00, NaN in numeric(p,s): `casting_text`, "by the server"). Then `Cast.needs_server` is set: the
caller rolls the file back and starts it again with `caster(…, by_server=True)` for that column. Values are never sent both ways in one file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import SchemaMismatch
from engine.postgres.casting_pairs import way_of
from engine.postgres.casting_server import cast_expression
from engine.postgres.casting_text import FLOATS, INTEGERS, from_text
from engine.postgres.declared import Declared, stored
from engine.postgres.plan import FIELD_TYPE_KEY
from engine.postgres.ways import Refused, Way, any_true, isolate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.postgres.columns import Column

NULL_IN_NOT_NULL = "NULL in a NOT NULL column"
_PARSED = frozenset({*INTEGERS, *FLOATS, "boolean", "numeric", "date"}) | {
    "time without time zone",
    "timestamp without time zone",
    "timestamp with time zone",
}


@dataclass(frozen=True, slots=True)
class Cast:
    """A converted array.

    Attributes:
        values: Of the caster's target type, NULL where a row is refused.
        rules: For each refused row the rule that it breaks (string), NULL for the others; None: no row is refused.
        needs_server: A value can go only by the server: `values` are worth nothing, the column is to be started again by the server.
    """

    values: pa.Array
    rules: pa.Array | None = None
    needs_server: bool = False

    @property
    def refused(self) -> pa.Array | None:
        """Which rows are refused (bool); None: no row is."""
        return None if self.rules is None else self.rules.is_valid()


@dataclass(frozen=True, slots=True)
class Caster:
    """How one column is loaded.

    Attributes:
        column: Where to.
        given: The Arrow type that arrives.
        target: The Arrow type that `adbc_ingest` gets.
        by_server: The column travels as text and the server casts it by `expression`.
        plain: The Arrow type that a CSV reader may parse text to, if it takes no form that PostgreSQL does not (pyarrow's own parser does: `0xFFFF` is -1,
            1e400 infinity, 1e-400 zero); `cast` takes arrays of it too. None: it must stay text.
    """

    column: Column
    given: pa.DataType
    target: pa.DataType
    by_server: bool
    plain: pa.DataType | None
    _kind: Declared = field(repr=False)
    _way: Way = field(repr=False)
    _parsed: Way | None = field(repr=False)

    def cast(self, values: pa.Array) -> Cast:
        """Convert one array of the type given, or of `plain`. Needs no lock: any thread may call it."""
        way = self._parsed if self._parsed and values.type == self.plain else self._way
        ready = way.prepare(values)
        try:
            found, rules = way.convert(ready), None
        except (Refused, pa.ArrowInvalid):
            if way.odd and not self.by_server and any_true(way.is_odd(ready)):
                return Cast(pa.nulls(len(values), self.target), needs_server=True)
            found, rules = isolate(ready, way)
        if not self.column.nullable and values.null_count:
            missing = pc.if_else(values.is_null(), NULL_IN_NOT_NULL, pa.scalar(None, pa.string()))
            rules = missing if rules is None else pc.coalesce(missing, rules)
        return Cast(found, rules)

    def expression(self, name: str) -> str:
        """SQL for the value of a column that went by the server: `CAST("seen" AS inet)`. `name` is the column, quoted for SQL."""
        return cast_expression(self._kind, name) if self.by_server else name


def caster(column: Column, given: pa.DataType, *, by_server: bool = False) -> Caster:
    """The way of an Arrow type into a column.

    Args:
        column: Of the table.
        given: What arrives: string from CSV, any type from Parquet.
        by_server: Send even what could be sent directly as text, after a cast that needed the server.

    Raises:
        SchemaMismatch: No way from this type into that one keeps every value; the message names column, both types and the remedy.

    Example:
        >>> from engine.postgres.columns import Column
        >>> made = caster(Column("dose", "numeric(6,2)"), pa.string())
        >>> made.cast(pa.array(["1.5", "1.005"])).rules.to_pylist()
        [None, 'does not fit numeric(6,2) without rounding']
    """
    kind = stored(column)
    way = way_of(kind, given, by_server=by_server, enum=column.base == "enum")
    if way is None:
        raise _no_way(column, given, _remedy(kind, given))
    plain = _plain(kind, given) if not way.by_server else None
    return Caster(
        column=column,
        given=given,
        target=way.target,
        by_server=way.by_server,
        plain=plain,
        _kind=kind,
        _way=way,
        _parsed=way_of(kind, plain) if plain else None,
    )


def check_way(column: Column, field: pa.Field) -> None:
    """Refuse a column of typed rows before one of them is read.

    Args:
        column: Of the table.
        field: What arrives. A numeric without precision comes as text, and its metadata says so: it is no double, as a decimal is none.

    Raises:
        SchemaMismatch: As `caster`.
    """
    caster(column, field.type)
    written = (field.metadata or {}).get(FIELD_TYPE_KEY, b"").decode(errors="replace")
    if written.startswith("numeric") and stored(column).name in FLOATS:
        raise _no_way(column, written, "cast it where the rows are made (in the query, or where the file is written)")


def _no_way(column: Column, given: object, remedy: str) -> SchemaMismatch:
    return SchemaMismatch(f"column {column.name!r}: {given} does not go into {column.type} without a change of values; {remedy}")


def _plain(kind: Declared, given: pa.DataType) -> pa.DataType | None:
    """Types whose plain texts mean the same to pyarrow and to PostgreSQL; pyarrow's CSV reader has no decimal256."""
    local = from_text(kind) if pa.types.is_string(given) and kind.name in _PARSED else None
    return local.target if local and not pa.types.is_decimal256(local.target) else None


def _remedy(kind: Declared, given: pa.DataType) -> str:
    """What to do about it."""
    if pa.types.is_timestamp(given) and kind.name.startswith("timestamp"):
        return "a time zone is neither added nor dropped: make the column " + ("timestamp with time zone" if given.tz else "timestamp without time zone")
    return "give the column another type (ALTER TABLE, or 'columns' for a new table), or cast it where the rows are made (in the query, or where the file is written)"


def first_rules(casts: Sequence[Cast]) -> dict[int, tuple[int, str]]:
    """Of each row that the casts of its columns refuse: the first such column, by position, and its rule."""
    found: dict[int, tuple[int, str]] = {}
    for at, cast in enumerate(casts):
        if cast.rules is None:
            continue
        rows = pc.indices_nonzero(cast.rules.is_valid())
        for row, rule in zip(rows.to_pylist(), cast.rules.take(rows).to_pylist(), strict=True):
            found.setdefault(row, (at, rule))
    return found
