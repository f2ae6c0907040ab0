"""Relative paths of files in stores: joined in one place, matched by one rule, and described by `File`.

Paths are rejected, never repaired: a repaired path is another file's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class File:
    """One version of a file (`FileInfo`).

    Attributes:
        path: Relative to the store's root, with `/` between folders.
        size: In bytes.
        modified: When, as the store says.
        version: Tells this version from the next: an ETag, or size and modification time.
    """

    path: str
    size: int
    modified: datetime | None
    version: str


def checked(relative: str) -> str:
    """The path itself, if it stays below its root on every kind of store.

    Raises:
        ConfigurationError: Empty, absolute, `.`, `..`, an empty part, a backslash, a NUL, or a drive letter.

    Example:
        >>> checked("2024/lab.csv")
        '2024/lab.csv'
    """
    parts = relative.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in relative or "\0" in relative or _DRIVE.match(relative):
        raise ConfigurationError(f"{relative!r} is no path below a store's root (no '..', no leading '/', no backslash, no drive)")
    return relative


def join(root: str, relative: str) -> str:
    """`root/relative`, after `checked`; an empty root is no folder at all."""
    return f"{root.rstrip('/')}/{checked(relative)}" if root else checked(relative)


def matcher(pattern: str) -> re.Pattern[str]:
    """A shell pattern over relative paths: `*`, `?`, `[…]` never cross `/`; `**/` does.

    Example:
        >>> bool(matcher("**/*.csv").fullmatch("a/b/c.csv")), bool(matcher("*.csv").fullmatch("a/c.csv"))
        (True, False)
    """
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:[^/]+/)*", at + 3
            continue
        close = pattern.find("]", at + 2) if pattern[at] == "[" else -1
        if close > 0:
            inside = pattern[at + 1 : close]
            negated = inside[0] in "!^"
            body = re.escape(inside[1:] if negated else inside).replace(r"\-", "-")
            out, at = out + f"(?!/)[{'^' if negated else ''}{body}]", close + 1
            continue
        out += {"*": "[^/]*", "?": "[^/]"}.get(pattern[at], re.escape(pattern[at]))
        at += 1
    return re.compile(out, re.DOTALL)


def fixed_folder(pattern: str) -> str:
    """The folders in front of the first wildcard, `a/b/` or nothing: where a listing may begin."""
    wild = re.search(r"[*?\[]", pattern)
    return pattern[: pattern.rfind("/", 0, wild.start() if wild else len(pattern)) + 1]


def in_order(path: str) -> bytes:
    """Sorting key: the bytes of the whole path, which is the order that object stores list in."""
    return path.encode("utf-8", "surrogateescape")
