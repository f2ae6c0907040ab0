"""Files that are made here and sent as bodies: kept in a private file first, since a request needs their length, and may be repeated."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from engine.errors import ConfigurationError, IntegrityError, ResourceError
from engine.stores.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from engine.paths import File
    from engine.protocols import Exists, FileInfo, SendsBody
    from engine.results import Receipt, Verification

VARIABLE = "FERRY_SPOOL_DIR"
_NAME = re.compile(r"[0-9a-f]{32}\.spool")


class Spooled:
    """A `SendsBody` as the destination of files that are written (`FileDestination`); nothing can be read, listed or asked there."""

    has_folders = False

    def __init__(self, destination: SendsBody) -> None:
        self.notes = destination.notes
        self._destination = destination

    def url(self, path: str) -> str:
        """The destination's own."""
        return self._destination.url(path)

    def identity(self, path: str) -> str:
        """The address."""
        return f"rest {self.url(path)}"

    def stat(self, path: str) -> File | None:
        """Nobody can tell."""
        del path
        return None

    def is_folder(self, path: str) -> bool:
        """Nobody can tell."""
        del path
        return False

    def list(self, pattern: str = "*", *, ordered: bool = True) -> Iterator[File]:
        """Nobody can tell."""
        del pattern, ordered
        return iter(())

    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> contextlib.AbstractContextManager[BinaryIO]:
        """Nothing is read from there."""
        del start, length
        raise ConfigurationError(f"{self.url(file.path)} cannot be read back: it only takes files")

    def delete(self, file: FileInfo) -> None:
        """Nothing is deleted there."""
        raise ConfigurationError(f"{self.url(file.path)} cannot be deleted: it only takes files")

    def close(self) -> None:
        """The destination's own."""
        self._destination.close()

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
    ) -> Iterator[SpoolWriter]:
        """See `FileDestination.open_write`: leaving the block sends the file."""
        del standing
        if exists != "replace":
            raise ConfigurationError(f"{self.url(path)}: 'if_exists' {exists}: nobody can tell what stands at a REST endpoint")
        if verify not in {None, "accepted"}:
            raise ConfigurationError(f"{self.url(path)}: 'verify' {verify}: a REST endpoint says that it accepted a file, and cannot be asked for more")
        spool = spool_folder() / f"{secrets.token_hex(16)}.spool"
        if on_begin is not None:
            on_begin(str(spool))
        with SpoolWriter(self._destination, path, spool, size) as writer:
            yield writer

    def probe(self, path: str) -> None:
        """Whether the endpoint is reached, and the spool folder can be made."""
        spool_folder()
        self._destination.probe(path)

    def sweep(self, path: str, leftover: str) -> bool:
        """Remove the spool file of a run that was killed."""
        del path
        spool = Path(leftover)
        if not leftover or not _NAME.fullmatch(spool.name) or spool.parent != spool_folder():
            return False
        try:
            spool.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ResourceError(f"cannot remove the spool file {spool}: {os.strerror(error.errno or 0)}; remove it by hand") from None
        return True


def spool_folder() -> Path:
    """The folder of private files: `FERRY_SPOOL_DIR`, else one of this user's in the system's temporary folder.

    Raises:
        ResourceError: It cannot be made, or others could look into it.
    """
    asked = os.environ.get(VARIABLE)
    folder = Path(asked).absolute() if asked else Path(tempfile.gettempdir()).resolve() / f"ferry-spool-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ResourceError(f"the spool folder {folder} cannot be made: {os.strerror(error.errno or 0)}; see {VARIABLE}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ResourceError(f"the spool folder {folder} is not this user's alone (mode 0700); see {VARIABLE}")
    return folder


class SpoolWriter:
    """One file on its way into the spool (`FileWriter`)."""

    def __init__(self, destination: SendsBody, path: str, spool: Path, declared: int | None) -> None:
        self.size = 0
        self._destination = destination
        self._path = path
        self._spool = spool
        self._declared = declared
        self._digest = hashlib.sha256()
        self._handle: BinaryIO | None = None
        self._is_sound = False
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt:
        """Complete once the file is sent."""
        if self._receipt is None:
            raise RuntimeError("the file is not sent yet")
        return self._receipt

    def __enter__(self) -> Self:
        with self._translating():
            self._handle = os.fdopen(os.open(self._spool, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        return self

    def write(self, data: bytes | memoryview | Any) -> int:
        """Append."""
        if self._handle is None:
            raise RuntimeError("the file is finished")
        view = memoryview(data).cast("B")
        with self._translating():
            self._handle.write(view)
        self._digest.update(view)
        self.size += len(view)
        return len(view)

    def finish(self) -> None:
        """Close the private file, and compare sizes."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with self._translating():
            handle.close()
            found = self._spool.stat().st_size
        if found != self.size or (self._declared is not None and self._declared != self.size):
            announced = self.size if self._declared is None else self._declared
            raise IntegrityError(f"{self._destination.url(self._path)}: {self.size:,} bytes written, {found:,} spooled, {announced:,} announced; not sent")
        self._is_sound = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.finish()
                if not self._is_sound:
                    raise IntegrityError(f"{self._destination.url(self._path)}: an earlier failure to finish it was ignored; not sent")
                self._receipt = self._destination.send(self._path, self._reading, self.size, key=secrets.token_hex(16), on_commit=lambda: None)
        finally:
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    self._handle.close()
            with self._translating("remove"):
                self._spool.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        """The private file from its beginning; an error when it is not what was written, before its last bytes have gone out."""
        digest = hashlib.sha256()
        with self._translating("read"):
            handle = self._spool.open("rb")
        with handle:

            def read(size: int) -> bytes:
                with self._translating("read"):
                    data = handle.read(size)
                digest.update(data)
                return data

            yield cast("BinaryIO", Window(read, self.size, str(self._spool)))
        if digest.digest() != self._digest.digest():
            raise IntegrityError(f"{self._destination.url(self._path)}: the spool file {self._spool} is not what was written into it; not sent")

    @contextlib.contextmanager
    def _translating(self, verb: str = "write") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = f"{self._spool.name} in the spool folder {self._spool.parent}"
            raise ResourceError(f"cannot {verb} {place}: {os.strerror(error.errno or 0)}; see {VARIABLE}") from None
