"""The bytes of one object: in one request when small, in ranges that are fetched ahead when not."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from engine.errors import FileChanged, IntegrityError
from engine.options import MIB
from engine.stores.window import Window

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from engine.protocols import FileInfo
    from engine.stores.s3 import S3Store

RANGE_BYTES = 8 * MIB
RANGES_AHEAD = 3
_ATTEMPTS = 3
_BROKEN = (BotoCoreError, HTTPClientError, OSError)


class ObjectReader:
    """Bytes `start … start + length` of one listed version (`If-Match` on each request). `with` holds the threads that fetch.

    Ranges come into a few buffers that are used again: the kernel clears new memory first, which was a tenth of a transfer's CPU.
    """

    def __init__(self, store: S3Store, file: FileInfo, start: int, length: int) -> None:
        self._store = store
        self._file = file
        self._left = deque((at, min(RANGE_BYTES, start + length - at)) for at in range(start, start + length, RANGE_BYTES))
        self._length = length
        self._threads: ThreadPoolExecutor | None = None
        self._coming: deque[Future[memoryview]] = deque()
        self._idle: list[bytearray] = []
        self._range = memoryview(b"")  # the one that is read from
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def body(self) -> BinaryIO:
        """The bytes as a file; a small one is fetched now, so that an object that is gone or has changed shows at once."""
        if not self._file.size:  # there is no byte to ask for with its version
            now = self._store.stat(self._file.path)
            if now is None or now.version != self._file.version:
                raise FileChanged(f"{self._store.url(self._file.path)} has changed since it was listed", transient=True)
        if self._length <= RANGE_BYTES:
            data = self._fetch(*self._left.popleft(), None) if self._left else b""
            return cast("BinaryIO", io.BytesIO(data))
        self._threads = ThreadPoolExecutor(RANGES_AHEAD, thread_name_prefix="ferry-fetch")
        self._order()
        self._next_range()
        return cast("BinaryIO", Window(self._read, self._length, self._store.url(self._file.path), self._fill))

    def _read(self, size: int) -> bytes:
        return bytes(self._take(size))

    def _fill(self, room: memoryview) -> int:
        taken = self._take(len(room))
        room[: len(taken)] = taken
        return len(taken)

    def _take(self, size: int) -> memoryview:
        """The next bytes, up to so many; they stand until the next call."""
        if self._at == len(self._range) and not self._next_range():
            return self._range[:0]
        taken = self._range[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def _next_range(self) -> bool:
        if isinstance(self._range.obj, bytearray):
            self._idle.append(self._range.obj)
        self._range, self._at = memoryview(b""), 0
        if not self._coming:
            return False
        self._range = self._coming.popleft().result()
        self._order()
        return True

    def _order(self) -> None:
        """Keep as many ranges coming as may be held."""
        assert self._threads is not None  # noqa: S101 - made before
        while self._left and len(self._coming) < RANGES_AHEAD:
            room = self._idle.pop() if self._idle else bytearray(RANGE_BYTES)
            self._coming.append(self._threads.submit(self._fetch_into, room, *self._left.popleft()))

    def _fetch_into(self, room: bytearray, start: int, length: int) -> memoryview:
        view = memoryview(room)[:length]
        if data := self._fetch(start, length, view):
            view[:] = data
        return view

    def _fetch(self, start: int, length: int, into: memoryview | None) -> bytes | bytearray:
        """One range; what breaks off is asked for again. Nothing is returned of what came into the buffer."""
        which = {"if-match": f'"{self._file.version}"', "range": f"bytes={start}-{start + length - 1}"}
        if length == self._file.size:
            del which["range"]
        answer = self._store.requests.ask("GET", self._store.key(self._file.path), which, into=into)
        is_range = answer is not None and answer.headers.get("content-range", "").startswith(f"bytes {start}-{start + length - 1}/")
        if answer is not None and answer.length == length and is_range is ("range" in which):
            self._check_version(answer.headers.get("etag", ""))
            return answer.body
        for attempt in range(1, _ATTEMPTS + 1):
            data = self._ask_boto(start, length)
            if len(data) == length or attempt == _ATTEMPTS:
                break
        if len(data) != length:
            raise IntegrityError(f"{self._store.url(self._file.path)} ended {length - len(data):,} bytes early, {_ATTEMPTS} times", transient=True)
        return data

    def _ask_boto(self, start: int, length: int) -> bytes:
        asked: dict[str, Any] = {"Bucket": self._store.options.bucket, "Key": self._store.key(self._file.path), "IfMatch": f'"{self._file.version}"'}
        try:
            answer = self._store.client.get_object(**asked, Range=f"bytes={start}-{start + length - 1}")
        except (BotoCoreError, ClientError) as error:
            raise self._store.translated(error, f"read {self._store.url(self._file.path)}") from None
        body = answer["Body"]
        try:
            self._check_version(answer.get("ETag", ""))
            return body.read()
        except _BROKEN:
            return b""
        finally:
            body.close()

    def _check_version(self, etag: str) -> None:
        """Some servers take no notice of `If-Match`."""
        if etag and etag.strip('"') != self._file.version:
            raise FileChanged(f"{self._store.url(self._file.path)} has changed since it was listed", transient=True)
