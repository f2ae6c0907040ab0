"""What a transfer needs of every store, run against each of them: files that end early, many files, many names, levels, copies."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import ConfigurationError, FerryError, FileChanged
from engine.options import MIB
from engine.protocols import CopiesWithin, MovesWithin
from engine.results import LEVELS, reaches
from engine.stores.local import LocalStore
from engine.stores.memory import MemoryStore
from engine.stores.s3 import S3Store
from engine.stores.sftp import SftpStore
from tests.conformance.test_stores import get, leftovers, put, store
from tests.effort import slow
from tests.hostile_names import NEVER, PERHAPS, TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.paths import File

MANY = 10_050  # more than ten pages of S3
SIZES = [0, 10, 26 * MIB]  # nothing, one request, several parts


@pytest.fixture
def rclone(store: Any, request: pytest.FixtureRequest) -> bool:
    """Whether the store is rclone's SFTP server, which is less exact than a file system (OpenSSH's passes the same tests)."""
    return isinstance(store, SftpStore) and "openssh" not in request.node.name


class Broken(Exception):
    """What a source raises in the middle."""


def send(source: Any, file: File, destination: Any, path: str, *, breaks_after: int | None = None, **options: Any) -> Any:
    """As the route does it; the source may break."""
    taken = 0
    with destination.open_write(path, size=file.size, **options) as writer, source.open_read(file) as body:
        while data := body.read(MIB):
            writer.write(data)
            taken += len(data)
            if breaks_after is not None and taken >= breaks_after:
                raise Broken
    return writer.receipt


# Sources that end early


@pytest.mark.parametrize(("size", "standing"), [(0, False), (10, True), (10, False), (26 * MIB, True)])
def test_a_source_that_ends_early_is_never_delivered(store: Any, leftovers: Callable[[], list[str]], size: int, standing: bool) -> None:
    source: Any = MemoryStore()
    put(source, "file", os.urandom(size))
    put(store, "file", os.urandom(size))
    if standing:
        put(store, "copy", b"before")
    before = leftovers()
    for one in (source, store):
        longer = replace(one.stat("file"), size=size + 5)
        with pytest.raises(FerryError):
            send(one, longer, store, "copy")
    assert leftovers() == before
    assert (get(store, "copy") if standing else store.stat("copy")) == (b"before" if standing else None)


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_source_that_breaks_in_the_middle_is_never_delivered(store: Any, leftovers: Callable[[], list[str]], size: int) -> None:
    put(store, "file", os.urandom(size))
    put(store, "copy", b"before")
    before = leftovers()
    threads = set(threading.enumerate())
    with pytest.raises(Broken):
        send(store, store.stat("file"), store, "copy", breaks_after=1)
    assert get(store, "copy") == b"before"
    assert leftovers() == before
    assert not [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("ferry-")]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_whose_size_nobody_knows_goes_through(store: Any, size: int) -> None:
    data = os.urandom(size)
    with store.open_write("file", size=None) as writer:
        for at in range(0, size, 999_999):
            writer.write(data[at : at + 999_999])
    assert (writer.receipt.bytes, writer.receipt.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert get(store, "file") == data


def test_nothing_is_a_file_too(store: Any) -> None:
    with store.open_write("folder/empty", size=0):
        pass
    assert store.stat("folder/empty").size == 0
    assert get(store, "folder/empty") == b""
    assert [(file.path, file.size) for file in store.list("**/*")] == [("folder/empty", 0)]
    store.delete(store.stat("folder/empty"))
    assert store.stat("folder/empty") is None


# Overwriting


@pytest.mark.parametrize(("first", "second"), [(0, 10), (10, 0), (26 * MIB, 10), (10, 26 * MIB)])
def test_a_file_is_replaced_as_a_whole(store: Any, first: int, second: int, leftovers: Callable[[], list[str]]) -> None:
    put(store, "file", os.urandom(first))
    listed, data = store.stat("file"), os.urandom(second)
    assert put(store, "file", data, standing=True).replaced is True
    assert get(store, "file") == data
    assert store.stat("file").version != listed.version
    assert len(leftovers()) == 1


def test_writers_of_many_names_in_one_new_folder_do_not_meet(store: Any) -> None:
    names = [f"new/deep/{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        receipts = list(threads.map(lambda name: put(store, name, name.encode()), names))
    assert not any(receipt.replaced for receipt in receipts)
    assert {name: get(store, name) for name in names} == {name: name.encode() for name in names}


def test_one_of_several_writers_that_must_not_replace_wins(store: Any, rclone: bool, leftovers: Callable[[], list[str]]) -> None:
    if rclone:
        pytest.skip("it looks, and then renames: two may win")
    begun = threading.Barrier(4)

    def write(number: int) -> bool:
        with contextlib.suppress(ConfigurationError), store.open_write("file", exists="fail") as writer:
            writer.write(bytes([number]))
            begun.wait(60)
        return bool(writer._receipt if hasattr(writer, "_receipt") else writer.published)

    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(write, range(4)))
    assert won.count(True) == 1
    assert get(store, "file") == bytes([won.index(True)])
    assert len(leftovers()) == 1


# Listings


@pytest.fixture
def filled(store: Any, request: pytest.FixtureRequest) -> list[str]:
    """The names of many small files, put there by the shortest way."""
    names = [f"many/{number:05d}" for number in range(MANY)]
    if isinstance(store, LocalStore):
        _make(Path(store.url("many")), names)
    elif isinstance(store, SftpStore):
        server = request.getfixturevalue("openssh_server" if "openssh" in request.node.name else "sftp_server")
        _make(server.root / request.getfixturevalue("sftp_folder") / "many", names)
    else:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda name: put(store, name, b"x", standing=False), names))
    return names


def _make(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name.rpartition("/")[2]).write_bytes(b"x")


@pytest.mark.slow
def test_more_than_ten_thousand_files_are_listed_once_each_and_in_order(store: Any, filled: list[str]) -> None:
    assert [file.path for file in store.list("**/*")] == filled
    assert next(iter(store.list("many/*"))).path == filled[0]


def test_folders_may_be_deep(store: Any) -> None:
    folders = [f"level-{number}" for number in range(20)]
    deepest = "/".join(folders)
    put(store, f"{deepest}/file.csv", b"deep")
    put(store, "level-0/file.csv", b"shallow")
    assert get(store, f"{deepest}/file.csv") == b"deep"
    assert [file.path for file in store.list("**/*.csv")] == ["level-0/file.csv", f"{deepest}/file.csv"]
    assert [file.path for file in store.list(f"{deepest}/*")] == [f"{deepest}/file.csv"]
    assert [file.path for file in store.list("level-0/*")] == ["level-0/file.csv"]
    assert all(store.is_folder("/".join(folders[:depth])) for depth in range(1, 21))


def test_a_folder_is_what_something_stands_below(store: Any) -> None:
    put(store, "folder/below/file", b"x")
    put(store, "file", b"x")
    assert [path for path in ("", "folder", "folder/below") if not store.is_folder(path)] == []
    assert [path for path in ("file", "fold", "folder/file", "folder/below/file", "nothing", "file/below") if store.is_folder(path)] == []
    for path in ("../folder", "/etc", "folder/..", "folder/"):
        with pytest.raises(ConfigurationError):
            store.is_folder(path)


def test_the_identity_tells_places_apart(store: Any) -> None:
    put(store, "a/file", b"x")
    names = ["a/file", "a/File", "a/file ", "b/file", "file", "a", "not/there"]
    assert len({store.identity(name) for name in names}) == len(names)
    assert store.identity("a/file") == store.identity("a/file")
    put(store, "a/file", b"another version of the same place")
    assert len({store.identity(name) for name in names}) == len(names)
    with pytest.raises(ConfigurationError):
        store.identity("../file")


# Names


@pytest.fixture
def emptied(store: Any) -> Iterator[None]:
    """Files are deleted one by one: many at once go to S3 as XML, which cannot hold all names."""
    yield
    if isinstance(store, S3Store):
        for file in list(store.list("**/*")):
            store.delete(file)


@pytest.mark.usefixtures("emptied")
def test_each_hostile_name_is_refused_or_kept_exactly(store: Any, rclone: bool) -> None:
    assert len({*NEVER, *PERHAPS}) >= 40
    kept: dict[str, bytes] = {}
    for number, name in enumerate((*NEVER, *PERHAPS)):
        with contextlib.suppress(FerryError):
            put(store, name, f"content of {number}".encode())
            kept[name] = f"content of {number}".encode()
    assert not kept.keys() & set(NEVER)
    assert len(kept) >= 40
    assert {name: get(store, name) for name in kept} == kept
    listed = {file.path for file in store.list("**/*")} - {TEMPORARY}
    assert listed >= kept.keys() - {TEMPORARY}
    if not rclone:  # it lists names for a while that its disk has refused
        assert listed == kept.keys() - {TEMPORARY}


def test_what_is_no_path_is_refused_by_every_verb(store: Any) -> None:
    put(store, "file", b"x")
    for name in NEVER:
        hostile = replace(store.stat("file"), path=name)
        verbs: dict[str, Callable[[], Any]] = {
            **{verb: functools.partial(getattr(store, verb), name) for verb in ("stat", "url", "identity", "probe", "is_folder")},
            "write": functools.partial(put, store, name, b"x"),
            "sweep": functools.partial(store.sweep, name, TEMPORARY),
            "delete": functools.partial(store.delete, hostile),
            "read": functools.partial(send, store, hostile, store, "copy"),
        }
        for verb, ask in verbs.items():
            with pytest.raises(FerryError):
                pytest.fail(f"{verb} took {name!r}: {ask()}")
    assert [file.path for file in store.list("**/*")] == ["file"]


def test_composed_and_decomposed_names_are_two_files(store: Any, rclone: bool) -> None:
    if rclone or (sys.platform == "darwin" and not isinstance(store, MemoryStore | S3Store)):
        pytest.skip("they are one there")
    names = [unicodedata.normalize(form, "Müller/é.csv") for form in ("NFC", "NFD")]
    for name in names:
        put(store, name, ascii(name).encode())
    assert [get(store, name) for name in names] == [ascii(name).encode() for name in names]
    assert [file.path for file in store.list("**/*")] == sorted(names, key=str.encode)
    store.delete(store.stat(names[0]))
    assert [file.path for file in store.list("**/*")] == names[1:]


# Levels of verification


@pytest.mark.parametrize(("level", "size"), [*((level, size) for level in (None, *LEVELS) for size in SIZES[:2]), (None, SIZES[2]), ("read-back", SIZES[2])])
def test_a_receipt_never_names_less_than_was_asked_for(store: Any, size: int, level: Any) -> None:
    data = os.urandom(size)
    receipt = put(store, "file", data, verify=level, size=size)
    assert reaches(receipt.verified, level or "size")
    assert (receipt.bytes, receipt.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert get(store, "file") == data


# Copies that do not pass through this process


def copied(source: Any, file: File, destination: Any, path: str, **options: Any) -> Any:
    """The receipt; None where the store left it to the caller."""
    with destination.open_write(path, size=file.size, **options) as writer:
        copier: Any = writer if isinstance(writer, CopiesWithin) else None
        if copier is None or not copier.copy_from(source, file, lambda _: None):
            assert writer.size == 0
            with source.open_read(file) as body:
                writer.write(body.read())
            return None
        writer.finish()
        assert destination.stat(path) is None
    return writer.receipt


@pytest.mark.parametrize(("level", "size"), [(None, 0), slow(None, 10), (None, 26 * MIB), slow("read-back", 0), slow("read-back", 26 * MIB)])
def test_what_a_store_copies_by_itself_is_the_same_file(store: Any, size: int, level: Any, leftovers: Callable[[], list[str]]) -> None:
    data = os.urandom(size)
    put(store, "in/file", data)
    receipt = copied(store, store.stat("in/file"), store, "out/file", verify=level)
    assert get(store, "out/file") == get(store, "in/file") == data
    assert len([name for name in leftovers() if name.endswith("file")]) == 2
    if receipt is not None:
        assert receipt.bytes == size
        assert receipt.sha256 in {None, hashlib.sha256(data).hexdigest()}
        assert reaches(receipt.verified, level or "size")


def test_what_is_out_of_reach_is_left_to_the_caller(store: Any) -> None:
    source: Any = MemoryStore()
    put(source, "file", b"from elsewhere")
    assert copied(source, source.stat("file"), store, "file") is None
    assert get(store, "file") == b"from elsewhere"


def test_another_version_than_the_listed_one_is_not_copied(store: Any, leftovers: Callable[[], list[str]]) -> None:
    put(store, "file", b"one")
    listed = store.stat("file")
    put(store, "file", b"three")
    before = leftovers()
    with pytest.raises(FileChanged):
        copied(store, listed, store, "copy")
    assert leftovers() == before


def test_a_copy_that_is_not_wanted_any_more_leaves_nothing(store: Any, leftovers: Callable[[], list[str]]) -> None:
    put(store, "file", os.urandom(MIB))
    before = leftovers()

    def unwanted(_: int) -> None:
        raise Broken

    with pytest.raises(Broken), store.open_write("copy") as writer:
        if isinstance(writer, CopiesWithin):
            writer.copy_from(store, store.stat("file"), unwanted)
        raise Broken
    assert leftovers() == before


# Moves within a store


@pytest.fixture
def mover(store: Any) -> Any:
    """The store, if it moves its files by itself."""
    if not isinstance(store, MovesWithin):
        pytest.skip("its files are copied")
    return store


def test_a_file_that_moves_within_its_store_is_there_once_and_the_same(mover: Any, leftovers: Callable[[], list[str]]) -> None:
    put(mover, "in/file", b"one")
    assert mover.move_from(mover, mover.stat("in/file"), "done/2024/file")
    assert get(mover, "done/2024/file") == b"one"
    assert [name for name in leftovers() if name.endswith("file")] == [name for name in leftovers() if name.endswith("done/2024/file")]


def test_a_move_replaces_nothing_and_takes_no_other_version(mover: Any) -> None:
    put(mover, "file", b"one")
    listed = mover.stat("file")
    put(mover, "done/file", b"there")
    with pytest.raises(ConfigurationError, match="exists already"):
        mover.move_from(mover, listed, "done/file")
    put(mover, "file", b"three")
    with pytest.raises(FileChanged):
        mover.move_from(mover, listed, "other/file")
    assert (get(mover, "file"), get(mover, "done/file"), mover.stat("other/file")) == (b"three", b"there", None)


def test_a_move_from_another_store_is_left_to_the_caller(mover: Any) -> None:
    source: Any = MemoryStore()
    put(source, "file", b"one")
    assert not mover.move_from(source, source.stat("file"), "file")
    assert mover.stat("file") is None
