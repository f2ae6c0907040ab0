"""Rows of a query into a table, in one transaction: all of them, or none.

    describe the query  →  make the table ready  →  run the query, cast, COPY batch by batch  →  mark, commit

The query is run only once the table is known to take its rows. It may read the very table that they go into: it sees the rows as they were before, and a
column is added when its transaction has ended, which would never make room for the lock that this takes.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from engine import workers
from engine.errors import FerryError, LeaseLost, SchemaMismatch
from engine.load_protocols import BatchBlock
from engine.results import FileResult, Progress, RunResult
from engine.routes.delivery import NullJournal
from engine.stops import note_delivered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from engine.load_protocols import LoadedFile, LoadsRows, RowBlock, RowDestination
    from engine.protocols import Journal, RowSource, RowStream
    from engine.results import FileState, RowsDescription


@dataclass(frozen=True, slots=True)
class Mark:
    """What a copy writes down in the transaction of its rows, so that somebody who comes after a kill knows whether they are there.

    Attributes:
        owner: Whose copies follow one another: `connector 7`. No two of one owner go into one table at once.
        run: Which of them; no other copy into that table, by whomever, has the same.
        reruns: Earlier runs of the owner whose good end nobody has recorded. If one of them is marked, its rows are there, and this run adds none.
    """

    owner: str
    run: str
    reruns: frozenset[str] = frozenset()

    @classmethod
    def single(cls) -> Self:
        """Of a copy that is nobody's run, and is repeated by nobody but who asks for it."""
        return cls(f"copy {uuid.uuid4()}", "1")


