"""The table as a dlt dataset: dlt keeps its schema, makes and alters it, and writes `_dlt_version`, `_dlt_loads` and the SQL of a merge.

A real dlt pipeline does it, through a client whose SQL goes into the load's own transaction (`Session`) instead of a connection of dlt's: a new
table, its rows, the ledger and dlt's bookkeeping are committed together, and every way to connect that libpq knows works. dlt's load step is not used.

A plain dlt pipeline may go on with the table: with Arrow tables as it is; with dicts once it has `_dlt_load_id` and `_dlt_id` (dlt wants to add them NOT NULL,
which a table with rows does not take; `ALTER TABLE … ADD _dlt_load_id text, ADD _dlt_id text` does). A load fills them where they stand.

Each table has a dlt schema of its own (`ferry_<table>`), so that loads into several tables never wait for each other. Names are stored as they are
(`direct` naming; not even quotes are replaced). Importing this module imports dlt (about a second): `destination.py` does so when it first needs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from typing import TYPE_CHECKING, Any, cast

import dlt
from dlt.common.pipeline import PipelineContext
from dlt.common.schema import Schema
from dlt.common.storages.load_package import create_load_id
from dlt.destinations.exceptions import DatabaseUndefinedRelation
from dlt.destinations.impl.postgres.factory import PostgresTypeMapper, postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient
from dlt.destinations.sql_jobs import SqlMergeFollowupJob

from engine.errors import LoadFailed
from engine.postgres.dlt_types import TYPE_HINT, dlt_column
from engine.postgres.session import identifier, literal
from engine.postgres.table import missing_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dlt.common.destination import DestinationCapabilitiesContext

    from engine.postgres.columns import Column
    from engine.postgres.session import Session

PIPELINE = "arrow_ferry"
_starting = threading.Lock()
"""dlt resolves its configuration from the process's environment: one at a time."""


def schema_name(table: str) -> str:
    """The name of the dlt schema that describes a table; dlt takes identifiers.

    Example:
        >>> schema_name("visits")
        'ferry_visits'
    """
    plain = re.sub(r"\W", "_", table, flags=re.ASCII).lower()[:32]
    return f"ferry_{plain}" if plain == table else f"ferry_{plain}_{hashlib.sha256(table.encode()).hexdigest()[:8]}"


class Dataset:
    """One table of a dlt dataset, for the time of one load. Every method blocks.

    Args of the constructor:
        session: The transaction that dlt's SQL goes into.
        schema: PostgreSQL's schema: dlt calls it the dataset.
        table: The table's name.
        folder: Private; what dlt spools goes there.
    """

    def __init__(self, session: Session, *, schema: str, table: str, folder: Path) -> None:
        self._session = session
        self._dataset = schema
        self._table = table
        self._folder = folder
        self._client: _Client | None = None

    def sync(self, columns: Sequence[Column] = (), *, disposition: str = "append", key: Sequence[str] = ()) -> None:
        """Have dlt make what is missing: schema, its own tables, the table, its new columns; and store the schema's version if it is another.

        Args:
            columns: Those that stand in the table already, then the new ones; none: the table is left out.
            disposition: dlt's write disposition of the table.
            key: Its primary key, for a merge.
        """
        with _pipeline(self._session, self._dataset, self._folder) as pipeline:
            described = self._stored(pipeline)
            if self._table in described.tables:
                described.drop_tables([self._table])
            if columns:
                described.update_table(self._described(columns, disposition, key), normalize_identifiers=False)
            pipeline.schemas.save_schema(described)
            pipeline.sync_schema(described.name)
            self._client = cast("_Client", pipeline.destination_client(described.name))

    def merge_statements(self, columns: Sequence[str], staging: str) -> list[str]:
        """Dlt's SQL that merges `staging` (a qualified, quoted relation) into the table, by its key: matched rows are updated, others inserted."""
        client = self._synced()
        table = client.prepare_load_table(self._table)
        table["columns"] = {name: table["columns"][name] for name in columns}
        table["x-merge-strategy"] = "upsert"  # type: ignore[typeddict-unknown-key]  # dlt's own hint, which its type leaves out
        client.sql_client.staging = staging
        return [_rendered(statement, (), {}) for statement in SqlMergeFollowupJob.generate_sql([table], client.sql_client)]

    def complete(self, load_id: str) -> None:
        """Write the row of `_dlt_loads`."""
        with self._synced() as client:
            client.complete_load(load_id)

    def _synced(self) -> _Client:
        if self._client is None:
            raise LoadFailed("the table's schema was not synchronised before")  # a defect of ours
        return self._client

    def _stored(self, pipeline: dlt.Pipeline) -> Schema:
        """The latest version of the schema in the database, or a new one."""
        name = schema_name(self._table)
        fresh = Schema(name)
        pipeline.schemas.save_schema(fresh)
        with cast("_Client", pipeline.destination_client(name)) as client:
            stored = client.get_stored_schema(name) if client.is_storage_initialized() else None
        return Schema.from_stored_schema(dlt.common.json.loads(stored.schema)) if stored else fresh

    def _described(self, columns: Sequence[Column], disposition: str, key: Sequence[str]) -> Any:
        described = {column.name: dlt_column(column) for column in columns}
        for name in key:
            described[name]["primary_key"] = True
        seen = {"seen-data": True}  # dlt's mark of a table that holds rows, which its datasets go by
        return {"name": self._table, "columns": described, "write_disposition": disposition, "resource": self._table, "x-normalizer": seen}


