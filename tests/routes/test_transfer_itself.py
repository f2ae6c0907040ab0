"""A file is never moved onto itself, whatever names its place has: that would delete the only copy."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import paramiko
import pytest

from engine.errors import ConfigurationError, FerryError, PartlyFailed, TransferFailed
from engine.routes.transfer import transfer
from engine.routes.transfer_checks import Aliases
from engine.routes.transfer_plan import Orders
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.memory import MemoryStore
from engine.stores.sftp import SftpOptions, SftpStore
from tests.stores.sftp_misbehaving import Server, misbehaving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.paths import File
    from tests.stores.sftp_servers import SftpServer

AGES = [0.0, 100.0]


@pytest.fixture(scope="module")
def host_key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


@pytest.fixture
def server(tmp_path: Path, host_key: paramiko.PKey) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with misbehaving(tmp_path / "served", [host_key]) as running:
        yield running


def sftp(options: dict[str, Any]) -> SftpStore:
    return SftpStore(SftpOptions.parse(options, where="test"))


def folder(path: Path) -> LocalStore:
    return LocalStore(FolderOptions(path=str(path)))


def made(path: Path, age: float) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("age", AGES)
def test_the_same_server_by_two_names_is_the_same(server: Server, age: float) -> None:
    file = made(server.root / "x.csv", age)
    one, other = (sftp(server.options(host=host)) for host in ("127.0.0.1", "LOCALHOST"))
    with pytest.raises(ConfigurationError, match="over itself"):
        transfer(one, other, Orders(delete_source=True))
    for store in (one, other):
        store.close()
    assert file.read_text() == "precious"


@pytest.mark.parametrize("move", [True, False])
@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("direction", ["from sftp", "to sftp"])
def test_a_folder_by_its_path_and_by_sftp_is_the_same(server: Server, age: float, direction: str, move: bool) -> None:
    file = made(server.root / "in" / "x.csv", age)
    with contextlib.closing(sftp(server.options(path="in"))) as remote:
        local = folder(server.root / "in")
        source, target = (remote, local) if direction == "from sftp" else (local, remote)
        with pytest.raises(PartlyFailed, match="its own source under another name"):
            transfer(source, target, Orders(delete_source=move))
    assert file.read_text() == "precious"
    assert server.names() == ["in", "in/x.csv"]


@pytest.mark.system
@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("host", ["localhost", None])
def test_openssh_by_another_name_and_its_folder_are_the_same(openssh_server: SftpServer, sftp_folder: str, host: str | None, age: float) -> None:
    file = made(openssh_server.root / sftp_folder / "x.csv", age)
    remote = sftp(openssh_server.options(sftp_folder))
    other = sftp({**openssh_server.options(sftp_folder), "host": host}) if host else folder(file.parent)
    with pytest.raises(FerryError, match=r"over itself|its own source"):
        transfer(remote, other, Orders(delete_source=True))
    assert file.read_text() == "precious"
    for store in (remote, other):
        store.close()


def test_a_server_that_answers_from_a_cache_is_seen_through(sftp_server: SftpServer, sftp_folder: str) -> None:
    """rclone lists a folder once and does not see for minutes what comes into it by another way."""
    file = sftp_server.root / sftp_folder / "x.csv"
    with contextlib.closing(sftp(sftp_server.options(sftp_folder))) as remote:
        with remote.open_write("x.csv") as writer:
            writer.write(b"precious")
        deadline = time.monotonic() + 20
        while not file.exists():
            assert time.monotonic() < deadline, "rclone brings it to its disk a while later"
            time.sleep(0.05)
        with pytest.raises(PartlyFailed, match="its own source under another name"):
            transfer(remote, folder(file.parent), Orders(delete_source=True))
    assert file.read_text() == "precious"


def test_a_file_that_only_looks_alike_is_replaced(server: Server, tmp_path: Path) -> None:
    """Of the same size and second, but with other bytes."""
    made(server.root / "x.csv", 100)
    other = made(tmp_path / "out" / "x.csv", 100)
    other.write_text("PRECIOUS")
    found = (server.root / "x.csv").stat()
    os.utime(other, (found.st_atime, found.st_mtime))
    with contextlib.closing(sftp(server.options())) as remote:
        (result,) = transfer(remote, folder(tmp_path / "out"), Orders(delete_source=True)).files
    assert (result.state, result.source_deleted, other.read_text()) == ("replaced", True, "precious")


def test_within_one_folder_a_file_gets_another_name(server: Server) -> None:
    made(server.root / "in" / "x.csv", 100)
    with contextlib.closing(sftp(server.options())) as remote:
        transfer(folder(server.root), remote, Orders("in/x.csv", target="in/y.csv", target_is_folder=False, delete_source=True))
    assert server.names() == ["in", "in/y.csv"]
    assert (server.root / "in/y.csv").read_text() == "precious"


def test_an_older_file_of_the_same_size_is_replaced(tmp_path: Path) -> None:
    made(tmp_path / "a" / "x.csv", 0)
    made(tmp_path / "b" / "x.csv", 100)
    (result,) = transfer(folder(tmp_path / "a"), folder(tmp_path / "b"), Orders(delete_source=True)).files
    assert (result.state, result.source_deleted) == ("replaced", True)


class _Asked(MemoryStore):
    """A source that is asked about temporary names, and answers as told."""

    def __init__(self, answer: Callable[[str], File | None]) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[str] = []

    def stat(self, path: str) -> File | None:
        if not path.endswith(".part"):
            return super().stat(path)
        self.asked.append(path)
        return self.answer(path)


def test_each_pair_of_folders_is_asked_about_once(tmp_path: Path) -> None:
    source = _Asked(lambda _: None)
    for path in ("a", "b", "sub/a", "sub/b"):
        with source.open_write(path) as writer:
            writer.write(b"x")
    transfer(source, folder(tmp_path), Orders(pattern="**/*", delete_source=True, files_in_flight=1))
    assert len(source.asked) == 2
    assert {path.rpartition("/")[0] for path in source.asked} == {"", "sub"}


@pytest.mark.parametrize("transient", [True, False])
def test_a_source_that_may_not_be_asked_is_no_alias_and_one_that_cannot_answer_now_is_asked_again(transient: bool) -> None:
    def refuse(_: str) -> None:
        raise TransferFailed("no answer", transient=transient)

    source = _Asked(refuse)
    with source.open_write("a") as writer:
        writer.write(b"x")
    step: Any = type("Step", (), {"file": source.stat("a"), "target": "a"})
    aliases = Aliases(source)
    for _ in range(2):
        with pytest.raises(FerryError) if transient else contextlib.nullcontext():
            aliases.refuse(step, ".a.0123456789ab.part")
    assert len(source.asked) == (2 if transient else 1)
