"""Folders: local disks and NFS mounts.

A file is written under a temporary name in its own folder, synced, closed and then renamed, so that nobody sees half of it
(POSIX rename; on NFS a failed write may show only at fsync or close, and both are checked).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ClassVar, Self, cast

from pydantic import BeforeValidator, Field

from engine import paths
from engine.errors import ConfigurationError, FerryError, IntegrityError, ResourceError, TransferFailed
from engine.options import Options
from engine.paths import File
from engine.results import Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

    from engine.protocols import Exists, FileInfo

_LONGEST_NAME = 255  # bytes, on every common file system


def _mode(value: Any) -> Any:
    """`"0640"` or `"640"`, as chmod takes it."""
    return int(value, 8) if isinstance(value, str) else value


class FolderOptions(Options):
    """A folder (CONFIGURATION: "Folder / NFS").

    Attributes:
        path: The folder; made when something is written into it.
        file_pattern: Which files a transfer takes.
        require_mount: Refuse a path that is not below a mount point: an unmounted NFS path is a folder on the local disk.
        file_mode: Permission bits of new files, octal; None leaves what umask gives.
    """

    other_routes: ClassVar[frozenset[str]] = frozenset({"require_tls"})

    path: Annotated[str, Field(min_length=1)]
    file_pattern: str = "*"
    require_mount: bool = False
    file_mode: Annotated[int, BeforeValidator(_mode), Field(ge=0, le=0o777)] | None = None


class LocalStore:
    """A folder as source and destination of files (`FileSource`, `FileDestination`)."""

    def __init__(self, options: FolderOptions) -> None:
        self.notes: list[str] = []
        self._options = options
        self._root = Path(options.path).expanduser()

    def url(self, path: str) -> str:
        """The absolute path."""
        return str(self._place(path))

    def stat(self, path: str) -> File | None:
        """The regular file at `path`, or None."""
        try:
            return self._describe(path, self._place(path).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _translated(error, self.url(path), "look at") from None

    def list(self, pattern: str = "*") -> Iterator[File]:
        """Matching regular files in the order of their paths; symbolic links to folders are not followed."""
        wanted, start = paths.matcher(pattern), paths.fixed_folder(pattern)
        self._check_mount()
        top = self._root / start if start else self._root
        deep = "/" in pattern[len(start) :]
        for path in sorted(self._walk(top, start, deep=deep), key=paths.in_order):
            if wanted.fullmatch(path) and (found := self.stat(path)) is not None:
                yield found

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Read the version that was listed; another version is an error before and after."""
        place = self._place(file.path)
        try:
            with place.open("rb") as handle:
                self._check_version(file, os.fstat(handle.fileno()))
                handle.seek(start)
                yield cast("BinaryIO", _Limited(handle, file.size - start if length is None else length, str(place)))
                self._check_version(file, os.fstat(handle.fileno()))
        except OSError as error:
            raise _translated(error, str(place), "read") from None

    def delete(self, file: FileInfo) -> None:
        """Delete that version."""
        place = self._place(file.path)
        try:
            self._check_version(file, place.stat())
            place.unlink()
        except OSError as error:
            raise _translated(error, str(place), "delete") from None

    @contextlib.contextmanager
    def open_write(self, path: str, *, size: int | None = None, exists: Exists = "replace") -> Iterator[LocalWriter]:
        """See `FileDestination.open_write`."""
        self._check_mount()
        place = self._place(path)
        if place.exists() and not place.is_file():
            raise ConfigurationError(f"{place} is a folder or a device, not a file; choose another name")
        with LocalWriter(place, self._options.file_mode, size, exists) as writer:
            yield writer

    def sweep(self, swept: Iterable[str]) -> int:
        """Remove temporary files of runs that were killed."""
        count = 0
        for path in swept:
            place = self._place(path)
            prefix = _temporary_name(place.name, "")
            for leftover in place.parent.glob("*") if place.parent.is_dir() else ():
                if leftover.name.startswith(prefix.removesuffix(".part")) and leftover.name.endswith(".part"):
                    leftover.unlink(missing_ok=True)
                    count += 1
        return count

    def _place(self, path: str) -> Path:
        return self._root / paths.checked(path)

    def _describe(self, path: str, found: os.stat_result) -> File | None:
        if not stat.S_ISREG(found.st_mode):
            return None
        return File(path, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC), f"{found.st_size}-{found.st_mtime_ns}")

    def _check_version(self, file: FileInfo, found: os.stat_result) -> None:
        now = self._describe(file.path, found)
        if now is None or now.version != file.version:
            raise TransferFailed(f"{self.url(file.path)} has changed since it was listed", transient=True)

    def _check_mount(self) -> None:
        if not self._options.require_mount:
            return
        root = self._root.absolute()
        if not any(os.path.ismount(place) for place in (root, *root.parents) if place != Path(place.anchor)):
            raise ResourceError(f"{root} is not below a mount point (require_mount); is the share mounted?", transient=True)

    def _walk(self, folder: Path, prefix: str, *, deep: bool) -> Iterator[str]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _translated(error, str(folder), "list") from None
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if deep:
                    yield from self._walk(folder / entry.name, f"{prefix}{entry.name}/", deep=deep)
            elif not entry.name.endswith(".part"):
                yield prefix + entry.name


