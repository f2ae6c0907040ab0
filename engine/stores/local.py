"""Folders: local disks and NFS mounts. Symbolic links that lead out of a folder are not followed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ClassVar, cast

from pydantic import AfterValidator, BeforeValidator, Field

from engine import paths
from engine.errors import ConfigurationError, FileChanged, ResourceError
from engine.options import Options
from engine.paths import File
from engine.stores import local_move
from engine.stores.local_errors import translated, translating
from engine.stores.local_writer import LocalWriter
from engine.stores.temporary import is_temporary
from engine.stores.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.protocols import Exists, FileInfo, FileSource
    from engine.results import Verification

_MOST_LINKS = 40  # as many as Linux follows


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
            self._root = str(Path(options.path).expanduser().absolute()).rstrip("/")
        except RuntimeError:
            raise ConfigurationError(f"'path' {options.path}: there is no such user's home folder") from None
        self._inside: set[str] = set()  # folders that are known to lie below the root, links and all

    def url(self, path: str) -> str:
        """The absolute path."""
        return self._place(path)

    def identity(self, path: str) -> str:
        """The real path, whatever links lead there."""
        return f"file {os.path.realpath(self._place(path) if path else self._root or '/')}"

    def is_folder(self, path: str) -> bool:
        """Whether a folder stands at `path`."""
        self._check_mount()
        return os.path.isdir(self._place(path) if path else self._root or "/")  # noqa: PTH112 - no path object for each question

    def close(self) -> None:
        """Nothing is kept open."""

    def stat(self, path: str) -> File | None:
        """The regular file at `path`, or None."""
        self._check_mount()
        return self._look(path, self._place(path))

    def _look(self, path: str, place: str) -> File | None:
        self._check_links(place)
        try:
            return self._describe(path, os.stat(place))  # noqa: PTH116 - as above
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise translated(error, place, "look at") from None

    def _listed(self, path: str, place: str) -> File | None:
        found = self._look(path, place)
        if not os.path.islink(place):  # noqa: PTH114 - as above
            return found
        if found is None and not os.path.exists(place):  # noqa: PTH110 - as above
            self.notes.append(f"{place} is a link that leads nowhere, and is left out")
        return found and replace(found, links=_links_from(place))

    def list(self, pattern: str = "*", *, ordered: bool = True) -> Iterator[File]:
        """Matching regular files in the order of their paths; links to folders are not followed, nor links that lead outside."""
        wanted, start = paths.matcher(pattern), paths.fixed_folder(pattern)
        self._check_mount()
        deep = "/" in pattern[len(start) :]
        found_paths = self._walk(f"{self._root}/{start}".rstrip("/") or "/", start, deep=deep)
        for path in sorted(found_paths, key=paths.in_order) if ordered else found_paths:
            # A name that no store takes is listed all the same: it is refused by itself, and keeps no other file from its way.
            if wanted.fullmatch(path) and (found := self._listed(path, f"{self._root}/{path}")) is not None:
                yield found

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Read the version that was listed; another version is an error before and after."""
        place = self._place(file.path)
        with self.open_descriptor(file) as descriptor:
            if start:
                with translating(place, "read"):
                    os.lseek(descriptor, start, os.SEEK_SET)

            def read(size: int) -> bytes:
                with translating(place, "read"):
                    return os.read(descriptor, size)

            def fill(room: memoryview) -> int:
                with translating(place, "read"):
                    return os.readv(descriptor, (room,))

            yield cast("BinaryIO", Window(read, file.size - start if length is None else length, place, fill))

    @contextlib.contextmanager
    def open_descriptor(self, file: FileInfo) -> Iterator[int]:
        """The version that was listed, open for reading; another version is an error before and after."""
        place = self._place(file.path)
        self._check_mount()
        self._check_links(place)
        with translating(place, "read"):
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that took the file's place holds nobody up
        try:
            self._check_version(file, os.fstat(descriptor))
            yield descriptor
            self._check_version(file, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def delete(self, file: FileInfo) -> None:
        """Delete that version; of a link to it, the link."""
        place = self._place(file.path)
        self._check_mount()
        self._check_links(place)
        with translating(place, "delete"):
            self._check_version(file, os.stat(place))  # noqa: PTH116 - as above
            os.unlink(place)  # noqa: PTH108 - as above

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
    ) -> Iterator[LocalWriter]:
        """See `FileDestination.open_write`."""
        del standing  # a look costs less than what it would save
        self._check_mount()
        place = self._place(path)
        self._check_folder(place.rpartition("/")[0])
        with translating(place, "write"):
            blocked = self._is_blocked(place)
        if blocked:
            raise ConfigurationError(f"{place} is a folder or a device, not a file; choose another name")
        writer = LocalWriter(place, self._options.file_mode, declared=size, exists=exists, verify=verify)
        if on_begin is not None:
            on_begin(writer.temporary_name)
        try:
            with writer:
                yield writer
        finally:
            if writer.remains:
                self.notes.append(f"the temporary file {place.rpartition('/')[0]}/{writer.temporary_name} could not be removed, and may remain")

    def move_from(self, source: FileSource, file: FileInfo, path: str) -> bool:
        """Move a file of the same file system (`MovesWithin`)."""
        if not isinstance(source, LocalStore):
            return False
        self._check_mount()
        old, new = source._place(file.path), self._place(path)  # noqa: SLF001 - one of us
        source._check_links(old)  # noqa: SLF001 - as above
        self._check_folder(new.rpartition("/")[0])
        return local_move.move(old, new, lambda found: source._check_version(file, found))  # noqa: SLF001 - as above

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
        self._check_folder(place.rpartition("/")[0])
        try:
            os.unlink(f"{place.rpartition('/')[0]}/{leftover}")  # noqa: PTH108 - as above
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise translated(error, place, "sweep") from None
        return True

    def _place(self, path: str) -> str:
        return f"{self._root}/{paths.checked(path)}"

    def _describe(self, path: str, found: os.stat_result) -> File | None:
        if not stat.S_ISREG(found.st_mode):
            return None
        return File(path, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC), f"{found.st_size}-{found.st_mtime_ns}")

    def _is_blocked(self, place: str) -> bool:
        """Whether something stands there that is no file; a link is one, and is replaced."""
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            return False
        return not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode))

    def _check_version(self, file: FileInfo, found: os.stat_result) -> None:
        now = self._describe(file.path, found)
        if now is None or now.version != file.version:
            raise FileChanged(f"{self.url(file.path)} has changed since it was listed", transient=True)

    def _check_mount(self) -> None:
        """Asked by every verb that reads, writes or deletes: a share may go away in the middle of a run."""
        if not self._options.require_mount:
            return
        root = Path(self._root or "/")
        if not any(os.path.ismount(place) for place in (root, *root.parents) if place != Path(place.anchor)):
            raise ResourceError(f"{root} is not below a mount point (require_mount); is the share mounted?", transient=True)

    def _check_links(self, place: str) -> None:
        """A link may not lead out of the folder: what lies there was not meant."""
        self._check_folder(place.rpartition("/")[0])
        if os.path.islink(place) and not self._is_inside(os.path.realpath(place)):  # noqa: PTH114 - as above
            raise ConfigurationError(f"{place} is a link that leads out of {self._root}; it is not followed")

    def _check_folder(self, folder: str) -> None:
        if folder in self._inside:
            return
        if not self._is_inside(os.path.realpath(folder)):
            raise ConfigurationError(f"{folder} leads out of {self._root} by a link; it is not followed")
        if os.path.isdir(folder):  # noqa: PTH112 - as above
            self._inside.add(folder)

    def _is_inside(self, real: str) -> bool:
        root = os.path.realpath(self._root or "/").rstrip("/")
        return real == root or real.startswith(f"{root}/")

    def _walk(self, folder: str, prefix: str, *, deep: bool) -> Iterator[str]:
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise translated(error, folder, "list") from None
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if deep:
                    yield from self._walk(f"{folder}/{entry.name}", f"{prefix}{entry.name}/", deep=deep)
            elif is_temporary(entry.name):
                continue
            elif entry.is_symlink() and _is_circle(entry.path):
                self.notes.append(f"{entry.path} is a link that leads in a circle, and is left out")
            elif entry.is_symlink() and not self._is_inside(os.path.realpath(entry.path)):
                self.notes.append(f"{entry.path} is a link that leads out of {self._root}, and is left out")
            else:
                yield prefix + entry.name


def _is_circle(link: str) -> bool:
    try:
        os.stat(link)  # noqa: PTH116 - as above
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _links_from(place: str) -> int:
    """How many symbolic links lead from a name to the file that it leads to."""
    links = 0
    while links < _MOST_LINKS and os.path.islink(place):  # noqa: PTH114 - as above
        links, place = links + 1, os.path.join(os.path.dirname(place), os.readlink(place))  # noqa: PTH115, PTH118, PTH120 - as above
    return links
