"""Type codes, as connectors and URLs write them, and the classes behind them, imported when first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.options import Options

Role = Literal["source", "destination"]
PinnedKeys = Callable[[str, int], Sequence[str]]
POSTGRES = "postgres"
S3 = "s3"
FOLDER = "filesystem"
SFTP = "sftp"
REST = "rest_api"

_KINDS = {
    "postgres": POSTGRES,
    "postgresql": POSTGRES,
    "sql_database": POSTGRES,
    "database": POSTGRES,
    "s3": S3,
    "minio": S3,
    "filesystem": FOLDER,
    "nfs": FOLDER,
    "sftp": SFTP,
    "rest_api": REST,
}
TYPE_CODES = tuple(_KINDS)


@dataclass(frozen=True, slots=True)
class _Class:
    """`module:name`, imported on demand: a run loads the libraries of its own two ends only."""

    reference: str

    def load(self) -> Any:
        module, _, name = self.reference.partition(":")
        return getattr(importlib.import_module(module), name)


_STORES = {
    S3: (_Class("engine.stores.s3:S3Options"), _Class("engine.stores.s3:S3Store")),
    FOLDER: (_Class("engine.stores.local:FolderOptions"), _Class("engine.stores.local:LocalStore")),
    SFTP: (_Class("engine.stores.sftp:SftpOptions"), _Class("engine.stores.sftp:SftpStore")),
}
_SENDERS = {
    REST: (_Class("engine.stores.rest:RestOptions"), _Class("engine.stores.rest:RestDestination")),
}
_ROW_SOURCES = {
    POSTGRES: (_Class("engine.postgres.source_options:PostgresSourceOptions"), _Class("engine.postgres.source:PostgresSource")),
}
_READERS = {
    (POSTGRES, "copy"): _Class("engine.postgres.copy_source:CopySource"),
    (POSTGRES, "connectorx"): _Class("engine.postgres.connectorx_source:ConnectorxSource"),
}
_EXTRAS = {"connectorx": "connectorx", "asyncpg": "turbo", "uvloop": "turbo", "numba": "turbo"}
_LOADERS = {
    POSTGRES: (_Class("engine.postgres.destination_options:PostgresDestinationOptions"), _Class("engine.postgres.loading:Loader")),
}
_ROW_FORMATS = {
    "csv": _Class("engine.formats.row_files:CsvFiles"),
    "parquet": _Class("engine.formats.row_files:ParquetFiles"),
}
_FORMATS = {
    "csv": _Class("engine.formats.csv:CsvFormat"),
    "parquet": _Class("engine.formats.parquet:ParquetFormat"),
}


def kind_of(code: str, config: Mapping[str, Any], *, where: str = "") -> str:
    """The kind behind a type code, whatever its case; a folder whose configuration has `bucket` is S3 (old rows say so).

    Args:
        code: The type code.
        config: The configuration that it stands with.
        where: What the message begins with: `connector 7: source`.

    Raises:
        ConfigurationError: No such code.
    """
    kind = _KINDS.get(code.lower())
    if kind is None:
        raise ConfigurationError(f"{where}{': ' if where else ''}unknown type {code!r}; known are {', '.join(_KINDS)}")
    return S3 if kind == FOLDER and config.get("bucket") is not None else kind


def options_class(kind: str, role: Role, *, where: str) -> type[Options]:
    """The class of a connector end's options.

    Raises:
        ConfigurationError: Nothing of this kind can stand at this end.
    """
    table = {**_STORES, **(_ROW_SOURCES if role == "source" else {**_SENDERS, **_LOADERS})}
    if kind not in table:
        raise ConfigurationError(f"{where}: {kind!r} is not possible here; possible are {', '.join(table)}")
    options: type[Options] = table[kind][0].load()
    return options


def row_source_options(kind: str, config: Mapping[str, Any], *, where: str) -> Any:
    """Checked options of a source of rows."""
    return _options(_ROW_SOURCES, kind, config, where)


def row_source(kind: str, options: Options) -> Any:
    """A source of rows, nothing opened; of the class that its `reader` names, where there are several."""
    named = _READERS.get((kind, str(getattr(options, "reader", ""))), _ROW_SOURCES[kind][1])
    try:
        return named.load()(options)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise ConfigurationError(f"'reader' needs {error.name}, which is not installed: pip install 'arrow-ferry[{_EXTRAS[error.name]}]'") from None


def store(kind: str, options: Options, pinned: PinnedKeys | None = None) -> Any:
    """A store, or what takes bodies; nothing opened. `pinned` tells which SSH host keys somebody trusts, by host and port."""
    made = {**_STORES, **_SENDERS}[kind][1].load()
    return made(options, pinned) if kind == SFTP else made(options)


def loader_options(kind: str, config: Mapping[str, Any], *, where: str, beside: Iterable[str] = ()) -> Any:
    """Checked options of a table that rows are loaded into."""
    return _options(_LOADERS, kind, config, where, beside)


def loader(kind: str, options: Options) -> Any:
    """A table that rows are loaded into, nothing opened."""
    return _LOADERS[kind][1].load()(options)


def row_format(name: str) -> Any:
    """The class that reads rows from files of a format."""
    return _ROW_FORMATS[name].load()


def file_format(name: str) -> Any:
    """The class of a format."""
    return _FORMATS[name].load()


def _options(table: Mapping[str, tuple[_Class, _Class]], kind: str, config: Mapping[str, Any], where: str, beside: Iterable[str] = ()) -> Any:
    if kind not in table:
        raise ConfigurationError(f"{where}: {kind!r} is not possible here; possible are {', '.join(table)}")
    options: type[Options] = table[kind][0].load()
    return options.parse(config, where=where, beside=beside)
