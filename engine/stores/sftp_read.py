"""Reading a file of an SFTP server: a bounded number of bytes is asked for ahead of the reader, so that no round trip is waited for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import paramiko
from paramiko.sftp import CMD_DATA, CMD_STATUS

from engine.stores.sftp_errors import FAILURES

if TYPE_CHECKING:
    from engine.stores.sftp_errors import Failure
    from engine.stores.sftp_session import Session

READ_AHEAD_BYTES = 8 << 20


class ReadAhead:
    """Bytes `start … start + length` of an open file, in order.

    paramiko's own prefetch asks for the whole file at once, and its `get` takes a file that ends early for a whole one.
    """

    def __init__(self, session: Session, handle: bytes, start: int, length: int) -> None:
        self._session = session
        self._handle = handle
        self._next = start
        self._end = start + length
        self._asked: deque[tuple[int, int, int]] = deque()  # number, offset and length of each request, in the order of offsets
        self._answers: dict[int, bytes | Failure] = {}
        self._rest = memoryview(b"")
        self._ask()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end of the range or of the file."""
        if not self._rest:
            self._ask()
            self._rest = memoryview(self._first())
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def drain(self) -> None:
        """Wait for what was asked for, so that the session is free for others."""
        self._next = self._end
        while len(self._answers) < len(self._asked):
            self._session.take_answer()
        self._asked.clear()
        self._answers.clear()

    def _ask(self) -> None:
        chunk = self._session.read_chunk
        in_flight = sum(length for _, _, length in self._asked)
        while self._next < self._end and in_flight < READ_AHEAD_BYTES:
            length = min(chunk, self._end - self._next)
            self._asked.append((self._session.send_read(self, self._handle, self._next, length), self._next, length))
            self._next += length
            in_flight += length

    def _first(self) -> bytes:
        """The answer to the first request; a server may give less than was asked for, then the remainder is asked for."""
        if not self._asked:
            return b""
        number, offset, length = self._asked.popleft()
        while number not in self._answers:
            self._session.take_answer()
        answer = self._answers.pop(number)
        if isinstance(answer, EOFError):
            return b""
        if not isinstance(answer, bytes):
            raise answer
        if len(answer) > length:
            raise paramiko.SFTPError("more than was asked for")
        if 0 < len(answer) < length:
            at, missing = offset + len(answer), length - len(answer)
            self._asked.appendleft((self._session.send_read(self, self._handle, at, missing), at, missing))
        return answer

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        if kind == CMD_DATA:
            self._answers[number] = message.get_binary()
            return
        try:
            if kind == CMD_STATUS:
                self._session.check_status(message)
            self._answers[number] = paramiko.SFTPError("an answer of another kind")
        except FAILURES as failure:
            self._answers[number] = failure
