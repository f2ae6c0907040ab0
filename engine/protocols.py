"""The contracts between routes, sources, formats and stores.

Rows travel as Arrow record batches, files as bytes; a format turns one into the other. Each contract has a conformance
suite below `tests/conformance/` that every implementation passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, runtime_checkable

from engine.paths import File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from engine.results import LedgerState, Receipt, RowsDescription, Verification

Form = Literal["text", "typed", "exact"]
Exists = Literal["replace", "skip", "fail"]
FileInfo = File
"""One listed version of a file."""
Lines = memoryview
"""Whole lines of a text file, as bytes."""


class RowStream(Protocol):
    """Rows that are arriving: an ordered stream with a schema known before the first batch."""

    reader: pa.RecordBatchReader
    estimated_rows: int | None  # the server's own guess, for progress only
    notes: list[str]  # complete once the stream has ended


class RowSource(Protocol):
    """A place that rows come from."""

    def read(self, form: Form = "typed") -> AbstractContextManager[RowStream]:
        """One ordered stream of record batches; nothing is opened before `with`.

        Zero rows still give the schema. A source that ends early raises; leaving the block early cancels at once.
        `form` says which type rules apply: `text` for CSV (PostgreSQL's own text), `typed` for Parquet and Arrow users, `exact` for another database: typed
        where the Arrow type holds every value, else text.
        """

    def describe(self, form: Form = "typed") -> RowsDescription:
        """Connect and say what `read` would give, without running it; raises as `read` does."""


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """How rows stand in a CSV file whose values are quoted by `"`, doubled within, and whose lines end with a line feed.

    Attributes:
        delimiter: Between values.
        null: What stands for NULL, bare.
        quotes_all: Whether every value but NULL is quoted; else those that must be, as the empty string must, and others at the writer's choice.
    """

    delimiter: str
    null: str
    quotes_all: bool


class EncodedStream(Protocol):
    """A file's bytes that are arriving, without a header: a `RowStream` that was not decoded."""

    schema: pa.Schema
    pieces: Iterator[Lines]
    lines: int  # of the pieces that have come: not fewer than their rows
    rows: int | None  # as the source counts them; known once the pieces have ended
    estimated_rows: int | None
    notes: list[str]


@runtime_checkable
class EncodesItself(Protocol):
    """A `RowSource` that can write CSV itself: the same values that the format would make of its rows."""

    def read_encoded(self, dialect: Callable[[pa.Schema], CsvDialect]) -> AbstractContextManager[EncodedStream]:
        """The lines of the file, of a dialect that depends on the columns; as `RowSource.read` otherwise."""


class FileStore(Protocol):
    """What sources and destinations of files have in common."""

    notes: list[str]  # what a user should read in the summary: unencrypted traffic, ignored options
    has_folders: bool  # whether folders exist by themselves; else (S3) only as parts of names

    def url(self, path: str) -> str:
        """How the file is shown to people and found again: an absolute path, `s3://bucket/key` …; no secrets."""

    def identity(self, path: str) -> str:
        """Tells the place (empty: the root) from every other, as far as names can: endpoint, bucket and key; real path. Blocking; for comparing only."""

    def stat(self, path: str) -> FileInfo | None:
        """The file that stands at `path` now, or None."""

    def is_folder(self, path: str) -> bool:
        """Whether something stands below `path` (empty: the root), or an empty folder stands there. Blocking."""

    def close(self) -> None:
        """Give back connections; the store may be used again."""


class FileSource(FileStore, Protocol):
    """A place that files come from."""

    def list(self, pattern: str, *, ordered: bool = True) -> Iterator[FileInfo]:
        """Files that match, lazily, ordered (unless not wanted) by the bytes of the relative path. `*`, `?`, `[…]` never cross `/`; `**/` does."""

    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> AbstractContextManager[BinaryIO]:
        """Bytes `start … start + length` of exactly the version that was listed; another version is an error, an early end too."""

    def delete(self, file: FileInfo) -> None:
        """Delete that very version; a file that has changed since is an error and stays."""


class FileWriter(Protocol):
    """One file being written; see `FileDestination.open_write`."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    def write(self, data: bytes | memoryview | pa.Buffer) -> int:
        """Append; returns the number of bytes taken, which is all of them. May block. The buffer may be reused afterwards."""

    def finish(self) -> None:
        """Send the tail, sync, verify, free buffers. Nothing stands at the final name yet. May block."""

    @property
    def receipt(self) -> Receipt:
        """What was delivered; complete once the block has been left without an exception."""


@runtime_checkable
class CopiesWithin(Protocol):
    """A `FileWriter` that can take a whole file without its bytes passing through this process: a server-side or kernel copy."""

    def copy_from(self, source: FileSource, file: FileInfo, passing: Callable[[int], None]) -> bool:
        """Take `file` as the whole content, instead of any `write`; False, with nothing done, when this source is not within reach.

        `passing` is told bytes as they are copied, and raises when they are not wanted any more.
        """


@runtime_checkable
class MovesWithin(Protocol):
    """A destination that can move a file of the same store by itself; a kill leaves the file under one of its names, or under both."""

    def move_from(self, source: FileSource, file: FileInfo, path: str) -> bool:
        """Move that very version to `path`, which never replaces; False, with nothing done, when this source or this file is not within reach.

        Raises:
            ConfigurationError: Something stands there.
            FileChanged: The file is another one by now, and stays.
        """


class FileDestination(FileStore, Protocol):
    """A place that files go to."""

    def open_write(
        self,
        path: str,
        *,
        size: int | None = None,
        exists: Exists = "replace",
        verify: Verification | None = None,
        standing: bool | None = None,
        on_begin: Callable[[str], None] = ...,
    ) -> AbstractContextManager[FileWriter]:
        """A writer for `path`; `with` is the transaction.

        Nothing stands at `path` until the block ends without an exception; then the whole file does. On an exception no
        part upload and no temporary file remains. Leaving without `finish()` having been called finishes first.
        `exists="fail"` is decided atomically at publication (`ConfigurationError`). `skip` is decided by the route before anything is opened.
        `size`, where known, is compared with the bytes written before publishing (`IntegrityError`). `verify` is the least level that
        the receipt may name, by reading back where nothing less reaches it; None: what costs no second read.
        `standing` says whether a file stands there, where the caller has just seen (for the receipt's `replaced`); None: look.
        `on_begin` is told the name of what a kill from now on would leave behind (a temporary name, an upload's id; empty: an upload whose id is not known
        yet), for `sweep`.
        """

    def probe(self, path: str) -> None:
        """Try whether a file could be written at `path`, and leave nothing; raises what `open_write` and the first bytes would."""

    def sweep(self, path: str, leftover: str) -> bool:
        """Remove exactly what a killed run left for `path`, as it was told to `on_begin`. Returns whether something was there."""


@runtime_checkable
class SendsBody(Protocol):
    """A destination that takes a file as the body of one request, and cannot be asked afterwards (REST)."""

    notes: list[str]
    may_repeat: bool  # whether a body that may have been taken can be sent again, since the endpoint counts both for one

    def url(self, path: str) -> str:
        """As `FileStore.url`."""

    def slot(self, path: str) -> str | None:
        """Equal for paths whose files would take each other's place; None where each is a file of its own. May hold secrets: for comparing only."""

    def send(
        self,
        path: str,
        open_body: Callable[[], AbstractContextManager[BinaryIO]],
        size: int,
        *,
        key: str,
        on_commit: Callable[[], None],
        pause: Callable[[float], None] = ...,
    ) -> Receipt:
        """Send a file of `size` bytes; each attempt opens the body anew, and its last bytes go out only after it has ended well.

        `key` tells this delivery from every other (`Idempotency-Key`). `on_commit` is called before the last bytes of each attempt go out.
        `pause` waits so many seconds between attempts, and raises when the delivery is not wanted any more.
        Raises `OutcomeUnknown` when nobody can say whether the file was taken.
        """

    def probe(self, path: str) -> None:
        """Whether the endpoint can be reached; sends no file."""

    def close(self) -> None:
        """As `FileStore.close`."""


class Encoder(Protocol):
    """Turns the batches of one export into the bytes of one file after another. It does no I/O but the file it is given."""

    @property
    def pending(self) -> int:
        """Bytes held back for the current file (row groups that are open, or being encoded); an upper bound of what they will add."""

    def prepare(self, batch: pa.RecordBatch) -> Any:
        """The heavy half, callable from any thread: no state, no order."""

    def weigh(self, prepared: Any) -> int:
        """An upper bound of the bytes that writing this adds to the file."""

    def write(self, file: FileWriter, prepared: Any) -> None:
        """The ordered half; what it adds may stay pending."""

    def settle(self, file: FileWriter) -> None:
        """Write what is pending only because it is being encoded: `pending` is a narrower bound then."""

    def close(self, file: FileWriter) -> None:
        """End the current file, which is valid and complete even without rows; the next write begins another."""

    def stop(self) -> None:
        """End what works for it in other threads; nothing is written after that."""


class Format(Protocol):
    """A file layout."""

    suffix: str  # with its compression: ".csv.gz"
    form: Form

    def encoder(self, schema: pa.Schema) -> Encoder:
        """An encoder for rows of this schema; raises `ConfigurationError` when the layout cannot hold it."""


class LineEncoder(Encoder, Protocol):
    """An `Encoder` that takes lines instead of batches too."""

    def prepare_lines(self, lines: Lines) -> Any:
        """As `prepare`, of lines in the format's dialect."""


@runtime_checkable
class TakesLines(Protocol):
    """A `Format` of text lines that a source may have written (`EncodesItself`)."""

    def dialect(self, schema: pa.Schema) -> CsvDialect:
        """How lines of these columns look."""

    def encoder(self, schema: pa.Schema) -> LineEncoder:
        """As `Format.encoder`."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The last that the ledger knows of a source file at one destination."""

    id: int
    state: LedgerState
    version: str  # of the source file


class Journal(Protocol):
    """The ledger of one run, as a route sees it: each row is written before the side effect that it tells of."""

    def record(
        self,
        path: str,
        state: LedgerState,
        *,
        leftover: str | None = None,
        receipt: Receipt | None = None,
        rows: int | None = None,
        source: FileInfo | None = None,
    ) -> None:
        """What is about to happen, or has happened, to a file of the destination (and to the `source` that it is made of). Blocking, callable from any thread.

        Raises:
            LeaseLost: The run may not go on: another may be at work on the same files.
        """

    def earlier(self, sources: Sequence[str]) -> Mapping[tuple[str, str], Earlier]:
        """What earlier runs did with these files of the source, by source path and destination URL."""
