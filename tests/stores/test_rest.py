"""Files as bodies of requests, to an endpoint that misbehaves on purpose."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import io
import resource
import ssl
import time
import traceback
import tracemalloc
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote

import pytest

from engine.errors import (
    ConfigurationError,
    ConnectionFailed,
    FerryError,
    FileChanged,
    IntegrityError,
    LeaseLost,
    OutcomeUnknown,
    ProcessingError,
    ResourceError,
    TransferFailed,
)
from engine.stores import rest
from engine.stores.rest import RestDestination, RestOptions
from engine.stores.rest_body import FileBody, Frame
from engine.stores.rest_connection import ANSWER_TIMEOUTS
from engine.stores.spool import Spooled, spool_folder
from tests.certificates import certificate, server_context
from tests.stores.rest_server import Endpoint, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MULTIPART = [True, False]
SECRET = "s3cr3t-canary"


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint() as state:
        yield state


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "PAUSE_SECONDS", 0)


def destination(server: Endpoint, **more: Any) -> RestDestination:
    return RestDestination(RestOptions.parse({"url": f"{server.url}/upload", **more}, where="test"))


class Source:
    """Opens a body, counted; may fail while it is read or when it ends."""

    def __init__(self, data: bytes, *, failure: Exception | None = None, at_end: Exception | None = None) -> None:
        self.opened = 0
        self._data, self._failure, self._at_end = data, failure, at_end

    @contextlib.contextmanager
    def __call__(self) -> Iterator[BinaryIO]:
        self.opened += 1
        yield io.BytesIO(self._data)
        if self._at_end is not None:
            raise self._at_end


def send(to: RestDestination, data: bytes | Source, path: str = "a/labs.csv", *, size: int | None = None, on_commit: Callable[[], None] = lambda: None) -> Any:
    source = data if isinstance(data, Source) else Source(data)
    return to.send(path, source, len(source._data) if size is None else size, key="key-of-the-file", on_commit=on_commit)


@pytest.mark.parametrize("multipart", MULTIPART)
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("method", ["POST", "put", "PATCH"])
def test_a_file_arrives_as_it_is(server: Endpoint, method: str, size: int, multipart: bool) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    receipt = send(destination(server, method=method, use_multipart=multipart), data)
    (taken,) = server.taken
    assert (taken.method, taken.target, taken.headers["idempotency-key"]) == (method.upper(), "/upload", "key-of-the-file")
    assert "transfer-encoding" not in taken.headers
    if multipart:
        assert taken.parts == {"file": ("labs.csv", "application/octet-stream", data)}
    else:
        assert (taken.body, taken.headers["content-type"]) == (data, "application/octet-stream")
    assert (receipt.bytes, receipt.sha256, receipt.verified, receipt.reported) == (size, hashlib.sha256(data).hexdigest(), "accepted", {"status": "201"})


def test_the_specifications_example(server: Endpoint) -> None:
    config = {
        "url": f"{server.url}/upload",
        "method": "POST",
        "auth_type": "bearer_token",
        "token": "bearer-token-here",
        "file_field_name": "file",
        "additional_fields": {"projectName": "PROJ1", "subdirectory": "incoming"},
        "use_multipart": True,
        "content_type": "application/octet-stream",
        "headers": {"X-Custom-Header": "value"},
    }
    send(RestDestination(RestOptions.parse(config, where="test")), b"content")
    (taken,) = server.taken
    assert taken.headers["authorization"] == "Bearer bearer-token-here"
    assert taken.headers["x-custom-header"] == "value"
    assert list(taken.parts) == ["projectName", "subdirectory", "file"]
    assert taken.parts["projectName"][2] == b"PROJ1"
    assert taken.parts["file"] == ("labs.csv", "application/octet-stream", b"content")


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ({"auth_type": "none"}, "authorization", None),
        ({"auth_type": "bearer_token", "token": SECRET}, "authorization", f"Bearer {SECRET}"),
        ({"auth_type": "api_key", "api_key": SECRET}, "x-api-key", SECRET),
        ({"auth_type": "api_key", "api_key": SECRET, "api_key_header": "Ocp-Key"}, "ocp-key", SECRET),
        ({"auth_type": "basic", "username": "jürgen", "password": SECRET}, "authorization", "Basic " + base64.b64encode(f"jürgen:{SECRET}".encode()).decode()),
    ],
)
def test_who_we_are(server: Endpoint, options: dict[str, Any], header: str, value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login netrc password netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    send(destination(server, **options), b"x")
    assert server.taken[0].headers.get(header) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auth_type": "bearer_token"}, "needs 'token'"),
        ({"auth_type": "basic", "username": "u"}, "needs 'username' and 'password'|needs 'password'"),
        ({"token": SECRET}, "'token' is given, and 'auth_type' none"),
        ({"method": "GET"}, "'method'"),
        ({"url": "ftp://host/x"}, "'url' should be a URL"),
        ({"url": f"https://user:{SECRET}@host/x"}, "'url' holds a user name"),
        ({"url": "https://host/x\r\ny"}, "'url'"),
        ({"headers": {"X-A": f"{SECRET}\r\nX-B: c"}}, "control characters"),
        ({"headers": {"X A": SECRET}}, "'X A'"),
        ({"headers": {"Content-Length": "3"}}, "'Content-Length' is set by ferry"),
        ({"api_key_header": "a:b"}, "no name of a header"),
        ({"api_key_header": "Content-Length"}, "'api_key_header' is set by ferry"),
        ({"headers": {"X-A": f" {SECRET}"}}, "the value of 'X-A'"),
        ({"headers": {"X-A": f"患{SECRET}"}}, "more than ASCII"),
        ({"auth_type": "bearer_token", "token": f"{SECRET}\n"}, "'token' holds control characters"),
        ({"auth_type": "bearer_token", "token": f"é{SECRET}"}, "'token' holds what no header can"),
        ({"auth_type": "bearer_token", "token": SECRET, "headers": {"authorization": SECRET}}, "is set by 'auth_type' bearer_token"),
        ({"auth_type": "api_key", "api_key": f"{SECRET}\r\nX: y"}, "'api_key' holds control characters"),
        ({"content_type": "a/b\r\nX-Evil: 1"}, "'content_type' holds control characters"),
        ({"additional_fields": {"a": "\udcff"}}, "is not UTF-8"),
        ({"url": "https://{name}.example.org/x"}, "'url' holds {name} in its host"),
        ({"url": "https://a b/x"}, "'url' should be a URL"),
        ({"url": "https://.x/x"}, "'url' should be a URL"),
        ({"timeout": 0}, "'timeout'"),
        ({"ca_bundle": "/nowhere"}, "'ca_bundle' is no file"),
        ({"use_multipart": False, "additional_fields": {"study": SECRET}}, "'additional_fields' is given, and without 'use_multipart'"),
        ({"use_multipart": False, "file_field_name": "upload"}, "'file_field_name' is given, and without 'use_multipart'"),
        ({"tokn": SECRET}, "did you mean 'token'"),
    ],
)
def test_wrong_options_are_named_and_secrets_are_not(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        RestOptions.parse({"url": "https://host/upload", **options}, where="destination")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "did you mean" in words or str(caught.value).startswith("destination: ")


def test_a_form_that_says_nothing_may_be_switched_off() -> None:
    said = {"use_multipart": False, "file_field_name": "file", "additional_fields": {}}  # as an override of a connector leaves it
    assert not RestOptions.parse({"url": "https://host/upload", **said}, where="destination").use_multipart


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("multipart", MULTIPART)
@pytest.mark.parametrize("failure", [(503, {}), (500, {}), (408, {}), (429, {"Retry-After": "0"}), "reset"])
def test_what_may_pass_is_tried_again_from_the_beginning(server: Endpoint, failure: Any, multipart: bool, method: str) -> None:
    server.answers = [failure, failure]
    source = Source(b"x" * (30_000_000 if failure == "reset" else 3_000_000))  # more than the buffers of a connection take
    send(destination(server, use_multipart=multipart, method=method), source)
    assert (len(server.begun), len(server.taken), source.opened) == (3, 1, 3)
    assert server.taken[0].length >= 3_000_000


def test_there_are_at_most_three_requests(server: Endpoint) -> None:
    server.answers = [(503, {})] * 5
    with pytest.raises(TransferFailed, match=r"POST to http://127.0.0.1:\d+/upload: the server answered 503 \(text/plain, 20 bytes\)") as caught:
        send(destination(server), b"x")
    assert len(server.begun) == 3
    assert caught.value.transient
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_other_refusals_are_final(server: Endpoint, status: int) -> None:
    server.answers = [(status, {})]
    with pytest.raises(TransferFailed, match=f"answered {status}"):
        send(destination(server), b"x")
    assert len(server.begun) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_says_where_to_look(server: Endpoint, status: int) -> None:
    server.answers = [(status, {})]
    with pytest.raises(ConnectionFailed, match="look at auth_type") as caught:
        send(destination(server, auth_type="bearer_token", token=SECRET), b"x")
    assert len(server.begun) == 1
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: Endpoint, status: int) -> None:
    server.answers = [(status, {"Location": f"{server.url}/elsewhere"})]
    with pytest.raises(TransferFailed, match="redirects are not followed"):
        send(destination(server), b"x")
    assert server.begun == ["POST"]
    assert server.taken == []


@pytest.mark.parametrize("status", [413, 401])
def test_an_answer_before_the_body_counts(server: Endpoint, status: int) -> None:
    server.answers = [(status, {}, "early")] * 3
    with pytest.raises(FerryError, match=f"answered {status}"):
        send(destination(server), b"x" * 20_000_000)
    assert (server.taken, len(server.begun)) == ([], 1)


def test_an_answer_of_a_server_that_reads_no_more_counts(server: Endpoint) -> None:
    server.answers = [(413, {}, "deaf")]
    with pytest.raises(TransferFailed, match="answered 413"):
        send(destination(server, timeout=1), b"x" * 30_000_000)
    assert len(server.begun) == 1


@pytest.mark.parametrize("tail", [b"", b"tail"])
@pytest.mark.parametrize("size", [0, 1, 1 << 20, 3_000_000])
def test_a_body_is_complete_with_its_last_byte_only(size: int, tail: bytes) -> None:
    committed: list[int] = []
    body = FileBody(Source(b"x" * size), size, lambda: committed.append(body.len), "x", Frame("a/b", b"head", tail))
    total, got = body.len, b""
    assert total == 4 + size + len(tail)
    while len(got) < total:
        assert not body.is_complete
        got += body.read(min(100_000, total - len(got) - 1) or 1)
    assert body.is_complete
    assert got == b"head" + b"x" * size + tail
    assert len(committed) == 1
    assert committed[0] >= min(size, 1) + len(tail)


@pytest.mark.parametrize("multipart", MULTIPART)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_empty_file_that_reached_nobody_was_not_taken(server: Endpoint, method: str, multipart: bool) -> None:
    with pytest.raises(ConnectionFailed, match="cannot reach") as caught:
        send(destination(server, url="http://127.0.0.1:9/upload", method=method, use_multipart=multipart), b"")
    assert caught.value.transient


@pytest.mark.parametrize("answers", [["lost", "lost", "lost"], ["lost", (503, {}), (503, {})], [(503, {}), "lost", (400, {})]])
@pytest.mark.parametrize("size", [0, 10])
def test_a_repeated_file_whose_answer_stays_lost_is_unknown(server: Endpoint, answers: list[Any], size: int) -> None:
    server.answers = list(answers)
    with pytest.raises(OutcomeUnknown) as caught:
        send(destination(server, method="PUT", use_multipart=False), b"x" * size)
    assert (len(server.begun), caught.value.transient) == (3, False)
    assert {taken.headers["idempotency-key"] for taken in server.taken} == {"key-of-the-file"}


@pytest.mark.parametrize(
    ("value", "pauses"), [("7", (7.0, 7.0)), ("date", (3.0, 6.0)), ("100000", (60.0, 60.0)), ("nonsense", (0.0, 0.0)), ("²", (0.0, 0.0)), ("-5", (0.0, 0.0))]
)
def test_retry_after_is_obeyed(server: Endpoint, value: str, pauses: tuple[float, float]) -> None:
    told: list[float] = []
    date = format_datetime(dt.datetime.fromtimestamp(time.time() + 6, dt.UTC), usegmt=True)
    server.answers = [(429, {"Retry-After": date if value == "date" else value})]
    destination(server).send("x", Source(b"x"), 1, key="k", on_commit=lambda: None, pause=told.append)
    assert len(told) == 1
    assert pauses[0] <= told[0] <= pauses[1]


@pytest.mark.parametrize("multipart", MULTIPART)
def test_a_pause_that_is_not_wanted_any_more_ends_the_delivery(server: Endpoint, multipart: bool) -> None:
    def refuse(seconds: float) -> None:
        raise LeaseLost(f"no {seconds}")

    server.answers = [(503, {})]
    with pytest.raises(LeaseLost):
        destination(server, use_multipart=multipart).send("x", Source(b"x"), 1, key="k", on_commit=lambda: None, pause=refuse)
    assert len(server.begun) == 1


class _ChangingSource(Source):
    """Is another file when it is opened again."""

    @contextlib.contextmanager
    def __call__(self) -> Iterator[BinaryIO]:
        with super().__call__() as body:
            if self.opened > 1:
                raise FileChanged("changed")
            yield body


@pytest.mark.parametrize("stopped", [True, False])
def test_what_became_of_a_lost_answer_is_not_forgotten(server: Endpoint, stopped: bool) -> None:
    """Neither when the file changes before it is sent again, nor when nobody wants that any more."""

    def pause(_: float) -> None:
        if stopped:
            raise RuntimeError("stopped")

    server.answers = ["lost"]
    with pytest.raises(OutcomeUnknown, match="no answer came"):
        destination(server, idempotent=True).send("x", _ChangingSource(b"x"), 1, key="k", on_commit=lambda: None, pause=pause)
    assert len(server.taken) == 1


def test_an_answer_that_drips_is_not_waited_for_for_ever(server: Endpoint) -> None:
    server.answers = ["drip"]
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        send(destination(server, timeout=0.3), b"x")
    assert 0.3 * ANSWER_TIMEOUTS < time.monotonic() - began < 10


@pytest.mark.parametrize("how", ["lost", "stall"])
@pytest.mark.parametrize(
    ("options", "is_repeated"),
    [({"method": "POST"}, False), ({"method": "PATCH"}, False), ({"method": "POST", "idempotent": True}, True), ({"method": "PUT"}, True)],
)
def test_an_answer_that_is_lost(server: Endpoint, options: dict[str, Any], is_repeated: bool, how: str) -> None:
    server.answers = [how]
    to = destination(server, timeout=1, **options)
    if is_repeated:
        send(to, b"content")
        assert len(server.begun) == 2
        assert {taken.headers["idempotency-key"] for taken in server.taken} == {"key-of-the-file"}
    else:
        with pytest.raises(OutcomeUnknown, match="the whole file was sent, and no answer came") as caught:
            send(to, b"content")
        assert len(server.begun) == 1
        assert not caught.value.transient


@pytest.mark.parametrize("multipart", MULTIPART)
@pytest.mark.parametrize("size", [0, 10, 3_000_000])
@pytest.mark.parametrize(
    ("source", "announced", "error"),
    [
        (lambda size: Source(b"x" * size), 1, IntegrityError),
        (lambda size: Source(b"x" * (size + 1)), -1, IntegrityError),
        (lambda size: Source(b"x" * size, at_end=ProcessingError("changed")), 0, ProcessingError),
    ],
    ids=["short", "long", "changed"],
)
def test_a_source_that_does_not_end_well_is_not_delivered(
    server: Endpoint, source: Callable[[int], Source], announced: int, error: type[Exception], size: int, multipart: bool
) -> None:
    made = source(size)
    with pytest.raises(error):
        send(destination(server, use_multipart=multipart), made, size=len(made._data) + announced)
    assert server.taken == []


@pytest.mark.parametrize("multipart", MULTIPART)
@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_a_commit_that_is_refused_ends_the_request_before_its_last_bytes(server: Endpoint, size: int, multipart: bool) -> None:
    def refuse() -> None:
        raise LeaseLost("gone")

    with pytest.raises(LeaseLost):
        send(destination(server, use_multipart=multipart), b"x" * size, on_commit=refuse)
    assert server.taken == []


@pytest.mark.parametrize("multipart", MULTIPART)
def test_memory_does_not_grow_with_the_file(server: Endpoint, multipart: bool) -> None:
    class Zeros(io.RawIOBase):
        left = 100_000_000

        def read(self, size: int | None = -1, /) -> bytes:
            taken = min(self.left, size or 0)
            self.left -= taken
            return bytes(taken)

    tracemalloc.start()
    try:
        to = destination(server, use_multipart=multipart)
        to.send("x", lambda: contextlib.nullcontext(Zeros()), 100_000_000, key="k", on_commit=lambda: None)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert server.taken[0].length >= 100_000_000
    assert peak < 15_000_000


@pytest.mark.parametrize("name", ['quo"te.csv', "back'tick`.csv", "ümläut 患者.csv", "per%cent&+.csv", "semi;colon.csv", "-dash", "a" * 200])
def test_any_legal_name_arrives(server: Endpoint, name: str) -> None:
    send(destination(server, additional_fields={"as": "is {name}"}), b"x", name)
    sent = server.taken[0].body.split(b'filename="')[1].split(b'"\r\n')[0].decode()
    assert sent.replace("%22", '"') == name
    assert server.taken[0].parts["as"][2].decode() == f"is {name}"
    to = destination(server, url=f"{server.url}/files/{{name}}?key=1", method="PUT", use_multipart=False)
    send(to, b"x", f"folder/{name}")
    assert unquote(server.taken[1].target) == f"/files/{name}?key=1"
    assert "key=1" not in to.url(name)


@pytest.mark.parametrize("name", ["../x", "/x", "", "a\\b", "a\r\nb", "tab\tx", "nul\0", "del\x7f", "c1\x85", "a/../b", "not-utf8-\udcff"])
def test_hostile_names_are_refused_before_anything_is_sent(server: Endpoint, name: str) -> None:
    for to in (destination(server, url=f"{server.url}/{{name}}"), destination(server)):
        with pytest.raises(ConfigurationError):
            send(to, b"x", name)
    assert server.begun == []


def test_fields_of_a_form_cannot_break_out_of_their_names(server: Endpoint) -> None:
    send(destination(server, file_field_name='fi"le', additional_fields={'a"b\r\nX: y': 'lines\r\n--"of" text'}), b"x")
    (taken,) = server.taken
    assert taken.parts == {"a%22b%0D%0AX: y": (None, "text/plain", b'lines\r\n--"of" text'), "fi%22le": ("labs.csv", "application/octet-stream", b"x")}


@pytest.mark.parametrize("failure", [BrokenPipeError(), ConnectionResetError(), OSError(5, "x"), ProcessingError("why")])
def test_what_a_source_raises_is_not_taken_for_the_connections_failure(server: Endpoint, failure: Exception) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 2 << 20:
                raise failure
            return super().read(size)

    body = Failing(b"x" * 4_000_000)
    with pytest.raises(type(failure)) as caught:
        destination(server).send("x", lambda: contextlib.nullcontext(body), 4_000_000, key="k", on_commit=lambda: None)
    assert caught.value is failure
    assert server.taken == []
    assert len(server.begun) <= 1


@pytest.mark.parametrize("answer", [(400, {}), (401, {}), (302, {}), (503, {}), "lost", "reset", "stall", (201, {"Location": f"/kept?sig={SECRET}#{SECRET}"})])
def test_no_secret_and_no_answer_is_told(server: Endpoint, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    if isinstance(answer, tuple) and answer[0] != 201:
        answer = (answer[0], {"Content-Type": f"text/{SECRET} SECRET; x={SECRET}", "Location": f"/x?{SECRET}"})
    server.answers = [answer] * 3
    caplog.set_level("DEBUG", "engine")
    keys = {"auth_type": "basic", "username": "u", "password": SECRET, "headers": {"X-A": SECRET}, "timeout": 0.3}
    to = destination(server, url=f"{server.url}/upload?sig={SECRET}", **keys)
    told = [*to.notes, repr(to._options)]
    try:
        told.append(str(send(to, b"x")))
    except FerryError as error:
        told += ["".join(traceback.format_exception(error))]
    assert "SECRET" not in "".join(told) + caplog.text
    assert SECRET not in "".join(told) + caplog.text


def test_nobody_there(server: Endpoint) -> None:
    with pytest.raises(ConnectionFailed, match=r"cannot reach http://127.0.0.1:9/upload: the connection failed") as caught:
        send(destination(server, url="http://127.0.0.1:9/upload"), b"x")
    assert caught.value.transient
    with pytest.raises(ConnectionFailed):
        destination(server, url="http://127.0.0.1:9/upload").probe("x")
    destination(server).probe("x")


def test_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(**more: Any) -> RestDestination:
        return RestDestination(RestOptions.parse({"url": "http://api.example.org/x", **more}, where="test"))

    assert of().notes == ["the connection to http://api.example.org is not encrypted"]
    assert of(url="https://api.example.org/x").notes == []
    assert of(url="https://api.example.org/x", verify_tls=False).notes == ["the certificate of api.example.org is not checked (verify_tls)"]
    with pytest.raises(ConfigurationError, match="require_tls"):
        of(require_tls=True)
    monkeypatch.setenv("FERRY_REQUIRE_TLS", "1")
    with pytest.raises(ConfigurationError, match="require_tls"):
        of()


def test_certificates_are_checked(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with endpoint(lambda plain: context.wrap_socket(plain, server_side=True)) as server:
        with pytest.raises(ConnectionFailed, match="certificate is not trusted"):
            send(destination(server), b"x")
        assert server.begun == []
        with pytest.raises(ConnectionFailed, match="certificate is not trusted"):
            send(destination(server, use_multipart=False), b"")
        with pytest.raises(ConnectionFailed, match="certificate is not trusted"):
            destination(server).probe("x")
        with pytest.raises(ConfigurationError, match=r"'ca_bundle' .* holds no certificates"):
            send(destination(server, ca_bundle=key), b"x")
        send(destination(server, ca_bundle=cert), b"x")
        for to in (destination(server, ca_bundle=cert), destination(server, verify_tls=False)):
            to.probe("x")
            send(to, b"x")
        assert len(server.taken) == 3


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Endpoint]:
    context = server_context(tmp_path)
    with endpoint(lambda plain: context.wrap_socket(plain, server_side=True)) as state:
        yield state


@pytest.mark.parametrize("failure", ["reset", (503, {})])
def test_tls_that_breaks_in_mid_body_is_a_connection_that_broke(tls_server: Endpoint, tmp_path: Path, failure: Any) -> None:
    tls_server.answers = [failure, failure]
    send(destination(tls_server, ca_bundle=str(tmp_path / "cert.pem")), b"x" * 20_000_000)
    assert (len(tls_server.begun), len(tls_server.taken)) == (3, 1)


@pytest.mark.parametrize("how", ["early", "deaf"])
def test_an_answer_before_the_body_counts_under_tls_too(tls_server: Endpoint, tmp_path: Path, how: str) -> None:
    tls_server.answers = [(413, {}, how)]
    with pytest.raises(TransferFailed, match="answered 413"):
        send(destination(tls_server, ca_bundle=str(tmp_path / "cert.pem"), timeout=1), b"x" * 30_000_000)
    assert len(tls_server.begun) == 1


@pytest.mark.parametrize("how", ["lost", "stall"])
def test_an_answer_that_is_lost_under_tls_is_unknown(tls_server: Endpoint, tmp_path: Path, how: str) -> None:
    tls_server.answers = [how]
    with pytest.raises(OutcomeUnknown):
        send(destination(tls_server, ca_bundle=str(tmp_path / "cert.pem"), timeout=1), b"content")
    assert len(tls_server.begun) == 1


# Exports: spooled first.


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FERRY_SPOOL_DIR", str(tmp_path / "spool"))
    return spool_folder()


def test_what_is_written_is_spooled_privately_and_sent_at_the_end(server: Endpoint, spool: Path) -> None:
    told: list[str] = []
    with Spooled(destination(server)).open_write("labs.csv", on_begin=told.append) as writer:
        writer.write(b"one,")
        writer.write(memoryview(b"two"))
        (file,) = spool.iterdir()
        assert (str(file), file.stat().st_mode & 0o777, spool.stat().st_mode & 0o777) == (told[0], 0o600, 0o700)
        writer.finish()
        assert server.begun == []
    assert server.taken[0].parts["file"] == ("labs.csv", "application/octet-stream", b"one,two")
    assert (writer.receipt.verified, writer.receipt.sha256) == ("accepted", hashlib.sha256(b"one,two").hexdigest())
    assert list(spool.iterdir()) == []


def test_a_spooled_file_is_sent_again_from_its_beginning(server: Endpoint, spool: Path) -> None:
    server.answers = ["reset", (503, {})]
    with Spooled(destination(server)).open_write("labs.csv") as writer:
        writer.write(b"x" * 3_000_000)
    assert server.taken[0].parts["file"][2] == b"x" * 3_000_000
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("answer", [(400, {}), "lost"])
def test_a_spool_file_is_removed_whatever_happens(server: Endpoint, spool: Path, answer: Any) -> None:
    server.answers = [answer]
    with pytest.raises(FerryError), Spooled(destination(server)).open_write("labs.csv") as writer:
        writer.write(b"x")
    with pytest.raises(ZeroDivisionError), Spooled(destination(server)).open_write("labs.csv") as writer:
        raise ZeroDivisionError
    assert list(spool.iterdir()) == []
    assert len(server.begun) == 1


def test_a_spool_file_of_a_dead_run_is_swept_and_nothing_else(server: Endpoint, spool: Path, tmp_path: Path) -> None:
    store = Spooled(destination(server))
    ours, other = spool / ("ab" * 16 + ".spool"), tmp_path / ("ab" * 16 + ".spool")
    for file in (ours, other, spool / "x"):
        file.write_text("x")
    for name in ("", str(other), str(spool / "x"), f"{spool}/../{other.name}", "x"):
        assert store.sweep("labs.csv", name) is False
    assert store.sweep("labs.csv", str(ours)) is True
    assert store.sweep("labs.csv", str(ours)) is False
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [other.name, "x"]


def test_a_spool_folder_that_others_can_enter_is_refused(server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("FERRY_SPOOL_DIR", str(tmp_path / "open"))
    with pytest.raises(FerryError, match="not this user's alone"), Spooled(destination(server)).open_write("x"):
        pass


@pytest.mark.parametrize("options", [{"exists": "fail"}, {"exists": "skip"}, {"verify": "size"}, {"verify": "read-back"}])
def test_what_an_endpoint_cannot_promise_is_refused(server: Endpoint, options: Any) -> None:
    with pytest.raises(ConfigurationError, match="REST endpoint"), Spooled(destination(server)).open_write("x", **options):
        pass


def test_a_spooled_size_that_differs_is_not_sent(server: Endpoint, spool: Path) -> None:
    with pytest.raises(IntegrityError, match="announced"), Spooled(destination(server)).open_write("x", size=3) as writer:
        writer.write(b"x")
    assert server.begun == []
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("change", [lambda file: file.write_bytes(b"tow"), lambda file: file.write_bytes(b"t"), lambda file: file.unlink()])
def test_a_spool_file_that_is_not_what_was_written_is_not_sent(server: Endpoint, spool: Path, change: Callable[[Path], object]) -> None:
    with pytest.raises(FerryError, match="spool"), Spooled(destination(server)).open_write("x") as writer:
        writer.write(b"two")
        writer.finish()
        change(next(spool.iterdir()))
    assert server.taken == []
    assert list(spool.iterdir()) == []


def test_a_full_disk_names_the_spool_folder(server: Endpoint, spool: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(ResourceError, match=f"cannot write .* in the spool folder {spool}.*FERRY_SPOOL_DIR"),
        Spooled(destination(server)).open_write("x") as to,
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            to.write(b"x" * (2 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert server.begun == []
    assert list(spool.iterdir()) == []
