"""What every store promises (`FileSource`, `FileDestination`), run against each of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from engine.errors import ConfigurationError, FerryError, IntegrityError, TransferFailed
from engine.options import MIB
from engine.paths import File
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.memory import MemoryStore
from engine.stores.s3 import S3Options, S3Store
from engine.stores.sftp import SftpOptions, SftpStore
from tests.effort import slow
from tests.stores.sftp_servers import names_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STORES: tuple[Any, ...] = ("memory", "local", "s3", "sftp", pytest.param("sftp-openssh", marks=pytest.mark.system))
HOSTILE_NAMES = ("../x", "a/../../x", "/etc/x", "", ".", "..", "a//b", "a/", "a\\b", "C:x", "nul\0l", "./x", "a/./b")
UNICODE_NAMES = (
    "žluťoučký kůň.csv",
    "患者/データ.csv",
    "with space and 'quote'.csv",
    "plus+percent%20.csv",
    "emoji-🧬.csv",
    "[brackets]*?.csv",
    "-dash.csv",
    "#hash?q=1.csv",
)


class Failure(Exception):
    """What goes wrong in the middle of a block."""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An empty store."""
    with contextlib.closing(_made(request, tmp_path)) as made:
        yield made


def _made(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(FolderOptions(path=str(tmp_path / "root")))
    if request.param.startswith("sftp"):
        server = request.getfixturevalue("openssh_server" if request.param == "sftp-openssh" else "sftp_server")
        return SftpStore(SftpOptions.parse(server.options(request.getfixturevalue("sftp_folder")), where="test"))
    options = request.getfixturevalue("s3_options")
    return S3Store(S3Options.parse({**options, "path": "below/here", "chunk_size_mb": 5}, where="test"))


@pytest.fixture
def leftovers(store: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], list[str]]:
    """Everything that stands in the store's place, looked at by another way: objects, part uploads, files of any name, folders."""

    def look() -> list[str]:
        if isinstance(store, LocalStore):
            return sorted(str(p.relative_to(tmp_path / "root")) for p in (tmp_path / "root").rglob("*"))
        if isinstance(store, MemoryStore):
            return [f.path for f in store.list("**/*")]
        if isinstance(store, SftpStore):
            server = request.getfixturevalue("openssh_server" if "openssh" in request.node.name else "sftp_server")
            return names_below(server, request.getfixturevalue("sftp_folder"))
        client, bucket = request.getfixturevalue("s3_client"), request.getfixturevalue("bucket")
        uploads = [u["Key"] for u in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]
        return [o["Key"] for o in client.list_objects_v2(Bucket=bucket).get("Contents", [])] + uploads

    return look


def put(store: Any, path: str, data: bytes, **options: Any) -> Any:
    with store.open_write(path, **options) as writer:
        writer.write(data)
    return writer.receipt


def get(store: Any, path: str, start: int = 0, length: int | None = None) -> bytes:
    with store.open_read(store.stat(path), start, length) as body:
        return b"".join(iter(lambda: body.read(1 << 20), b""))


@pytest.mark.parametrize("size", [0, 1, slow(5 * MIB - 1), 5 * MIB, slow(5 * MIB + 1), slow(25 * MIB - 1), slow(25 * MIB), 25 * MIB + 1, slow(31 * MIB)])
def test_what_is_written_is_what_is_read(store: Any, size: int, leftovers: Callable[[], list[str]]) -> None:
    data = os.urandom(size)
    with store.open_write("a/b/file.bin") as writer:
        for at in range(0, size, 3_000_001):
            assert writer.write(memoryview(data)[at : at + 3_000_001]) == len(data[at : at + 3_000_001])
        assert writer.size == size
        writer.finish()
        assert store.stat("a/b/file.bin") is None
    assert get(store, "a/b/file.bin") == data
    assert writer.receipt.sha256 == hashlib.sha256(data).hexdigest()
    assert writer.receipt.bytes == size == store.stat("a/b/file.bin").size
    assert writer.receipt.replaced is False
    assert len([name for name in leftovers() if name.endswith("file.bin")]) == 1
    assert not [name for name in leftovers() if "part" in name]


