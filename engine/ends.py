"""Places as people write them: paths and URLs → type code and configuration of a connector's end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engine import registry
from engine.errors import ConfigurationError
from engine.options import masked

_FORMS = "a path, file://…, s3://bucket/key, sftp://user@host/path or https://…"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a transfer or an export.

    Attributes:
        kind: Type code.
        config: Keys of its configuration that the text gives; `path` is the folder around `leaf`.
        leaf: The last name: a file, or a folder. Empty: the root of a store itself.
        is_folder: The text says that `leaf` is a folder (it ends in `/`, or there is none).
    """

    kind: str
    config: dict[str, Any]
    leaf: str
    is_folder: bool


def end(place: str | os.PathLike[str]) -> End:
    """Take a path or URL apart.

    Raises:
        ConfigurationError: It is no place that ferry knows; it holds a password or a key. The message shows neither.

    Example:
        >>> end("s3://study/2024/labs.csv")
        End(kind='s3', config={'bucket': 'study', 'path': '2024'}, leaf='labs.csv', is_folder=False)
    """
    text = os.fspath(place)
    if "\0" in text or not text:
        raise ConfigurationError(f"{_shown(text)} is no place; it is {_FORMS}")
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme == "s3":
        return _s3(text)
    if scheme == "sftp":
        return _sftp(text)
    if scheme in {"http", "https"}:
        return End(registry.REST, {"url": text}, "", is_folder=True)
    if scheme not in {"", "file"}:
        raise ConfigurationError(f"{scheme}:// is not known; a place is {_FORMS}")  # no more of it: where its password ends nobody can tell
    return _folder(_file(text) if scheme else text)


def _file(text: str) -> str:
    """The path of `file:///path`; `?` and `#` are characters of a name here."""
    host, slash, path = text.partition("://")[2].partition("/")
    if host not in {"", "localhost"} or not slash:
        raise ConfigurationError(f"{_shown(text)} names a host; a file on this machine is file:///absolute/path")
    return unquote(f"/{path}")


def _s3(text: str) -> End:
    bucket, _, key = text[len("s3://") :].partition("/")
    if not bucket:
        raise ConfigurationError(f"{_shown(text)} names no bucket; it is s3://bucket/key")
    if "@" in bucket or (":" in bucket and not bucket.startswith("arn:")):
        raise ConfigurationError(
            "an S3 place holds no access key, which others on this machine could read: give --source-option or --dest-option "
            "aws_access_key_id=env:NAME and aws_secret_access_key=env:NAME"
        )
    if "//" in key or key.startswith("/"):
        raise ConfigurationError(f"{_shown(text)} has an empty part between two slashes; it would name another key")
    folder, leaf, is_folder = _cut(key)
    return End(registry.S3, {"bucket": bucket, **({"path": folder} if folder else {})}, leaf, is_folder)


def _sftp(text: str) -> End:
    try:
        url = urlsplit(text)
        host, port, user, password = url.hostname, url.port, url.username, url.password
    except ValueError:
        raise ConfigurationError("an SFTP place is sftp://user@host:port/absolute/path, and this one cannot be read (its host or port)") from None
    if password is not None:
        raise ConfigurationError(
            "an SFTP place holds no password, which others on this machine could read: give --source-option or --dest-option password=env:NAME"
        )
    if not host:
        raise ConfigurationError(f"{_shown(text)} names no host; it is sftp://user@host:port/absolute/path, or sftp://user@host/~/path from the home folder")
    folder, leaf, is_folder = _cut(unquote(text.partition("://")[2].partition("/")[2]))
    if leaf == "~" and not folder:
        folder, leaf, is_folder = "~", "", True
    root = folder if folder == "~" or folder.startswith("~/") else f"/{folder}"
    config = {"host": host, "path": root, **({"port": port} if port else {}), **({"username": unquote(user)} if user else {})}
    return End(registry.SFTP, config, leaf, is_folder)


def _folder(text: str) -> End:
    try:
        path = Path(text).expanduser()
        resolved = path.resolve()  # a link that the user names is meant; links below it are not followed out of it
    except (OSError, RuntimeError):
        raise ConfigurationError(f"{_shown(text)} cannot be resolved: no such home folder, or links that go round in a circle") from None
    if path.is_symlink() and not resolved.is_dir():
        resolved = path.parent.resolve() / path.name  # the name itself: a target is replaced, not written through
    return End(registry.FOLDER, {"path": str(resolved.parent)}, resolved.name, is_folder=text.endswith("/") or not resolved.name)


def _shown(text: str) -> str:
    """For a message: what stands before an @ logs in somewhere."""
    return repr(masked("place", text))


def _cut(path: str) -> tuple[str, str, bool]:
    """Folder, last name, and whether that is said to be a folder."""
    bare = path.strip("/")
    folder, _, leaf = bare.rpartition("/")
    return folder, leaf, path.endswith("/") or not leaf
