"""What paramiko raises and SFTP servers answer, in the engine's words."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import paramiko

from engine.errors import ConnectionFailed, FerryError, ResourceError, TransferFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

STALL_SECONDS = 60
"""A server that takes or gives nothing for so long is given up."""
FLUSH_SECONDS = 900
"""So long may it take to bring a large file to its disk, or to hash it."""
DISCARD_SECONDS = 10
"""So long are answers waited for that nobody needs any more; a new connection is quicker then."""

NO_SUCH_FILE = 2
PERMISSION_DENIED = 3
FAILURE = 4  # version 3 has this one answer for a full disk, an existing name, a folder that is not empty …
UNSUPPORTED = 8
_FULL = {14, 15}  # of later versions, which some servers use all the same
_REASONS = {
    NO_SUCH_FILE: "there is no such file or folder",
    PERMISSION_DENIED: "permission denied",
    FAILURE: "the server refused and did not say why (SSH_FX_FAILURE)",
    UNSUPPORTED: "the server does not support it",
    12: "the file system is read-only",
    14: "the disk is full",
    15: "the disk quota is used up",
}
_RESOURCE = {PERMISSION_DENIED, 12, *_FULL}


class StatusError(OSError):
    """The server's status for one request, other than success.

    Attributes:
        code: As in https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02#section-7.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"SFTP status {code}")
        self.code = code


FAILURES = (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError)
Failure = paramiko.SSHException | paramiko.SFTPError | EOFError | OSError


@contextlib.contextmanager
def translating(what: str) -> Iterator[None]:
    """Errors of the block as the engine's: `cannot {what}: …`."""
    try:
        yield
    except FAILURES as error:
        raise translated(error, what) from None


def translated(error: Failure, what: str) -> FerryError:
    """One error in our words; the server's own text can hold anything."""
    if not isinstance(error, StatusError):
        reason = "the server has not answered in time" if isinstance(error, TimeoutError) else "the connection broke off"
        return ConnectionFailed(f"cannot {what}: {reason}", transient=True)
    reason = _REASONS.get(error.code, f"the server answered with status {error.code}")
    if error.code == FAILURE and what.startswith("write "):
        return ResourceError(f"cannot {what}: {reason}; most often its disk is full, a quota used up, or the name too long", transient=True)
    kind = ResourceError if error.code in _RESOURCE else TransferFailed
    return kind(f"cannot {what}: {reason}", transient=error.code in _FULL)