def test_several_files_wait_for_each_other(store: Any) -> None:
    data = os.urandom(11 * MIB)
    with contextlib.ExitStack() as stack:
        for name in ("1", "2", "3", "4"):
            writer = stack.enter_context(store.open_write(name))
            writer.write(data)
            writer.finish()
        assert list(store.list("*")) == []
    assert [f.path for f in store.list("*")] == ["1", "2", "3", "4"]
    assert all(get(store, name) == data for name in ("1", "4"))


@pytest.mark.parametrize("size", [slow(0), 10, 30 * MIB])
@pytest.mark.parametrize("error", [Failure(), slow(KeyboardInterrupt()), slow(IntegrityError("short source"))], ids=["exception", "interrupt", "ferry"])
@pytest.mark.parametrize("finished", [False, True])
def test_an_exception_leaves_nothing(store: Any, leftovers: Callable[[], list[str]], size: int, error: BaseException, finished: bool) -> None:
    before = leftovers()
    with pytest.raises(type(error)), store.open_write("new/folder/file") as writer:
        writer.write(os.urandom(size))
        if finished:
            writer.finish()
        raise error
    assert store.stat("new/folder/file") is None
    assert [n for n in leftovers() if n not in before and n != "."] == []


def test_an_exception_keeps_what_stood_there(store: Any) -> None:
    put(store, "file", b"before")
    with pytest.raises(Failure), store.open_write("file") as writer:
        writer.write(b"after")
        raise Failure
    assert get(store, "file") == b"before"


def test_replacing_is_reported(store: Any) -> None:
    assert put(store, "file", b"one").replaced is False
    assert put(store, "file", b"two").replaced is True
    assert get(store, "file") == b"two"


def test_fail_refuses_what_stands_there(store: Any, leftovers: Callable[[], list[str]]) -> None:
    put(store, "file", b"one")
    before = leftovers()
    with pytest.raises(ConfigurationError, match="exists already"):
        put(store, "file", b"two", exists="fail")
    assert get(store, "file") == b"one"
    assert leftovers() == before


@pytest.mark.parametrize("size", [10, 30 * MIB])
def test_fail_is_decided_at_publication(store: Any, leftovers: Callable[[], list[str]], size: int) -> None:
    with pytest.raises(ConfigurationError, match="exists already"), store.open_write("file", exists="fail") as writer:
        writer.write(os.urandom(size))
        put(store, "file", b"somebody else was faster")
    assert get(store, "file") == b"somebody else was faster"
    assert len(leftovers()) == 1


