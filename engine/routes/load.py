"""Files into a table: rows of CSV and Parquet files, each file exactly once.

    list  →  leave out what the destination remembers  →  for each file: open, load (one transaction), delete or archive the source where asked

Files of one run that have the same columns are loaded one after another through one opened table. One file's failure stops no other, except under
replace, where all files become the table together.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine import paths, workers
from engine.errors import ConfigurationError, FerryError, FileChanged, LeaseLost, LoadFailed, PartlyFailed, SchemaMismatch, describe
from engine.results import DELIVERED, FileResult, Progress, RunResult, printable
from engine.routes.archive import Archive
from engine.routes.unmatched import Unmatched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from engine.load_protocols import LoadedFile, LoadsRows, RowDestination, RowFile, RowFormat
    from engine.protocols import FileInfo, FileSource
    from engine.routes.archive import ArchiveStore

_ANOTHER = "another file of the replace failed; the table stays as it was"


@dataclass(frozen=True, slots=True)
class LoadOrders:
    """What to load, and how.

    Attributes:
        base: Below the source's root: a folder, or one file. Empty: the root.
        pattern: Which files below `base`; one file must match it too.
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
    archive: ArchiveStore | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Load files into a table.

    Args:
        source: Where they are.
        layout: How rows are read from them.
        destination: The table.
        orders: Which ones, and how.
        archive: The source's store once more, at the folder that files are moved to once their rows are committed, also those that an earlier run committed.
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
    run = _Loading(source, layout, destination, orders, archive, on_progress)
    with workers.watching(run.show):
        files = run.run()
    rows = sum(file.rows or 0 for file in files if file.state in DELIVERED)
    size = sum(file.bytes for file in files if file.state in DELIVERED)
    nothing = () if files else (f"nothing to load: no file of {source.url(orders.base or '*').removesuffix('/*')} matches {orders.pattern!r}",)
    notes = tuple(dict.fromkeys((*nothing, *source.notes, *(archive.notes if archive else ()), *destination.notes, *run.unmatched)))
    result = RunResult(rows, size, time.monotonic() - started, None, tuple(files), notes)
    if result.failed:
        raise PartlyFailed(_told(result), replace(result, status="failed"), transient=run.may_help)
    return result


def chosen(source: FileSource, orders: LoadOrders) -> list[FileInfo]:
    """The files that the orders name. Blocking.

    Raises:
        ConfigurationError: There is no such file or folder.
    """
    if orders.base and (single := source.stat(orders.base)) is not None:
        if not paths.matcher(orders.pattern).fullmatch(single.path.rpartition("/")[2]):
            raise ConfigurationError(f"{source.url(single.path)} is one file, and the pattern {orders.pattern!r} does not match its name")
        return [single]
    shown = source.url(orders.base or "*").removesuffix("/*")
    if orders.one_file:
        if source.has_folders and not source.is_folder(orders.base):
            raise ConfigurationError(f"there is no file or folder {shown}")
        raise ConfigurationError(f"which table? {shown} is no file that it could be named after: give --table")
    files = list(source.list(paths.join_pattern(orders.base, orders.pattern)))
    if not files and source.has_folders and not source.is_folder(orders.base):
        raise ConfigurationError(f"there is no file or folder {shown}")
    return files


def _told(result: RunResult) -> str:
    """The totals, and why files failed: those first that are to blame."""
    failed = sorted(result.failed, key=lambda file: file.error == _ANOTHER)
    named = [printable(str(file.error) if str(file.source) in str(file.error) else f"{file.source}: {file.error}") for file in failed[:3]]
    more = len(failed) - len(named)
    return f"{result.headline}: {'; '.join(named)}{f'; and {more:,} more' if more else ''}"


