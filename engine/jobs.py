"""A merged configuration → a validated job, with nothing opened yet."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from engine import copy_jobs, load_jobs, registry
from engine.errors import ConfigurationError
from engine.options import MIB, Options
from engine.protocols import SendsBody
from engine.results import Verification  # noqa: TC001 - pydantic reads the annotation
from engine.routes import export as route
from engine.routes import transfer as transfer_route
from engine.routes.delivery import NullJournal
from engine.routes.transfer_plan import FILES_IN_FLIGHT, Orders, plan
from engine.stops import noting_delivery
from engine.stores.spool import Spooled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.protocols import FileSource, Format, Journal, RowSource
    from engine.registry import PinnedKeys
    from engine.results import Progress, RunResult
    from engine.routes.transfer_plan import Step, Store

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
_GENTLER = {registry.SFTP: 8, registry.REST: 16}
"""Files in flight where each has a connection of its own, or a program at the other end that may do much for each."""


class RouteOptions(Options):
    """Keys that speak to the route, not to a store, and may stand at either end (CONFIGURATION: "Every transfer"); the destination's wins.

    Attributes:
        if_exists: What to do when a file stands there already.
        verify: The least level of verification; without it, what costs no second read.
        chunk_size_mb: MiB of one part of a multipart upload; the source's counts where this is missing.
        delete_source: Move. Default: true from S3 to S3 and to REST endpoints, false for every other pair (specification 5.2, 6.5).
        flatten: Drop the folders below the source's path.
        files_in_flight: Files under way at once, at most. Default: 32, with a REST endpoint 16, with an SFTP server 8.
        min_age: Seconds since its last modification that a source file must have been left alone.
        limit_rate_mb: MB (1,000,000 bytes) per second, of all files together.
    """

    if_exists: Literal["replace", "skip", "fail"] = "replace"
    verify: Verification | None = None
    chunk_size_mb: int | None = None
    delete_source: bool | None = None
    flatten: bool = False
    files_in_flight: Annotated[int, Field(ge=1, le=64)] | None = None
    min_age: Annotated[float, Field(ge=0)] = 0.0
    limit_rate_mb: Annotated[float, Field(gt=0)] | None = None


_TRANSFER_ONLY = RouteOptions.known_keys() - load_jobs.ReadOptions.known_keys()


@dataclass(frozen=True, slots=True)
class ExportJob:
    """An export that is known to be possible as far as can be known without opening anything."""

    source: RowSource
    layout: Format
    store: route.Store
    target: route.Target
    notes: tuple[str, ...] = ()

    @property
    def store_can_be_asked(self) -> bool:
        """Whether the store can tell what stands there."""
        return not isinstance(self.store, Spooled)

    def source_root(self) -> None:
        """A database is asked for rows: it has no files to be told apart."""

    def run(self, on_progress: Callable[[Progress], None] | None = None, *, journal: Journal | None = None) -> RunResult:
        """Do it; see `engine.routes.export.export`."""
        with noting_delivery() as noted, contextlib.closing(self.store):
            result = route.export(self.source, self.layout, self.store, self.target, journal=journal, on_progress=on_progress)
            return noted(replace(result, notes=(*self.notes, *result.notes)))


@dataclass(frozen=True, slots=True)
class TransferJob:
    """A transfer that is known to be possible as far as can be known without opening anything."""

    source: FileSource
    store: Store | SendsBody
    orders: Orders
    notes: tuple[str, ...] = ()

    def source_root(self) -> str:
        """Tells the place of the source's files from every other. Blocking."""
        return self.source.identity("")

    def run(self, on_progress: Callable[[Progress], None] | None = None, *, journal: Journal | None = None) -> RunResult:
        """Do it; see `engine.routes.transfer.transfer`."""
        with noting_delivery() as noted, contextlib.closing(self.source), contextlib.closing(self.store):
            result = transfer_route.transfer(self.source, self.store, self.orders, journal=journal, on_progress=on_progress)
            return noted(replace(result, notes=(*self.notes, *result.notes)))

    def plan(self) -> list[Step]:
        """What it would do by now, without regard to earlier runs. Blocking."""
        return plan(self.source, self.store, self.orders, NullJournal())


Job = ExportJob | TransferJob | load_jobs.LoadJob | copy_jobs.CopyJob


def connector_job(config: Mapping[str, Any], *, pinned: PinnedKeys | None = None, redeliver: bool = False) -> Job:
    """The job of a connector, by the types of its ends.

    Args:
        config: As `engine.layers.merged_connector` gives it: `connector_id, connector_name, source_type, source_config, destination_type, destination_config`.
        pinned: SSH host keys that somebody trusts, by host and port.
        redeliver: Send files again that the ledger says are delivered.

    Raises:
        ConfigurationError: An end that is not possible, or options that are wrong; names the connector.
    """
    where = f"connector {config['connector_id']}: "
    ends = (config["source_type"], config["source_config"], config["destination_type"], config["destination_config"])
    try:
        is_database = [registry.kind_of(ends[i], ends[i + 1], where=where + role) == registry.POSTGRES for i, role in ((0, "source"), (2, "destination"))]
        configs = [{key: value for key, value in end.items() if key not in _TRANSFER_ONLY} for end in (ends[1], ends[3])]
        if all(is_database):
            return copy_jobs.copy_job(ends[0], ends[1], configs[1], table=snake_case(config["connector_name"]), where=where)
        if is_database[0]:
            return export_job(*ends, name=config["connector_name"], where=where, pinned=pinned)
        if is_database[1]:
            return load_jobs.load_job(ends[0], *configs, table=snake_case(config["connector_name"]), where=where, pinned=pinned)
        job = transfer_job(*ends, where=where, pinned=pinned)
    except ConfigurationError as error:
        text = str(error)
        raise ConfigurationError(text if text.startswith(where) else where + text) from None
    return replace(job, orders=replace(job.orders, redeliver=redeliver))


