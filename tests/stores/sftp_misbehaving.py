"""A real SFTP server (paramiko's) that does what servers in the field do: has no extensions, loses answers, runs full, hides files …"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_EXTENDED,
    CMD_EXTENDED_REPLY,
    CMD_RENAME,
    CMD_VERSION,
    SFTP_FAILURE,
    SFTP_NO_SUCH_FILE,
    SFTP_OK,
    SFTP_OP_UNSUPPORTED,
    SFTP_PERMISSION_DENIED,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PASSWORD = "a secret of the tests"


@dataclass
class Faults:
    """What the server does differently.

    Attributes:
        extensions: Announced; `posix-rename@openssh.com`, `check-file` and `fsync@openssh.com` are then kept as well.
        sizes: Whether attributes hold a size.
        refuse_write: Whether the n-th WRITE (from 0) fails; the others are taken.
        damage_write: Whether the n-th WRITE stores other bytes.
        refuse_close: CLOSE of a written file answers FAILURE.
        vanish: Files are moved away when they are closed.
        end_reads_at: A file seems to end there.
        short_reads: At most so many bytes per READ.
        race: Somebody else makes each folder just before MKDIR, which then answers FAILURE.
        remove_folder: So many times somebody else removes an empty folder just before a file is made in it.
        late_stats: So many times STAT does not find a file that was closed.
        short_stats: So many times STAT tells of half of a file that was closed.
        drip: Answers come byte by byte, so many seconds apart.
        unreachable: New connections are dropped.
        refuse_sync: Whether the n-th fsync (from 0) fails.
        folds: Names that differ only by case are one file.
        rename: What happens to the n-th rename (from 0): `refuse`, `unsupported`, `lose` (done, the connection cut), `cut` (not done, the connection cut).
        forbidden: Whether a request (`open`, `stat`, `lstat`, `remove`) about a path is denied.
        remove_parent: So many times somebody else removes an empty folder just before another is made in it.
    """

    extensions: tuple[str, ...] = ()
    sizes: bool = True
    refuse_write: Callable[[int], bool] = lambda _: False
    damage_write: Callable[[int], bool] = lambda _: False
    refuse_close: bool = False
    vanish: bool = False
    end_reads_at: int | None = None
    short_reads: int | None = None
    refuse_sync: Callable[[int], bool] = lambda _: False
    folds: bool = False
    rename: Callable[[int], str | None] = lambda _: None
    race: bool = False
    remove_folder: int = 0
    remove_parent: int = 0
    forbidden: Callable[[str, str], bool] = lambda _request, _path: False
    late_stats: int = 0
    short_stats: int = 0
    drip: float = 0.0
    unreachable: bool = False
    writes: int = 0
    renames: int = 0
    syncs: int = 0


@dataclass
class Server:
    """Where it listens, what it may do wrong, and what logged in."""

    port: int
    root: Path
    faults: Faults
    host_keys: Sequence[paramiko.PKey]
    program: str = "OpenSSH_9.9"  # which it says it is
    users: list[paramiko.PKey] = field(default_factory=list)
    methods: str = "publickey,password"
    transports: list[paramiko.Transport] = field(default_factory=list)

    def options(self, **more: Any) -> dict[str, Any]:
        """Keys of a store."""
        key = self.host_keys[0]
        return {"host": "127.0.0.1", "port": self.port, "username": "ferry", "password": PASSWORD, "host_key": f"{key.get_name()} {key.get_base64()}", **more}

    def names(self) -> list[str]:
        """Everything that stands there."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@contextlib.contextmanager
