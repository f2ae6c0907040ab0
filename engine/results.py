"""What a run gives back: `RunResult`, with one `FileResult` per file and the store's `Receipt` in each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Verification = Literal["accepted", "size", "checksum", "read-back"]
LEVELS: tuple[Verification, ...] = ("accepted", "size", "checksum", "read-back")
"""How far a delivery is known to be right, the weakest first: a success status; the destination reports our size; it confirms our checksums, or its bytes
hash to ours by its own reckoning; its bytes were read back."""
FileState = Literal["written", "replaced", "skipped"]
LedgerState = Literal["writing", "publishing", "written", "replaced", "discarded", "deleting", "deleted", "swept", "ambiguous"]
_DELIVERED = "ferry_delivered"
RunStatus = Literal["success", "skipped"]


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
        estimated_rows: The server's guess, or None.
        notes: Remarks that a user should read.
    """

    where: str
    columns: tuple[str, ...]
    estimated_rows: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file of a run: where it stands, how large it is, and how it was verified."""

    path: str
    bytes: int
    rows: int | None
    sha256: str | None
    state: FileState = "written"
    verified: Verification | None = None
    reported: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one run.

    Attributes:
        rows: Rows delivered.
        bytes: Bytes delivered, as they stand in the files (compressed).
        seconds: Wall time from the call to the last file's publication.
        schema: The Arrow schema of the rows; None when the run was skipped before it was known.
        files: One entry per file, in order.
        notes: Remarks that a user should read: warnings, columns written as text, files removed.
        status: Of a connector's run: `skipped` when another run of the same connector was under way.
        run_id: The run record's id; None without a connector, or where the record could not be made.
    """

    rows: int
    bytes: int
    seconds: float
    schema: pa.Schema | None
    files: tuple[FileResult, ...]
    notes: tuple[str, ...] = ()
    status: RunStatus = "success"
    run_id: int | None = None

    def __str__(self) -> str:
        """A few lines for people: totals, then one line per file, then the notes."""
        if self.status == "skipped":
            return "\n".join(self.notes)
        rate = self.rows / self.seconds if self.seconds > 0 else 0.0
        total = f"{self.rows:,} rows, {human_bytes(self.bytes)} in {self.seconds:.2f} s ({rate:,.0f} rows/s)"
        lines = [f"{f.state} {f.path}  {f.rows or 0:,} rows  {human_bytes(f.bytes)}  sha256 {f.sha256 or '-'}" for f in self.files]
        return "\n".join([total, *lines, *(f"note: {note}" for note in self.notes)])

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
        }


def reaches(level: Verification, asked: Verification | None) -> bool:
    """Whether a level is at least what was asked for.

    Example:
        >>> reaches("checksum", "size"), reaches("size", "read-back"), reaches("accepted", None)
        (True, False, True)
    """
    return asked is None or LEVELS.index(level) >= LEVELS.index(asked)


def note_delivered(stop: BaseException, result: RunResult) -> None:
    """Let an interrupt say that it came too late: everything was delivered."""
    stop.__dict__[_DELIVERED] = result


def delivered(stop: BaseException) -> RunResult | None:
    """What was delivered in spite of an interrupt, or None."""
    found: RunResult | None = stop.__dict__.get(_DELIVERED)
    return found


def human_bytes(count: float) -> str:
    """`1536` → `1.5 KiB`; binary units, as `chunk_size_mb` counts MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - the base of binary units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
