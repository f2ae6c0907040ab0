"""Arithmetic and memory of multipart uploads."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from engine.errors import ConfigurationError
from engine.options import MIB
from engine.stores.s3 import S3Options, S3Store
from engine.stores.s3_upload import MOST_PARTS, largest_object, part_size


@pytest.mark.parametrize("chunk_mb", [5, 8, 16, 64])
def test_parts_grow_so_that_ten_thousand_hold_half_a_tebibyte(chunk_mb: int) -> None:
    sizes = [part_size(number, chunk_mb * MIB) for number in range(1, MOST_PARTS + 1)]
    assert sizes == sorted(sizes)
    assert sizes[0] == chunk_mb * MIB
    assert sum(sizes) == largest_object(chunk_mb * MIB) > 512 * 1024 * MIB
    assert max(sizes) <= 5 * 1024 * MIB


def test_an_upload_holds_a_few_parts_only(s3_options: dict[str, Any]) -> None:
    store = S3Store(S3Options.parse(s3_options, where="test"))
    block = bytes(MIB)
    tracemalloc.start()
    try:
        with store.open_write("large") as writer:
            for _ in range(300):
                writer.write(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert writer.receipt.bytes == 300 * MIB
    assert writer.receipt.verified == "checksum"
    assert peak < 96 * MIB


def test_checksums_can_be_turned_off(s3_options: dict[str, Any]) -> None:
    store = S3Store(S3Options.parse({**s3_options, "request_checksums": "false"}, where="test"))
    with store.open_write("x") as writer:
        writer.write(b"x" * (26 * MIB))
    assert writer.receipt.verified == "size"


def test_http_beyond_loopback_is_noted_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    far = {"bucket": "b", "endpoint_url": "http://minio.example:9000"}
    notes = S3Store(S3Options.parse(far, where="test")).notes
    assert notes == ["the connection to http://minio.example:9000 is not encrypted"]
    monkeypatch.setenv("FERRY_REQUIRE_TLS", "1")
    with pytest.raises(ConfigurationError, match="use https"):
        S3Store(S3Options.parse(far, where="test"))
    assert S3Store(S3Options.parse({**far, "endpoint_url": "http://127.0.0.1:9000"}, where="test")).notes == []


def test_the_environment_fills_each_missing_value_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_ACCESS_KEY", "from-environment")
    monkeypatch.setenv("MINIO_SECRET_KEY", "canary")
    monkeypatch.setenv("MINIO_ENDPOINT", "http://127.0.0.1:9000")
    options = S3Options.parse({"bucket": "b", "prefix": "/processed/", "aws_access_key_id": "given"}, where="test")
    assert options.aws_access_key_id is not None
    assert options.aws_access_key_id.get_secret_value() == "given"
    assert options.path == "processed"
    assert options.endpoint_url == "http://127.0.0.1:9000"
    assert "canary" not in repr(options)
    assert "given" not in repr(options)
    assert S3Options.parse({"bucket": "b", "endpoint_url": ""}, where="test").endpoint_url == ""
