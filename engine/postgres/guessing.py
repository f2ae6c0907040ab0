"""The type of one column of text, by all of its values: the narrowest that gives back what stood in the file.

| type | every value |
|---|---|
| bigint | `0`, `-12`: no sign `+`, no zero in front, within 64 bits. Never narrower: the next file may hold more |
| numeric(38,s) | all with the same number s of digits after the point: stored text and file agree, and a decimal is quick to load |
| numeric | the same with different numbers of digits, or more than 38 |
| double precision | numbers of which some have an exponent, or are NaN, Infinity, -Infinity, if each gives its digits back |
| boolean | `true` and `false`; or `t` and `f`, if both occur: a column of `f` alone may be a sex |
| date | `2024-01-31` |
| timestamp without time zone | `2024-01-31 23:59`, with seconds and up to six digits of them |
| timestamp with time zone | the same, every value with `Z`, `+02`, `+02:00` or `+0200` |
| uuid | in lower case, as PostgreSQL writes it |
| text | everything else: `00123`, `+1`, decimals with a `-0.00`, `1/2/2024`, blanks, the empty string, values of different types, no value at all |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.casting_text import moments
from engine.postgres.ways import Refused, all_true, any_true

if TYPE_CHECKING:
    from collections.abc import Callable

_INTEGER = "^(0|-?[1-9][0-9]{0,17})$"  # 18 digits are always within 64 bits; 19 are asked of a cast
_LONG_INTEGER = "^(0|-?[1-9][0-9]{0,18})$"
_DECIMAL = r"^(-?[1-9][0-9]*(\.[0-9]+)?|0(\.[0-9]+)?|-0\.[0-9]*[1-9][0-9]*)$"  # numeric has no -0
_NEGATIVE_ZERO = r"^-0(\.0*)?$"
_FLOAT = r"^(-?([1-9][0-9]*|0)(\.[0-9]+)?([eE][+-]?[0-9]+)?|NaN|-?Infinity)$"
_NO_NUMBER = "^(NaN|-?Infinity)$"
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}[0-9:.]*"
_SHORTEST_TIMESTAMP = len("2024-01-31 23:59")
_DOUBLE_DIGITS = 15  # any number of so many digits comes back from a double (DBL_DIG)
_DECIMAL_DIGITS = 38
_MOST_WHOLE, _MOST_FRACTION = 131_072, 16_383  # https://www.postgresql.org/docs/current/datatype-numeric.html


class Guess:
    """What one column may be after the blocks seen so far."""

    def __init__(self) -> None:
        self._family: _Family | None = None
        self._text = False

    def add(self, values: pa.Array) -> None:
        """One more block of the column (string)."""
        if self._text or values.null_count == len(values):
            return
        if self._family is None:
            first = values[pc.index(values.is_valid(), value=True).as_py()].as_py()
            self._family = next((make() for shape, make in _FAMILIES if re.search(shape, first)), None)
        self._text = self._family is None or not self._family.holds(values)

    @property
    def type(self) -> str:
        """As `format_type()` would write it."""
        return "text" if self._text or self._family is None else self._family.type


class _Family(Protocol):
    """Types of one kind of text; a value belongs to one family only, so the first value decides which."""

    @property
    def type(self) -> str:
        """The type that holds all blocks."""

    def holds(self, values: pa.Array) -> bool:
        """Take note of one more block; false: the column is text."""


@dataclass
class _One:
    """A family of one type."""

    type: str
    fits: Callable[[pa.Array], bool]

    def holds(self, values: pa.Array) -> bool:
        return self.fits(values)


class _Letters:
    """`t` and `f`."""

    def __init__(self) -> None:
        self._met: set[str] = set()

    def holds(self, values: pa.Array) -> bool:
        self._met |= set(pc.unique(pc.drop_null(values)).to_pylist())
        return self._met <= {"t", "f"}

    @property
    def type(self) -> str:
        return "boolean" if len(self._met) > 1 else "text"


class _Numbers:
    """Integers, decimals and doubles: the widest that any block needed."""

    def __init__(self) -> None:
        self._integers = True
        self._whole = 0  # most characters before the point
        self._scales: set[int] = set()  # fewest and most digits after the point
        self._doubles = True  # every value so far comes back from a double
        self._exponents = False
        self._negative_zero = False

    def holds(self, values: pa.Array) -> bool:
        longest = pc.max(pc.binary_length(values)).as_py()
        short = longest <= _DOUBLE_DIGITS
        if _all_match(values, _INTEGER) or (_all_match(values, _LONG_INTEGER) and _casts(values, pa.int64())):
            self._note(longest, 0, 0)
        elif _all_match(values, _DECIMAL):
            self._integers = False
            self._note(*_digits(values))
        elif _all_match(values, _FLOAT):
            short = False
            self._exponents |= any_true(pc.match_substring_regex(values, "[eENI]"))
            self._negative_zero |= any_true(pc.match_substring_regex(values, _NEGATIVE_ZERO))
        else:
            return False
        self._doubles = self._doubles and (short or _come_back(values))
        return self._doubles or not self._exponents

    def _note(self, whole: int, fewest: int, most: int) -> None:
        self._whole = max(self._whole, whole)
        self._scales = {min(self._scales | {fewest}), max(self._scales | {most})}

    @property
    def type(self) -> str:
        most = max(self._scales, default=0)
        if self._exponents or self._negative_zero:
            return "double precision" if self._exponents else "text"
        if self._integers:
            return "bigint"
        if len(self._scales) == 1 and self._whole + most <= _DECIMAL_DIGITS:
            return f"numeric({_DECIMAL_DIGITS},{most})"
        return "numeric" if self._whole <= _MOST_WHOLE and most <= _MOST_FRACTION else "text"


def _digits(values: pa.Array) -> tuple[int, int, int]:
    """Most characters before the point, fewest and most digits after it."""
    lengths, points = pc.binary_length(values), pc.find_substring(values, ".")
    whole = pc.if_else(pc.less(points, 0), lengths, points)
    after = pc.min_max(pc.if_else(pc.less(points, 0), 0, pc.subtract(pc.subtract(lengths, points), 1)))
    return pc.max(whole).as_py(), after["min"].as_py(), after["max"].as_py()


def _come_back(values: pa.Array) -> bool:
    """Whether the shortest text of each double has the digits that stood in the file."""
    numbers = values.filter(pc.invert(pc.match_substring_regex(values, _NO_NUMBER)))
    return all_true(pc.equal(_significant(numbers), _significant(numbers.cast(pa.float64()).cast(pa.string()))))


def _significant(texts: pa.Array) -> pa.Array:
    """The digits of numbers without sign, point, exponent, and zeros at either end."""
    return pc.ascii_trim(pc.replace_substring_regex(texts, "[eE].*$|[.-]", ""), "0")


def _all_match(values: pa.Array, pattern: str) -> bool:
    return all_true(pc.match_substring_regex(values, pattern))


def _casts(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _are_moments(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        moments(values, kind)
    except (pa.ArrowInvalid, Refused):
        return False
    return True


def _is_moment(kind: pa.DataType) -> Callable[[pa.Array], bool]:
    """Arrow's own reading, which asks for an offset where the type has a zone and else refuses one; days alone are of another type."""
    return lambda values: pc.min(pc.binary_length(values)).as_py() >= _SHORTEST_TIMESTAMP and _are_moments(values, kind)


def _is_word(values: pa.Array) -> bool:
    return all_true(pc.is_in(pc.drop_null(values), pa.array(["true", "false"])))


_FAMILIES: tuple[tuple[str, Callable[[], _Family]], ...] = (
    (_FLOAT, _Numbers),
    (r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", lambda: _One("date", lambda values: _are_moments(values, pa.date32()))),
    (rf"{_TIMESTAMP}$", lambda: _One("timestamp without time zone", _is_moment(pa.timestamp("us")))),
    (rf"{_TIMESTAMP}[Z+-]", lambda: _One("timestamp with time zone", _is_moment(pa.timestamp("us", tz="UTC")))),
    ("^(true|false)$", lambda: _One("boolean", _is_word)),
    ("^[tf]$", _Letters),
    (_UUID, lambda: _One("uuid", lambda values: _all_match(values, _UUID))),
)
