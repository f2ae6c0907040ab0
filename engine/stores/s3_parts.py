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
    """Cuts a stream into parts, in memory that is used again: new memory costs the kernel as much as hashing what comes into it.

    Args:
        chunk: Bytes that parts begin with (`part_size`).
        declared: Of the whole stream, where that is known: a small one takes no more memory than it needs.

    Attributes:
        waiting: Parts that are complete and were not taken yet.

    Example:
        >>> cutter = Cutter(4, None)
        >>> list(cutter.cut(memoryview(b"abcdef")))
        [2]
        >>> cutter.end()
        >>> [bytes(part) for part in cutter.waiting]
        [b'abcd', b'ef']
    """

    def __init__(self, chunk: int, declared: int | None) -> None:
        self.waiting: list[memoryview] = []
        self._chunk = chunk
        self._declared = declared
        self._ended = 0
        self._filling = memoryview(b"")
        self._filled = 0
        self._idle: list[bytearray] = []

    def cut(self, data: memoryview) -> Iterator[int]:
        """Take these bytes in; gives, after each part that they complete, how many are left."""
        at = 0
        while at < len(data):
            if not self._filling:
                self._filling = self._room()
            taken = min(len(self._filling) - self._filled, len(data) - at)
            self._filling[self._filled : self._filled + taken] = data[at : at + taken]
            self._filled += taken
            at += taken
            if self._filled == len(self._filling):
                self.end()
                yield len(data) - at

    def end(self) -> None:
        """The part under way is complete as it is."""
        if self._filled:
            self.waiting.append(self._filling[: self._filled])
            self._ended += 1
        self._filling, self._filled = memoryview(b""), 0

    def give_back(self, part: memoryview) -> None:
        """A part that was sent. From any thread."""
        if isinstance(part.obj, bytearray):
            self._idle.append(part.obj)

    def clear(self) -> None:
        """Forget everything."""
        self.waiting, self._idle = [], []
        self._filling, self._filled = memoryview(b""), 0

    def _room(self) -> memoryview:
        size = part_size(self._ended + 1, self._chunk)
        if self._declared and not self._ended:
            size = min(size, self._declared)
        room = self._idle.pop() if self._idle else bytearray(size)
        return memoryview(room if len(room) == size else bytearray(size))
