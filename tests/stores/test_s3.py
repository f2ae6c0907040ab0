"""What only an object store meets: parts, checksums, lost answers, keys; against a real server, partly through a damaging proxy."""

from __future__ import annotations

import contextlib
import os
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import ConfigurationError, ConnectionFailed, FerryError, IntegrityError, TransferFailed
from engine.options import MIB
from engine.stores import s3_upload
from engine.stores.s3 import S3Options, S3Store
from engine.stores.s3_parts import MOST_PARTS, part_size
from engine.stores.s3_upload import BUDGET_BYTES, SINGLE_REQUEST_BYTES
from tests.effort import slow
from tests.stores import proxy as faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL, LARGE = 1000, 26 * MIB


@pytest.fixture
def make(s3_options: dict[str, Any]) -> Callable[..., S3Store]:
    return lambda **options: S3Store(S3Options.parse({**s3_options, "chunk_size_mb": 5, **options}, where="test"))


@pytest.fixture
def proxy(s3_server: Any) -> Iterator[faults.Proxy]:
    with faults.proxy(s3_server.endpoint_url) as running:
        yield running


@pytest.fixture
def remains(s3_client: Any, bucket: str) -> Callable[[], list[str]]:
    """Keys of objects and of unfinished uploads."""
    return lambda: [
        entry["Key"]
        for kind, answer in (("Contents", s3_client.list_objects_v2(Bucket=bucket)), ("Uploads", s3_client.list_multipart_uploads(Bucket=bucket)))
        for entry in answer.get(kind, [])
    ]


def put(store: S3Store, path: str, data: bytes, **options: Any) -> Any:
    with store.open_write(path, **options) as writer:
        writer.write(data)
    return writer.receipt


# Parts


@pytest.mark.parametrize("chunk", [5 * MIB, 8 * MIB, 16 * MIB, 64 * MIB])
def test_parts_grow_so_that_ten_thousand_hold_half_a_tebibyte(chunk: int) -> None:
    sizes = [part_size(number, chunk) for number in range(1, MOST_PARTS + 1)]
    assert sizes == sorted(sizes)
    assert sizes[0] == chunk
    assert sizes[2000] >= 64 * MIB
    assert max(sizes) <= 5 << 30
    assert sum(sizes) > 512 << 30


def test_the_part_that_is_too_many_names_the_option(make: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch, remains: Callable[[], list[str]]) -> None:
    monkeypatch.setattr(s3_upload, "MOST_PARTS", 6)
    with pytest.raises(TransferFailed, match="--max-file-mb"):
        put(make(), "file", bytes(36 * MIB))
    assert remains() == []


def test_small_objects_go_up_in_one_request_and_large_ones_in_parts(make: Callable[..., S3Store], proxy: faults.Proxy) -> None:
    store = make(endpoint_url=proxy.endpoint_url)
    put(store, "small", bytes(SINGLE_REQUEST_BYTES - 1))
    assert (proxy.count("PUT"), proxy.count("POST")) == (1, 0)
    put(store, "large", bytes(30 * MIB))
    assert (proxy.count("PUT", "partNumber"), proxy.count("POST")) == (6, 2)


