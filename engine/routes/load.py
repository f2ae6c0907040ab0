"""Files into a table: rows of CSV and Parquet files, each file exactly once.

    list  →  leave out what the destination remembers  →  for each file: open, load (one transaction), remove the source where asked

Files of one run that have the same columns are loaded one after another through one opened table. One file's failure stops no other, except under
replace, where all files become the table together.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine import paths, workers
from engine.errors import ConfigurationError, FerryError, FileChanged, LeaseLost, LoadFailed, PartlyFailed, describe
from engine.results import DELIVERED, FileResult, Progress, RunResult, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from engine.protocols import FileInfo, FileSource, LoadsRows, RowDestination, RowFile, RowFormat
    from engine.results import FileState


@dataclass(frozen=True, slots=True)
class LoadOrders:
    """What to load, and how.

    Attributes:
        base: Below the source's root: a folder, or one file. Empty: the root.
        pattern: Which files below `base`.
        one_file: `base` must be a file: the table is named after it.
        delete_source: Delete each source once its rows are committed, also one that an earlier run committed.
        dry_run: Say what would be done.
    """

    base: str = ""
    pattern: str = "*"
    one_file: bool = False
    delete_source: bool = False
    dry_run: bool = False


def load(
    source: FileSource,
    layout: RowFormat,
    destination: RowDestination,
    orders: LoadOrders,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Load files into a table.

    Args:
        source: Where they are.
        layout: How rows are read from them.
        destination: The table.
        orders: Which ones, and how.
        on_progress: Called in the calling thread several times a second.

    Returns:
        Rows and files; a file that the destination remembers is "already delivered".

    Raises:
        PartlyFailed: Some files were not loaded; its `result` tells of all.
        ConfigurationError: Nothing was loaded.
        FerryError: The listing or the connection failed.

    Example:
        >>> load(LocalStore(FolderOptions(path="/in")), CsvFiles(), Loader(options), LoadOrders(pattern="*.csv"))  # doctest: +SKIP
    """
    started = time.monotonic()
    run = _Loading(source, layout, destination, orders, on_progress)
    with workers.watching(run.show):
        files = run.run()
    rows = sum(file.rows or 0 for file in files if file.state in DELIVERED)
    size = sum(file.bytes for file in files if file.state in DELIVERED)
    nothing = () if files else (f"nothing to load: no file of {source.url(orders.base or '*').removesuffix('/*')} matches {orders.pattern!r}",)
    notes = tuple(dict.fromkeys((*nothing, *source.notes, *destination.notes)))
    result = RunResult(rows, size, time.monotonic() - started, None, tuple(files), notes)
    if result.failed:
        raise PartlyFailed(_told(result), result, transient=run.may_help)
    return result


def chosen(source: FileSource, orders: LoadOrders) -> list[FileInfo]:
    """The files that the orders name. Blocking.

    Raises:
        ConfigurationError: There is no such file or folder.
    """
    if orders.base and (single := source.stat(orders.base)) is not None:
        return [single]
    if orders.one_file:
        raise ConfigurationError(f"which table? {source.url(orders.base or '*').removesuffix('/*')} is no file that it could be named after: give --table")
    files = list(source.list(paths.join_pattern(orders.base, orders.pattern)))
    if not files and source.has_folders and not source.is_folder(orders.base):
        raise ConfigurationError(f"there is no file or folder {source.url(orders.base or '*').removesuffix('/*')}")
    return files


def _told(result: RunResult) -> str:
    named = [printable(str(file.error)) for file in result.failed[:3]]
    more = len(result.failed) - len(named)
    return f"{result.headline}: {'; '.join(named)}{f'; and {more:,} more' if more else ''}"