def new_load_id() -> str:
    """An id as dlt gives them: the time, which only grows."""
    return create_load_id()


@contextlib.contextmanager
def _pipeline(session: Session, dataset: str, folder: Path) -> Iterator[dlt.Pipeline]:
    """A pipeline over the session, in its private folder; active for the block alone, in this thread."""
    destination = _destination(session)
    with _starting, _environment(folder):
        pipeline = dlt.pipeline(PIPELINE, pipelines_dir=str(folder), destination=destination, dataset_name=dataset)
    try:
        yield pipeline
    finally:
        dlt.common.configuration.container.Container()[PipelineContext].deactivate()


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What dlt reads from the environment when it starts: no telemetry, no log, nothing in the home directory."""
    ours = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "CRITICAL", "DLT_DATA_DIR": str(folder)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_PLACEHOLDER = re.compile(r"(?<!%)%s")


class _Types(PostgresTypeMapper):
    """Writes a column's exact PostgreSQL type where its hint names one."""

    def to_destination_type(self, column: Any, table: Any) -> str:
        return str(column.get(TYPE_HINT) or super().to_destination_type(column, table))


class _Cursor:
    """The rows of one answer, as dlt asks for them."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows
        self.description: object = True

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


class _SqlClient(Psycopg2SqlClient):
    """dlt's SQL into the load's transaction; it opens, commits and closes nothing."""

    staging = ""

    def __init__(self, session: Session, *args: Any) -> None:
        super().__init__(*args)
        self._session = session

    def open_connection(self) -> Any:
        return None

    def close_connection(self) -> None:
        pass

    @contextlib.contextmanager
    def begin_transaction(self) -> Iterator[Any]:
        yield self

    @contextlib.contextmanager
    def execute_query(self, query: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        text = _rendered(str(query), args, kwargs)
        if text.lstrip()[:6].upper() != "SELECT":
            self._session.execute(text)
            yield _Cursor([])
            return
        if "_dlt_" in text and not self._has(text):
            raise DatabaseUndefinedRelation(LoadFailed("dlt's tables are not there yet"))  # dlt expects it, and an error would end the transaction
        yield _Cursor(self._session.fetch(text))

    def get_qualified_table_names(self, table_name: str, quote: bool = True, casefold: bool = True) -> tuple[str, str]:  # noqa: FBT001, FBT002 - dlt's signature
        return self.make_qualified_table_name(table_name, quote, casefold), self.staging

    def _has(self, text: str) -> bool:
        """Whether the dlt table that a query reads exists."""
        names = re.findall(r'"(_dlt_\w+)"', text.partition("FROM")[2])[:1]
        return not names or not missing_tables(self._session.fetch, self.dataset_name, names)


def _rendered(query: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The query with its values written into it, and names that hold a % as they are again (`_escaped`)."""
    if kwargs:
        raise LoadFailed("dlt sent a query with named values")  # it has none in what is used of it; a test would show
    first, *others = (piece.replace("%%", "%") for piece in _PLACEHOLDER.split(query))
    return first + "".join(literal(value) + piece for value, piece in zip(args, others, strict=True))


def _escaped(name: str) -> str:
    """A quoted name for dlt's SQL, in which %s stands for a value."""
    return identifier(name).replace("%", "%%")


class _Client(PostgresClient):
    sql_client: _SqlClient

    def update_stored_schema(self, only_tables: Any = None, expected_update: Any = None, force: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 - dlt's signature
        """Compare with the tables themselves, also when the schema's version is known: somebody may have dropped the table since."""
        return super().update_stored_schema(only_tables, expected_update, force=True)


def _destination(session: Session) -> postgres:
    """Dlt's destination, with a client over the session. The credentials are placeholders: nothing connects with them."""

    class Client(_Client):
        def __init__(self, schema: Any, config: Any, capabilities: Any) -> None:
            super().__init__(schema, config, capabilities)
            plain = self.sql_client
            self.sql_client = _SqlClient(session, plain.dataset_name, plain.staging_dataset_name, config.credentials, capabilities)

    class Destination(postgres):
        def _raw_capabilities(self) -> DestinationCapabilitiesContext:
            capabilities = super()._raw_capabilities()
            capabilities.escape_identifier = _escaped
            return capabilities

        @property
        def client_class(self) -> type[PostgresClient]:
            return Client

    return Destination(
        "postgresql://nobody:none@nowhere/none",
        destination_name="postgres",
        naming_convention="direct",
        enable_dataset_name_normalization=False,
        type_mapper=_Types,
    )