def transfer_job(
    source_type: str,
    source_config: Mapping[str, Any],
    destination_type: str,
    destination_config: Mapping[str, Any],
    *,
    where: str = "",
    pinned: PinnedKeys | None = None,
) -> TransferJob:
    """Validate both ends of a transfer.

    Args:
        source_type: A type code for a store.
        source_config: Its merged configuration.
        destination_type: A type code for a store or a REST endpoint.
        destination_config: Its merged configuration.
        where: What messages about an end begin with.
        pinned: As in `connector_job`.

    Raises:
        ConfigurationError: All that is wrong with one end, at once; a pair that is not possible.
    """
    kinds = (
        registry.kind_of(source_type, source_config, where=f"{where}source"),
        registry.kind_of(destination_type, destination_config, where=f"{where}destination"),
    )
    if kinds[1] == registry.POSTGRES:
        raise ConfigurationError(f"{where}files become rows of a database by a load (ferry load), not by a transfer")
    ours = RouteOptions.known_keys()
    keys = {key: value for key, value in source_config.items() if key in ours and value is not None}
    keys.update({key: value for key, value in destination_config.items() if key in ours and value is not None})
    asked = RouteOptions.parse(keys, where=f"{where}destination")
    ends = [{key: value for key, value in config.items() if key not in ours} for config in (source_config, destination_config)]
    notes = _with_chunk_size(asked.chunk_size_mb, kinds, ends)
    options = _options("source", kinds[0], ends[0], where)
    source = registry.store(kinds[0], options, pinned)
    store = registry.store(kinds[1], _options("destination", kinds[1], ends[1], where), pinned)
    if asked.verify is not None and isinstance(store, SendsBody) and asked.verify != "accepted":
        raise ConfigurationError(f"{where}destination: 'verify' {asked.verify}: a REST endpoint says that it accepted a file, and cannot be asked for more")
    if asked.if_exists != "replace" and isinstance(store, SendsBody):
        raise ConfigurationError(f"{where}destination: 'if_exists' {asked.if_exists}: nobody can tell what stands at a REST endpoint")
    is_move = asked.delete_source
    if is_move is None:
        is_move = kinds in {(registry.S3, registry.S3), (registry.S3, registry.REST)}
    orders = Orders(
        pattern=options.file_pattern,
        exists=asked.if_exists,
        flatten=asked.flatten,
        delete_source=is_move,
        verify=asked.verify,
        files_in_flight=asked.files_in_flight or min(_GENTLER.get(kind, FILES_IN_FLIGHT) for kind in kinds),
        min_age=asked.min_age,
        bytes_per_second=asked.limit_rate_mb and asked.limit_rate_mb * 1_000_000,
    )
    return TransferJob(source, store, orders, notes)


def _with_chunk_size(chunk_size_mb: int | None, kinds: tuple[str, str], ends: list[dict[str, Any]]) -> tuple[str, ...]:
    """Give the part size to the store that uploads in parts; a remark if there is none."""
    if chunk_size_mb is None:
        return ()
    if kinds[1] == registry.S3:
        ends[1]["chunk_size_mb"] = chunk_size_mb
        return ()
    return ("chunk_size_mb has no effect: nothing is uploaded in parts",)


def _options(role: registry.Role, kind: str, config: Mapping[str, Any], where: str) -> Any:
    place = f"{where}{role}"
    return registry.options_class(kind, role, where=place).parse(config, where=place, beside=RouteOptions.known_keys())


def export_job(
    source_type: str,
    source_config: Mapping[str, Any],
    destination_type: str,
    destination_config: Mapping[str, Any],
    *,
    name: str = "export",
    where: str = "",
    pinned: PinnedKeys | None = None,
) -> ExportJob:
    """Validate both ends of an export.

    Args:
        source_type: A type code for PostgreSQL.
        source_config: Its merged configuration, with `query`.
        destination_type: A type code for a store.
        destination_config: Its merged configuration.
        name: The connector's name; names the file when the source does not.
        where: What messages about an end begin with.
        pinned: As in `connector_job`.

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
    store = _file_destination(registry.store(store_kind, _options("destination", store_kind, rest, where), pinned))
    target = route.Target(_filename(options, name), suffix, options.max_file_rows, max_bytes, asked.if_exists, asked.verify)
    store.url(target.name(1))  # a path that the store does not take is refused here, before anything is opened
    return ExportJob(registry.row_source(source_kind, options), _format(layout_name, compression, options, max_bytes), store, target, notes)


def destination_store(destination_type: str, destination_config: Mapping[str, Any], *, where: str, pinned: PinnedKeys | None = None) -> route.Store:
    """The store of a destination alone, nothing opened.

    Raises:
        ConfigurationError: Its options are wrong.
    """
    kind = registry.kind_of(destination_type, destination_config, where=where)
    options = registry.options_class(kind, "destination", where=where).parse(_split(destination_config, where)[1], where=where)
    return _file_destination(registry.store(kind, options, pinned))


def _file_destination(store: Any) -> route.Store:
    """What files are written to; bodies are spooled."""
    made: route.Store = Spooled(store) if isinstance(store, SendsBody) else store
    return made


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
