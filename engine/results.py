"""What a run gives back: `RunResult`, with one `FileResult` per file and the store's `Receipt` in each."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.stages import Stages

Verification = Literal["accepted", "size", "checksum", "read-back"]
LEVELS: tuple[Verification, ...] = ("accepted", "size", "checksum", "read-back")
"""How far a delivery is known to be right, the weakest first: a success status; the destination reports our size; it confirms our checksums, or its bytes
hash to ours by its own reckoning; its bytes were read back."""
FileState = Literal["written", "replaced", "skipped", "already delivered", "left", "planned", "failed", "ambiguous"]
LedgerState = Literal["writing", "publishing", "written", "replaced", "discarded", "deleting", "deleted", "swept", "ambiguous", "removing source", "moved"]
DELIVERED: tuple[FileState, ...] = ("written", "replaced")
MOST_SHOWN = 50
LARGEST_INTEGER = 2_147_483_647
"""Of PostgreSQL's INTEGER, which the platform counts and numbers with."""
RunStatus = Literal["success", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of one delivered file.

    Attributes:
        bytes: Size in bytes, counted by us.
        sha256: Hex digest taken while streaming; None where no byte passed through us.
        verified: The level reached: `size` (the store reports the same size) or `checksum` (it confirmed our checksums), ….
        replaced: Whether a file stood at the path before.
        reported: What the store itself says: ETag, version, checksum ….
    """

    bytes: int
    sha256: str | None
    verified: Verification
    replaced: bool = False
    reported: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowsDescription:
    """What a source of rows would give, as far as is known without running the query.

    Attributes:
        where: The place, without user or secret.
        columns: `name type` of each.
        schema: The Arrow schema of the batches.
        estimated_rows: The server's guess, or None.
        notes: Remarks that a user should read.
    """

    where: str
    columns: tuple[str, ...]
    schema: pa.Schema
    estimated_rows: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; what is not known is None.

    Attributes:
        rows: Rows so far; 0 where files are moved.
        bytes: Bytes so far, as they go into files.
        files: Files begun (export) or dealt with (transfer).
        estimated_rows: The server's guess at all rows.
        total_bytes: Bytes of all files that are to be moved.
        total_files: How many these are.
    """

    rows: int
    bytes: int
    files: int
    estimated_rows: int | None = None
    total_bytes: int | None = None
    total_files: int | None = None


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file of a run: where it stands, how large it is, and how it was verified.

    Attributes:
        path: Where it stands: a path or URL.
        bytes: Its size.
        rows: None where files are moved and nobody has counted.
        sha256: Hex digest; None where no byte passed through us.
        state: What became of it. `left`: for the next run, since it is too young, or changed while it was read.
        verified: The level reached; None where nothing was delivered.
        reported: What the destination says: ETag, version ….
        source: Where it came from, for a transfer.
        source_deleted: Whether it is gone from there (a move).
        archived: Where it has gone instead (`archive_path` of a load).
        error: Why it was not delivered, or its source not deleted.
    """

    path: str
    bytes: int
    rows: int | None
    sha256: str | None
    state: FileState = "written"
    verified: Verification | None = None
    reported: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    source_deleted: bool = False
    archived: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        """One line."""
        size = human_bytes(self.bytes) if self.rows is None else f"{self.rows:,} rows  {human_bytes(self.bytes)}"
        path = printable(self.path)
        if self.error is not None:
            where = self.source or self.path
            return f"{self.state} {printable(where)}: {printable(self.error.removeprefix(f'{where}: '))}"
        if self.rows is not None and self.source is not None:  # rows of a file that are in a table now
            gone = f"  archived as {printable(self.archived)}" if self.archived else "  source deleted" if self.source_deleted else ""
            return f"{self.state} {printable(self.source)} → {path}  {size}{gone}"
        if self.state not in DELIVERED:
            came = f"{printable(self.source)} → " if self.state == "planned" and self.source is not None else ""
            return f"{self.state} {came}{path}  {size}"
        moved = "  source deleted" if self.source_deleted else ""
        return f"{self.state} {path}  {size}  sha256 {self.sha256 or '-'}{moved}"


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one run.

    Attributes:
        rows: Rows delivered.
        bytes: Bytes delivered, as they stand in the files (compressed).
        seconds: Wall time from the call to the last file's publication.
        schema: The Arrow schema of the rows; None when the run was skipped before it was known, and where files are moved.
        files: One entry per file, in order.
        notes: Remarks that a user should read: warnings, columns written as text, files removed.
        status: `failed` where some files need somebody's attention; of a connector's run `skipped` when another run of the same connector was under way.
        run_id: The run record's id; None without a connector, or where the record could not be made.
        counts: What was moved: `rows` or `files`.
        stages: Where the time went, of an export; else None.
    """

    rows: int
    bytes: int
    seconds: float
    schema: pa.Schema | None
    files: tuple[FileResult, ...]
    notes: tuple[str, ...] = ()
    status: RunStatus = "success"
    run_id: int | None = None
    counts: Literal["rows", "files"] = "rows"
    stages: Stages | None = None

    @property
    def ingested(self) -> int:
        """Rows or files delivered, as a run record counts them (`rows_ingested`)."""
        return self.rows if self.counts == "rows" else sum(file.state in DELIVERED for file in self.files)

    @property
    def failed(self) -> tuple[FileResult, ...]:
        """Files that need somebody's attention: not delivered, perhaps delivered, or delivered with a source that could not be deleted."""
        return tuple(
            file for file in self.files if file.state in {"failed", "ambiguous"} or (file.state in (*DELIVERED, "already delivered") and file.error is not None)
        )

    @property
    def headline(self) -> str:
        """Totals in one line."""
        per_second = 1 / self.seconds if self.seconds > 0 else 0.0
        planned = [file.bytes for file in self.files if file.state == "planned"]
        if self.counts == "rows" and planned:
            return f"would load {len(planned):,} of {len(self.files):,} files, {human_bytes(sum(planned))}" if self.schema is None else "would copy"
        if self.counts == "rows":
            return f"{self.rows:,} rows, {human_bytes(self.bytes)} in {self.seconds:.2f} s ({self.rows * per_second:,.0f} rows/s)"
        if not self.files:
            return "nothing to transfer"
        if planned:
            return f"would transfer {len(planned):,} of {len(self.files):,} files, {human_bytes(sum(planned))}"
        total = f"{self.ingested:,} of {len(self.files):,} files delivered, {human_bytes(self.bytes)} in {self.seconds:.2f} s"
        states = Counter(file.state for file in self.files if file.state not in DELIVERED)
        moved = sum(file.source_deleted for file in self.files)
        remarks = [f"{human_bytes(self.bytes * per_second)}/s", *([f"{moved:,} source{'' if moved == 1 else 's'} deleted"] if moved else [])]
        return f"{total} ({', '.join(remarks)})" + "".join(f"; {count:,} {state}" for state, count in states.items())

    def summary(self, most_files: int = MOST_SHOWN) -> str:
        """A few lines for people: totals, then a line for each file (for all that failed, and of the others for at most so many), then the notes."""
        if self.status == "skipped":
            return "\n".join(self.notes)
        failed = self.failed
        others = [file for file in self.files if file not in failed] if failed else self.files
        more = len(others) - most_files
        lines = [str(file) for file in (*failed, *others[:most_files])]
        return "\n".join(
            [
                self.headline,
                *lines,
                *([f"… and {more:,} more files (--json and ferry runs show tell all)"] if more > 0 else []),
                *(f"note: {printable(note)}" for note in self.notes),
            ]
        )

    def __str__(self) -> str:
        """The summary."""
        return self.summary()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the schema as `{name, type}` pairs."""
        columns = None if self.schema is None else [{"name": f.name, "type": str(f.type)} for f in self.schema]
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "schema": columns,
            "files": [asdict(f) for f in self.files],
            "notes": list(self.notes),
            "status": self.status,
            "run_id": self.run_id,
            "counts": self.counts,
            "stages": self.stages and self.stages.to_dict(),
        }


def reaches(level: Verification, asked: Verification | None) -> bool:
    """Whether a level is at least what was asked for.

    Example:
        >>> reaches("checksum", "size"), reaches("size", "read-back"), reaches("accepted", None)
        (True, False, True)
    """
    return asked is None or LEVELS.index(level) >= LEVELS.index(asked)


def printable(text: str) -> str:
    r"""What stands in names and would act on a terminal, a log or a database: escaped.

    Example:
        >>> printable("lab\n2024.csv")
        'lab\\n2024.csv'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def human_bytes(count: float) -> str:
    """`1536` → `1.5 KiB`; binary units, as `chunk_size_mb` counts MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - the base of binary units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
