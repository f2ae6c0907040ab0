"""Rows of files into a table: the table's columns found or inferred, every value cast to its column's exact type, rows that cannot be put aside or refused.

What a block of a file goes through:

    parsed straight to the columns' types  →  cast  →  refused rows taken out  →  `adbc_ingest`
    (one value in no plain form: as text)      (a value that only the server takes: from here on that column goes as text)
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from engine import workers
from engine.errors import IntegrityError, LoadFailed, SchemaMismatch
from engine.postgres.ahead import ahead
from engine.postgres.casting import NULL_IN_NOT_NULL, caster, check_way, first_rules
from engine.postgres.columns import Column
from engine.postgres.contract import check_number, check_twice, snake_case
from engine.postgres.destination import PostgresDestination
from engine.postgres.destination_options import LOADED_AT, SOURCE_FILE
from engine.postgres.inference import Inference, columns_of
from engine.postgres.load_ledger import FileIdentity, Loaded
from engine.postgres.rejected import ROWS
from engine.postgres.session import identifier
from engine.results import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from engine.load_protocols import RowBlock, RowFile
    from engine.postgres.casting import Caster
    from engine.postgres.destination_options import PostgresDestinationOptions
    from engine.postgres.file_load import FileLoad, Load
    from engine.postgres.staging import Refused

BLOCKS_HELD = 4
"""Where the server casts, so many blocks are sent at a time and kept until it has said which of their rows it refuses."""
_SHOWN = 3
_MOST_BAD = 10_000  # rows that wait to be put aside: then what was sent so far is ended first


@dataclass(frozen=True, slots=True)
class Wanted:
    """A column that is sent.

    Attributes:
        column: Its name in the table, and its type as far as it is known before the table is planned.
        source: The file's column; None: filled by us.
    """

    column: Column
    source: str | None


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that was not loaded."""

    line: int
    column: str | None
    rule: str
    raw: bytes | None