def copy(
    source: RowSource,
    destination: RowDestination,
    mark: Mark,
    *,
    dry_run: bool = False,
    journal: Journal | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Copy the rows of a query into a table.

    Args:
        source: Where rows come from; opened here.
        destination: The table.
        mark: Which copy this is.
        dry_run: Say what would be done.
        journal: The run's ledger, which is told what was committed.
        on_progress: Called in the calling thread several times a second.

    Returns:
        Rows, and the bytes of their record batches; one entry in `files`, the table, "already delivered" where an earlier run had committed (`Mark.reruns`).

    Raises:
        FerryError: No row was committed; the message begins with the end that it is about.
        BaseException: A signal; where it came while the rows were being committed, `engine.stops.delivered` tells the result.

    Example:
        >>> copy(PostgresSource(options), Loader(target), Mark.single())  # doctest: +SKIP
    """
    run = _Copying(source, destination, mark, on_progress)
    with workers.watching(run.show):
        if dry_run:
            return run.would()
        try:
            return run.run(journal or NullJournal())
        except FerryError:
            raise
        except BaseException as stop:  # a signal while the rows were being committed: what it stopped was delivered
            if (result := run.committed()) is not None:
                note_delivered(stop, result)
            raise


@contextlib.contextmanager
def _about(end: str) -> Iterator[None]:
    """Say which of two databases an error is about."""
    try:
        yield
    except LeaseLost:
        raise
    except FerryError as error:
        if not str(error).startswith(("source: ", "destination: ")):
            error.args = (f"{end}: {error}",)
        raise


class _Copying:
    """One copy.

    Attributes:
        described: What the query gives.
        notes: What a user should read.
    """

    described: RowsDescription

    def __init__(self, source: RowSource, destination: RowDestination, mark: Mark, on_progress: Callable[[Progress], None] | None) -> None:
        self.notes: list[str] = []
        self._started = time.monotonic()
        self._done: Literal["written", "replaced"] = "replaced" if destination.is_replace else "written"
        self._source = source
        self._destination = destination
        self._mark = mark
        self._on_progress = on_progress
        self._query: _QueryRows | None = None
        self._table: LoadsRows | None = None
        self._sent = 0

    def would(self) -> RunResult:
        """What would be done, by the server's own estimate."""
        self._describe()
        with _about("destination"):
            made = workers.call(lambda: self._destination.would(self.described.schema))
        estimated = self.described.estimated_rows
        self.notes += [made] if estimated is None else [made, f"about {estimated:,} rows would come from {self.described.where}, by the server's estimate"]
        reported = {} if estimated is None else {"estimated_rows": str(estimated)}
        return self._result("planned", None, reported=reported)

    def run(self, journal: Journal) -> RunResult:
        """Copy, and tell what has become of the table."""
        self._describe()
        self._load()
        result = self.committed()
        if result is None:
            return self._committed_before()
        workers.call(lambda: journal.record(self._destination.shown, self._done, rows=result.rows))
        return result

    def committed(self) -> RunResult | None:
        """What this run has committed; None: nothing."""
        if self._table is None or self._table.committed is None:
            return None
        rows, aside = self._table.committed
        if aside:
            self.notes.append(f"{aside:,} row{'s were' if aside > 1 else ' was'} put aside in the table of rejected rows")
        return self._result(self._done, rows)

    def _describe(self) -> None:
        with _about("source"):
            self.described = self._source.describe("exact")
        self.notes += self.described.notes

    def _load(self) -> None:
        """Commit the rows, unless an earlier run has committed its own."""
        schema, mark = self.described.schema, self._mark
        with _about("destination"), self._destination.open(schema, is_text=False, survey=lambda: ()) as self._table, contextlib.ExitStack() as stack:
            self._query = _QueryRows(self._source, self.described, stack)
            self._table.load(mark.owner, mark.run, 0, self._query, self._passed, origin=self.described.where, same=mark.reruns)

    def _committed_before(self) -> RunResult:
        marks = workers.call(lambda: self._destination.loaded([self._mark.owner])).get(self._mark.owner, ())
        earlier: LoadedFile = next(one for one in reversed(marks) if one.version in {self._mark.run, *self._mark.reruns})
        self.notes.append(
            f"{earlier.version} of {self._mark.owner} had committed its {earlier.rows:,} rows, though its record does not say so; lest they stand there twice, this "
            "run has added none, nor any that the query gives only since then (ferry run ID --redeliver copies all that it gives now)"
        )
        return self._result("already delivered", earlier.rows)

    def _result(self, state: FileState, rows: int | None, *, reported: dict[str, str] | None = None) -> RunResult:
        is_done = state == self._done
        size = self._query.bytes_read if self._query is not None and is_done else 0
        table = FileResult(self._destination.shown, size, rows, None, state, reported=reported or {}, source=self.described.where)
        notes = tuple(dict.fromkeys((*self.notes, *self._destination.notes)))
        return RunResult(rows or 0 if is_done else 0, size, time.monotonic() - self._started, self.described.schema, (table,), notes)

    def _passed(self, rows: int) -> None:
        self._sent += rows

    def show(self) -> None:
        """Tell how far it is; called by every wait of the calling thread."""
        if self._on_progress is not None and self._query is not None:
            self._on_progress(Progress(self._sent, self._query.bytes_read, 1, self.described.estimated_rows))


class _QueryRows:
    """The rows of a query as those of a file (`RowFile`): the query is run when somebody begins to read.

    Args:
        source: Where they come from.
        described: What it said of them before.
        stack: Ends the query when it is closed.
    """

    def __init__(self, source: RowSource, described: RowsDescription, stack: contextlib.ExitStack) -> None:
        self.schema: pa.Schema = described.schema
        self.unit = "row"
        self.bytes_read = 0
        self._source = source
        self._where = described.where
        self._stack = stack

    def __iter__(self) -> Iterator[RowBlock]:
        """Run the query in the thread that waits, so that an interrupt ends it; blocks may be taken in any other."""
        with _about("source"):
            stream = self._stack.enter_context(self._source.read("exact"))
            if not stream.reader.schema.equals(self.schema, check_metadata=True):
                raise SchemaMismatch(
                    f"{self._where}: the query has other columns than a moment ago (was a table altered meanwhile?); run it again", transient=True
                )
        return self._blocks(stream)

    def _blocks(self, stream: RowStream) -> Iterator[RowBlock]:
        first = 1
        with _about("source"):
            for batch in stream.reader:
                self.bytes_read += batch.nbytes
                yield BatchBlock(batch, first)
                first += batch.num_rows
