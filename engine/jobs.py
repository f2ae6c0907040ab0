"""A merged configuration → a validated job, with nothing opened yet."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from engine import registry
from engine.errors import ConfigurationError
from engine.options import MIB, Options
from engine.routes import export as route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.protocols import Format, Journal, RowSource
    from engine.results import RunResult

_SUFFIXES = {
    ".csv": ("csv", "none"),
    ".csv.gz": ("csv", "gzip"),
    ".csv.zst": ("csv", "zstd"),
    ".parquet": ("parquet", None),
}
_COMPRESSIONS = {
    "csv": ("none", "gzip", "zstd"),
    "parquet": ("zstd", "snappy", "gzip", "lz4", "brotli", "none"),
}
ROW_GROUP_BYTES = 24 * MIB


class RouteOptions(Options):
    """Keys of a destination that speak to the route, not to the store (CONFIGURATION: "Every transfer").

    Attributes:
        if_exists: What to do when the file stands there already.
        chunk_size_mb: MiB of one part of a multipart upload; the source's counts where this is missing.
    """

    other_routes: ClassVar[frozenset[str]] = frozenset({"delete_source", "flatten", "verify", "files_in_flight", "min_age", "limit_rate_mb"})

    if_exists: Literal["replace", "skip", "fail"] = "replace"
    chunk_size_mb: int | None = None


@dataclass(frozen=True, slots=True)
class ExportJob:
    """An export that is known to be possible as far as can be known without opening anything."""

    source: RowSource
    layout: Format
    store: route.Store
    target: route.Target
    notes: tuple[str, ...] = ()

    def run(self, on_progress: Callable[[route.Progress], None] | None = None, *, journal: Journal | None = None) -> RunResult:
        """Do it; see `engine.routes.export.export`."""
        result = route.export(self.source, self.layout, self.store, self.target, journal=journal, on_progress=on_progress)
        return replace(result, notes=(*self.notes, *result.notes))


def connector_job(config: Mapping[str, Any]) -> ExportJob:
    """The job of a connector, by the types of its ends.

    Args:
        config: As `engine.layers.merged_connector` gives it: `connector_id, connector_name, source_type, source_config, destination_type, destination_config`.

    Raises:
        ConfigurationError: An end that is not possible, or options that are wrong; names the connector.
    """
    where = f"connector {config['connector_id']}: "
    kind = registry.kind_of(config["source_type"], config["source_config"], where=f"{where}source")
    if kind != registry.POSTGRES:
        raise ConfigurationError(f"{where}this version runs connectors whose source is a database; its source is {config['source_type']!r}")
    ends = (config["source_type"], config["source_config"], config["destination_type"], config["destination_config"])
    try:
        return export_job(*ends, name=config["connector_name"], where=where)
    except ConfigurationError as error:
        text = str(error)
        raise ConfigurationError(text if text.startswith(where) else where + text) from None


def export_job(
    source_type: str, source_config: Mapping[str, Any], destination_type: str, destination_config: Mapping[str, Any], *, name: str = "export", where: str = ""
) -> ExportJob:
    """Validate both ends of an export.

    Args:
        source_type: A type code for PostgreSQL.
        source_config: Its merged configuration, with `query`.
        destination_type: A type code for a store.
        destination_config: Its merged configuration.
        name: The connector's name; names the file when the source does not.
        where: What messages about an end begin with.

    Raises:
        ConfigurationError: All that is wrong with one end, at once.
    """
    source_kind = registry.kind_of(source_type, source_config)
    options = registry.row_source_options(source_kind, source_config, where=f"{where}source")
    store_kind = registry.kind_of(destination_type, destination_config, where=f"{where}destination")
    asked, rest = _split(destination_config, f"{where}destination")
    layout_name, compression, suffix = _layout(options, name)
    chunk_size_mb = asked.chunk_size_mb or options.chunk_size_mb
    notes: tuple[str, ...] = ()
    if store_kind == registry.S3 and chunk_size_mb is not None:
        rest["chunk_size_mb"] = chunk_size_mb
    elif chunk_size_mb is not None and asked.chunk_size_mb is not None:
        notes = ("chunk_size_mb has no effect: nothing is uploaded in parts",)
    max_bytes = int(options.max_file_mb * MIB) if options.max_file_mb else None
    store: route.Store = registry.store(store_kind, registry.store_options(store_kind, rest, where=f"{where}destination", beside=RouteOptions.known_keys()))
    target = route.Target(_filename(options, name), suffix, options.max_file_rows, max_bytes, asked.if_exists)
    store.url(target.name(1))  # a path that the store does not take is refused here, before anything is opened
    return ExportJob(registry.row_source(source_kind, options), _format(layout_name, compression, options, max_bytes), store, target, notes)


def destination_store(destination_type: str, destination_config: Mapping[str, Any], *, where: str) -> route.Store:
    """The store of a destination alone, nothing opened.

    Raises:
        ConfigurationError: Its options are wrong.
    """
    kind = registry.kind_of(destination_type, destination_config, where=where)
    store: route.Store = registry.store(kind, registry.store_options(kind, _split(destination_config, where)[1], where=where))
    return store


def row_source(source_type: str, source_config: Mapping[str, Any]) -> RowSource:
    """A checked source of rows, nothing opened."""
    kind = registry.kind_of(source_type, source_config)
    source: RowSource = registry.row_source(kind, registry.row_source_options(kind, source_config, where="source"))
    return source


def snake_case(name: str) -> str:
    """`Lab Results (2024)` → `lab_results_2024`, as files and tables of a connector are named by default."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"\W+", "_", words).strip("_").lower() or "export"


