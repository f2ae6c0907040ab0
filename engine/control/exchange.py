"""Connectors as YAML: out of the control database for a repository or another site, and back in with a look at what would change.

```yaml
sources:      [{id: 1, name: Study, type: postgres, config: {connection_string: env:STUDY_URL}}]
destinations: [{id: 1, name: Folder, type: nfs, config: {path: /mnt/out}}]
connectors:   [{id: 7, name: Lab results, source: 1, destination: 1, source_override: {query: TABLE lab_results}}]
```

Entries are matched by id. A secret goes out as the tag `!keep`, which on the way in leaves what is stored; references (`env:NAME`) are no secrets.
What stands in the database and not in the file stays as it is.
"""

from __future__ import annotations

import difflib
import json
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import psycopg
import pydantic
from psycopg import sql
from pydantic import ConfigDict, Field

from engine.control import yaml_text
from engine.control.connectors import json_object
from engine.control.yaml_text import KEEP, Keep
from engine.errors import ConfigurationError
from engine.options import is_reference, is_secret, masked
from engine.results import LARGEST_INTEGER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.control.database import ControlDatabase, Row

Id = Annotated[int, Field(ge=1, le=LARGEST_INTEGER, strict=True)]
Configuration = dict[str, Any] | None


class _Entry(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    table: ClassVar[str]
    kind: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]
    """Fields of the entry and the columns that hold them; `type` is looked up."""

    id: Id | None = None
    name: Annotated[str, Field(min_length=1, max_length=255)]


class SourceEntry(_Entry):
    """A row of `cai_defined_sources`."""

    table, kind = "cai_defined_sources", "source"
    columns = {"name": "name", "type": "source_type_lookup_code_id", "config": "config"}

    type: str | None
    config: Configuration = None


class DestinationEntry(_Entry):
    """A row of `cai_defined_destinations`."""

    table, kind = "cai_defined_destinations", "destination"
    columns = {"name": "name", "type": "destination_type_lookup_code_id", "config": "config"}

    type: str | None
    config: Configuration = None


class ConnectorEntry(_Entry):
    """A row of `cai_connectors`."""

    table, kind = "cai_connectors", "connector"
    columns = {
        "name": "name",
        "source": "defined_source_id",
        "destination": "defined_destination_id",
        "source_override": "source_config_override",
        "destination_override": "destination_config_override",
    }

    source: Id | None = None
    destination: Id | None = None
    source_override: Configuration = None
    destination_override: Configuration = None


