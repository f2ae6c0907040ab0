"""A file that gets another name on its SFTP server, by a rename; and the folders that a new name needs."""

from __future__ import annotations

import posixpath
import stat
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError
from engine.stores.sftp_errors import StatusError

if TYPE_CHECKING:
    from collections.abc import Callable

    import paramiko

    from engine.stores.sftp_publish import Place
    from engine.stores.sftp_session import Session


def move(session: Session, old: str, new: Place, check: Callable[[paramiko.SFTPAttributes | None], None]) -> bool:
    """Move a file; False, with nothing done, when the server does not rename it (to another of its disks, say).

    A rename by the protocol never replaces (https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02#section-6.5). Not every server keeps to it, so the
    new name is looked at first.

    Args:
        session: A connection.
        old: The file's path.
        new: What it becomes.
        check: Raises unless it is the file that is meant.

    Raises:
        ConfigurationError: Something stands at `new`.
    """
    found = session.attributes(old, follow=False)
    if found is not None and stat.S_ISLNK(found.st_mode or 0):
        return False  # its file is meant, which lies elsewhere
    check(found)
    if session.attributes(new.path, follow=False) is not None:
        raise ConfigurationError(f"{new.url} exists already; nothing was replaced")
    make_folders(session, new, [])
    try:
        session.plain_rename(old, new.path)
    except StatusError:
        if session.attributes(new.path, follow=False) is not None:  # somebody was faster
            raise ConfigurationError(f"{new.url} exists already; nothing was replaced") from None
        return False
    try:
        check(session.attributes(new.path))
    except BaseException:
        session.plain_rename(new.path, old)  # another file had come to its place
        raise
    return True


def make_folders(session: Session, place: Place, made: list[str]) -> None:
    """Make those that are missing, and add them to `made`; somebody may be faster, and what a server answers then differs."""
    missing: list[str] = []
    folder = posixpath.dirname(place.path)
    while folder.strip("/") and (found := session.attributes(folder)) is None:
        missing.append(folder)
        folder = posixpath.dirname(folder)
    if folder.strip("/") and found is not None and not _is_folder(found):
        raise ConfigurationError(f"cannot write {place.url}: a part of the path is a file, not a folder; choose another name")
    for folder in reversed(missing):
        try:
            session.make_folder(folder)
        except StatusError:
            found = session.attributes(folder)
            if found is None or not _is_folder(found):
                raise
        else:
            made.append(folder)


def _is_folder(found: paramiko.SFTPAttributes) -> bool:
    return found.st_mode is None or stat.S_ISDIR(found.st_mode)
