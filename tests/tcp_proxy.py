"""A way to a server that breaks as a test asks for: it resets, cuts, stalls or slows connections after so many bytes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 1 << 16
POLL_SECONDS = 0.05
NEVER_ENDING = 1_000_000
Direction = Literal["up", "down"]


@dataclass
class Fault:
    """What happens, in which direction, after how many bytes, and how often.

    Attributes:
        kind: `reset` both connections; `truncate`: end this direction as if all had been said; `stall`: nothing passes any more; `delay` each piece.
        direction: `up` is what the client sends.
        after: Bytes in this direction, over all connections, that pass before.
        times: How many connections meet it; the count of bytes begins anew for each.
        seconds: Of a delay.
    """

    kind: Literal["reset", "truncate", "stall", "delay"]
    direction: Direction
    after: int
    times: int = NEVER_ENDING
    seconds: float = 0.0


@dataclass
class TcpProxy:
    """The way as a test sees it.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        hits: Faults that happened.
    """

    port: int
    target: tuple[str, int]
    hits: int = 0
    _fault: Fault | None = None
    _passed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def arm(self, fault: Fault | None) -> None:
        """From now on; None: the way is sound again."""
        with self._lock:
            self._fault, self._passed, self.hits = fault, 0, 0

    def due(self, direction: Direction, count: int) -> tuple[int, Fault | None]:
        """How many of so many bytes may pass, and what happens then."""
        with self._lock:
            fault = self._fault
            if fault is None or fault.direction != direction or self.hits >= fault.times:
                return count, None
            room = fault.after - self._passed
            self._passed += count
            if room >= count:
                return count, None
            if fault.kind != "delay":
                self._passed = 0
            self.hits += 1
            return max(room, 0) if fault.kind != "delay" else count, fault

    def carry(self, client: socket.socket) -> None:
        """One connection, to its end."""
        with contextlib.suppress(OSError), client, socket.create_connection(self.target) as server:
            ways: dict[socket.socket, tuple[socket.socket, Direction]] = {client: (server, "up"), server: (client, "down")}
            while ways and not self._stopped.is_set():
                for source in select.select(list(ways), [], [], POLL_SECONDS)[0]:
                    target, direction = ways[source]
                    data = source.recv(PIECE_BYTES)
                    passing, fault = self.due(direction, len(data))
                    target.sendall(data[:passing])
                    if fault is not None and fault.kind == "reset":
                        for end in (client, server):
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    if fault is not None and fault.kind == "stall":
                        self._stopped.wait()
                        return
                    if fault is not None and fault.kind == "delay":
                        time.sleep(fault.seconds)
                    elif fault is not None or not data:
                        target.shutdown(socket.SHUT_WR)
                        del ways[source]

    def close(self) -> None:
        """End all connections."""
        self._stopped.set()


@contextlib.contextmanager
def tcp_proxy(port: int, host: str = "127.0.0.1") -> Iterator[TcpProxy]:
    """A way to a port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(POLL_SECONDS)
        proxy = TcpProxy(listener.getsockname()[1], (host, port))
        stopped = threading.Event()

        def accept() -> None:
            while not stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    client, _ = listener.accept()
                    client.setblocking(True)
                    threading.Thread(target=proxy.carry, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            stopped.set()
            proxy.close()
            thread.join()
