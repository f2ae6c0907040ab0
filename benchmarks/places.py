"""Servers and folders for the transfer benchmark, as each contender names them."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from benchmarks import measure
from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WAIT_SECONDS = 20.0
MANY = 100


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a transfer.

    Attributes:
        kind: `local`, `s3` or `sftp`.
        url: For ferry; ends in `/`.
        options: For ferry: what the URL does not say.
        remote: For rclone and boto3.
        environment: For all of them.
        folder: Where the files are on this machine's disk; of S3 the prefix in the bucket.
        server: Of S3.
        bucket: Of S3.
    """

    kind: str
    url: str
    options: tuple[str, ...]
    remote: str
    environment: Mapping[str, str]
    folder: str
    server: embedded.S3 | None = None
    bucket: str = ""

    def clear(self) -> None:
        """Make it empty; of S3 the whole bucket is made anew, so that its space on the disk is free at once.

        Many files of a folder are put aside until the case has ended: ext4 would look through all inodes that were freed in the last minutes for each
        new file, which takes longer than to write it.
        """
        if self.server is None:
            folder = Path(self.folder)
            if folder.exists() and sum(1 for _ in folder.iterdir()) >= MANY:
                folder.rename(folder.with_name(f"{folder.name}-{time.monotonic_ns()}"))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            return
        with self._opened() as bucket:
            if bucket.creation_date:
                bucket.objects.all().delete()
                bucket.delete()
            bucket.create()
            probe = bucket.put_object(Key="probe", Body=b"x")  # the server makes a bucket's volumes at its first object
            probe.delete()

    def found(self) -> tuple[int, int]:
        """How many files, and bytes, stand there: looked at by another way than the contenders'."""
        if self.server is None:
            sizes = [path.stat().st_size for path in Path(self.folder).iterdir()]
        else:
            with self._opened() as bucket:
                sizes = [one.size for one in bucket.objects.filter(Prefix=f"{self.folder}/")]
        return len(sizes), sum(sizes)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of all that stands there, by name."""
        if self.server is None:
            return {path.name: _sha256(path.open("rb")) for path in Path(self.folder).iterdir()}
        with self._opened() as bucket:
            return {one.key.rpartition("/")[2]: _sha256(one.get()["Body"]) for one in bucket.objects.filter(Prefix=f"{self.folder}/")}

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        assert self.server is not None  # noqa: S101 - asked before
        keys: Any = {"aws_access_key_id": self.server.access_key, "aws_secret_access_key": self.server.secret_key}
        service = boto3.resource("s3", endpoint_url=self.server.endpoint_url, region_name="us-east-1", **keys)
        with contextlib.closing(service.meta.client):
            yield service.Bucket(self.bucket)


def _sha256(body: Any) -> str:
    digest = hashlib.sha256()
    with contextlib.closing(body):
        while piece := body.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def local(folder: Path) -> Place:
    """A folder."""
    return Place("local", f"{folder}/", (), str(folder), {}, str(folder))


def s3(server: embedded.S3, name: str, bucket: str, prefix: str) -> Place:
    """A prefix of a bucket; `name` is the server's."""
    ours, theirs = name.upper(), f"RCLONE_CONFIG_{name.upper()}"
    environment = {
        f"{ours}_ENDPOINT": server.endpoint_url,
        f"{ours}_ACCESS_KEY": server.access_key,
        f"{ours}_SECRET_KEY": server.secret_key,
        f"{theirs}_TYPE": "s3",
        f"{theirs}_PROVIDER": "SeaweedFS",
        f"{theirs}_ENDPOINT": server.endpoint_url,
        f"{theirs}_ACCESS_KEY_ID": server.access_key,
        f"{theirs}_SECRET_ACCESS_KEY": server.secret_key,
    }
    keys = (f"aws_access_key_id=env:{ours}_ACCESS_KEY", f"aws_secret_access_key=env:{ours}_SECRET_KEY")
    return Place(
        "s3", f"s3://{bucket}/{prefix}/", (f"endpoint_url={server.endpoint_url}", *keys), f"{name}:{bucket}/{prefix}", environment, prefix, server, bucket
    )


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running OpenSSH server that takes one key, and the port by which it is reached."""

    port: int
    folder: Path

    def place(self, folder: Path) -> Place:
        """A folder behind it."""
        user, key, known = getpass.getuser(), self.folder / "user_key", self.folder / "known_hosts"
        remote = "RCLONE_CONFIG_HOST"
        environment = {
            f"{remote}_TYPE": "sftp",
            f"{remote}_HOST": "127.0.0.1",
            f"{remote}_PORT": str(self.port),
            f"{remote}_USER": user,
            f"{remote}_KEY_FILE": str(key),
            f"{remote}_KNOWN_HOSTS_FILE": str(known),
        }
        options = (f"pkey_path={key}", f"known_hosts={known}")
        return Place("sftp", f"sftp://{user}@127.0.0.1:{self.port}{folder}/", options, f"host:{folder}", environment, str(folder))

    def command(self) -> list[str]:
        """OpenSSH's own client, without its batch file and the host."""
        options = (
            f"UserKnownHostsFile={self.folder / 'known_hosts'}",
            "StrictHostKeyChecking=yes",
            "BatchMode=yes",
            f"IdentityFile={self.folder / 'user_key'}",
        )
        return ["sftp", "-q", "-F", "none", "-P", str(self.port), *(part for one in options for part in ("-o", one))]

    def knows(self, port: int) -> None:
        """Its host key is right behind that port too."""
        public = (self.folder / "host_key.pub").read_text().split()
        with (self.folder / "known_hosts").open("a") as file:
            file.write(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Run OpenSSH's server on 127.0.0.1 with a configuration and keys of its own; all else is as OpenSSH has it.

    Raises:
        FileNotFoundError: It is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = Sshd(embedded.free_ports(1)[0], folder)
    for name in ("host_key", "user_key"):
        if not (folder / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)  # noqa: S607 - of the PATH
    server.knows(server.port)
    settings = {
        "Port": server.port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "user_key.pub",
        "PermitRootLogin": "yes",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it insists on its empty folder
    with _running([program, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "log")]):
        _wait_for(server.port)
        yield server


@contextlib.contextmanager
def slow_link(server: Sshd, round_trip_ms: float) -> Iterator[Sshd]:
    """The same server at the end of a long way."""
    with _running([sys.executable, "-m", "benchmarks.slow_link", str(server.port), str(round_trip_ms)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - asked for
        far = Sshd(int(process.stdout.readline()), server.folder)
        server.knows(far.port)
        yield far


@contextlib.contextmanager
def _running(command: list[str], stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, cwd=measure.ROOT, stdout=stdout) as process:
        try:
            yield process
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def program(name: str) -> str:
    """One of the virtual environment."""
    return str(Path(sysconfig.get_path("scripts")) / name)
