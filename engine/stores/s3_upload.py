"""One object on its way to S3: in one request when small, in parts that go up while the rest is being written when not.

Nothing is spooled to disk. In memory: the part being filled, and parts in flight up to `BUDGET_BYTES`
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: 10,000 parts of 5 MiB to 5 GiB).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import zlib
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from engine.errors import ConfigurationError, FerryError, IntegrityError, TransferFailed
from engine.options import MIB
from engine.results import Receipt

if TYPE_CHECKING:
    from types import TracebackType

    from engine.protocols import Exists
    from engine.stores.s3 import S3Store

SINGLE_REQUEST_BYTES = 25 * MIB
BUDGET_BYTES = 32 * MIB
PARTS_AT_ONCE = 4
MOST_PARTS = 10_000
_LARGEST_PART_IN_BUDGET = 64 * MIB
_MARK = "ferry-delivery"


def part_size(number: int, chunk: int) -> int:
    """Bytes of part `number` (from 1) when parts begin at `chunk` bytes.

    Parts grow with their number, so that a stream whose length nobody knows does not meet the limit of 10,000 parts: `chunk` for the first thousand,
    twice that for the next, then four times that, but at least 64 MiB.

    Example:
        >>> [part_size(n, 8 * MIB) // MIB for n in (1, 1000, 1001, 2001)]
        [8, 8, 32, 64]
    """
    if number <= 1000:  # noqa: PLR2004 - as the docstring says
        return chunk
    return max(2 * chunk, _LARGEST_PART_IN_BUDGET // 2) if number <= 2000 else max(4 * chunk, _LARGEST_PART_IN_BUDGET)  # noqa: PLR2004


def largest_object(chunk: int) -> int:
    """Bytes that 10,000 growing parts hold: 536 GiB with parts of 5 MiB, 539 GiB with the default of 8."""
    return 1000 * part_size(1, chunk) + 1000 * part_size(1001, chunk) + (MOST_PARTS - 2000) * part_size(2001, chunk)


class S3Writer:
    """A streaming upload (`FileWriter`). Nothing stands at the key before the block is left without an exception."""

    def __init__(self, store: S3Store, path: str, *, declared: int | None, exists: Exists, replaces: bool) -> None:
        self.size = 0
        self._store = store
        self._url = store.url(path)
        self._object: dict[str, Any] = {"Bucket": store.options.bucket, "Key": store.key(path)}
        self._declared = declared
        self._condition = {"IfNoneMatch": "*"} if exists == "fail" else {}
        self._replaces = replaces
        self._mark = secrets.token_hex(8)
        self._digest = hashlib.sha256()
        self._chunk = store.options.chunk_size_mb * MIB
        self._filling = bytearray()
        self._waiting: list[bytearray] = []  # full parts, before it is known whether the object is small
        self._upload_id: str | None = None
        self._uploaders: ThreadPoolExecutor | None = None
        self._parts: list[Future[dict[str, Any]]] = []
        self._confirmed = True  # the server has echoed each checksum so far
        self._finished = False
        self._held = 0
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt:
        """Complete once the object is published."""
        if self._receipt is None:
            raise RuntimeError("the object is not published yet")
        return self._receipt

    def __enter__(self) -> Self:
        return self

    def write(self, data: Any) -> int:
        """Append; blocks while too many parts are in flight."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self.size += len(view)
        at = 0
        while at < len(view):
            room = part_size(len(self._parts) + len(self._waiting) + 1, self._chunk) - len(self._filling)
            taken = min(room, len(view) - at)
            self._filling += view[at : at + taken]
            at += taken
            if taken == room:
                self._waiting.append(self._filling)
                self._filling = bytearray()
                self._send_waiting()
        return len(view)

    def finish(self) -> None:
        """Send the tail and wait for all parts. A small object waits for publication, as long as few such wait in this store."""
        if self._finished:
            return
        self._finished = True
        if self._declared is not None and self._declared != self.size:
            raise IntegrityError(f"{self._url}: {self.size:,} bytes written, {self._declared:,} announced; not published")
        if self._upload_id is None and self._store.held_bytes + self.size <= SINGLE_REQUEST_BYTES:
            self._held = self.size
            self._store.held_bytes += self._held
            return
        self._waiting.append(self._filling)
        self._filling = bytearray()
        self._send_waiting(last=True)
        for part in self._parts:
            part.result()
        self._stop_uploaders()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._abort()
            return
        try:
            self.finish()
            reported = self._publish()
        except BaseException:
            self._abort()
            raise
        finally:
            self._store.held_bytes -= self._held
            self._held = 0
            self._filling, self._waiting = bytearray(), []
        self._receipt = self._verified(reported)

    def _send_waiting(self, *, last: bool = False) -> None:
        if self._upload_id is None and self.size < SINGLE_REQUEST_BYTES and not last:
            return
        if self._upload_id is None:
            self._upload_id = self._request("begin", "create_multipart_upload", Metadata={_MARK: self._mark})["UploadId"]
            self._uploaders = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="ferry-upload")
        for body in self._waiting:
            self._send(body)
        self._waiting = []

    def _send(self, body: bytearray) -> None:
        if len(self._parts) == MOST_PARTS:
            raise TransferFailed(f"{self._url} would need more than {MOST_PARTS:,} parts; cut the export with --max-file-mb, or raise --chunk-size-mb")
        at_once = max(1, min(PARTS_AT_ONCE, BUDGET_BYTES // max(len(body), 1)))
        running = [part for part in self._parts[-PARTS_AT_ONCE:] if not part.done()]
        while len(running) >= at_once:
            running = list(wait(running, return_when=FIRST_COMPLETED).not_done)
        for part in self._parts[-PARTS_AT_ONCE:]:
            if part.done():
                part.result()
        assert self._uploaders is not None  # noqa: S101 - made with the upload id
        self._parts.append(self._uploaders.submit(self._upload, len(self._parts) + 1, body))

    def _upload(self, number: int, body: bytearray) -> dict[str, Any]:
        """One part; its checksum goes along, so that the server refuses what was damaged on the way."""
        checksum = self._checksum(body)
        answer = self._request("upload a part of", "upload_part", UploadId=self._upload_id, PartNumber=number, Body=body, **checksum)
        self._confirm(checksum, answer)
        body.clear()  # the future of a sent part stays in the list, its bytes need not
        return {"PartNumber": number, "ETag": answer["ETag"], **({k: v for k, v in checksum.items() if answer.get(k)})}

    def _checksum(self, body: bytearray) -> dict[str, str]:
        if not self._store.options.request_checksums:
            return {}
        return {"ChecksumCRC32": base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}

    def _confirm(self, sent: dict[str, str], answer: dict[str, Any]) -> None:
        """Compare what the server says it holds with what was sent; a server that says nothing confirms nothing."""
        echoed = answer.get("ChecksumCRC32")
        if sent and echoed and echoed != sent["ChecksumCRC32"]:
            raise IntegrityError(f"{self._url}: the S3 server holds other bytes than were sent (CRC-32)", transient=True)
        self._confirmed = self._confirmed and bool(sent and echoed)

    def _publish(self) -> dict[str, Any]:
        """Make the object appear; an answer that was lost is looked up before it counts as a failure."""
        try:
            if self._upload_id is not None:
                parts = {"Parts": [part.result() for part in self._parts]}
                answer = self._call("complete_multipart_upload", UploadId=self._upload_id, MultipartUpload=parts, **self._condition)
            else:
                body = bytearray().join([*self._waiting, self._filling])
                checksum = self._checksum(body)
                answer = self._call("put_object", Body=body, Metadata={_MARK: self._mark}, **checksum, **self._condition)
                self._confirm(checksum, answer)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] == "PreconditionFailed" and not self._stands():
                raise ConfigurationError(f"{self._url} exists already (if_exists: fail); nothing was replaced") from None
            if not self._stands():
                raise self._store.translated(error, f"publish {self._url}") from None
            answer = {}
        self._upload_id = None
        return answer

    def _stands(self) -> bool:
        head = self._head()
        return head is not None and head["ContentLength"] == self.size and head.get("Metadata", {}).get(_MARK) == self._mark

    def _head(self) -> dict[str, Any] | None:
        with contextlib.suppress(BotoCoreError, ClientError):
            return self._call("head_object")
        return None

    def _verified(self, answer: dict[str, Any]) -> Receipt:
        """Compare sizes with what the server has now; a key that may only write leaves it at the checksums."""
        head = self._head()
        if head is not None and head["ContentLength"] != self.size:
            raise IntegrityError(f"{self._url}: {self.size:,} bytes sent, the S3 server has {head['ContentLength']:,}")
        found = {"ETag": answer.get("ETag") or (head or {}).get("ETag"), "VersionId": answer.get("VersionId"), "ChecksumCRC32": answer.get("ChecksumCRC32")}
        reported = {name: str(value).strip('"') for name, value in found.items() if value}
        level = "checksum" if self._confirmed else "size" if head is not None else "accepted"
        return Receipt(self.size, self._digest.hexdigest(), level, self._replaces, reported)  # type: ignore[arg-type]  # one of Verification

    def _abort(self) -> None:
        """No part may arrive after the upload is aborted, or it would stay and cost money: so parts in flight are waited for first."""
        self._stop_uploaders()
        if self._upload_id is not None:
            with contextlib.suppress(FerryError):
                self._request("abort", "abort_multipart_upload", UploadId=self._upload_id)
            self._upload_id = None

    def _stop_uploaders(self) -> None:
        if self._uploaders is not None:
            self._uploaders.shutdown(wait=True, cancel_futures=True)
            self._uploaders = None

    def _request(self, verb: str, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            return self._call(operation, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise self._store.translated(error, f"{verb} {self._url}") from None

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._store.client, operation)(**self._object, **arguments)
        return answer