class LocalWriter:
    """One file on its way into a folder (`FileWriter`)."""

    def __init__(self, place: Path, mode: int | None, declared: int | None, exists: Exists) -> None:
        self.size = 0
        self._place = place
        self._mode = mode
        self._declared = declared
        self._exists = exists
        self._digest = hashlib.sha256()
        self._temporary = place.with_name(_temporary_name(place.name, secrets.token_hex(6)))
        self._made: list[Path] = []
        self._handle: BinaryIO | None = None
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt:
        """Complete once the file is published."""
        if self._receipt is None:
            raise RuntimeError("the file is not published yet")
        return self._receipt

    def __enter__(self) -> Self:
        try:
            self._make_folders()
            mode = 0o666 if self._mode is None else self._mode
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            if self._mode is not None:
                os.fchmod(descriptor, self._mode)  # what was asked for, whatever umask takes away
            self._handle = os.fdopen(descriptor, "wb", buffering=0)
        except OSError as error:
            self._discard()
            raise _translated(error, str(self._place), "write") from None
        return self

    def write(self, data: bytes | memoryview | Any) -> int:
        """Append; a write that is cut short by the system is continued."""
        view = memoryview(data).cast("B")
        if self._handle is None:
            raise RuntimeError("the file is finished")
        done = 0
        try:
            while done < len(view):
                done += self._handle.write(view[done:]) or 0
        except OSError as error:
            raise _translated(error, str(self._place), "write") from None
        self._digest.update(view)
        self.size += done
        return done

    def finish(self) -> None:
        """Sync, close, and compare sizes; the file still has its temporary name."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        try:
            with handle:
                os.fsync(handle.fileno())
            found = self._temporary.stat().st_size
        except OSError as error:
            raise _translated(error, str(self._place), "write") from None
        if found != self.size or (self._declared is not None and self._declared != self.size):
            raise IntegrityError(f"{self._place}: {self.size:,} bytes written, {found:,} on disk, {self._declared or self.size:,} announced; not published")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._discard()
            return
        try:
            self.finish()
            replaced = self._publish()
        except BaseException:
            self._discard()
            raise
        self._receipt = Receipt(self.size, self._digest.hexdigest(), "size", replaced, {"path": str(self._place)})

    def _publish(self) -> bool:
        """Rename; `exists="fail"` links instead, because a link never replaces (POSIX link)."""
        try:
            replaced = self._place.exists()
            if self._exists == "fail":
                os.link(self._temporary, self._place)
                self._temporary.unlink()
            else:
                self._temporary.replace(self._place)
            _sync_folder(self._place.parent)
        except FileExistsError:
            raise ConfigurationError(f"{self._place} exists already (if_exists: fail); nothing was replaced") from None
        except OSError as error:
            raise _translated(error, str(self._place), "publish") from None
        return replaced

    def _make_folders(self) -> None:
        missing = [folder for folder in (self._place.parent, *self._place.parent.parents) if not folder.exists()]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another run was faster
                folder.mkdir()
                self._made.append(folder)

    def _discard(self) -> None:
        """Leave nothing: no temporary file, no folder that was made for it."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._handle.close()
            self._handle = None
        with contextlib.suppress(OSError):
            self._temporary.unlink()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()


class _Limited:
    """A window of a file that is as long as announced, or an error."""

    def __init__(self, handle: BinaryIO, length: int, name: str) -> None:
        self._handle = handle
        self._left = length
        self._name = name

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; an end before the announced length is an error."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._handle.read(wanted)
        if len(data) < wanted:
            raise IntegrityError(f"{self._name} ended {self._left - len(data):,} bytes early")
        self._left -= len(data)
        return data


def _temporary_name(name: str, token: str) -> str:
    """`.name.token.part`; a long name is shortened with its hash, since names end at 255 bytes."""
    tail = f".{token}.part"
    room = _LONGEST_NAME - len(tail) - 1
    encoded = os.fsencode(name)
    if len(encoded) > room:
        name = os.fsdecode(encoded[: room - 40]).encode("utf-8", "ignore").decode() + hashlib.sha256(encoded).hexdigest()[:32]
    return f".{name}{tail}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync folders say so
            raise
    finally:
        os.close(descriptor)


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
_RESOURCE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.EFBIG}


def _translated(error: OSError, place: str, verb: str) -> FerryError:
    reason = _REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else "the system refused")
    message = f"cannot {verb} {place}: {reason}"
    kind = ResourceError if error.errno in _RESOURCE else TransferFailed
    return kind(message, transient=error.errno in {errno.ESTALE, errno.EIO, errno.ENOSPC, errno.EDQUOT})
