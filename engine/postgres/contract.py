"""Which column of the table each column of a file or a query goes to, and what the schema contract says to those that the table lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, SchemaMismatch
from engine.postgres.table import MOST_BYTES, check_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.postgres.columns import Column
    from engine.postgres.destination_options import PostgresDestinationOptions
    from engine.postgres.table import Table

MOST_COLUMNS = 1600
"""Of a table (https://www.postgresql.org/docs/current/limits.html)."""
FILLED_BY_DLT = ("_dlt_load_id", "_dlt_id")
"""Columns of tables that dlt made from rows of its own: filled by the load."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The columns of one load.

    Attributes:
        columns: The table's column for each wanted one, in their order. A generated one is not sent.
        standing: The table's columns before; empty: it is to be made.
        added: Those that it lacks.
        notes: What a user should read.
    """

    columns: tuple[Column, ...]
    standing: tuple[Column, ...]
    added: tuple[Column, ...]
    notes: tuple[str, ...]

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """As the table has them afterwards."""
        return (*self.standing, *self.added)

    @property
    def filled(self) -> tuple[str, ...]:
        """Dlt's own columns of the table that the load fills."""
        wanted = {column.name for column in self.columns}
        return tuple(column.name for column in self.standing if column.name in FILLED_BY_DLT and column.name not in wanted)


def plan(wanted: Sequence[Column], table: Table | None, options: PostgresDestinationOptions) -> Plan:
    """Match columns to the table's and apply the contract.

    Args:
        wanted: Columns to be loaded. An empty type: as the table has it; in a new column: text.
        table: The table as it stands.
        options: The destination's.

    Raises:
        ConfigurationError: A name that cannot be, or a key that is not loaded.
        SchemaMismatch: The contract refuses, or the table demands a column that does not come.
    """
    _check_names(wanted)
    found, notes = _match(wanted, table, options)
    key = set(options.primary_key) if options.write_disposition == "merge" else set()
    columns = tuple(_target(want, have, key, new_table=table is None) for want, have in zip(wanted, found, strict=True))
    added = tuple(column for column, have in zip(columns, found, strict=True) if have is None)
    check_number(len(added) + (len(table.columns) if table else 0), options)
    _apply_contract(wanted, found, added, table, options)
    _check_key(columns, options)
    if table is not None:
        _check_generated(columns, table, options)
        _check_missing(columns, table, options)
        notes += [
            f"column {column.name!r} of {options.shown} is generated: the database computes it, the values that came are not loaded"
            for column in columns
            if column.generated
        ]
        notes += [f"column {column.name!r} ({column.type}) added to {options.shown}" for column in added]
    return Plan(columns, table.columns if table else (), added, tuple(notes))


def _check_names(wanted: Sequence[Column]) -> None:
    if not wanted:
        raise SchemaMismatch("there are no columns to load")
    names = [column.name for column in wanted]
    for name in names:
        try:
            check_name("column", name)
        except ConfigurationError as error:
            raise SchemaMismatch(str(error)) from None  # of this file: others may be sound
    check_twice(names)


def check_twice(names: Sequence[str]) -> None:
    """Refuse columns of one name.

    Raises:
        SchemaMismatch: There are; names their positions.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SchemaMismatch(
            f"more than one column is named {twice[0]!r} (positions {', '.join(str(i + 1) for i, name in enumerate(names) if name == twice[0])}); a table has one"
        )


def _match(wanted: Sequence[Column], table: Table | None, options: PostgresDestinationOptions) -> tuple[list[Column | None], list[str]]:
    """The table's column for each, exactly of that name or, where none is, of the name as dlt writes it in snake_case."""
    if table is None:
        return [None] * len(wanted), []
    exact: list[Column | None] = [table.column(want.name) for want in wanted]
    taken = {column.name for column in exact if column}
    found, notes = [], []
    for want, have in zip(wanted, exact, strict=True):
        near = table.column(snake_case(want.name)) if have is None else None
        if near is not None and near.name in taken:
            raise SchemaMismatch(
                f"more than one column goes to column {near.name!r} of {options.shown}, {want.name!r} among them; rename or leave out one with 'columns'"
            )
        if near is not None:
            taken.add(near.name)
            notes.append(f"column {want.name!r} is loaded into column {near.name!r} of {options.shown}")
        found.append(have or near)
    return found, notes


def snake_case(name: str) -> str:
    """The name as dlt's snake_case writes it; the name itself where that would lose letters (`患者` would be `x`).

    Example:
        >>> snake_case("Patient ID")
        'patient_id'
    """
    from dlt.common.normalizers.naming.snake_case import NamingConvention

    if not re.search(r"[A-Za-z]", name):
        return name
    short: str = NamingConvention(MOST_BYTES).normalize_identifier(name)
    kept = re.sub(r"[\W_]", "", name).lower()
    return short if short.replace("_", "") == kept else name


def _target(want: Column, have: Column | None, key: set[str], *, new_table: bool) -> Column:
    """The column as it will stand. One that is added to rows that are there already must take NULL; a key does not."""
    column = have or replace(want, type=want.type or "text", nullable=want.nullable or not new_table)
    return replace(column, nullable=False) if column.name in key and (have or new_table) else column


def check_number(number: int, options: PostgresDestinationOptions) -> None:
    """Refuse more columns than a table can have.

    Raises:
        SchemaMismatch: There are.
    """
    if number > MOST_COLUMNS:
        raise SchemaMismatch(
            f"{options.shown} would have {number:,} columns, and PostgreSQL takes {MOST_COLUMNS:,}: is 'delimiter' right? Leave columns out with 'columns'"
        )


def _apply_contract(
    wanted: Sequence[Column], found: Sequence[Column | None], added: Sequence[Column], table: Table | None, options: PostgresDestinationOptions
) -> None:
    """Dlt's contract, over the table as it really is."""
    if options.schema_contract == "evolve":
        return
    from dlt.common.schema import Schema

    from engine.postgres.dlt_types import dlt_column, dlt_type

    schema = Schema("contract")
    if table is not None:
        standing = {column.name: dlt_column(column) for column in table.columns}
        schema.update_table({"name": table.name, "columns": standing}, normalize_identifiers=False)  # type: ignore[typeddict-item]
    partial = {column.name: dlt_column(column) for column in added}
    for want, have in zip(wanted, found, strict=True):
        if have is not None and want.type:
            partial[have.name] = {"name": have.name, "data_type": dlt_type(want.base or want.type)["data_type"]}
    contract = Schema.expand_schema_contract_settings("freeze")
    _, refused = schema.apply_schema_contract(contract, {"name": options.table, "columns": partial}, raise_on_freeze=False)  # type: ignore[typeddict-item]
    if not refused:
        return
    if table is None:
        raise SchemaMismatch(f"schema_contract freeze: there is no table {options.shown}; make it, or load once with evolve")
    new = {column.name for column in added}
    names = [name for _, name, _ in refused]
    said = [f"it has no column {', '.join(repr(name) for name in names if name in new)}"] if new.intersection(names) else []
    said += [
        f"column {name!r} is {_type_of(name, table)}, and {_wanted_type(name, wanted, found)} is to be loaded into it" for name in names if name not in new
    ]
    raise SchemaMismatch(
        f"schema_contract freeze of {options.shown}: {'; '.join(said)}. Alter the table, leave the columns out with 'columns', or choose evolve"
    )


def _type_of(name: str, table: Table) -> str:
    column = table.column(name)
    return column.type if column else "missing"


def _wanted_type(name: str, wanted: Sequence[Column], found: Sequence[Column | None]) -> str:
    return next(want.type for want, have in zip(wanted, found, strict=True) if have is not None and have.name == name)


def _check_key(columns: Sequence[Column], options: PostgresDestinationOptions) -> None:
    if options.write_disposition != "merge":
        return
    loaded = {column.name for column in columns if not column.generated}
    missing = [name for name in options.primary_key if name not in loaded]
    if missing:
        raise SchemaMismatch(f"primary_key names {missing[0]!r}, which is no column that is loaded into {options.shown} ({', '.join(sorted(loaded))})")


def _check_generated(columns: Sequence[Column], table: Table, options: PostgresDestinationOptions) -> None:
    """An identity that the database gives anew would silently be another one than the file's."""
    identity = next((column.name for column in columns if column.name in table.identities), None)
    if identity is not None:
        raise SchemaMismatch(
            f"column {identity!r} of {options.shown} is GENERATED ALWAYS AS IDENTITY: the values that come cannot be stored. Leave it out with 'columns', "
            f"or ALTER TABLE … ALTER COLUMN … SET GENERATED BY DEFAULT"
        )


def _check_missing(columns: Sequence[Column], table: Table, options: PostgresDestinationOptions) -> None:
    given = {column.name for column in columns}
    left = [c.name for c in table.columns if c.name not in given and not (c.nullable or c.default or c.generated or c.name in FILLED_BY_DLT)]
    if left:
        raise SchemaMismatch(f"no column comes for {', '.join(repr(name) for name in left)}, which {options.shown} demands (NOT NULL, no default)")
