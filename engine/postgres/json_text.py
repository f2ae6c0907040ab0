r"""Nested Arrow columns as JSON text, each value so that nothing of it is lost; whole columns at once.

| Arrow | JSON |
|---|---|
| struct | object, its fields in order, NULL as null |
| map with keys of text, numbers, booleans, dates | object; a key that comes twice is refused, since jsonb would keep only the last |
| list | array |
| integer, decimal | number, all digits |
| float | number, the shortest that reads back the same; `"NaN"`, `"Infinity"`, `"-Infinity"`, `"-0"`, which numeric lacks, as strings |
| bool | true, false |
| text, uuid | string |
| arrow.json | the JSON itself |
| binary | string `"\\x00ff"`, as PostgreSQL writes bytea |
| date | `"2024-01-31"` |
| time | `"23:59:59.123456"` |
| timestamp | `"2024-01-31T23:59:59.123456"`, with a zone `"…+00:00"`, the instant in UTC; digits as the unit has |

Decimals and numbers stay exact in PostgreSQL: jsonb holds numbers as numeric (https://www.postgresql.org/docs/current/datatype-json.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.casting_typed import plain_form
from engine.postgres.ways import Refused, any_true, rebuilt

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTROLS = {chr(code): f"\\u{code:04x}" for code in range(1, 32)} | {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799  # seconds: the years 1 to 9999, which Arrow writes as everybody does
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view, pa.types.is_large_list_view)


def has_json(given: pa.DataType) -> bool:
    """Whether every value of the type has a JSON text by the table above."""
    if given == pa.json_(pa.string()) or given == pa.uuid():
        return True
    if pa.types.is_map(given):
        return _is_key(given.key_type) and has_json(given.item_type)
    if pa.types.is_struct(given):
        names = [field.name for field in given]
        return len(names) == len(set(names)) and all(has_json(field.type) for field in given)
    if is_list(given):
        return has_json(given.value_type)
    plain, _ = plain_form(given)
    if plain != given:
        return has_json(plain) and not isinstance(given, pa.OpaqueType)
    return _scalar(plain) is not None


def is_list(given: pa.DataType) -> bool:
    """Lists of any layout."""
    return any(holds(given) for holds in _LISTS)


def json_text(values: pa.Array) -> pa.Array:
    """The JSON text of each value; NULL stays NULL at the top, and is `null` below.

    Raises:
        Refused: A map with a key twice, a NUL in text, or a moment outside the years 1 to 9999.
    """
    return pc.if_else(values.is_valid(), _json(values), pa.scalar(None, pa.string()))


def _json(values: pa.Array) -> pa.Array:
    """The JSON text of each value, NULL as `null`."""
    kind = values.type
    if kind == pa.json_(pa.string()):
        text = values.storage
    elif kind == pa.uuid():
        text = _quoted(_uuid_text(values.storage))
    elif pa.types.is_map(kind):
        text = _map(values)
    elif pa.types.is_struct(kind):
        text = _struct(values)
    elif is_list(kind):
        text = _list(values)
    else:
        plain, convert = plain_form(kind)
        if plain != kind:
            return _json(convert(values))
        convert_scalar = _scalar(plain)
        if convert_scalar is None:
            raise TypeError("has_json() was not asked")
        text = convert_scalar(values)
    return pc.fill_null(text, "null")


def _struct(values: pa.Array) -> pa.Array:
    """`{"a":…,"b":…}`."""
    if not values.type.num_fields:
        return pc.if_else(values.is_valid(), "{}", pa.scalar(None, pa.string()))
    parts: list[Any] = ["{"]
    for position, field in enumerate(values.type):
        parts += [("," if position else "") + _name(field.name) + ":", _json(pc.struct_field(values, position))]
    joined = pc.binary_join_element_wise(*parts, "}", "")
    return pc.if_else(values.is_valid(), joined, pa.scalar(None, pa.string()))


def _list(values: pa.Array) -> pa.Array:
    """`[…,…]`."""
    plain = values.cast(pa.list_(values.type.value_type))
    return _joined(plain, _json(plain.flatten()), "[", "]")


def _map(values: pa.Array) -> pa.Array:
    """`{"key":…}`."""
    first, last = values.offsets[0].as_py(), values.offsets[-1].as_py()
    entries = pa.StructArray.from_arrays([values.keys.slice(first, last - first), values.items.slice(first, last - first)], ["key", "item"])
    rows = pa.ListArray.from_arrays(pc.subtract(values.offsets, values.offsets[0]), entries, mask=values.is_null() if values.null_count else None)
    held = rows.flatten()
    keys = pc.struct_field(held, 0)
    text = _json(keys)
    keyed = text if pa.types.is_string(plain_form(keys.type)[0]) else _quoted(pc.replace_substring(text, '"', ""))
    parents = pa.table({"row": pc.list_parent_indices(rows), "key": keyed})
    if parents.group_by(["row", "key"]).aggregate([]).num_rows < len(held):
        raise Refused("a map holds a key twice, which JSON objects do not")
    return _joined(rows, pc.binary_join_element_wise(keyed, _json(pc.struct_field(held, 1)), ":"), "{", "}")


def _joined(rows: pa.Array, texts: pa.Array, begin: str, end: str) -> pa.Array:
    """The texts of a list's elements put together again, row by row."""
    return pc.binary_join_element_wise(begin, pc.binary_join(rebuilt(rows, texts), ","), end, "")


