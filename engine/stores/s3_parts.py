"""How an object is cut into the parts of a multipart upload (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.options import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_PARTS = 10_000
_LARGEST_PART_IN_BUDGET = 64 * MIB


def part_size(number: int, chunk: int) -> int:
    """Bytes of part `number` (from 1) when parts begin at `chunk` bytes.

    Parts grow with their number, so that a stream whose length nobody knows does not meet the limit of 10,000 parts: `chunk` for the first thousand,
    twice that for the next, then four times that, but at least 64 MiB. So they hold 536 GiB with parts of 5 MiB, 539 GiB with the default of 8.

    Example:
        >>> [part_size(n, 8 * MIB) // MIB for n in (1, 1000, 1001, 2001)]
        [8, 8, 32, 64]
    """
    if number <= 1000:  # noqa: PLR2004 - as the docstring says
        return chunk
    return max(2 * chunk, _LARGEST_PART_IN_BUDGET // 2) if number <= 2000 else max(4 * chunk, _LARGEST_PART_IN_BUDGET)  # noqa: PLR2004


class Cutter:
    """Cuts a stream into parts, in memory that is used again: the kernel clears new memory first.

    The first part takes no more than its bytes: most streams end within it.

    Args:
        chunk: Bytes that parts begin with (`part_size`).

    Attributes:
        waiting: Parts that are complete and were not taken yet.

    Example:
        >>> cutter = Cutter(4)
        >>> for _ in cutter.cut(memoryview(b"abcdef")):
        ...     print("a part is complete")
        a part is complete
        >>> cutter.end()
        >>> [bytes(part) for part in cutter.waiting]
        [b'abcd', b'ef']
    """

    def __init__(self, chunk: int) -> None:
        self.waiting: list[memoryview] = []
        self._chunk = chunk
        self._ended = 0
        self._first = bytearray()
        self._filling = memoryview(b"")  # any later part
        self._filled = 0
        self._idle: list[bytearray] = []

    def cut(self, data: memoryview) -> Iterator[None]:
        """Take these bytes in; stops after each part that they complete."""
        at = 0
        while at < len(data):
            size = part_size(self._ended + 1, self._chunk)
            taken = min(size - self._filled, len(data) - at)
            if not self._ended:
                self._first += data[at : at + taken]
            else:
                self._filling = self._filling or self._room(size)
                self._filling[self._filled : self._filled + taken] = data[at : at + taken]
            self._filled += taken
            at += taken
            if self._filled == size:
                self.end()
                yield

    def end(self) -> None:
        """The part under way is complete as it is."""
        if self._filled:
            self.waiting.append((self._filling if self._ended else memoryview(self._first))[: self._filled])
            self._ended += 1
        self._first, self._filling, self._filled = bytearray(), memoryview(b""), 0

    def joined(self) -> memoryview:
        """All that waits, as one; each piece is forgotten once it is copied."""
        self.end()
        if len(self.waiting) == 1:
            return self.waiting.pop()
        whole = bytearray()
        while self.waiting:
            whole += self.waiting.pop(0)
        return memoryview(whole)

    def give_back(self, part: memoryview) -> None:
        """A part that was sent. From any thread."""
        if isinstance(part.obj, bytearray):
            self._idle.append(part.obj)

    def clear(self) -> None:
        """Forget everything."""
        self.waiting, self._idle = [], []
        self._first, self._filling, self._filled = bytearray(), memoryview(b""), 0

    def _room(self, size: int) -> memoryview:
        if self._idle and len(room := self._idle.pop()) == size:
            return memoryview(room)
        self._idle.clear()  # parts have become larger
        return memoryview(bytearray(size))


def as_boto_takes(part: memoryview) -> bytes | bytearray:
    """Without a copy, if it is the whole of its memory."""
    return part.obj if isinstance(part.obj, bytearray) and len(part.obj) == len(part) else bytes(part)
