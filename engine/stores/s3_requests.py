"""Requests about S3 objects and their listing without boto3's cost: signed and sent by hand, with boto3 as the way out.

boto3 takes about 1.3 ms of Python for a request, this 0.2 ms, and that decides how fast many small files go. Whatever is not answered as
expected is simply asked again through boto3, which retries, corrects clocks and names the error: so that nothing here has to.
Signature Version 4: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import ssl
import threading
import urllib.request
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.httpsession import get_cert_path

from engine.stores.s3_errors import FAILURES
from engine.stores.s3_wire import Answer, Connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from botocore.awsrequest import AWSPreparedRequest
    from types_boto3_s3 import S3Client

EMPTY_SHA256 = hashlib.sha256().hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
ANSWER_SECONDS = 60.0
_EXPECTED = {"GET": (200, 206), "HEAD": (200, 404), "PUT": (200,), "DELETE": (204,)}
_PLAIN = "-_.~"
_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


class ObjectRequests:
    """Single requests about objects of one bucket, from any thread. None instead of an answer: ask boto3.

    Args:
        client: Says where the bucket is, in which region, and what signs.
        bucket: The bucket.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._region = client.meta.region_name
        self._credentials = client._request_signer._credentials  # type: ignore[attr-defined]  # noqa: SLF001 - what the client itself signs with, renewed where need be
        self._host, self._folder, self._tls, self._usable = "", "", None, False
        self._address = ("", 0)
        self._idle: list[Connection] = []
        weakref.finalize(self, _close_all, self._idle)  # as boto3 does, for whoever forgets `close`
        self._lock = threading.Lock()
        self._key: tuple[str, str, bytes] = ("", "", b"")
        if self._credentials is None:
            return
        with contextlib.suppress(*FAILURES):  # a malformed name: boto3 says so when it is asked
            base = urlsplit(_address_of(client, bucket))
            self._host, self._folder = base.netloc, base.path.removesuffix("x")
            self._address = (base.hostname or "", base.port or (443 if base.scheme == "https" else 80))
            self._tls = _context() if base.scheme == "https" else None
            self._usable = bool(self._host) and not _has_proxy(base.scheme, self._host)

    def ask(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | bytearray | memoryview = b"",
        sha256: str | None = None,
        patience: float = ANSWER_SECONDS,
        into: memoryview | None = None,
    ) -> Answer | None:
        """Send one request.

        Args:
            method: Of HTTP.
            key: The object's; empty: the bucket is meant.
            headers: Besides those that sign.
            query: What follows the `?`.
            body: What is sent.
            sha256: The body's, which the server checks. None: it is taken here, but not over TLS where a checksum among the headers tells the server enough.
            patience: Seconds for which the server may be silent.
            into: Takes the answer's body, if that is exactly as long.
        """
        if not self._usable:
            return None
        path = self._folder + quote(key, safe="/-_.~") if key else self._folder.rstrip("/") or "/"
        asked = "&".join(f"{quote(name, safe=_PLAIN)}={quote(value, safe=_PLAIN)}" for name, value in sorted(query.items())) if query else ""
        if sha256 is None:
            is_told = self._tls is not None and "x-amz-checksum-crc32" in headers
            sha256 = EMPTY_SHA256 if not len(body) else UNSIGNED if is_told else hashlib.sha256(body).hexdigest()
        try:
            signed = self._signed(method, path, asked, {**headers, "host": self._host, "x-amz-content-sha256": sha256})
        except FAILURES:  # keys that could not be renewed
            return None
        if method == "PUT":
            signed["content-length"] = str(len(body))
        whole = f"{path}?{asked}" if asked else path
        for _ in range(2):  # a connection that has been idle may have been closed behind our back
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            is_fresh = connection is None
            try:
                connection = connection or Connection(*self._address, self._tls)
                answer = connection.exchange(method, whole, signed, body, patience, into)
            except (OSError, ValueError) as failure:
                if connection is not None:
                    connection.close()
                if is_fresh or isinstance(failure, TimeoutError):
                    return None
                continue
            if answer.status not in _EXPECTED[method]:  # it may be an answer to nothing that was asked: a server that says 408 of an idle connection
                connection.close()
                return None
            self._give_back(connection)
            return answer
        return None

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            _close_all(self._idle)

    def _give_back(self, connection: Connection) -> None:
        if not connection.is_reusable:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)

    def _signed(self, method: str, path: str, query: str, headers: dict[str, str]) -> dict[str, str]:
        """The headers with date and signature."""
        credentials = self._credentials.get_frozen_credentials()
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers["x-amz-date"] = now
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        names = sorted(headers)
        listed = ";".join(names)
        lines = "".join(f"{name}:{headers[name]}\n" for name in names)
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{listed}\n{headers['x-amz-content-sha256']}"
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(credentials.secret_key, now[:8]), text.encode(), "sha256").hex()
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"
        return headers

    def _signing_key(self, secret: str, date: str) -> bytes:
        """Of one day; kept, since every request asks for it."""
        known_secret, known_date, key = self._key
        if (known_secret, known_date) != (secret, date):
            key = f"AWS4{secret}".encode()
            for part in (date, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (secret, date, key)
        return key


class _Nothing:
    """The body of an answer that nobody sent."""

    def stream(self) -> Iterator[bytes]:
        return iter(())


def _address_of(client: S3Client, bucket: str) -> str:
    """Where this client would send a request about the object `x`, whatever its options and the kind of endpoint; nothing is sent.

    A presigned address would not do: on AWS it names the global host, from where other regions are reached late or not at all.
    """
    found: list[str] = []

    def instead(request: AWSPreparedRequest, **_: object) -> Any:
        found.append(request.url)
        return AWSResponse(request.url, 200, HTTPHeaders(), _Nothing())

    event = "before-send.s3.HeadObject"
    client.meta.events.register_first(event, instead)
    try:
        client.head_object(Bucket=bucket, Key="x")
    finally:
        client.meta.events.unregister(event, instead)
    return found[0]


def _close_all(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()


def _context() -> ssl.SSLContext:
    """Trust as boto3 does."""
    bundle = next((os.environ[name] for name in _BUNDLES if os.environ.get(name)), None)
    return ssl.create_default_context(cafile=bundle or get_cert_path(verify=True))


def _has_proxy(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host.partition(":")[0])