def _scalar(kind: pa.DataType) -> Callable[[pa.Array], pa.Array] | None:
    return next((convert for holds, convert in _SCALARS if holds(kind)), None)


def _is_key(kind: pa.DataType) -> bool:
    plain, _ = plain_form(kind)
    return any(holds(plain) for holds in (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date))


def _plain(values: pa.Array) -> pa.Array:
    return values.cast(pa.string())


def _float(values: pa.Array) -> pa.Array:
    """JSON numbers have neither NaN nor infinity, and numeric has no negative zero."""
    text = values.cast(pa.float64() if values.type == pa.float16() else values.type).cast(pa.string())
    words = {"nan": '"NaN"', "-nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"', "-0": '"-0"', "-0.0": '"-0"'}
    found = pc.index_in(text, pa.array(list(words)))
    return pc.coalesce(pa.array(list(words.values())).take(found), text) if found.null_count < len(found) else text


def _quoted(values: pa.Array) -> pa.Array:
    """JSON strings (RFC 8259 section 7)."""
    if any_true(pc.match_substring_regex(values, r'[\x00-\x1f"\\]')):
        if any_true(pc.match_substring(values, "\0")):
            raise Refused("holds a NUL, which PostgreSQL does not store in text")
        values = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
        if any_true(pc.match_substring_regex(values, r"[\x01-\x1f]")):
            for character, escaped in _CONTROLS.items():
                values = pc.replace_substring(values, character, escaped)
    return pc.binary_join_element_wise('"', values, '"', "")


def _name(name: str) -> str:
    if "\0" in name:
        raise Refused("a field's name holds a NUL, which PostgreSQL does not store in text")
    return str(_quoted(pa.array([name]))[0].as_py())


def _bytes(values: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"\\\\x', _hexadecimal(values), '"', "")


def _hexadecimal(values: pa.Array) -> pa.Array:
    return pa.array([None if one is None else one.hex() for one in values.to_pylist()], pa.string())


def _uuid_text(values: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(_hexadecimal(values), "^(.{8})(.{4})(.{4})(.{4})", r"\1-\2-\3-\4-")


def _day(values: pa.Array) -> pa.Array:
    return _quoted(_plain(_within_years(values.cast(pa.date32()))))


def _time(values: pa.Array) -> pa.Array:
    return _quoted(_plain(values))


def _moment(values: pa.Array) -> pa.Array:
    """Arrow writes a space where ISO 8601 has a T, and Z."""
    kind = _within_years(values).type
    text = pc.replace_substring(values.cast(pa.timestamp(kind.unit)).cast(pa.string()), " ", "T")
    return pc.binary_join_element_wise('"', text, '+00:00"' if kind.tz else '"', "")


def _within_years(values: pa.Array) -> pa.Array:
    seconds = values.cast(pa.timestamp("s", tz=getattr(values.type, "tz", None)), safe=False).cast(pa.int64())
    if any_true(pc.or_(pc.less(seconds, _EARLIEST), pc.greater(seconds, _LATEST))):
        raise Refused("a moment outside the years 1 to 9999 inside a nested value")
    return values


_SCALARS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]], ...] = (
    (pa.types.is_null, _plain),
    (pa.types.is_boolean, _plain),
    (pa.types.is_integer, _plain),
    (pa.types.is_decimal, _plain),
    (pa.types.is_floating, _float),
    (pa.types.is_string, _quoted),
    (pa.types.is_binary, _bytes),
    (pa.types.is_fixed_size_binary, _bytes),
    (pa.types.is_date, _day),
    (pa.types.is_time, _time),
    (pa.types.is_timestamp, _moment),
)
