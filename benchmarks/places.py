"""Servers and folders for the transfer benchmark, as each contender names them."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "ferry-bench"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a transfer.

    Attributes:
        kind: `local`, `s3` or `sftp`.
        url: For ferry; ends in `/`.
        options: For ferry: what the URL does not say.
        remote: For rclone.
        environment: For rclone and boto3.
        folder: Where the files are on this machine's disk; of S3 the prefix.
    """

    kind: str
    url: str
    options: tuple[str, ...]
    remote: str
    environment: dict[str, str]
    folder: str

    def clear(self) -> None:
        """Make it empty."""
        if self.kind == "s3":
            bucket = _s3(self.environment).Bucket(BUCKET)
            bucket.objects.filter(Prefix=self.folder).delete()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            Path(self.folder).mkdir(parents=True)

    def found(self) -> tuple[int, int]:
        """How many files, and bytes, stand there: looked at by another way than the contenders'."""
        if self.kind == "s3":
            sizes = [one.size for one in _s3(self.environment).Bucket(BUCKET).objects.filter(Prefix=self.folder)]
        else:
            sizes = [path.stat().st_size for path in Path(self.folder).rglob("*") if path.is_file()]
        return len(sizes), sum(sizes)


def _s3(environment: dict[str, str]) -> Any:
    keys: Any = {"aws_access_key_id": environment["MINIO_ACCESS_KEY"], "aws_secret_access_key": environment["MINIO_SECRET_KEY"]}
    return boto3.resource("s3", endpoint_url=environment["MINIO_ENDPOINT"], region_name="us-east-1", **keys)


def local(folder: Path) -> Place:
    """A folder."""
    return Place("local", f"{folder}/", (), str(folder), {}, str(folder))


def s3(server: embedded.S3, name: str, prefix: str) -> Place:
    """A prefix of a server's bucket; `name` is rclone's for the server."""
    ours = {"MINIO_ENDPOINT": server.endpoint_url, "MINIO_ACCESS_KEY": server.access_key, "MINIO_SECRET_KEY": server.secret_key}
    remote = f"RCLONE_CONFIG_{name.upper()}"
    theirs = {
        f"{remote}_TYPE": "s3",
        f"{remote}_PROVIDER": "SeaweedFS",
        f"{remote}_ENDPOINT": server.endpoint_url,
        f"{remote}_ACCESS_KEY_ID": server.access_key,
        f"{remote}_SECRET_ACCESS_KEY": server.secret_key,
    }
    options = tuple(f"{key}={value}" for key, value in server.options().items())
    return Place("s3", f"s3://{BUCKET}/{prefix}/", options, f"{name}:{BUCKET}/{prefix}", {**ours, **theirs}, f"{prefix}/")


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running OpenSSH server that takes one key."""

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
        """OpenSSH's own client, without its batch file."""
        options = (f"UserKnownHostsFile={self.folder / 'known_hosts'}", "StrictHostKeyChecking=yes", "BatchMode=yes")
        return ["sftp", "-q", "-P", str(self.port), "-i", str(self.folder / "user_key"), *(part for one in options for part in ("-o", one))]


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Run OpenSSH's server on 127.0.0.1 with a configuration and keys of its own.

    Raises:
        FileNotFoundError: It is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = embedded.free_ports(1)[0]
    for name in ("host_key", "user_key"):
        if not (folder / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)  # noqa: S607 - of the PATH
    public = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "user_key.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it insists on its empty folder
    process = subprocess.Popen([program, "-D", "-f", folder / "sshd_config", "-E", folder / "log"])
    try:
        time.sleep(1)
        yield Sshd(port, folder)
    finally:
        process.terminate()
        process.wait()


def ferry() -> list[str]:
    """Our command."""
    return [sys.executable, "-c", "from engine.cli import main; main()"]
