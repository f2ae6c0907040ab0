"""Files in this process's memory: a real store, small enough to read in one go, that passes the conformance suite first."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from engine import paths
from engine.errors import ConfigurationError, FileChanged, IntegrityError
from engine.paths import File
from engine.results import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.protocols import Exists, FileInfo
    from engine.results import Verification


class MemoryStore:
    """Files by path (`FileSource`, `FileDestination`)."""

    has_folders = False

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._files: dict[str, tuple[File, bytes]] = {}
        self._versions = itertools.count(1)
        self._publishing = threading.Lock()

    def url(self, path: str) -> str:
        """`memory://path`."""
        return f"memory://{paths.checked(path)}"

    def identity(self, path: str) -> str:
        """This store and the path."""
        return f"memory {id(self)}/{paths.checked(path) if path else ''}"

    def is_folder(self, path: str) -> bool:
        """Whether a file stands below `path`."""
        return not path or any(name.startswith(f"{paths.checked(path)}/") for name in list(self._files))

    def close(self) -> None:
        """Nothing is open."""

    def stat(self, path: str) -> File | None:
        """The file at `path`, or None."""
        found = self._files.get(paths.checked(path))
        return found and found[0]

    def list(self, pattern: str = "*", *, ordered: bool = True) -> Iterator[File]:
        """Matching files in the order of their paths."""
        del ordered
        wanted = paths.matcher(pattern)
        for path in sorted(self._files, key=paths.in_order):
            if wanted.fullmatch(path) and (found := self._files.get(path)) is not None:
                yield found[0]

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Read the version that was listed."""
        data = self._same(file)
        if start + (length or 0) > len(data):
            raise IntegrityError(f"{self.url(file.path)} ended {start + (length or 0) - len(data):,} bytes early")
        yield io.BytesIO(data[start : len(data) if length is None else start + length])

    def delete(self, file: FileInfo) -> None:
        """Delete that version."""
        self._same(file)
        del self._files[file.path]

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
    ) -> Iterator[MemoryWriter]:
        """See `FileDestination.open_write`; a kill leaves nothing, so `on_begin` is told nothing, and the bytes that are hashed are those that stand there."""
        del on_begin, verify, standing
        writer = MemoryWriter(paths.checked(path), size)
        yield writer
        writer.finish()
        data = writer.data.getvalue()
        with self._publishing:
            replaced = path in self._files
            if replaced and exists == "fail":
                raise ConfigurationError(f"{self.url(path)} exists already (if_exists: fail); nothing was replaced")
            self._files[path] = (File(path, len(data), None, str(next(self._versions))), data)
        writer.published = Receipt(len(data), hashlib.sha256(data).hexdigest(), "read-back", replaced)

    def probe(self, path: str) -> None:
        """Memory takes any proper path."""
        paths.checked(path)

    def sweep(self, path: str, leftover: str) -> bool:
        """Nothing of a killed process is left in memory."""
        del leftover
        paths.checked(path)
        return False

    def _same(self, file: FileInfo) -> bytes:
        found = self._files.get(file.path)
        if found is None or found[0].version != file.version:
            raise FileChanged(f"{self.url(file.path)} has changed since it was listed", transient=True)
        return found[1]


class MemoryWriter:
    """A file being written (`FileWriter`)."""

    def __init__(self, path: str, declared: int | None) -> None:
        self.size = 0
        self.data = io.BytesIO()
        self.published: Receipt | None = None
        self._path = path
        self._declared = declared
        self._finished = False

    def write(self, data: Any) -> int:
        """Append."""
        if self._finished:
            raise RuntimeError("the file is finished")
        self.size += self.data.write(data)
        return memoryview(data).nbytes

    def finish(self) -> None:
        """Compare sizes."""
        self._finished = True
        if self._declared is not None and self._declared != self.size:
            raise IntegrityError(f"memory://{self._path}: {self.size:,} bytes written, {self._declared:,} announced; not published")

    @property
    def receipt(self) -> Receipt:
        """Complete once the file is published."""
        if self.published is None:
            raise RuntimeError("the file is not published yet")
        return self.published
