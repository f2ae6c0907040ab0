"""An S3 server for reading that holds any key, as AWS does: SeaweedFS refuses `..` and takes `//` for `/`. It checks no signature."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUCKET = "keys"
_STAMP = ("2024-01-01T00:00:00.000Z", "Mon, 01 Jan 2024 00:00:00 GMT")


@contextlib.contextmanager
def keys_server(objects: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """Serve these objects of the bucket `keys`; gives the options of a store."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.objects = objects  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        yield {"endpoint_url": url, "bucket": BUCKET, "aws_access_key_id": "anyone", "aws_secret_access_key": "anything", "addressing_style": "path"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        objects: Mapping[str, bytes] = self.server.objects  # type: ignore[attr-defined]
        url = urlsplit(f"http://x{self.path}")
        key = unquote(url.path.removeprefix(f"/{BUCKET}").removeprefix("/"))
        if not key:
            self._answer(200, _listing(objects, parse_qs(url.query)))
        elif (data := objects.get(key)) is None:
            self._answer(404, b"")
        else:
            asked = self.headers.get("Range")
            first, last = (int(text) for text in asked.removeprefix("bytes=").split("-")) if asked else (0, len(data))
            self._answer(206 if asked else 200, data[first : last + 1], _etag(data))

    do_HEAD = do_GET  # noqa: N815 - named by http.server

    def _answer(self, status: int, body: bytes, etag: str = '"x"') -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), ("ETag", etag), ("Last-Modified", _STAMP[1])):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _listing(objects: Mapping[str, bytes], query: dict[str, list[str]]) -> bytes:
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    entries = "".join(
        f"<Contents><Key>{quote(key, safe='/')}</Key><LastModified>{_STAMP[0]}</LastModified>"
        f"<ETag>{escape(_etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
        for key, data in sorted(objects.items())
        if key.startswith(prefix) and not (delimiter and delimiter in key[len(prefix) :])
    )
    text = f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>'
    return text.encode()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