def misbehaving(root: Path, host_keys: Sequence[paramiko.PKey]) -> Iterator[Server]:
    """Run it on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        server = Server(listener.getsockname()[1], root, Faults(), host_keys)
        stop = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, server, stop), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            thread.join()
            for transport in server.transports:
                transport.close()


def _accept(listener: socket.socket, server: Server, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if server.faults.unreachable:
            connection.close()
            continue
        transport = paramiko.Transport(connection)
        transport.local_version = f"SSH-2.0-{server.program}"
        for key in server.host_keys:
            transport.add_server_key(key)
        transport.set_subsystem_handler("sftp", _Protocol, _Files, server)
        server.transports.append(transport)
        transport.start_server(event=threading.Event(), server=_Login(server))


class _Login(paramiko.ServerInterface):
    def __init__(self, server: Server) -> None:
        self.server = server

    def get_allowed_auths(self, _username: str) -> str:
        return self.server.methods

    def check_auth_password(self, username: str, password: str) -> int:
        return AUTH_SUCCESSFUL if (username, password) == ("ferry", PASSWORD) else AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL if username == "ferry" and key in self.server.users else AUTH_FAILED

    def check_channel_request(self, _kind: str, _chanid: int) -> int:
        return OPEN_SUCCEEDED


class _Protocol(paramiko.SFTPServer):
    """The messages, where what goes wrong cannot be said through paramiko's interface."""

    def __init__(self, channel: Any, name: str, login: Any, files: Any, server: Server) -> None:
        super().__init__(channel, name, login, files, server)
        self.control = server
        self.channel = channel

    def _send_server_version(self) -> int:
        self._read_packet()  # type: ignore[attr-defined]
        message = paramiko.Message()
        message.add_int(3)
        for name in self.control.faults.extensions:
            message.add_string(name)
            message.add_string("1")
        self._send_packet(CMD_VERSION, message)  # type: ignore[attr-defined]
        return 3

    def _process(self, kind: int, number: int, message: paramiko.Message) -> None:
        faults = self.control.faults
        if kind == CMD_CLOSE and faults.refuse_close:
            handle = message.get_binary()
            if isinstance(opened := self.file_table.get(handle), _Handle) and opened.written:
                self.file_table.pop(handle).close()
                self._send_status(number, SFTP_FAILURE)  # type: ignore[attr-defined]
                return
            message.rewind()
            message.get_int()
        if kind == CMD_EXTENDED and message.get_text() == "check-file-handle" and "check-file" in faults.extensions:
            self._check(number, self.file_table[message.get_binary()])
            return
        if kind == CMD_EXTENDED:
            message.rewind()
            message.get_int()
            if message.get_text() == "fsync@openssh.com" and "fsync@openssh.com" in faults.extensions:
                refused, faults.syncs = faults.refuse_sync(faults.syncs), faults.syncs + 1
                self._send_status(number, SFTP_FAILURE if refused else SFTP_OK)  # type: ignore[attr-defined]
                return
            message.rewind()
            message.get_int()
        fault = None
        if kind == CMD_RENAME or (kind == CMD_EXTENDED and b"posix-rename" in message.asbytes()):
            fault = faults.rename(faults.renames)
            faults.renames += 1
        if fault in {"refuse", "unsupported"}:
            self._send_status(number, SFTP_FAILURE if fault == "refuse" else SFTP_OP_UNSUPPORTED)  # type: ignore[attr-defined]
        elif fault == "cut":
            self.channel.get_transport().close()
        elif fault == "lose":
            message.get_text() if kind == CMD_EXTENDED else None
            self.server.posix_rename(message.get_text(), message.get_text())
            self.channel.get_transport().close()
        else:
            super()._process(kind, number, message)  # type: ignore[misc]

    def _write_all(self, out: bytes) -> None:
        for at in range(len(out)) if self.control.faults.drip else ():
            time.sleep(self.control.faults.drip)
            super()._write_all(out[at : at + 1])  # type: ignore[misc]
        if not self.control.faults.drip:
            super()._write_all(out)  # type: ignore[misc]

    def _check(self, number: int, handle: Any) -> None:
        message = paramiko.Message()
        message.add_int(number)
        message.add_string("sha256")
        message.add_bytes(hashlib.sha256(handle.read(0, 1 << 30)).digest())
        self._send_packet(CMD_EXTENDED_REPLY, message)  # type: ignore[attr-defined]


