"""Copies inside one S3 server: the bytes do not pass through this process.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html: up to 5 GiB in one request; we go in parts much sooner, since a server answers when it is
done, and nobody waits for ever. The source is pinned by its ETag.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.errors import IntegrityError
from engine.stores.s3_errors import FAILURES
from engine.stores.s3_parts import MOST_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.protocols import FileInfo
    from engine.results import Verification
    from engine.stores.s3 import S3Store

PART_BYTES = 512 << 20
PARTS_AT_ONCE = 4
COPY_SECONDS = 300
"""So long may a server take to copy `PART_BYTES`, which is 2 MB/s."""
_KEPT = ("ContentType", "ContentEncoding", "ContentLanguage", "ContentDisposition", "CacheControl", "Expires")
_CHECKSUMS = ("ChecksumCRC64NVME", "ChecksumCRC32", "ChecksumCRC32C", "ChecksumSHA1", "ChecksumSHA256")
_ETAG = re.compile(rb"<CopyObjectResult.*?<ETag>(?:&#34;|&quot;|\")?([0-9a-f-]+)", re.DOTALL)


class ServerCopy:
    """One object that becomes another of the same server."""

    def __init__(self, store: S3Store, path: str, source: S3Store, file: FileInfo, mark: dict[str, str]) -> None:
        self.file = file
        self._mark = mark  # metadata that a copy in parts gets besides the source's: one in a single request keeps just these
        self.upload_id: str | None = None
        self._store = store
        self._place: dict[str, Any] = {"Bucket": store.options.bucket, "Key": store.key(path)}
        self._url = store.url(path)
        self._source = source
        self._from = {"Bucket": source.options.bucket, "Key": source.key(file.path)}
        self._parts: list[dict[str, Any]] = []

    def copy_parts(self, on_begin: Callable[[str], None] | None, passing: Callable[[int], None]) -> None:
        """What is too large for one request; nothing stands at the key yet."""
        size = max(PART_BYTES, -(-self.file.size // MOST_PARTS))
        try:
            head: dict[str, Any] = dict(self._source.client.head_object(Bucket=self._from["Bucket"], Key=self._from["Key"], IfMatch=self.file.version))
            kept = {name: head[name] for name in _KEPT if name in head} | {"Metadata": {**head.get("Metadata", {}), **self._mark}}
            if on_begin is not None:
                on_begin("")  # noted before there is anything
            self.upload_id = self._store.client.create_multipart_upload(**self._place, **kept)["UploadId"]
            if on_begin is not None:
                on_begin(self.upload_id)
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="ferry-copy") as threads:
                for part, count in threads.map(lambda number: self._copy_part(number, size), range(1, -(-self.file.size // size) + 1)):
                    self._parts.append(part)
                    passing(count)
        except FAILURES as error:
            raise self._store.translated(error, f"copy {self._source.url(self.file.path)} to {self._url}") from None

    def publish(self) -> dict[str, Any]:
        """Make the object appear. Doing it again does no harm.

        Raises:
            BotoCoreError, ClientError: The server refused, or did not answer.
        """
        if self.upload_id is not None:
            parts: Any = {"Parts": self._parts}
            return dict(self._store.client.complete_multipart_upload(**self._place, UploadId=self.upload_id, MultipartUpload=parts))
        named = quote(f"{self._from['Bucket']}/{self._from['Key']}", safe="/-_.~")
        headers = {"x-amz-copy-source": named, "x-amz-copy-source-if-match": f'"{self.file.version}"'}
        answer = self._store.requests.ask("PUT", self._place["Key"], headers, patience=COPY_SECONDS)
        if answer is not None and (found := _ETAG.search(answer.body)):  # a failure may come with status 200
            return {"ETag": found[1].decode()}
        copied = self._store.copying_client.copy_object(**self._place, CopySource=self._from, CopySourceIfMatch=self.file.version)  # type: ignore[arg-type]
        return {"ETag": copied["CopyObjectResult"]["ETag"]}

    def level(self, answer: dict[str, Any]) -> Verification:
        """`checksum` where both ETags are MD5 sums of the whole object, or stored checksums tell; else the size is compared.

        Raises:
            IntegrityError: The server has another size, or another checksum.
        """
        if "-" not in self.file.version and str(answer.get("ETag", "")).strip('"') == self.file.version:
            return "checksum"
        mine, theirs = _head(self._store, self._place), _head(self._source, {**self._from, "IfMatch": self.file.version})
        if not mine:
            return "accepted"
        if mine["ContentLength"] != self.file.size:
            raise IntegrityError(f"{self._url}: {self.file.size:,} bytes copied, the S3 server has {mine['ContentLength']:,}", transient=True)
        for name in _CHECKSUMS:
            if name in mine and mine[name] == theirs.get(name):
                return "checksum"  # those of parts (…-3) say nothing when they differ: their parts may do
            if name in mine and name in theirs and not {"-"} & {*mine[name], *theirs[name]}:
                raise IntegrityError(f"{self._url}: the S3 server reports another checksum for its copy than for the source", transient=True)
        return "size"

    def read_source(self) -> str:
        """The SHA-256 of the source."""
        with self._source.open_read(self.file) as body:
            return hashlib.file_digest(body, "sha256").hexdigest()  # type: ignore[arg-type]  # any file will do

    def _copy_part(self, number: int, size: int) -> tuple[dict[str, Any], int]:
        start = (number - 1) * size
        end = min(start + size, self.file.size)
        assert self.upload_id is not None  # noqa: S101 - begun before
        copied = self._store.copying_client.upload_part_copy(
            **self._place,
            UploadId=self.upload_id,
            PartNumber=number,
            CopySource=self._from,  # type: ignore[arg-type]
            CopySourceIfMatch=self.file.version,
            CopySourceRange=f"bytes={start}-{end - 1}",
        )
        return {"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]}, end - start


def _head(store: S3Store, place: dict[str, Any]) -> dict[str, Any]:
    """What the server tells of an object; nothing where it may not be looked at."""
    try:
        checksums: dict[str, Any] = {"ChecksumMode": "ENABLED"} if store.options.request_checksums else {}
        return dict(store.client.head_object(**place, **checksums))
    except FAILURES:
        return {}
