"""One file on its way to an SFTP server: written under a temporary name with many requests in flight, each of whose answers is checked.

In memory is one chunk; what is in flight lies in the channel and in the kernel's buffers.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import paramiko
from paramiko.sftp import SFTP_FLAG_CREATE, SFTP_FLAG_EXCL, SFTP_FLAG_READ, SFTP_FLAG_WRITE

from engine import workers
from engine.errors import ConfigurationError, FerryError, IntegrityError, TransferFailed
from engine.results import Receipt, reaches
from engine.stores.sftp_errors import FAILURES, FLUSH_SECONDS, NO_SUCH_FILE, StatusError, translating
from engine.stores.sftp_flush import EarlyFlush
from engine.stores.sftp_lane import Lane
from engine.stores.sftp_move import make_folders
from engine.stores.sftp_publish import Place, Publication
from engine.stores.sftp_read import ReadAhead
from engine.stores.sftp_session import CHECK_FILE, SYNC
from engine.stores.temporary import new_token, temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from engine.protocols import Exists
    from engine.results import Verification
    from engine.stores.sftp_answer import Answer
    from engine.stores.sftp_connection import Pool
    from engine.stores.sftp_session import Session

WIDE_BYTES = 64 << 20
LANES = 4
LONG_WAY_SECONDS = 0.005
OPEN_ATTEMPTS = 5
LOOK_AGAIN_SECONDS = (0.0, 0.05, 0.15, 0.3, 0.5, 1.0)
_NEW_FILE = SFTP_FLAG_WRITE | SFTP_FLAG_CREATE | SFTP_FLAG_EXCL
_HASHED_APART = 128 << 10  # smaller pieces are hashed sooner than handed to another thread


class SftpWriter:
    """A streaming upload (`FileWriter`). Nothing stands at the final name before the block is left without an exception."""

    def __init__(self, pool: Pool, place: Place, *, declared: int | None, exists: Exists, verify: Verification | None) -> None:
        self.size = 0
        self.remains: list[str] = []  # what could not be removed
        self._pool = pool
        self._place = place
        self._declared = declared
        self._exists = exists
        self._verify = verify
        self._token = new_token()
        self._temporary = place.beside(self.temporary_name)
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="ferry-hash")
        self._filling = bytearray()
        self._sent = 0
        self._lanes: list[Lane] = []
        self._flush: EarlyFlush | None = None
        self._round_trip = 0.0
        self._widens_at = 0 if (declared or 0) >= WIDE_BYTES else WIDE_BYTES
        self._made: list[str] = []
        self._begun = False  # whether the temporary file may be there
        self._replaces = False
        self._broken = False
        self._finished = False
        self._found = paramiko.SFTPAttributes()
        self._level: Verification = "accepted"
        self._reported = {"path": place.path}
        self._receipt: Receipt | None = None

    @property
    def temporary_name(self) -> str:
        """The name that the file has until it is published."""
        return temporary_name(posixpath.basename(self._place.path), self._token)

    @property
    def receipt(self) -> Receipt:
        """Complete once the file is published."""
        if self._receipt is None:
            raise RuntimeError("the file is not published yet")
        return self._receipt

    def __enter__(self) -> Self:
        try:
            with self._borrowed() as session, translating(self._what):
                self._lanes.append(Lane(session, self._open(session)))
                if SYNC in session.extensions:
                    self._flush = EarlyFlush(self._pool, self._temporary)
        except BaseException:
            self._discard()
            raise
        return self

    def _open(self, session: Session) -> bytes:
        """Make the temporary file, and look at what is in the way: most often nothing, and the folder is there."""
        self._begun = True
        standing = session.ask_attributes(self._place.path)
        began = time.monotonic()
        opened = session.ask_open(self._temporary, _NEW_FILE)
        opened.wait()
        self._round_trip = time.monotonic() - began
        try:
            handle = opened.get()
        except StatusError:
            self._begun = False
            self._check_way(standing.get())
            return self._open_below(session)
        try:
            self._check_way(standing.get())
        except BaseException:
            with contextlib.suppress(*FAILURES):
                session.close_file(handle)
            raise
        return handle

    def _check_way(self, standing: paramiko.SFTPAttributes | None) -> None:
        if standing is not None and not stat.S_ISREG(standing.st_mode or stat.S_IFREG):
            raise ConfigurationError(f"{self._place.url} is a folder or a device, not a file; choose another name")
        self._replaces = standing is not None

    def _open_below(self, session: Session) -> bytes:
        """Make folders that are missing, and the file: again if another writer, who failed, has just taken away the folders that it had made."""
        for left in reversed(range(OPEN_ATTEMPTS)):
            try:
                make_folders(session, self._place, self._made)
                self._begun = True
                return session.open_file(self._temporary, _NEW_FILE)
            except StatusError as refused:
                self._begun = False
                if refused.code != NO_SUCH_FILE or not left:
                    raise
        raise AssertionError  # the loop returns or raises

    def write(self, data: bytes | memoryview | Any) -> int:
        """Append; blocks while too many requests are in flight, and raises as soon as one is known to have failed."""
        if not self._lanes:
            raise RuntimeError("the file is finished")
        view = memoryview(data).cast("B")
        hashing = None
        if len(view) >= _HASHED_APART:
            hashing = self._hasher.submit(self._digest.update, view)  # beside the encryption
        else:
            self._digest.update(view)
        self.size += len(view)
        try:
            with self._breaking(), translating(self._what):
                self._append(view)
        finally:
            if hashing is not None:
                hashing.result()  # the caller may use the buffer again
        return len(view)

    def _append(self, view: memoryview) -> None:
        chunk, at = self._lanes[0].session.write_chunk, 0
        if self._filling:
            at = min(chunk - len(self._filling), len(view))
            self._filling += view[:at]
            if len(self._filling) < chunk:
                return
            self._send_filling()
        while len(view) - at >= chunk:
            self._send(view[at : at + chunk])
            at += chunk
        self._filling += view[at:]

    def finish(self) -> None:
        """Send the tail, see every answer, sync, close, and look at what the server has; the file still has its temporary name."""
        if self._finished:
            return
        if self._broken or not self._lanes:
            raise TransferFailed(f"{self._place.url}: an earlier failure to write it was ignored; not published")
        session = self._lanes[0].session
        with self._breaking():
            if self._declared is not None and self._declared != self.size:
                raise IntegrityError(f"{self._place.url}: {self.size:,} bytes written, {self._declared:,} announced; not published")
            with translating(self._what):
                found = self._looked_again(session, self._complete(session))
            self._check_size(found)
            with translating(f"verify {self._place.url}"):
                self._reach(session)
            self._release()
            self._finished = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._discard()
            return
        try:
            self.finish()
            publication = Publication(self._pool, self._temporary, self._place, self._found, self._exists, replaces=self._replaces)
            self._begun = False  # from here on the publication decides what is left
            try:
                publication.run()
            finally:
                self.remains += publication.remains
                self._begun = publication.is_pending
        except BaseException:
            self._discard()
            raise
        self._receipt = Receipt(self.size, self._digest.hexdigest(), self._level, publication.replaced, self._reported)

    @property
    def _what(self) -> str:
        return f"write {self._place.url}"

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Whoever swallows an error from here must not publish what is left."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def _send_filling(self) -> None:
        filling, self._filling = self._filling, bytearray()
        self._send(memoryview(filling))

    def _send(self, data: memoryview) -> None:
        if self._sent >= self._widens_at:
            self._widen()
        lane = min(self._lanes, key=Lane.look)
        lane.send(self._sent, data)
        self._sent += len(data)
        if self._flush is not None:
            self._flush.passed(self._sent)

    def _widen(self) -> None:
        """Write a large file over several connections, where the way is long: a server takes only 2 MiB ahead of its answers on each.

        Only servers that offer fsync have files as POSIX has them; behind others may be an object store, where the last handle that is closed wins.
        """
        self._widens_at = sys.maxsize
        if self._round_trip < LONG_WAY_SECONDS or SYNC not in self._lanes[0].session.extensions:
            return
        with ThreadPoolExecutor(LANES - 1, thread_name_prefix="ferry-login") as logins:
            for _ in range(LANES - 1):
                logins.submit(self._add_lane)

    def _add_lane(self) -> None:
        with contextlib.suppress(FerryError, *FAILURES), self._borrowed() as session:  # then it goes with what there is
            self._lanes.append(Lane(session, session.open_file(self._temporary, SFTP_FLAG_WRITE)))

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Session]:
        """A session that the block puts into a lane; else it is given back."""
        session = self._pool.take()
        try:
            yield session
        finally:
            if not any(lane.session is session for lane in self._lanes):
                self._pool.give_back(session)

    def _release(self) -> None:
        self._hasher.shutdown()
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            self._pool.give_back(lane.session)

    def _complete(self, session: Session) -> paramiko.SFTPAttributes | None:
        """The tail, the server's disk, CLOSE, and what the server has then: without waiting between where it keeps the order, and each answer looked at."""
        if self._filling:
            self._send_filling()
        first, *others = self._lanes
        for lane in others:
            lane.drain()
        self._end_flush()
        if others or not session.keeps_order:
            first.drain()
        with session.patience(FLUSH_SECONDS):
            asked = self._ask_for_the_end(session)
        first.drain()
        with session.patience(FLUSH_SECONDS):
            for answer in asked:
                answer.wait()
        found: paramiko.SFTPAttributes | None = [answer.get() for answer in asked][-1]
        return found

    def _ask_for_the_end(self, session: Session) -> list[Answer[Any]]:
        """Sync, CLOSE, and what stands there, in this order."""
        first, *others = self._lanes
        assert first.handle is not None  # noqa: S101 - open until now
        synced = [session.ask_sync(first.handle)] if SYNC in session.extensions else []
        for lane in others:  # a CLOSE takes as long as what it brings to the disk
            for answer in synced:
                answer.get()
            with lane.session.patience(FLUSH_SECONDS):
                lane.close().get()
        return [*synced, first.close(), session.ask_attributes(self._temporary)]

    def _end_flush(self) -> None:
        flush, self._flush = self._flush, None
        if flush is not None:
            flush.end()

    def _looked_again(self, session: Session, found: paramiko.SFTPAttributes | None) -> paramiko.SFTPAttributes | None:
        """What stands under the temporary name: behind a cache or a gateway it may be whole a moment after CLOSE was answered."""
        for pause in LOOK_AGAIN_SECONDS:
            if found is not None and found.st_size in {None, self.size}:
                break
            workers.still_wanted()
            time.sleep(pause)
            found = session.attributes(self._temporary)
        return found

    def _check_size(self, found: paramiko.SFTPAttributes | None) -> None:
        if found is None:
            raise TransferFailed(
                f"{self._place.url}: the server took the file and has it no more under its temporary name {self.temporary_name}; "
                "something there moves new files away, which must not happen before they have their final name"
            )
        if found.st_size is not None and found.st_size != self.size:
            raise IntegrityError(f"{self._place.url}: {self.size:,} bytes written, {found.st_size:,} on the server; not published", transient=True)
        self._found = found
        if found.st_size is not None:
            self._level = "size"
            self._reported |= {"size": str(found.st_size), "verified_by": "stat"}

    def _reach(self, session: Session) -> None:
        """The server's own checksum, where it offers one and nobody is content with less; else as far as `verify` demands, by reading back."""
        if self._verify in {None, "checksum"} and CHECK_FILE in session.extensions and self._has_checksum(session):
            return
        if reaches(self._level, self._verify):
            return
        handle = session.open_file(self._temporary, SFTP_FLAG_READ)
        back, digest = ReadAhead(session, handle, 0, self.size + 1), hashlib.sha256()  # one more than there should be
        while data := back.read(session.read_chunk):
            workers.still_wanted()
            digest.update(data)
        back.drain()
        session.close_file(handle)
        if digest.digest() != self._digest.digest():
            raise IntegrityError(f"{self._place.url}: the server gives back other bytes than were written (SHA-256); not published", transient=True)
        self._level = "read-back"
        self._reported["verified_by"] = "reading back"

    def _has_checksum(self, session: Session) -> bool:
        """Whether the server hashes the file as we do; an offer that it does not keep is none, nor is one for a file that we may not read."""
        try:
            handle = session.open_file(self._temporary, SFTP_FLAG_READ)
            try:
                answer = session.digest_of(handle)
            finally:
                session.close_file(handle)
        except StatusError:
            return False
        if not answer.endswith(self._digest.digest()):
            raise IntegrityError(f"{self._place.url}: the server holds other bytes than were written (check-file, SHA-256); not published", transient=True)
        self._level = "checksum"
        self._reported["verified_by"] = "check-file (SHA-256)"
        return True

    def _discard(self) -> None:
        """Leave nothing: no temporary file, no folder that was made for it."""
        self._filling = bytearray()
        for lane in self._lanes:
            lane.abandon()
        if self._flush is not None:
            self._flush.abandon()
        self._release()
        if not (self._begun or self._made):
            return
        try:
            with self._pool.borrow() as session:
                self._remove(session)
        except (FerryError, *FAILURES):
            self.remains += [self._temporary] if self._begun else []

    def _remove(self, session: Session) -> None:
        if self._begun:
            try:
                session.remove_file(self._temporary)
            except StatusError as refused:
                if refused.code != NO_SUCH_FILE and self._may_stand(session):
                    self.remains.append(self._temporary)
        for folder in reversed(self._made):
            with contextlib.suppress(StatusError):  # others have put something there
                session.remove_folder(folder)

    def _may_stand(self, session: Session) -> bool:
        try:
            return session.attributes(self._temporary, follow=False) is not None
        except StatusError:
            return True
