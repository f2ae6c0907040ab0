"""SFTP servers, through paramiko. Only the SFTP subsystem is used: no shell, no command."""

from __future__ import annotations

import contextlib
import posixpath
import stat
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, BinaryIO, ClassVar, cast
from urllib.parse import quote

from paramiko.sftp import SFTP_FLAG_READ
from pydantic import AfterValidator, Field

from engine import addresses, paths, workers
from engine.errors import ConnectionFailed, FileChanged, TransferFailed
from engine.options import Options, Secret
from engine.paths import File
from engine.stores import sftp_connection, sftp_hostkeys, sftp_move, sftp_publish
from engine.stores.sftp_errors import UNSUPPORTED, StatusError, translating
from engine.stores.sftp_publish import Place
from engine.stores.sftp_read import ReadAhead
from engine.stores.sftp_upload import SftpWriter
from engine.stores.temporary import is_temporary
from engine.stores.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import paramiko

    from engine.protocols import Exists, FileInfo, FileSource
    from engine.results import Verification
    from engine.stores.sftp_answer import Answer
    from engine.stores.sftp_session import Session

_NO_SIZE = "?"


def _host(value: str) -> str:
    if "/" in value or "@" in value or value != value.strip():
        raise ValueError("should be a host name or an address alone; the user belongs into username, the folder into path")
    return value.removeprefix("[").removesuffix("]")


def _folder(value: str) -> str:
    """As SFTP has it: a path that does not begin with `/` is relative to the login's home folder."""
    if "\0" in value:
        raise ValueError("holds a NUL character")
    if value.startswith("~"):
        if value.rstrip("/") != "~" and not value.startswith("~/"):
            raise ValueError("may begin with ~/ for the login's own home folder only")
        value = value[1:].lstrip("/")
    return value.rstrip("/") or value[:1]


class SftpOptions(Options):
    """A folder on an SFTP server (CONFIGURATION: "SFTP").

    Attributes:
        username: Else the user of this machine, as with ssh.
        password: Tried after `pkey_path`.
        pkey_path: A private key (RSA, ECDSA, Ed25519), tried first. Without it and a password: the SSH agent, then the keys of `~/.ssh`.
        path: The folder; `~/x` and `x` are in the login's home folder. Made when something is written into it.
        file_pattern: Which files a transfer takes.
        known_hosts: A file of host keys, instead of `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
        host_key: The server's key (`ssh-ed25519 AAAA…`) or its fingerprint (`SHA256:…`); then nothing else counts.
    """

    other_routes: ClassVar[frozenset[str]] = frozenset({"require_tls"})  # SSH is always encrypted

    host: Annotated[str, Field(min_length=1), AfterValidator(_host)]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    username: Annotated[str, Field(min_length=1)] | None = None
    password: Secret | None = None
    pkey_path: str | None = None
    pkey_passphrase: Secret | None = None
    path: Annotated[str, AfterValidator(_folder)] = ""
    file_pattern: str = "*"
    known_hosts: str | None = None
    host_key: Annotated[str, AfterValidator(sftp_hostkeys.checked)] | None = None


class _ProbedError(Exception):
    """Leaves the block of a file that is not wanted."""


