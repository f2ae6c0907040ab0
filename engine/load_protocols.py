"""The contracts of loads: files that hold rows, and tables that take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from engine.protocols import FileInfo, FileSource


class RowReject(Protocol):
    """A record of a file that is no row."""

    @property
    def line(self) -> int:
        """Where it begins, from 1."""

    @property
    def rule(self) -> str:
        """What is wrong, without a value."""

    @property
    def raw(self) -> bytes:
        """As it stands in the file."""


class RowBlock(Protocol):
    """Rows of a file that follow one another."""

    @property
    def rejects(self) -> Sequence[RowReject]:
        """Records between them that are none; known once the rows were asked for."""

    def typed(self, schema: pa.Schema) -> pa.RecordBatch | None:
        """The rows, those of text parsed to these types; None when a value is not in the plain form of its type."""

    def text(self) -> pa.RecordBatch:
        """The rows as they are in the file."""

    def line(self, row: int) -> int:
        """Where that row begins, from 1."""

    def raw(self, row: int) -> bytes | None:
        """The row as it stands in the file; None where rows do not stand there one by one."""


class BatchBlock:
    """A record batch as a `RowBlock`: its "lines" are row numbers, none of its rows is a reject, and none has bytes of its own."""

    def __init__(self, batch: pa.RecordBatch, first: int) -> None:
        """`first` is the number of its first row, from 1."""
        self.rejects: list[RowReject] = []
        self._batch = batch
        self._first = first

    def text(self) -> pa.RecordBatch:
        """The batch."""
        return self._batch

    def typed(self, schema: pa.Schema) -> pa.RecordBatch:
        """The batch: it has its types already."""
        del schema
        return self._batch

    def line(self, row: int) -> int:
        """The row's number."""
        return self._first + row

    def raw(self, row: int) -> bytes | None:
        """None."""
        del row
        return None


class RowFile(Protocol):
    """A file of rows that is open."""

    schema: pa.Schema  # all text where the file has no types
    unit: str  # what records are counted by: "line", "row"

    @property
    def bytes_read(self) -> int:
        """How many of its bytes have been read by now, for progress."""

    def __iter__(self) -> Iterator[RowBlock]:
        """Its rows in order, in bounded memory; ends well only if the file is still that version."""


class RowFormat(Protocol):
    """How rows are read from files."""

    is_text: bool  # whether values are text without a type

    def open(self, source: FileSource, file: FileInfo) -> AbstractContextManager[RowFile]:
        """The rows of exactly that version of the file. Blocking; errors name the file."""


class LoadsRows(Protocol):
    """A table that is ready for files."""

    @property
    def committed(self) -> tuple[int, int] | None:
        """Rows loaded and put aside of the last file, once they are committed: also where `load` was interrupted just then."""

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
        """Load one file whole or not at all; gives the rows loaded and put aside, or None where that version is loaded already.

        `rows` is opened (`__iter__`) in the calling thread, once the table is ready. `leaving` is remembered with it: not None where the source is taken away
        after the commit. `origin` is what people are told that rows come from, where it is not the path; `same` are other versions that count as this one.
        """


class LoadedFile(Protocol):
    """What a destination remembers of a file that was loaded."""

    version: str
    rows: int
    rejected: int
    leaving: str | None


class RowDestination(Protocol):
    """A table that files are loaded into, each exactly once."""

    notes: list[str]
    shown: str  # for people
    is_replace: bool  # whether all files of a run become the table together

    def url(self, path: str) -> str:
        """Where the rows of that file go."""

    def standing(self) -> Sequence[Any] | None:
        """The table's columns, None when there is no table. Blocking; raises where a load would."""

    def loaded(self, paths: Iterable[str]) -> Mapping[str, tuple[LoadedFile, ...]]:
        """What it remembers of these files. Blocking.

        Under replace only if the table is made of just them; else of those alone whose source was to be taken away, perhaps by a run that was killed.
        """

    def would(self, schema: pa.Schema) -> str:
        """What `open` would do to the table for typed rows of this schema, in words. Blocking; raises as `open` does."""

    def open(self, schema: pa.Schema, *, is_text: bool, survey: Callable[[], Iterable[pa.RecordBatch]]) -> AbstractContextManager[LoadsRows]:
        """Make it ready for files of this schema; a replace is committed when the block ends.

        `survey` gives all rows as text, for finding types that are not known otherwise.
        """
