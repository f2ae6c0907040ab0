"""What a transfer is going to do, decided from one listing before the first byte moves."""

from __future__ import annotations

import itertools
import time
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from engine import paths
from engine.errors import ConfigurationError, FerryError
from engine.protocols import FileDestination, FileSource, SendsBody
from engine.results import FileResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.protocols import Earlier, Exists, FileInfo, FileStore, Journal
    from engine.results import FileState, Verification

FILES_IN_FLIGHT = 32
"""So many small files wait at once for a server or a disk: 5,000 of 20 kB from S3 into a folder took 4.0 s with 16, 3.5 with 32, 3.1 with 64 (which is many
connections for a server), and 5.3 with 4."""
WORTH_LISTING = 20
_STANDS = ("written", "replaced", "removing source")
_UNSURE = ("publishing", "ambiguous")


class Store(FileSource, FileDestination, Protocol):
    """A destination that can be looked at: what an earlier run may have put there is compared with its source."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What to move, and how (CONFIGURATION: "Every transfer").

    Attributes:
        base: Below the source's root: a folder, or one file. Empty: the root.
        pattern: Which files below `base`; one file must match it too.
        target: Below the destination's root: a folder; or the new name of one file, unless a folder stands there. Empty: the root.
        target_is_folder: `target` is a folder in any case.
        exists: What to do with files that stand at the destination.
        flatten: Drop the folders below `base`.
        delete_source: Move: delete each source after its verified delivery.
        verify: The least level of verification; None: what costs no second read.
        files_in_flight: Files under way at once, at most.
        min_age: Seconds since its last modification that a file must have been left alone.
        bytes_per_second: Of all files together, at most; copies within S3 pass through nobody's hands and are not slowed down.
        redeliver: Send what the ledger says was delivered before.
        dry_run: Say what would be done.
    """

    base: str = ""
    pattern: str = "*"
    target: str = ""
    target_is_folder: bool = True
    exists: Exists = "replace"
    flatten: bool = False
    delete_source: bool = False
    verify: Verification | None = None
    files_in_flight: int = FILES_IN_FLIGHT
    min_age: float = 0.0
    bytes_per_second: float | None = None
    redeliver: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One file and what is to be done with it.

    Attributes:
        file: As it was listed.
        target: Its path below the destination's root.
        todo: `send` it; `compare` it with what stands at the target, since an earlier run may have delivered it; only `remove` the source, which is
            delivered; or nothing: `none`.
        result: What is known of it; its state counts where nothing is to be done.
    """

    file: FileInfo
    target: str
    todo: Literal["send", "compare", "remove", "none"]
    result: FileResult
    standing: bool | None = None  # whether a file stands at the target, where a listing or the ledger has told
    is_alike: bool = False  # whether another step's target differs only by case or Unicode form: some stores take them for one name


def plan(source: FileSource, destination: Store | SendsBody, orders: Orders, journal: Journal) -> list[Step]:
    """One step for each file that matches. Blocking.

    Raises:
        ConfigurationError: There is no such source; two files would meet under one name; a file would be written over itself, or over another source.
        FerryError: The listing failed.
    """
    files, folder, is_single = _chosen(source, orders)
    target_is_name = is_single and _is_name(destination, orders)
    steps = []
    for file in files:
        relative = file.path[len(folder) :]
        named = relative.rpartition("/")[2] if orders.flatten else relative
        target = orders.target if target_is_name else f"{orders.target}/{named}" if orders.target else named
        steps.append(_named(source, destination, file, target))
    possible = [step for step in steps if step.todo == "send"]
    _refuse_meetings(destination, possible)
    if not isinstance(destination, SendsBody):
        _refuse_overlaps(source, destination, possible, None if is_single else (orders.base, orders.pattern))
    earlier = journal.earlier([step.file.path for step in possible])
    unsure = "compare" if not isinstance(destination, SendsBody) else "send" if destination.may_repeat else "park"
    steps = [_decided(step, orders, earlier.get((step.file.path, step.result.path)), unsure) if step.todo == "send" else step for step in steps]
    if orders.min_age and (ageless := sum(step.todo == "send" and step.file.modified is None for step in steps)):
        source.notes.append(f"min_age says nothing of {ageless:,} file{'' if ageless == 1 else 's'}, whose time of modification the source does not tell")
    steps = _with_likeness(steps)
    if isinstance(destination, SendsBody) or len(steps) < WORTH_LISTING or (destination.has_folders and orders.exists != "skip"):
        return steps  # a folder's own look costs less than a listing
    return _with_standing(steps, destination, orders)


def _named(source: FileSource, destination: Store | SendsBody, file: FileInfo, target: str) -> Step:
    """A name that one of the ends cannot have, or must not, is the file's failure, and nobody else's."""
    try:
        return Step(file, target, "send", FileResult(destination.url(target), file.size, None, None, "planned", source=source.url(file.path)))
    except ConfigurationError as refused:
        return Step(file, target, "none", FileResult(target, file.size, None, None, "failed", source=file.path, error=str(refused)))


def _with_likeness(steps: list[Step]) -> list[Step]:
    """Mark those that a folder of another operating system could take for one file: the first of them goes as any other, the rest one by one after all."""
    seen: set[str] = set()
    marked = []
    for step in steps:
        name = likeness(step.target)
        marked.append(replace(step, is_alike=step.todo != "none" and name in seen))
        seen.add(name)
    return marked


def likeness(path: str) -> str:
    """Equal for paths that some operating system takes for one.

    Those of Windows and Apple know no case, Apple's no two ways to write an accent, and Windows drops dots and spaces at a name's end.

    Example:
        >>> likeness("Lab/A.csv") == likeness("lab./a.CSV. ")
        True
    """
    return "/".join(part.rstrip(". ") for part in unicodedata.normalize("NFC", path).casefold().split("/"))


def has_exactly(destination: Store, folder: str, path: str) -> bool:
    """Whether a file below `folder` is listed under this very name, not only found by it. Blocking.

    All below that folder: a listing that begins in one takes its name as it was asked for.
    """
    deep = "/" in path[len(folder) + 1 if folder else 0 :]
    return any(file.path == path for file in destination.list(paths.join_pattern(folder, "**/*" if deep else "*"), ordered=False))


def _with_standing(steps: list[Step], destination: Store, orders: Orders) -> list[Step]:
    """One listing of the target instead of a question for each file, if it is not much longer than what is to be moved."""
    deep = any("/" in step.target[len(orders.target) + 1 if orders.target else 0 :] for step in steps)
    most = 2 * len(steps) + 1_000
    try:
        found = {file.path for file in itertools.islice(destination.list(paths.join_pattern(orders.target, "**/*" if deep else "*"), ordered=False), most + 1)}
    except FerryError:  # a key that may write and not list is enough
        return steps
    return steps if len(found) > most else [replace(step, standing=step.target in found) for step in steps]


def _chosen(source: FileSource, orders: Orders) -> tuple[list[FileInfo], str, bool]:
    """The files, the folder that their paths begin with, and whether the source is one file by name."""
    if orders.base and (single := source.stat(orders.base)) is not None:
        folder = single.path[: single.path.rfind("/") + 1]
        if not paths.matcher(orders.pattern).fullmatch(single.path.removeprefix(folder)):
            raise ConfigurationError(f"{source.url(single.path)} is one file, and the pattern {orders.pattern!r} does not match its name")
        return [single], folder, True
    files = list(source.list(paths.join_pattern(orders.base, orders.pattern)))
    if not files and source.has_folders and not source.is_folder(orders.base):
        raise ConfigurationError(f"there is no file or folder {source.url(orders.base or '*').removesuffix('/*')}")
    return files, f"{orders.base}/" if orders.base else "", False


def _is_name(destination: Store | SendsBody, orders: Orders) -> bool:
    """As `cp` does: one file goes to a new name, unless a folder stands there."""
    return not orders.target_is_folder and bool(orders.target) and not (not isinstance(destination, SendsBody) and destination.is_folder(orders.target))


def _decided(step: Step, orders: Orders, earlier: Earlier | None, unsure: str) -> Step:
    """What is done with one file; `unsure` with those that an earlier run may have delivered: `compare`, `send` again, or `park`."""
    if earlier is not None:
        if earlier.state in _UNSURE and unsure == "park":
            return _settled(
                step, "ambiguous", f"an earlier run cannot say whether it was delivered: look, then ferry files resolve {earlier.id} delivered|resend"
            )
        if earlier.version == step.file.version and not orders.redeliver:
            if earlier.state in _UNSURE:
                return (
                    replace(step, todo="compare") if unsure == "compare" else replace(step, standing=True)
                )  # as far as anybody knows: sent again, and said so
            if earlier.state in _STANDS:
                if orders.delete_source:
                    return replace(step, todo="remove")
                return _settled(step, "already delivered")
    if orders.min_age and (age := _age(step.file)) is not None and age < orders.min_age:
        return _settled(step, "left", f"younger than {orders.min_age:g} s (min_age); the next run takes it")
    return step


def _age(file: FileInfo) -> float | None:
    """Seconds since the last modification, by this machine's clock and the store's."""
    return None if file.modified is None else time.time() - file.modified.timestamp()


def _settled(step: Step, state: FileState, why: str | None = None) -> Step:
    return replace(step, todo="none", result=replace(step.result, state=state, error=why))


def _refuse_meetings(destination: Store | SendsBody, steps: Iterable[Step]) -> None:
    seen: dict[str, str] = {}
    sender = destination if isinstance(destination, SendsBody) else None  # asked once: it takes 12 µs in Python 3.11
    for step in steps:
        slot = sender.slot(step.target) if sender is not None else None
        other = seen.setdefault(slot or step.target, step.file.path)
        if other != step.file.path:
            raise ConfigurationError(f"{other!r} and {step.file.path!r} would both become {step.result.path}; nothing was moved")


def _refuse_overlaps(source: FileSource, destination: Store, steps: list[Step], wanted: tuple[str, str] | None) -> None:
    """A file written over itself is lost when its source is deleted; one that the next run takes as a source wanders for ever."""
    if not steps or source.identity(steps[0].file.path).partition(" ")[0] != destination.identity(steps[0].target).partition(" ")[0]:
        return
    mine, theirs = _places(source, [step.file.path for step in steps]), _places(destination, [step.target for step in steps])
    root = mine[0].removesuffix(steps[0].file.path)
    taken = paths.matcher(paths.join_pattern(*wanted)) if wanted is not None else None
    for step, itself, place in zip(steps, mine, theirs, strict=True):
        if place == itself:
            raise ConfigurationError(f"{step.result.source} would be written over itself; source and target must be different places")
        if taken is not None and wanted is not None and place.startswith(root) and taken.fullmatch(place.removeprefix(root)):
            raise ConfigurationError(
                f"{step.result.path} lies where the next run looks for sources ({wanted[1]!r}); choose a folder outside, or another pattern"
            )


def _places(store: FileStore, names: list[str]) -> list[str]:
    """The identity of each: one question to the store, unless links make a path's identity another than its root's with the path below."""
    first = store.identity(names[0])
    if not first.endswith(f"/{names[0]}"):
        return [store.identity(name) for name in names]
    root = first.removesuffix(names[0])
    return [root + name for name in names]
