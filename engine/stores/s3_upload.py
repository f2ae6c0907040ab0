"""One object on its way to S3: in one request when small, in parts that go up while the rest is being written when not.

Nothing is spooled to disk. In memory: the part being filled, and parts in flight up to `BUDGET_BYTES`
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: 10,000 parts of 5 MiB to 5 GiB).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import zlib
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from engine.errors import ConfigurationError, FerryError, IntegrityError, OutcomeUnknown, TransferFailed
from engine.options import MIB
from engine.results import Receipt, reaches
from engine.stores import s3_copy
from engine.stores.s3_copy import ServerCopy
from engine.stores.s3_errors import FAILURES, code, status
from engine.stores.s3_parts import MOST_PARTS, Cutter, as_boto_takes
from engine.stores.s3_published import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from engine.protocols import Exists, FileInfo, FileSource
    from engine.results import Verification
    from engine.stores.s3 import S3Store
    from engine.stores.s3_wire import Answer

SINGLE_REQUEST_BYTES = 25 * MIB
BUDGET_BYTES = 32 * MIB
PARTS_AT_ONCE = 4
_ABORT_ATTEMPTS = 3


class S3Writer:
    """A streaming upload (`FileWriter`, `CopiesWithin`). Nothing stands at the key before the block is left without an exception."""

    def __init__(
        self,
        store: S3Store,
        path: str,
        *,
        declared: int | None,
        exists: Exists,
        verify: Verification | None,
        replaces: bool,
        on_begin: Callable[[str], None] | None,
    ) -> None:
        self.size = 0
        self._store = store
        self._path = path
        self._url = store.url(path)
        self._object: dict[str, Any] = {"Bucket": store.options.bucket, "Key": store.key(path)}
        self._declared = declared
        self._condition = {"IfNoneMatch": "*"} if exists == "fail" else {}
        self._verify = verify
        self._copy: ServerCopy | None = None
        self._replaces = replaces
        self._on_begin = on_begin
        self._published = Published(store, path)
        self._digest = hashlib.sha256()
        self._cutter = Cutter(store.options.chunk_size_mb * MIB)
        self._is_shortly_served = True  # until a part is refused by the short way
        self._upload_id: str | None = None
        self._uploaders: ThreadPoolExecutor | None = None
        self._parts: list[Future[dict[str, Any]]] = []
        self._in_flight: dict[Future[dict[str, Any]], int] = {}  # bytes of each
        self._checksum_sent: str | None = None  # of the whole object, as the server should report it
        self._confirmed = True  # the server has echoed each checksum so far
        self._finished = False
        self._broken = False
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
        if self._finished:
            raise RuntimeError("the object is finished")
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self.size += len(view)
        with self._breaking():
            for _ in self._cutter.cut(view):
                self._send_waiting()
        return len(view)

    def copy_from(self, source: FileSource, file: FileInfo, passing: Callable[[int], None]) -> bool:
        """Have the server copy an object of its own; not with `exists="fail"`, which a copy cannot promise."""
        if not isinstance(source, type(self._store)):
            return False
        self._refuse_itself(source, file)
        if not self._store.is_same_server(source) or self._condition or self.size or not file.size:
            return False
        with self._breaking():
            self._copy = ServerCopy(self._store, self._path, source, file, self._published.metadata)
            if file.size > s3_copy.PART_BYTES:
                self._copy.copy_parts(self._on_begin, passing)
            else:
                passing(file.size)
        self.size = file.size
        return True

    def _refuse_itself(self, source: S3Store, file: FileInfo) -> None:
        """A server has many addresses, and an ETag stays when the same bytes are written again: a move would then delete the only copy."""
        if (source.options.bucket, source.key(file.path)) != (self._object["Bucket"], self._object["Key"]) or not self._replaces:
            return
        mine = self._store.stat(self._path)
        if mine is None or mine.version != file.version or mine.modified is None or file.modified is None:
            return
        if int(mine.modified.timestamp()) == int(file.modified.timestamp()):  # a HEAD tells whole seconds
            raise ConfigurationError(f"{self._url} is, by all signs, its own source under another address of the server; choose a different target")

    def finish(self) -> None:
        """Send the tail and wait for all parts. A small object waits for publication, as long as few such wait in this store."""
        if self._finished:
            return
        with self._breaking():
            self._finished = True
            if self._declared is not None and self._declared != self.size:
                raise IntegrityError(f"{self._url}: {self.size:,} bytes written, {self._declared:,} announced; not published")
            if self._copy is not None:
                return
            if self._upload_id is None and self._store.hold(self.size):
                self._held = self.size
                return
            self._cutter.end()
            self._send_waiting(last=True)
            while self._in_flight:
                wait(self._in_flight, return_when=FIRST_COMPLETED)
                self._collect()
            self._stop_uploaders()
            self._cutter.clear()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._deliver()
        finally:
            self._store.release(self._held)
            self._held = 0
            self._cutter.clear()
            self._abort()

    def _deliver(self) -> None:
        if self._broken:
            raise TransferFailed(f"{self._url}: an earlier failure to write it was ignored; not published")
        self.finish()
        if self._copy is not None:
            self._receipt = self._copied(self._copy)
            return
        answer = self._publish()
        self._upload_id = None
        self._receipt = self._verified(answer)

    def _copied(self, copy: ServerCopy) -> Receipt:
        answer = self._publish_copy(copy)
        copy.upload_id = None
        etag = str(answer["ETag"])
        try:
            level, sha256 = copy.level(answer), None
            if not reaches(level, self._verify):
                sha256 = copy.read_source()
                if self._published.read_back(etag, self.size) != sha256:
                    raise IntegrityError(f"{self._url}: the server's copy has other bytes than its source", transient=True)
                level = "read-back"
        except FerryError as error:
            raise IntegrityError(f"{error}; {self._published.withdraw(etag)}", transient=error.transient) from None
        return Receipt(self.size, sha256, level, self._replaces, {name: str(answer[name]).strip('"') for name in ("ETag", "VersionId") if name in answer})

    def _publish_copy(self, copy: ServerCopy) -> dict[str, Any]:
        """A copy whose answer was lost is looked up: one in parts by our mark, one in a single request by its source's ETag, which says that the bytes are the same."""
        try:
            return copy.publish()
        except FAILURES as error:
            is_refusal = copy.upload_id is None and 400 <= status(error) < 500  # noqa: PLR2004 - HTTP
            head = None if is_refusal else self._published.look()[0]
            is_done = self._published.is_ours(head) if copy.upload_id is not None else head is not None and head["ETag"].strip('"') == copy.file.version
            if head is not None and is_done and head["ContentLength"] == self.size:
                return head
            raise self._store.translated(error, f"copy to {self._url}") from None

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Whoever swallows an error from here must not publish what is left."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def _send_waiting(self, *, last: bool = False) -> None:
        if self._upload_id is None and self.size < SINGLE_REQUEST_BYTES and not last:
            return
        if self._upload_id is None:
            # AWS refuses parts with a checksum that was not announced here.
            algorithm = {"ChecksumAlgorithm": "CRC32"} if self._store.options.request_checksums else {}
            if self._on_begin is not None:
                self._on_begin("")  # noted before there is anything: a kill may leave an upload whose name nobody knows
            self._upload_id = self._request("begin", "create_multipart_upload", Metadata=self._published.metadata, **algorithm)["UploadId"]
            if self._on_begin is not None:
                self._on_begin(self._upload_id)
            self._uploaders = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="ferry-upload")
        while self._cutter.waiting:
            self._send(self._cutter.waiting.pop(0))

    def _send(self, body: memoryview) -> None:
        if len(self._parts) == MOST_PARTS:
            raise TransferFailed(
                f"{self._url} would need more than {MOST_PARTS:,} parts; cut the export with --max-file-mb (max_file_mb), or raise --chunk-size-mb"
            )
        self._collect()
        while self._in_flight and (len(self._in_flight) >= PARTS_AT_ONCE or sum(self._in_flight.values()) + len(body) > BUDGET_BYTES):
            wait(self._in_flight, return_when=FIRST_COMPLETED)
            self._collect()
        assert self._uploaders is not None  # noqa: S101 - made with the upload id
        part = self._uploaders.submit(self._upload, len(self._parts) + 1, body)
        self._parts.append(part)
        self._in_flight[part] = len(body)

    def _collect(self) -> None:
        """Forget parts that have arrived; one that failed ends the upload at once."""
        for part in [part for part in self._in_flight if part.done()]:
            del self._in_flight[part]
            part.result()

    def _upload(self, number: int, body: memoryview) -> dict[str, Any]:
        """One part; its checksum goes along, so that the server refuses what was damaged on the way."""
        checksum = self._checksum(body)
        answer = self._upload_shortly(number, body, checksum)
        if answer is None:
            upload = {"UploadId": self._upload_id, "PartNumber": number}
            answer = self._request("upload a part of", "upload_part", **upload, Body=as_boto_takes(body), **checksum)
        self._confirm(checksum.get("ChecksumCRC32"), answer.get("ChecksumCRC32"))
        self._cutter.give_back(body)
        return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    def _upload_shortly(self, number: int, body: memoryview, checksum: dict[str, str]) -> dict[str, str] | None:
        """By one short request; None: ask boto3, since sending a part again does no harm; but not for each part."""
        if not self._is_shortly_served:
            return None
        headers = {"x-amz-checksum-crc32": checksum["ChecksumCRC32"]} if checksum else {}
        query = {"partNumber": str(number), "uploadId": str(self._upload_id)}
        answer = self._store.requests.ask("PUT", self._object["Key"], headers, query=query, body=body)
        self._is_shortly_served = answer is not None and "etag" in answer.headers
        return _named(answer) if answer is not None and self._is_shortly_served else None

    def _checksum(self, body: memoryview) -> dict[str, str]:
        return {"ChecksumCRC32": _encoded(zlib.crc32(body))} if self._store.options.request_checksums else {}

    def _confirm(self, sent: str | None, echoed: str | None) -> None:
        """Compare what the server says it holds with what was sent; a server that says nothing confirms nothing."""
        if sent and echoed and echoed != sent:
            raise IntegrityError(f"{self._url}: the S3 server holds other bytes than were sent (CRC-32)", transient=True)
        if not (sent and echoed):
            self._confirmed = False

    def _publish(self) -> dict[str, Any]:
        """Make the object appear; an answer that was lost is looked up before it counts as a failure."""
        try:
            return self._put() if self._upload_id is None else self._complete()
        except FAILURES as error:
            head, is_known = self._published.look()
            if self._published.is_ours(head) and head["ContentLength"] == self.size:
                return {}
            if code(error) == "PreconditionFailed":
                raise ConfigurationError(f"{self._url} exists already (if_exists: fail); nothing was replaced") from None
            failure = self._store.translated(error, f"publish {self._url}")
            is_refusal = 400 <= status(error) < 500  # noqa: PLR2004 - HTTP
            if is_known or is_refusal:
                raise failure from None
            raise OutcomeUnknown(f"{failure}; it is not known whether the object stands there now: look before trying again") from None

    def _put(self) -> dict[str, Any]:
        body = self._cutter.joined()
        checksum = self._checksum(body)
        self._checksum_sent = checksum.get("ChecksumCRC32")
        if answer := self._put_shortly(body):
            return answer
        return self._call("put_object", Body=as_boto_takes(body), Metadata=self._published.metadata, **checksum, **self._condition)

    def _put_shortly(self, body: memoryview) -> dict[str, Any] | None:
        """By one short request, whose body the server checks by its SHA-256 as well; None: ask boto3, since putting the same again does no harm."""
        headers = {**{f"x-amz-meta-{name}": value for name, value in self._published.metadata.items()}, **({"if-none-match": "*"} if self._condition else {})}
        if self._checksum_sent:
            headers["x-amz-checksum-crc32"] = self._checksum_sent
        answer = self._store.requests.ask("PUT", self._object["Key"], headers, body=body, sha256=self._digest.hexdigest())
        return None if answer is None else _named(answer)

    def _complete(self) -> dict[str, Any]:
        parts = [part.result() for part in self._parts]
        if self._store.options.request_checksums:  # a composite checksum: that of the parts' checksums
            together = b"".join(base64.b64decode(part["ChecksumCRC32"]) for part in parts)
            self._checksum_sent = f"{_encoded(zlib.crc32(together))}-{len(parts)}"
        return self._call("complete_multipart_upload", UploadId=self._upload_id, MultipartUpload={"Parts": parts}, **self._condition)

    def _verified(self, answer: dict[str, Any]) -> Receipt:
        """Compare with what the server has now; a key that may only write leaves it at the checksums.

        What somebody else has put there meanwhile says nothing about this delivery, and stays.
        """
        is_confirmed = not self._parts and self._checksum_sent is not None and answer.get("ChecksumCRC32") == self._checksum_sent
        head = None if is_confirmed else self._published.look()[0]
        if head is not None and not self._published.is_ours(head) and head.get("ETag") != answer.get("ETag"):
            head = None
        checksum = answer.get("ChecksumCRC32") or (head or {}).get("ChecksumCRC32")
        problem = self._disagreement(head, checksum)
        if problem:
            raise IntegrityError(f"{self._url}: {problem}; {self._published.withdraw()}", transient=True)
        found = {"ETag": answer.get("ETag") or (head or {}).get("ETag"), "VersionId": answer.get("VersionId"), "ChecksumCRC32": checksum}
        reported = {name: str(value).strip('"') for name, value in found.items() if value}
        level: Verification = "checksum" if self._confirmed else "size" if head is not None else "accepted"
        if not reaches(level, self._verify):
            self._compare(found["ETag"])
            level = "read-back"
        return Receipt(self.size, self._digest.hexdigest(), level, self._replaces, reported)

    def _compare(self, etag: str | None) -> None:
        """Read back; what cannot be proved to be right does not stay."""
        try:
            if self._published.read_back(etag, self.size) != self._digest.hexdigest():
                raise IntegrityError(f"{self._url}: other bytes were read back than were sent", transient=True)
        except FerryError as error:
            raise IntegrityError(f"{error}; {self._published.withdraw()}", transient=error.transient) from None

    def _disagreement(self, head: dict[str, Any] | None, checksum: str | None) -> str | None:
        """Parts were confirmed one by one; their composite checksum is compared where the server tells it."""
        if not self._parts or (checksum and "-" in checksum):
            if self._checksum_sent and checksum and self._checksum_sent != checksum:
                return "the S3 server reports another checksum (CRC-32) than that of the bytes sent"
            self._confirmed = self._confirmed and bool(self._checksum_sent and checksum)
        if head is not None and head["ContentLength"] != self.size:
            return f"{self.size:,} bytes sent, the S3 server has {head['ContentLength']:,}"
        return None

    def _abort(self) -> None:
        """End an upload that was not published, and see that it is gone: parts that stay cost money.

        A part that arrives after the abort would stay (https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html),
        so those in flight are waited for first.
        """
        self._stop_uploaders()
        if self._copy is not None:
            self._upload_id = self._copy.upload_id
        if self._upload_id is None:
            return
        upload = {"UploadId": self._upload_id}
        self._upload_id = None
        for _ in range(_ABORT_ATTEMPTS):
            try:
                self._call("abort_multipart_upload", **upload)
                self._call("list_parts", **upload, MaxParts=1)
            except ClientError as error:
                if status(error) in {403, 404}:  # gone; or aborted by a key that may not look
                    return
            except BotoCoreError:
                break
        self._store.notes.append(f"an unfinished multipart upload of {self._url} may remain; abort it, or have a lifecycle rule of the bucket do so")

    def _stop_uploaders(self) -> None:
        if self._uploaders is not None:
            self._uploaders.shutdown(wait=True, cancel_futures=True)
            self._uploaders = None

    def _request(self, verb: str, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            return self._call(operation, **arguments)
        except FAILURES as error:
            raise self._store.translated(error, f"{verb} {self._url}") from None

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._store.client, operation)(**self._object, **arguments)
        return answer


def _named(answer: Answer) -> dict[str, str]:
    """By boto3's names."""
    names = {"ETag": "etag", "VersionId": "x-amz-version-id", "ChecksumCRC32": "x-amz-checksum-crc32"}
    return {name: answer.headers[header] for name, header in names.items() if header in answer.headers}


def _encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
