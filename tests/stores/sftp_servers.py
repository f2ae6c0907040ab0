"""Real SFTP servers: rclone's, which runs everywhere, and OpenSSH's, where it is installed."""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import shutil
import socket
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_SECONDS = 20
OPENSSH_FORM = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH)


@dataclass(frozen=True)
class SftpServer:
    """A running server.

    Attributes:
        root: The folder of this machine that stands at `path` there.
        path: Where a store begins.
        credentials: Keys of a store's options.
        host_keys: OpenSSH lines `type base64`.
    """

    port: int
    root: Path
    path: str
    credentials: dict[str, Any]
    host_keys: tuple[str, ...] = field(default=())

    def options(self, folder: str = "", **more: Any) -> dict[str, Any]:
        """Of a store in a folder below."""
        place = f"{self.path}/{folder}" if folder else self.path
        return {"host": "127.0.0.1", "port": self.port, "path": place, "host_key": self.host_keys[0], **self.credentials, **more}


def new_key(kind: str, path: Path, passphrase: str | None = None) -> str:
    """Make a pair of keys in OpenSSH's form; returns the public line `type base64`."""
    makers: dict[str, Any] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }
    private = makers[kind]()
    encryption = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase.encode())
    path.write_bytes(private.private_bytes(*OPENSSH_FORM, encryption))
    path.chmod(0o600)
    line: str = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return line


def fingerprint(line: str) -> str:
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def names_below(server: SftpServer, folder: str) -> list[str]:
    """All that stands below a folder, by paramiko's own client: rclone shows files that it has not written to the disk yet."""
    with paramiko.Transport(("127.0.0.1", server.port)) as transport:
        key = server.credentials.get("pkey_path")
        transport.connect(
            username=server.credentials["username"],
            password=server.credentials.get("password"),
            pkey=paramiko.Ed25519Key.from_private_key_file(key) if key else None,
        )
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        with contextlib.closing(client):
            return sorted(_names(client, f"{server.path}/{folder}", ""))


def _names(client: paramiko.SFTPClient, folder: str, prefix: str) -> Iterator[str]:
    try:
        entries = client.listdir_attr(folder)
    except FileNotFoundError:
        return
    for entry in entries:
        yield prefix + entry.filename
        if stat.S_ISDIR(entry.st_mode or 0):
            yield from _names(client, f"{folder}/{entry.filename}", f"{prefix}{entry.filename}/")


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[SftpServer]:
    """The embedded server, which runs everywhere; a password, one host key. Its root is `/`."""
    with embedded.sftp(folder) as server:
        yield SftpServer(server.port, folder / "data", "", {"username": server.username, "password": server.password}, (server.host_key,))


@contextlib.contextmanager
def openssh(folder: Path) -> Iterator[SftpServer]:
    """OpenSSH's sshd with its own configuration and keys; logs in as the user of the tests, by key."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists():
        pytest.fail("no sshd on this system (Debian: openssh-server)")
    Path("/run/sshd").mkdir(exist_ok=True)
    root, port = folder / "root", free_port()
    root.mkdir()
    lines = tuple(new_key(kind, folder / f"host_{kind}") for kind in ("rsa", "ecdsa", "ed25519"))
    (folder / "authorized").write_text("".join(new_key(kind, folder / f"user_{kind}") + "\n" for kind in ("ed25519", "rsa", "ecdsa")))
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "PidFile": folder / "pid",
        "MaxStartups": 100,
        "Subsystem": "sftp internal-sftp",
    }
    hosts = "".join(f"HostKey {folder / name}\n" for name in ("host_rsa", "host_ecdsa", "host_ed25519"))
    (folder / "sshd_config").write_text(hosts + "".join(f"{key} {value}\n" for key, value in settings.items()))
    with _running([program, "-D", "-e", "-f", str(folder / "sshd_config")], port, folder / "log"):
        yield SftpServer(port, root, str(root), {"username": getpass.getuser(), "pkey_path": str(folder / "user_ed25519")}, lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, process, log)
        yield
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.settimeout(START_SECONDS)
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    pytest.fail(f"the SFTP server did not start: {log.read_text()}")
