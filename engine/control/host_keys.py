"""SSH host keys that somebody has looked at and trusts (`ferry connectors trust`), in our own table."""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.control.database import ControlDatabase


def pinned(control: ControlDatabase, host: str, port: int) -> list[str]:
    """The trusted keys of a server, each as OpenSSH writes it: `ssh-ed25519 AAAA…`."""
    statement = "SELECT key_type, public_key FROM ferry_host_keys WHERE host = %s AND port = %s ORDER BY trusted_at"
    return [f"{row['key_type']} {row['public_key']}" for row in control.query(statement, (host.lower(), port))]


def pin(control: ControlDatabase, host: str, port: int, key_type: str, public_key: str) -> None:
    """Trust a key from now on, in the place of what was trusted for this server before."""
    statement = """
        WITH gone AS (DELETE FROM ferry_host_keys WHERE host = %s AND port = %s AND key_type <> %s)
        INSERT INTO ferry_host_keys (host, port, key_type, public_key, trusted_by, trusted_at) VALUES (%s, %s, %s, %s, %s, clock_timestamp())
        ON CONFLICT (host, port, key_type) DO UPDATE SET public_key = excluded.public_key, trusted_by = excluded.trusted_by, trusted_at = excluded.trusted_at
    """
    name = host.lower()
    control.query(statement, (name, port, key_type, name, port, key_type, public_key, f"{_user()}@{socket.gethostname()}"[:255]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that nobody has a name for
        return "unknown"