class Loader:
    """A table as the route sees it (`RowDestination`).

    Args:
        options: The destination.
        run: Names the run in the ledger.
    """

    def __init__(self, options: PostgresDestinationOptions, *, run: str | None = None) -> None:
        self.notes: list[str] = []
        self.is_replace = options.write_disposition == "replace"
        self.shown = f"{options.where} {options.shown}"
        self._options = options
        self._destination = PostgresDestination(options, run=run)

    def url(self, path: str) -> str:
        """The table, whatever the file."""
        del path
        return self.shown

    def standing(self) -> tuple[Column, ...] | None:
        """The table's columns; None: there is none yet. Blocking."""
        return self._destination.standing()

    def loaded(self, paths: Iterable[str]) -> Mapping[str, tuple[Loaded, ...]]:
        """What the ledger knows of these files. Blocking."""
        return self._destination.loaded(paths)

    def would(self, schema: pa.Schema) -> str:
        """What `open` would do to the table for typed rows of this schema. Blocking; raises as `open`."""
        wanted = _with_own_types(self._wanted(schema), schema)
        planned = self._destination.plan([one.column for one in wanted])
        _check_ways(wanted, planned.columns, schema)
        made = ", ".join(f"{column.name} {column.type}" for column in planned.added)
        if not planned.standing:
            return f"would make {self._options.shown} ({made})"
        return f"would add to {self._options.shown}: {made}" if made else f"{self._options.shown} has all columns already"

    @contextlib.contextmanager
    def open(self, schema: pa.Schema, *, is_text: bool, survey: Callable[[], Iterable[pa.RecordBatch]]) -> Iterator[OpenLoader]:
        """Plan the table for files of this schema; under replace everything is committed when the block ends.

        Args:
            schema: Of the files; all text where they have no types.
            is_text: Whether types are to be found.
            survey: Gives every row of every file as text; asked only if a type cannot be known otherwise, and read to its end.

        Raises:
            SchemaMismatch: The files' columns do not go into the table.
        """
        wanted = self._wanted(schema)
        check_number(len(wanted), self._options)
        wanted = self._with_types(wanted, survey) if is_text else _with_own_types(wanted, schema)
        with self._destination.open([one.column for one in wanted]) as load:
            if not is_text:
                _check_ways(wanted, load.columns, schema)
            yield OpenLoader(load, wanted, self._options)
        self.notes += [note for note in load.notes if note not in self.notes]

    def _wanted(self, schema: pa.Schema) -> list[Wanted]:
        """What `columns` says, else every column of the file."""
        check_twice(schema.names)
        asked = self._options.columns
        if asked is None:
            return [Wanted(Column(name, ""), name) for name in schema.names]
        missing = [one.source for one in asked.named if one.source is not None and one.source not in schema.names]
        if missing:
            raise SchemaMismatch(f"'columns' takes {missing[0]!r}, and there is no such column; there are {', '.join(map(repr, schema.names))}")
        named = [Wanted(Column(one.name, one.type or "", one.nullable), one.source) for one in asked.named]
        taken = {one.source for one in named}
        others = [name for name in schema.names if name not in taken]
        if asked.rest:
            return named + [Wanted(Column(name, ""), name) for name in others]
        if others:
            self.notes.append(f"not loaded, since 'columns' does not name them: {', '.join(map(repr, others))}")
        return named

    def _with_types(self, wanted: list[Wanted], survey: Callable[[], Iterable[pa.RecordBatch]]) -> list[Wanted]:
        """The types of text: as `columns` says, as the table has them, else what holds every value of every file."""
        standing = {column.name for column in workers.call(self._destination.standing) or ()}
        unknown = dict.fromkeys(one for one in wanted if not one.column.type and one.source is not None and not _stands(one.column.name, standing))
        if not unknown:
            return wanted
        inference, rows = Inference(), 0
        names = [one.source for one in unknown]
        for batch in survey():
            inference.add(batch.select(names))
            rows += batch.num_rows
        if not rows and not standing:
            raise LoadFailed(f"the files hold no rows, so nobody can tell the types of a new table {self._options.shown}; give 'columns', or make the table")
        found = {column.name: column.type for column in inference.columns()}
        self.notes.append("types found by reading every value: " + ", ".join(f"{one.column.name} {found.get(str(one.source), 'text')}" for one in unknown))
        return [replace(one, column=replace(one.column, type=found.get(str(one.source), "text"))) if one in unknown else one for one in wanted]


def _stands(name: str, standing: set[str]) -> bool:
    """Whether the table has the column, by its name or as dlt would write it."""
    return name in standing or (bool(standing) and snake_case(name) in standing)


def _with_own_types(wanted: list[Wanted], schema: pa.Schema) -> list[Wanted]:
    """The types of typed files, where `columns` says no other."""
    named = [one.source for one in wanted if one.source is not None and not one.column.type]
    own = {column.name: column.type for column in columns_of(pa.schema([schema.field(name) for name in named]))}
    return [replace(one, column=replace(one.column, type=one.column.type or own.get(str(one.source), ""))) for one in wanted]


def _check_ways(wanted: Sequence[Wanted], columns: Sequence[Column], schema: pa.Schema) -> None:
    for one, column in zip(wanted, columns, strict=True):
        if one.source is not None and not column.generated:
            check_way(column, schema.field(one.source))


class OpenLoader:
    """A table that is ready for files (`LoadsRows`)."""

    def __init__(self, load: Load, wanted: Sequence[Wanted], options: PostgresDestinationOptions) -> None:
        self._load = load
        self._options = options
        self._file: FileLoad | None = None
        self._sent = [(one, column) for one, column in zip(wanted, load.columns, strict=True) if not column.generated]

    @property
    def committed(self) -> tuple[int, int] | None:
        """Rows loaded and put aside of the last file, once they are committed."""
        return (self._file.rows, self._file.rejected) if self._file is not None and self._load.committed else None

    def load(
        self,
        path: str,
        version: str,
        size: int,
        rows: RowFile,
        on_rows: Callable[[int], None],
        *,
        leaving: str | None = None,
        origin: str | None = None,
        same: frozenset[str] = frozenset(),
    ) -> tuple[int, int] | None:
        """Load one file; its rows stand in the table, or none of them does.

        Args:
            path: The file, as people find it again.
            version: Tells its content from any other.
            size: In bytes.
            rows: What it holds.
            on_rows: Told rows as they are sent, in another thread.
            leaving: See `FileIdentity`.
            origin: See `FileIdentity`.
            same: See `FileIdentity`.

        Returns:
            Rows loaded and rows put aside; None: that version is loaded already.

        Raises:
            LoadFailed: A row that cannot be loaded (named by line, column and rule), or the database refused.
        """
        with self._load.file(FileIdentity(path, version, size, leaving, origin or path, same)) as file:
            if file.earlier is not None:
                return None
            self._file = file
            _FileRows(file, self._sent, self._options, rows, on_rows).load()
            return file.rows, file.rejected


