"""HTTP/1.1 read by hand: whatever way an answer is cut, it is the same; what is no such answer is an error, and never a shorter one."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.stores.s3_wire import Answer, Connection
from tests.effort import examples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLAIN = b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nContent-Length: 11\r\n\r\nthe content'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;name=value\r\nthe \r\n7\r\ncontent\r\n0\r\nTrailer: x\r\n\r\n"


@contextlib.contextmanager
def answering(*pieces: bytes, hang: bool = False) -> Iterator[Connection]:
    """A connection to a server that answers the first request with these pieces, one by one, and then closes, or says nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()

        def serve() -> None:
            there, _ = listening.accept()
            with there:
                there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                there.recv(1 << 20)
                for piece in pieces:
                    there.sendall(piece)
                    time.sleep(0.001)
                if hang:
                    ended.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        connection = Connection("127.0.0.1", listening.getsockname()[1], None)
        try:
            yield connection
        finally:
            ended.set()
            connection.close()
            thread.join(10)


def asked(connection: Connection, method: str = "GET", into: memoryview | None = None, patience: float = 10) -> Answer:
    return connection.exchange(method, "/bucket/key", {"host": "127.0.0.1"}, b"", patience, into)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED], ids=["length", "chunks"])
@settings(max_examples=examples(25), deadline=None)
@given(places=st.lists(st.integers(0, 1_000), max_size=6))
def test_an_answer_is_the_same_wherever_it_is_cut(whole: bytes, places: list[int]) -> None:
    with answering(*cut(whole, places)) as connection:
        answer = asked(connection)
        assert (answer.status, bytes(answer.body), answer.length, connection.is_reusable) == (200, b"the content", 11, True)


def test_a_body_comes_into_the_callers_buffer_only_if_it_is_exactly_as_long() -> None:
    for size, body in ((11, b""), (12, b"the content"), (10, b"the content")):
        room = bytearray(size)
        with answering(PLAIN) as connection:
            answer = asked(connection, into=memoryview(room))
        assert (bytes(answer.body), answer.length) == (body, 11)
        assert bytes(room) == (b"the content" if size == 11 else bytes(size))


def test_heads_and_empty_answers_have_no_body() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n") as connection:
        assert asked(connection, "HEAD").headers["content-length"] == "11"
    with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as connection:
        assert asked(connection).status == 204


def test_what_follows_an_answer_unasked_ends_the_connections_use() -> None:
    for tail in (b"HTTP/1.1 200 OK\r\n", b""):
        with answering(PLAIN + tail) as connection:
            asked(connection)
            assert connection.is_reusable is not bool(tail)
    with answering(PLAIN.replace(b"ETag", b"Connection: close\r\nETag")) as connection:
        asked(connection)
        assert not connection.is_reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno length",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlonger than it says\r\n0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000,
    ],
)
def test_what_is_no_such_answer_is_refused(answer: bytes) -> None:
    with answering(answer, hang=True) as connection, pytest.raises(ValueError):  # noqa: PT011 - of int() too
        asked(connection)


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED], ids=["length", "chunks"])
def test_an_answer_that_ends_early_is_an_error_wherever_it_does(whole: bytes) -> None:
    for end in range(len(whole)):
        with answering(whole[:end]) as connection, pytest.raises(OSError):  # noqa: PT011 - of any kind
            asked(connection, into=memoryview(bytearray(11)))


@pytest.mark.parametrize("begun", [b"", PLAIN[:-3], CHUNKED[:-10]])
def test_a_silent_server_is_waited_for_as_long_as_it_was_asked_to_be(begun: bytes) -> None:
    with answering(begun, hang=True) as connection, pytest.raises(TimeoutError):
        asked(connection, patience=0.2)


def test_a_header_of_several_lines_is_not_sent() -> None:
    for between in ("\r\n", "\n", "\r"):
        with answering(hang=True) as connection, pytest.raises(ValueError, match="several lines"):
            connection.exchange("GET", "/", {"x-amz-meta-a": f"b{between}x-amz-acl: public-read"}, b"", 1, None)