class Document(pydantic.BaseModel):
    """What a file holds."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    sources: list[SourceEntry] = Field(default_factory=list)
    destinations: list[DestinationEntry] = Field(default_factory=list)
    connectors: list[ConnectorEntry] = Field(default_factory=list)

    def entries(self) -> Iterator[tuple[str, _Entry]]:
        """Each entry with its place (`connectors[0]`), what others refer to first."""
        for name in ("sources", "destinations", "connectors"):
            for number, entry in enumerate(getattr(self, name)):
                yield f"{name}[{number}]", entry


def parse(text: str) -> Document:
    """A document from YAML; nothing is looked up yet.

    Raises:
        ConfigurationError: No YAML, unknown or missing keys, wrong types, what JSON cannot hold, an id twice, or `***` where a value should be; names the
            place, quotes no value.
    """
    raw = yaml_text.load(text) or {}
    try:
        document = Document.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ConfigurationError("; ".join(_problem(one) for one in error.errors(include_url=False, include_input=False))) from None
    seen: set[tuple[str, int]] = set()
    for place, entry in document.entries():
        for problem in _unfit(entry.model_dump(), place):
            raise ConfigurationError(problem)
        if entry.id is not None and (entry.kind, entry.id) in seen:
            raise ConfigurationError(f"{place}: the id {entry.id} stands twice")
        seen |= {(entry.kind, entry.id)} if entry.id is not None else set()
    return document


def dump(document: Document) -> str:
    """The document as YAML."""
    raw = {name: [entry.model_dump() for entry in getattr(document, name)] for name in ("sources", "destinations", "connectors")}
    return yaml_text.dump(raw)


def read(control: ControlDatabase, connector_ids: Sequence[int] | None = None) -> Document:
    """What is stored: all, or these connectors with their sources and destinations. Secrets are `KEEP`.

    Raises:
        ConfigurationError: No such connector.
    """
    stored = _all_stored(control)
    connectors = stored[ConnectorEntry]
    missing = [one for one in connector_ids or () if one not in connectors]
    if missing:
        raise ConfigurationError(f"there is no connector {missing[0]} in the control database at {control.where}; see ferry connectors list")
    chosen = [one for key, one in connectors.items() if connector_ids is None or key in connector_ids]
    used = {end: {one[end] for one in chosen} for end in ("source", "destination")}
    return Document(
        sources=[SourceEntry(**_hidden(one)) for key, one in stored[SourceEntry].items() if connector_ids is None or key in used["source"]],
        destinations=[DestinationEntry(**_hidden(one)) for key, one in stored[DestinationEntry].items() if connector_ids is None or key in used["destination"]],
        connectors=[ConnectorEntry(**_hidden(one)) for one in chosen],
    )


def compare(control: ControlDatabase, document: Document) -> list[str]:
    """What importing the document would change, in lines for people; secrets are masked.

    Raises:
        ConfigurationError: A type, source or destination that is not there, or `!keep` where nothing is stored.
    """
    return [line for _, lines in _changes(control, document) for line in lines]


def apply(control: ControlDatabase, document: Document) -> list[str]:
    """Import the document in one transaction; returns what changed, as `compare` says it.

    Raises:
        ConfigurationError: As `compare`; or the role may not write. Nothing is written then.
    """
    connection = control.open()
    try:
        with connection.transaction():
            # What is compared is what is written over.
            connection.execute("LOCK TABLE cai_defined_sources, cai_defined_destinations, cai_connectors IN SHARE ROW EXCLUSIVE MODE")
            changes = _changes(control, document)
            for entry, lines in changes:
                if lines:
                    _write(connection, entry)
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigurationError(f"the role of DATABASE_URL may not write connectors in the control database at {control.where}") from None
    except psycopg.Error as error:
        raise ConfigurationError(
            f"the control database at {control.where} did not take the connectors (SQLSTATE {error.sqlstate}); nothing was written"
        ) from None
    return [line for _, lines in changes for line in lines]


def connectors_after(control: ControlDatabase, document: Document) -> dict[str, Row]:
    """Rows as `connectors.list_connectors` would give them after an import: of the connectors in the document, and of those that use what it changes.

    Returns:
        The rows by place: `connectors[0]`, or `connector 7` for one that is not in the document.

    Raises:
        ConfigurationError: As `compare`.
    """
    after = {one.kind: rows for one, rows in _all_stored(control).items()}
    listed: dict[str, Row] = {}
    changed: set[tuple[str, int | None]] = set()
    for (place, _), (entry, lines) in zip(document.entries(), _changes(control, document), strict=True):
        if entry.id is not None:
            after[entry.kind][entry.id] = entry.model_dump()
            changed |= {(entry.kind, entry.id)} if lines else set()
        if isinstance(entry, ConnectorEntry):
            listed[place] = entry.model_dump()
    in_document = {row["id"] for row in listed.values()}
    for key, row in after["connector"].items():
        if key not in in_document and changed & {("source", row["source"]), ("destination", row["destination"])}:
            listed[f"connector {key}"] = row
    return {place: _as_listed(row, after["source"], after["destination"]) for place, row in listed.items()}


def _as_listed(row: Row, sources: Mapping[int, Row], destinations: Mapping[int, Row]) -> Row:
    source, destination = sources.get(row["source"]), destinations.get(row["destination"])
    return {
        "id": row["id"],
        "name": row["name"],
        "defined_source_id": row["source"],
        "found_source_id": source and row["source"],
        "source_type": source and source["type"],
        "source_base_config": source and source["config"],
        "source_config_override": row["source_override"],
        "defined_destination_id": row["destination"],
        "found_destination_id": destination and row["destination"],
        "dest_type": destination and destination["type"],
        "dest_base_config": destination and destination["config"],
        "destination_config_override": row["destination_override"],
    }


def _changes(control: ControlDatabase, document: Document) -> list[tuple[_Entry, list[str]]]:
    stored = _all_stored(control)
    codes = {row["code"] for row in control.query("SELECT lower(trim(lookup_code)) AS code FROM ad_lookup_codes WHERE lookup_code IS NOT NULL")}
    known = {"source": set(stored[SourceEntry]) | _ids(document.sources), "destination": set(stored[DestinationEntry]) | _ids(document.destinations)}
    changes = []
    for place, entry in document.entries():
        before = stored[type(entry)].get(entry.id) if entry.id is not None else None
        values = _filled(entry.model_dump(), before or {}, place)
        if before and _same_code(values.get("type"), before.get("type")):
            values["type"] = before["type"]
        after = type(entry)(**values)
        _check_references(after, place, codes, known)
        changes.append((after, _difference(after, before)))
    return changes


def _same_code(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one.strip().lower() == other.lower()


def _ids(entries: Iterable[_Entry]) -> set[int]:
    return {entry.id for entry in entries if entry.id is not None}


def _check_references(entry: _Entry, place: str, codes: set[str], known: Mapping[str, set[int]]) -> None:
    values = entry.model_dump()
    if values.get("type") is not None and values["type"].strip().lower() not in codes:
        raise ConfigurationError(f"{place}.type: {values['type']!r} is not in ad_lookup_codes; see ferry db check")
    for end, there in known.items():
        if values.get(end) is not None and values[end] not in there:
            raise ConfigurationError(f"{place}.{end}: there is no {end} {values[end]}, neither stored nor in the file")


def _difference(after: _Entry, before: Mapping[str, Any] | None) -> list[str]:
    """One line a key; a new entry begins with a line of its own."""
    name = f"{after.kind} {after.id if after.id is not None else '(new)'}"
    old, new = _given(before or {}), _given(after.model_dump())
    lines = [] if before is not None else [f"+ {name} {after.name!r}"]
    for path in dict.fromkeys([*old, *new]):
        was, now = old.get(path), new.get(path)
        if (path in old, type(was), was) == (path in new, type(now), now) or path == ("id",):  # null is not absence, true is not 1
            continue
        sign = "~" if path in old and path in new else "+" if path in new else "-"
        shown = [_shown(path, value) for here, value in ((path in old, was), (path in new, now)) if here]
        lines.append(f"{sign} {name} {'.'.join(path)}: {' → '.join(shown)}")
    return lines


def _shown(path: tuple[str, ...], value: Any) -> str:
    secret = next((key for key in path if is_secret(key)), path[-1])
    return json.dumps(masked(secret, value), ensure_ascii=False, default=str)


def _given(entry: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Values by the keys that lead to them; null within a configuration is a value, a column that is NULL is none."""
    return {path: value for path, value in _leaves(dict(entry)) if path and (value is not None or len(path) > 1)}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no object, with the keys that lead to it; `{}` counts as a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