class _FileRows:
    """The rows of one file on their way."""

    def __init__(
        self,
        file: FileLoad,
        sent: Sequence[tuple[Wanted, Column]],
        options: PostgresDestinationOptions,
        rows: RowFile,
        on_rows: Callable[[int], None],
    ) -> None:
        self._file = file
        self._options = options
        self._rows = rows
        self._on_rows = on_rows
        self._columns = [(wanted, column) for wanted, column in sent]
        self._fixed = {SOURCE_FILE: pa.scalar(file.file.origin), LOADED_AT: pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC"))}
        self._casters = [self._caster(wanted, column) for wanted, column in self._columns]
        self._bad: list[Bad] = []
        self._named: list[Bad] = []  # the first ones of those that were put aside, for the message of a file that has too many
        self._taken = 0  # rows of the file, good and bad
        self._held: list[tuple[RowBlock, pa.Array]] = []  # blocks of this write, and which of their rows were sent

    def load(self) -> None:
        blocks = iter(self._rows)
        again: deque[RowBlock] = deque()
        done = False
        while not done:
            by_server = {one.column.name: one.expression(identifier(one.column.name)) for one in self._casters if one.by_server}
            state = _Sending()
            schema = pa.schema([(one.column.name, one.target) for one in self._casters])
            batches = ahead(self._batches(blocks, again, state, most=BLOCKS_HELD if by_server else None))
            try:
                self._file.write(pa.RecordBatchReader.from_batches(schema, batches), by_server, self._refused if by_server else None)
            finally:
                with contextlib.suppress(ValueError):  # after an interruption the thread that reads them may still be at it, and ends with them
                    batches.close()
            self._held.clear()
            self._put_aside()
            done = state.at_end
        self._check_limit(at_end=True)
        counted = self._file.rows + self._file.rejected
        if counted != self._taken:
            raise IntegrityError(f"{printable(self._file.file.origin)}: {self._taken:,} rows came, but {counted:,} went on; nothing of it was committed")

    def _caster(self, wanted: Wanted, column: Column, *, by_server: bool = False) -> Caster:
        given = self._rows.schema.field(wanted.source).type if wanted.source is not None else self._fixed[wanted.column.name].type
        return caster(column, given, by_server=by_server)

    def _batches(self, blocks: Iterator[RowBlock], again: deque[RowBlock], state: _Sending, *, most: int | None) -> Iterator[pa.RecordBatch]:
        """Cast batches, until the file ends, enough blocks are held, or a column must go by the server from here on."""
        plain = pa.schema([(name, kind) for name, kind in zip(self._rows.schema.names, self._plain(), strict=True)])
        sent = 0
        while (most is None or sent < most) and len(self._bad) < _MOST_BAD:
            block = again.popleft() if again else next(blocks, None)
            if block is None:
                state.at_end = True
                return
            batch = self._cast(block, plain, hold=most is not None)
            if batch is None:
                again.append(block)
                return
            sent += 1
            self._on_rows(batch.num_rows)
            yield batch

    def _plain(self) -> list[pa.DataType]:
        """For each column of the file the type to which it may be parsed at once."""
        kinds = dict.fromkeys(self._rows.schema.names, pa.string())
        for (wanted, _), one in zip(self._columns, self._casters, strict=True):
            if wanted.source is not None and one.plain is not None:
                kinds[wanted.source] = one.plain
        return list(kinds.values())

    def _cast(self, block: RowBlock, plain: pa.Schema, *, hold: bool) -> pa.RecordBatch | None:
        """The block's rows as they are sent; None: the casters have changed, and it must be cast again."""
        batch = block.typed(plain)
        if batch is None:
            batch = block.text()
        casts = [one.cast(self._values(wanted, batch)) for (wanted, _), one in zip(self._columns, self._casters, strict=True)]
        if any(cast.needs_server for cast in casts):
            self._casters = [
                self._caster(wanted, column, by_server=True) if cast.needs_server else one
                for (wanted, column), one, cast in zip(self._columns, self._casters, casts, strict=True)
            ]
            return None
        self._taken += batch.num_rows + len(block.rejects)
        self._bad += [Bad(reject.line, None, reject.rule, reject.raw) for reject in block.rejects]
        refused = first_rules(casts)
        made = pa.RecordBatch.from_arrays([cast.values for cast in casts], names=[one.column.name for one in self._casters])
        good: pa.Array | None = None
        if refused:
            self._bad += [Bad(block.line(row), self._casters[at].column.name, rule, block.raw(row)) for row, (at, rule) in sorted(refused.items())]
            good = pa.array([row for row in range(made.num_rows) if row not in refused], pa.int64())
            made = made.take(good)
        if self._bad:
            self._check_limit(at_end=False)
        if hold:
            self._held.append((block, good if good is not None else pa.array(range(made.num_rows), pa.int64())))
        return made

    def _values(self, wanted: Wanted, batch: pa.RecordBatch) -> pa.Array:
        if wanted.source is None:
            return pa.repeat(self._fixed[wanted.column.name], batch.num_rows)
        return batch.column(batch.schema.get_field_index(wanted.source))

    def _refused(self, refused: list[Refused]) -> None:
        """Rows that the server would not cast, by their number in this write."""
        places = [(block, int(row)) for block, good in self._held for row in good.to_pylist()]
        for one in refused:
            block, row = places[one.row]
            self._bad.append(Bad(block.line(row), one.column.name, f"not a value of {one.column.type}", block.raw(row)))
        self._check_limit(at_end=False)

    def _check_limit(self, *, at_end: bool) -> None:
        """Whether the file fails because of its bad rows.

        Raises:
            LoadFailed: It does.
        """
        count = len(self._bad) + self._file.rejected
        if not count:
            return
        if self._options.on_bad_row == "fail":
            first = min(self._bad, key=lambda bad: bad.line)
            type_may_help = first.column is not None and first.rule != NULL_IN_NOT_NULL
            remedy = f", ALTER TABLE {self._options.shown} or, for a new table, 'columns' gives the column another type" if type_may_help else ""
            raise LoadFailed(f"{self._told(first)}; nothing of it was loaded (on_bad_row quarantine puts such rows aside{remedy})")
        limit = self._options.max_bad_rows
        most = limit.most(of=self._taken) if at_end or limit.count is not None else None
        if most is not None and count > most:
            named = "; ".join(self._told(bad) for bad in _first([*self._named, *self._bad]))
            raise LoadFailed(
                f"{printable(self._file.file.origin)}: {count:,} of {self._taken:,} rows cannot be loaded, more than max_bad_rows lets be put aside ({most:,}); "
                f"nothing of it was loaded: {named}"
            )

    def _told(self, bad: Bad) -> str:
        column = f", column {bad.column!r}" if bad.column is not None else ""
        return f"{printable(self._file.file.origin)}: {self._rows.unit} {bad.line:,}{column}: {bad.rule}"

    def _put_aside(self) -> None:
        bad, self._bad = self._bad, []
        self._named = _first([*self._named, *bad])
        if bad:
            rows = [{"line": one.line, "column_name": one.column, "rule": one.rule, "raw": one.raw} for one in bad]
            self._file.reject(pa.RecordBatch.from_pylist(rows, schema=ROWS))


def _first(bad: list[Bad]) -> list[Bad]:
    """Those that a message names."""
    return sorted(bad, key=lambda one: one.line)[:_SHOWN]


@dataclass(slots=True)
class _Sending:
    """How a write ended."""

    at_end: bool = False
