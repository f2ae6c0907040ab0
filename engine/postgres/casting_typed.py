"""Typed Arrow columns (Parquet, a query's result) into the types of PostgreSQL: the value itself, or nothing.

| Arrow | PostgreSQL |
|---|---|
| bool | boolean, text |
| int8 … int64, uint8 … uint64 | smallint, integer, bigint, numeric, oid, text; real and double precision where the number is held exactly |
| decimal | numeric; smallint, integer and bigint where nothing stands after the point; money |
| float16, float32, float64 | double precision; real where the number is held exactly; smallint, integer and bigint where it is whole |
| date32, date64 | date |
| time32, time64 | time without time zone, within whole microseconds |
| timestamp | timestamp without time zone, within whole microseconds |
| timestamp with a zone | timestamp with time zone, within whole microseconds: the instant |
| duration, month_day_nano_interval | interval, within whole microseconds |
| string | what the text is taken as (`casting_text`) |
| binary, fixed_size_binary | bytea; of 16 bytes also uuid |
| extension arrow.uuid | uuid |
| extension arrow.json | json, jsonb, text |
| struct, map, list | json, jsonb (`json_text`) |
| list | an array of what its elements go into |
| null | every type |

Everything else is refused by the column's name before a row is read: a zone is never added nor dropped, a date is no timestamp, a double no numeric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.casting_text import FLOATS, INTEGERS, as_oid, fits_numeric, from_text, whole_digits
from engine.postgres.convert import FIRST_DAY, FIRST_MICROSECOND, MICROSECONDS_A_DAY
from engine.postgres.types import decimal_type
from engine.postgres.ways import Convert, Refused, Way, all_true, between, identity

if TYPE_CHECKING:
    from engine.postgres.declared import Declared

_TOO_FINE = "finer than a microsecond, or out of range"
_TEXTS = frozenset({"text", "character varying", "character", "bpchar"})
_LAST_DAY = 2_147_483_493 + FIRST_DAY  # 5874897-12-31 (DATE_END_JULIAN in src/include/datatype/timestamp.h)


def from_typed(kind: Declared, given: pa.DataType) -> Way | None:
    """The way of a plain Arrow type into a type, or None where there is none that changes nothing."""
    if kind.array:
        return None
    if kind.name in _TEXTS:
        return _text(kind, given)
    made = next((make for holds, make in _MAKERS if holds(given)), None)
    return made(kind, given) if made else None


def _text(kind: Declared, given: pa.DataType) -> Way | None:
    """Text of booleans and whole numbers, which has only one form."""
    if not (pa.types.is_boolean(given) or pa.types.is_integer(given)):
        return None
    limited = from_text(kind)
    return limited and Way(pa.string(), lambda values: limited.convert(values.cast(pa.string())), limited.rule)


def _boolean(kind: Declared, given: pa.DataType) -> Way | None:
    return Way(given, identity, "") if kind.name == "boolean" else None


def _whole(kind: Declared, given: pa.DataType) -> Way | None:
    """Integers of any width."""
    if kind.name in INTEGERS:
        return _cast(INTEGERS[kind.name], f"does not fit {kind.name}")
    if kind.name in FLOATS:
        return _cast(FLOATS[kind.name], f"{kind.name} does not hold it exactly", through=given)
    if kind.name == "oid":
        return Way(pa.int32(), as_oid, "does not fit oid")
    if kind.name == "numeric":
        return _decimal_of(kind, pa.decimal128(20, 0))
    return None


def _decimal(kind: Declared, given: pa.DataType) -> Way | None:
    if kind.name in INTEGERS:
        return _cast(INTEGERS[kind.name], f"does not fit {kind.name}, or has digits after the point")
    return _decimal_of(kind, given) if kind.name == "numeric" else None


def _decimal_of(kind: Declared, given: pa.DataType) -> Way | None:
    """Decimals, and integers by way of `given`: Arrow refuses a decimal with fewer digits than the integer type could need. The driver drops zeros at the end: where the type gives no scale, only whole numbers keep their text."""
    if not kind.modifiers:
        if given.scale > 0:
            return None
        whole = pa.decimal256(min(given.precision - given.scale, 76), 0)
        return Way(whole, lambda values: values.cast(given).cast(whole), "has more than 76 digits")
    precision, scale = kind.modifiers[0], kind.modifiers[1] if len(kind.modifiers) > 1 else 0
    target = decimal_type(precision, scale)
    if target is None:
        return None
    fit = fits_numeric(precision, scale)
    return Way(target, lambda values: fit(values.cast(given).cast(target)), f"does not fit numeric({precision},{scale}) without rounding")


def _float(kind: Declared, given: pa.DataType) -> Way | None:
    if kind.name in FLOATS:
        target = FLOATS[kind.name]
        return _cast(target, f"{kind.name} does not hold it exactly", through=given if given.bit_width > target.bit_width else None)
    if kind.name in INTEGERS:
        return _cast(INTEGERS[kind.name], f"does not fit {kind.name}, or has digits after the point")
    return None


def _cast(target: pa.DataType, rule: str, through: pa.DataType | None = None) -> Way:
    """Arrow's checked cast; where Arrow does not check (`through`), what comes back must be what was given, NaN included."""

    def convert(values: pa.Array) -> pa.Array:
        found = values.cast(target, safe=through is None)
        if through is not None:
            same = pc.equal(found.cast(through, safe=False), values)
            if pa.types.is_floating(through):
                same = pc.or_(same, pc.is_nan(values))
            elif not all_true(pc.less(pc.abs(found), pa.scalar(2.0**63, target))):
                raise Refused(rule)  # what comes back of 2⁶³ is not defined
            if not all_true(same):
                raise Refused(rule)
        return found

    return Way(target, convert, rule)


