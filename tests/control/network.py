"""A network that swallows what is sent: a real TCP proxy in front of a server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Network:
    """Passes bytes between clients and one server; what is open can be made to stall, without a sign of it to either side."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._stalled: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._closed = False
        self._thread = threading.Thread(target=self._pass, daemon=True)
        self._thread.start()

    def stall(self) -> None:
        """Swallow, from now on, whatever comes over connections that are open; new ones pass."""
        with self._lock:
            self._stalled |= set(self._pairs)

    def close(self) -> None:
        self._closed = True
        self._thread.join(timeout=10)
        for one in (self._listener, *self._pairs):
            one.close()
        self._selector.close()

    def _pass(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(timeout=0.05):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if one is self._listener:
                    self._accept()
                else:
                    self._forward(one)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._server)
        with self._lock:
            self._pairs.update({client: server, server: client})
        for one in (client, server):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        try:
            data = one.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(one)
            if one not in self._stalled:
                with contextlib.suppress(OSError):
                    self._pairs[one].shutdown(socket.SHUT_WR)
        elif one not in self._stalled:
            with contextlib.suppress(ConnectionError):
                self._pairs[one].sendall(data)


@contextlib.contextmanager
def network(port: int) -> Iterator[Network]:
    """A network between this machine and itself."""
    with contextlib.closing(Network(("127.0.0.1", port))) as between:
        yield between
