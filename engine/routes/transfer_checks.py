"""What is looked at before a file is published: that it does not take the place of its own source, nor of another file of the same run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, FerryError, TransferFailed
from engine.routes.transfer_plan import has_exactly, likeness

if TYPE_CHECKING:
    from engine.protocols import FileSource
    from engine.routes.transfer_plan import Step, Store


class Aliases:
    """Whether a target's folder is its source's under another name, which no comparison of names can tell.

    An alias of a host, a share that is mounted twice, one folder by SFTP and by its path: a temporary file that was made in the one stands in the other then.
    """

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._known: dict[tuple[str, str], bool] = {}

    def refuse(self, step: Step, temporary_name: str) -> None:
        """Refuse a file that would be written over itself. Blocking, once for each pair of folders.

        Raises:
            ConfigurationError: It would be.
        """
        folder, _, name = step.file.path.rpartition("/")
        onto, _, target = step.target.rpartition("/")
        if likeness(name) != likeness(target):
            return  # within one folder a file may get another name
        if (folder, onto) not in self._known:
            self._known[folder, onto] = self._is_seen(f"{folder}/{temporary_name}" if folder else temporary_name)
        if self._known[folder, onto]:
            raise itself(step)

    def _is_seen(self, temporary: str) -> bool:
        try:
            return self._source.stat(temporary) is not None
        except FerryError as error:
            if error.transient:
                raise
            return False  # S3 refuses a look at what is not there to a key that may not list


def may_be_itself(source: FileSource, destination: Store, step: Step) -> bool:
    """Whether, by its size and the second of its time, what stands at the target may be the source, seen by another kind of store. Blocking.

    For where no temporary file tells: stores without any (S3 over a folder), and servers that answer from a cache of the folder (rclone).
    """
    standing = destination.stat(step.target) if step.standing is not False else None
    if standing is None or standing.size != step.file.size or standing.modified is None or step.file.modified is None:
        return False
    if int(standing.modified.timestamp()) != int(step.file.modified.timestamp()):  # SFTP and HTTP tell whole seconds
        return False
    return source.identity(step.file.path).partition(" ")[0] != destination.identity(step.target).partition(" ")[0]


def itself(step: Step) -> ConfigurationError:
    """The refusal of a file that would be written over itself."""
    return ConfigurationError(
        f"{step.result.path} is, by all signs, its own source under another name ({step.result.source}); nothing was written, choose a different target"
    )


def refuse_folded(destination: Store, folder: str, step: Step) -> None:
    """Of several names that differ by case or Unicode form only, a store that takes them for one would keep one file, and a move delete all sources."""
    if destination.stat(step.target) is not None and not has_exactly(destination, folder, step.target):
        raise TransferFailed(
            f"{step.result.path}: the destination takes this name and that of another file of this run for one (they differ by upper and lower case, "
            "or by how accents are written), and holds the other; rename one of them"
        )
