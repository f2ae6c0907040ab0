"""WRITE requests on one connection, and the answer to each of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import paramiko
from paramiko.sftp import CMD_STATUS

from engine.stores.sftp_errors import DISCARD_SECONDS, FAILURES

if TYPE_CHECKING:
    from engine.stores.sftp_answer import Answer
    from engine.stores.sftp_errors import Failure
    from engine.stores.sftp_session import Session

IN_FLIGHT_BYTES = 4 << 20


class Lane:
    """An open handle of the file that is written. Several of them may write one file, each chunk carries its offset.

    Attributes:
        session: The connection, held as long as the lane is.
        handle: None once CLOSE was sent.
    """

    def __init__(self, session: Session, handle: bytes) -> None:
        self.session = session
        self.handle: bytes | None = handle
        self._unanswered: set[int] = set()  # numbers of requests
        self._failure: Failure | None = None

    def send(self, offset: int, data: memoryview) -> None:
        """Send one chunk; waits while too many are in flight."""
        assert self.handle is not None  # noqa: S101 - open until `close`
        while len(self._unanswered) * self.session.write_chunk >= IN_FLIGHT_BYTES:
            self.session.take_answer()
        self._check()
        self._unanswered.add(self.session.send_write(self, self.handle, offset, data))

    def look(self) -> int:
        """Take the answers that are here; returns how many are not. Raises if one was no success."""
        while self._unanswered and self.session.has_answer():
            self.session.take_answer()
        self._check()
        return len(self._unanswered)

    def drain(self) -> None:
        """Wait for every answer; raises if one was no success."""
        self._wait()
        self._check()

    def close(self) -> Answer[None]:
        """CLOSE, whose answer counts as much; once."""
        assert self.handle is not None  # noqa: S101 - open until now
        handle, self.handle = self.handle, None
        return self.session.ask_close(handle)

    def abandon(self) -> None:
        """Get the connection free for others, if that can be had soon."""
        if self.session.is_torn:
            return
        with contextlib.suppress(*FAILURES), self.session.patience(DISCARD_SECONDS):
            self._wait()
            if self.handle is not None:
                self.close().wait()

    def _wait(self) -> None:
        while self._unanswered:
            self.session.take_answer()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        """The answer to one WRITE; the first that is no success is what went wrong."""
        self._unanswered.discard(number)
        try:
            if kind != CMD_STATUS:
                raise paramiko.SFTPError("an answer of another kind")
            self.session.check_status(message)
        except FAILURES as failure:
            self._failure = self._failure or failure
