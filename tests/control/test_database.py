"""The control database is restarted, refuses, or says nothing at all: what is tried again, and what is an error in our words."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from engine import embedded, workers
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, ProcessingError
from tests.control.network import network

if TYPE_CHECKING:
    from collections.abc import Iterator


def pid(control: ControlDatabase) -> int:
    return int(control.query("SELECT pg_backend_pid() AS pid")[0]["pid"])


def test_one_connection_serves_many_threads(database: str) -> None:
    with ControlDatabase(database) as control, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: control.query("SELECT %s::int AS n, pg_backend_pid() AS pid", (n,))[0], range(200)))
    assert [answer["n"] for answer in answers] == list(range(200))
    assert len({answer["pid"] for answer in answers}) == 1


def test_a_connection_that_was_ended_behind_our_back_is_replaced_before_a_statement_runs(database: str) -> None:
    with ControlDatabase(database) as control:
        control.query("CREATE TABLE t (a int)")
        for _ in range(3):
            with psycopg.connect(database, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [pid(control)])
                while other.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arrow-ferry'").fetchone() != (0,):
                    time.sleep(0.02)
            control.once("INSERT INTO t VALUES (1)")
        assert control.query("SELECT count(*) AS n FROM t") == [{"n": 3}]


def test_a_statement_that_must_not_run_twice_is_not_tried_again_when_its_connection_ends_under_it(database: str) -> None:
    """And one that may is, while there is patience."""
    with ControlDatabase(database) as control, ControlDatabase(database) as other:
        control.query("CREATE TABLE t (a int)")
        for statement in (control.once, lambda text: control.query(text, patience=20)):
            number = pid(control)
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(statement, "INSERT INTO t SELECT 1 FROM pg_sleep(3)")
                while not other.query("SELECT 1 AS a FROM pg_stat_activity WHERE pid = %s AND query LIKE 'INSERT%%' AND state = 'active'", (number,)):
                    time.sleep(0.02)
                other.query("SELECT pg_terminate_backend(%s)", (number,))
                if statement == control.once:
                    with pytest.raises(FerryError) as caught:
                        running.result()
                    assert caught.value.transient
                    assert other.query("SELECT count(*) AS n FROM t") == [{"n": 0}]
                else:
                    running.result()
        assert other.query("SELECT count(*) AS n FROM t") == [{"n": 1}]


def test_a_database_that_swallows_statements_is_given_up_and_reached_anew(database: str, postgres: Any) -> None:
    with network(postgres.port) as between:
        url = database.replace(f":{postgres.port}/", f":{between.port}/")
        with ControlDatabase(url, answer_seconds=1) as control:
            first = pid(control)
            between.stall()
            with pytest.raises(ConnectionFailed, match="did not answer within 1 s") as caught:
                control.query("SELECT 1")
            assert caught.value.transient
            assert pid(control) != first
            between.stall()
            assert control.query("SELECT 1 AS a", patience=20) == [{"a": 1}]


def test_a_lock_that_somebody_holds_is_not_waited_for_without_end(database: str) -> None:
    with psycopg.connect(database) as other:
        other.execute("CREATE TABLE t (a int)")
        other.commit()
        other.execute("LOCK TABLE t")
        with ControlDatabase(database, answer_seconds=1) as control:
            with pytest.raises(ConnectionFailed, match="did not answer within 1 s"):
                control.query("SELECT * FROM t")
            other.rollback()
            assert control.query("SELECT * FROM t") == []


def test_whoever_is_interrupted_while_it_waits_leaves_a_database_that_works(database: str) -> None:
    class Stop(Exception):
        """The run is not wanted any more."""

    with ControlDatabase(database) as control:
        since = time.monotonic()

        def check() -> None:
            if time.monotonic() > since + 0.5:
                raise Stop

        with workers.watching(check), pytest.raises(Stop):
            workers.call(lambda: control.query("SELECT pg_sleep(2)"))
        assert control.query("SELECT 1 AS a") == [{"a": 1}]


@contextlib.contextmanager
def listening(*, answer: bytes | None) -> Iterator[int]:
    """Somebody who takes connections and says `answer`, or closes them at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError), listener.accept()[0] as one:
                    if answer is not None:
                        one.recv(1024)
                        one.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def fatal(code: str, text: str) -> bytes:
    """An ErrorResponse (https://www.postgresql.org/docs/current/protocol-message-formats.html)."""
    fields = b"".join(kind + value.encode() + b"\0" for kind, value in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", code), (b"M", text))) + b"\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


@pytest.mark.parametrize(
    "answer",
    [
        None,
        fatal("57P03", "the database system is starting up"),
        fatal("57P03", "the database system is shutting down"),
        fatal("57P03", "the database system is in recovery mode"),
        fatal("57P03", "the database system is not yet accepting connections"),
        fatal("53300", "sorry, too many clients already"),
        fatal("08P01", "server login has been failing, try again later (server_login_retry)"),
        fatal("08P01", "pgbouncer cannot connect to server"),
    ],
)
def test_what_a_restart_looks_like_from_outside_can_be_tried_again(answer: bytes | None) -> None:
    with listening(answer=answer) as port, ControlDatabase(f"postgresql://u@127.0.0.1:{port}/db?sslmode=disable&gssencmode=disable") as control:
        with pytest.raises(ConnectionFailed) as caught:
            control.query("SELECT 1")
        assert caught.value.transient, caught.value
        assert str(caught.value).startswith(f"the control database (DATABASE_URL): cannot connect to PostgreSQL at 127.0.0.1:{port}/db: ")
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(("user", "name", "words"), [("nobody_here", None, "user name or the password"), (None, "nowhere", "there is no database 'nowhere'")])
def test_what_stays_wrong_is_not_tried_again(postgres: Any, database: str, user: str | None, name: str | None, words: str) -> None:
    url = database.replace("//postgres:", f"//{user or 'postgres'}:") if user else postgres.url_of(name or "")
    with ControlDatabase(url) as control, pytest.raises(ConnectionFailed, match=words) as caught:
        control.query("SELECT 1", patience=3600)
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SELECT * FROM missing", ConfigurationError, "a table or column is missing"),
        ("SELECT missing", ConfigurationError, "a table or column is missing"),
        ("SELECT 1 / 0", ProcessingError, "SQLSTATE 22012"),
        ("SELECT 's3cr3t-canary'::int", ProcessingError, "SQLSTATE 22P02"),
    ],
)
def test_refusals_are_in_our_words(database: str, statement: Any, kind: type[FerryError], words: str) -> None:
    with ControlDatabase(database) as control:
        with pytest.raises(kind, match=words) as caught:
            control.query(statement, patience=3600)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert control.query("SELECT 1 AS a") == [{"a": 1}]


def test_a_database_url_that_is_none_is_named_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        ControlDatabase()
    monkeypatch.setenv("DATABASE_URL", "mysql://u:s3cr3t-canary@host/db")
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        ControlDatabase()
    assert "canary" not in str(caught.value)


def test_a_restarted_database_is_waited_for_and_nothing_listens_is_no_answer(postgres: Any) -> None:
    del postgres
    port = embedded.free_ports(1)[0]
    with ControlDatabase(f"postgresql://u@127.0.0.1:{port}/db") as control, pytest.raises(ConnectionFailed, match="nothing listens there") as caught:
        control.query("SELECT 1", patience=1)
    assert caught.value.transient
