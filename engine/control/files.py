"""The ledger as people ask it: which files are in which state, and what to do about those that nobody can tell of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from engine.control.database import ControlDatabase, Row

Verdict = Literal["delivered", "resend"]
_COLUMNS = "id, connector_id, run_id, state, source_path, url, file_bytes, sha256, verified, changed_at"


def list_files(control: ControlDatabase, *, connector_id: int | None = None, state: str | None = None, limit: int = 50) -> list[Row]:
    """The rows changed last, first: `id, connector_id, run_id, state, source_path, url, file_bytes, sha256, verified, changed_at`."""
    statement = f"""
        SELECT {_COLUMNS} FROM ferry_files WHERE (%s::int IS NULL OR connector_id = %s) AND (%s::text IS NULL OR state = %s)
        ORDER BY changed_at DESC, id DESC LIMIT %s
    """  # noqa: S608 - our own text
    return control.query(statement, (connector_id, connector_id, state, state, limit))


def ambiguous_exports(control: ControlDatabase, connector_id: int) -> list[int]:
    """Ids of exports of a connector that nobody can tell of."""
    statement = "SELECT id FROM ferry_files WHERE connector_id = %s AND state = 'ambiguous' AND source_path IS NULL ORDER BY id"
    return [row["id"] for row in control.query(statement, (connector_id,))]


def resolve(control: ControlDatabase, file_id: int, verdict: Verdict) -> Row:
    """Settle a file that is `ambiguous`: it was delivered (`written`), or it is sent again by the next run (`discarded`).

    Raises:
        ConfigurationError: There is no such file, or nothing about it is open.
    """
    state = "written" if verdict == "delivered" else "discarded"
    statement = f"UPDATE ferry_files SET state = %s, changed_at = clock_timestamp() WHERE id = %s AND state = 'ambiguous' RETURNING {_COLUMNS}"  # noqa: S608
    changed = control.query(statement, (state, file_id))
    if changed:
        return changed[0]
    found = control.query("SELECT state FROM ferry_files WHERE id = %s", (file_id,))
    if not found:
        raise ConfigurationError(f"there is no file {file_id} in the ledger at {control.where}; see ferry files")
    raise ConfigurationError(f"file {file_id} is {found[0]['state']}, not ambiguous; there is nothing to resolve")
