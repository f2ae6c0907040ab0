"""What the operating system says about files, in the engine's words."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, ResourceError, TransferFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.errors import FerryError

_REASONS: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENOENT: "there is no such file",
    errno.EMFILE: "too many open files",
    errno.EFBIG: "the file grows beyond what is allowed here",
    errno.ESTALE: "the network share lost track of the file",
    errno.EIO: "the device reports an error",
}
_NAMES = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_RESOURCE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.EFBIG}


@contextlib.contextmanager
def translating(place: str, verb: str) -> Iterator[None]:
    """Translate what the block raises."""
    try:
        yield
    except OSError as error:
        raise translated(error, place, verb) from None


def translated(error: OSError, place: str, verb: str) -> FerryError:
    """One error, with the place and what was wanted."""
    reason = _REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else "the system refused")
    message = f"cannot {verb} {place}: {reason}"
    if error.errno in _NAMES:
        return ConfigurationError(f"{message}; choose another name")
    kind = ResourceError if error.errno in _RESOURCE else TransferFailed
    return kind(message, transient=error.errno in {errno.ESTALE, errno.EIO, errno.ENOSPC, errno.EDQUOT})