def _unfit(value: Any, place: str) -> Iterator[str]:
    """What cannot be stored of a value: masks, what JSON does not know, `!keep` for a part of a list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _unfit(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            if isinstance(inner, Keep):
                yield f"{place}[{number}] is !keep, which can stand for the whole list only"
            yield from _unfit(inner, f"{place}[{number}]")
    elif isinstance(value, str):
        if value == "***" or ":***@" in value or "=***" in value:
            yield f"{place} is ***, which is how a secret is shown; write !keep, a reference (env:NAME) or the secret"
        if "\0" in value:
            yield f"{place} holds a NUL character"
    elif not isinstance(value, Keep | int | None) and not (isinstance(value, float) and math.isfinite(value)):
        yield f"{place} is nothing that JSON can hold; dates and the like are written in quotes"


def _hidden(row: Row) -> Row:
    """A stored row with its secrets as KEEP."""

    def hide(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: hide(key if is_secret(key) else inner, one) for inner, one in value.items()}
        secret = (is_secret(key) and not is_reference(value)) or masked(key, value) != value
        return KEEP if value is not None and secret else value

    return {key: hide(key, value) for key, value in row.items()}


def _filled(value: Any, stored: Any, place: str) -> Any:
    """KEEP replaced by what is stored at the same place."""
    if isinstance(value, Keep):
        if stored is None:
            raise ConfigurationError(f"{place} is !keep, and nothing is stored there; give a reference (env:NAME) or the secret")
        return stored
    if isinstance(value, dict):
        beside = stored if isinstance(stored, dict) else {}
        return {key: _filled(one, beside.get(key), f"{place}.{key}") for key, one in value.items()}
    return value


def _all_stored(control: ControlDatabase) -> dict[type[_Entry], dict[int, Row]]:
    return {one: _stored(control, one) for one in (SourceEntry, DestinationEntry, ConnectorEntry)}


def _stored(control: ControlDatabase, entry_type: type[_Entry]) -> dict[int, Row]:
    """Rows of an entry's table by id, in the fields of the entry."""
    rows = control.query(_select(entry_type))
    configurations = [name for name in entry_type.columns if name.endswith(("config", "override"))]
    for row in rows:
        for name in configurations:
            row[name] = None if row[name] is None else json_object(row[name], f"{entry_type.kind} {row['id']}: {name}")
        if "type" in row:
            row["type"] = (row["type"] or "").strip() or None
    return {row["id"]: row for row in rows}