def _date(kind: Declared, _: pa.DataType) -> Way | None:
    if kind.name != "date":
        return None

    def convert(values: pa.Array) -> pa.Array:
        found = values.cast(pa.date32())
        between(found.cast(pa.int32()), FIRST_DAY, _LAST_DAY, "a day that date does not hold")
        return found

    return Way(pa.date32(), convert, "not a whole day")


def _time(kind: Declared, _: pa.DataType) -> Way | None:
    if kind.name != "time without time zone":
        return None

    def convert(values: pa.Array) -> pa.Array:
        found = values.cast(pa.time64("us"))
        between(found.cast(pa.int64()), 0, MICROSECONDS_A_DAY, "no time of a day")
        return whole_digits(found, _digits(kind))

    return Way(pa.time64("us"), convert, _TOO_FINE)


def _timestamp(kind: Declared, given: pa.DataType) -> Way | None:
    """The zone decides: a time without one is not an instant."""
    if kind.name != ("timestamp with time zone" if given.tz else "timestamp without time zone"):
        return None
    target = pa.timestamp("us", tz="UTC" if given.tz else None)

    def convert(values: pa.Array) -> pa.Array:
        found = values.cast(target)
        between(found.cast(pa.int64()), FIRST_MICROSECOND, 2**63 - 1, f"a moment that {kind.name} does not hold")
        return whole_digits(found, _digits(kind))

    return Way(target, convert, _TOO_FINE)


def _digits(kind: Declared) -> int:
    """Digits of a second that the type keeps."""
    return kind.modifiers[0] if kind.modifiers else 6


def _duration(kind: Declared, _: pa.DataType) -> Way | None:
    if kind.name != "interval" or kind.modifiers:
        return None
    return _cast(pa.duration("us"), _TOO_FINE)


def _interval(kind: Declared, given: pa.DataType) -> Way | None:
    """Months, days and nanoseconds: 4, 4 and 8 bytes (https://arrow.apache.org/docs/format/Columnar.html)."""
    if kind.name != "interval" or kind.modifiers:
        return None

    def convert(values: pa.Array) -> pa.Array:
        words = pa.Array.from_buffers(pa.int64(), 2 * (values.offset + len(values)), [None, values.buffers()[1]])
        nanoseconds = words.take(pa.array(range(2 * values.offset + 1, len(words), 2), pa.int64()))
        thousand = pa.scalar(1000, pa.int64())
        exact = pc.equal(pc.multiply(pc.divide(nanoseconds, thousand), thousand), nanoseconds)
        if not all_true(pc.or_(exact, values.is_null())):
            raise Refused(_TOO_FINE)
        return values

    return Way(given, convert, _TOO_FINE)


def _binary(kind: Declared, given: pa.DataType) -> Way | None:
    uuid_bytes = 16
    if kind.name == "uuid" and pa.types.is_fixed_size_binary(given) and given.byte_width == uuid_bytes:
        return Way(given, identity, "")
    return _cast(pa.binary(), "too large") if kind.name == "bytea" else None


def as_text(given: pa.DataType) -> Convert | None:
    """The text of values for columns that only the server converts, where Arrow's text is what the server reads as the very value."""
    if pa.types.is_string(given):
        return identity
    exact = pa.types.is_boolean(given) or pa.types.is_integer(given) or pa.types.is_decimal(given)
    return (lambda values: values.cast(pa.string())) if exact else None


_MAKERS = (
    (pa.types.is_boolean, _boolean),
    (pa.types.is_integer, _whole),
    (pa.types.is_decimal, _decimal),
    (pa.types.is_floating, _float),
    (pa.types.is_date, _date),
    (pa.types.is_time, _time),
    (pa.types.is_timestamp, _timestamp),
    (pa.types.is_duration, _duration),
    (pa.types.is_interval, _interval),
    (pa.types.is_binary, _binary),
    (pa.types.is_fixed_size_binary, _binary),
)
"""Kinds of Arrow types after `plain_form`, with what makes their ways."""


def plain_form(given: pa.DataType) -> tuple[pa.DataType, Convert]:
    """The same values without what is only another layout: dictionaries, runs, views, large offsets, logical types over storage."""
    if pa.types.is_dictionary(given):
        return _after(given.value_type, lambda values: values.dictionary_decode())
    if pa.types.is_run_end_encoded(given):
        return _after(given.value_type, pc.run_end_decode)
    if isinstance(given, pa.BaseExtensionType):
        return _after(given.storage_type, lambda values: values.storage)
    same = next((same for kinds, same in _LAYOUTS if any(holds(given) for holds in kinds)), given)
    return same, identity if same == given else lambda values: values.cast(same)


def _after(inner: pa.DataType, undo: Convert) -> tuple[pa.DataType, Convert]:
    plain, convert = plain_form(inner)
    return plain, lambda values: convert(undo(values))


_LAYOUTS = (
    ((pa.types.is_large_string, pa.types.is_string_view), pa.string()),
    ((pa.types.is_large_binary, pa.types.is_binary_view), pa.binary()),
)
