"""What a PostgreSQL destination can be told (CONFIGURATION: "Keys", "PostgreSQL", "As a destination also")."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator

from engine.libpq import PostgresOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

WriteDisposition = Literal["append", "replace", "merge"]
ChangedFile = Literal["fail", "reload", "append"]
SOURCE_FILE = "_source_file"
LOADED_AT = "_loaded_at"
_REST = "*"
_KEYS = frozenset({"type", "from", "nullable"})
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True, slots=True)
class WantedColumn:
    """What `columns` says of one column.

    Attributes:
        name: In the table.
        type: As people write PostgreSQL types; None: as the table has it, else as the file does.
        source: The file's column; None: it is not in the file (`_source_file`, `_loaded_at`).
        nullable: Whether a new table takes NULL in it.
    """

    name: str
    type: str | None
    source: str | None
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class Columns:
    """The option `columns`, read.

    Attributes:
        named: In the order given.
        rest: Whether the file's other columns are loaded too, under their own names.
    """

    named: tuple[WantedColumn, ...]
    rest: bool = False


@dataclass(frozen=True, slots=True)
class BadRows:
    """How many rows of a file may be put aside.

    Example:
        >>> BadRows(percent=1.0).most(of=1000), BadRows(count=5).most(of=1000)
        (10, 5)
    """

    count: int | None = None
    percent: float | None = None

    def most(self, *, of: int) -> int:
        """The limit for a file with so many rows in all."""
        return self.count if self.count is not None else math.floor(of * (self.percent or 0.0) / 100)


def _columns(value: Any) -> Any:
    """JSON or an object: column → type, or → `{"type", "from", "nullable"}`."""
    if value is None or isinstance(value, Columns):
        return value
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, dict) or not value:
        raise ValueError('is an object that names columns: {"id": "bigint", "name": {"type": "text", "from": "Full name"}}')
    rest = value.get(_REST, False)
    if not isinstance(rest, bool):
        raise ValueError("'*' is true (load the file's other columns too) or false")  # noqa: TRY004 - pydantic's word for a value that is refused
    named = tuple(_wanted(str(name), setting) for name, setting in value.items() if name != _REST)
    twice = sorted({one.source for one in named if one.source and sum(other.source == one.source for other in named) > 1})
    if twice:
        raise ValueError(f"takes the file's column {twice[0]!r} for more than one column of the table")
    return Columns(named, rest)


def _parsed(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("names a column twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (line {error.lineno}, column {error.colno})") from None


def _wanted(name: str, setting: Any) -> WantedColumn:
    if isinstance(setting, str):
        setting = {"type": setting}
    elif setting is True:
        setting = {}
    if not isinstance(setting, dict):
        raise ValueError(f'column {name!r}: a type ("numeric(12,2)"), true (as table or file have it), or an object with {", ".join(sorted(_KEYS))}')  # noqa: TRY004 - pydantic's word for a value that is refused
    unknown = sorted(set(setting) - _KEYS)
    if unknown:
        raise ValueError(f"column {name!r}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    type_, source, nullable = setting.get("type"), setting.get("from"), setting.get("nullable", True)
    if not (isinstance(type_, str | None) and isinstance(source, str | None) and isinstance(nullable, bool)):
        raise ValueError(f"column {name!r}: 'type' and 'from' are text, 'nullable' is true or false")  # noqa: TRY004 - pydantic's word for a value that is refused
    fixed = name in (SOURCE_FILE, LOADED_AT) and source is None
    return WantedColumn(name, (type_ or "").strip() or None, None if fixed else source or name, nullable)


def _names(value: Any) -> Any:
    """`a,b`, JSON, or a list → a tuple of names."""
    if isinstance(value, str):
        value = _parsed(value) if value.lstrip().startswith("[") else [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, list | tuple):
        if len(set(value)) < len(value):
            raise ValueError("names a column twice")
        return tuple(value)
    return value


def _bad_rows(value: Any) -> Any:
    if isinstance(value, BadRows):
        return value
    matched = _PERCENT.fullmatch(str(value).strip())
    if matched and float(matched[1]) <= 100:  # noqa: PLR2004 - percent
        return BadRows(percent=float(matched[1]))
    if not isinstance(value, bool) and str(value).strip().isdigit():
        return BadRows(count=int(value))
    raise ValueError("is a number of rows (100), or a share of the file's rows (1%)")


class PostgresDestinationOptions(PostgresOptions):
    r"""A table, and how files become its rows.

    `columns` is the list of the table's columns that are loaded, in JSON or as an object:

        {"id": "bigint",                                          a type: the file's column of that name, cast to it
         "name": {"type": "varchar(80)", "from": "Full name"},    another name in the file
         "born": true,                                            the type that the table has, else the file's own
         "_source_file": "text", "_loaded_at": "timestamptz",     filled by the load: the file's path, when its load began
         "*": true}                                               and the file's other columns as they are

    It selects: without `"*": true` the file's columns that it does not name are left out, which the run's summary says. A column that
    it names and a file has not is an error. `nullable: false` makes a new table's column NOT NULL.
    A type is any that the server knows; where the table has the column already, the table's type is loaded, whatever stands here.

    Attributes:
        table_schema: PostgreSQL's schema, made if it is missing. In configurations `schema`.
        table: The table, made if it is missing.
        write_disposition: `append`; `merge`: rows whose key the table has are updated, others inserted; `replace`: the run's files become the table.
        primary_key: Columns of the table that a merge compares; NULL is no key, and a file holds a key once.
        columns: See above.
        schema_contract: `evolve`: new columns are added and reported; `freeze`: new tables, columns and kinds of value are refused. No type is ever changed.
        on_bad_row: `fail` the file, or `quarantine` the row in `<table>__rejected`.
        max_bad_rows: Rows, or percent of the file's rows, that quarantine takes before the file fails.
        on_changed_file: What becomes of a file that was loaded before and is another now: `fail`, `reload` (its earlier rows go), `append` (they stay).
            None: `fail` for append, `reload` for merge and replace. `reload` under append finds them by the column `_source_file`.
    """

    aliases: ClassVar[Mapping[str, str]] = {**PostgresOptions.aliases, "schema": "table_schema"}
    other_routes: ClassVar[frozenset[str]] = frozenset(
        {
            "query", "filename", "csv_filename", "compression", "batch_size", "use_server_side_cursor", "chunk_size_mb", "max_file_rows",
            "max_file_mb", "timezone", "numeric", "unrepresentable", "readers", "reader",
        }
    )  # fmt: skip

    table_schema: str = "public"
    table: str
    write_disposition: WriteDisposition = "append"
    primary_key: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    columns: Annotated[Columns | None, BeforeValidator(_columns)] = None
    schema_contract: Literal["evolve", "freeze"] = "evolve"
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    max_bad_rows: Annotated[BadRows, BeforeValidator(_bad_rows)] = BadRows(percent=1.0)
    on_changed_file: ChangedFile | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.write_disposition == "merge" and not self.primary_key:
            raise ValueError("write_disposition merge needs primary_key: the columns that tell one row from another")
        if self.write_disposition == "append" and self.on_changed_file == "reload" and not self._has_source_file:
            raise ValueError(
                f"on_changed_file reload, under append, finds a file's earlier rows by the column {SOURCE_FILE}: add it to columns "
                f'({{"*": true, "{SOURCE_FILE}": "text"}})'
            )
        return self

    @property
    def _has_source_file(self) -> bool:
        return self.columns is not None and any(column.name == SOURCE_FILE for column in self.columns.named)

    @property
    def changed_file(self) -> ChangedFile:
        """`on_changed_file`, its default decided."""
        return self.on_changed_file or ("fail" if self.write_disposition == "append" else "reload")

    @property
    def shown(self) -> str:
        """`schema.table`, for messages."""
        return f"{self.table_schema}.{self.table}"
