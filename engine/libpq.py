"""How PostgreSQL is reached, as a source and as the control database: options, libpq's connection string, and its errors in our words."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import psycopg
import psycopg.conninfo
import psycopg.errors
from pydantic import BeforeValidator, Field

from engine.addresses import is_loopback
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, QueryFailed, ResourceError
from engine.options import ENVIRONMENT, Options, Secret, is_reference, resolve_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
_FIELD_OF_LIBPQ = {"user": "username", "dbname": "database", "host": "host", "port": "port", "password": "password", "sslmode": "sslmode"}
_DRIVER_SUFFIX = re.compile(r"^(postgres(?:ql)?)\+\w+://")
_OURS = frozenset({"connect_timeout", "application_name", "client_encoding", "options"})
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""A peer that has gone is noticed within a minute; seconds, the last in milliseconds."""
_WITHIN = "#password"
"""`env:URL#password` is the password in the connection string kept there: what merging makes of a reference to a connection string."""


def _password(value: object) -> object:
    if isinstance(value, str) and is_reference(value) and value.endswith(_WITHIN):
        return _parsed(value.removesuffix(_WITHIN)).get("password", "")
    return value


class PostgresOptions(Options):
    """Where a database is and who asks (CONFIGURATION: "PostgreSQL").

    Attributes:
        connect_timeout: Seconds for one attempt to connect.
        statement_timeout: Seconds after which the server ends the query; 0 is never, None what server or role set.
        parameters: What else a `connection_string` held for libpq (`sslrootcert`, `target_session_attrs` …).
    """

    aliases: ClassVar[Mapping[str, str]] = {"user": "username", "dbname": "database"}

    host: str = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: str | None = None
    username: str | None = None
    password: Annotated[Secret | None, BeforeValidator(_password)] = None
    connection_string: Secret | None = None
    sslmode: SslMode = "prefer"
    connect_timeout: Annotated[int, Field(ge=1)] = 10
    statement_timeout: Annotated[float, Field(ge=0)] | None = None
    require_tls: bool = Field(default_factory=lambda: os.environ.get("FERRY_REQUIRE_TLS") == "1", json_schema_extra={ENVIRONMENT: "FERRY_REQUIRE_TLS"})
    parameters: dict[str, str] = Field(default_factory=dict, repr=False)

    @classmethod
    def normalise(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Resolve aliases and expand `connection_string` into its fields, where it wins over them."""
        layer = super().normalise(values)
        text = layer.pop("connection_string", None)
        return layer if text is None else {**layer, **_expand(text)}

    def conninfo(self) -> str:
        """The libpq connection string, password included: never to be shown."""
        known: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.username,
            "password": self.password.get_secret_value() if self.password else None,
            "sslmode": "require" if self.require_tls and self.sslmode in {"disable", "allow", "prefer"} else self.sslmode,
        }
        ours: dict[str, Any] = {
            "connect_timeout": self.connect_timeout,
            "application_name": "arrow-ferry",
            "client_encoding": "UTF8",  # the driver takes text as UTF-8 whatever the server sends
            **KEEPALIVES,
        }
        return psycopg.conninfo.make_conninfo(**{**self.parameters, **{k: v for k, v in known.items() if v is not None}, **ours})

    @property
    def where(self) -> str:
        """For messages: `host:port/database`, no user, no secret."""
        return f"{self.host}:{self.port}/{self.database or ''}"


def _expand(text: object) -> dict[str, Any]:
    """Fields of a connection string: a URI (also SQLAlchemy's `postgresql+psycopg2://`), `key=value` pairs, or a reference to one.

    The password of a referenced one stays a reference, so that a merged configuration holds no secret that was kept out of it.
    """
    parsed = _parsed(text)
    if "@" in str(parsed.get("host", ""))[1:] or ("://" in str(resolve_reference(text)) and "@" in str(parsed.get("dbname", ""))):
        # libpq has taken a part of the password for the host or the database, and messages name those
        raise ConfigurationError("'connection_string': an @ or / in a user name or password is written %40 or %2F")
    fields: dict[str, Any] = {_FIELD_OF_LIBPQ[k]: v for k, v in parsed.items() if k in _FIELD_OF_LIBPQ}
    if "password" in fields and isinstance(text, str) and is_reference(text):
        fields["password"] = text + _WITHIN
    rest = {k: str(v) for k, v in parsed.items() if k not in _FIELD_OF_LIBPQ and k not in _OURS}
    if "connect_timeout" in parsed:
        fields["connect_timeout"] = parsed["connect_timeout"]
    return {**fields, "parameters": rest} if rest else fields


def _parsed(text: object) -> dict[str, Any]:
    try:
        plain = str(resolve_reference(text)).strip()
        if not plain:
            raise ConfigurationError("'connection_string' is empty (postgresql://user@host:port/database)")
        return psycopg.conninfo.conninfo_to_dict(_DRIVER_SUFFIX.sub(r"\1://", plain))
    except FerryError:
        raise
    except ValueError as error:
        raise ConfigurationError(f"'connection_string' {error}") from None
    except psycopg.Error:
        raise ConfigurationError("'connection_string' is no PostgreSQL connection string (postgresql://user@host:port/database)") from None


@contextlib.contextmanager
def connect(options: PostgresOptions) -> Iterator[psycopg.Connection[Any]]:
    """A short-lived connection for questions about a query and its types; autocommit, no prepared statements (poolers).

    Raises:
        ConnectionFailed: Unreachable, refused, wrong password, no such database.
    """
    try:
        connection = psycopg.connect(options.conninfo(), autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise connection_failed(options, str(error)) from None
    with connection:
        yield connection


def is_encrypted(connection: psycopg.Connection[Any]) -> bool:
    """Whether nobody between the two machines can read along: TLS, a Unix socket, or the loopback interface."""
    if connection.pgconn.ssl_in_use:
        return True
    address = connection.info.hostaddr
    return not address or is_loopback(address)


# libpq reports failed logins as text alone; each line of its own text is matched to one sentence of ours.
_LOGIN_FAILURES = (
    ("password authentication failed", "the server refused the user name or the password"),
    ("no password supplied", "the server asks for a password and none was given"),
    ("no pg_hba.conf entry", "the server's pg_hba.conf admits no such user, database and address"),
    ("could not translate host name", "the host name is unknown"),
    ("Name or service not known", "the host name is unknown"),
    ("nodename nor servname", "the host name is unknown"),
    ("failed to resolve", "the host name is unknown"),
    ("Connection refused", "nothing listens there; is the server running, are host and port right?"),
    ("timeout", "no answer in time; is a firewall between?"),
    ("No such file or directory", "the server's socket does not exist; is the server running?"),
    ("server does not support SSL", "the server offers no TLS, which sslmode or require_tls demands"),
    ("certificate", "the server's certificate was not accepted"),
    ("too many clients", "the server has no free connection"),
    ("remaining connection slots", "the server has no free connection"),
    ("the database system is starting up", "the server is starting up"),
    ("the database system is shutting down", "the server is shutting down"),
    ("server closed the connection", "the server closed the connection at once; is it being restarted?"),
    ("Connection reset", "the server closed the connection at once; is it being restarted?"),
    ("in recovery mode", "the server does not accept connections now"),
    ("not accepting connections", "the server does not accept connections now"),
    ("not yet accepting connections", "the server does not accept connections now"),
    ("server login has been failing", "the pooler does not reach the server"),  # PgBouncer's words, and the next one
    ("cannot connect to server", "the pooler does not reach the server"),
    ("unreachable", "the network does not reach the server"),
    ("No route to host", "the network does not reach the server"),
)
_TRANSIENT = ("no answer in time", "nothing listens", "no free connection", "starting up", "shutting down", "unknown", "does not", "restarted")


def connection_failed(options: PostgresOptions, text: str) -> ConnectionFailed:
    """Libpq's text about a failed connection, in our words: it may repeat user names and file paths."""
    if re.search(r'database ".*" does not exist', text):
        reason = f"there is no database {options.database!r}"
    elif re.search(r'role ".*" does not exist', text):
        reason = "the server refused the user name or the password"
    else:
        reason = next((ours for theirs, ours in _LOGIN_FAILURES if theirs in text), "the connection failed")
    message = f"cannot connect to PostgreSQL at {options.where}: {reason}"
    return ConnectionFailed(message, transient=any(word in reason for word in _TRANSIENT))


RETRYABLE_CLASSES = ("08", "40", "53", "55", "57")
_REASONS = {
    "57014": "the query was cancelled (statement timeout, or an administrator)",
    "57P01": "the server ended the connection (administrator command)",
    "57P02": "the server crashed",
    "57P03": "the server does not accept connections now",
    "22021": "the database holds text that is not valid in its encoding, or not UTF-8 in a database without one (SQL_ASCII); convert it in the query",
    "42501": "permission denied for an object that the query reads",
    "25006": "the query would change data, and exports only read",
    "53200": "the server is out of memory",
    "53100": "the server's disk is full",
    "40001": "the server could not keep the snapshot (conflict with recovery or serialization)",
}


def query_failed(options: PostgresOptions, sqlstate: str | None, *, rows: int = 0) -> FerryError:
    """An error that the server sent while rows were coming.

    The server's own text is left out: it may hold a cell value (`invalid input syntax for type integer: "…"`).

    Args:
        options: Where the query ran.
        sqlstate: The server's code; None when the connection broke.
        rows: Rows received before.
    """
    if sqlstate is None:
        return QueryFailed(f"the connection to PostgreSQL at {options.where} broke after {rows:,} rows; nothing was written", transient=True)
    reason = _REASONS.get(sqlstate) or condition_name(sqlstate)
    message = f"PostgreSQL at {options.where} ended the query after {rows:,} rows: {reason} (SQLSTATE {sqlstate}); nothing was written"
    kind = ResourceError if sqlstate.startswith("53") else None
    transient = sqlstate.startswith(RETRYABLE_CLASSES)
    return kind(message, transient=transient) if kind else QueryFailed(message, sqlstate=sqlstate, transient=transient)


def condition_name(sqlstate: str) -> str:
    """PostgreSQL's name of a condition: `22012` → `division by zero`."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "an error"
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
