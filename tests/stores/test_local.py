"""What only a folder meets: permissions, devices, limits of the file system."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine import workers
from engine.errors import ConfigurationError, FerryError, FileChanged, IntegrityError, ResourceError
from engine.stores import local_writer
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.temporary import temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def store_in(folder: Path, **options: Any) -> LocalStore:
    return LocalStore(FolderOptions.parse({"path": str(folder), **options}, where="destination"))


def put(store: LocalStore, path: str, data: bytes, **options: Any) -> Any:
    with store.open_write(path, **options) as writer:
        writer.write(data)
    return writer.receipt


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), ("0600", 0o600), ("664", 0o664), (0o604, 0o604)])
def test_files_have_the_mode_that_was_asked_for_from_their_first_byte(tmp_path: Path, mode: Any, expected: int) -> None:
    with store_in(tmp_path, file_mode=mode).open_write("file") as writer:
        writer.write(b"x")
        (temporary,) = tmp_path.iterdir()
        assert stat.S_IMODE(temporary.stat().st_mode) == expected
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == expected


@pytest.mark.parametrize("mode", ["rw-r--r--", "0999", 640, "01777"])
def test_modes_that_are_none_are_refused(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(ConfigurationError, match="file_mode"):
        store_in(tmp_path, file_mode=mode)


def test_paths_with_a_nul_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'path'"):
        store_in(tmp_path / "a\0b")


def test_an_unknown_home_folder_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="home folder"):
        LocalStore(FolderOptions(path="~nobody-of-that-name/x"))


def test_urls_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore(FolderOptions(path="out"))
    monkeypatch.chdir("/")
    put(store, "file", b"x")
    assert store.url("file") == str(tmp_path / "out/file")
    assert (tmp_path / "out/file").read_bytes() == b"x"


def test_only_a_regular_file_can_be_a_target(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    store = store_in(tmp_path)
    for path in ("folder", "pipe", "file/below", "x" * 256):
        with pytest.raises(ConfigurationError, match="another name"), store.open_write(path):
            pytest.fail("opened")
    assert [f.path for f in store.list("**/*")] == ["file"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "pipe"]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "original").write_bytes(b"original")
    (tmp_path / "link").symlink_to("original")
    put(store_in(tmp_path), "link", b"new")
    assert (tmp_path / "original").read_bytes() == b"original"
    assert (tmp_path / "link").read_bytes() == b"new"


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/secret").write_bytes(b"x")
    (tmp_path / "in/link").symlink_to(tmp_path / "out")
    assert list(store_in(tmp_path / "in").list("**/*")) == []


@pytest.fixture
def _small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_small_files")
def test_a_refused_write_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="grows beyond"):
        put(store_in(tmp_path), "new/file", bytes(200_000))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_others_use_stay_when_a_write_fails(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.open_write("new/deep/file"):
        put(store, "new/other", b"x")
        raise KeyboardInterrupt
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["new", "new/other"]


def test_a_file_cut_short_behind_our_back_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(FerryError, match="on disk"), store_in(tmp_path).open_write("file") as writer:
        writer.write(b"0123456789")
        (temporary,) = tmp_path.iterdir()
        os.truncate(temporary, 5)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    put(store, "file", b"0123456789")
    listed = store.stat("file")
    assert listed is not None
    with pytest.raises(FerryError, match="changed"), store.open_read(listed) as body:
        body.read(5)
        with (tmp_path / "file").open("ab") as more:
            more.write(b"more")
        body.read()


def test_errors_of_the_block_are_not_taken_for_errors_of_the_file(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    put(store, "file", b"x")
    listed = store.stat("file")
    assert listed is not None
    with pytest.raises(BrokenPipeError), store.open_read(listed):
        raise BrokenPipeError
    with pytest.raises(BrokenPipeError), store.open_write("other"):
        raise BrokenPipeError


def test_no_descriptor_stays_open_after_finish(tmp_path: Path) -> None:
    opened = len(list(Path("/proc/self/fd").iterdir()))
    with store_in(tmp_path).open_write("file") as writer:
        writer.finish()
        assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_require_mount_refuses_every_verb_below_the_root_file_system(tmp_path: Path) -> None:
    if any(os.path.ismount(p) for p in (tmp_path, *tmp_path.parents) if p.parent != p):
        pytest.skip("the folder for temporary files is a mount")
    (tmp_path / "share").mkdir()
    (tmp_path / "share/file").write_bytes(b"x")
    found = store_in(tmp_path / "share").stat("file")
    assert found is not None
    store = store_in(tmp_path / "share", require_mount=True)
    verbs: dict[str, Callable[[], object]] = {
        "stat": lambda: store.stat("file"),
        "is_folder": lambda: store.is_folder(""),
        "list": lambda: list(store.list()),
        "read": lambda: store.open_read(found).__enter__(),
        "write": lambda: store.open_write("new").__enter__(),
        "delete": lambda: store.delete(found),
        "sweep": lambda: store.sweep("file", temporary_name("file", "0123456789ab")),
    }
    for name, verb in verbs.items():
        with pytest.raises(ResourceError, match="mount point"):
            pytest.fail(f"{name}: {verb()}")
    assert [path.name for path in (tmp_path / "share").iterdir()] == ["file"]


def test_require_mount_accepts_what_is_mounted() -> None:
    assert list(LocalStore(FolderOptions(path="/proc/self", require_mount=True)).list("no-such-file")) == []


@pytest.fixture
def hostile(tmp_path: Path) -> LocalStore:
    """A folder with links that lead out of it, and one that does not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "plain").write_bytes(b"plain")
    (root / "inner").symlink_to("plain")
    (root / "file").symlink_to(tmp_path / "outside/secret")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("../outside/secret")
    return store_in(root)


