"""PostgreSQL's binary numeric into Arrow's decimal128, exactly or not at all.

On the wire (`numeric_send`, src/backend/utils/adt/numeric.c), 16-bit big-endian numbers:

    digits | weight | sign | scale shown | digit, digit, …      each digit 0 … 9999

The value is the sum of digit[i] * 10000 ** (weight - i). A decimal128 of scale s is value * 10 ** s, an integer of 128 bits in two's complement,
kept here as two unsigned halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.postgres.copy_kernel import CORRUPT, FINE, I64, U64, UNFIT, compiled, int16, int64, put64
from engine.postgres.copy_layout import DATA, LIMIT_HIGH, LIMIT_LOW, SETTING

if TYPE_CHECKING:
    from engine.postgres.copy_kernel import Bytes, Lines

POSITIVE, NEGATIVE, NAN, INFINITY, MINUS_INFINITY = 0x0000, 0x4000, 0xC000, 0xD000, 0xF000
HALF, GROUP = U64(0xFFFFFFFF), U64(0xFFFF)

POWERS = np.array([1, 10, 100, 1000, 10000], dtype=np.uint64)
ROOM = np.array([64, 60, 57, 54, 50], dtype=np.uint64)
"""The upper half must stay below 2 ** ROOM[k] for a multiplication by 10 ** k: above, the product has more than 38 digits, and below it fits 128 bits."""


@compiled
def times_plus(high: Any, low: Any, power: int, digit: Any) -> tuple[Any, Any, bool]:
    """The 128-bit number * 10 ** power + digit, and whether it still fits."""
    if power and high >> ROOM[power]:
        return high, low, False
    factor = POWERS[power]
    first = (low & HALF) * factor + digit
    second = (low >> U64(32)) * factor + (first >> U64(32))
    return high * factor + (second >> U64(32)), second << U64(32) | (first & HALF), True


@compiled
def short(src: Bytes, at: int, digits: int, exponent: int) -> Any:
    """The same for one to four digits, where one half is enough; -1 if that is not for sure the value. Most numerics, in half the time."""
    groups = U64(int64(src, at)) >> U64(64 - 16 * digits)  # one load for all, what follows them shifted out
    first, second, third, fourth = groups >> U64(48), groups >> U64(32) & GROUP, groups >> U64(16) & GROUP, groups & GROUP
    if first > 9999 or second > 9999 or third > 9999 or fourth > 9999:
        return I64(-1)
    value = ((first * U64(10_000) + second) * U64(10_000) + third) * U64(10_000) + fourth
    if exponent >= 0:
        return I64(value * POWERS[exponent])
    cut = POWERS[-exponent]
    whole = value // cut
    return I64(whole) if whole * cut == value else I64(-1)


@compiled
def magnitude(src: Bytes, at: int, digits: int, weight: int, scale: int) -> tuple[Any, Any, int]:
    """The digits as one 128-bit number * 10 ** scale; not fit: it has a digit beyond the scale, or too many.

    Returns:
        Both halves, and FINE, UNFIT or CORRUPT.
    """
    last = 4 * (weight - digits + 1) + scale
    if 1 <= digits <= 4 and -4 <= last <= 2 and at + 8 <= len(src):
        value = short(src, at, digits, last)
        if value >= 0:
            return U64(0), U64(value), FINE
    high, low = U64(0), U64(0)
    exponent = 4 * weight + scale  # of ten, which the next digit is multiplied by
    for i in range(digits):
        digit = int16(src, at + 2 * i)
        if digit < 0 or digit > 9999:
            return high, low, CORRUPT
        power = min(max(exponent + 4, 0), 4)  # how much of this digit the scale leaves
        cut = POWERS[4 - power]
        if digit % cut:
            return high, low, UNFIT
        high, low, fits = times_plus(high, low, power, U64(digit) // cut)
        if not fits:
            return high, low, UNFIT
        exponent -= 4
    exponent += 4  # of the last digit; whole groups of zeros after it are not sent
    while exponent > 0 and (high or low):
        power = min(exponent, 4)
        high, low, fits = times_plus(high, low, power, U64(0))
        if not fits:
            return high, low, UNFIT
        exponent -= power
    return high, low, FINE


@compiled
def put_numeric(src: Bytes, at: Any, length: Any, lines: Lines, line: Any, row: Any, out: Bytes) -> Any:
    """A numeric as decimal128 of the line's SETTING (the scale), below its limit (10 ** precision); UNFIT: another value, NaN or ±infinity."""
    if length < 8:
        return CORRUPT
    digits, weight, sign = int16(src, at), int16(src, at + 2), int16(src, at + 4) & 0xFFFF
    if digits < 0 or length != 8 + 2 * digits:
        return CORRUPT
    if sign not in (POSITIVE, NEGATIVE):
        return UNFIT if sign in (NAN, INFINITY, MINUS_INFINITY) else CORRUPT
    high, low, state = magnitude(src, at + 8, digits, weight, lines[line, SETTING])
    if state != FINE:
        return state
    limit_high, limit_low = U64(lines[line, LIMIT_HIGH]), U64(lines[line, LIMIT_LOW])
    if high > limit_high or (high == limit_high and low >= limit_low):
        return UNFIT
    if sign == NEGATIVE:
        high, low = ~high + U64(low == 0), ~low + U64(1)
    to = lines[line, DATA] + 16 * row
    put64(out, to, low)
    put64(out, to + 8, high)
    return FINE
