"""Standard error, for whoever still reads it: a log or a line of progress that can be written nowhere is no reason to stop moving data."""

from __future__ import annotations

import os
import sys
from typing import Any


class Stderr:
    """Standard error for libraries that write to a file: as `tell` does."""

    def write(self, text: str) -> int:
        """Always the whole of it."""
        tell(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def tell(text: str) -> None:
    r"""Write; from the first failure on (a reader that is gone, a full disk) nothing is written any more.

    Example:
        >>> tell("ferry: warning: nothing was moved\n")  # doctest: +SKIP
    """
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        # What is left in the buffer would fail again, when Python flushes it at its end, and make an exit code of 120.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
