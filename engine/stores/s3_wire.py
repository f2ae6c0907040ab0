"""HTTP/1.1 as S3 servers speak it (RFC 9112), with few system calls: http.client reads headers as e-mail, which takes as long as all the rest.

Each call that lets go of Python's lock costs a change of threads when others wait for it, and many do while small files move: so a plain socket blocks,
with the kernel's own timeouts (Python's would ask `poll` before each call), and what the server sends is taken in as large pieces as it comes.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

CONNECT_SECONDS = 10.0
_PIECE_BYTES = 64 << 10
_LONGEST_HEAD = 64 << 10
_LARGEST_ANSWER = 64 << 20
_WITHOUT_BODY = frozenset({204, 304})


class Answer:
    """What the server answered: the status, headers in lower case, the body, which is empty when it went into a buffer of the caller's, and its length."""

    __slots__ = ("body", "headers", "length", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes | bytearray, length: int) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.length = length


class Connection:
    """One connection, for one request after another.

    Attributes:
        is_reusable: Whether another request may follow.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        plain = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_plain = tls is None
        self._socket = plain if tls is None else tls.wrap_socket(plain, server_hostname=host)
        self._patience = -1.0  # not set yet
        self._came = b""  # and was not asked for yet
        self.is_reusable = True

    def exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | bytearray | memoryview, patience: float, into: memoryview | None
    ) -> Answer:
        """One request and its answer, whose body goes into `into` if it is exactly as long.

        Raises:
            OSError: The connection broke; TimeoutError: nothing came for `patience` seconds, or for up to three times as long after something had come.
            ValueError: An answer of another form, or a header that cannot be sent.
        """
        self.is_reusable = False
        head = "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"])
        if not head.count("\n") == head.count("\r") == len(headers) + 2:
            raise ValueError("a header of several lines")
        try:
            self._wait_at_most(patience)
            self._send(head.encode("ascii"), body)
            return self._answer(method, into)
        except BlockingIOError:
            raise TimeoutError from None

    def close(self) -> None:
        """Close it, whatever is under way."""
        self._socket.close()

    def _wait_at_most(self, seconds: float) -> None:
        if seconds == self._patience:
            return
        self._patience = seconds
        if not self._is_plain:  # OpenSSL does not tell such a timeout from an end
            self._socket.settimeout(seconds)
            return
        self._socket.settimeout(None)
        span = struct.pack("ll", *divmod(max(int(seconds * 1e6), 1), 1_000_000))  # a struct timeval, of which 0 means for ever
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, direction, span)

    def _send(self, head: bytes, body: bytes | bytearray | memoryview) -> None:
        """In one piece: two would wait for each other."""
        if len(body) <= _PIECE_BYTES:
            self._socket.sendall(b"".join((head, body)))
        elif self._is_plain:
            sent = self._socket.sendmsg((head, body))
            if sent < len(head):
                self._socket.sendall(head[sent:])
            self._socket.sendall(memoryview(body)[max(sent - len(head), 0) :])
        else:
            self._socket.sendall(head)
            self._socket.sendall(body)

    def _answer(self, method: str, into: memoryview | None) -> Answer:
        status, headers = self._head()
        if method == "HEAD" or status in _WITHOUT_BODY:
            body: bytes | bytearray = b""
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunks()
        elif into is not None and headers.get("content-length") == str(len(into)):
            self._fill(into)
            return self._ended(Answer(status, headers, b"", len(into)))
        else:
            body = self._bytes(int(headers.get("content-length", -1)))
        return self._ended(Answer(status, headers, body, len(body)))

    def _ended(self, answer: Answer) -> Answer:
        self.is_reusable = answer.headers.get("connection", "").lower() != "close" and not self._came
        return answer

    def _head(self) -> tuple[int, dict[str, str]]:
        while (end := self._came.find(b"\r\n\r\n")) < 0:
            if len(self._came) > _LONGEST_HEAD:
                raise ValueError("an answer of another form")
            self._receive()
        first, *lines = self._came[:end].decode("latin-1").split("\r\n")
        self._came = self._came[end + 4 :]
        version, status, *_ = first.split(None, 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if version != "HTTP/1.1" or headers.get("transfer-encoding", "chunked").lower() != "chunked" or int(status) < 200:  # noqa: PLR2004 - HTTP: more to follow
            raise ValueError("an answer of another form")
        return int(status), headers

    def _receive(self) -> None:
        data = self._socket.recv(_PIECE_BYTES)
        if not data:
            raise ConnectionResetError
        self._came += data

    def _bytes(self, length: int) -> bytes | bytearray:
        if not 0 <= length <= _LARGEST_ANSWER:
            raise ValueError("an answer of another form")
        if length <= len(self._came):
            data, self._came = self._came[:length], self._came[length:]
            return data
        room = bytearray(length)
        self._fill(memoryview(room))
        return room

    def _fill(self, room: memoryview) -> None:
        done = min(len(self._came), len(room))
        room[:done], self._came = self._came[:done], self._came[done:]
        flags = socket.MSG_WAITALL if self._is_plain else 0
        while done < len(room):
            came = self._socket.recv_into(room[done:], 0, flags)
            if not came:
                raise ConnectionResetError
            done += came

    def _chunks(self) -> bytearray:
        """RFC 9112, 7.1."""
        data = bytearray()
        while size := int(self._line().partition(b";")[0], 16):
            if len(data) + size > _LARGEST_ANSWER:
                raise ValueError("an answer of another form")
            data += self._bytes(size)
            if self._line():
                raise ValueError("an answer of another form")
        while self._line():  # trailers
            pass
        return data

    def _line(self) -> bytes:
        while (end := self._came.find(b"\r\n")) < 0:
            if len(self._came) > _LONGEST_HEAD:
                raise ValueError("an answer of another form")
            self._receive()
        line, self._came = self._came[:end], self._came[end + 2 :]
        return line
