"""The moment at which an uploaded file appears under its final name, on servers that differ in what a rename does.

The final name is never deleted first. After an answer that says no, or that was lost, both names are looked at before anything is said.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, FerryError, OutcomeUnknown
from engine.stores.sftp_errors import FAILURES, UNSUPPORTED, StatusError, translated
from engine.stores.sftp_session import HARD_LINK, POSIX_RENAME
from engine.stores.temporary import temporary_name, token_of

if TYPE_CHECKING:
    import paramiko

    from engine.protocols import Exists
    from engine.stores.sftp_connection import Pool
    from engine.stores.sftp_errors import Failure
    from engine.stores.sftp_session import Session


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file goes: its path on the server, and how people are shown it."""

    path: str
    url: str

    def beside(self, name: str) -> str:
        """The path of another name in the same folder."""
        return posixpath.join(posixpath.dirname(self.path), name)


def aside_name(temporary: str) -> str:
    """Where the old file waits while a server that cannot replace one puts the new one in its place: told by the temporary name alone, for `sweep`."""
    folder, name = posixpath.split(temporary)
    token = token_of(name) or ""
    return posixpath.join(folder, temporary_name(f"{name[1:].removesuffix(f'.{token}.part')}.old", token))


class Publication:
    """Gives a finished temporary file its final name.

    Attributes:
        replaced: Whether a file stood there before; until it is looked at, what the caller knows.
        is_pending: Whether the temporary file may still be there, and is of no more use.
        remains: What could not be removed.
    """

    def __init__(self, pool: Pool, temporary: str, place: Place, ours: paramiko.SFTPAttributes, exists: Exists, *, replaces: bool) -> None:
        self.replaced = replaces
        self.is_pending = True
        self.remains: list[str] = []
        self._pool = pool
        self._temporary = temporary
        self._aside = aside_name(temporary)
        self._place = place
        self._ours = (ours.st_size, ours.st_mtime)
        self._exists = exists

    def run(self) -> None:
        """Publish.

        Raises:
            ConfigurationError: `exists="fail"`, and something stands there.
            OutcomeUnknown: Nobody can say whether it was published.
        """
        session = self._pool.take()
        try:
            if self._exists == "fail":
                self._appear(session)
            else:
                self._replace(session)
        except FAILURES as error:
            self._learn(error)
        finally:
            self._pool.give_back(session)
        self.is_pending = False

    def _appear(self, session: Session) -> None:
        """A hard link never replaces; where there are none, neither does a rename by the protocol."""
        self.replaced = session.attributes(self._place.path, follow=False) is not None
        if self.replaced:
            raise self._standing()
        if HARD_LINK in session.extensions:
            try:
                session.extended(HARD_LINK, os.fsencode(self._temporary), os.fsencode(self._place.path))
            except StatusError:
                if session.attributes(self._place.path, follow=False) is not None:
                    raise self._standing() from None
            else:
                self._remove(session, self._temporary)
                return
        try:
            session.plain_rename(self._temporary, self._place.path)
        except StatusError:
            if session.attributes(self._temporary) is not None and session.attributes(self._place.path, follow=False) is not None:
                raise self._standing() from None
            raise

    def _replace(self, session: Session) -> None:
        standing = session.ask_attributes(self._place.path, follow=False)
        if POSIX_RENAME in session.extensions:
            renamed = session.ask_extended(POSIX_RENAME, os.fsencode(self._temporary), os.fsencode(self._place.path))
            standing.wait()
            with contextlib.suppress(StatusError):  # then it is as it was when the file was begun
                self.replaced = standing.get() is not None
            try:
                renamed.get()
            except StatusError as refused:
                if refused.code != UNSUPPORTED:
                    raise
            else:
                return
        self.replaced = standing.get() is not None
        if not self.replaced:
            try:
                session.plain_rename(self._temporary, self._place.path)
            except StatusError:
                if session.attributes(self._place.path, follow=False) is None:
                    raise
                self.replaced = True  # somebody was faster
            else:
                return
        self._exchange(session)

    def _exchange(self, session: Session) -> None:
        """The old file steps aside and comes back if the new one cannot take its place."""
        session.plain_rename(self._place.path, self._aside)
        try:
            session.plain_rename(self._temporary, self._place.path)
        except StatusError:
            session.plain_rename(self._aside, self._place.path)
            raise
        self._remove(session, self._aside)

    def _learn(self, error: Failure) -> None:
        """Find out what became of it; returns if the file stands there after all."""
        what = f"publish {self._place.url}"
        try:
            session = self._pool.take() if isinstance(error, StatusError) else self._pool.fresh()
        except FerryError:
            raise self._unknown() from None
        try:
            if self._is_done(session):
                return
        except FAILURES:
            raise self._unknown() from None
        finally:
            self._pool.give_back(session)
        raise translated(error, what) from None

    def _is_done(self, session: Session) -> bool:
        temporary = session.attributes(self._temporary, follow=False)
        final = session.attributes(self._place.path, follow=False)
        aside = session.attributes(self._aside, follow=False)
        is_ours = final is not None and self._ours == (final.st_size, final.st_mtime) != (None, None)
        if is_ours and (temporary is None or (self._exists == "fail" and not self.replaced)):  # a link leaves both
            for path, left in ((self._temporary, temporary), (self._aside, aside)):
                if left is not None:
                    self._remove(session, path)
            return True
        if temporary is None:
            raise self._unknown()
        if aside is not None and final is None:
            session.plain_rename(self._aside, self._place.path)
        return False

    def _remove(self, session: Session, path: str) -> None:
        """What is of no more use; the file is published, so that this fails is only worth a note."""
        try:
            session.remove_file(path)
        except StatusError:
            self.remains.append(path)

    def _standing(self) -> ConfigurationError:
        return ConfigurationError(f"{self._place.url} exists already (if_exists: fail); nothing was replaced")

    def _unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"cannot publish {self._place.url}: the answer was lost, and it is not known whether the file stands there now; look before trying again "
            f"(the file before it may wait as {posixpath.basename(self._aside)})"
        )


def sweep(session: Session, place: Place, leftover: str) -> bool:
    """Remove the temporary file of a run that was killed, and let an old file that had stepped aside come back, unless the new one stands there."""
    temporary = place.beside(leftover)
    aside = aside_name(temporary)
    is_aside = session.attributes(aside, follow=False) is not None
    if is_aside and session.attributes(place.path, follow=False) is None:
        session.plain_rename(aside, place.path)
    elif is_aside:
        session.remove_file(aside)
    if session.attributes(temporary, follow=False) is None:
        return is_aside
    session.remove_file(temporary)
    return True