def test_links_that_lead_outside_are_not_followed(hostile: LocalStore, tmp_path: Path) -> None:
    assert [file.path for file in hostile.list("**/*")] == ["inner", "plain"]
    assert len(hostile.notes) == 3
    assert all("is a link that leads out of" in note for note in hostile.notes)
    for path in ("file", "up", "folder/secret"):
        with pytest.raises(ConfigurationError, match="not followed"):
            hostile.stat(path)
    with pytest.raises(ConfigurationError, match="not followed"):
        put(hostile, "folder/new", b"x")
    put(hostile, "file", b"mine")  # the link itself is replaced
    assert (tmp_path / "outside/secret").read_bytes() == b"secret"
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["secret"]


def test_a_pipe_in_the_place_of_a_listed_file_holds_nobody_up(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    put(store, "file", b"x")
    listed = store.stat("file")
    assert listed is not None
    (tmp_path / "file").unlink()
    os.mkfifo(tmp_path / "file")
    with pytest.raises(FileChanged), store.open_read(listed) as body:
        body.read()
    with pytest.raises(FileChanged):
        store.delete(listed)
    assert list(store.list("*")) == []


@pytest.mark.parametrize("level", ["checksum", "read-back"])
def test_what_was_written_is_read_back_when_asked(tmp_path: Path, level: Any) -> None:
    data = os.urandom(3_000_001)
    receipt = put(store_in(tmp_path), "file", data, verify=level)
    assert (receipt.verified, receipt.sha256) == ("read-back", hashlib.sha256(data).hexdigest())
    with pytest.raises(IntegrityError, match="read back"), store_in(tmp_path).open_write("other", verify=level) as writer:
        writer.write(b"0123456789")
        temporary = next(path for path in tmp_path.iterdir() if path.name.endswith(".part"))
        temporary.write_bytes(b"0123456780")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="only Linux has it")
