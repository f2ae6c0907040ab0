"""Names of files that are being written: beside the final one, so that a rename publishes them, and never taken for data."""

from __future__ import annotations

import hashlib
import os
import re
import secrets

_LONGEST_NAME = 255  # bytes, on every common file system
_TOKEN_BYTES = 6
_TEMPORARY = re.compile(rf"\..+\.([0-9a-f]{{{2 * _TOKEN_BYTES}}})\.part", re.DOTALL)


def new_token() -> str:
    """What tells one attempt from every other."""
    return secrets.token_hex(_TOKEN_BYTES)


def temporary_name(name: str, token: str) -> str:
    """`.name.token.part`; a long name is shortened with its hash, since names end at 255 bytes.

    Example:
        >>> temporary_name("lab.csv", "0123456789ab")
        '.lab.csv.0123456789ab.part'
    """
    tail = f".{token}.part"
    room = _LONGEST_NAME - len(tail) - 1
    encoded = os.fsencode(name)
    if len(encoded) > room:
        name = os.fsdecode(encoded[: room - 40]).encode("utf-8", "ignore").decode() + hashlib.sha256(encoded).hexdigest()[:32]
    return f".{name}{tail}"


def is_temporary(name: str) -> bool:
    """Whether a name, without its folder, is one of ours."""
    return token_of(name) is not None


def token_of(name: str) -> str | None:
    """The token in a temporary name; None when it is none."""
    found = None if "/" in name else _TEMPORARY.fullmatch(name)
    return found and found[1]
