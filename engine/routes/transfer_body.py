"""What stands between a source and a destination while bytes pass: they are counted, slowed down, and refused when nobody wants them any more."""

from __future__ import annotations

import io
import threading
import time
from typing import TYPE_CHECKING

from engine.options import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from typing_extensions import Buffer

PIECE_BYTES = MIB


def pieces(body: Watched, size: int) -> Iterator[memoryview]:
    """The bytes of a body of about `size` bytes, in one buffer that is used again for each piece: the kernel clears new memory first."""
    room = memoryview(bytearray(max(1, min(size, PIECE_BYTES))))
    while count := body.readinto(room):
        yield room[:count]


class Watched(io.RawIOBase):
    """A body whose bytes are counted, slowed down, and refused when they are not wanted any more."""

    def __init__(self, body: BinaryIO, passing: Callable[[int], None]) -> None:
        super().__init__()
        self._body = body
        self._passing = passing

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `PIECE_BYTES` for who does not say how many."""
        data = self._body.read(PIECE_BYTES if size is None or size < 0 else size)
        self._passing(len(data))
        return data

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill `buffer` as far as one read goes."""
        count: int = self._body.readinto(buffer)  # type: ignore[attr-defined]  # every store's body has it
        self._passing(count)
        return count


class Rate:
    """Bytes per second of all files together."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._each = 1 / bytes_per_second if bytes_per_second else 0.0
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def wait_for(self, count: int, stopped: threading.Event) -> None:
        """Wait until so many bytes may pass."""
        if not self._each:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count * self._each
            pause = self._free_at - time.monotonic()
        stopped.wait(pause)