class SftpStore:
    """A folder on an SFTP server as source and destination of files (`FileSource`, `FileDestination`).

    Args:
        options: Where, and who asks.
        pinned: Gives the OpenSSH lines (`type base64`) of the host keys that a user has trusted for a host and port; asked at the first connection.
    """

    has_folders = True

    def __init__(self, options: SftpOptions, pinned: Callable[[str, int], Sequence[str]] | None = None) -> None:
        self.notes: list[str] = []
        self._options = options
        self._pinned = pinned
        self._known: sftp_hostkeys.KnownKeys | None = None
        self._pool = sftp_connection.Pool(self._connect)

    def url(self, path: str) -> str:
        """`sftp://user@host:port/path`; `/~/path` in the login's home folder."""
        remote = self._remote(path)
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        user = quote(sftp_connection.user_of(self._options), safe="")
        return f"sftp://{user}@{host}:{self._options.port}{remote if remote.startswith('/') else f'/~/{remote}'}"

    def identity(self, path: str) -> str:
        """Server and absolute path, without links as far as the server follows them; `localhost` and 127.0.0.1 are one server."""
        remote = self._remote(path) if path else self._options.path or "."
        with translating(f"look at {self.url(path) if path else self._shown_root}"), self._pool.borrow() as session:
            try:
                absolute = session.absolute(remote)
            except StatusError:  # some refuse what does not exist
                absolute = posixpath.normpath(posixpath.join(session.absolute(""), remote))
        return f"sftp {addresses.canonical_host(self._options.host)}:{self._options.port}{absolute}"

    def is_folder(self, path: str) -> bool:
        """Whether a folder stands at `path`."""
        with translating(f"look at {self.url(path) if path else self._shown_root}"), self._pool.borrow() as session:
            found = session.attributes(self._remote(path) if path else self._options.path or ".")
        return found is not None and stat.S_ISDIR(found.st_mode or 0)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._pool.close()
        self._known = None

    def stat(self, path: str) -> File | None:
        """The regular file at `path`, or None."""
        with translating(f"look at {self.url(path)}"), self._pool.borrow() as session:
            return _described(path, session.attributes(self._remote(path)))

    def list(self, pattern: str = "*", *, ordered: bool = True) -> Iterator[File]:
        """Matching regular files in the order of their paths; symbolic links to folders are not followed."""
        del ordered  # a folder comes in one piece, and its order costs nothing
        wanted, start = paths.matcher(pattern), paths.fixed_folder(pattern)
        levels = sys.maxsize if "**/" in pattern else pattern.count("/")
        return (file for file in self._walk(start, levels) if wanted.fullmatch(file.path))

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Read the version that was listed; another version is an error before and after."""
        where, remote = self.url(file.path), self._remote(file.path)
        what = f"read {where}"
        left = max(0, file.size - start if length is None else length)
        if file.version.startswith(_NO_SIZE):
            raise TransferFailed(f"cannot {what}: the server tells no size, so that nobody could see the file end early")
        with self._pool.borrow() as session:
            with translating(what):
                handle = session.open_file(remote, SFTP_FLAG_READ)
            try:
                with translating(what):
                    standing, ahead = session.ask_attributes_of(handle), ReadAhead(session, handle, start, left)
                    self._check_version(file, _standing(standing, session, remote))

                def read(size: int) -> bytes:
                    with translating(what):
                        return ahead.read(size)

                yield cast("BinaryIO", Window(read, left, where))
                with translating(what):
                    ahead.drain()
                    standing, closed = session.ask_attributes_of(handle), session.ask_close(handle)
                    self._check_version(file, _standing(standing, session, remote))
                    closed.get()
            except BaseException:
                session.close()  # answers may be on their way, and the server has the file open
                raise

    def delete(self, file: FileInfo) -> None:
        """Delete that version; the protocol can only look first and delete then."""
        with translating(f"delete {self.url(file.path)}"), self._pool.borrow() as session:
            self._check_version(file, session.attributes(self._remote(file.path)))
            session.remove_file(self._remote(file.path))

    @contextlib.contextmanager
    def open_write(
        self,
        path: str,
        *,
        size: int | None = None,
        exists: Exists = "replace",
        verify: Verification | None = None,
        standing: bool | None = None,
        on_begin: Callable[[str], None] | None = None,
    ) -> Iterator[SftpWriter]:
        """See `FileDestination.open_write`."""
        del standing  # what is in the way is looked at in any case
        place = Place(self._remote(path), self.url(path))
        writer = SftpWriter(self._pool, place, declared=size, exists=exists, verify=verify)
        if on_begin is not None:
            on_begin(writer.temporary_name)
        try:
            with writer:
                yield writer
        finally:
            self.notes += [f"{left} on {self._options.host} could not be removed, and may remain" for left in writer.remains]

    def move_from(self, source: FileSource, file: FileInfo, path: str) -> bool:
        """Move a file of the same server and login (`MovesWithin`)."""
        if not (isinstance(source, SftpStore) and source._login == self._login):  # noqa: SLF001 - one of us
            return False
        place = Place(self._remote(path), self.url(path))
        with translating(f"move {source.url(file.path)} to {place.url}"), self._pool.borrow() as session:
            return sftp_move.move(session, source._remote(file.path), place, lambda found: source._check_version(file, found))  # noqa: SLF001 - as above

    def probe(self, path: str) -> None:
        """Make the temporary file, and folders that are missing, and remove them."""
        with contextlib.suppress(_ProbedError), self.open_write(path):
            raise _ProbedError

    def sweep(self, path: str, leftover: str) -> bool:
        """Remove the temporary file of a run that was killed."""
        place = Place(self._remote(path), self.url(path))
        if not is_temporary(leftover):
            return False
        with translating(f"sweep {place.url}"), self._pool.borrow() as session:
            return sftp_publish.sweep(session, place, leftover)

    @property
    def _login(self) -> SftpOptions:
        """Who asks which server."""
        return self._options.model_copy(update={"path": "", "file_pattern": ""})

    @property
    def _shown_root(self) -> str:
        return f"the folder {self._options.path or '~'} on {self._options.host}"

    def _remote(self, path: str) -> str:
        return paths.join(self._options.path, path)

    def _check_version(self, file: FileInfo, found: paramiko.SFTPAttributes | None) -> None:
        now = _described(file.path, found)
        if now is None or now.version != file.version:
            raise FileChanged(f"{self.url(file.path)} has changed since it was listed", transient=True)

    def _connect(self) -> Session:
        """What is known of the server is looked up once, and again after a failure, which may have been what a user has cured meanwhile."""
        known = self._known = self._known or sftp_hostkeys.known_keys(self._options, self._pinned)
        try:
            return sftp_connection.connect(self._options, known)
        except ConnectionFailed:
            self._known = None
            raise

    def _listed(self, session: Session, path: str, found: paramiko.SFTPAttributes) -> File | None:
        """The file that a name stands for: of a link, the one that it leads to."""
        if stat.S_ISREG(found.st_mode or 0):
            return _described(path, found)
        is_link, leads_to = stat.S_ISLNK(found.st_mode or 0), session.attributes(self._remote(path))
        if is_link and leads_to is None:
            self.notes.append(f"{self.url(path)} is a link that leads nowhere, and is left out")
        file = _described(path, leads_to)
        return file and replace(file, links=session.links_from(self._remote(path)) if is_link else 0)

    def _walk(self, prefix: str, levels: int) -> Iterator[File]:
        """Files below a folder in the order of their whole paths (a folder sorts as `name/`), in folders that are so many levels deep."""
        folders: dict[str, None] = {}
        files: dict[str, File] = {}
        root = self._options.path
        place = (f"{root.rstrip('/')}/{prefix}" if root else prefix).rstrip("/") or root
        shown = f"the folder {place or '~'} on {self._options.host}"
        workers.still_wanted()
        with translating(f"list {shown}"), self._pool.borrow() as session:
            if place and session.attributes(place) is None:
                return
            for name, found in session.entries(place):
                path = prefix + name
                if is_temporary(name):
                    continue
                if stat.S_ISDIR(found.st_mode or 0):
                    folders[f"{path}/"] = None
                elif (file := self._listed(session, path, found)) is not None:
                    files[path] = file
        for path in sorted((*files, *folders), key=paths.in_order):
            if path in files:
                yield files[path]
            elif path.count("/") <= levels:
                yield from self._walk(path, levels)


def _described(path: str, found: paramiko.SFTPAttributes | None) -> File | None:
    """A regular file; servers that tell no size or no time still have versions, if coarser ones."""
    if found is None or not stat.S_ISREG(found.st_mode or stat.S_IFREG):
        return None
    modified = None if found.st_mtime is None else datetime.fromtimestamp(found.st_mtime, UTC)
    return File(path, found.st_size or 0, modified, f"{_NO_SIZE if found.st_size is None else found.st_size}-{found.st_mtime}")


def _standing(asked: Answer[paramiko.SFTPAttributes], session: Session, remote: str) -> paramiko.SFTPAttributes | None:
    """Of the open file, where the server can tell; else of what stands at the path."""
    try:
        return asked.get()
    except StatusError as refused:
        if refused.code != UNSUPPORTED:
            raise
        return session.attributes(remote)
