"""Files whose rows are committed, moved to another folder of the store that they came from.

By the store itself where it can (a hard link, a rename, a server's copy); else copied, and the source is deleted once the copy stands. What stands in the
archive is never replaced: a file of the same bytes is the one that an earlier run came to copy, and one of other bytes gives the new one another name.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO, Protocol

from engine.errors import ConfigurationError, TransferFailed
from engine.options import MIB
from engine.protocols import CopiesWithin, FileDestination, FileSource, MovesWithin

if TYPE_CHECKING:
    from engine.protocols import FileInfo

PIECE_BYTES = MIB


class ArchiveStore(FileSource, FileDestination, Protocol):
    """A store that is read and written."""


class Archive:
    """A folder for files that are done with. Every method blocks.

    Args:
        source: Where the files are.
        store: The same store, rooted at the archive.
        base: The folder or the file below the source's root that is loaded.
        base_is_file: Whether it is a file.

    Raises:
        ConfigurationError: The archive is where the files are.

    Example:
        >>> archive = Archive(LocalStore(FolderOptions(path="/data")), LocalStore(FolderOptions(path="/data/done")), "in")  # doctest: +SKIP
        >>> archive.take(source.stat("in/2024/labs.csv"))  # doctest: +SKIP
        '/data/done/2024/labs.csv'
    """

    def __init__(self, source: FileSource, store: ArchiveStore, base: str = "", *, base_is_file: bool = False) -> None:
        self._source = source
        self._store = store
        self._folder = base.rpartition("/")[0] if base_is_file else base
        inside = _below(source.identity(""), store.identity(""))
        if inside == self._folder:
            raise ConfigurationError(f"'archive_path': the files are loaded from there ({source.url(inside) if inside else 'the root of the source'})")
        within = inside is not None and (not self._folder or inside.startswith(f"{self._folder}/"))
        self._inside = f"{inside}/" if within else None

    def holds(self, file: FileInfo) -> bool:
        """Whether a file of the source is in the archive, which then lies below what is loaded."""
        return self._inside is not None and file.path.startswith(self._inside)

    def take(self, file: FileInfo) -> str:
        """Move the file; gives its URL there.

        Raises:
            FileChanged: The file is another one by now, and stays.
            TransferFailed: Other files stand at its names.
        """
        name = file.path.removeprefix(f"{self._folder}/") if self._folder else file.path
        for path in (name, _second_name(name, file)):
            standing = self._store.stat(path)
            if standing is None:
                self._move(file, path)
                return self._store.url(path)
            if self._is_same(file, standing):  # an earlier run copied it, and did not come to delete it
                self._source.delete(file)
                return self._store.url(path)
        raise TransferFailed(f"{self._store.url(name)} and {self._store.url(path)} stand there with other content")

    def _move(self, file: FileInfo, path: str) -> None:
        if isinstance(self._store, MovesWithin) and self._store.move_from(self._source, file, path):
            return
        with self._store.open_write(path, size=file.size, exists="fail") as writer:
            if not (isinstance(writer, CopiesWithin) and writer.copy_from(self._source, file, lambda _: None)):
                with self._source.open_read(file) as body:
                    while data := body.read(PIECE_BYTES):
                        writer.write(data)
        self._source.delete(file)

    def _is_same(self, file: FileInfo, standing: FileInfo) -> bool:
        if standing.size != file.size:
            return False
        with self._source.open_read(file) as mine, self._store.open_read(standing) as theirs:
            return _digest(mine) == _digest(theirs)


def _below(root: str, place: str) -> str | None:
    """The relative path of a place below a root, by their identities; None: it is not there."""
    start = f"{root.rstrip('/')}/"
    if f"{place.rstrip('/')}/" == start:
        return ""
    return place.removeprefix(start) if place.startswith(start) else None


def _second_name(path: str, file: FileInfo) -> str:
    """The name of a file whose first one is taken; the same again after a kill.

    Example:
        >>> _second_name("2024/labs.csv.gz", File("labs.csv.gz", 1, None, "etag"))  # doctest: +SKIP
        '2024/labs.5f0c7d1e.csv.gz'
    """
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{folder}{slash}{stem}.{hashlib.sha256(file.version.encode()).hexdigest()[:8]}{dot}{suffix}"


def _digest(body: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while data := body.read(PIECE_BYTES):
        digest.update(data)
    return digest.digest()
