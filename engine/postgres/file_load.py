"""A load that is open, and the files in it: each one transaction, or all of them together when they replace the table."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.errors import FerryError, LoadFailed
from engine.postgres.bookkeeping import BOOKKEEPING, Bookkeeping
from engine.postgres.contract import FILLED_BY_DLT, plan
from engine.postgres.destination_options import SOURCE_FILE
from engine.postgres.load_ledger import LoadLedger, lock_key
from engine.postgres.rejected import Rejected
from engine.postgres.session import identifier, literal
from engine.postgres.staging import Staging, merge
from engine.postgres.table import read_table
from engine.results import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.postgres.columns import Column
    from engine.postgres.contract import Plan
    from engine.postgres.dataset import Dataset
    from engine.postgres.destination_options import PostgresDestinationOptions
    from engine.postgres.load_ledger import FileIdentity, Loaded
    from engine.postgres.session import Session
    from engine.postgres.staging import Refused
    from engine.postgres.table import Table


class Load:
    """A table that files are loaded into, one after the other.

    Attributes:
        columns: The table's column for each wanted one, in their order. One that is `generated` is not sent.
        notes: What a user should read in the summary.
        committed: Whether everything that was written is, also where whoever waited for it was interrupted meanwhile.
    """

    def __init__(
        self, session: Session, wanted: Sequence[Column], planned: Plan, options: PostgresDestinationOptions, *, folder: Path, run: str | None
    ) -> None:
        """For `PostgresDestination.open`."""
        self.columns = planned.columns
        self.notes = list(planned.notes)
        self.committed = False
        self._session = session
        self._folder = folder
        self._wanted = wanted
        self._plan = planned
        self._options = options
        self._run = run
        self._ledger = LoadLedger(options.table_schema, options.table)
        self._bookkeeping = Bookkeeping(session, options.table_schema, self._ledger, self._make_bookkeeping)
        self._rejected = Rejected(options.table_schema, options.table)
        self._target = identifier(options.table_schema, options.table)
        self._synchronised = False  # whether dlt has made or described the table
        self._standing = False  # whether that is committed
        self._alters = False  # whether a table that stood before gets new columns
        self._staged: list[FileLoad] = []  # of a replace that does
        self._replacing: str | None = None  # the load id of the one transaction of a replace
        self._broken = False

    @contextlib.contextmanager
    def file(self, file: FileIdentity) -> Iterator[FileLoad]:
        """Load one file: what is written within the block is committed when it ends, with the ledger's row, or not at all.

        Under `replace` the commit comes when the load itself ends, for all its files.

        Raises:
            LoadFailed: The file was loaded before with other content (`on_changed_file: fail`), or the database refused.
            ResourceError: Disk full, permission.
        """
        if self._broken:
            raise LoadFailed(f"the load into {self._options.shown} has ended: an earlier file of it failed, or it was interrupted")
        try:
            one = self._session.call(lambda: self._begin(file))
            yield one
            self._session.call(lambda: self._end(one))
        except BaseException:
            self._undo()
            raise

    def finish(self) -> None:
        """Commit a replace; the other dispositions have committed each file."""
        load_id = self._replacing
        if load_id is None:
            return
        if self._broken:
            raise LoadFailed(f"replacing {self._options.shown}: a file failed, so the table stays as it was")
        self._session.what = f"replacing {self._options.shown}"
        self._session.call(lambda: self._commit(load_id, self._staged))

    def leave(self) -> None:
        """Leave the database as it was, if nothing was loaded; one that was interrupted leaves empty tables beside it."""
        if not self._standing and self._session.settle():
            self._session.what = f"loading into {self._options.shown}"
            with contextlib.suppress(FerryError):
                self._session.call(self._bookkeeping.take_back)

    # What follows runs in worker threads.

    @functools.cached_property
    def _dataset(self) -> Dataset:
        from engine.postgres.dataset import Dataset  # imports dlt

        return Dataset(self._session, schema=self._options.table_schema, table=self._options.table, folder=self._folder)

    def _make_bookkeeping(self) -> None:
        self._dataset.sync()

    def _begin(self, file: FileIdentity) -> FileLoad:
        from engine.postgres.dataset import new_load_id

        self.committed = False
        load_id = self._replacing or new_load_id()
        if self._replacing is None:
            self._session.begin()
            if not self._standing:
                self._session.what = f"making the tables {', '.join(BOOKKEEPING)} in schema {self._options.table_schema}"
                self._bookkeeping.ensure()
                self._make_table()
        self._session.what = f"loading {printable(file.origin)} into {self._options.shown}"
        if self._replacing is None and self._options.write_disposition == "replace":
            self._empty_table()
            self._replacing = load_id
        earlier = self._earlier(file)
        if earlier is None and not self._ledger.claim(self._session, file, load_id, self._run):
            raise LoadFailed(f"{printable(file.origin)} is loaded twice in one load into {self._options.shown}")
        return FileLoad(self._session, self._options, self._plan, file, load_id, earlier, self._rejected, alters=self._alters)

    def _make_table(self) -> None:
        """Look at the table again, and have dlt make one that is not there, under a lock that others who would do so wait for."""
        session = self._session
        session.what = f"making {self._options.shown}"
        table = read_table(session.fetch, self._options.table_schema, self._options.table)
        if table is None:
            table = self._locked_table()
        self._replan(table)
        self._alters = table is not None and bool(self._plan.added)
        if table is None:
            self._ledger.forget(session)  # of a table of this name that somebody has dropped, with its rows
            self._synchronise()

    def _locked_table(self) -> Table | None:
        options = self._options
        self._session.execute(f"SELECT pg_advisory_xact_lock({lock_key(options.table_schema, options.table)})")
        return read_table(self._session.fetch, options.table_schema, options.table)

    def _replan(self, table: Table | None) -> None:
        self._plan = plan(self._wanted, table, self._options)
        if self._plan.columns != self.columns:
            raise LoadFailed(f"{self._options.shown} was made or altered by somebody else meanwhile; run the load again", transient=True)

    def _synchronise(self) -> None:
        self._dataset.sync(self._plan.all_columns, disposition=self._options.write_disposition, key=self._options.primary_key)
        self._synchronised = True

    def _describe_table(self) -> None:
        """Have dlt describe a table that stood before, and add the columns that it lacks: last of all, since that shuts out readers until the commit.

        Whoever adds none takes no lock, for it would wait with the table's rows in hand for one who waits for the table.
        """
        if not self._synchronised:
            options = self._options
            self._replan(self._locked_table() if self._alters else read_table(self._session.fetch, options.table_schema, options.table))
            self._synchronise()

    def _empty_table(self) -> None:
        """Delete, not TRUNCATE: readers see the old rows until the commit and never wait; nobody else writes meanwhile."""
        session = self._session
        session.execute(f"LOCK TABLE {self._target} IN SHARE ROW EXCLUSIVE MODE; SET CONSTRAINTS ALL DEFERRED")
        session.execute(f"DELETE FROM {self._target}")  # noqa: S608 - quoted
        self._ledger.forget(session)
        self._rejected.forget(session, None)

    def _earlier(self, file: FileIdentity) -> Loaded | None:
        """The ledger's row if that very version is loaded; else what `on_changed_file` says about other versions is done."""
        if self._options.write_disposition == "replace":
            return None
        self._ledger.lock(self._session, file.path)
        before = self._ledger.loaded(self._session.fetch, [file.path])
        same = next((one for one in before if file.is_version(one.version)), None)
        if same is not None or not before:
            return same
        if self._options.changed_file == "fail":
            raise LoadFailed(
                f"{printable(file.origin)} was loaded into {self._options.shown} on {before[-1].loaded_at:%Y-%m-%d %H:%M} as another version (size, time or ETag differ); "
                "on_changed_file decides what to do: reload (its earlier rows go), append (they stay)"
            )
        if self._options.changed_file == "reload":
            self._remove(file)
        return None

    def _remove(self, file: FileIdentity) -> None:
        """Take back what an earlier version of the file brought. A merge has nothing to take back: the file's rows replace those of their keys."""
        if self._options.write_disposition == "append":
            self._session.execute(f"DELETE FROM {self._target} WHERE {identifier(SOURCE_FILE)} = {literal(file.path)}")  # noqa: S608 - quoted
        self._ledger.forget(self._session, path=file.path)
        self._rejected.forget(self._session, file.path)

    def _end(self, one: FileLoad) -> None:
        if one.earlier is not None:
            self._session.rollback()
            self._forget_made()
            return
        self._ledger.complete(self._session, one.file, rows=one.rows, rejected=one.rejected)
        if self._replacing is None:
            self._commit(one.load_id, [one])
        elif self._alters:
            self._staged.append(one)
        else:
            one.complete(self._dataset)

    def _commit(self, load_id: str, files: Sequence[FileLoad]) -> None:
        self._describe_table()
        for one in files:
            one.complete(self._dataset)
        self._dataset.complete(load_id)
        self._session.commit()
        self.committed = self._standing = True
        self._alters = False

    def _forget_made(self) -> None:
        """What was made in a transaction that was taken back is not there."""
        self._synchronised = self._standing

    def _undo(self) -> None:
        """Take the file's transaction back; one that was interrupted ends with its connection."""
        if self._replacing is not None or not self._session.settle():
            self._broken = True
            return
        self._forget_made()
        with contextlib.suppress(FerryError):
            self._session.call(self._session.rollback)


