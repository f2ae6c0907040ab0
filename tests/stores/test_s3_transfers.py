"""What transfers ask of S3: copies by the server, ranges ahead, reading back, few requests."""

from __future__ import annotations

import hashlib
import io
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import CredentialRetrievalError

from engine.errors import ConfigurationError, ConnectionFailed, FerryError, FileChanged, IntegrityError
from engine.options import MIB
from engine.routes.transfer import transfer
from engine.routes.transfer_plan import Orders
from engine.stores import s3, s3_connection, s3_copy, s3_read, s3_requests
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.s3 import S3Options, S3Store
from engine.stores.s3_requests import ObjectRequests
from tests.certificates import server_context
from tests.stores import proxy as faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine import embedded


@pytest.fixture
def stores(s3_options: dict[str, Any]) -> tuple[S3Store, S3Store]:
    """Two folders of one bucket."""
    return of(s3_options, path="in"), of(s3_options, path="out")


@pytest.fixture
def proxy(s3_server: embedded.S3) -> Iterator[faults.Proxy]:
    with faults.proxy(s3_server.endpoint_url) as running:
        yield running


def of(options: dict[str, Any], **more: Any) -> S3Store:
    return S3Store(S3Options.parse({"chunk_size_mb": 5, **options, **more}, where="test"))


def put(store: S3Store, path: str, data: bytes, **options: Any) -> Any:
    with store.open_write(path, **options) as writer:
        writer.write(data)
    return writer.receipt


def get(store: S3Store, path: str) -> bytes:
    file = store.stat(path)
    assert file is not None
    with store.open_read(file) as body:
        return b"".join(iter(lambda: body.read(1 << 20), b""))