class _Loading:
    """One run."""

    def __init__(
        self,
        source: FileSource,
        layout: RowFormat,
        destination: RowDestination,
        orders: LoadOrders,
        archive: ArchiveStore | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.may_help = False
        self.unmatched: tuple[str, ...] = ()
        self._source = source
        self._layout = layout
        self._destination = destination
        self._orders = orders
        self._archive_store = archive
        self._archive: Archive | None = None
        self._takes_away = orders.delete_source or archive is not None
        self._only_there: set[str] = set()  # files whose rows that were put aside stand nowhere else: typed files have no lines that could be kept
        self._on_progress = on_progress
        self._rows = 0
        self._bytes = 0  # of files that are done with
        self._open: RowFile | None = None
        self._total_bytes = 0
        self._files: list[FileInfo] = []
        self._results: dict[str, FileResult] = {}

    def run(self) -> list[FileResult]:
        self._files = workers.call(self._chosen)
        with Unmatched(self._source, self._orders.base, self._orders.pattern, but=self._is_archived) as unmatched:
            self._run()
            self.unmatched = workers.call(unmatched.note)
        return [self._results[file.path] for file in self._files]

    def _run(self) -> None:
        waiting = workers.call(self._not_loaded)
        if self._orders.dry_run:
            return
        self._total_bytes = sum(file.size for file in waiting)
        if self._takes_away:  # after a run that ended between the commit and this
            workers.call(lambda: self._take_away(self._files))
        while waiting:
            waiting = self._load_alike(waiting)

    def _is_archived(self, file: FileInfo) -> bool:
        return self._archive is not None and self._archive.holds(file)

    def _chosen(self) -> list[FileInfo]:
        files = chosen(self._source, self._orders)
        if self._archive_store is None:
            return files
        base = self._orders.base
        self._archive = archive = Archive(self._source, self._archive_store, base, base_is_file=bool(base) and [file.path for file in files] == [base])
        return [file for file in files if not archive.holds(file)]

    def _not_loaded(self) -> list[FileInfo]:
        """Those that the destination does not remember in this version; of a replace all, unless none has changed."""
        urls = {file.path: self._source.url(file.path) for file in self._files}
        known = self._destination.loaded(list(urls.values()))
        found = {file.path: self._remembered(file, known.get(urls[file.path], ())) for file in self._files}
        is_anew = self._destination.is_replace and None in found.values()
        waiting = []
        for file in self._files:
            same = found[file.path]
            result = FileResult(self._destination.shown, file.size, None, None, "planned", source=urls[file.path])
            if same is None or (is_anew and not (self._takes_away and same.leaving is not None)):
                waiting.append(file)
            else:
                result = replace(result, state="already delivered", rows=same.rows)
                self._note_aside(file, same.rejected)
            self._results[file.path] = result
        return waiting

    def _remembered(self, file: FileInfo, versions: Sequence[LoadedFile]) -> LoadedFile | None:
        """What the destination remembers of this version.

        Under replace a file that comes again once its source was taken away is not the one that was loaded, even if its content is the same.
        """
        same = next((one for one in versions if one.version == file.version), None)
        came_again = self._destination.is_replace and same is not None and same.leaving not in {None, _written(file)}
        return None if came_again else same

    def _load_alike(self, files: Sequence[FileInfo]) -> list[FileInfo]:
        """Load those that have the columns of the first which can be opened, through one opened table; gives the others."""
        others: list[FileInfo] = []
        schema: pa.Schema | None = None
        try:
            schema = known = next((found for file in files if (found := self._schema_of(file)) is not None), None)
            if schema is None:
                return []
            with self._destination.open(schema, is_text=self._layout.is_text, survey=lambda: self._survey(files, known)) as table:
                for file in files:
                    if self._results[file.path].state == "planned" and not self._load(table, file, schema):
                        others.append(file)
                    self._go_on(file)
        except LeaseLost:
            raise
        except FerryError as error:
            if isinstance(error, ConfigurationError) and not any(result.state in DELIVERED for result in self._results.values()):
                raise
            return [*others, *self._failed_together(error, [file for file in files if file not in others], schema)]
        if self._destination.is_replace and self._takes_away:
            workers.call(lambda: self._take_away(files))
        return others

    def _failed_together(self, error: FerryError, files: Sequence[FileInfo], schema: pa.Schema | None) -> list[FileInfo]:
        """What becomes of files whose table could not be opened, or, under replace, not be committed; gives those that it does not concern."""
        if self._destination.is_replace:
            for file in files:
                if self._results[file.path].state != "failed":
                    self._fail(file, LoadFailed(_ANOTHER) if self._has_failed() else error)
            return []
        others = []
        for file in files:
            if self._results[file.path].state == "planned":
                if (found := self._schema_of(file)) is not None and found != schema:
                    others.append(file)
                elif found is not None:
                    self._fail(file, error)
        return others

    def _has_failed(self) -> bool:
        return any(result.state == "failed" for result in self._results.values())

    def _schema_of(self, file: FileInfo) -> pa.Schema | None:
        """The file's columns; None: it cannot be opened, and has failed."""
        try:
            with contextlib.ExitStack() as stack:
                return workers.call(lambda: stack.enter_context(self._layout.open(self._source, file))).schema
        except (LeaseLost, ConfigurationError):
            raise
        except FerryError as error:
            self._stumble(file, error)
            self._go_on(file)
            return None

    def _go_on(self, file: FileInfo) -> None:
        """Under replace the first failure ends the run, before anything is committed; else the file's rows are there now."""
        if self._destination.is_replace:
            if self._results[file.path].state == "failed":
                raise LoadFailed(_ANOTHER)
        elif self._takes_away:
            workers.call(lambda: self._take_away([file]))

    def _load(self, table: LoadsRows, file: FileInfo, schema: pa.Schema) -> bool:
        """Load one file; False, with nothing done, if it has other columns."""
        try:
            with contextlib.ExitStack() as stack:
                self._open = rows = workers.call(lambda: stack.enter_context(self._layout.open(self._source, file)))
                if not rows.schema.equals(schema):
                    if self._destination.is_replace:
                        raise SchemaMismatch(
                            f"{self._source.url(file.path)}: its columns are not those of the files before it, and all become one table together"
                        )
                    return False
                leaving = _written(file) if self._takes_away else None
                done = table.load(self._source.url(file.path), file.version, file.size, rows, self._passed, leaving=leaving)
        except LeaseLost:
            raise
        except FerryError as error:
            self._stumble(file, error)
        else:
            self._loaded(file, done)
        finally:
            self._open = None
        self._bytes += file.size
        return True

    def _loaded(self, file: FileInfo, done: tuple[int, int] | None) -> None:
        planned = self._results[file.path]
        if done is None:
            self._results[file.path] = replace(planned, state="already delivered")
            self._note_aside(file, self._remembered_aside(file))
            return
        loaded, aside = done
        self._note_aside(file, aside)
        if aside:
            url = self._source.url(file.path)
            self._destination.notes.append(f"{url}: {aside:,} row{'s were' if aside > 1 else ' was'} put aside in the table of rejected rows")
        self._results[file.path] = replace(planned, state="written", rows=loaded)

    def _remembered_aside(self, file: FileInfo) -> int:
        """How many rows of a file another run has put aside that loaded it a moment ago."""
        url = self._source.url(file.path)
        return sum(one.rejected for one in workers.call(lambda: self._destination.loaded([url])).get(url, ()))

    def _note_aside(self, file: FileInfo, count: int) -> None:
        if count and not self._layout.is_text:
            self._only_there.add(file.path)

    def _survey(self, files: Sequence[FileInfo], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Every row of every file of these columns, as text. A file that cannot be read to its end, or has no row that could be loaded, has failed."""
        for file in files:
            try:
                with contextlib.ExitStack() as stack:
                    rows = workers.call(lambda: stack.enter_context(self._layout.open(self._source, file)))  # noqa: B023 - called before the next one
                    if rows.schema.equals(schema):
                        yield from _texts(rows, self._source.url(file.path))
            except (LeaseLost, ConfigurationError):
                raise
            except FerryError as error:
                self._stumble(file, error)
                self._go_on(file)

    def _passed(self, rows: int) -> None:
        self._rows += rows

    def show(self) -> None:
        """Tell how far it is; called by every wait of the calling thread."""
        if self._on_progress is not None:
            done = sum(result.state != "planned" for result in self._results.values())
            read = self._bytes + (self._open.bytes_read if self._open is not None else 0)
            self._on_progress(Progress(self._rows, min(read, self._total_bytes), done, total_bytes=self._total_bytes, total_files=len(self._files)))

    def _stumble(self, file: FileInfo, error: FerryError) -> None:
        """The file has failed; one that changes while it is read is left for the next run, but a replace cannot do without it."""
        if isinstance(error, FileChanged) and not self._destination.is_replace:
            self._results[file.path] = replace(self._results[file.path], state="left", error=f"{error}; the next run takes it")
        else:
            self._fail(file, error)

    def _fail(self, file: FileInfo, error: FerryError) -> None:
        self.may_help = self.may_help or error.transient
        told = describe(error)
        self._results[file.path] = replace(self._results[file.path], rows=None, state="failed", error=told)

    def _take_away(self, files: Sequence[FileInfo]) -> None:
        """Delete or archive those whose rows are committed. Blocking."""
        for file in files:
            result = self._results[file.path]
            if result.state not in (*DELIVERED, "already delivered") or result.source_deleted:
                continue
            if self._archive is None and file.path in self._only_there:
                self._destination.notes.append(f"{self._source.url(file.path)} is kept: the values of rows that were put aside are only there")
                continue
            archived = None
            try:
                if self._archive is not None:
                    archived = self._archive.take(file)
                else:
                    self._source.delete(file)
            except FerryError as error:
                self.may_help = self.may_help or error.transient
                self._results[file.path] = replace(result, error=f"loaded, but its source is kept: {error}")
            else:
                self._results[file.path] = replace(result, source_deleted=True, archived=archived)


def _texts(rows: RowFile, url: str) -> Iterator[pa.RecordBatch]:
    """The rows of a file as text.

    Raises:
        LoadFailed: All its records are rejects.
    """
    count, first = 0, None
    for block in rows:
        batch = block.text()
        count += batch.num_rows
        first = first or next(iter(block.rejects), None)
        yield batch
    if first is not None and not count:
        raise LoadFailed(f"{url}: {rows.unit} {first.line:,}: {first.rule}; the file has no row that could be loaded")


def _written(file: FileInfo) -> str:
    """When the file was written, as its store says: tells one that comes again from one that a killed run left."""
    return "" if file.modified is None else file.modified.replace(microsecond=0).isoformat()
