"""Requests that go past boto3: to the same host, and never with an answer that belongs to another one."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from engine.options import MIB
from engine.paths import File
from engine.stores import s3_connection, s3_read
from engine.stores.s3 import S3Options, S3Store
from engine.stores.s3_requests import UNSIGNED, ObjectRequests
from tests.stores import proxy as faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine import embedded

KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}


@pytest.mark.parametrize("bucket", ["bucket", "a.bucket.with.dots"])
@pytest.mark.parametrize("style", ["auto", "virtual", "path"])
@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "il-central-1", "us-gov-west-1", "cn-north-1"])
def test_they_go_where_boto3_sends_its_own(region: str, style: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the region's host: a part that goes to the global one leaves its region, and is sent twice."""
    client = s3_connection.connect(S3Options.parse({**KEYS, "bucket": bucket, "region": region, "addressing_style": style}, where="test"))
    theirs: list[str] = []

    def unsent(request: Any, **_: Any) -> None:
        theirs.append(request.url)
        raise InterruptedError

    client.meta.events.register("before-send.s3.UploadPart", unsent)
    with contextlib.suppress(InterruptedError):
        client.upload_part(Bucket=bucket, Key="key", UploadId="u", PartNumber=1, Body=b"x")
    asked: list[tuple[Any, ...]] = []

    class Nowhere:
        def __init__(self, *address: Any) -> None:
            asked.append(address)

        def exchange(self, *request: Any) -> Any:
            asked.append(request)
            raise TimeoutError

        def close(self) -> None:
            pass

    monkeypatch.setattr("engine.stores.s3_requests.Connection", Nowhere)
    assert ObjectRequests(client, bucket).ask("PUT", "key", {}, query={"partNumber": "1", "uploadId": "u"}, body=b"x") is None
    (host, port, _), (_, path, headers, *_) = asked
    assert (port, headers["host"]) == (443, host)
    assert f"https://{host}{path}".partition("?")[0] == theirs[0].partition("?")[0]


def test_the_body_is_signed_unless_tls_and_a_checksum_protect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    class Nowhere:
        def __init__(self, *_: Any) -> None:
            pass

        def exchange(self, _method: str, _path: str, headers: dict[str, str], *_: Any) -> Any:
            seen.append(headers)
            raise TimeoutError

        def close(self) -> None:
            pass

    monkeypatch.setattr("engine.stores.s3_requests.Connection", Nowhere)
    for endpoint in ("https://minio:9000", "http://minio:9000"):
        client = s3_connection.connect(S3Options.parse({**KEYS, "bucket": "b", "endpoint_url": endpoint}, where="test"))
        for headers in ({}, {"x-amz-checksum-crc32": "AAAAAA=="}):
            ObjectRequests(client, "b").ask("PUT", "key", headers, body=b"x")
    assert [headers["x-amz-content-sha256"] == UNSIGNED for headers in seen] == [False, True, False, False]


@contextlib.contextmanager
def impatient(data: bytes) -> Iterator[int]:
    """A server that says 408 on a connection which has been idle, and goes on to use it, as RFC 9110 (15.5.9) has it without the closing."""
    first = threading.Event()

    def serve(there: socket.socket) -> None:
        mine, came = not first.is_set(), b""
        first.set()
        with there:
            for answered in range(1_000):
                while b"\r\n\r\n" not in came:
                    if not (more := there.recv(1 << 16)):
                        return
                    came += more
                head, _, came = came.partition(b"\r\n\r\n")
                start, end = map(int, re.findall(rb"bytes=(\d+)-(\d+)", head)[0])
                told = f'HTTP/1.1 206 P\r\nETag: "v"\r\nContent-Range: bytes {start}-{end}/{len(data)}\r\nContent-Length: {end - start + 1}\r\n\r\n'
                there.sendall(told.encode() + data[start : end + 1])
                if mine and not answered:
                    time.sleep(0.05)
                    there.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]


def test_an_answer_that_was_not_asked_for_shifts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_read, "RANGE_BYTES", 4)
    monkeypatch.setattr(s3_read, "RANGES_AHEAD", 1)
    data = b"AAAABBBBCCCCDDDD"
    with impatient(data) as port:
        store = S3Store(S3Options.parse({**KEYS, "bucket": "b", "endpoint_url": f"http://127.0.0.1:{port}", "addressing_style": "path"}, where="test"))
        got = b""
        with contextlib.closing(store), store.open_read(File("f", len(data), None, "v")) as body:
            while piece := body.read(4):
                got += piece
                time.sleep(0.1)
    assert got == data


@pytest.mark.parametrize("status", [503, 403, 307])
def test_parts_that_are_refused_do_not_all_go_up_twice(s3_options: dict[str, Any], s3_server: embedded.S3, status: int) -> None:
    data = os.urandom(41 * MIB)
    with faults.proxy(s3_server.endpoint_url) as proxy:

        def refuse(exchange: faults.Exchange) -> None:
            is_short = not any(name == "User-Agent" for name, _ in exchange.sent)
            exchange.answer_instead = status if "partNumber=" in exchange.target and is_short else None

        proxy.before = refuse
        store = S3Store(S3Options.parse({**s3_options, "chunk_size_mb": 5, "endpoint_url": proxy.endpoint_url}, where="test"))
        with contextlib.closing(store), store.open_write("file") as writer:
            writer.write(data)
        parts = proxy.count("PUT", "partNumber=")
    assert writer.receipt.bytes == len(data)
    assert 9 < parts <= 9 + 4 + 1  # those that were under way when the first was refused
