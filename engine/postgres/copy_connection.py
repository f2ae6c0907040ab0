"""One COPY … TO STDOUT off the socket in large pieces, by asyncpg in an event loop of its own.

libpq says where: the connection that planned the query tells which host answered, who logged in and whether by TLS, after service file, password file,
environment, several hosts and `sslmode` have had their say; this one goes to the same place in the same way. What asyncpg cannot do as libpq does
is refused, by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import uvloop

from engine.errors import ConfigurationError, FerryError
from engine.libpq import KEEPALIVES, connection_failed, query_failed
from engine.postgres.plan import begin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import psycopg

    from engine.postgres.source_options import PostgresSourceOptions

CLOSE_SECONDS = 5.0
_TLS_KEYS = ("sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version", "sslnegotiation")
_REFUSED = {"channel_binding": "require", "gssencmode": "require"}
_REFUSED_IF_GIVEN = ("require_auth", "sslcrldir", "requirepeer", "scram_client_key", "oauth_issuer")
CONNECTION_LOST = "08"
"""The class of conditions that asyncpg itself raises when the connection broke."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where libpq found the server, and how; kept out of every message."""

    arguments: dict[str, Any] = field(repr=False)


def address(connection: psycopg.Connection[Any], options: PostgresSourceOptions) -> Address:
    """The way of a connection that libpq has made.

    Raises:
        ConfigurationError: It goes a way that asyncpg does not.
    """
    asked = {one.keyword.decode(): one.val.decode() for one in connection.pgconn.info if one.val}
    _refuse(connection, asked, options)
    encrypted = bool(connection.pgconn.ssl_in_use)
    mode = asked.get("sslmode", "prefer")
    query = {key: asked[key] for key in _TLS_KEYS if key in asked and encrypted}
    query["sslmode"] = (mode if mode.startswith("verify") else "require") if encrypted else "disable"
    settings = {"application_name": "arrow-ferry", **({"options": asked["options"]} if asked.get("options") else {})}
    return Address(
        {
            "dsn": "postgresql://?" + urllib.parse.urlencode(query),
            "host": asked.get("host") if encrypted else asked.get("hostaddr") or asked.get("host"),
            "port": int(asked["port"]),
            "user": asked["user"],
            "password": asked.get("password"),
            "passfile": asked.get("passfile"),
            "database": asked["dbname"],
            "timeout": options.connect_timeout,
            "server_settings": settings,
            "statement_cache_size": 0,  # poolers
            "target_session_attrs": "any",  # libpq has chosen
        }
    )


def _refuse(connection: psycopg.Connection[Any], asked: dict[str, str], options: PostgresSourceOptions) -> None:
    wrong = [f"{key}={value}" for key, value in _REFUSED.items() if asked.get(key) == value]
    wrong += [key for key in _REFUSED_IF_GIVEN if asked.get(key)]
    if connection.pgconn.used_gssapi:
        wrong.append("GSSAPI")
    if connection.pgconn.ssl_in_use and (options.parameters.get("hostaddr") or os.environ.get("PGHOSTADDR")):
        wrong.append("hostaddr with TLS")
    if connection.pgconn.ssl_in_use and asked.get("sslrootcert") == "system":
        wrong.append("sslrootcert=system")
    if wrong:
        raise ConfigurationError(f"'reader' copy does not connect with {', '.join(wrong)} as libpq does; use --reader adbc")


class CopyOut:
    """One statement's rows on their way, in one `REPEATABLE READ READ ONLY` transaction.

    Args:
        options: Of the source.
        where: The way to the server.
        query: What is copied.
        form: COPY's options, as asyncpg names them.
        take: Is given each piece, in the thread of `run`; returns False when no more is wanted, and `cancel` is called.
    """

    def __init__(self, options: PostgresSourceOptions, where: Address, query: str, form: Mapping[str, Any], take: Callable[[bytes], bool]) -> None:
        self._options = options
        self._where = where
        self._query = query
        self._form = form
        self._take = take
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._unwanted = False

    def run(self, on_begin: Callable[[tuple[int, ...]], None], on_end: Callable[[int], None]) -> None:
        """Do it all in this thread.

        Args:
            on_begin: Called when the transaction stands, with the types (OIDs) of the query's columns.
            on_end: Called with the number of rows that the server says it sent, before the transaction ends.

        Raises:
            FerryError: The server was not reached, ended the query, or broke off.
        """
        with contextlib.suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run(on_begin, on_end))

    def cancel(self) -> None:
        """End it at once, from any thread: the server is told to cancel."""
        with self._lock:
            if self._loop is not None and self._task is not None and not self._unwanted:
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._unwanted = True

    async def _run(self, on_begin: Callable[[tuple[int, ...]], None], on_end: Callable[[int], None]) -> None:
        with self._lock:
            if self._unwanted:
                return
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # it would log the server's text, which may hold a value
        try:
            connection = await self._connect()
            try:
                await connection.execute(begin(self._options))
                prepared = await connection.prepare(self._query, name="")  # a named one would stay behind in a pooler's connection
                on_begin(tuple(column.type.oid for column in prepared.get_attributes()))
                tag = await connection.copy_from_query(self._query + "\n", output=self._output, **self._form)
                on_end(int(tag.rpartition(" ")[2]))
                await connection.execute("COMMIT")
            except asyncio.CancelledError:
                await _end(connection)
                raise
            finally:
                with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await connection.close(timeout=CLOSE_SECONDS)
        finally:
            with self._lock:
                self._loop = None

    async def _output(self, piece: bytes) -> None:
        if not self._take(piece):
            await asyncio.Event().wait()  # for `cancel`, which whoever does not want it has called or will call

    async def _connect(self) -> asyncpg.Connection[Any]:
        try:
            connection = await asyncpg.connect(**self._where.arguments)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise connection_failed(self._options, _in_libpqs_words(error)) from None
        _keep_alive(connection)
        return connection


async def _end(connection: asyncpg.Connection[Any]) -> None:
    """Have the server cancel, then hang up: asyncpg's own close after a cancelled COPY may wait for an answer that it has stopped reading."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection._cancel(asyncio.get_running_loop().create_future())  # noqa: SLF001 - the request alone, which has no public name
    connection.terminate()


def translated(options: PostgresSourceOptions, error: BaseException, rows: int) -> FerryError | None:
    """What asyncpg raised, in our words; None where it is none of its errors."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return query_failed(options, None if state.startswith(CONNECTION_LOST) else state, rows=rows)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError):
        return query_failed(options, None, rows=rows)
    return None


def _in_libpqs_words(error: BaseException) -> str:
    """Text that `connection_failed` knows; the server's own is the same by either way."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "Name or service not known"
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused"
    return str(error)


def _keep_alive(connection: asyncpg.Connection[Any]) -> None:
    """A peer that has gone is noticed within a minute, as by the settings that libpq is given (`PostgresOptions.conninfo`)."""
    transport_socket = connection._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg has no way to set them
    if transport_socket is None or transport_socket.family not in (socket.AF_INET, socket.AF_INET6):
        return
    transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    names = {
        "keepalives_idle": "TCP_KEEPIDLE",
        "keepalives_interval": "TCP_KEEPINTVL",
        "keepalives_count": "TCP_KEEPCNT",
        "tcp_user_timeout": "TCP_USER_TIMEOUT",
    }
    for key, name in names.items():
        if hasattr(socket, name):
            transport_socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), KEEPALIVES[key])
