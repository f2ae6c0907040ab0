"""Which columns a new table gets: from an Arrow schema, whose types are kept, or from the text of whole files, which is never guessed from its beginning.

| Arrow | PostgreSQL |
|---|---|
| a field that our export wrote | the type in its metadata |
| bool | boolean |
| int8, int16, uint8 / int32, uint16 / int64, uint32 / uint64 | smallint / integer / bigint / numeric(20,0) |
| float16, float32 / float64 | real / double precision |
| decimal(p,s) | numeric(p,s) |
| string, null / binary | text / bytea |
| date, time | date, time without time zone |
| timestamp / timestamp with a zone | timestamp without time zone / timestamp with time zone |
| duration, month_day_nano_interval | interval |
| arrow.uuid / arrow.json | uuid / json |
| list of one of these | an array of it |
| struct, map, lists of lists, of structs or of maps | jsonb (`json_text`) |
| dictionaries, runs, views | what their values are |
"""

from __future__ import annotations

import re

import pyarrow as pa

from engine.errors import SchemaMismatch
from engine.postgres.casting_typed import plain_form
from engine.postgres.columns import Column
from engine.postgres.guessing import Guess
from engine.postgres.json_text import has_json, is_list
from engine.postgres.plan import FIELD_TYPE_KEY

_IDENTIFIER = r'(?:[\w$]+|"(?:[^"\0]|"")+")'
_TYPE = re.compile(rf"{_IDENTIFIER}(?:\.{_IDENTIFIER}|(?: [a-z]+)*)(?:\((?:-?\d+|\w+)(?:,-?\d+)*\))?(?: [a-z]+)*(?:\[\])?")
_TYPES = (
    (pa.types.is_null, "text"),
    (pa.types.is_boolean, "boolean"),
    (lambda kind: kind in {pa.int8(), pa.int16(), pa.uint8()}, "smallint"),
    (lambda kind: kind in {pa.int32(), pa.uint16()}, "integer"),
    (lambda kind: kind in {pa.int64(), pa.uint32()}, "bigint"),
    (pa.types.is_uint64, "numeric(20,0)"),
    (lambda kind: kind in {pa.float16(), pa.float32()}, "real"),
    (pa.types.is_float64, "double precision"),
    (pa.types.is_string, "text"),
    (lambda kind: pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind), "bytea"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time without time zone"),
    (lambda kind: pa.types.is_timestamp(kind) and not kind.tz, "timestamp without time zone"),
    (pa.types.is_timestamp, "timestamp with time zone"),
    (lambda kind: pa.types.is_duration(kind) or pa.types.is_interval(kind), "interval"),
)


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns that rows of this schema go into, names kept.

    Raises:
        SchemaMismatch: A type that has no home, or two columns of one name; nothing was written.

    Example:
        >>> [column.type for column in columns_of(pa.schema({"dose": pa.decimal128(6, 2), "tags": pa.list_(pa.string())}))]
        ['numeric(6,2)', 'text[]']
    """
    for position, name in enumerate(schema.names):
        first = schema.names.index(name)
        if first != position:
            raise SchemaMismatch(f"columns {first + 1} and {position + 1} are both named {name!r}; a table has each name once")
    return tuple(Column(field.name, _type_of(field)) for field in schema)


def _type_of(field: pa.Field) -> str:
    written = (field.metadata or {}).get(FIELD_TYPE_KEY)
    if written is not None:
        return _checked(field.name, written)
    found = _array_type(field.type) if is_list(field.type) else _scalar_type(field.type)
    if found is None and has_json(field.type):
        found = "jsonb"
    if found is None:
        raise SchemaMismatch(f"column {field.name!r}: {field.type} has no type in PostgreSQL that holds it; leave the column out, or write it as another type")
    return found


def _checked(name: str, written: bytes) -> str:
    """The type in the metadata becomes part of a CREATE TABLE: one type's name, and nothing else, may stand there."""
    text = written.decode("utf-8", errors="replace")
    if not _TYPE.fullmatch(text):
        raise SchemaMismatch(f"column {name!r}: the PostgreSQL type in the file's metadata is no name of a type; name the column's type in 'columns'")
    return text


def _array_type(kind: pa.DataType) -> str | None:
    element = None if is_list(kind.value_type) else _scalar_type(kind.value_type)
    return element and f"{element}[]"


def _scalar_type(kind: pa.DataType) -> str | None:
    """None for what is nested, and for what nothing holds."""
    if isinstance(kind, pa.OpaqueType):
        return None
    if kind == pa.uuid() or kind == pa.json_(pa.string()):
        return "uuid" if kind == pa.uuid() else "json"
    plain, _ = plain_form(kind)
    if pa.types.is_decimal(plain):
        precision, scale = (plain.precision, plain.scale) if plain.scale >= 0 else (plain.precision - plain.scale, 0)
        return f"numeric({max(precision, scale)},{scale})"
    return next((name for holds, name in _TYPES if holds(plain)), None)


class Inference:
    """The types that hold every text of whole files without loss. Feed it every block of every file; it keeps one guess per column.

    Example:
        >>> inference = Inference()
        >>> inference.add(pa.record_batch({"id": ["00123"], "dose": ["1.50"], "seen": ["2024-01-31"]}))
        >>> [column.type for column in inference.columns()]
        ['text', 'numeric(38,2)', 'date']
    """

    def __init__(self) -> None:
        self._guesses: list[tuple[str, Guess]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """One more block. All blocks have the same columns, of type string.

        Raises:
            SchemaMismatch: Other columns than before.
        """
        names = batch.schema.names
        if not self._guesses:
            self._guesses = [(name, Guess()) for name in names]
        if names != [name for name, _ in self._guesses]:
            raise SchemaMismatch("the files do not have the same columns; load them one by one, or name the columns in 'columns'")
        for column, (_, guess) in zip(batch.columns, self._guesses, strict=True):
            guess.add(column)

    def columns(self) -> tuple[Column, ...]:
        """What is known so far; a column without a value is text."""
        return tuple(Column(name, guess.type) for name, guess in self._guesses)
