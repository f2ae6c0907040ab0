"""CSV as `engine.formats.csv_grammar` says it is, read one character after another: slow, and plain enough to be believed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class _UnreadableError(Exception):
    """Nobody can tell records apart from this line on."""


@dataclass
class Read:
    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)  # line, kind of rule, record


def read(text: str, columns: int) -> Read | int:
    """The rows of a file without header, whose NULL text is empty and whose delimiter is a comma; or the line from which on nobody can tell rows apart."""
    first = text.partition("\r")[0]
    if "\n" not in text and "\r" in text[:-1] and first.count('"') % 2 == 0:
        return 1
    try:
        records = list(_records(text))
    except _UnreadableError as error:
        return int(str(error))
    while columns > 1 and records and records[-1].raw == "":
        records.pop()
    found = Read()
    for record in records:
        if kind := record.rule or _kind(record, columns):
            found.rejects.append((record.line, kind, record.raw))
        else:
            found.rows.append(tuple(record.fields))
            found.lines.append(record.line)
            found.raw.append(record.raw)
    return found


@dataclass
class _Record:
    line: int
    fields: list[str | None] = field(default_factory=list)
    rule: str = ""
    raw: str = ""


def _kind(record: _Record, columns: int) -> str:
    if record.raw == "" and columns > 1:
        return "an empty line"
    if "\0" in record.raw:
        return "a NUL byte"
    return "" if len(record.fields) == columns else "expected"


def _records(text: str) -> Iterator[_Record]:
    at, line = 0, 1
    while at < len(text):
        record = _Record(line)
        start = at
        while True:
            value, at = _quoted(text, at, line + text.count("\n", start, at))
            tail = _until_end(text, at)
            at += len(tail)
            last = text[at : at + 1] != ","
            tail = tail.removesuffix("\r") if last else tail
            record.rule = record.rule or _rule(value, tail)
            if value and "\n" in value and tail:
                raise _UnreadableError(line + text.count("\n", start, at) - value.count("\n"))
            record.fields.append(tail or None if value is None else value)
            at += 1
            if last:
                break
        line += text.count("\n", start, at)
        record.raw = text[start : at - 1].removesuffix("\r")
        yield record


def _quoted(text: str, at: int, line: int) -> tuple[str | None, int]:
    """The value in quotes that begins here, if one does, and where it ends."""
    if text[at : at + 1] != '"':
        return None, at
    value = ""
    at += 1
    while text[at : at + 1] != '"' or text[at : at + 2] == '""':
        if at >= len(text):
            raise _UnreadableError(line)
        value += text[at]
        at += 2 if text[at] == '"' else 1
    return value, at + 1


def _until_end(text: str, at: int) -> str:
    """What stands before the next delimiter or line end."""
    tail = ""
    while text[at : at + 1] not in {",", "\n", ""}:
        tail += text[at]
        at += 1
    return tail


def _rule(value: str | None, tail: str) -> str:
    if value is not None and tail:
        return "text after a closing quote"
    if '"' in tail:
        return "a quote inside a field"
    return "a carriage return" if "\r" in tail else ""