class _Loading:
    """One run."""

    def __init__(
        self, source: FileSource, layout: RowFormat, destination: RowDestination, orders: LoadOrders, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.may_help = False
        self._source = source
        self._layout = layout
        self._destination = destination
        self._orders = orders
        self._on_progress = on_progress
        self._rows = 0
        self._bytes = 0  # of files that are done with
        self._open: RowFile | None = None
        self._total_bytes = 0
        self._files: list[FileInfo] = []
        self._results: dict[str, FileResult] = {}

    def run(self) -> list[FileResult]:
        self._files = workers.call(lambda: chosen(self._source, self._orders))
        waiting = workers.call(self._not_loaded)
        if self._orders.dry_run:
            return self._in_order()
        self._total_bytes = sum(file.size for file in waiting)
        if self._orders.delete_source:  # a run that ended between the commit and the deletion
            workers.call(lambda: self._delete([file for file in self._files if file not in waiting]))
        for schema, group in workers.call(lambda: self._by_schema(waiting)):
            self._load_group(schema, group)
        return self._in_order()

    def _in_order(self) -> list[FileResult]:
        return [self._results[file.path] for file in self._files]

    def _not_loaded(self) -> list[FileInfo]:
        """Those that the destination does not remember in this version; of a replace all, unless none has changed."""
        urls = {file.path: self._source.url(file.path) for file in self._files}
        known = self._destination.loaded(list(urls.values()))
        waiting = []
        for file in self._files:
            same = next((one for one in known.get(urls[file.path], ()) if one.version == file.version), None)
            state: FileState = "planned" if same is None else "already delivered"
            self._results[file.path] = FileResult(self._destination.shown, file.size, None if same is None else same.rows, None, state, source=urls[file.path])
            if same is None:
                waiting.append(file)
        if self._destination.is_replace and waiting:
            for file in self._files:
                self._results[file.path] = replace(self._results[file.path], state="planned", rows=None)
            return list(self._files)
        return waiting

    def _by_schema(self, files: Sequence[FileInfo]) -> list[tuple[pa.Schema, list[FileInfo]]]:
        """Files of the same columns together, in the order in which such come first. A file that cannot be opened has failed."""
        groups: list[tuple[pa.Schema, list[FileInfo]]] = []
        for file in files:
            try:
                with self._layout.open(self._source, file) as rows:
                    schema = rows.schema
            except (LeaseLost, ConfigurationError):
                raise
            except FerryError as error:
                self._fail(file, error)
                continue
            same = next((group for known, group in groups if known.equals(schema)), None)
            if same is None:
                groups.append((schema, [file]))
            else:
                same.append(file)
        if self._destination.is_replace and (len(groups) > 1 or len(groups[0][1]) < len(files) if groups else files):
            failed = [str(result.error) for result in self._results.values() if result.state == "failed"]
            raise ConfigurationError(
                f"replacing {self._destination.shown}: all files become the table together, and "
                + (failed[0] if failed else "they do not have the same columns")
                + "; the table stays as it was"
            )
        return groups

    def _load_group(self, schema: pa.Schema, files: Sequence[FileInfo]) -> None:
        try:
            with self._destination.open(schema, is_text=self._layout.is_text, survey=lambda: self._survey(files)) as table:
                for file in files:
                    self._load(table, file)
                    self._go_on(file)
        except LeaseLost:
            raise
        except FerryError as error:
            if isinstance(error, ConfigurationError) and not any(result.state in DELIVERED for result in self._results.values()):
                raise
            for file in files:
                if self._results[file.path].state == "planned":
                    self._fail(file, error)
            if self._destination.is_replace:
                self._keep(files)
            return
        if self._destination.is_replace and self._orders.delete_source:
            workers.call(lambda: self._delete(files))

    def _go_on(self, file: FileInfo) -> None:
        """Under replace the first failure ends the run, before anything is committed; else the file's rows are there now."""
        if self._destination.is_replace:
            if self._results[file.path].state == "failed":
                raise LoadFailed("another file of the replace failed; the table stays as it was")
        elif self._orders.delete_source:
            workers.call(lambda: self._delete([file]))

    def _load(self, table: LoadsRows, file: FileInfo) -> None:
        url = self._source.url(file.path)
        try:
            with contextlib.ExitStack() as stack:
                self._open = rows = workers.call(lambda: stack.enter_context(self._layout.open(self._source, file)))
                done = table.load(url, file.version, file.size, rows, self._passed)
        except LeaseLost:
            raise
        except FileChanged as changed:
            self._left(file, changed)
            return
        except FerryError as error:
            self._fail(file, error)
            return
        finally:
            self._open = None
            self._bytes += file.size
        planned = self._results[file.path]
        if done is None:
            self._results[file.path] = replace(planned, state="already delivered")
        else:
            loaded, aside = done
            if aside:
                self._destination.notes.append(f"{url}: {aside:,} row{'s were' if aside > 1 else ' was'} put aside in the table of rejected rows")
            self._results[file.path] = replace(planned, state="written", rows=loaded)

    def _survey(self, files: Sequence[FileInfo]) -> Iterator[pa.RecordBatch]:
        """Every row of every file, as text."""
        for file in files:
            with contextlib.ExitStack() as stack:
                rows = workers.call(lambda: stack.enter_context(self._layout.open(self._source, file)))  # noqa: B023 - called before the next one
                for block in rows:
                    yield block.text()

    def _passed(self, rows: int) -> None:
        self._rows += rows

    def show(self) -> None:
        """Tell how far it is; called by every wait of the calling thread."""
        if self._on_progress is not None:
            done = sum(result.state != "planned" for result in self._results.values())
            read = self._bytes + (self._open.bytes_read if self._open is not None else 0)
            self._on_progress(Progress(self._rows, min(read, self._total_bytes), done, total_bytes=self._total_bytes, total_files=len(self._files)))

    def _left(self, file: FileInfo, changed: FileChanged) -> None:
        """A file that changes while it is read is left for the next run; a replace cannot do without it."""
        if self._destination.is_replace:
            self._fail(file, changed)
        else:
            self._results[file.path] = replace(self._results[file.path], state="left", error=f"{changed}; the next run takes it")

    def _fail(self, file: FileInfo, error: FerryError) -> None:
        self.may_help = self.may_help or error.transient
        told = describe(error)
        self._results[file.path] = replace(self._results[file.path], state="failed", error=told)

    def _keep(self, files: Sequence[FileInfo]) -> None:
        """A replace that did not come about: what it had loaded is not there."""
        for file in files:
            if self._results[file.path].state in DELIVERED:
                self._fail(file, LoadFailed("another file of the replace failed; the table stays as it was"))

    def _delete(self, files: Sequence[FileInfo]) -> None:
        """Those whose rows are committed. Blocking."""
        for file in files:
            result = self._results[file.path]
            if result.state not in (*DELIVERED, "already delivered"):
                continue
            try:
                self._source.delete(file)
            except FerryError as error:
                self.may_help = self.may_help or error.transient
                self._results[file.path] = replace(result, error=f"loaded, but its source is kept: {error}")
            else:
                self._results[file.path] = replace(result, source_deleted=True)
