"""Relative paths of files in stores: joined in one place, matched by one rule, and described by `File`.

Paths are rejected, never repaired: a repaired path is another file's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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
        links: How many symbolic links lead from the listed name to that file, 0 where it is the file's own.
    """

    path: str
    size: int
    modified: datetime | None
    version: str
    links: int = field(default=0, compare=False)


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

    Raises:
        ConfigurationError: The pattern leaves the root, or a range in brackets runs backwards.

    Example:
        >>> bool(matcher("**/*.csv").fullmatch("a/b/c.csv")), bool(matcher("*.csv").fullmatch("a/c.csv"))
        (True, False)
    """
    checked(pattern)
    out, at = "", 0
    while at < len(pattern):
        piece, at = _piece(pattern, at)
        out += piece
    return re.compile(out, re.DOTALL)


def _piece(pattern: str, at: int) -> tuple[str, int]:
    """The regular expression of what begins at `at`, and where the next piece begins."""
    if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
        return "(?:[^/]*/)*", at + 3  # keys of an object store may hold empty parts: they are found, and refused by name
    if pattern[at] == "[":
        negated = pattern.startswith(("[!", "[^"), at)
        first = at + 2 if negated else at + 1
        close = pattern.find("]", first + 1)  # a bracket that comes first is one of the characters
        if close > 0:
            return f"(?!/)[{'^' if negated else ''}{_characters(pattern[first:close])}]", close + 1
    return {"*": "[^/]*", "?": "[^/]"}.get(pattern[at], re.escape(pattern[at])), at + 1


def _characters(inside: str) -> str:
    out, at = "", 0
    while at < len(inside):
        low, high = inside[at], inside[at + 2 : at + 3]
        if inside[at + 1 : at + 2] != "-" or not high:
            out, at = out + re.escape(low), at + 1
            continue
        if low > high:
            raise ConfigurationError(f"the range {low}-{high} in a file pattern runs backwards")
        out, at = f"{out}{re.escape(low)}-{re.escape(high)}", at + 3
    return out


def escaped(path: str) -> str:
    """A pattern that matches this path alone.

    Example:
        >>> escaped("a[1].csv")
        'a[[]1].csv'
    """
    return re.sub(r"([*?\[])", r"[\1]", path)


def join_pattern(folder: str, pattern: str) -> str:
    """A pattern over the paths below `folder`, which is meant as it is written.

    Example:
        >>> join_pattern("2024 [old]", "**/*.csv")
        '2024 [[]old]/**/*.csv'
    """
    return f"{escaped(folder)}/{pattern}" if folder else pattern


def fixed_folder(pattern: str) -> str:
    """The folders in front of the first wildcard, `a/b/` or nothing: where a listing may begin."""
    wild = re.search(r"[*?\[]", pattern)
    return pattern[: pattern.rfind("/", 0, wild.start() if wild else len(pattern)) + 1]


def in_order(path: str) -> bytes:
    """Sorting key: the bytes of the whole path, which is the order that object stores list in."""
    return path.encode("utf-8", "surrogateescape")
