"""S3 and what speaks like it (MinIO, SeaweedFS …): by requests of our own where these are many, through boto3's client for all else."""

from __future__ import annotations

import contextlib
import os
import threading
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from engine import addresses, paths
from engine.errors import ConfigurationError, ConnectionFailed, FileChanged
from engine.options import ENVIRONMENT, Options, Secret
from engine.paths import File
from engine.stores import s3_connection
from engine.stores.s3_copy import COPY_SECONDS
from engine.stores.s3_errors import FAILURES, code, status, translated
from engine.stores.s3_listing import pages
from engine.stores.s3_read import ObjectReader
from engine.stores.s3_requests import ObjectRequests
from engine.stores.s3_upload import SINGLE_REQUEST_BYTES, S3Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from types_boto3_s3 import S3Client

    from engine.errors import FerryError
    from engine.protocols import Exists, FileInfo, FileSource
    from engine.results import Verification
    from engine.stores.s3_errors import Failure
    from engine.stores.s3_wire import Answer

_LONGEST_KEY = 1024


def _environment(name: str) -> Any:
    return Field(default_factory=lambda: os.environ.get(name) or None, json_schema_extra={ENVIRONMENT: name})


class S3Options(Options):
    """A bucket, and a folder in it (CONFIGURATION: "S3").

    Attributes:
        path: The folder; keys below it begin with `path + "/"`. `prefix` means the same.
        aws_access_key_id: Else `MINIO_ACCESS_KEY`, else boto3's own chain. The secret key and the endpoint likewise, each by itself.
        endpoint_url: The server; empty means AWS.
        chunk_size_mb: MiB of one part of a multipart upload.
        request_checksums: Send a CRC-32 with every request; false for servers that reject the header.
    """

    aliases: ClassVar[Mapping[str, str]] = {"prefix": "path"}

    bucket: Annotated[str, Field(min_length=1)]
    path: str = ""
    file_pattern: str = "*"
    aws_access_key_id: Secret | None = _environment("MINIO_ACCESS_KEY")
    aws_secret_access_key: Secret | None = _environment("MINIO_SECRET_KEY")
    aws_session_token: Secret | None = None
    endpoint_url: str | None = _environment("MINIO_ENDPOINT")
    region: str | None = None
    chunk_size_mb: Annotated[int, Field(ge=5, le=5120)] = 8
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    request_checksums: bool = True
    require_tls: bool = False

    @field_validator("path")
    @classmethod
    def _folder(cls, value: str) -> str:
        folder = value.strip("/")
        return paths.checked(folder) if folder else folder

    @field_validator("endpoint_url")
    @classmethod
    def _server(cls, value: str | None) -> str | None:
        if not value:
            return value
        try:
            url = urlsplit(value)
            sound = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
        except ValueError:
            sound = False
        if not sound:
            raise ValueError("should be a URL such as https://host:9000")
        if url.username is not None or url.password is not None:
            raise ValueError("holds a user name; keys belong into aws_access_key_id and aws_secret_access_key")
        return value


