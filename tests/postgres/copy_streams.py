"""COPY BINARY as PostgreSQL's manual draws it, written by plain Python: what the reader is tried on."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
DAYS_TO_2000 = 10_957
MICROSECONDS_TO_2000 = 946_684_800_000_000
SIGNS = {"NaN": 0xC000, "Infinity": 0xD000, "-Infinity": 0xF000}


def stream(types: Sequence[pa.DataType], rows: Sequence[Sequence[Any]]) -> bytes:
    """All of it."""
    return HEADER + b"".join(row(types, values) for values in rows) + TRAILER


def row(types: Sequence[pa.DataType], values: Sequence[Any]) -> bytes:
    return struct.pack(">h", len(types)) + b"".join(map(field, types, values))


def field(kind: pa.DataType, value: Any) -> bytes:
    """The length, then the bytes."""
    if value is None:
        return struct.pack(">i", -1)
    data = binary(kind, value)
    return struct.pack(">i", len(data)) + data


def binary(kind: pa.DataType, value: Any) -> bytes:
    """A value in its type's binary form; temporal ones are given as Arrow's numbers, or as what the wire says (`Wire`)."""
    if isinstance(value, bytes | str):
        return value if isinstance(value, bytes) else value.encode()
    if pa.types.is_decimal(kind):
        return numeric(value)
    if pa.types.is_list(kind):
        return array(kind.value_type, value)
    shift = DAYS_TO_2000 if pa.types.is_date(kind) else MICROSECONDS_TO_2000 if pa.types.is_timestamp(kind) else 0
    if pa.types.is_floating(kind):
        return struct.pack(">f" if kind == pa.float32() else ">d", value)
    return struct.pack({1: ">?", 16: ">h", 32: ">i", 64: ">q"}[kind.bit_width], value - shift if shift else value)


def array(kind: pa.DataType, values: Sequence[Any]) -> bytes:
    """One dimension that starts at 1; none without elements."""
    if not values:
        return struct.pack(">iii", 0, 0, 0)
    return struct.pack(">iiiii", 1, any(v is None for v in values), 0, len(values), 1) + b"".join(field(kind, v) for v in values)


def numeric(value: Decimal) -> bytes:
    """As numeric_send does: base 10000, without zero digits at either end."""
    if not value.is_finite():
        return struct.pack(">hhHh", 0, 0, SIGNS[str(value)], 0)
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    whole = int("".join(map(str, digits))) * 10 ** (exponent % 4)
    groups: list[int] = []
    while whole:
        whole, group = divmod(whole, 10_000)
        groups.insert(0, group)
    weight = len(groups) - 1 + exponent // 4
    while groups and groups[-1] == 0:
        groups.pop()
    return struct.pack(f">hhHh{len(groups)}h", len(groups), weight if groups else 0, 0x4000 if sign and groups else 0, max(0, -exponent), *groups)
