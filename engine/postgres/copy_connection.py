"""How asyncpg reaches PostgreSQL: as libpq has.

The connection that planned the query tells which host answered, who logged in and whether by TLS, after service file, password file,
environment, several hosts and `sslmode` have had their say; this one goes to the same place in the same way. What asyncpg cannot do as libpq does
is refused, by name.
"""

from __future__ import annotations

import os
import socket
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from engine.errors import ConfigurationError
from engine.libpq import KEEPALIVES, connection_failed

if TYPE_CHECKING:
    import psycopg

    from engine.postgres.source_options import PostgresSourceOptions

ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_TLS_KEYS = ("sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version", "sslnegotiation")
_REFUSED = {"channel_binding": "require", "gssencmode": "require"}
_REFUSED_IF_GIVEN = ("require_auth", "sslcrldir", "requirepeer", "scram_client_key", "oauth_issuer")


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


async def connect(options: PostgresSourceOptions, where: Address) -> asyncpg.Connection[Any]:
    """A connection of the same way.

    Raises:
        ConnectionFailed: The server was not reached, or refused.
    """
    try:
        connection = await asyncpg.connect(**where.arguments)
    except (*ERRORS, ValueError) as error:
        raise connection_failed(options, _in_libpqs_words(error)) from None
    _keep_alive(connection)
    return connection


def _in_libpqs_words(error: BaseException) -> str:
    """Text that `connection_failed` knows; the server's own is the same by either way."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "Name or service not known"
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused"
    return str(error)


def is_tcp(connection: asyncpg.Connection[Any]) -> bool:
    """Whether it goes over a network, or as if it did."""
    found = _socket(connection)
    return found is not None and found.family in (socket.AF_INET, socket.AF_INET6)


def _socket(connection: asyncpg.Connection[Any]) -> Any:
    return connection._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg has no public name for it


def _keep_alive(connection: asyncpg.Connection[Any]) -> None:
    """A peer that has gone is noticed within a minute, as by the settings that libpq is given (`PostgresOptions.conninfo`)."""
    if not is_tcp(connection):
        return
    transport_socket = _socket(connection)
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
