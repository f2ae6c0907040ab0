"""Blocks of memory of one size, each of which is used again once nobody holds what was made of it.

Fresh memory costs a page fault for each 4 KiB, and blocks that are freed in other threads than they were allocated in leave holes behind.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


class Blocks:
    """For any threads.

    Args:
        size: Bytes of a block.

    Example:
        >>> blocks = Blocks(8)
        >>> held = blocks.lease(blocks.take())[:4]
        >>> blocks.spare
        0
        >>> del held
        >>> blocks.spare
        1
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._spare: list[Bytes] = []

    @property
    def spare(self) -> int:
        """How many wait to be used again."""
        return len(self._spare)

    def take(self) -> Bytes:
        """A block, whatever is in it."""
        try:
            return self._spare.pop()
        except IndexError:
            return np.empty(self.size, np.uint8)

    def lease(self, block: Bytes) -> memoryview:
        """The same memory; when nobody has what is returned here any more, nor a part of it, it is used again."""
        leased = block[:]
        weakref.finalize(leased, self._spare.append, block).atexit = False
        return leased.data  # of an array, numpy's own slices hold `block` instead of `leased`

    def give_back(self, block: Bytes) -> None:
        """Nobody looks at it any more."""
        self._spare.append(block)
