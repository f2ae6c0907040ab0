"""Ends of a transfer for tests: what a connector is told of each, and how each is filled and looked at by another way than the engine's."""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

import paramiko

from engine.stores.temporary import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stores.rest_server import Endpoint
    from tests.stores.sftp_servers import SftpServer

PIECE_BYTES = 1 << 20


def sha256(body: BinaryIO) -> str:
    digest = hashlib.sha256()
    while data := body.read(PIECE_BYTES):
        digest.update(data)
    return digest.hexdigest()


@dataclass
class FolderPlace:
    """A folder, looked at through the file system."""

    folder: Path
    type_code: str = "filesystem"

    @property
    def config(self) -> dict[str, Any]:
        return {"path": str(self.folder)}

    @property
    def url(self) -> str:
        return f"{self.folder}/"

    @property
    def options(self) -> dict[str, Any]:
        """What the URL does not say."""
        return {}

    def put(self, name: str, file: Path) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(file.read_bytes())

    def hashes(self) -> dict[str, str]:
        """SHA-256 of all that somebody who looks would take for a file."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file() and not is_temporary(path.name):
                with path.open("rb") as body:
                    found[path.relative_to(self.folder).as_posix()] = sha256(body)
        return found

    def leftovers(self) -> list[str]:
        return [path.name for path in self.folder.rglob("*") if is_temporary(path.name)]

    def names(self) -> set[str]:
        """Of the files, without reading them."""
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file() and not is_temporary(path.name)}


@dataclass
class S3Place:
    """A folder of a bucket, looked at through a plain boto3 client."""

    client: Any
    server: dict[str, Any]
    bucket: str
    prefix: str
    type_code: str = "s3"

    @property
    def config(self) -> dict[str, Any]:
        return {**self.server, "bucket": self.bucket, "path": self.prefix}

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}/"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.server)

    def put(self, name: str, file: Path) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=file.read_bytes())

    def hashes(self) -> dict[str, str]:
        return {name: sha256(self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"]) for name in self.names()}

    def leftovers(self) -> list[str]:
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{self.prefix}/").get("Uploads", [])
        return [f"upload of {upload['Key']}" for upload in uploads]

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        return {entry["Key"][len(self.prefix) + 1 :] for page in pages for entry in page.get("Contents", [])}


@dataclass
class SftpPlace:
    """A folder on an SFTP server, looked at through paramiko's own client: rclone shows files that it has not written to its disk yet."""

    server: SftpServer
    folder: str
    type_code: str = "sftp"

    @property
    def config(self) -> dict[str, Any]:
        return self.server.options(self.folder)

    @property
    def url(self) -> str:
        return f"sftp://{self.server.credentials['username']}@127.0.0.1:{self.server.port}{self.server.path}/{self.folder}/"

    @property
    def options(self) -> dict[str, Any]:
        return {key: value for key, value in self.config.items() if key not in {"host", "port", "path"}}

    def put(self, name: str, file: Path) -> None:
        with self._client() as client:
            place = f"{self.server.path}/{self.folder}/{name}"
            parents = Path(place).parents
            for parent in [str(one) for one in reversed(parents)][1:]:
                with contextlib.suppress(OSError):
                    client.mkdir(parent)
            client.putfo(io.BytesIO(file.read_bytes()), place)

    def hashes(self) -> dict[str, str]:
        found = {}
        with self._client() as client:
            for name, size in self._walk(client, ""):
                if not is_temporary(name.rpartition("/")[2]):
                    with client.open(f"{self.server.path}/{self.folder}/{name}", "rb") as body:
                        body.prefetch(size)
                        found[name] = sha256(cast("BinaryIO", body))
        return found

    def leftovers(self) -> list[str]:
        with self._client() as client:
            return [name for name, _ in self._walk(client, "") if is_temporary(name.rpartition("/")[2])]

    def names(self) -> set[str]:
        with self._client() as client:
            return {name for name, _ in self._walk(client, "") if not is_temporary(name.rpartition("/")[2])}

    def _walk(self, client: paramiko.SFTPClient, below: str) -> Iterator[tuple[str, int]]:
        try:
            entries = client.listdir_attr(f"{self.server.path}/{self.folder}/{below}")
        except FileNotFoundError:
            return
        for entry in entries:
            if stat.S_ISDIR(entry.st_mode or 0):
                yield from self._walk(client, f"{below}{entry.filename}/")
            else:
                yield below + entry.filename, entry.st_size or 0

    @contextlib.contextmanager
    def _client(self) -> Iterator[paramiko.SFTPClient]:
        known = self.server.credentials
        with paramiko.Transport(("127.0.0.1", self.server.port)) as transport:
            key = known.get("pkey_path")
            transport.connect(username=known["username"], password=known.get("password"), pkey=paramiko.Ed25519Key.from_private_key_file(key) if key else None)
            client = paramiko.SFTPClient.from_transport(transport)
            assert client is not None
            with contextlib.closing(client):
                yield client


@dataclass
class RestPlace:
    """An HTTP endpoint, looked at through what it stored."""

    endpoint: Endpoint
    folder: str
    more: dict[str, Any] = field(default_factory=lambda: {"method": "PUT", "use_multipart": False})
    type_code: str = "rest_api"

    @property
    def config(self) -> dict[str, Any]:
        return {"url": self.url, **self.more}

    @property
    def url(self) -> str:
        return f"{self.endpoint.url}/{self.folder}/{{name}}"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.more)

    def deliveries(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of each body that was stored, in the order of their arrival."""
        start = f"/{self.folder}/"
        mine = [taken for taken in self.endpoint.taken if taken.target.startswith(start)]
        return [(unquote(taken.target[len(start) :]), taken.sha256) for taken in mine]

    def hashes(self) -> dict[str, str]:
        return dict(self.deliveries())

    def forget(self) -> None:
        """Let what came here go."""
        self.endpoint.taken[:] = [taken for taken in self.endpoint.taken if not taken.target.startswith(f"/{self.folder}/")]

    def leftovers(self) -> list[str]:
        return []

    def names(self) -> set[str]:
        return set(self.hashes())


Place = FolderPlace | S3Place | SftpPlace | RestPlace
