"""Each thing that a database may say becomes one sentence of ours, of the right kind, without a value."""

from __future__ import annotations

import adbc_driver_manager as adbc
import pytest

from engine.errors import FerryError, LoadFailed, ResourceError
from engine.postgres.destination_options import PostgresDestinationOptions
from engine.postgres.load_errors import load_failed

OPTIONS = PostgresDestinationOptions.parse({"table": "t", "host": "h", "database": "d"}, where="destination")


def said(state: str | None, *, code: adbc.AdbcStatusCode = adbc.AdbcStatusCode.INTERNAL, **details: str) -> FerryError:
    found = [(f"PG_DIAG_{key.upper()}", value.encode()) for key, value in details.items()]
    error = adbc.OperationalError("secret", status_code=code, sqlstate=state, details=found)
    return load_failed(OPTIONS, error, "loading a.csv into public.t")


@pytest.mark.parametrize(
    ("state", "kind", "transient", "words"),
    [
        ("53100", ResourceError, True, "disk is full"),
        ("53200", ResourceError, True, "out of memory"),
        ("57P01", LoadFailed, True, "ended the connection"),
        ("57014", LoadFailed, True, "cancelled"),
        ("40P01", LoadFailed, True, "deadlock"),
        ("55P03", LoadFailed, True, "lock_timeout"),
        ("25006", LoadFailed, False, "replica"),
        ("22P02", LoadFailed, False, "invalid text representation"),
        ("54000", LoadFailed, False, "too large"),
        ("XX000", LoadFailed, False, "internal error"),
        ("ZZ999", LoadFailed, False, "an error"),
    ],
)
def test_states(state: str, kind: type[FerryError], transient: bool, words: str) -> None:
    error = said(state, message_primary="secret", message_detail="secret", context="COPY t, line 7, column a: secret")
    assert type(error) is kind
    assert error.transient is transient
    assert words in str(error)
    assert f"SQLSTATE {state}" in str(error)
    assert "at row 7 of those sent" in str(error)
    assert "secret" not in str(error)
    assert str(error).startswith("loading a.csv into public.t: PostgreSQL at h:5432/d refused")


def test_permissions_and_missing_objects_are_named_by_the_server() -> None:
    assert isinstance(said("42501", message_primary="permission denied for table t"), ResourceError)
    assert "permission denied for table t" in str(said("42501", message_primary="permission denied for table t"))
    assert 'column "x" does not exist' in str(said("42703", message_primary='column "x" does not exist'))


def test_what_the_driver_says_itself() -> None:
    assert "no such table any more" in str(said(None, code=adbc.AdbcStatusCode.NOT_FOUND))
    assert "lost a column" in str(said(None, code=adbc.AdbcStatusCode.ALREADY_EXISTS))
    broken = said(None, code=adbc.AdbcStatusCode.IO)
    assert broken.transient
    assert "a rerun is safe" in str(broken)
