"""CSV as `engine.formats.csv_grammar` says it is, read one character after another: slow, and plain enough to be believed."""

from __future__ import annotations

from dataclasses import dataclass, field


class Unreadable(Exception):
    """Nobody can tell records apart from this line on."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


@dataclass
class Read:
    rows: list[list[str | None]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)  # line, kind of rule, record


def read(text: str, columns: int, delimiter: str = ",") -> Read:
    """The rows of a file without header, whose NULL text is empty."""
    first = text.partition("\r")[0]
    if "\n" not in text and "\r" in text[:-1] and first.count('"') % 2 == 0:
        raise Unreadable(1)
    found = Read()
    at, number = 0, 1
    records = []
    while at < len(text):
        fields, rule, stop, after = _record(text, at, number, delimiter)
        records.append((number, fields, rule, text[at:stop]))
        number += text.count("\n", at, after)
        at = after
    while columns > 1 and records and records[-1][3] == "":
        records.pop()
    for number, fields, rule, raw in records:
        if kind := rule or _kind(fields, raw, columns):
            found.rejects.append((number, kind, raw))
        else:
            found.rows.append(fields)
            found.lines.append(number)
            found.raw.append(raw)
    return found


def _kind(fields: list[str | None], raw: str, columns: int) -> str:
    if raw == "" and columns > 1:
        return "an empty line"
    if "\0" in raw:
        return "a NUL byte"
    return "" if len(fields) == columns else "expected"


def _record(text: str, at: int, line: int, delimiter: str) -> tuple[list[str | None], str, int, int]:
    """Fields, kind of rule, where it ends, where the next one begins."""
    fields: list[str | None] = []
    rule = ""
    while True:
        quoted = text[at : at + 1] == '"'
        value, opened = "", line
        if quoted:
            at += 1
            while text[at : at + 1] != '"' or text[at : at + 2] == '""':
                if at >= len(text):
                    raise Unreadable(opened)
                value += text[at]
                line += text[at] == "\n"
                at += 2 if text[at] == '"' else 1
            at += 1
        tail = ""
        while at < len(text) and text[at] not in {delimiter, "\n"}:
            tail += text[at]
            at += 1
        ends = text[at : at + 1] != delimiter
        stop = at
        if ends and tail.endswith("\r"):
            tail, stop = tail[:-1], at - 1
        if quoted and tail:
            if line > opened:
                raise Unreadable(opened)
            rule = rule or "text after a closing quote"
        elif '"' in tail:
            rule = rule or "a quote inside a field"
        elif "\r" in tail:
            rule = rule or "a carriage return"
        fields.append(value if quoted else tail or None)
        at += 1
        if ends:
            return fields, rule, stop, min(at, len(text))
