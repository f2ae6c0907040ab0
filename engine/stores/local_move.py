"""A file that gets another name of the same file system: a hard link, which never replaces, then the old name goes. A kill in between leaves both names."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError
from engine.stores.local_errors import translating
from engine.stores.local_writer import make_folders, sync_folders
from engine.stores.temporary import temporary_name, token_of

if TYPE_CHECKING:
    from collections.abc import Callable

_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}


def _sweep(place: str) -> None:
    """Remove what killed runs left of copies to this place, which are made where nothing can be linked."""
    folder, _, name = place.rpartition("/")
    for entry in os.listdir(folder or "/"):  # noqa: PTH208 - as below
        token = token_of(entry)
        if token is not None and temporary_name(name, token) == entry:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}/{entry}")  # noqa: PTH108 - as below


def move(old: str, new: str, check: Callable[[os.stat_result], None]) -> bool:
    """Move a file; False, with nothing done, when the system cannot link it.

    Args:
        old: Its path.
        new: The path that it gets; folders are made.
        check: Raises unless it is the file that is meant.

    Raises:
        ConfigurationError: Something stands at `new`.
    """
    made: list[str] = []
    if os.path.islink(old):  # noqa: PTH114 - no path object for each question
        return False  # its file is meant, which lies elsewhere
    with translating(new, "write"):
        make_folders(new.rpartition("/")[0], made)
        try:
            os.link(old, new)
        except FileExistsError:
            raise ConfigurationError(f"{new} exists already; nothing was replaced") from None
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            _sweep(new)
            return False
        try:
            check(os.stat(new))  # noqa: PTH116 - as above
        except BaseException:
            os.unlink(new)  # noqa: PTH108 - as above
            raise
        sync_folders(new.rpartition("/")[0], made)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(old, new):  # noqa: PTH121 - as above; else somebody has put another file there since
                os.unlink(old)  # noqa: PTH108 - as above
                sync_folders(old.rpartition("/")[0])
    return True
