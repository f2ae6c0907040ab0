r"""Whether texts are JSON that PostgreSQL stores (https://www.postgresql.org/docs/current/datatype-json.html), a whole block in one call of the parser.

A block is parsed as one array: `[text, "mark", text, "mark", … text]`. The mark is random, so no text holds it; if the array has each mark in its place,
each text is exactly one value. The type json stores valid text; jsonb also needs numbers that numeric holds, no `\u0000`, and surrogates in pairs.
"""

from __future__ import annotations

import json
import re
import secrets

import pyarrow as pa
import pyarrow.compute as pc

from engine.postgres.ways import Refused

NOT_JSON = "not valid JSON"
_NOT_IN_JSONB = "valid JSON that jsonb does not hold: a NUL, half a surrogate pair, or a number beyond numeric"
_RISKY = r"\\u(0000|[dD][89a-fA-F])|[0-9][eE]\+?[0-9]{4}|[eE]-[0-9]{4}"
_SURROGATE = re.compile("[\0\ud800-\udfff]")
_MOST_DIGITS, _MOST_FRACTION = 131_072, 16_383  # https://www.postgresql.org/docs/current/datatype-numeric.html


def checked_json(values: pa.Array, *, stored_parsed: bool) -> pa.Array:
    """The texts themselves, if all are valid.

    Args:
        values: Texts, NULL among them or not.
        stored_parsed: Whether they go into jsonb, which holds less.

    Raises:
        Refused: One is not.
    """
    texts = pc.drop_null(values)
    if not len(texts):
        return values
    mark = secrets.token_hex(16)
    joined = "[" + f',"{mark}",'.join(texts.to_pylist()) + "]"
    parsed = _parse(joined)
    if len(parsed) != 2 * len(texts) - 1 or any(one != mark for one in parsed[1::2]):
        raise Refused(NOT_JSON)
    if stored_parsed:
        risky = pc.or_(pc.match_substring_regex(texts, _RISKY), pc.greater(pc.binary_length(texts), _MOST_FRACTION))
        for text in texts.filter(risky).to_pylist():
            _check_for_jsonb(text)
    return values


def _parse(text: str) -> list[object]:
    """The parsed array; numbers stay text, since Python would refuse long ones and turn long exponents into infinity."""
    try:
        parsed: list[object] = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except ValueError:
        raise Refused(NOT_JSON) from None
    except RecursionError:
        raise Refused("JSON nested too deeply to be checked") from None
    return parsed


def _refuse_constant(_: str) -> None:
    """NaN and Infinity are Python's, not JSON's."""
    raise Refused(NOT_JSON)


def _check_for_jsonb(text: str) -> None:
    """Refuse strings and numbers that jsonb cannot hold; the parser has joined pairs of surrogates already."""

    def number(digits: str) -> None:
        mantissa, _, exponent = digits.lower().partition("e")
        whole, _, fraction = mantissa.lstrip("-").partition(".")
        shift = int(exponent or 0) if len(exponent) < len("+131072x") else 10**9
        if len(whole) + shift > _MOST_DIGITS or len(fraction) - shift > _MOST_FRACTION:
            raise Refused(_NOT_IN_JSONB)

    def pairs(found: list[tuple[str, object]]) -> list[object]:
        return [one for pair in found for one in pair]

    waiting = [json.loads(text, parse_int=number, parse_float=number, object_pairs_hook=pairs)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and _SURROGATE.search(one):
            raise Refused(_NOT_IN_JSONB)