class _Files(paramiko.SFTPServerInterface):
    def __init__(self, login: Any, server: Server) -> None:
        super().__init__(login)
        self.control = server

    def _place(self, path: str) -> Path:
        place = self.control.root
        for part in path.strip("/").split("/"):
            standing = place.iterdir() if self.control.faults.folds and place.is_dir() else ()
            place = next((other for other in standing if other.name.lower() == part.lower()), place / part)
        return place

    def _attributes(self, found: os.stat_result) -> paramiko.SFTPAttributes:
        attributes = paramiko.SFTPAttributes.from_stat(found)
        if not self.control.faults.sizes and stat.S_ISREG(found.st_mode):
            attributes.st_size = None
        return attributes

    def open(self, path: str, flags: int, _attr: Any) -> Any:
        faults, folder = self.control.faults, self._place(path).parent
        if flags & os.O_CREAT and faults.remove_folder and folder.is_dir():
            faults.remove_folder -= 1
            folder.rmdir()
        if faults.forbidden("open", path):
            return SFTP_PERMISSION_DENIED
        try:
            return _Handle(self, self._place(path), flags)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def list_folder(self, path: str) -> Any:
        listed = []
        for entry in os.scandir(self._place(path)):
            attributes = self._attributes(entry.stat(follow_symlinks=False))
            attributes.filename = entry.name
            listed.append(attributes)
        return listed

    def stat(self, path: str) -> Any:
        faults = self.control.faults
        if faults.forbidden("stat", path):
            return SFTP_PERMISSION_DENIED
        if path.endswith(".part") and faults.late_stats:
            faults.late_stats -= 1
            return SFTP_NO_SUCH_FILE
        found = self._try(lambda: self._attributes(self._place(path).stat()))
        if path.endswith(".part") and faults.short_stats:
            faults.short_stats -= 1
            found.st_size //= 2
        return found

    def lstat(self, path: str) -> Any:
        if self.control.faults.forbidden("lstat", path):
            return SFTP_PERMISSION_DENIED
        return self._try(lambda: self._attributes(self._place(path).lstat()))

    def readlink(self, path: str) -> Any:
        return self._try(lambda: str(self._place(path).readlink()))

    def remove(self, path: str) -> Any:
        if self.control.faults.forbidden("remove", path):
            return SFTP_PERMISSION_DENIED
        return self._try(lambda: self._place(path).unlink())

    def mkdir(self, path: str, _attr: Any) -> Any:
        if self.control.faults.race:
            self._place(path).mkdir(exist_ok=True)
        if self.control.faults.remove_parent and self._place(path).parent != self.control.root:
            self.control.faults.remove_parent -= 1
            self._place(path).parent.rmdir()
        return self._try(lambda: self._place(path).mkdir())

    def rmdir(self, path: str) -> Any:
        return self._try(lambda: self._place(path).rmdir())

    def rename(self, oldpath: str, newpath: str) -> Any:
        if self._place(newpath).exists():
            return SFTP_FAILURE
        return self.posix_rename(oldpath, newpath)

    def posix_rename(self, oldpath: str, newpath: str) -> Any:
        return self._try(lambda: self._place(oldpath).replace(self._place(newpath)) and None)

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            answer = action()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return SFTP_OK if answer is None else answer


class _Handle(paramiko.SFTPHandle):
    def __init__(self, files: _Files, place: Path, flags: int) -> None:
        super().__init__(flags)
        self.files = files
        self.place = place
        self.written = bool(flags & os.O_WRONLY)
        self.descriptor = os.open(place, flags, 0o644)

    def close(self) -> None:
        os.close(self.descriptor)
        if self.written and self.files.control.faults.vanish:
            self.place.unlink()

    def stat(self) -> Any:
        return self.files._attributes(os.fstat(self.descriptor))

    def read(self, offset: int, length: int) -> Any:
        faults = self.files.control.faults
        if faults.end_reads_at is not None:
            length = max(0, min(length, faults.end_reads_at - offset))
        return os.pread(self.descriptor, min(length, faults.short_reads or length), offset)

    def write(self, offset: int, data: Any) -> int:
        faults = self.files.control.faults
        number, faults.writes = faults.writes, faults.writes + 1
        if faults.refuse_write(number):
            return SFTP_FAILURE
        os.pwrite(self.descriptor, bytes(len(data)) if faults.damage_write(number) else data, offset)
        return SFTP_OK
