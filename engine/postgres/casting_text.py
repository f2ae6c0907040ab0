r"""Text into the types of PostgreSQL, as PostgreSQL's own input takes it; what would be changed on the way, or read by a session's settings, is refused.

Blanks around a value are skipped, for every type but text, uuid, bytea and json (JSON has blanks of its own), and letters may be of either case.

| type | taken | by the server (`Way.odd`) | refused although PostgreSQL might take it |
|---|---|---|---|
| smallint, integer, bigint | `-12`, `+12`, `0012` | | `0x1F`, `1_000` (PostgreSQL 16 on) |
| oid | `12` | | `0012`, which it reads as octal; `-1` |
| numeric(p,s) | `1.5`, `.5`, `5.`, `1e3`, if it fits without rounding | `NaN` | what would be rounded |
| numeric, numeric above 76 digits | | all, as text: keeps `1.10` as it is | exponents beyond four digits |
| real, double precision | `1.5`, `1e-5`, `NaN`, `Infinity`, `inf` | | hexadecimal; what becomes 0 or infinity |
| boolean | any beginning of true, false, yes, no; `on`, `off`, `of`, `1`, `0` | | |
| date | `2024-01-31` | `infinity`, years above 9999, BC | any other order or separator: DateStyle decides it |
| time | `23:59`, `23:59:59.123456` | `24:00` | more than six digits of a second |
| timestamp | `2024-01-31`, `2024-01-31 23:59`, `…T23:59:59.123456` | `infinity`, years above 9999, BC, `24:00` | an offset, which PostgreSQL would drop |
| timestamp with time zone | the same with `Z`, `+02`, `+0230`, `+02:30` | `infinity`, years above 9999, BC, `24:00`, seconds in the offset | no offset: TimeZone decides it |
| uuid | any of PostgreSQL's forms | | |
| bytea | `\x00ff`, and the escape format | | |
| json, jsonb | valid JSON (RFC 8259); for jsonb also its limits | | |
| text, varchar(n), char(n), name | everything without NUL that is not too long | | blanks that varchar(n) would cut |

`2024-01-31 10` and offsets of 16 hours and more are taken as ISO 8601 has them, although PostgreSQL refuses them.
Never taken: `now`, `today`, `1 Jan 2024`, names of time zones, currency signs. The clock, DateStyle, TimeZone and lc_monetary would decide what they mean.
Sources: https://www.postgresql.org/docs/current/datatype.html, and tests that ask the server itself.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.json_check import checked_json
from engine.postgres.types import decimal_type
from engine.postgres.ways import Convert, Refused, Way, all_true, any_true, between, characters, require, trimmed

if TYPE_CHECKING:
    from engine.postgres.declared import Declared

INTEGERS = {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64()}
FLOATS = {"real": pa.float32(), "double precision": pa.float64()}
TRUE = ("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1")
FALSE = ("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0")
NAME_BYTES = 63  # NAMEDATALEN - 1
_SHORT_EXPONENT = r"^[+-]?[0-9.]{1,20}[eE][+-]?0{0,9}([0-9]|1[0-5])$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(E[+-]?[0-9]+)?$"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_OFFSET = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_INFINITY = r"[+-]?infinity"
_FAR_DAY = r"[0-9]{4,7}-[0-9]{2}-[0-9]{2}"  # years above 9999, and with BC
_FAR_CLOCK = r"[ T]([01][0-9]|2[0-4]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
ODD_DATE = rf"(?i)^({_INFINITY}|[0-9]{{5,7}}-[0-9]{{2}}-[0-9]{{2}}|{_FAR_DAY} BC)$"
ODD_TIME = r"^24:00(:00(\.0{1,6})?)?$"
ODD_TIMESTAMP = rf"(?i)^({_INFINITY}|[0-9]{{5,6}}-[0-9]{{2}}-[0-9]{{2}}({_FAR_CLOCK})?|{_FAR_DAY}({_FAR_CLOCK})? BC|{_DAY}[ T]24:00(:00(\.0{{1,6}})?)?)$"
_FAR_OFFSET = r"(Z|[+-][0-9]{2}(:?[0-9]{2}(:[0-9]{2})?)?)"
ODD_TIMESTAMPTZ = (
    rf"(?i)^({_INFINITY}|[0-9]{{5,6}}-[0-9]{{2}}-[0-9]{{2}}{_FAR_CLOCK}{_FAR_OFFSET}|{_FAR_DAY}{_FAR_CLOCK}{_FAR_OFFSET} BC"
    rf"|{_DAY}{_FAR_CLOCK}[+-][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}|{_DAY}[ T]24:00(:00(\.0{{1,6}})?)?{_OFFSET}|(0001-01-01|9999-12-31){_FAR_CLOCK}{_FAR_OFFSET})$"
)


def from_text(kind: Declared) -> Way | None:
    """The way of text into a type, or None where only the server knows one."""
    if kind.array:
        return None
    name = kind.name
    if name in INTEGERS:
        return Way(INTEGERS[name], _integer(INTEGERS[name], name), f"does not fit {name}")
    if name in FLOATS:
        return Way(FLOATS[name], _float(FLOATS[name], name), "not a number")
    if name == "numeric" and kind.modifiers:
        return _numeric(kind)
    if name in _TEXTS:
        return Way(pa.string(), _limited(name, kind.modifiers[0] if kind.modifiers else None), "")
    make = _OTHERS.get(name)
    return make(kind.modifiers[0] if kind.modifiers else 6) if make else None


def _integer(target: pa.DataType, name: str) -> Convert:
    def convert(values: pa.Array) -> pa.Array:
        if not _has_hexadecimal(values):
            try:
                return values.cast(target)
            except pa.ArrowInvalid:
                pass
        bare = trimmed(values)
        require(bare, "^[+-]?[0-9]+$", "not an integer")
        try:
            return pc.ascii_ltrim(bare, "+").cast(target)
        except pa.ArrowInvalid:
            raise Refused(f"does not fit {name}") from None

    return convert


def _has_hexadecimal(values: pa.Array) -> bool:
    """Arrow would read `0xFFFF` as -1 (an integer of its width) without a word."""
    data = characters(values)
    return b"x" in data or b"X" in data


def _float(target: pa.DataType, name: str) -> Convert:
    def convert(values: pa.Array) -> pa.Array:
        try:
            found = values.cast(target)
        except pa.ArrowInvalid:
            values = trimmed(values)
            require(values, r"(?i)^[+-]?([0-9]+\.?[0-9]*(E[+-]?[0-9]+)?|\.[0-9]+(E[+-]?[0-9]+)?|inf|infinity|nan)$", "not a number")
            found = values.cast(target)
        _refuse_overflow(values, found, name)
        return found

    return convert


def _refuse_overflow(values: pa.Array, found: pa.Array, name: str) -> None:
    """Arrow gives infinity for 1e400 and 0 for 1e-400; PostgreSQL refuses both."""
    infinite = pc.is_inf(found)
    if any_true(infinite):
        require(values.filter(infinite), r"(?i)^[+-]?inf(inity)?$", f"out of range of {name}")
    data = characters(values)
    shortest_long_zero = 40  # `0.` and the digits that real can still hold
    if b"e" in data or b"E" in data or (pc.max(pc.binary_length(values)).as_py() or 0) > shortest_long_zero:
        require(values.filter(pc.equal(found, pa.scalar(0.0, found.type))), r"^[+-]?[0.]+([eE].*)?$", f"out of range of {name}")


def _numeric(kind: Declared) -> Way | None:
    """numeric(p,s) as a decimal; None above 76 digits."""
    precision, scale = kind.modifiers[0], kind.modifiers[1] if len(kind.modifiers) > 1 else 0
    target = decimal_type(precision, scale)
    if target is None:
        return None
    fit = fits_numeric(precision, scale)

    def convert(values: pa.Array) -> pa.Array:
        _check_exponents(values)
        try:
            return fit(values.cast(target))
        except pa.ArrowInvalid:
            bare = trimmed(values)
            require(pc.ascii_upper(bare), _NUMBER, "not a number")
            try:
                return fit(bare.cast(target))
            except pa.ArrowInvalid:
                raise Refused(f"does not fit numeric({precision},{scale}) without rounding") from None

    return Way(target, convert, "not a number", odd="(?i)^nan$")


def _check_exponents(values: pa.Array) -> None:
    """Pyarrow reads past its tables for large exponents: `0E-679504100` ends the process, others come out as another number."""
    data = characters(values)
    if b"e" not in data and b"E" not in data:
        return
    written = trimmed(values.filter(pc.match_substring(values, "e", ignore_case=True)))
    require(pc.ascii_upper(written), _NUMBER, "not a number")
    require(written, _SHORT_EXPONENT, "a number with an exponent, of more than 20 digits or beyond 15: write it without the exponent")


def fits_numeric(precision: int, scale: int) -> Convert:
    """A check of decimals which `decimal_type` had to widen: a scale below 0, or above the precision."""
    exact = pa.decimal256(precision, scale)

    def check(values: pa.Array) -> pa.Array:
        if 0 <= scale <= precision:
            values.validate(full=True)  # pyarrow's CSV reader does not look at the precision
        else:
            values.cast(exact)
        return values

    return check


def _boolean(_: int) -> Way:
    def convert(values: pa.Array) -> pa.Array:
        lower = pc.ascii_lower(trimmed(values))
        true = pc.is_in(lower, pa.array(TRUE))
        if not all_true(pc.or_(pc.or_(true, pc.is_in(lower, pa.array(FALSE))), values.is_null())):
            raise Refused("not a boolean")
        return pc.if_else(values.is_valid(), true, pa.scalar(None, pa.bool_()))

    return Way(pa.bool_(), convert, "not a boolean")


def _oid(_: int) -> Way:
    """Four bytes without sign, which the driver writes as a signed number of four bytes."""
    whole = _integer(pa.int64(), "oid")

    def convert(values: pa.Array) -> pa.Array:
        require(trimmed(values), "^[+]?(0|[1-9][0-9]*)$", "not a whole number from 0 on, or with a zero in front, which oid would read as octal")
        return as_oid(whole(values))

    return Way(pa.int32(), convert, "does not fit oid")


def as_oid(values: pa.Array) -> pa.Array:
    """Numbers from 0 to 4294967295 as the four bytes that stand for an oid."""
    return values.cast(pa.uint32()).view(pa.int32())


def _date(_: int) -> Way:
    def convert(values: pa.Array) -> pa.Array:
        try:
            return moments(values, pa.date32())
        except pa.ArrowInvalid:
            bare = trimmed(values)
            require(bare, rf"^{_DAY}$", "not a date as YYYY-MM-DD")
            return moments(bare, pa.date32())

    return Way(pa.date32(), convert, "no such day", odd=ODD_DATE)


def _time(digits: int) -> Way:
    day = "1970-01-01 "

    def convert(values: pa.Array) -> pa.Array:
        bare = trimmed(values)
        require(bare, rf"^{_CLOCK}$", "not a time as HH:MM:SS, or more than six digits of a second")
        return whole_digits(pc.binary_join_element_wise(day, bare, "").cast(pa.timestamp("us")).cast(pa.time64("us")), digits)

    return Way(pa.time64("us"), convert, "no such time", odd=ODD_TIME)


def _timestamp(digits: int) -> Way:
    return _moment(pa.timestamp("us"), digits, "", "not a timestamp as YYYY-MM-DD HH:MM:SS without offset, or more than six digits of a second", ODD_TIMESTAMP)


def _timestamptz(digits: int) -> Way:
    rule = "not a timestamp as YYYY-MM-DD HH:MM:SS with its offset from UTC, or more than six digits of a second"
    return _moment(pa.timestamp("us", tz="UTC"), digits, _OFFSET, rule, ODD_TIMESTAMPTZ)


def _moment(target: pa.DataType, digits: int, offset: str, rule: str, odd: str) -> Way:
    pattern = rf"^{_DAY}[ T]{_CLOCK}{offset}$" if offset else rf"^{_DAY}([ T]{_CLOCK})?$"

    def convert(values: pa.Array) -> pa.Array:
        try:
            found = moments(values, target)
        except pa.ArrowInvalid:
            bare = pc.ascii_upper(trimmed(values))
            require(bare, pattern, rule)
            found = moments(bare, target)
        return whole_digits(found, digits)

    return Way(target, convert, "no such date or time", odd=odd)


def moments(values: pa.Array, target: pa.DataType) -> pa.Array:
    """Arrow's reading of days and timestamps, without its year 0, which PostgreSQL does not have.

    Raises:
        pa.ArrowInvalid: A text that is none, or whose offset is missing or too much.
        Refused: A year 0.
    """
    found = values.cast(target)
    early = pc.less(found, pa.scalar("0001-01-03 00:00:00").cast(pa.timestamp("us")).cast(target))  # later than that in any zone
    if any_true(early) and any_true(pc.starts_with(values.filter(early), "0000")):
        raise Refused("there is no year 0")
    return found


def whole_digits(values: pa.Array, digits: int) -> pa.Array:
    """The array itself, unless `timestamp(3)` and the like would round a value."""
    microseconds = 6
    if digits < microseconds:
        step = pa.scalar(10 ** (microseconds - digits), pa.int64())
        raw = values.cast(pa.int64())
        if not all_true(pc.equal(pc.multiply(pc.divide(raw, step), step), raw)):
            raise Refused(f"more than {digits} digits of a second")
    return values


def _uuid(_: int) -> Way:
    def convert(values: pa.Array) -> pa.Array:
        require(values, r"^([0-9a-fA-F]{4}(-?[0-9a-fA-F]{4}){7}|\{[0-9a-fA-F]{4}(-?[0-9a-fA-F]{4}){7}\})$", "not a uuid")
        digits = pc.ascii_trim(pc.replace_substring(pc.fill_null(values, "0" * 32), "-", ""), "{}")
        raw = binascii.unhexlify(characters(digits))
        plain = pa.Array.from_buffers(pa.binary(16), len(values), [None, pa.py_buffer(raw)])
        return plain if not values.null_count else pc.if_else(values.is_valid(), plain, pa.scalar(None, pa.binary(16)))

    return Way(pa.binary(16), convert, "not a uuid")


def _bytea(_: int) -> Way:
    return Way(pa.binary(), _bytes, "not bytea as \\x00ff, nor in the escape format")


def _bytes(values: pa.Array) -> pa.Array:
    """All hexadecimal, or without a backslash at all, at once; else text by text."""
    if b"\\" not in characters(values):
        return values.cast(pa.binary())
    if not all_true(pc.match_substring_regex(values, r"^\\x([0-9a-fA-F]{2})*$")):
        return pa.array([None if text is None else _bytes_of(text) for text in values.to_pylist()], pa.binary())
    digits = pc.utf8_slice_codeunits(values, 2)
    raw = binascii.unhexlify(characters(digits))
    ends = pc.divide(pc.cumulative_sum(pc.fill_null(pc.binary_length(digits), 0)), 2).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    whole = pa.Array.from_buffers(pa.binary(), len(values), [None, offsets.buffers()[1], pa.py_buffer(raw)])
    return whole if not values.null_count else pc.if_else(values.is_valid(), whole, pa.scalar(None, pa.binary()))


_ESCAPE = re.compile(rb"\\(?:(\\)|([0-3][0-7]{2}))")


def _bytes_of(text: str) -> bytes:
    """One bytea, as https://www.postgresql.org/docs/current/datatype-binary.html describes both formats."""
    rule = "not bytea as \\x00ff, nor in the escape format"
    if text.startswith("\\x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise Refused(rule) from None
    raw = text.encode()
    if b"\\" in _ESCAPE.sub(b"", raw):
        raise Refused(rule)
    return _ESCAPE.sub(lambda found: found[1] or bytes([int(found[2], 8)]), raw)


def _json(_: int) -> Way:
    return Way(pa.string(), lambda values: checked_json(values, stored_parsed=False), "not valid JSON")


def _jsonb(_: int) -> Way:
    def convert(values: pa.Array) -> pa.Array:
        return pa.ExtensionArray.from_storage(pa.json_(pa.string()), checked_json(values, stored_parsed=True))

    return Way(pa.json_(pa.string()), convert, "not valid JSON")


_TEXTS = frozenset({"text", "character varying", "character", "bpchar", "name"})


def _limited(name: str, length: int | None) -> Convert:
    """Text within its length, in characters; only char(n) may have more, if they are blanks, which it does not hold to be part of a value."""
    if name == "character":
        length = length or 1

    def convert(values: pa.Array) -> pa.Array:
        if b"\0" in characters(values):
            raise Refused("holds a NUL byte, which PostgreSQL does not store in text")
        if name == "name":
            between(pc.binary_length(values), 0, NAME_BYTES, f"longer than {NAME_BYTES} bytes")
        elif length is not None and (pc.max(pc.binary_length(values)).as_py() or 0) > length:
            counted = pc.ascii_rtrim(values, " ") if name == "character" else values
            between(pc.utf8_length(counted), 0, length, f"longer than {length} characters")
        return values

    return convert


_OTHERS = {
    "boolean": _boolean,
    "oid": _oid,
    "date": _date,
    "time without time zone": _time,
    "timestamp without time zone": _timestamp,
    "timestamp with time zone": _timestamptz,
    "uuid": _uuid,
    "bytea": _bytea,
    "json": _json,
    "jsonb": _jsonb,
}
