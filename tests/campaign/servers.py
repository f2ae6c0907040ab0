"""The servers of a campaign, and places on them for each trial."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

from engine import embedded
from tests.conftest import open_to_nobody
from tests.places import FolderPlace, Place, RestPlace, S3Place, SftpPlace
from tests.stores import sftp_servers
from tests.stores.rest_server import Endpoint, endpoint

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterable


class Servers:
    """What the ends lie on; the places of one trial are its own."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        for name in ("postgres", "s3", "sftp", "ends"):
            (folder / name).mkdir()
        open_to_nobody(folder / "postgres")
        self.folder = folder / "ends"
        self.postgres = stack.enter_context(embedded.postgres(folder / "postgres", settings={"max_connections": "200"}))
        self._s3 = stack.enter_context(embedded.s3(folder / "s3"))
        self._s3.create_bucket("campaign")
        serve = sftp_servers.openssh if Path("/usr/sbin/sshd").exists() or shutil.which("sshd") else sftp_servers.rclone
        self._sftp = stack.enter_context(serve(folder / "sftp"))
        self._endpoint: Endpoint = stack.enter_context(endpoint())
        keys = {"aws_access_key_id": self._s3.access_key, "aws_secret_access_key": self._s3.secret_key}
        self._client = boto3.client("s3", endpoint_url=self._s3.endpoint_url, region_name="us-east-1", **keys)  # type: ignore[call-overload]
        stack.callback(self._client.close)

    def place(self, kind: str, name: str) -> Place:
        if kind == "s3":
            return S3Place(self._client, self._s3.options(), "campaign", name)
        if kind == "sftp":
            return SftpPlace(self._sftp, name)
        if kind in {"post", "put"}:
            return RestPlace(self._endpoint, name, {"method": kind.upper(), "use_multipart": False})
        (self.folder / name).mkdir()
        return FolderPlace(self.folder / name)

    def forget(self, places: Iterable[Place]) -> None:
        """Give back the room that a trial took."""
        for place in places:
            if isinstance(place, RestPlace):
                place.forget()
            elif isinstance(place, S3Place):
                for name in place.names():
                    self._client.delete_object(Bucket=place.bucket, Key=f"{place.prefix}/{name}")
            else:
                shutil.rmtree(place.folder if isinstance(place, FolderPlace) else self._sftp.root / place.folder, ignore_errors=True)