def _select(entry_type: type[_Entry]) -> Any:
    columns: list[sql.Composable] = [sql.SQL("t.id")]
    columns += [
        sql.SQL("(SELECT lookup_code FROM ad_lookup_codes a WHERE a.id = t.{}) AS type").format(sql.Identifier(column))
        if name == "type"
        else sql.SQL("t.{} AS {}").format(sql.Identifier(column), sql.Identifier(name))
        for name, column in entry_type.columns.items()
    ]
    return sql.SQL("SELECT {} FROM {} t ORDER BY t.id").format(sql.SQL(", ").join(columns), sql.Identifier(entry_type.table))


def _write(connection: psycopg.Connection[Row], entry: _Entry) -> None:
    """Insert or update one row; a configuration goes in as JSON text, which JSONB, JSON and TEXT columns all take."""
    values = {name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value for name, value in entry.model_dump(exclude={"id"}).items()}
    columns = [sql.Identifier(column) for column in entry.columns.values()]
    looked_up: sql.Composable = sql.SQL("(SELECT min(id) FROM ad_lookup_codes WHERE lower(trim(lookup_code)) = lower(trim(%s)))")
    wanted = [looked_up if name == "type" else sql.SQL("%s") for name in entry.columns]
    given = [values[name] for name in entry.columns]
    table = sql.Identifier(entry.table)
    if entry.id is not None:
        pairs = sql.SQL(", ").join(sql.SQL("{} = {}").format(column, want) for column, want in zip(columns, wanted, strict=True))
        if connection.execute(sql.SQL("UPDATE {} SET {} WHERE id = %s").format(table, pairs), [*given, entry.id]).rowcount:
            return
        columns, wanted, given = [sql.Identifier("id"), *columns], [sql.SQL("%s"), *wanted], [entry.id, *given]
    insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})")
    connection.execute(insert.format(table, sql.SQL(", ").join(columns), sql.SQL(", ").join(wanted)), given)
    if entry.id is not None:  # the next id without one must not meet this one
        # Nor may the sequence go back: the runs of connectors that are gone keep their ids.
        move = sql.SQL("SELECT setval(s, GREATEST((SELECT max(id) FROM {}), nextval(s) - 1)) FROM pg_get_serial_sequence(%s, 'id') s WHERE s IS NOT NULL")
        connection.execute(move.format(table), (entry.table,))


def _problem(error: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] == "extra_forbidden":
        entries: dict[Any, type[pydantic.BaseModel]] = {"sources": SourceEntry, "destinations": DestinationEntry, "connectors": ConnectorEntry}
        known = entries.get(error["loc"][0], Document).model_fields
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"unknown key {place!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    return f"{place or 'the file'}: {'is missing' if error['type'] == 'missing' else error['msg'].replace('Input should be', 'should be')}"
