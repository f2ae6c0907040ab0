"""A merged configuration of a load → a validated job, with nothing opened yet."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from engine import registry
from engine.errors import ConfigurationError
from engine.options import Options
from engine.routes import load as route
from engine.routes.load import LoadOrders
from engine.stops import noting_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.load_protocols import RowDestination, RowFormat
    from engine.protocols import FileSource, Journal
    from engine.registry import PinnedKeys
    from engine.results import Progress, RunResult
    from engine.routes.archive import ArchiveStore


class ReadOptions(Options):
    """How files of rows are read: keys that may stand at either end of a load; the destination's win.

    Attributes:
        format: `csv` or `parquet`; without it the suffix of the pattern or of the file decides.
        delimiter: Between the fields of a CSV line.
        header: Whether CSV files begin with the columns' names; else these are the file's columns in `columns`, in their order.
        null: The bare text that means NULL.
        encoding: Of CSV files.
        delete_source: Delete each file once its rows are committed.
        archive_path: Move it to this folder of the same store instead; written as the source's own `path`.
    """

    format: Literal["csv", "parquet"] | None = None
    delimiter: str = ","
    header: bool = True
    null: str = ""
    encoding: str = "utf-8"
    delete_source: bool = False
    archive_path: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.delete_source and self.archive_path is not None:
            raise ValueError("'delete_source' and 'archive_path': a file that was loaded is deleted or moved, not both")
        return self


@dataclass(frozen=True, slots=True)
class LoadJob:
    """A load that is known to be possible as far as can be known without opening anything."""

    source: FileSource
    layout: RowFormat
    store: RowDestination
    orders: LoadOrders
    archive: ArchiveStore | None = None

    def source_root(self) -> None:
        """What was loaded is remembered by the target database, by each file's URL."""

    def run(self, on_progress: Callable[[Progress], None] | None = None, *, journal: Journal | None = None) -> RunResult:
        """Do it; see `engine.routes.load.load`. The ledger is the target database's own."""
        del journal
        with noting_delivery() as noted, contextlib.closing(self.source), contextlib.closing(self.archive or self.source):
            return noted(route.load(self.source, self.layout, self.store, self.orders, archive=self.archive, on_progress=on_progress))


def load_job(
    source_type: str,
    source_config: Mapping[str, Any],
    destination_config: Mapping[str, Any],
    *,
    table: str,
    leaf: str = "",
    pattern: str | None = None,
    where: str = "",
    pinned: PinnedKeys | None = None,
) -> LoadJob:
    """Validate both ends of a load.

    Args:
        source_type: A type code for a store.
        source_config: Its merged configuration.
        destination_config: Of the PostgreSQL destination.
        table: The table where the destination names none.
        leaf: The file or folder below the source's path that is meant; empty: all of it.
        pattern: Which files of it, where somebody has said so.
        where: What messages about an end begin with.
        pinned: SSH host keys that somebody trusts.

    Raises:
        ConfigurationError: All that is wrong with one end, at once.
    """
    kind = registry.kind_of(source_type, source_config, where=f"{where}source")
    if kind in (registry.POSTGRES, registry.REST):
        raise ConfigurationError(f"{where}source: {source_type!r} holds no files that could be loaded")
    ours = ReadOptions.known_keys()
    keys = {key: value for config in (source_config, destination_config) for key, value in config.items() if key in ours and value is not None}
    asked = ReadOptions.parse(keys, where=f"{where}destination")
    ends = [{key: value for key, value in config.items() if key not in ours} for config in (source_config, destination_config)]
    known = registry.options_class(kind, "source", where=f"{where}source")
    options: Any = known.parse(ends[0], where=f"{where}source", beside=ours)
    target = registry.loader_options(registry.POSTGRES, {"table": table, **ends[1]}, where=f"{where}destination", beside=ours)
    source = registry.store(kind, options, pinned)
    orders = LoadOrders(base=leaf, pattern=options.file_pattern, delete_source=asked.delete_source)
    archive = None
    if asked.archive_path is not None:
        elsewhere = {key: value for key, value in ends[0].items() if known.aliases.get(key, key) != "path"} | {"path": asked.archive_path}
        archive = registry.store(kind, known.parse(elsewhere, where=f"{where}'archive_path'"), pinned)
    return LoadJob(source, _layout(asked, pattern or leaf or options.file_pattern, target), registry.loader(registry.POSTGRES, target), orders, archive)


def _layout(asked: ReadOptions, named: str, target: Any) -> RowFormat:
    from engine.formats.row_files import format_of

    name = asked.format or format_of(named)
    made = registry.row_format(name)
    if name == "parquet":
        return made()  # type: ignore[no-any-return]  # the registry gives any class
    names: tuple[str, ...] = ()
    if not asked.header:
        names = tuple(one.source for one in target.columns.named if one.source) if target.columns else ()
        if not names:
            raise ConfigurationError("'header' false: give 'columns', which then names the file's columns in their order")
    return made(delimiter=asked.delimiter, null=asked.null, encoding=asked.encoding, names=names)  # type: ignore[no-any-return]