@pytest.mark.parametrize("level", [None, "size", "read-back"])
def test_the_kernel_copies_within_a_file_system(tmp_path: Path, level: Any) -> None:
    data = os.urandom(3_000_001)
    source, destination = store_in(tmp_path / "in"), store_in(tmp_path / "out")
    put(source, "file", data)
    listed, passed = source.stat("file"), [0]
    assert listed is not None

    def passing(count: int) -> None:
        passed[0] += count

    with destination.open_write("file", size=listed.size, verify=level) as writer:
        assert writer.copy_from(source, listed, passing)
    assert (tmp_path / "out/file").read_bytes() == data
    assert passed == [len(data)]
    assert writer.receipt.bytes == len(data)
    assert (writer.receipt.sha256, writer.receipt.verified) == ((hashlib.sha256(data).hexdigest(), "read-back") if level == "read-back" else (None, "size"))


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="only Linux has it")
@pytest.mark.parametrize("error", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_what_the_kernel_cannot_copy_is_left_to_the_caller(tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(error, "no")

    source, destination = store_in(tmp_path / "in"), store_in(tmp_path / "out")
    put(source, "file", b"x")
    listed = source.stat("file")
    assert listed is not None
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with destination.open_write("file") as writer:
        assert not writer.copy_from(source, listed, lambda _: None)
        writer.write(b"x")
    assert writer.receipt.sha256 == hashlib.sha256(b"x").hexdigest()


def test_a_source_that_changes_while_the_kernel_copies_is_not_published(tmp_path: Path) -> None:
    source, destination = store_in(tmp_path / "in"), store_in(tmp_path / "out")
    put(source, "file", b"0123456789")
    listed = source.stat("file")
    assert listed is not None

    def passing(_: int) -> None:
        with (tmp_path / "in/file").open("ab") as more:
            more.write(b"more")

    with pytest.raises(FileChanged), destination.open_write("file") as writer:
        writer.copy_from(source, listed, passing)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call", ["write", "fsync", "close", "stat", "replace", "open"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT])
def test_a_failure_of_any_call_publishes_nothing(tmp_path: Path, call: str, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"before")
    true = getattr(os, call)

    def fail(*arguments: Any, **more: Any) -> Any:
        at_temporary = str(arguments[0]).endswith(".part") or call in {"write", "fsync", "close"}
        if not at_temporary:
            return true(*arguments, **more)
        if call == "close":
            true(*arguments)
        raise OSError(error, "injected")

    with pytest.raises(FerryError, match=str(tmp_path / "file")) as caught, store_in(tmp_path).open_write("file") as writer:
        writer.write(b"after")
        monkeypatch.setattr(os, call, fail)
        if call == "write":
            writer.write(b"more")
        if call == "open":
            with store_in(tmp_path).open_write("file"):
                pytest.fail("opened")
    monkeypatch.undo()
    assert caught.value.transient
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_synced_is_a_failure(tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise OSError(error, "injected")

    monkeypatch.setattr(local_writer, "_sync_folder", fail)
    with pytest.raises(FerryError, match="cannot publish") as caught:
        put(store_in(tmp_path), "file", b"x")
    assert caught.value.transient
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_sweep_follows_no_link_that_leads_outside(hostile: LocalStore, tmp_path: Path) -> None:
    leftover = ".new.0123456789ab.part"
    (tmp_path / "outside" / leftover).write_bytes(b"somebody else's")
    with pytest.raises(ConfigurationError, match="not followed"):
        hostile.sweep("folder/new", leftover)
    assert (tmp_path / "outside" / leftover).exists()


def test_many_renames_in_one_folder_share_syncs_and_a_failed_one_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, true, lock = [0], local_writer._sync_folder, threading.Lock()

    def slow(folder: str) -> None:
        with lock:
            begun[0] += 1
            mine = begun[0]
        time.sleep(0.05)
        if mine == 2:
            raise OSError(errno.EIO, "injected")
        true(folder)

    monkeypatch.setattr(local_writer, "_sync_folder", slow)
    store, outcomes = store_in(tmp_path), []

    def write(number: int) -> None:
        try:
            put(store, str(number), b"x")
            outcomes.append("written")
        except FerryError:
            outcomes.append("failed")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("failed") == 1
    assert outcomes.count("written") == 15
    assert begun[0] < 16


def test_reading_back_ends_at_once_when_the_work_is_not_wanted_any_more(tmp_path: Path) -> None:
    def stopped() -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"), store_in(tmp_path).open_write("file", verify="read-back") as writer:
        writer.write(b"x" * 1000)
        with workers.watching(stopped):
            writer.finish()
    assert list(tmp_path.iterdir()) == []