def test_concurrent_writers_of_one_name_leave_one_whole_file(store: Any) -> None:
    bodies = [bytes([n]) * (6 * MIB) for n in range(4)]
    threads = [threading.Thread(target=put, args=(store, "file", body)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert get(store, "file") in bodies


@pytest.mark.parametrize("announced", [0, 9, 11])
def test_a_size_that_differs_from_the_announced_is_not_published(store: Any, leftovers: Callable[[], list[str]], announced: int) -> None:
    with pytest.raises(IntegrityError, match="announced"):
        put(store, "file", b"x" * 10, size=announced)
    assert store.stat("file") is None
    assert leftovers() == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_refused_by_every_verb(store: Any, name: str) -> None:
    with pytest.raises(ConfigurationError):
        put(store, name, b"x")
    with pytest.raises(ConfigurationError):
        store.stat(name)
    with pytest.raises(ConfigurationError):
        store.url(name)


@pytest.mark.parametrize("name", UNICODE_NAMES)
def test_any_legal_name_survives(store: Any, name: str) -> None:
    put(store, name, name.encode())
    assert get(store, name) == name.encode()
    assert [f.path for f in store.list("**/*")] == [name]


def test_listing_is_ordered_by_bytes_and_patterns_follow_the_shell(store: Any) -> None:
    names = ["b.csv", "a.csv", "a/x.csv", "a/b/y.csv", "a.b/z.csv", "é.csv", "B.csv", "a.txt"]
    for name in names:
        put(store, name, b"")
    listed = {
        pattern: [f.path for f in store.list(pattern)]
        for pattern in ("*", "*.csv", "?.csv", "[ab].csv", "[!ab].csv", "a/*", "**/*.csv", "a/**/*.csv", "nothing/*")
    }
    assert listed["*"] == ["B.csv", "a.csv", "a.txt", "b.csv", "é.csv"]
    assert listed["*.csv"] == ["B.csv", "a.csv", "b.csv", "é.csv"]
    assert listed["?.csv"] == ["B.csv", "a.csv", "b.csv", "é.csv"]
    assert listed["[ab].csv"] == ["a.csv", "b.csv"]
    assert listed["[!ab].csv"] == ["B.csv", "é.csv"]
    assert listed["a/*"] == ["a/x.csv"]
    assert listed["**/*.csv"] == sorted((n for n in names if n.endswith(".csv")), key=str.encode)
    assert listed["a/**/*.csv"] == ["a/b/y.csv", "a/x.csv"]
    assert listed["nothing/*"] == []


@pytest.mark.slow
def test_listing_goes_beyond_one_page(store: Any) -> None:
    names = [f"{n:05d}" for n in range(1_050)]
    for name in names:
        put(store, name, b"")
    assert [f.path for f in store.list("*")] == names


def test_stat_of_nothing_is_none(store: Any) -> None:
    assert store.stat("nothing") is None
    put(store, "folder/file", b"x")
    assert store.stat("folder") is None


@pytest.mark.parametrize(("start", "length"), [(0, 4), (3, 4), (3, None), (10, None), (0, 0), (9, 1)])
def test_ranges(store: Any, start: int, length: int | None) -> None:
    put(store, "file", b"0123456789")
    assert get(store, "file", start, length) == b"0123456789"[start : None if length is None else start + length]


def test_only_the_listed_version_is_read_or_deleted(store: Any) -> None:
    put(store, "file", b"one")
    listed = store.stat("file")
    put(store, "file", b"three")
    with pytest.raises(TransferFailed, match="changed"), store.open_read(listed) as body:
        body.read()
    with pytest.raises(TransferFailed, match="changed"):
        store.delete(listed)
    assert get(store, "file") == b"three"
    store.delete(store.stat("file"))
    assert store.stat("file") is None


def test_folders_and_the_root_are_told_from_files(store: Any) -> None:
    assert store.is_folder("folder") is False
    put(store, "folder/file", b"x")
    assert store.is_folder("folder") is True
    assert store.is_folder("folder/file") is False
    assert store.is_folder("") is True


def test_a_file_that_is_gone_is_an_error(store: Any) -> None:
    put(store, "file", b"one")
    listed = store.stat("file")
    store.delete(listed)
    with pytest.raises(FerryError), store.open_read(listed) as body:
        body.read()


def test_urls_name_the_file_and_hold_no_secret(store: Any, s3_server: Any) -> None:
    url = store.url("a/file.csv")
    assert url.endswith("a/file.csv")
    assert s3_server.secret_key not in url


@pytest.mark.parametrize("name", ["file", "f" * 250])
def test_sweep_removes_what_a_killed_run_left_and_nothing_else(store: Any, leftovers: Callable[[], list[str]], name: str) -> None:
    put(store, f"a/{name}", b"x")
    before = leftovers()
    told: list[str] = []
    killed, alive = store.open_write(f"a/{name}", on_begin=told.append), store.open_write(f"a/{name}")
    killed.__enter__().write(bytes(26 * MIB))
    alive.__enter__().write(bytes(26 * MIB))
    in_memory = isinstance(store, MemoryStore)
    leftover = told.pop() if told else "anything"
    assert told in ([], [""])  # before an upload begins, its id is not known
    assert leftover
    assert store.sweep(f"a/{name}", leftover) is not in_memory
    assert store.sweep(f"a/{name}", leftover) is False
    assert store.sweep("no/such/folder/file", leftover) is False
    assert not killed.__exit__(Failure, Failure(), None)
    assert len(leftovers()) == len(before) + (0 if in_memory else 1)
    assert get(store, f"a/{name}") == b"x"
    alive.__exit__(None, None, None)
    assert get(store, f"a/{name}") == bytes(26 * MIB)


def test_sweep_takes_no_other_name_for_a_leftover(store: Any) -> None:
    put(store, "a/file", b"x")
    put(store, "a/.other.part", b"x")
    for name in ("file", "../a/file", ".other.part", ""):
        assert store.sweep("a/file", name) is False
    assert [f.path for f in store.list("a/*")] == ["a/.other.part", "a/file"]


def test_a_probe_leaves_nothing(store: Any, leftovers: Callable[[], list[str]]) -> None:
    store.probe("new/folder/file")
    assert leftovers() == []
    put(store, "file", b"x")
    store.probe("file")
    assert get(store, "file") == b"x"
    assert [name.rpartition("/")[2] for name in leftovers()] == ["file"]
    with pytest.raises(ConfigurationError):
        store.probe("../file")


def test_what_a_kill_leaves_is_told_before_it_is_there(store: Any, leftovers: Callable[[], list[str]]) -> None:
    def refuse(leftover: str) -> None:
        raise Failure(leftover)

    if isinstance(store, MemoryStore):
        pytest.skip("a kill leaves nothing in memory")
    with pytest.raises(Failure), store.open_write("file", on_begin=refuse) as writer:
        writer.write(bytes(26 * MIB))
    assert leftovers() == []


def test_a_finished_file_takes_no_more(store: Any) -> None:
    with store.open_write("file") as writer:
        writer.write(b"all")
        writer.finish()
        with pytest.raises(RuntimeError, match="finished"):
            writer.write(b"more")
    assert get(store, "file") == b"all"


@pytest.mark.parametrize("size", [3, 30 * MIB])
def test_a_failure_that_is_ignored_inside_the_block_still_publishes_nothing(store: Any, leftovers: Callable[[], list[str]], size: int) -> None:
    with pytest.raises(FerryError), store.open_write("file", size=size + 1) as writer:
        writer.write(bytes(size))
        with contextlib.suppress(IntegrityError):
            writer.finish()
    assert leftovers() == []


def test_a_range_beyond_the_end_is_an_error(store: Any) -> None:
    put(store, "file", b"0123456789")
    with pytest.raises(FerryError, match="early"), store.open_read(store.stat("file"), 8, 5) as body:
        while body.read(1):
            pass


def test_what_is_read_is_a_binary_file(store: Any) -> None:
    data = b"one\ntwo\n" + os.urandom(3 * MIB)
    put(store, "file", data)
    with store.open_read(store.stat("file")) as body, io.BufferedReader(body) as lines:
        assert lines.readline() == b"one\n"
        assert b"one\n" + lines.read() == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, pa.py_buffer])
def test_any_buffer_can_be_written(store: Any, kind: Callable[[bytes], Any]) -> None:
    with store.open_write("file") as writer:
        assert writer.write(kind(b"abc")) == 3
        assert writer.write(kind(b"")) == 0
    assert get(store, "file") == b"abc"


@pytest.mark.parametrize("pattern", ["../*", "/etc/*", "a/../*", "a\\*", "[z-a]", "", "nul\0*"])
def test_patterns_that_leave_the_root_or_mean_nothing_are_refused(store: Any, pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        list(store.list(pattern))


def test_names_that_only_look_temporary_are_listed(store: Any) -> None:
    for name in ("data.part", ".hidden.part", ".hidden"):
        put(store, name, b"x")
    assert [f.path for f in store.list("*")] == [".hidden", ".hidden.part", "data.part"]


def test_files_are_values(store: Any) -> None:
    put(store, "file", b"x")
    assert store.stat("file") == store.stat("file")
    assert isinstance(store.stat("file"), File)