class S3Store:
    """A folder of a bucket as source and destination of files (`FileSource`, `FileDestination`)."""

    has_folders = False

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self._held = 0  # bytes of small objects that are finished but not sent; see `hold`
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._copying_client: S3Client | None = None
        self._requests: ObjectRequests | None = None
        self._bucket_stands = False
        remark = s3_connection.unencrypted(options)
        self.notes: list[str] = [remark] if remark else []

    @property
    def client(self) -> S3Client:
        """Made at first use; threads share it.

        Raises:
            ConfigurationError: The endpoint is no URL.
        """
        with self._lock:
            if self._client is None:
                self._client = s3_connection.connect(self.options)
            return self._client

    @property
    def copying_client(self) -> S3Client:
        """One that waits longer, since a server answers a copy when it is done."""
        with self._lock:
            if self._copying_client is None:
                self._copying_client = s3_connection.connect(self.options, answer_seconds=COPY_SECONDS, attempts=2)
            return self._copying_client

    @property
    def requests(self) -> ObjectRequests:
        """The short way for requests about single objects."""
        client = self.client
        with self._lock:
            if self._requests is None:
                self._requests = ObjectRequests(client, self.options.bucket)
            return self._requests

    def url(self, path: str) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.options.bucket}/{self.key(path)}"

    def identity(self, path: str) -> str:
        """Endpoint, bucket and key; `localhost` and 127.0.0.1 are one place, so that a move onto itself is seen."""
        return f"s3 {addresses.canonical(self.client.meta.endpoint_url)}/{self.options.bucket}/{self.key(path) if path else self.options.path}"

    def is_folder(self, path: str) -> bool:
        """Whether any key lies below `path`."""
        try:
            prefix = f"{self.key(path)}/" if path else f"{self.options.path}/"
            found = self.client.list_objects_v2(Bucket=self.options.bucket, Prefix=prefix.lstrip("/"), MaxKeys=1)
        except FAILURES as error:
            raise self.translated(error, f"look at {self.url(path)}") from None
        return bool(found.get("Contents"))

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            if self._requests is not None:
                self._requests.close()
                self._requests = None
            for client in (self._client, self._copying_client):
                if client is not None:
                    client.close()
            self._client = self._copying_client = None

    def key(self, path: str) -> str:
        """The object's key.

        Raises:
            ConfigurationError: The path is no relative path, or no key of S3 (UTF-8, at most 1,024 bytes:
                https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html).
        """
        key = paths.join(self.options.path, path)
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise ConfigurationError(f"{path!r} is not UTF-8, and cannot be an object's key") from None
        if size > _LONGEST_KEY:
            raise ConfigurationError(f"{path!r} makes a key of {size:,} bytes; S3 takes {_LONGEST_KEY:,}")
        return key

    def hold(self, size: int) -> bool:
        """Whether a finished small object may wait in memory for its publication: few such may, all together."""
        with self._lock:
            if self._held + size > SINGLE_REQUEST_BYTES:
                return False
            self._held += size
            return True

    def release(self, size: int) -> None:
        """A held object was sent or dropped."""
        with self._lock:
            self._held -= size

    def stat(self, path: str) -> File | None:
        """The object at `path`, or None."""
        answer = self.requests.ask("HEAD", self.key(path), {})
        if answer is not None:
            return self._described(path, answer)
        try:
            head = self.client.head_object(Bucket=self.options.bucket, Key=self.key(path))
        except FAILURES as error:
            if status(error) == 404:  # noqa: PLR2004 - HTTP
                self._check_bucket()
                return None
            raise self._refusal(error, path) from None
        return File(path, head["ContentLength"], head["LastModified"], head["ETag"].strip('"'))

    def _described(self, path: str, answer: Answer) -> File | None:
        if answer.status == 404:  # noqa: PLR2004 - HTTP
            self._check_bucket()
            return None
        headers = answer.headers
        return File(path, int(headers["content-length"]), parsedate_to_datetime(headers["last-modified"]), headers["etag"].strip('"'))

    def list(self, pattern: str = "*", *, ordered: bool = True) -> Iterator[File]:
        """Matching objects in the order of their keys' bytes; folder markers are left out."""
        wanted, start = paths.matcher(pattern), paths.fixed_folder(pattern)
        deep = "/" in pattern[len(start) :]
        found = (file for file in self._list_below(start, deep=deep) if wanted.fullmatch(file.path))
        # AWS lists in the order of bytes; SeaweedFS lists a folder before names that continue with a smaller character.
        return iter(sorted(found, key=lambda file: paths.in_order(file.path))) if deep and ordered else found

    def _list_below(self, start: str, *, deep: bool) -> Iterator[File]:
        base = f"{self.options.path}/" if self.options.path else ""
        seen = False
        try:
            for page in pages(self, base + start, "" if deep else "/"):
                seen = seen or bool(page.objects) or page.has_folders
                for found in page.objects:
                    path = found.path[len(base) :]
                    if path and not path.endswith("/"):
                        yield File(path, found.size, found.modified, found.version)
        except FAILURES as error:
            raise self.translated(error, f"list s3://{self.options.bucket}/{base}") from None
        if not seen:
            self._check_bucket()  # SeaweedFS lists a missing bucket as an empty one

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Read the version that was listed (`If-Match`); a body that ends early is an error."""
        left = file.size - start if length is None else length
        with ObjectReader(self, file, start, max(left, 0)) as reader:
            yield reader.body()

    def delete(self, file: FileInfo) -> None:
        """Delete the object if it is still that version."""
        now = self.stat(file.path)
        # The time too: behind two names of one bucket (an access point) the copy has replaced its own source, and has its ETag.
        if now is None or now.version != file.version or (file.modified and _second(now.modified) != _second(file.modified)):
            raise FileChanged(f"{self.url(file.path)} has changed since it was listed, and stays", transient=True)
        place: dict[str, Any] = {"Bucket": self.options.bucket, "Key": self.key(file.path)}
        try:
            self.client.delete_object(**place, IfMatch=f'"{file.version}"')
        except FAILURES as error:
            if status(error) != 501:  # noqa: PLR2004 - HTTP: a server without conditional deletes
                raise self.translated(error, f"delete {self.url(file.path)}") from None
            self._delete_unconditionally(place)

    def _delete_unconditionally(self, place: dict[str, Any]) -> None:
        try:
            self.client.delete_object(**place)
        except FAILURES as error:
            raise self.translated(error, f"delete s3://{place['Bucket']}/{place['Key']}") from None

    @contextlib.contextmanager
    def open_write(
        self,
        path: str,
        *,
        size: int | None = None,
        exists: Exists = "replace",
        verify: Verification | None = None,
        standing: bool | None = None,
        on_begin: Callable[[str], None] | None = None,
    ) -> Iterator[S3Writer]:
        """See `FileDestination.open_write`; an absent bucket or wrong keys show here, before any row is read."""
        if standing is None or exists == "fail":
            standing = self._standing(path) is not None
        if standing and exists == "fail":
            raise ConfigurationError(f"{self.url(path)} exists already (if_exists: fail); nothing was replaced")
        with S3Writer(self, path, declared=size, exists=exists, verify=verify, replaces=standing, on_begin=on_begin) as writer:
            yield writer

    def move_from(self, source: FileSource, file: FileInfo, path: str) -> bool:
        """Copy an object of the same server there, then delete it (`MovesWithin`).

        A server's copy cannot promise that it replaces nothing: it is looked for just before.
        """
        if not isinstance(source, S3Store) or not self.is_same_server(source) or not file.size:
            return False
        if self.stat(path) is not None:
            raise ConfigurationError(f"{self.url(path)} exists already; nothing was replaced")
        with self.open_write(path, size=file.size, standing=False) as writer:
            writer.copy_from(source, file, lambda _: None)
        source.delete(file)
        return True

    def is_same_server(self, other: S3Store) -> bool:
        """Whether the other store's objects can be copied to this one by the server: it is the same, and asked with the same key."""
        mine, theirs = self.options, other.options
        same = ("endpoint_url", "region", "aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        return all(getattr(mine, name) == getattr(theirs, name) for name in same)

    def probe(self, path: str) -> None:
        """Begin a multipart upload and abort it, which leaves nothing, not even a version."""
        self._standing(path)
        place: dict[str, Any] = {"Bucket": self.options.bucket, "Key": self.key(path)}
        try:
            upload = self.client.create_multipart_upload(**place)
            self.client.abort_multipart_upload(**place, UploadId=upload["UploadId"])
        except FAILURES as error:
            raise self.translated(error, f"write {self.url(path)}") from None

    def sweep(self, path: str, leftover: str) -> bool:
        """Abort the multipart upload of a run that was killed; its parts cost money until then.

        A run that was killed between the server's answer and its own note of it left an upload that nobody knows (`leftover` is empty): of those
        that stand at this very key, the ones without parts are aborted.
        """
        place: dict[str, Any] = {"Bucket": self.options.bucket, "Key": self.key(path)}
        try:
            return sum(self._abort(place, upload) for upload in ((leftover,) if leftover else self._empty_uploads(place))) > 0
        except FAILURES as error:
            raise self.translated(error, f"abort an upload of {self.url(path)}") from None

    def _abort(self, place: dict[str, Any], upload: str) -> bool:
        try:
            self.client.list_parts(**place, UploadId=upload, MaxParts=1)  # SeaweedFS aborts what is not there without a word
            self.client.abort_multipart_upload(**place, UploadId=upload)
        except FAILURES as error:
            if status(error) in {400, 404}:  # completed or aborted before; or no id of an upload
                return False
            raise
        return True

    def _empty_uploads(self, place: dict[str, Any]) -> Iterator[str]:
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=place["Bucket"], Prefix=place["Key"])
        uploads = [u["UploadId"] for page in pages for u in page.get("Uploads", ()) if u["Key"] == place["Key"]]
        return (upload for upload in uploads if not self.client.list_parts(**place, UploadId=upload, MaxParts=1).get("Parts"))

    def translated(self, error: Failure, verb: str) -> FerryError:
        """Boto's error in our words."""
        return translated(error, verb, bucket=self.options.bucket, where=self.options.endpoint_url or "AWS")

    def _standing(self, path: str) -> File | None:
        """What stands at the path, where the key may look; a key that may only write goes on without knowing."""
        try:
            return self.stat(path)
        except ConnectionFailed as refused:
            if "access denied" not in str(refused):
                raise
        return None

    def _refusal(self, error: Failure, path: str) -> FerryError:
        """A HEAD has no body to say why; a listing has."""
        if status(error) == 403:  # noqa: PLR2004 - HTTP
            try:
                self.client.list_objects_v2(Bucket=self.options.bucket, Prefix=self.key(path), MaxKeys=1)
            except FAILURES as reason:
                error = reason if code(reason) != "AccessDenied" else error
        return self.translated(error, f"look at {self.url(path)}")

    def _check_bucket(self) -> None:
        """A missing object and a missing bucket answer a HEAD alike."""
        if self._bucket_stands:
            return
        try:
            self.client.head_bucket(Bucket=self.options.bucket)
            self._bucket_stands = True
        except FAILURES as error:
            if status(error) == 404:  # noqa: PLR2004 - HTTP
                where = self.options.endpoint_url or "AWS"
                raise ConnectionFailed(f"there is no bucket {self.options.bucket!r} at {where}; make it first, or check endpoint_url") from None


def _second(moment: datetime | None) -> datetime | None:
    """A header tells seconds, where a listing may tell milliseconds."""
    return moment and moment.replace(microsecond=0)
