"""boto3's own calls, as whoever uses it would write them; each way is a process of its own.

    python -m benchmarks.peers local_s3 FOLDER SERVER:BUCKET/PREFIX

A server's address and keys stand in `SERVER_ENDPOINT`, `SERVER_ACCESS_KEY` and `SERVER_SECRET_KEY` of the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def local_s3(folder: str, target: str) -> None:
    """`upload_file`, one after another."""
    client, bucket, prefix = _server(target)
    for path in sorted(Path(folder).iterdir()):
        client.upload_file(str(path), bucket, f"{prefix}/{path.name}")


def s3_local(source: str, folder: str) -> None:
    """`download_file`, one after another."""
    client, bucket, prefix = _server(source)
    for key in _keys(client, bucket, prefix):
        client.download_file(bucket, key, f"{folder}/{_name(key)}")


def s3_s3(source: str, target: str) -> None:
    """`copy`, which the server does."""
    client, bucket, prefix = _server(source)
    _, goes, below = _server(target)
    for key in _keys(client, bucket, prefix):
        client.copy({"Bucket": bucket, "Key": key}, goes, f"{below}/{_name(key)}")


def s3_other(source: str, target: str) -> None:
    """`upload_fileobj` of the body of `get_object`: `copy` cannot reach another server."""
    client, bucket, prefix = _server(source)
    other, goes, below = _server(target)
    for key in _keys(client, bucket, prefix):
        other.upload_fileobj(client.get_object(Bucket=bucket, Key=key)["Body"], goes, f"{below}/{_name(key)}")


def s3_sftp(source: str, folder: str, *sftp: str) -> None:
    """In two steps: `download_file`, then OpenSSH's `sftp`."""
    with tempfile.TemporaryDirectory() as between:
        s3_local(source, between)
        subprocess.run([*sftp, "-b", "-", "127.0.0.1"], input=f"put -r {between}/. {folder}\n", text=True, check=True)


WAYS: dict[str, Callable[..., None]] = {way.__name__: way for way in (local_s3, s3_local, s3_s3, s3_other, s3_sftp)}


def _server(remote: str) -> tuple[Any, str, str]:
    """Client, bucket and prefix of `SERVER:BUCKET/PREFIX`."""
    name, _, place = remote.partition(":")
    bucket, _, prefix = place.partition("/")
    endpoint, access_key, secret_key = (os.environ[f"{name.upper()}_{what}"] for what in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"))
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access_key, aws_secret_access_key=secret_key)
    return client, bucket, prefix


def _keys(client: Any, bucket: str, prefix: str) -> Iterator[str]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        yield from (found["Key"] for found in page.get("Contents", ()))


def _name(key: str) -> str:
    return key.rpartition("/")[2]


if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
