"""Places as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.ends import End, end
from engine.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://b", End("s3", {"bucket": "b"}, "", is_folder=True)),
        ("s3://b/x/", End("s3", {"bucket": "b"}, "x", is_folder=True)),
        ("s3://b/a/b/x.csv", End("s3", {"bucket": "b", "path": "a/b"}, "x.csv", is_folder=False)),
        ("sftp://me@host/mnt/pool/x", End("sftp", {"host": "host", "path": "/mnt/pool", "username": "me"}, "x", is_folder=False)),
        ("sftp://host:2222/~/in/", End("sftp", {"host": "host", "path": "~", "port": 2222}, "in", is_folder=True)),
        ("sftp://host/~", End("sftp", {"host": "host", "path": "~"}, "", is_folder=True)),
        ("sftp://host/a%20b/x", End("sftp", {"host": "host", "path": "/a b"}, "x", is_folder=False)),
        ("https://host/up?a=b", End("rest_api", {"url": "https://host/up?a=b"}, "", is_folder=True)),
        ("/a/b/", End("filesystem", {"path": "/a"}, "b", is_folder=True)),
        ("/", End("filesystem", {"path": "/"}, "", is_folder=True)),
        (Path("/a/b"), End("filesystem", {"path": "/a"}, "b", is_folder=False)),
    ],
)
def test_places_are_taken_apart(text: Any, expected: End) -> None:
    assert end(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no place"),
        ("s3://", "names no bucket"),
        ("s3://b/a//x", "empty part"),
        ("s3://b//x", "empty part"),
        ("ftp://host/x", "ftp:// is not known"),
        ("sftp:///x", "names no host"),
        ("sftp://host:port/x", "cannot be read"),
        ("sftp://me:canary@host/x", "holds no password"),
        ("postgresql://me:canary@host/db", "postgresql:// is not known"),
        ("ftp://me:a/canary@host/x", "ftp:// is not known"),
        ("postgresql://me:canary@host/\0", "is no place"),
        ("file://me:canary@host/x", "names a host"),
        ("s3://KEY:canary@bucket/x", "holds no access key"),
        ("s3://KEY:a/canary@bucket/x", "holds no access key"),
        ("s3://canary@bucket/x", "holds no access key"),
    ],
)
def test_what_is_no_place_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        end(text)
    assert "canary" not in str(caught.value)
