"""What only SFTP servers do: host keys, logins, and every way in which a server may misbehave."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import socket
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
import psutil
import pytest

from engine import workers
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, IntegrityError, OutcomeUnknown, PartlyFailed, ResourceError, TransferFailed
from engine.routes.transfer import transfer
from engine.routes.transfer_plan import Orders
from engine.stores import sftp_connection, sftp_flush, sftp_publish, sftp_session, sftp_upload
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.sftp import SftpOptions, SftpStore
from tests.stores.sftp_misbehaving import PASSWORD, Faults, Server, misbehaving
from tests.stores.sftp_servers import SftpServer, fingerprint, free_port, new_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = os.urandom(700_001)  # 22 writes
EXTENSIONS = ("posix-rename@openssh.com", "fsync@openssh.com")


@pytest.fixture(scope="module")
def host_keys() -> list[paramiko.PKey]:
    made = [paramiko.RSAKey.generate(2048), paramiko.ECDSAKey.generate()]
    return [*made]


@pytest.fixture
def server(tmp_path: Path, host_keys: list[paramiko.PKey]) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with misbehaving(tmp_path / "served", host_keys) as running:
        yield running


@pytest.fixture
def store(server: Server) -> Iterator[SftpStore]:
    with contextlib.closing(store_at(server)) as made:
        yield made


def store_at(server: Server, **more: Any) -> SftpStore:
    given = {key: value for key, value in server.options(**more).items() if value is not None}
    return SftpStore(SftpOptions.parse(given, where="destination"))


def put(store: SftpStore, path: str, data: bytes = DATA, **options: Any) -> Any:
    with store.open_write(path, **options) as writer:
        writer.write(data)
    return writer.receipt


def get(store: SftpStore, path: str) -> bytes:
    file = store.stat(path)
    assert file is not None
    with store.open_read(file) as body:
        return body.read()


def open_files(server: Server) -> list[str]:
    """Of what it serves; it runs in this process."""
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(server.root))]


def line_of(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


def reached(server: Server, **more: Any) -> bool:
    with contextlib.closing(store_at(server, **more)) as store:
        return store.stat("nothing") is None


# host keys


@pytest.mark.parametrize("number", [0, 1])
def test_a_host_key_is_known_by_its_line_or_its_fingerprint(server: Server, number: int) -> None:
    line = line_of(server.host_keys[number])
    assert reached(server, host_key=f"{line} a comment")
    assert reached(server, host_key=fingerprint(line))


@pytest.mark.parametrize("name", ["plain", "hashed", "pattern", "several"])
def test_known_hosts_in_all_its_forms(server: Server, tmp_path: Path, name: str) -> None:
    host, salt = f"[127.0.0.1]:{server.port}", os.urandom(20)
    hashed = "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, hmac.new(salt, host.encode(), "sha1").digest()))
    names = {"plain": host, "hashed": hashed, "pattern": f"[127.0.0.*]:{server.port}", "several": f"example.org,{host}"}
    file = tmp_path / "known_hosts"
    file.write_text(f"# a comment\n\nnonsense\n{names[name]} {line_of(server.host_keys[1])}\n")
    assert reached(server, host_key=None, known_hosts=str(file))


@pytest.mark.parametrize("entry", ["127.0.0.1 {line}", "[127.0.0.1]:1 {line}", "!{host},{host} {line}", "", "@cert-authority {host} {line}"])
def test_a_server_that_is_not_known_is_refused_with_its_fingerprint(server: Server, tmp_path: Path, entry: str) -> None:
    line = line_of(server.host_keys[1])
    host = f"[127.0.0.1]:{server.port}"
    (tmp_path / "known_hosts").write_text(entry.format(line=line, host=host) + "\n")
    with pytest.raises(ConnectionFailed) as refused:
        reached(server, host_key=None, known_hosts=str(tmp_path / "known_hosts"))
    assert "ecdsa-sha2-nistp256 SHA256:" in str(refused.value)
    assert fingerprint(line) in str(refused.value)
    assert "ferry connectors trust" not in str(refused.value)  # where known_hosts is given, and without a connector, nothing that is pinned counts
    assert not refused.value.transient
    assert PASSWORD not in str(refused.value)


def test_a_revoked_key_is_refused_though_it_is_known(server: Server, tmp_path: Path) -> None:
    entry = f"[127.0.0.1]:{server.port} {line_of(server.host_keys[1])}\n"
    (tmp_path / "known_hosts").write_text(f"{entry}@revoked {entry}")
    with pytest.raises(ConnectionFailed, match="revoked"):
        reached(server, host_key=None, known_hosts=str(tmp_path / "known_hosts"))


def test_a_changed_host_key_is_refused_and_shows_both(server: Server) -> None:
    other = line_of(paramiko.ECDSAKey.generate())
    for host_key in (other, fingerprint(other)):
        with pytest.raises(ConnectionFailed, match="has changed") as refused:
            reached(server, host_key=host_key)
        assert fingerprint(other) in str(refused.value)
        assert fingerprint(line_of(server.host_keys[1])) in str(refused.value)
        assert not refused.value.transient


def test_pinned_keys_are_asked_for_at_the_first_connection_and_decide(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[tuple[str, int]] = []
    keys = [line_of(server.host_keys[0])]

    def pinned(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return keys

    options = {key: value for key, value in server.options().items() if key != "host_key"}
    store = SftpStore(SftpOptions.parse(options, where="test"), pinned)
    assert asked == []
    assert store.stat("nothing") is None
    assert asked == [("127.0.0.1", server.port)]
    store.close()
    keys[:] = [line_of(paramiko.RSAKey.generate(2048))]
    with pytest.raises(ConnectionFailed, match=r"has changed.*run 'ferry connectors trust ID'"):
        store.stat("nothing")
    keys.clear()
    with pytest.raises(ConnectionFailed, match=r"not known.*run 'ferry connectors trust ID'"):
        store.stat("nothing")
    with pytest.raises(ConnectionFailed, match="not known") as refused:
        reached(server, host_key=None)
    assert "ferry connectors trust" not in str(refused.value)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{server.port} {line_of(server.host_keys[0])}\n")
    assert store.stat("nothing") is None
    store.close()


@pytest.mark.parametrize("host_key", ["ssh-ed25519", "ssh-rsa !!!", "SHA256:abc", "nonsense", "ssh-rsa " + base64.b64encode(b"\0\0\0\x03abc").decode()])
def test_a_host_key_that_is_none_is_refused_before_anything_is_opened(host_key: str) -> None:
    with pytest.raises(ConfigurationError, match="'host_key'"):
        SftpOptions.parse({"host": "h", "host_key": host_key}, where="source")


def test_a_file_of_known_hosts_must_be_there(server: Server) -> None:
    with pytest.raises(ConfigurationError, match="/no/such/file"):
        reached(server, host_key=None, known_hosts="/no/such/file")


def test_what_a_server_shows_can_be_asked_for_without_a_login(server: Server) -> None:
    kind, key, shown = sftp_connection.server_host_key(SftpOptions(host="127.0.0.1", port=server.port))
    assert f"{kind} {key}" in {line_of(one) for one in server.host_keys}
    assert shown == fingerprint(f"{kind} {key}")


# logins


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
@pytest.mark.parametrize("passphrase", [None, "a passphrase"])
def test_every_kind_of_key_logs_in(server: Server, tmp_path: Path, kind: str, passphrase: str | None) -> None:
    data = base64.b64decode(new_key(kind, tmp_path / "key", passphrase).split()[1])
    server.users.append(paramiko.PKey.from_type_string(paramiko.Message(data).get_text(), data))
    assert reached(server, password=None, pkey_path=str(tmp_path / "key"), pkey_passphrase=passphrase)


def test_a_key_in_pkcs8_form_logs_in(server: Server, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key").write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    server.users.append(paramiko.RSAKey(key=private))
    assert reached(server, password=None, pkey_path=str(tmp_path / "key"), pkey_passphrase="not needed")


def test_the_key_is_tried_before_the_password_and_both_may_be_asked_for(server: Server, tmp_path: Path) -> None:
    new_key("ed25519", tmp_path / "key")
    assert reached(server, pkey_path=str(tmp_path / "key"))  # which the server does not know
    with pytest.raises(ConnectionFailed, match=r"tried: pkey_path and password"):
        reached(server, pkey_path=str(tmp_path / "key"), password="wrong")


@pytest.mark.parametrize(("passphrase", "words"), [(None, "is protected by a passphrase; set pkey_passphrase"), ("wrong", "pkey_passphrase does not open it")])
def test_a_passphrase_that_is_missing_or_wrong_is_named(server: Server, tmp_path: Path, passphrase: str | None, words: str) -> None:
    new_key("ed25519", tmp_path / "key", "a passphrase")
    with pytest.raises(ConfigurationError, match=words):
        reached(server, pkey_path=str(tmp_path / "key"), pkey_passphrase=passphrase)


def test_a_key_file_that_is_missing_or_none_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'pkey_path'.*/nothing"):
        reached(server, pkey_path=str(tmp_path / "nothing"))
    (tmp_path / "text").write_text("no key")
    with pytest.raises(ConfigurationError, match="cannot be read as a private key"):
        reached(server, pkey_path=str(tmp_path / "text"))


def test_a_wrong_password_is_one_clear_error_without_it(server: Server) -> None:
    with pytest.raises(ConnectionFailed, match=r"refused the login of 'ferry' \(tried: password\)") as refused:
        reached(server, password="another secret")
    assert "another secret" not in str(refused.value)
    assert not refused.value.transient


def test_without_key_and_password_the_keys_of_the_home_folder_are_tried(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(ConnectionFailed, match="no key and no password"):
        reached(server, password=None)
    (tmp_path / ".ssh").mkdir()
    data = base64.b64decode(new_key("ecdsa", tmp_path / ".ssh/id_ecdsa").split()[1])
    server.users.append(paramiko.ECDSAKey(data=data))
    assert reached(server, password=None)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_connection_that_is_reset_at_once_is_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr(sftp_connection, "_PAUSES", (0.0, 0.0))
    connect, left = socket.create_connection, [times]

    def resetting(*address: Any, **options: Any) -> socket.socket:
        if left[0]:
            left[0] -= 1
            raise ConnectionResetError
        return connect(*address, **options)

    monkeypatch.setattr(socket, "create_connection", resetting)
    with pytest.raises(ConnectionFailed, match=r"ECONNRESET|no connection") if times > 2 else contextlib.nullcontext():
        assert reached(server)


def test_an_unreachable_host_is_a_transient_failure(server: Server) -> None:
    with pytest.raises(ConnectionFailed, match="was not reached") as refused:
        reached(server, port=free_port())
    assert refused.value.transient
    server.faults.unreachable = True
    with pytest.raises(ConnectionFailed, match="no encrypted session") as refused:
        reached(server)
    assert refused.value.transient


# options and names


def test_paths_are_absolute_or_in_the_home_folder(server: Server) -> None:
    for path, url in (("", "/~/a/b"), ("~", "/~/a/b"), ("~/x/", "/~/x/a/b"), ("x", "/~/x/a/b"), ("/", "/a/b"), ("/x/", "/x/a/b")):
        store = store_at(server, path=path)
        assert store.url("a/b") == f"sftp://ferry@127.0.0.1:{server.port}{url}"
        put(store, "a/b")
        assert store.identity("a/b") == f"sftp 127.0.0.1:{server.port}{url.replace('/~', '')}"
        assert [file.path for file in store.list("a/*")] == ["a/b"]
        store.close()


@pytest.mark.parametrize("wrong", [{"path": "~nobody/x"}, {"path": "a\0"}, {"host": "user@host"}, {"host": ""}, {"port": 0}, {"hots": "x"}, {"username": ""}])
def test_options_that_are_wrong_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SftpOptions.parse({"host": "h", **wrong}, where="source")


def test_secrets_are_shown_to_nobody(server: Server) -> None:
    options = SftpOptions.parse(server.options(pkey_passphrase="other", require_tls=True), where="source")
    assert PASSWORD not in repr(options)
    assert "other" not in repr(options)


def test_links_count_as_the_files_they_point_to_and_folders_are_not_followed(server: Server, store: SftpStore) -> None:
    put(store, "real/file", b"x")
    (server.root / "link").symlink_to("real/file")
    (server.root / "folder").symlink_to("real")
    (server.root / "broken").symlink_to("nowhere")
    assert [file.path for file in store.list("**/*")] == ["link", "real/file"]
    assert get(store, "link") == b"x"


def test_a_folder_of_many_files_is_listed(server: Server, store: SftpStore) -> None:
    names = [f"{n:05d}" for n in range(10_050)]
    for name in names:
        (server.root / name).touch()
    assert [file.path for file in store.list("*")] == names


def test_only_a_regular_file_can_be_a_target(server: Server, store: SftpStore) -> None:
    put(store, "folder/file")
    for path in ("folder", "folder/file/below"):
        with pytest.raises(ConfigurationError, match="another name"):
            put(store, path)
    assert server.names() == ["folder", "folder/file"]


# servers that misbehave

POSIX = ("posix-rename@openssh.com",)


def refuse(*numbers: int) -> Callable[[int], bool]:
    return lambda number: number in numbers


@pytest.mark.parametrize("extensions", [(), POSIX])
def test_files_appear_and_are_replaced_without_any_extension(server: Server, store: SftpStore, extensions: tuple[str, ...]) -> None:
    server.faults.extensions = extensions
    assert put(store, "a/file", b"one").replaced is False
    assert put(store, "a/file", b"two").replaced is True
    assert get(store, "a/file") == b"two"
    with pytest.raises(ConfigurationError, match="exists already"):
        put(store, "a/file", b"three", exists="fail")
    with pytest.raises(ConfigurationError, match="exists already"), store.open_write("a/late", exists="fail") as writer:
        writer.write(b"four")
        put(store, "a/late", b"faster")
    assert server.names() == ["a", "a/file", "a/late"]
    assert (server.root / "a/late").read_bytes() == b"faster"


@pytest.mark.parametrize("numbers", [(0,), (1,), (10,), (21,), (20, 21), tuple(range(5, 22))])
def test_a_write_that_fails_is_seen_even_if_the_size_looks_right(server: Server, store: SftpStore, numbers: tuple[int, ...]) -> None:
    put(store, "file", b"before")
    server.faults.writes, server.faults.refuse_write = 0, refuse(*numbers)
    with pytest.raises(ResourceError, match=r"write sftp://.*file.*disk is full"):
        put(store, "file")
    with pytest.raises(ResourceError), store.open_write("new/folder/file") as writer:
        server.faults.writes = 0
        for at in range(0, len(DATA), 10_000):
            writer.write(DATA[at : at + 10_000])
    assert server.names() == ["file"]
    assert get(store, "file") == b"before"


@pytest.mark.parametrize("faults", [Faults(refuse_close=True), Faults(vanish=True)], ids=["close refused", "vanishes"])
def test_what_goes_wrong_at_the_end_publishes_nothing(server: Server, store: SftpStore, faults: Faults) -> None:
    put(store, "file", b"before")
    server.faults = faults
    with pytest.raises(FerryError, match="file"):
        put(store, "file")
    with pytest.raises(FerryError, match="file"):
        put(store, "new/file")
    assert server.names() == ["file"]
    assert (server.root / "file").read_bytes() == b"before"
    assert store.notes == []


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_folder_that_another_writer_takes_away_again_is_made_anew(server: Server, store: SftpStore, times: int) -> None:
    server.faults.remove_folder = times
    with pytest.raises(TransferFailed, match="no such file or folder") if times == 100 else contextlib.nullcontext():
        put(store, "new/file")
    server.faults.remove_folder = 0
    assert server.names() == ([] if times == 100 else ["new", "new/file"])


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_file_that_appears_a_moment_after_its_close_is_waited_for(server: Server, store: SftpStore, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_upload, "LOOK_AGAIN_SECONDS", (0.01, 0.01, 0.01))
    server.faults.late_stats = times
    with pytest.raises(TransferFailed, match="has it no more") if times == 100 else contextlib.nullcontext():
        put(store, "file")
    assert server.names() == ([] if times == 100 else ["file"])


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_size_that_is_right_a_moment_after_the_close_is_waited_for(server: Server, store: SftpStore, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_upload, "LOOK_AGAIN_SECONDS", (0.01, 0.01, 0.01))
    server.faults.short_stats = times
    with pytest.raises(IntegrityError, match="700,001 bytes written, 350,000 on the server") if times == 100 else contextlib.nullcontext():
        put(store, "file")
    assert server.names() == ([] if times == 100 else ["file"])


@pytest.mark.parametrize(("program", "extensions", "waits"), [("OpenSSH_9.9", EXTENSIONS, 3), ("OpenSSH_9.9", (), 4), ("other", EXTENSIONS, 8)])
def test_a_small_file_waits_three_times_for_a_server_that_keeps_the_order(
    server: Server, monkeypatch: pytest.MonkeyPatch, program: str, extensions: tuple[str, ...], waits: int
) -> None:
    """Over a long way, waiting for the answer to each request is what takes the time."""
    server.program, server.faults.extensions = program, extensions
    turns: list[str] = []

    def noting(name: str) -> None:
        true = getattr(sftp_session.Session, name)

        def noted(*args: Any) -> Any:
            if turns[-1:] != [name]:
                turns.append(name)
            return true(*args)

        monkeypatch.setattr(sftp_session.Session, name, noted)

    with contextlib.closing(store_at(server)) as store:
        put(store, "folder/first", b"x")
        noting("_write_all")
        noting("_read_response")
        put(store, "folder/file", DATA[:20_000])
        assert turns.count("_read_response") == waits
        file = store.stat("folder/file")
        assert file is not None
        turns.clear()
        with store.open_read(file) as body:
            assert body.read() == DATA[:20_000]
        assert turns.count("_read_response") == (5 if program == "other" else 3)


@pytest.mark.parametrize("extensions", [(), EXTENSIONS])
def test_a_folder_in_the_way_is_refused_and_nothing_is_left(server: Server, store: SftpStore, extensions: tuple[str, ...]) -> None:
    server.faults.extensions = extensions
    (server.root / "file").mkdir()
    with pytest.raises(ConfigurationError, match="is a folder or a device"):
        put(store, "file")
    assert server.names() == ["file"]
    assert open_files(server) == []


def test_a_rename_that_is_offered_and_not_supported_is_done_otherwise(server: Server, store: SftpStore) -> None:
    server.faults = Faults(extensions=EXTENSIONS, rename=lambda n: "unsupported" if n % 2 == 0 else None)
    assert put(store, "file").replaced is False
    server.faults = Faults(extensions=EXTENSIONS, rename=lambda n: "unsupported" if n == 0 else None)
    assert put(store, "file", b"new").replaced is True
    assert get(store, "file") == b"new"
    assert server.names() == ["file"]


def test_a_look_that_is_refused_does_not_undo_a_publication(server: Server, store: SftpStore) -> None:
    server.faults = Faults(extensions=EXTENSIONS, forbidden=lambda request, _: request == "lstat")
    assert put(store, "file").replaced is False
    assert put(store, "file", b"new").replaced is True
    assert get(store, "file") == b"new"


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_folder_that_is_taken_away_while_another_is_made_in_it_is_made_anew(server: Server, store: SftpStore, times: int) -> None:
    server.faults.remove_parent = times
    with pytest.raises(TransferFailed, match="no such file or folder") if times == 100 else contextlib.nullcontext():
        put(store, "a/b/file")
    assert server.names() == ([] if times == 100 else ["a", "a/b", "a/b/file"])


def test_a_place_that_may_not_be_looked_at_is_refused_and_nothing_stays_open(server: Server, store: SftpStore) -> None:
    server.faults.forbidden = lambda request, path: request == "stat" and not path.endswith(".part")
    with pytest.raises(ResourceError, match="permission denied"):
        put(store, "file")
    assert server.names() == []
    assert open_files(server) == []


def test_a_file_that_was_never_made_is_not_said_to_remain(server: Server, store: SftpStore) -> None:
    server.faults.forbidden = lambda _, path: path.endswith(".part")
    with pytest.raises(ResourceError, match="permission denied"):
        put(store, "file")
    assert store.notes == []


@pytest.mark.parametrize("kind", ["sftp", "folder"])
@pytest.mark.parametrize("most", [1, 16])
def test_a_move_sends_links_before_the_links_that_they_lead_to(server: Server, store: SftpStore, tmp_path: Path, most: int, kind: str) -> None:
    (server.root / "a.csv").write_bytes(DATA)
    for name, leads_to in (("b.csv", "a.csv"), ("c.csv", "b.csv"), ("d.csv", "c.csv")):
        (server.root / name).symlink_to(leads_to)
    source = store if kind == "sftp" else LocalStore(FolderOptions(path=str(server.root)))
    result = transfer(source, LocalStore(FolderOptions(path=str(tmp_path / "out"))), Orders(delete_source=True, files_in_flight=most))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {f"{name}.csv": DATA for name in "abcd"}
    assert server.names() == []
    assert result.notes == ()


@pytest.mark.parametrize("most", [1, 16])
def test_a_move_sends_links_before_the_files_that_they_lead_to(server: Server, store: SftpStore, tmp_path: Path, most: int) -> None:
    (server.root / "2024-01.csv").write_bytes(DATA)
    (server.root / "latest.csv").symlink_to("2024-01.csv")
    (server.root / "gone.csv").symlink_to("2023-12.csv")
    result = transfer(store, LocalStore(FolderOptions(path=str(tmp_path / "out"))), Orders(delete_source=True, files_in_flight=most))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"2024-01.csv": DATA, "latest.csv": DATA}
    assert [path.name for path in server.root.iterdir()] == ["gone.csv"]
    assert any("gone.csv is a link that leads nowhere" in note for note in result.notes)


def test_an_answer_that_drips_is_not_waited_for_for_ever(server: Server, store: SftpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_connection, "STALL_SECONDS", 0.3)
    put(store, "file")
    server.faults.drip = 0.2
    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match="not answered in time") as caught:
        store.stat("file")
    assert 0.3 * sftp_session.ANSWER_TIMEOUTS < time.monotonic() - began < 10
    assert caught.value.transient
    server.faults.drip = 0.0


def test_a_server_without_sizes_is_said_to_have_accepted(server: Server, store: SftpStore) -> None:
    server.faults.sizes = False
    assert put(store, "file").verified == "accepted"
    assert put(store, "file", verify="size").verified == "read-back"
    assert (server.root / "file").read_bytes() == DATA
    with pytest.raises(TransferFailed, match="tells no size"):
        get(store, "file")


@pytest.mark.parametrize(
    ("extensions", "asked", "level", "by"),
    [
        ((), None, "size", "stat"),
        ((), "checksum", "read-back", "reading back"),
        ((), "read-back", "read-back", "reading back"),
        (("check-file",), None, "checksum", "check-file (SHA-256)"),
        (("check-file",), "size", "size", "stat"),
        (("check-file",), "checksum", "checksum", "check-file (SHA-256)"),
        (("check-file",), "read-back", "read-back", "reading back"),
    ],
)
def test_the_level_of_verification_is_at_least_what_was_asked_for(
    server: Server, store: SftpStore, extensions: tuple[str, ...], asked: Any, level: str, by: str
) -> None:
    server.faults.extensions = extensions
    receipt = put(store, "file", verify=asked)
    assert (receipt.verified, receipt.reported["verified_by"]) == (level, by)
    assert receipt.sha256 == hashlib.sha256(DATA).hexdigest()
    if level != "size":
        server.faults.damage_write = refuse(*range(200))
        with pytest.raises(IntegrityError, match="other bytes"):
            put(store, "new/file", verify=asked)
    assert server.names() == ["file"]


def test_a_file_that_ends_early_is_no_whole_file(server: Server, store: SftpStore) -> None:
    put(store, "file")
    for end in (0, 1, 500_000, len(DATA) - 1):
        server.faults.end_reads_at = end
        with pytest.raises(IntegrityError, match="early"):
            get(store, "file")
    server.faults.end_reads_at = None
    assert get(store, "file") == DATA


def test_answers_shorter_than_asked_for_are_completed(server: Server, store: SftpStore) -> None:
    put(store, "file")
    server.faults.short_reads = 10_000
    assert get(store, "file") == DATA


def test_a_file_that_changes_while_it_is_read_is_an_error(server: Server, store: SftpStore) -> None:
    put(store, "file")
    file = store.stat("file")
    assert file is not None
    with pytest.raises(TransferFailed, match="changed"), store.open_read(file) as body:
        while body.read(100_000):
            with (server.root / "file").open("ab") as handle:
                handle.write(b"more")


def test_a_reader_that_leaves_early_leaves_a_clean_connection(store: SftpStore) -> None:
    put(store, "file")
    file = store.stat("file")
    assert file is not None
    for _ in range(3):
        with store.open_read(file) as body:
            assert body.read(10) == DATA[:10]
    assert get(store, "file") == DATA


def test_somebody_who_is_faster_in_making_folders_is_no_error(server: Server, store: SftpStore) -> None:
    server.faults.race = True
    put(store, "a/b/file")
    assert server.names() == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("extensions", [(), POSIX])
@pytest.mark.parametrize("exists", ["replace", "fail"])
def test_a_rename_whose_answer_is_lost_is_looked_up(server: Server, store: SftpStore, extensions: tuple[str, ...], exists: Any) -> None:
    server.faults.extensions = extensions
    server.faults.rename = lambda _: "lose"
    assert put(store, "a/file", exists=exists).replaced is False
    assert (server.root / "a/file").read_bytes() == DATA
    assert server.names() == ["a", "a/file"]


@pytest.mark.parametrize("fault", ["cut", "refuse"])
@pytest.mark.parametrize("extensions", [(), POSIX])
def test_a_rename_that_did_not_happen_leaves_what_was_there(server: Server, store: SftpStore, extensions: tuple[str, ...], fault: str) -> None:
    put(store, "file", b"before")
    server.faults = Faults(extensions=extensions, rename=lambda _: fault)
    with pytest.raises(FerryError, match="publish sftp://"):
        put(store, "file")
    server.faults.rename = lambda _: fault
    with pytest.raises(FerryError, match="publish sftp://"):
        put(store, "new/file", exists="fail")
    assert server.names() == ["file"]
    assert (server.root / "file").read_bytes() == b"before"
    assert store.notes == []


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("fault", ["lose", "cut", "refuse"])
def test_replacing_by_two_renames_never_loses_the_old_file(server: Server, store: SftpStore, number: int, fault: str) -> None:
    put(store, "file", b"before")
    server.faults = Faults(rename=lambda n: fault if n == number else ("refuse" if number == 2 and n == 1 else None))
    delivered = (number, fault) == (1, "lose")
    with contextlib.nullcontext() if delivered else pytest.raises(FerryError, match="publish sftp://"):
        put(store, "file")
    if (number, fault) == (2, "refuse"):  # it may neither go on nor come back: what is left is told
        assert len(server.names()) == 1
    else:
        assert server.names() == ["file"]
        assert (server.root / "file").read_bytes() == (DATA if delivered else b"before")


def test_an_outcome_that_nobody_can_know_is_said_to_be_unknown(server: Server, store: SftpStore) -> None:
    def vanish(_: int) -> str:
        server.faults.unreachable = True
        return "lose"

    server.faults.rename = vanish
    with pytest.raises(OutcomeUnknown, match="not known whether"):
        put(store, "file")
    server.faults = Faults()
    assert get(store, "file") == DATA


def test_a_sweep_brings_back_a_file_that_had_stepped_aside(server: Server, store: SftpStore) -> None:
    told: list[str] = []
    put(store, "a/file", b"before")
    put(store, "a/file", b"x", on_begin=told.append)
    (server.root / "a" / told[0]).write_bytes(b"half")
    (server.root / "a/file").rename(server.root / sftp_publish.aside_name(f"a/{told[0]}"))
    assert [file.path for file in store.list("a/*")] == []
    assert store.sweep("a/file", told[0]) is True
    assert server.names() == ["a", "a/file"]


def test_a_connection_that_breaks_is_replaced_and_the_file_is_not_there(server: Server, store: SftpStore) -> None:
    put(store, "file", b"before")
    with pytest.raises(ConnectionFailed) as broken, store.open_write("file") as writer:
        writer.write(DATA)
        for transport in server.transports:
            transport.close()
        for _ in range(50):
            writer.write(DATA)
    assert broken.value.transient
    assert server.names() == ["file"]
    assert get(store, "file") == b"before"


def test_a_server_that_says_nothing_more_ends_with_a_clear_error(store: SftpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "file", b"x")
    monkeypatch.setattr(sftp_connection, "STALL_SECONDS", 0.2)
    waits = threading_event_handler(monkeypatch)
    store.close()
    with pytest.raises(ConnectionFailed, match="has not answered") as stalled:
        store.is_folder("waits")
    assert stalled.value.transient
    waits()


def threading_event_handler(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the server wait before it answers about the name `waits`; returns what lets it go on."""
    import threading

    from tests.stores import sftp_misbehaving

    go_on = threading.Event()
    plain = sftp_misbehaving._Files.stat

    def stat(self: Any, path: str) -> Any:
        if path.endswith("waits"):
            go_on.wait(10)
        return plain(self, path)

    monkeypatch.setattr(sftp_misbehaving._Files, "stat", stat)
    return go_on.set


