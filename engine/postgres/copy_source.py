"""PostgreSQL's rows without the ADBC driver (`reader: copy`): COPY BINARY made Arrow by compiled code, or CSV that the server writes itself.

Planning, type rules, errors and readers' turns are those of `source.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from engine import stages, workers
from engine.errors import IntegrityError
from engine.postgres import batches, copy_connection, copy_lines, copy_plan
from engine.postgres.copy_reader import CopyReader
from engine.postgres.reader import Delivery
from engine.postgres.source import PostgresSource, Stream

if importlib.util.find_spec("numba") is None:  # imported when the decoder is compiled, once
    raise ModuleNotFoundError("numba is missing", name="numba")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import psycopg

    from engine.postgres.copy_batch import Batch
    from engine.postgres.copy_binary import Decoder
    from engine.postgres.copy_plan import CopyPlan
    from engine.postgres.plan import Plan
    from engine.postgres.source_options import PostgresSourceOptions
    from engine.protocols import CsvDialect, Form, Lines

# For the whole process, since conversions and the Parquet writer must use it too. Measured with 1.8 M rows of lineitem into Parquet, against pyarrow's
# own allocator, interleaved: 400 against 470 MB, and no more CPU.
pa.set_memory_pool(pa.system_memory_pool())


class CopySource(PostgresSource):
    """The rows of one query (`RowSource`), or its CSV (`EncodesItself`).

    Example:
        >>> source = CopySource(PostgresSourceOptions(query="SELECT 1 AS one", host="localhost", reader="copy"))  # doctest: +SKIP
        >>> with source.read() as stream:  # doctest: +SKIP
        ...     table = stream.reader.read_all()
    """

    @contextlib.contextmanager
    def read_encoded(self, dialect: Callable[[pa.Schema], CsvDialect]) -> Iterator[EncodedStream]:
        r"""Check and describe the query, then stream the CSV that the server writes, from one snapshot.

        The values are those of `read("text")`; the lines are `\copy`'s, which quotes only what must be. Raises as `read` does.
        """
        with stages.current().busy("planning"):
            plan, readers, notes = workers.call(lambda: self._plan("text"))
        with EncodedStream(self._options, copy_plan.printed(cast("CopyPlan", plan)), readers, notes, dialect(plan.schema)) as stream:
            yield stream

    def _stream(self, plan: Plan, readers: int, notes: list[str]) -> Stream:
        return CopyStream(self._options, cast("CopyPlan", plan), readers, notes)

    def _planned(self, connection: psycopg.Connection[Any], form: Form) -> CopyPlan:
        return copy_plan.in_binary(super()._planned(connection, form), copy_connection.address(connection, self._options))


class CopyStream(Stream):
    """Rows on their way (`RowStream`), by COPY BINARY."""

    budget = 16 << 20  # less than by ADBC: llvmlite has taken 50 MB already

    def _reader(self) -> CopyReader:
        plan = cast("CopyPlan", self._plan)
        return CopyReader(self._options, plan, Binary(plan))


class Binary:
    """COPY BINARY, which becomes record batches (`Layout`)."""

    options: Mapping[str, Any] = {"format": "binary"}
    is_counted = True
    nap_seconds = 0.005  # 6 M rows of lineitem into Parquet take 2 % less time than by 1 ms

    def __init__(self, plan: CopyPlan) -> None:
        from engine.postgres import copy_batch, copy_binary

        self._plan = plan
        self._decoder = copy_binary.Decoder
        self._unfit = copy_batch.UnfitColumn
        self._batches = copy_batch.BatchPlan([copy_plan.delivered(rule) for rule in plan.rules] + [pa.bool_()] * len(plan.shape_checks))

    def collector(self) -> BinaryCollector:
        """See `Layout`."""
        return BinaryCollector(self._decoder(self._batches), self._batch)

    def _batch(self, batch: Batch) -> pa.RecordBatch:
        try:
            columns = batch.columns()
        except self._unfit as found:
            raise batches.UnfitRow(self._plan, found.column, found.unfit.index, found.unfit.why) from None
        return batches.convert(self._plan, pa.RecordBatch.from_arrays(columns, names=[""] * len(columns)))


class BinaryCollector:
    """Pieces of COPY BINARY → batches (`Collector`)."""

    def __init__(self, decoder: Decoder, convert: Callable[[Batch], pa.RecordBatch]) -> None:
        self._decoder = decoder
        self._convert = convert

    @property
    def ended(self) -> bool:
        """See `Collector`."""
        return self._decoder.ended

    def feed(self, piece: bytes) -> Iterator[Delivery]:
        """See `Collector`."""
        return map(self._delivery, self._decoder.feed(piece))

    def end(self) -> Iterator[Delivery]:
        """See `Collector`."""
        return map(self._delivery, self._decoder.end())

    def _delivery(self, batch: Batch) -> Delivery:
        return Delivery(batch.rows, batch.size, partial(self._convert, batch))


class EncodedStream(Stream):
    """The server's CSV on its way (`protocols.EncodedStream`)."""

    budget = 16 << 20
    ahead = 4

    def __init__(self, options: PostgresSourceOptions, plan: CopyPlan, readers: int, notes: list[str], dialect: CsvDialect) -> None:
        self._layout = copy_lines.Csv(dialect)
        super().__init__(options, plan, readers, notes)
        self.schema = plan.schema
        self.rows: int | None = None
        self.lines = 0
        self.pieces = self._pieces()

    def _reader(self) -> CopyReader:
        return CopyReader(self._options, cast("CopyPlan", self._plan), self._layout)

    def _pieces(self) -> Iterator[Lines]:
        for pending in self._arrivals():
            piece: Lines = workers.wait(pending)
            self.lines += copy_lines.count(piece)
            yield piece
        rows = self._rows()
        if self.lines < rows:  # each row is a line at least
            raise IntegrityError(f"the server sent {rows:,} rows, and fewer lines came; nothing was published")
        self.rows = rows
