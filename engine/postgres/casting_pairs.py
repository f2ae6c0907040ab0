"""Which way a pair of types takes: an Arrow type into a type of PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.casting_server import by_server as way_by_server
from engine.postgres.casting_server import reads_numbers
from engine.postgres.casting_text import from_text
from engine.postgres.casting_typed import as_text, from_typed, plain_form
from engine.postgres.declared import Declared, declared
from engine.postgres.json_text import has_json, is_list, json_text
from engine.postgres.ways import Convert, Way, rebuilt

_JSON = frozenset({"json", "jsonb"})
_TAKE_JSON = _JSON | {"text", "character varying"}


def way_of(kind: Declared, given: pa.DataType, *, by_server: bool = False, enum: bool = False) -> Way | None:
    """The way, or None where none keeps every value.

    Args:
        kind: The type stored, below a domain.
        given: What arrives.
        by_server: Send text to the server even where there is another way.
        enum: The type is an enum, which takes a label's text directly.
    """
    if kind.name in _JSON and not kind.array and _is_nested(given):
        return _nested(kind, given)
    if kind.name.startswith("interval ") and not kind.name.endswith("second"):
        return None  # `interval year to month` drops the days without a word
    if is_list(given):
        return _array(kind, given) if kind.array else None
    if isinstance(given, pa.OpaqueType) or (isinstance(given, pa.JsonType) and (kind.array or kind.name not in _TAKE_JSON)):
        return None
    plain, prepare = (pa.string(), _as_string) if pa.types.is_null(given) else plain_form(given)
    way = _text(kind, enum=enum, by_server=by_server) if pa.types.is_string(plain) else _typed(kind, plain)
    return way and replace(way, prepare=prepare)


def _is_nested(given: pa.DataType) -> bool:
    return is_list(given) or pa.types.is_struct(given) or pa.types.is_map(given)


def _text(kind: Declared, *, enum: bool, by_server: bool) -> Way:
    local = from_text(kind)
    if local and not by_server:
        return local
    way = way_by_server(kind, local)
    return replace(way, by_server=False) if enum and not kind.array and not by_server else way


def _typed(kind: Declared, plain: pa.DataType) -> Way | None:
    """Directly, or as text of a number where only the server makes the type from it."""
    way = from_typed(kind, plain)
    text = as_text(plain)
    if way or text is None or from_text(kind) or kind.array or not reads_numbers(kind):
        return way
    server = way_by_server(kind, None)
    return replace(server, convert=_chain(text, server.convert))


def _nested(kind: Declared, given: pa.DataType) -> Way | None:
    """Nested values as JSON; checked like any other, since JSON columns inside are passed on as they are."""
    checked = from_text(kind)
    if checked is None or not has_json(given):
        return None
    return Way(checked.target, _chain(json_text, checked.convert), checked.rule)


def _array(kind: Declared, given: pa.DataType) -> Way | None:
    """A list goes element by element; where an element goes by the server, or is text that it may have to read, the array goes as PostgreSQL's text."""
    listed = pa.list_(given.value_type)
    element = _element(kind, given.value_type)
    if element is None:
        return None
    convert = _chain(element.prepare, element.convert)
    if element.by_server or element.target == pa.json_(pa.string()):
        made = replace(way_by_server(kind, None), convert=_literal(convert), rule=element.rule)
    else:
        made = Way(pa.list_(element.target), lambda values: rebuilt(values, convert(values.flatten())), element.rule)
    return replace(made, prepare=lambda values: values.cast(listed))


def _element(kind: Declared, given: pa.DataType) -> Way | None:
    inner = declared(kind.element)
    way = way_of(inner, given)
    return way_of(inner, given, by_server=True) if way and way.odd else way


def _literal(convert: Convert) -> Convert:
    """`{"a",NULL}`: every element quoted (https://www.postgresql.org/docs/current/arrays.html, "Array Input and Output Syntax")."""

    def literal(values: pa.Array) -> pa.Array:
        texts = convert(values.flatten())
        texts = texts.storage if isinstance(texts.type, pa.BaseExtensionType) else texts
        escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
        quoted = pc.fill_null(pc.binary_join_element_wise('"', escaped, '"', ""), "NULL")
        joined = pc.binary_join(rebuilt(values, quoted), ",")
        return pc.binary_join_element_wise("{", joined, "}", "")

    return literal


def _as_string(values: pa.Array) -> pa.Array:
    return values.cast(pa.string())


def _chain(first: Convert, then: Convert) -> Convert:
    return lambda values: then(first(values))