def test_finished_small_objects_do_not_pile_up(make: Callable[..., S3Store], remains: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.stores.s3.SINGLE_REQUEST_BYTES", 2500)
    store = make()
    blocks = [store.open_write(name) for name in "abcd"]
    writers = [block.__enter__() for block in blocks]
    for writer in writers:
        writer.write(os.urandom(SMALL))
        writer.finish()
    assert sorted(remains()) == ["c", "d"]  # sent as uploads of one part; a and b wait
    for block in blocks[:3]:
        block.__exit__(None, None, None)
    assert not blocks[3].__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert remains() == ["a", "b", "c"]
    assert store.hold(2500)  # what waited is no longer counted


def test_what_is_finished_keeps_no_more_memory_than_it_needs_until_it_is_published(make: Callable[..., S3Store]) -> None:
    """An export publishes all its files at the end, and there may be thousands."""
    store = make(chunk_size_mb=8)
    data = os.urandom(10_000), os.urandom(33 * MIB)
    with contextlib.ExitStack() as blocks:
        for count, piece in ((100, data[0]), (3, data[1])):
            for number in range(count):
                writer = blocks.enter_context(store.open_write(f"{len(piece)}-{number}"))
                if number == 1:
                    tracemalloc.start()
                writer.write(piece)
                writer.finish()
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            assert held < 4 * MIB, piece


def test_memory_stays_bounded_however_much_is_written(make: Callable[..., S3Store]) -> None:
    data = os.urandom(MIB)
    tracemalloc.start()
    try:
        with make().open_write("file") as writer:
            for _ in range(200):
                writer.write(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert writer.receipt.bytes == 200 * MIB
    assert peak < BUDGET_BYTES + SINGLE_REQUEST_BYTES + 3 * 5 * MIB


def test_a_stuck_part_holds_up_the_writer_and_not_the_memory(make: Callable[..., S3Store], proxy: faults.Proxy) -> None:
    stuck, arrived = threading.Event(), threading.Semaphore(0)

    def hold_the_first_three(exchange: faults.Exchange) -> None:
        if any(f"partNumber={number}&" in exchange.target + "&" for number in (1, 2, 3)):
            stuck.wait(60)
        elif "partNumber" in exchange.target:
            arrived.release()

    proxy.before = hold_the_first_three
    store = make(endpoint_url=proxy.endpoint_url)
    most: list[int] = []

    def write() -> None:
        with store.open_write("file") as writer:
            for _ in range(60):
                writer.write(bytes(MIB))
                most.append(sum(writer._in_flight.values()))

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(5):
        assert arrived.acquire(timeout=60)
    stuck.set()
    thread.join()
    assert store.stat("file").size == 60 * MIB  # type: ignore[union-attr]
    assert max(most) <= 4 * 5 * MIB


# Checksums


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_the_server_confirms_our_checksums(make: Callable[..., S3Store], size: int) -> None:
    receipt = put(make(), "file", os.urandom(size))
    assert receipt.verified == "checksum"
    assert receipt.reported["ChecksumCRC32"]
    assert receipt.reported["ETag"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_checksums_can_be_turned_off(make: Callable[..., S3Store], proxy: faults.Proxy, size: int) -> None:
    receipt = put(make(request_checksums="false", endpoint_url=proxy.endpoint_url), "file", os.urandom(size))
    assert receipt.verified == "size"
    assert "ChecksumCRC32" not in receipt.reported


def test_uploads_announce_the_checksum_that_parts_carry(make: Callable[..., S3Store], s3_client: Any, bucket: str) -> None:
    put(make(), "file", os.urandom(LARGE))
    head = s3_client.head_object(Bucket=bucket, Key="file", ChecksumMode="ENABLED")
    assert head["ChecksumType"] == "COMPOSITE"  # known to the server only if the upload began with it


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_server_that_echoes_nothing_confirms_only_the_size(make: Callable[..., S3Store], proxy: faults.Proxy, size: int) -> None:
    def silence(exchange: faults.Exchange) -> None:
        exchange.headers = [(n, v) for n, v in exchange.headers if "checksum" not in n.lower()]
        if exchange.verb == "POST" and "uploadId" in exchange.target:
            exchange.answer = exchange.answer.replace(b"ChecksumCRC32", b"Nothing")

    proxy.after = silence
    assert put(make(endpoint_url=proxy.endpoint_url), "file", os.urandom(size)).verified == "size"


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_bytes_damaged_on_the_way_are_refused(make: Callable[..., S3Store], proxy: faults.Proxy, remains: Callable[[], list[str]], size: int) -> None:
    def damage(exchange: faults.Exchange) -> None:
        if exchange.verb == "PUT" and exchange.body:
            exchange.body = bytes([exchange.body[0] ^ 1]) + exchange.body[1:]

    proxy.before = damage
    with pytest.raises(IntegrityError, match="other bytes"):
        put(make(endpoint_url=proxy.endpoint_url), "file", os.urandom(size))
    assert remains() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_object_whose_checksum_differs_is_removed(make: Callable[..., S3Store], proxy: faults.Proxy, remains: Callable[[], list[str]], size: int) -> None:
    def lie(exchange: faults.Exchange) -> None:
        if exchange.verb == "PUT" and "partNumber" not in exchange.target:
            exchange.headers = [(n, "AAAAAA==" if n.lower() == "x-amz-checksum-crc32" else v) for n, v in exchange.headers]
        if exchange.verb == "POST" and "uploadId" in exchange.target:
            start = exchange.answer.index(b"<ChecksumCRC32>") + len(b"<ChecksumCRC32>")
            exchange.answer = exchange.answer[:start] + b"AAAAAA==" + exchange.answer[start + 8 :]

    proxy.after = lie
    with pytest.raises(IntegrityError, match=r"checksum .* it was removed"):
        put(make(endpoint_url=proxy.endpoint_url), "file", os.urandom(size))
    assert remains() == []


def test_an_object_that_somebody_else_put_there_meanwhile_stays(make: Callable[..., S3Store], proxy: faults.Proxy) -> None:
    other = make()

    def overtake(exchange: faults.Exchange) -> None:
        if exchange.verb == "PUT":
            put(other, "file", b"another delivery")

    proxy.after = overtake
    receipt = put(make(endpoint_url=proxy.endpoint_url), "file", os.urandom(SMALL))
    assert receipt.bytes == SMALL
    assert other.stat("file").size == len(b"another delivery")  # type: ignore[union-attr]


def test_a_body_that_ends_early_is_an_error(make: Callable[..., S3Store], proxy: faults.Proxy) -> None:
    put(make(), "file", os.urandom(SMALL))

    def cut(exchange: faults.Exchange) -> None:
        if exchange.verb == "GET":
            exchange.promised, exchange.answer = len(exchange.answer), exchange.answer[:-1]

    proxy.after = cut
    store = make(endpoint_url=proxy.endpoint_url)
    with pytest.raises((TransferFailed, IntegrityError)), store.open_read(store.stat("file")) as body:  # type: ignore[arg-type]
        body.read()


# Answers that are lost


@pytest.mark.parametrize("exists", ["replace", slow("fail")])
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("times", [1, 99])
def test_a_publication_whose_answer_is_lost_counts(make: Callable[..., S3Store], proxy: faults.Proxy, size: int, exists: Any, times: int) -> None:
    lost: list[int] = []

    def lose(exchange: faults.Exchange) -> None:
        publishes = (
            exchange.verb == ("PUT" if size == SMALL else "POST") and exchange.target.partition("?")[2] != "uploads" and "partNumber" not in exchange.target
        )
        if publishes and len(lost) < times:
            lost.append(exchange.status)
            exchange.lost = True

    proxy.after = lose
    receipt = put(make(endpoint_url=proxy.endpoint_url), "file", os.urandom(size), exists=exists)
    assert lost[0] == 200
    assert receipt.bytes == size
    assert receipt.verified == "checksum"


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_publication_that_never_happened_fails_and_leaves_nothing(
    make: Callable[..., S3Store], proxy: faults.Proxy, size: int, remains: Callable[[], list[str]]
) -> None:
    def refuse(exchange: faults.Exchange) -> None:
        if exchange.verb in {"PUT", "POST"} and "partNumber" not in exchange.target and not exchange.target.endswith("?uploads"):
            exchange.answer_instead = 503

    proxy.before = refuse
    with pytest.raises(TransferFailed) as failure:
        put(make(endpoint_url=proxy.endpoint_url), "file", os.urandom(size))
    assert failure.value.transient
    assert remains() == []


def test_an_outage_at_publication_says_that_the_outcome_is_unknown(make: Callable[..., S3Store], proxy: faults.Proxy) -> None:
    store = make(endpoint_url=proxy.endpoint_url)
    with pytest.raises(TransferFailed, match="not known whether"), store.open_write("file") as writer:
        writer.write(b"x")
        proxy.before = lambda exchange: setattr(exchange, "answer_instead", 503)


def test_a_part_that_fails_ends_the_upload_before_everything_is_written(
    make: Callable[..., S3Store], proxy: faults.Proxy, remains: Callable[[], list[str]]
) -> None:
    def refuse(exchange: faults.Exchange) -> None:
        if "partNumber=2" in exchange.target:
            exchange.answer_instead = 403

    proxy.before = refuse
    written = 0
    with pytest.raises(FerryError, match="denied"), make(endpoint_url=proxy.endpoint_url).open_write("file") as writer:
        for _ in range(200):
            written += writer.write(bytes(MIB))
    assert written < 100 * MIB
    assert remains() == []


def test_an_upload_that_cannot_be_aborted_is_mentioned(make: Callable[..., S3Store], proxy: faults.Proxy) -> None:
    def refuse(exchange: faults.Exchange) -> None:
        if exchange.verb == "DELETE":
            exchange.answer_instead = 400

    proxy.before = refuse
    store = make(endpoint_url=proxy.endpoint_url)
    with pytest.raises(KeyboardInterrupt), store.open_write("file") as writer:
        writer.write(bytes(LARGE))
        raise KeyboardInterrupt
    assert ["unfinished multipart upload" in note for note in store.notes] == [True]


# Before any byte moves


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bucket": "no-such-bucket"}, "no bucket 'no-such-bucket' at http"),
        ({"aws_secret_access_key": "wrong-secret"}, "does not accept the access key"),
        ({"aws_access_key_id": "unknown-key"}, "does not accept the access key"),
    ],
)
def test_a_wrong_place_or_key_shows_at_opening(make: Callable[..., S3Store], changed: dict[str, str], said: str) -> None:
    store = make(**changed)
    with pytest.raises(ConnectionFailed, match=said) as failure, store.open_write("file"):
        pytest.fail("opened")
    assert "wrong-secret" not in str(failure.value)


def test_a_missing_bucket_is_no_empty_listing(make: Callable[..., S3Store]) -> None:
    with pytest.raises(ConnectionFailed, match="no bucket"):
        list(make(bucket="no-such-bucket").list("*"))


def test_folder_markers_are_no_files(make: Callable[..., S3Store], s3_client: Any, bucket: str) -> None:
    for key in ("in/", "in/below/"):
        s3_client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert list(make(path="in").list("**/*")) == []


@pytest.mark.parametrize("name", ["x" * 1025, "not-utf8-\udcff"])
def test_names_that_are_no_keys_are_refused(make: Callable[..., S3Store], name: str) -> None:
    with pytest.raises(ConfigurationError):
        make().stat(name)


# Options


@pytest.fixture
def bare() -> Callable[..., S3Options]:
    return lambda **given: S3Options.parse({"bucket": "b", **given}, where="destination")


def test_each_missing_value_comes_from_the_environment(bare: Callable[..., S3Options], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_ACCESS_KEY", "key-of-environment")
    monkeypatch.setenv("MINIO_SECRET_KEY", "secret-of-environment")
    monkeypatch.setenv("MINIO_ENDPOINT", "https://minio:9000")
    options = bare(aws_access_key_id="given")
    assert options.aws_access_key_id.get_secret_value() == "given"  # type: ignore[union-attr]
    assert options.aws_secret_access_key.get_secret_value() == "secret-of-environment"  # type: ignore[union-attr]
    assert options.endpoint_url == "https://minio:9000"
    assert "of-environment" not in repr(options) + str(options)
    assert bare(endpoint_url="").endpoint_url == ""


def test_prefix_means_path(bare: Callable[..., S3Options]) -> None:
    assert bare(prefix="/a/b/").path == "a/b"


@pytest.mark.parametrize("given", [{"endpoint_url": "minio:9000"}, {"endpoint_url": "https://ak:sk-secret@minio"}, {"path": "a/../b"}, {"chunk_size_mb": 4}])
def test_options_that_cannot_work_are_refused(bare: Callable[..., S3Options], given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as failure:
        bare(**given)
    assert next(iter(given)) in str(failure.value)
    assert "sk-secret" not in str(failure.value)


def test_unencrypted_traffic_is_noted_or_refused(bare: Callable[..., S3Options], monkeypatch: pytest.MonkeyPatch) -> None:
    assert S3Store(bare(endpoint_url="http://127.0.0.1:9000")).notes == []
    assert S3Store(bare(endpoint_url="https://minio:9000")).notes == []
    assert ["not encrypted" in note for note in S3Store(bare(endpoint_url="http://minio:9000")).notes] == [True]
    with pytest.raises(ConfigurationError, match="require_tls"):
        S3Store(bare(endpoint_url="http://minio:9000", require_tls=True))
    monkeypatch.setenv("FERRY_REQUIRE_TLS", "1")
    with pytest.raises(ConfigurationError, match="require_tls"):
        S3Store(bare(endpoint_url="http://minio:9000", require_tls=False))
