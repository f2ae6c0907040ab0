"""A real HTTP proxy in front of the S3 server that loses, delays or damages what passes through it."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator


@dataclass
class Exchange:
    """One request and its answer; a fault changes them before they travel on.

    Attributes:
        lost: After the server has answered, close the connection instead of passing the answer on.
        answer_instead: A status that is answered without asking the server.
        promised: The length that the answer announces, where it is not the body's.
        sent: The request's headers.
    """

    verb: str
    target: str
    body: bytes
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    answer: bytes = b""
    lost: bool = False
    answer_instead: int | None = None
    promised: int | None = None
    sent: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Proxy:
    """Where the proxy listens, what passed, and the faults: `before` sees requests, `after` answers."""

    endpoint_url: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[Exchange], None] = lambda _: None
    after: Callable[[Exchange], None] = lambda _: None

    def count(self, verb: str, part: str = "") -> int:
        """How many requests of that kind came."""
        return sum(v == verb and part in target for v, target in self.seen)


@contextlib.contextmanager
def proxy(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy to `upstream` on a free port of the loopback; its clients speak TLS if it has a context for that."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    state = Proxy(f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}")
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.state, server.upstream = state, urlsplit(upstream).netloc  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""

    def _pass(self) -> None:
        state: Proxy = self.server.state  # type: ignore[attr-defined]
        exchange = Exchange(self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)), sent=self.headers.items())
        state.seen.append((exchange.verb, exchange.target))
        state.before(exchange)
        if exchange.answer_instead is None:
            self._ask(exchange)
        else:
            exchange.status = exchange.answer_instead
        state.after(exchange)
        if exchange.lost:
            self.close_connection = True
            return
        self.send_response_only(exchange.status)
        for name, value in exchange.headers:
            self.send_header(name, value)
        length = len(exchange.answer) if exchange.promised is None else exchange.promised
        if exchange.verb != "HEAD":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked waits no more
            self.wfile.write(exchange.answer)
        self.close_connection = self.close_connection or length != len(exchange.answer)

    def _ask(self, exchange: Exchange) -> None:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)  # type: ignore[attr-defined]
        with contextlib.closing(connection):
            connection.putrequest(exchange.verb, exchange.target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "connection", "content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(exchange.body)))
            connection.endheaders(exchange.body)
            response = connection.getresponse()
            exchange.status, exchange.answer = response.status, response.read()
            skipped = {"transfer-encoding", "connection"} | ({"content-length"} if exchange.verb != "HEAD" else set())
            exchange.headers = [(n, v) for n, v in response.getheaders() if n.lower() not in skipped]

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815 - named by http.server
