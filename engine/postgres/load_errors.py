"""What the database says while rows are loaded, in our words.

Of the server's own text only the primary message of class 42 is repeated (syntax, missing objects, permissions): it names objects. DETAIL, CONTEXT and
the other classes carry cell values (`Key (patient)=(4711) already exists`, `Failing row contains …`), so they are replaced.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import adbc_driver_manager as adbc

from engine.errors import FerryError, LoadFailed, ResourceError
from engine.libpq import RETRYABLE_CLASSES, condition_name

if TYPE_CHECKING:
    from engine.libpq import PostgresOptions

_REASONS = {
    "57014": "the statement was cancelled (statement_timeout, or an administrator)",
    "57P01": "the server ended the connection (administrator command)",
    "57P02": "the server crashed",
    "57P03": "the server does not accept connections now",
    "57P05": "the server ended the connection, which was idle too long (idle_session_timeout)",
    "25P03": "the server ended the transaction, which was idle too long (idle_in_transaction_session_timeout)",
    "25006": "the server takes no changes (a replica, or default_transaction_read_only)",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "the server has no free connection",
    "54000": "a row or a value is too large for the server (a row holds about 8 kB beside its long texts, an index entry 2,704 bytes)",
    "55P03": "a lock was not to be had in time (lock_timeout)",
    "40001": "the transaction met another one's changes (serialization)",
    "40P01": "the transaction and another one waited for each other (deadlock)",
    "22021": "the text holds a character that the database's encoding has not",
    "22P05": "the text holds a character that the database's encoding has not",
    "44000": "a row is outside the view that it is loaded through (WITH CHECK OPTION)",
    "P0001": "a trigger or function of the table refused a row",
}
_CONSTRAINTS = {
    "23502": "a NULL in a NOT NULL column",
    "23503": "a row that refers to none in another table, or that another table's row refers to",
    "23505": "a key that the table, or an earlier one of the rows, already has",
    "23514": "a row that breaks a check",
    "23P01": "a row that an exclusion constraint forbids beside another",
}
_CONSTRAINT_CLASS = "23"
_NAMES_ONLY = ("42", "3F")
"""Classes whose primary message names objects and holds no data."""
_ROW = re.compile(r"COPY .*, line (\d+)")


def load_failed(options: PostgresOptions, error: adbc.Error, what: str) -> FerryError:
    """An error of the driver as one of ours.

    Args:
        options: Where the database is.
        error: What the driver raised.
        what: What was being done: `loading into public.visits`.
    """
    state = error.sqlstate or None
    where = f"PostgreSQL at {options.where}"
    if state is None:
        return _without_state(where, error, what)
    details = {key if isinstance(key, str) else key.decode(): value.decode(errors="replace") for key, value in error.details}
    if state.startswith(_CONSTRAINT_CLASS):
        return LoadFailed(f"{what}: {where} refused the rows: {_constraint(state, details)} (SQLSTATE {state}); nothing of it was committed", sqlstate=state)
    reason = _REASONS.get(state) or (details.get("PG_DIAG_MESSAGE_PRIMARY") if state.startswith(_NAMES_ONLY) else None) or condition_name(state)
    message = f"{what}: {where} refused: {reason}{_place(details)} (SQLSTATE {state}); nothing of it was committed"
    transient = state.startswith(RETRYABLE_CLASSES)
    if state.startswith("53") or state == "42501":
        return ResourceError(message, transient=transient)
    return LoadFailed(message, sqlstate=state, transient=transient)


def _without_state(where: str, error: adbc.Error, what: str) -> FerryError:
    """The driver's own errors: the table is not found, or the connection broke. Their text is not repeated."""
    if error.status_code == adbc.AdbcStatusCode.NOT_FOUND:
        return LoadFailed(f"{what}: {where} has no such table any more; nothing of it was committed")
    if error.status_code == adbc.AdbcStatusCode.ALREADY_EXISTS:  # the driver's word for a column that the table lacks
        return LoadFailed(f"{what}: the table lost a column meanwhile; nothing of it was committed")
    return LoadFailed(f"{what}: the connection to {where} broke; a rerun is safe, it finds what was committed", transient=True)


def _constraint(state: str, details: dict[str, str]) -> str:
    kind = _CONSTRAINTS.get(state) or condition_name(state)
    named = [f"constraint {details['PG_DIAG_CONSTRAINT_NAME']!r}"] if "PG_DIAG_CONSTRAINT_NAME" in details else []
    named += [f"column {details['PG_DIAG_COLUMN_NAME']!r}"] if "PG_DIAG_COLUMN_NAME" in details else []
    table = ".".join(details[key] for key in ("PG_DIAG_SCHEMA_NAME", "PG_DIAG_TABLE_NAME") if key in details)
    return kind + (f": {', '.join(named)}" if named else "") + (f" of table {table}" if table else "") + _place(details)


def _place(details: dict[str, str]) -> str:
    """Which of the rows that were sent: the context counts them, and a deferred or statement-wide check has none."""
    found = _ROW.match(details.get("PG_DIAG_CONTEXT", ""))
    return f", at row {int(found[1]):,} of those sent" if found else ""
