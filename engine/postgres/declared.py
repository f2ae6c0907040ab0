"""A type's name, as `format_type()` of PostgreSQL writes it, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.postgres.columns import Column

MADE_BY_SOMEBODY = frozenset({"enum", "composite", "range"})
"""What `Column.base` says of a type that is no domain."""
_PARTS = re.compile(r'(?P<head>[^()\[\]"]+?)(?:\((?P<modifiers>-?\d+(?:,-?\d+)*)\))?(?P<tail>[^()\[\]"]*)(?P<array>\[\])?')


@dataclass(frozen=True, slots=True)
class Declared:
    """A type: its name without modifiers, the modifiers, and whether it is an array of it.

    Example:
        >>> declared("timestamp(3) without time zone[]")
        Declared(name='timestamp without time zone', modifiers=(3,), array=True)
    """

    name: str
    modifiers: tuple[int, ...] = ()
    array: bool = False

    @property
    def element(self) -> str:
        """The element's type, as it would be written alone."""
        if not self.modifiers:
            return self.name
        first, _, rest = self.name.partition(" ")
        if self.name.startswith(("character varying", "bit varying")):
            first, rest = self.name, ""
        return f"{first}({','.join(map(str, self.modifiers))})" + (f" {rest}" if rest else "")


def declared(text: str) -> Declared:
    """The parts of a type's name; a quoted name is left whole."""
    if '"' in text:
        return Declared(text.removesuffix("[]"), array=text.endswith("[]"))
    parts = _PARTS.fullmatch(text)
    if parts is None:
        return Declared(text)
    modifiers = tuple(int(number) for number in (parts["modifiers"] or "").split(",") if number)
    return Declared(parts["head"] + parts["tail"], modifiers, bool(parts["array"]))


def stored(column: Column) -> Declared:
    """The type whose values a column stores: below a domain, its base."""
    return declared(column.base if column.base and column.base not in MADE_BY_SOMEBODY else column.type)