@pytest.mark.parametrize("checksums", [True, False])
def test_files_go_to_and_from_a_server_that_speaks_tls(
    s3_options: dict[str, Any], s3_server: embedded.S3, tmp_path: Path, checksums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the short way, which is what makes many files fast; TLS has a way of its own to wait and to send there."""
    context = server_context(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    refused: list[tuple[Any, ...]] = []
    ask = ObjectRequests.ask

    def watched(self: ObjectRequests, *asked: Any, **more: Any) -> Any:
        answer = ask(self, *asked, **more)
        refused.extend([asked] if answer is None else [])
        return answer

    monkeypatch.setattr(ObjectRequests, "ask", watched)
    files = {"small": os.urandom(20_000), "large": os.urandom(26 * MIB + 7), "empty": b""}
    with faults.proxy(s3_server.endpoint_url, context) as proxy:
        far = {"endpoint_url": proxy.endpoint_url, "request_checksums": checksums}
        for name, data in files.items():
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        up = transfer(LocalStore(FolderOptions(path=str(tmp_path / "in"))), of(s3_options, path="there", **far), Orders())
        down = transfer(of(s3_options, path="there", **far), LocalStore(FolderOptions(path=str(tmp_path / "out"))), Orders())
    assert {file.state for file in (*up.files, *down.files)} == {"written"}
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
    assert refused == []


def test_a_server_whose_certificate_is_not_trusted_is_not_spoken_to(s3_options: dict[str, Any], s3_server: embedded.S3, tmp_path: Path) -> None:
    with faults.proxy(s3_server.endpoint_url, server_context(tmp_path)) as proxy, pytest.raises(ConnectionFailed, match="SSLError"):
        put(of(s3_options, endpoint_url=proxy.endpoint_url), "file", b"x")
    assert proxy.seen == []


@pytest.mark.parametrize("short_way", [True, False])
@pytest.mark.parametrize("level", [None, "read-back"])
def test_the_server_copies_its_own_objects(stores: Any, level: Any, short_way: bool, monkeypatch: pytest.MonkeyPatch, s3_client: Any, bucket: str) -> None:
    source, destination = stores
    data = os.urandom(1_000_001)
    put(source, "file +%", data)
    if not short_way:
        monkeypatch.setattr(ObjectRequests, "ask", lambda *_, **__: None)
    result = transfer(source, destination, Orders(verify=level))
    assert get(destination, "file +%") == data
    (file,) = result.files
    assert (file.state, file.bytes) == ("written", len(data))
    assert (file.sha256, file.verified) == ((hashlib.sha256(data).hexdigest(), "read-back") if level == "read-back" else (None, "checksum"))
    assert s3_client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert transfer(source, destination, Orders(delete_source=True)).files[0].state == "replaced"
    assert source.stat("file +%") is None


def test_what_the_server_cannot_vouch_for_is_compared_when_asked(stores: Any) -> None:
    source, destination = stores
    data = os.urandom(26 * MIB)  # uploaded in parts: its ETag is no MD5 of the whole
    put(source, "file", data)
    assert transfer(source, destination, Orders()).files[0].verified in {"size", "checksum"}
    (file,) = transfer(source, destination, Orders(verify="checksum")).files
    assert file.verified in {"checksum", "read-back"}
    if file.verified == "read-back":
        assert file.sha256 == hashlib.sha256(data).hexdigest()


def test_large_objects_are_copied_in_parts(stores: Any, monkeypatch: pytest.MonkeyPatch, s3_client: Any, bucket: str) -> None:
    monkeypatch.setattr(s3_copy, "PART_BYTES", 5 * MIB)
    source, destination = stores
    data = os.urandom(17 * MIB + 3)
    s3_client.put_object(Bucket=bucket, Key="in/file", Body=data, ContentType="text/csv", Metadata={"study": "one"})
    (file,) = transfer(source, destination, Orders()).files
    assert (file.state, file.sha256, file.verified) == ("written", None, "size")
    assert get(destination, "file") == data
    head = s3_client.head_object(Bucket=bucket, Key="out/file")
    assert (head["ContentType"], head["Metadata"]["study"]) == ("text/csv", "one")


@pytest.mark.parametrize("part", [5 * MIB, 12 * MIB])
def test_a_copy_that_fails_leaves_nothing(stores: Any, part: int, monkeypatch: pytest.MonkeyPatch, s3_client: Any, bucket: str) -> None:
    monkeypatch.setattr(s3_copy, "PART_BYTES", part)
    source, destination = stores
    put(source, "file", os.urandom(11 * MIB))
    listed = source.stat("file")
    put(source, "file", os.urandom(11 * MIB))
    told: list[str] = []
    with pytest.raises(FileChanged), destination.open_write("file", on_begin=told.append) as writer:
        assert writer.copy_from(source, listed, lambda _: None)
    assert destination.stat("file") is None
    assert s3_client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_other_keys_another_server_or_a_condition_are_not_copied_by_the_server(s3_options: dict[str, Any], s3_server: embedded.S3) -> None:
    source = of(s3_options, path="in")
    put(source, "file", b"x")
    listed = source.stat("file")
    assert listed is not None
    elsewhere = {**s3_options, "path": "out", "endpoint_url": s3_server.endpoint_url.replace("127.0.0.1", "localhost")}
    cases: tuple[tuple[dict[str, Any], Any], ...] = (
        ({**s3_options, "path": "out", "region": "eu-1"}, {}),
        (elsewhere, {}),
        ({**s3_options, "path": "out"}, {"exists": "fail"}),
    )
    for options, more in cases:
        with of(options).open_write("file", **more) as writer:
            assert not writer.copy_from(source, listed, lambda _: None)
            writer.write(b"x")
        of(s3_options, path="out").delete(of(s3_options, path="out").stat("file"))  # type: ignore[arg-type]


def test_ranges_come_ahead_and_in_order(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_read, "RANGE_BYTES", 1 * MIB)
    source, _ = stores
    data = os.urandom(10 * MIB + 7)
    put(source, "file", data)
    assert get(source, "file") == data
    file = source.stat("file")
    with source.open_read(file, 3, 5 * MIB) as body:
        assert b"".join(iter(lambda: body.read(77_777), b"")) == data[3 : 3 + 5 * MIB]
    with source.open_read(file) as body:
        assert body.read(10) == data[:10]  # leaving early ends the rest


def test_ranges_that_break_off_are_asked_for_again(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_read, "RANGE_BYTES", 1 * MIB)
    source, _ = stores
    data = os.urandom(4 * MIB)
    put(source, "file", data)
    true, broken = s3_read.ObjectReader._ask_boto, set()

    def breaking(reader: s3_read.ObjectReader, start: int, length: int) -> bytes:
        found = true(reader, start, length)
        if start in broken:
            return found
        broken.add(start)
        return found[:-1]

    monkeypatch.setattr(ObjectRequests, "ask", lambda *_, **__: None)
    monkeypatch.setattr(s3_read.ObjectReader, "_ask_boto", breaking)
    assert get(source, "file") == data
    monkeypatch.setattr(s3_read.ObjectReader, "_ask_boto", lambda *_: b"short")
    with pytest.raises(IntegrityError, match="early"):
        get(source, "file")


@pytest.mark.parametrize("conditional", [True, False])
def test_another_version_in_the_middle_is_an_error(stores: Any, monkeypatch: pytest.MonkeyPatch, conditional: bool) -> None:
    """Also where the server takes no notice of `If-Match`."""
    monkeypatch.setattr(s3_read, "RANGE_BYTES", 1 * MIB)
    monkeypatch.setattr(s3_read, "RANGES_AHEAD", 1)
    ask = ObjectRequests.ask

    def asking(self: ObjectRequests, verb: str, key: str, headers: dict[str, str], *more: Any, **options: Any) -> Any:
        return ask(self, verb, key, {name: value for name, value in headers.items() if conditional or name != "if-match"}, *more, **options)

    monkeypatch.setattr(ObjectRequests, "ask", asking)
    source, _ = stores
    put(source, "file", os.urandom(6 * MIB))
    with pytest.raises(FileChanged), source.open_read(source.stat("file")) as body:
        body.read(10)
        put(source, "file", os.urandom(6 * MIB))
        while body.read(1 << 20):
            pass


def test_an_object_that_was_written_anew_with_the_same_bytes_is_not_deleted_as_the_old_one(stores: Any) -> None:
    source, _ = stores
    put(source, "file", b"x")
    listed = source.stat("file")
    time.sleep(1.1)  # servers tell seconds
    put(source, "file", b"x")
    with pytest.raises(FileChanged):
        source.delete(listed)
    assert get(source, "file") == b"x"


@pytest.mark.parametrize("size", [10, 26 * MIB])
@pytest.mark.parametrize("checksums", [True, False])
def test_what_was_sent_is_read_back_when_asked(s3_options: dict[str, Any], size: int, checksums: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    store = of(s3_options, request_checksums=checksums)
    data = os.urandom(size)
    receipt = put(store, "file", data, verify="read-back")
    assert (receipt.verified, receipt.sha256) == ("read-back", hashlib.sha256(data).hexdigest())
    assert put(store, "file", data, verify="checksum").verified in {"checksum", "read-back"}
    monkeypatch.setattr(s3_read.ObjectReader, "body", lambda _: io.BytesIO(b"other"))
    with pytest.raises(FerryError, match=r"other bytes were read back.*it was removed"):
        put(store, "file", data, verify="read-back")
    monkeypatch.undo()
    assert store.stat("file") is None


def test_a_small_file_costs_one_request_when_it_is_known_what_stands(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    true = ObjectRequests.ask

    def ask(requests: ObjectRequests, method: str, *arguments: Any, **more: Any) -> Any:
        asked.append(method)
        return true(requests, method, *arguments, **more)

    _, destination = stores
    put(destination, "first", b"x")  # the bucket is known to be there
    destination.client.meta.events.register("before-send.s3.*", lambda request, **_: asked.append(f"boto {request.method}"))
    monkeypatch.setattr(ObjectRequests, "ask", ask)
    assert put(destination, "file", b"x" * 20_000, standing=False).verified == "checksum"
    assert asked == ["PUT"]
    assert put(destination, "file", b"x" * 20_000, standing=True).replaced
    assert asked == ["PUT", "PUT"]
    listed = destination.stat("file")
    with destination.open_read(listed) as body:
        body.read()
    assert asked == ["PUT", "PUT", "HEAD", "GET"]


def test_many_files_are_looked_for_at_their_target_by_one_listing(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = stores
    for number in range(25):
        put(source, f"{number:02d}", b"x")
    put(destination, "07", b"before")
    monkeypatch.setattr(S3Store, "_standing", lambda *_: pytest.fail("asked for a single one"))
    result = transfer(source, destination, Orders())
    assert [file.state for file in result.files] == ["replaced" if number == 7 else "written" for number in range(25)]
    assert {file.state for file in transfer(source, destination, Orders(exists="skip")).files} == {"skipped"}


@pytest.mark.parametrize("after", [b"now there is something", None])
def test_an_empty_object_that_has_changed_or_is_gone_is_noticed(stores: Any, after: bytes | None) -> None:
    source, destination = stores
    put(source, "file", b"")
    listed = source.stat("file")
    assert transfer(source, destination, Orders()).files[0].state == "written"
    if after is None:
        source.delete(listed)
    else:
        put(source, "file", after)
    with pytest.raises(FileChanged), source.open_read(listed) as body:
        body.read()


@pytest.mark.parametrize("size", [10, 12 * MIB])
def test_a_copy_with_other_bytes_than_its_source_is_removed(stores: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_copy, "PART_BYTES", 5 * MIB)
    source, destination = stores
    put(source, "file", os.urandom(size))
    monkeypatch.setattr(s3_copy.ServerCopy, "read_source", lambda _: "of other bytes")
    with pytest.raises(IntegrityError, match=r"other bytes than its source; it was removed"), destination.open_write("file", verify="read-back") as writer:
        assert writer.copy_from(source, source.stat("file"), lambda _: None)
    assert destination.stat("file") is None
    assert source.stat("file") is not None


def test_a_copy_in_parts_whose_answer_is_lost_counts(s3_options: dict[str, Any], proxy: faults.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_copy, "PART_BYTES", 5 * MIB)
    source, destination = (of(s3_options, path=path, endpoint_url=proxy.endpoint_url) for path in ("in", "out"))
    data = os.urandom(12 * MIB)
    put(source, "file", data)

    def lose(exchange: faults.Exchange) -> None:
        exchange.lost = exchange.verb == "POST" and "uploadId" in exchange.target and "/out/" in exchange.target

    proxy.after = lose
    with destination.open_write("file") as writer:
        assert writer.copy_from(source, source.stat("file"), lambda _: None)  # type: ignore[arg-type]
    assert get(destination, "file") == data
    assert (writer.receipt.bytes, writer.receipt.sha256) == (len(data), None)


@pytest.mark.parametrize("size", [10, 26 * MIB])
def test_another_object_than_the_published_one_is_no_proof_and_stays(s3_options: dict[str, Any], proxy: faults.Proxy, size: int) -> None:
    other = of(s3_options)

    def overtake(exchange: faults.Exchange) -> None:
        publishes = exchange.verb == "PUT" and "partNumber" not in exchange.target
        if publishes or (exchange.verb == "POST" and "uploadId" in exchange.target):
            put(other, "file", b"another delivery")

    proxy.after = overtake
    with pytest.raises(IntegrityError, match=r"cannot be read back; what stands there now is not ours, and stays"):
        put(of(s3_options, endpoint_url=proxy.endpoint_url), "file", os.urandom(size), verify="read-back")
    assert get(other, "file") == b"another delivery"


def test_a_server_by_another_name_is_the_same_place(s3_options: dict[str, Any], s3_server: embedded.S3) -> None:
    mine = of(s3_options, path="in")
    alias = of({**s3_options, "path": "in", "endpoint_url": s3_server.endpoint_url.replace("127.0.0.1", "LocalHost") + "/"})
    assert mine.identity("file") == alias.identity("file")
    assert mine.identity("file") != of(s3_options, path="out").identity("file")
    put(mine, "file", b"x")
    with pytest.raises(ConfigurationError, match="written over itself"):
        transfer(mine, alias, Orders(delete_source=True))
    assert get(mine, "file") == b"x"


@pytest.mark.parametrize("size", [0, 5, 26 * MIB])
@pytest.mark.parametrize("address", ["http://localhost:{port}", "http://127.0.0.1:{port}/"])
def test_an_object_is_not_moved_onto_itself_by_another_address_of_the_server(s3_options: dict[str, Any], size: int, address: str) -> None:
    source = of(s3_options)
    put(source, "file", bytes(size))
    port = s3_options["endpoint_url"].rpartition(":")[2]
    target = of({**s3_options, "endpoint_url": address.format(port=port)})
    with pytest.raises(FerryError, match=r"its own source|over itself"):
        transfer(source, target, Orders(delete_source=True))
    assert get(source, "file") == bytes(size)


@pytest.mark.parametrize("short_way", [True, False])
@pytest.mark.parametrize("always", [True, False])
def test_a_copy_that_takes_longer_than_any_other_request_is_waited_for_and_looked_up(
    s3_options: dict[str, Any], proxy: faults.Proxy, always: bool, short_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = s3_connection.connect
    monkeypatch.setattr(s3_requests, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(s3_copy, "COPY_SECONDS", 0.3 if always else 20)
    monkeypatch.setattr(s3, "COPY_SECONDS", 0.3 if always else 20)
    monkeypatch.setattr(
        s3_connection, "connect", lambda options, answer_seconds=0.2, attempts=2: true(options, answer_seconds=answer_seconds, attempts=attempts)
    )
    if not short_way:
        monkeypatch.setattr(ObjectRequests, "ask", lambda *_, **__: None)
    put(of(s3_options, path="in"), "file", b"the content")
    source, destination = (of(s3_options, path=path, endpoint_url=proxy.endpoint_url) for path in ("in", "out"))
    copies: list[str] = []

    def dawdle(exchange: faults.Exchange) -> None:
        if exchange.verb == "PUT" and "/out/" in exchange.target:
            copies.append(exchange.target)
            time.sleep(0.6)

    proxy.after = dawdle
    (file,) = transfer(source, destination, Orders()).files
    assert (file.state, file.verified) == ("written", "checksum")
    assert len(copies) == ((3 if short_way else 2) if always else 1)
    assert get(of(s3_options, path="out"), "file") == b"the content"


def test_what_stands_there_with_other_bytes_is_no_copy_whose_answer_was_lost(s3_options: dict[str, Any], proxy: faults.Proxy) -> None:
    source, destination = (of(s3_options, path=path, endpoint_url=proxy.endpoint_url) for path in ("in", "out"))
    put(source, "file", b"the content")
    put(destination, "file", b"of old days")

    def refuse(exchange: faults.Exchange) -> None:
        exchange.answer_instead = 503 if exchange.verb == "PUT" and "/out/" in exchange.target else None

    proxy.before = refuse
    with pytest.raises(FerryError, match="cannot copy") as caught, destination.open_write("file") as writer:
        assert writer.copy_from(source, source.stat("file"), lambda _: None)  # type: ignore[arg-type]
    assert caught.value.transient


@pytest.mark.parametrize("copied", [True, False])
def test_an_upload_is_noted_before_it_begins(stores: Any, copied: bool, monkeypatch: pytest.MonkeyPatch, s3_client: Any, bucket: str) -> None:
    """A kill between the server's answer and the note of it would leave an upload that nobody looks for."""
    monkeypatch.setattr(s3_copy, "PART_BYTES", 5 * MIB)
    source, destination = stores
    put(source, "file", os.urandom(6 * MIB))
    destination.hold(25 * MIB)  # others wait for their publication: this one goes up in parts, however small it is
    told: list[tuple[str, int]] = []

    def begun(leftover: str) -> None:
        told.append((leftover, len(s3_client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))))

    with destination.open_write("file", on_begin=begun) as writer:
        if copied:
            assert writer.copy_from(source, source.stat("file"), lambda _: None)
        else:
            writer.write(b"x")
    assert [(bool(leftover), uploads) for leftover, uploads in told] == [(False, 0), (True, 1)]


def test_a_name_that_is_no_bucket_is_one_clear_error(s3_options: dict[str, Any]) -> None:
    store = of(s3_options, bucket="my bucket")
    with pytest.raises(ConfigurationError, match="malformed"):
        store.stat("x")
    with pytest.raises(ConfigurationError, match="malformed"):
        list(store.list("*"))


def test_keys_that_cannot_be_renewed_are_one_clear_error(s3_options: dict[str, Any]) -> None:
    class Expired:
        def get_frozen_credentials(self) -> None:
            raise CredentialRetrievalError(provider="x", error_msg="SECRET")

    store = of(s3_options)
    assert store.requests._usable
    store.requests._credentials = Expired()
    store.client._request_signer._credentials = Expired()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionFailed) as caught:
        store.stat("x")
    assert "SECRET" not in str(caught.value)


def test_a_wrong_key_is_named_of_a_source_too(s3_options: dict[str, Any]) -> None:
    with pytest.raises(ConnectionFailed, match=r"does not accept the access key \(SignatureDoesNotMatch\)"):
        of({**s3_options, "aws_secret_access_key": "wrong"}).stat("x")