def test_leftovers_that_cannot_be_removed_are_noted(server: Server, store: SftpStore) -> None:
    with pytest.raises(KeyboardInterrupt), store.open_write("file") as writer:
        writer.write(DATA)
        server.faults.unreachable = True
        for transport in server.transports:
            transport.close()
        raise KeyboardInterrupt
    assert len(store.notes) == 1
    assert writer.temporary_name in store.notes[0]


@pytest.fixture
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large, and every way long."""
    monkeypatch.setattr(sftp_upload, "WIDE_BYTES", 100_000)
    monkeypatch.setattr(sftp_upload, "LONG_WAY_SECONDS", 0)


@pytest.mark.usefixtures("_wide")
@pytest.mark.parametrize("size", [None, len(DATA)])
@pytest.mark.parametrize("refused", [(), (0,), (5,), (21,)])
def test_a_large_file_over_a_long_way_goes_over_several_connections(server: Server, store: SftpStore, size: int | None, refused: tuple[int, ...]) -> None:
    server.faults = Faults(extensions=("fsync@openssh.com",), refuse_write=refuse(*refused))
    with pytest.raises(ResourceError) if refused else contextlib.nullcontext(), store.open_write("a/file", size=size) as writer:
        writer.write(DATA)
        assert refused or len(writer._lanes) == sftp_upload.LANES
    assert server.names() == ([] if refused else ["a", "a/file"])
    assert refused or (server.root / "a/file").read_bytes() == DATA
    assert refused or len(server.transports) == sftp_upload.LANES


@pytest.mark.usefixtures("_wide")
def test_a_server_that_gives_no_second_connection_gets_the_file_over_one(server: Server, store: SftpStore) -> None:
    server.faults.extensions = ("fsync@openssh.com",)
    with store.open_write("file") as writer:
        server.faults.unreachable = True
        writer.write(DATA)
    assert (server.root / "file").read_bytes() == DATA
    assert server.names() == ["file"]


@pytest.mark.usefixtures("_wide")
def test_servers_that_may_not_have_real_files_get_one_connection(server: Server, store: SftpStore) -> None:
    put(store, "file")
    assert len(server.transports) == 1


@pytest.mark.parametrize("names", [("Lab.csv", "lab.csv"), ("A/x.csv", "a/x.csv")])
def test_of_names_that_a_server_takes_for_one_only_one_is_moved(server: Server, store: SftpStore, tmp_path: Path, names: tuple[str, str]) -> None:
    server.faults.folds = True
    source = LocalStore(FolderOptions(path=str(tmp_path / "from")))
    for name in names:
        with source.open_write(name) as writer:
            writer.write(name.encode())
    with pytest.raises(PartlyFailed, match="takes this name and that of another file"):
        transfer(source, store, Orders(pattern="**/*", delete_source=True))
    kept = {path.read_bytes() for path in (tmp_path / "from").rglob("*") if path.is_file()}
    there = {path.read_bytes() for path in server.root.rglob("*") if path.is_file()}
    assert kept | there == {name.encode() for name in names}
    assert (len(kept), len(there)) == (1, 1)


def test_a_failure_does_not_wait_for_a_server_that_is_busy_with_its_disk(server: Server, store: SftpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_flush, "EVERY_BYTES", 100_000)
    busy = threading.Event()
    server.faults = Faults(extensions=("fsync@openssh.com",), refuse_sync=lambda _: not busy.wait(20))
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="not wanted"), store.open_write("file") as writer:
        writer.write(DATA)
        wait_until(lambda: server.faults.syncs > 0 or len(server.transports) > 1)
        raise RuntimeError("not wanted")
    assert time.monotonic() - began < 15  # of 20, and of FLUSH_SECONDS
    busy.set()
    assert server.names() == []


@pytest.mark.parametrize("refused", [None, 0, 1])
def test_a_large_file_is_brought_to_the_disk_while_it_arrives(server: Server, store: SftpStore, monkeypatch: pytest.MonkeyPatch, refused: int | None) -> None:
    monkeypatch.setattr(sftp_flush, "EVERY_BYTES", 100_000)
    server.faults = Faults(extensions=("fsync@openssh.com",), refuse_sync=lambda number: number == refused)
    with pytest.raises(ResourceError) if refused is not None else contextlib.nullcontext(), store.open_write("file") as writer:
        for start in range(0, len(DATA), 50_000):
            writer.write(DATA[start : start + 50_000])
            wait_until(lambda: writer._flush is None or writer._flush._asked is None or writer._flush._asked.done())
    assert server.names() == ([] if refused is not None else ["file"])
    assert refused is not None or server.faults.syncs > 2
    assert len(server.transports) == 2


def test_a_large_file_arrives_where_no_second_connection_is_given(server: Server, store: SftpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_flush, "EVERY_BYTES", 100_000)
    server.faults = Faults(extensions=("fsync@openssh.com",))
    with store.open_write("file") as writer:
        server.faults.unreachable = True
        writer.write(DATA)
    assert (server.root / "file").read_bytes() == DATA


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_memory_is_bounded_by_the_windows(sftp_server: SftpServer, sftp_folder: str) -> None:
    piece = os.urandom(1 << 20)
    with contextlib.closing(SftpStore(SftpOptions.parse(sftp_server.options(sftp_folder), where="test"))) as store:
        put(store, "warm", piece)
        tracemalloc.start()
        try:
            with store.open_write("file", size=100 << 20) as writer:
                for _ in range(100):
                    writer.write(piece)
            written = tracemalloc.get_traced_memory()[1]
            file = store.stat("file")
            assert file is not None
            with store.open_read(file) as body:
                while body.read(1 << 20):
                    pass
            read = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        store.delete(file)
    assert written < 16 << 20
    assert read < 48 << 20


def test_an_agent_is_asked_where_nothing_else_is_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = paramiko.ECDSAKey.generate()
    server.users.append(key)

    class Agent:
        def get_keys(self) -> list[paramiko.PKey]:
            return [key]

        def close(self) -> None:
            pass

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paramiko, "Agent", Agent)
    assert reached(server, password=None)


@pytest.mark.system
def test_openssh_shows_the_key_that_is_known(openssh_server: SftpServer) -> None:
    for line in openssh_server.host_keys:
        for known in (line, fingerprint(line)):
            with contextlib.closing(SftpStore(SftpOptions.parse(openssh_server.options(host_key=known), where="test"))) as store:
                assert store.stat("nothing") is None


@pytest.mark.system
def test_openssh_takes_every_kind_of_key(openssh_server: SftpServer) -> None:
    folder = Path(openssh_server.credentials["pkey_path"]).parent
    for kind in ("rsa", "ecdsa", "ed25519"):
        options = openssh_server.options(pkey_path=str(folder / f"user_{kind}"))
        with contextlib.closing(SftpStore(SftpOptions.parse(options, where="test"))) as store:
            assert store.stat("nothing") is None


@pytest.mark.system
def test_a_real_agent_and_hashed_known_hosts_of_openssh(openssh_server: SftpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"[127.0.0.1]:{openssh_server.port} {openssh_server.host_keys[2]}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert file.read_text().startswith("|1|")
    agent = subprocess.run(["ssh-agent", "-s", "-a", str(tmp_path / "agent")], check=True, capture_output=True, text=True).stdout
    number = int(agent.split("SSH_AGENT_PID=")[1].split(";")[0])
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        subprocess.run(["ssh-add", "-q", openssh_server.credentials["pkey_path"]], check=True, capture_output=True)
        given = {k: v for k, v in openssh_server.options(known_hosts=str(file)).items() if k not in {"host_key", "pkey_path"}}
        with contextlib.closing(SftpStore(SftpOptions.parse(given, where="test"))) as store:
            assert store.stat("nothing") is None
    finally:
        os.kill(number, 15)


def test_reading_back_ends_at_once_when_the_work_is_not_wanted_any_more(server: Server, store: SftpStore) -> None:
    def stopped() -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"), store.open_write("file", verify="read-back") as writer:
        writer.write(DATA)
        with workers.watching(stopped):
            writer.finish()
    assert list(server.root.iterdir()) == []
