"""Folders: local disks and NFS mounts.

A file is written under a temporary name in its own folder, synced, closed and then renamed, so that nobody sees half of it
(POSIX rename; on NFS a failed write may show only at fsync or close, and both are checked).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ClassVar, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field

from engine import paths
from engine.errors import ConfigurationError, FerryError, FileChanged, IntegrityError, ResourceError, TransferFailed
from engine.options import Options
from engine.paths import File
from engine.results import Receipt
from engine.stores.temporary import is_temporary, new_token, temporary_name
from engine.stores.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from engine.protocols import Exists, FileInfo
    from engine.results import Verification


def _mode(value: Any) -> Any:
    """`"0640"` or `"640"`, as chmod takes it."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch("[0-7]{3,4}", value):
        raise ValueError('should be octal text such as "0640"')
    return int(value, 8)


def _place(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


class FolderOptions(Options):
    """A folder (CONFIGURATION: "Folder / NFS").

    Attributes:
        path: The folder; made when something is written into it.
        file_pattern: Which files a transfer takes.
        require_mount: Refuse a path that is not below a mount point: an unmounted NFS path is a folder on the local disk.
        file_mode: Permission bits of new files, octal; None leaves what umask gives.
    """

    other_routes: ClassVar[frozenset[str]] = frozenset({"require_tls"})

    path: Annotated[str, Field(min_length=1), AfterValidator(_place)]
    file_pattern: str = "*"
    require_mount: bool = False
    file_mode: Annotated[int, BeforeValidator(_mode), Field(ge=0, le=0o777)] | None = None


class _ProbedError(Exception):
    """Leaves the block of a file that is not wanted."""


class LocalStore:
    """A folder as source and destination of files (`FileSource`, `FileDestination`)."""

    has_folders = True

    def __init__(self, options: FolderOptions) -> None:
        self.notes: list[str] = []
        self._options = options
        try:
            self._root = Path(options.path).expanduser().absolute()
        except RuntimeError:
            raise ConfigurationError(f"'path' {options.path}: there is no such user's home folder") from None

    def url(self, path: str) -> str:
        """The absolute path."""
        return str(self._place(path))

    def identity(self, path: str) -> str:
        """The real path, whatever links lead there."""
        return f"file {os.path.realpath(self._place(path))}"

    def is_folder(self, path: str) -> bool:
        """Whether a folder stands at `path`."""
        return (self._place(path) if path else self._root).is_dir()

    def close(self) -> None:
        """Nothing is kept open."""

    def stat(self, path: str) -> File | None:
        """The regular file at `path`, or None."""
        try:
            return self._describe(path, self._place(path).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _translated(error, self.url(path), "look at") from None

    def list(self, pattern: str = "*", *, ordered: bool = True) -> Iterator[File]:
        """Matching regular files in the order of their paths; symbolic links to folders are not followed."""
        wanted, start = paths.matcher(pattern), paths.fixed_folder(pattern)
        self._check_mount()
        top = self._root / start if start else self._root
        deep = "/" in pattern[len(start) :]
        found_paths = self._walk(top, start, deep=deep)
        for path in sorted(found_paths, key=paths.in_order) if ordered else found_paths:
            if wanted.fullmatch(path) and (found := self.stat(path)) is not None:
                yield found

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Read the version that was listed; another version is an error before and after."""
        place = self._place(file.path)
        with contextlib.ExitStack() as stack:
            with _translating(place, "read"):
                handle = stack.enter_context(place.open("rb"))
                self._check_version(file, os.fstat(handle.fileno()))
                handle.seek(start)

            def read(size: int) -> bytes:
                with _translating(place, "read"):
                    return handle.read(size)

            yield cast("BinaryIO", Window(read, file.size - start if length is None else length, str(place)))
            self._check_version(file, os.fstat(handle.fileno()))

    def delete(self, file: FileInfo) -> None:
        """Delete that version."""
        place = self._place(file.path)
        try:
            self._check_version(file, place.stat())
            place.unlink()
        except OSError as error:
            raise _translated(error, str(place), "delete") from None

    @contextlib.contextmanager
    def open_write(
        self,
        path: str,
        *,
        size: int | None = None,
        exists: Exists = "replace",
        verify: Verification | None = None,  # noqa: ARG002 - read-back is to come
        on_begin: Callable[[str], None] | None = None,
    ) -> Iterator[LocalWriter]:
        """See `FileDestination.open_write`."""
        self._check_mount()
        place = self._place(path)
        with _translating(place, "write"):
            blocked = place.exists() and not place.is_file()
        if blocked:
            raise ConfigurationError(f"{place} is a folder or a device, not a file; choose another name")
        writer = LocalWriter(place, self._options.file_mode, size, exists)
        if on_begin is not None:
            on_begin(writer.temporary_name)
        try:
            with writer:
                yield writer
        finally:
            if writer.remains:
                self.notes.append(f"the temporary file {place.with_name(writer.temporary_name)} could not be removed, and may remain")

    def probe(self, path: str) -> None:
        """Make the temporary file, and folders that are missing, and remove them."""
        with contextlib.suppress(_ProbedError), self.open_write(path):
            raise _ProbedError

    def sweep(self, path: str, leftover: str) -> bool:
        """Remove the temporary file of a run that was killed."""
        place = self._place(path)
        if not is_temporary(leftover):
            return False
        self._check_mount()  # what is not found on a share that is not mounted may still be there
        try:
            place.with_name(leftover).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _translated(error, str(place), "sweep") from None
        return True

    def _place(self, path: str) -> Path:
        return self._root / paths.checked(path)

    def _describe(self, path: str, found: os.stat_result) -> File | None:
        if not stat.S_ISREG(found.st_mode):
            return None
        return File(path, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC), f"{found.st_size}-{found.st_mtime_ns}")

    def _check_version(self, file: FileInfo, found: os.stat_result) -> None:
        now = self._describe(file.path, found)
        if now is None or now.version != file.version:
            raise FileChanged(f"{self.url(file.path)} has changed since it was listed", transient=True)

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
            elif not is_temporary(entry.name):
                yield prefix + entry.name


class LocalWriter:
    """One file on its way into a folder (`FileWriter`)."""

    def __init__(self, place: Path, mode: int | None, declared: int | None, exists: Exists) -> None:
        self.size = 0
        self.remains = False  # a temporary file that could not be removed
        self._place = place
        self._mode = mode
        self._declared = declared
        self._exists = exists
        self._digest = hashlib.sha256()
        self._temporary = place.with_name(temporary_name(place.name, new_token()))
        self._made: list[Path] = []
        self._handle: BinaryIO | None = None
        self._begun = False
        self._finished = False
        self._receipt: Receipt | None = None

    @property
    def temporary_name(self) -> str:
        """The name that the file has until it is published."""
        return self._temporary.name

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
            self._begun = True
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
        if self._finished:
            return
        if self._handle is None:
            raise TransferFailed(f"{self._place}: an earlier failure to finish it was ignored; not published")
        handle, self._handle = self._handle, None
        try:
            with handle:
                os.fsync(handle.fileno())
            found = self._temporary.stat().st_size
        except OSError as error:
            raise _translated(error, str(self._place), "write") from None
        if found != self.size or (self._declared is not None and self._declared != self.size):
            announced = self.size if self._declared is None else self._declared
            raise IntegrityError(f"{self._place}: {self.size:,} bytes written, {found:,} on disk, {announced:,} announced; not published")
        self._finished = True

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
                self._link()
            else:
                self._temporary.replace(self._place)
            for folder in {self._place.parent, *(made.parent for made in self._made)}:
                _sync_folder(folder)
        except FileExistsError:
            raise ConfigurationError(f"{self._place} exists already (if_exists: fail); nothing was replaced") from None
        except OSError as error:
            raise _translated(error, str(self._place), "publish") from None
        return replaced

    def _link(self) -> None:
        try:
            os.link(self._temporary, self._place)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            raise ConfigurationError(f"{self._place.parent} is on a file system without hard links, which if_exists: fail needs here") from None
        self._temporary.unlink()

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
        try:
            self._temporary.unlink(missing_ok=True)
        except OSError:
            self.remains = self._begun
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()


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
_NAMES = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_RESOURCE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.EFBIG}


@contextlib.contextmanager
def _translating(place: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translated(error, str(place), verb) from None


def _translated(error: OSError, place: str, verb: str) -> FerryError:
    reason = _REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else "the system refused")
    message = f"cannot {verb} {place}: {reason}"
    if error.errno in _NAMES:
        return ConfigurationError(f"{message}; choose another name")
    kind = ResourceError if error.errno in _RESOURCE else TransferFailed
    return kind(message, transient=error.errno in {errno.ESTALE, errno.EIO, errno.ENOSPC, errno.EDQUOT})
