"""What stands at a key after an upload or a copy: looked at, told from other people's objects, read back, withdrawn."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, TypeGuard

from engine.errors import FerryError, IntegrityError
from engine.paths import File
from engine.stores.s3_errors import FAILURES, status

if TYPE_CHECKING:
    from engine.stores.s3 import S3Store

_MARK = "ferry-delivery"


class Published:
    """One delivery at one key.

    Attributes:
        metadata: What tells our object from another at the same key.
    """

    def __init__(self, store: S3Store, path: str) -> None:
        self.metadata = {_MARK: secrets.token_hex(8)}
        self._store = store
        self._path = path
        self._url = store.url(path)

    def look(self) -> tuple[dict[str, Any] | None, bool]:
        """What stands at the key, and whether the server could tell."""
        options = self._store.options
        checksums: dict[str, Any] = {"ChecksumMode": "ENABLED"} if options.request_checksums else {}
        try:
            return dict(self._store.client.head_object(Bucket=options.bucket, Key=self._store.key(self._path), **checksums)), True
        except FAILURES as error:
            return None, status(error) == 404  # noqa: PLR2004 - HTTP

    def is_ours(self, head: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
        """Whether what was seen is this delivery."""
        return head is not None and head.get("Metadata", {}).get(_MARK) == self.metadata[_MARK]

    def read_back(self, etag: str | None, size: int) -> str:
        """The SHA-256 of what was published, and of no other version.

        Raises:
            FerryError: It is not there any more, or cannot be read.
        """
        standing = self._store.stat(self._path)
        if standing is None or standing.size != size or (etag and standing.version != etag.strip('"')):
            raise IntegrityError(f"{self._url}: what was just published does not stand there any more, and cannot be read back", transient=True)
        with self._store.open_read(standing) as body:
            return hashlib.file_digest(body, "sha256").hexdigest()  # type: ignore[arg-type]  # any file will do

    def withdraw(self, copied: str | None = None) -> str:
        """Remove the damaged object that we put there, and nothing else. Returns what became of it, in words.

        A server's copy has its source's metadata and not our mark: it is known by its ETag (`copied`).
        """
        head, _ = self.look()
        if head is None or not (self.is_ours(head) or (copied is not None and head["ETag"].strip('"') == copied.strip('"'))):
            return "what stands there now is not ours, and stays"
        try:
            self._store.delete(File(self._path, head["ContentLength"], None, head["ETag"].strip('"')))
        except FerryError:
            return "it could not be removed: delete it before anybody uses it"
        return "it was removed"
