"""The bytes of one listed file, as many as announced: what `open_read` of a store gives."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from engine.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer


class Window(io.RawIOBase):
    """A readable binary file of `length` bytes.

    Args:
        read: Gives up to so many bytes of what is behind, none at its end; raises the engine's errors only.
        length: Bytes that must come.
        name: What is read, for messages.
        fill: Puts what is behind into a buffer, where that costs less than making bytes of it first.

    Raises:
        IntegrityError: On reading, when the bytes end before `length`: a short file is never taken for a whole one.
    """

    def __init__(self, read: Callable[[int], bytes], length: int, name: str, fill: Callable[[memoryview], int] | None = None) -> None:
        super().__init__()
        self._read = read
        self._fill = fill
        self._left = length
        self._name = name

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; all that are left when negative or None."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(io.DEFAULT_BUFFER_SIZE << 4), b""))
        wanted = min(size, self._left)
        if not wanted:
            return b""
        data = self._read(wanted)
        self._came(len(data))
        return data

    def readall(self) -> bytes:
        """All that are left."""
        return self.read(-1)

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill `buffer` as far as one read goes."""
        view = memoryview(buffer).cast("B")
        if self._fill is None or not self._left:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)
        count = self._fill(view[: self._left])
        self._came(count)
        return count

    def _came(self, count: int) -> None:
        if not count:
            raise IntegrityError(f"{self._name} ended {self._left:,} bytes early", transient=True)
        self._left -= count
