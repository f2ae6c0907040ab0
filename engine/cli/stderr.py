"""Standard error, for whoever still reads it: a log or a line of progress that can be written nowhere is no reason to stop moving data."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


class Stderr:
    """Standard error as it is now, for libraries that write to a file, or put another in its place meanwhile: as `tell` does."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        """Always the whole of it."""
        _write(self._stream, text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell(text: str) -> None:
    r"""Write; from the first failure on (a reader that is gone, a full disk) nothing is written any more.

    Example:
        >>> tell("ferry: warning: nothing was moved\n")  # doctest: +SKIP
    """
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # What is left in the buffer would fail again, when Python flushes it at its end, and make an exit code of 120.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