def _split(config: Mapping[str, Any], where: str) -> tuple[RouteOptions, dict[str, Any]]:
    ours = RouteOptions.known_keys()
    asked = RouteOptions.parse({k: v for k, v in config.items() if k in ours}, where=where)
    return asked, {k: v for k, v in config.items() if k not in ours}


def _filename(options: Any, name: str) -> str:
    if options.filename:
        return str(options.filename)
    suffix = ".parquet" if options.format == "parquet" else {"gzip": ".csv.gz", "zstd": ".csv.zst"}.get(options.compression, ".csv")
    return snake_case(name) + suffix


def _layout(options: Any, name: str) -> tuple[str, str | None, str]:
    """Format, compression and suffix of the file. What is given wins over the suffix, but a suffix must not lie."""
    filename = _filename(options, name)
    known = next((s for s in sorted(_SUFFIXES, key=len, reverse=True) if filename.lower().endswith(s)), None)
    by_suffix, packed = _SUFFIXES[known] if known else (None, None)
    layout = options.format or by_suffix
    if layout is None:
        raise ConfigurationError(f"{filename!r}: the suffix names no format; use {', '.join(_SUFFIXES)}, or say --format csv or --format parquet")
    compression = options.compression or (packed if layout == by_suffix else None)
    if compression is not None and compression not in _COMPRESSIONS[layout]:
        raise ConfigurationError(f"'compression': {layout} knows {', '.join(_COMPRESSIONS[layout])}, not {compression!r}")
    if layout == by_suffix == "csv" and compression != packed:
        right = next(s for s, meaning in _SUFFIXES.items() if meaning == ("csv", compression))
        raise ConfigurationError(f"'compression': {filename!r} would hold {compression}; name it {filename[: -len(known or '')]}{right}")
    suffix = filename[-len(known) :] if known else _last_suffix(filename)
    return layout, compression, suffix


def _last_suffix(filename: str) -> str:
    _, dot, last = filename.rpartition("/")[2].rpartition(".")
    return dot + last if dot else ""


def _format(name: str, compression: str | None, options: Any, max_bytes: int | None) -> Format:
    kind = registry.file_format(name)
    if name == "csv":
        layout: Format = kind(delimiter=options.delimiter, header=options.header, null=options.null, compression=compression or "none")
        return layout
    # Smaller row groups when files are small, so that each file can come close to its limit.
    row_group_bytes = min(ROW_GROUP_BYTES, max_bytes // 8) if max_bytes else ROW_GROUP_BYTES
    return kind(compression=compression or "zstd", row_group_bytes=max(row_group_bytes, 1))  # type: ignore[no-any-return]  # the registry gives any class
