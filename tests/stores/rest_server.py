"""An HTTP endpoint that keeps what it is sent, and misbehaves as a test asks for."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

KEPT_BYTES = 32 << 20  # of a body; larger ones are hashed only


@dataclass
class Taken:
    """One request whose body came whole."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    length: int
    sha256: str

    @property
    def parts(self) -> dict[str, tuple[str | None, str, bytes]]:
        """The fields of a form: name → file's name, type, bytes; by a parser that is not ours."""
        message = message_from_bytes(b"Content-Type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + self.body)
        found = {}
        for part in message.get_payload():
            assert not isinstance(part, str)
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True)
            found[str(name)] = (part.get_filename(), part.get_content_type(), data if isinstance(data, bytes) else b"")
        return found


@dataclass
class Endpoint:
    """The server as a test sees it. Each answer is used once, then it is 201.

    Attributes:
        answers: What to do with the next requests: a status with headers; or `reset` before, `stall` instead of, `lost` after the answer; `drip`
            byte by byte; a third item `early` answers before
            the body, `deaf` too, and leaves the connection open unread.
        taken: Requests whose bodies came whole and that were kept.
        begun: Requests of any kind.
    """

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def endpoint(tls: Callable[[socket.socket], ssl.SSLSocket] | None = None) -> Iterator[Endpoint]:
    """Run it on 127.0.0.1."""
    state = Endpoint()

    class Handler(_Handler):
        endpoint = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # connections are cut on purpose
    if tls is not None:
        server.socket = tls(server.socket)
    state.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint
    protocol_version = "HTTP/1.1"

    def _take(self) -> None:
        state = self.endpoint
        state.begun.append(self.command)
        answer = state.answers.pop(0) if state.answers else (201, {})
        kind = answer if isinstance(answer, str) else None
        self.close_connection = True
        if kind == "reset":
            self.rfile.read(1000)
            self._cut()
            return
        if isinstance(answer, tuple) and len(answer) == 3:  # before the body has come
            self._answer(*answer[:2])
            if answer[2] == "deaf":
                state.stopped.wait(30)
            return
        taken = self._read()
        if taken is None:
            return
        if kind == "stall":
            state.stopped.wait(30)
            return
        if kind in {"lost", "drip"} or answer[0] < 300:
            state.taken.append(taken)
        if kind == "lost":
            self._cut()
            return
        if kind == "drip":
            self._drip()
            return
        self._answer(*answer)

    def _drip(self) -> None:
        self.wfile.write(b"HTTP/1.1 ")
        while not self.endpoint.stopped.wait(0.1):
            self.wfile.write(b" ")

    def _read(self) -> Taken | None:
        left = length = int(self.headers["Content-Length"])
        digest, kept = hashlib.sha256(), []
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            if not data:
                return None  # the client went away
            digest.update(data)
            if length <= KEPT_BYTES:
                kept.append(data)
            left -= len(data)
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Taken(self.command, self.path, headers, b"".join(kept), length, digest.hexdigest())

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        body = b"SECRET of the server"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Type" not in headers:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def do_HEAD(self) -> None:
        self._answer(405, {})

    do_POST = do_PUT = do_PATCH = _take  # noqa: N815 - http.server's own names

    def log_message(self, *_: object) -> None:
        """Say nothing."""
