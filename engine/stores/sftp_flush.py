"""A large file's way to the server's disk, while it is still arriving: so the fsync before publication finds little left to do."""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from paramiko.sftp import SFTP_FLAG_WRITE

from engine.errors import FerryError
from engine.stores.sftp_errors import FAILURES, FLUSH_SECONDS, UNSUPPORTED, StatusError
from engine.stores.sftp_session import SYNC

if TYPE_CHECKING:
    from engine.stores.sftp_connection import Pool
    from engine.stores.sftp_session import Session

EVERY_BYTES = 128 << 20


class EarlyFlush:
    """Asks for fsync again and again, on a connection of its own: on the writing one the server would take no data meanwhile.

    Only a failure to write to the disk counts, since a later fsync may not tell of it again; a connection that cannot be had, or breaks, only makes
    the last fsync longer.
    """

    def __init__(self, pool: Pool, path: str) -> None:
        self._pool = pool
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ferry-flush")
        self._asked: Future[None] | None = None
        self._asked_at = 0
        self._session: Session | None = None
        self._handle = b""
        self._failure: StatusError | None = None

    def passed(self, sent: int) -> None:
        """So many bytes are on their way by now."""
        if sent - self._asked_at < EVERY_BYTES or (self._asked is not None and not self._asked.done()):
            return
        self._asked_at = sent
        self._asked = self._thread.submit(self._flush)

    def end(self) -> None:
        """Give back the connection; raises what went wrong on the disk."""
        self._thread.shutdown()
        if self._session is not None:
            session, self._session = self._session, None
            with contextlib.suppress(*FAILURES):
                session.close_file(self._handle)
            self._pool.give_back(session)
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """The file is not wanted any more: nobody waits for a server that is busy with its disk."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._session is not None:
            self._session.close()  # which ends a request that is under way

    def _flush(self) -> None:
        try:
            if self._session is None:
                self._open()
            self._sync()
        except (FerryError, *FAILURES):
            self._asked_at = sys.maxsize  # it goes without

    def _open(self) -> None:
        session = self._pool.take()
        try:
            self._handle = session.open_file(self._path, SFTP_FLAG_WRITE)
        except BaseException:
            self._pool.give_back(session)
            raise
        self._session = session

    def _sync(self) -> None:
        assert self._session is not None  # noqa: S101 - opened before
        try:
            with self._session.patience(FLUSH_SECONDS):
                self._session.extended(SYNC, self._handle)
        except StatusError as refused:
            if refused.code != UNSUPPORTED:
                self._failure = refused
            raise