class FileLoad:
    """One file on its way into the table.

    Attributes:
        file: Which.
        load_id: dlt's id of its load.
        earlier: The ledger's row if that very version of the file is loaded already, perhaps a moment ago by another run: nothing is to be written.
        rows: Rows written so far.
        rejected: Rows put aside so far.
    """

    def __init__(
        self,
        session: Session,
        options: PostgresDestinationOptions,
        planned: Plan,
        file: FileIdentity,
        load_id: str,
        earlier: Loaded | None,
        rejected: Rejected,
        *,
        alters: bool,
    ) -> None:
        """For `Load.file`."""
        self.file = file
        self.load_id = load_id
        self.earlier = earlier
        self.rows = 0
        self.rejected = 0
        self._session = session
        self._options = options
        self._plan = planned
        self._rejected = rejected
        self._waits = alters or options.write_disposition == "merge"  # whether the rows stay apart until the file has ended
        self._names: tuple[str, ...] | None = None
        self._stagings: dict[frozenset[str], Staging] = {}

    def write(self, reader: pa.RecordBatchReader, by_server: Mapping[str, str] | None = None, on_refused: Callable[[list[Refused]], None] | None = None) -> int:
        """Send batches into the table; may be called again for more of the same file. Blocking, interruptible, callable from any thread.

        Args:
            reader: Columns named as in `Load.columns`, without generated ones, of the types that `adbc_ingest` stores exactly (`Caster.target`).
                An exception that it raises comes out as it is.
            by_server: Of each column that comes as text and is cast by the server (`Caster.by_server`): the SQL that does (`Caster.expression` of the
                quoted name). They may be others in the next call.
            on_refused: Told, in the calling thread, of the rows of this call that the server would not cast, which are left out; it may raise, and
                it may call `reject`. Without it, or before PostgreSQL 16, such a row fails the file, and nobody can say which row it is.

        Returns:
            Rows that will be stored.
        """
        self._check(tuple(reader.schema.names))
        staging = self._session.call(lambda: self._staging(by_server or {}))
        rows, refused = self._session.call(lambda: self._write(reader, staging, ask=on_refused is not None))
        if refused and on_refused is not None:
            on_refused(refused)
        if staging is not None and not self._waits:
            self._session.call(staging.insert)
        self.rows += rows - len(refused)
        return rows - len(refused)

    def reject(self, rows: pa.RecordBatch) -> None:
        """Put rows aside in `<table>__rejected` (columns as in `rejected.ROWS`), in the file's transaction; not while a `write` runs."""
        if rows.num_rows:
            self._session.call(lambda: self._rejected.write(self._session, rows, self.file, self.load_id))
            self.rejected += rows.num_rows

    @property
    def _target(self) -> str:
        return identifier(self._options.table_schema, self._options.table)

    def _check(self, names: tuple[str, ...]) -> None:
        if self.earlier is not None:
            raise LoadFailed(f"{printable(self.file.origin)} is loaded already")
        known = {column.name for column in self._plan.columns if not column.generated}
        strange = [name for name in names if name not in known]
        if strange or (self._names or names) != names:
            raise LoadFailed(f"{printable(self.file.origin)}: batches with other columns than announced ({', '.join(strange or names)})")
        self._names = names

    # What follows runs in worker threads.

    def _staging(self, by_server: Mapping[str, str]) -> Staging | None:
        """What such rows pass through; None: they go straight into the table."""
        if not (self._waits or by_server):
            return None
        kind = frozenset(by_server)
        if kind not in self._stagings:
            columns = {column.name: column for column in self._plan.all_columns}
            sent = [columns[name] for name in (*(self._names or ()), *self._plan.filled)]
            self._stagings[kind] = Staging(self._session, self._target, sent, by_server)
        return self._stagings[kind]

    def _write(self, reader: pa.RecordBatchReader, staging: Staging | None, *, ask: bool) -> tuple[int, list[Refused]]:
        reader = self._filled(reader)
        if staging is None:
            return self._session.ingest(reader, self._options.table, self._options.table_schema), []
        rows = staging.ingest(reader)
        return rows, staging.refuse(rows) if ask else []

    def complete(self, dataset: Dataset) -> None:
        """Merge or append what was staged; blocking. For `Load`."""
        stagings = list(self._stagings.values())
        if stagings and self._options.write_disposition == "merge":
            merge(self._session, self._target, stagings, dataset, self._options.primary_key)
        for one in stagings:
            if self._waits and self._options.write_disposition != "merge":
                one.insert()
            one.drop()

    def _filled(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """Add the columns that dlt gave a table of its own rows: the load's id, and an id for each row."""
        if not self._plan.filled:
            return reader
        load_id, row_id = (name in self._plan.filled for name in FILLED_BY_DLT)
        schema = pa.schema([*reader.schema, *(pa.field(name, pa.string()) for name in self._plan.filled)])

        def batches() -> Iterator[pa.RecordBatch]:
            first = self.rows
            for batch in reader:
                added = [pa.array([self.load_id] * batch.num_rows)] if load_id else []
                added += [pa.array([f"{self.load_id}.{first + i}" for i in range(batch.num_rows)])] if row_id else []
                first += batch.num_rows
                yield pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema)

        return pa.RecordBatchReader.from_batches(schema, batches())
