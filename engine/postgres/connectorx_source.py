"""PostgreSQL's rows by connectorx (`reader: connectorx`), another engine to compare with.

Planning, type rules and errors are those of `source.py`; connectorx reads in a process of its own (`connectorx_process.py` says why). It changes or panics
on many types: a column whose rule is text is asked for as text, one that it delivers exactly is taken, any other is refused by name before a row comes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

import psycopg
import pyarrow as pa
from psycopg import sql

from engine.errors import ConfigurationError, ProcessingError, SchemaMismatch
from engine.libpq import KEEPALIVES, connect, connection_failed, query_failed
from engine.postgres import batches
from engine.postgres.copy_plan import delivered
from engine.postgres.plan import Plan, opening
from engine.postgres.reader import Delivery, Ended, Reader
from engine.postgres.source import PostgresSource, Stream
from engine.postgres.types import sent_as

if importlib.util.find_spec("connectorx") is None:
    raise ModuleNotFoundError("connectorx is missing", name="connectorx")

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.postgres.source_options import PostgresSourceOptions
    from engine.postgres.types import Rule
    from engine.protocols import Form

NOT_PROMISED = ("memory whatever a row weighs", "every type in Parquet", "several readers", "TLS that verifies the server", "poolers in transaction mode")
NOTE = f"'reader' connectorx does not promise: {', '.join(NOT_PROMISED)}"
BATCH_ROWS = 10_000
FEATURE_NOT_SUPPORTED = "0A000"
CHARACTER_NOT_IN_REPERTOIRE = "22021"
_PROGRAM = Path(__file__).with_name("connectorx_process.py")
# What connectorx 0.4.6 makes of a type that comes over the wire; in each of these its Arrow type holds every value of the PostgreSQL type.
_DELIVERED = {
    "bool": pa.bool_(),
    "int2": pa.int64(),
    "int4": pa.int64(),
    "int8": pa.int64(),
    "float4": pa.float64(),
    "float8": pa.float64(),
    "text": pa.string(),
    "varchar": pa.string(),
    "bpchar": pa.string(),
    "name": pa.string(),
    "bytea": pa.large_binary(),
    "bool[]": pa.large_list(pa.bool_()),
    "int2[]": pa.large_list(pa.int16()),
    "int4[]": pa.large_list(pa.int32()),
    "int8[]": pa.large_list(pa.int64()),
    "float4[]": pa.large_list(pa.float32()),
    "float8[]": pa.large_list(pa.float64()),
    "text[]": pa.large_list(pa.string()),
    "varchar[]": pa.large_list(pa.string()),
}
_TLS_KEYS = ("sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir", "ssl_max_protocol_version")
_REFUSED = {"channel_binding": "require", "gssencmode": "require", "sslnegotiation": "direct", "ssl_min_protocol_version": "TLSv1.3"}
_REFUSED_IF_GIVEN = ("require_auth", "requirepeer", "scram_client_key", "oauth_issuer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorxPlan(Plan):
    """How a query will be read.

    Attributes:
        url: Of the server that planned it, password included: kept out of every message.
        opening: Statements that open the transaction.
        holding: One that fails if the statement gives other types than it did when it was planned, and locks its tables; it reads no row.
    """

    url: str = field(repr=False)
    opening: tuple[str, ...] = ()
    holding: str = ""

    @property
    def sent(self) -> list[str]:
        """The type that each column comes as, the hidden ones last."""
        shown = [sent_as(column, rule) for column, rule in zip(self.columns, self.rules, strict=True)]
        return shown + ["bool"] * len(self.shape_checks)


class ConnectorxSource(PostgresSource):
    """The rows of one query (`RowSource`).

    Example:
        >>> source = ConnectorxSource(PostgresSourceOptions(query="SELECT 1 AS one", host="localhost", reader="connectorx"))  # doctest: +SKIP
        >>> with source.read() as stream:  # doctest: +SKIP
        ...     table = stream.reader.read_all()
    """

    def _plan(self, form: Form) -> tuple[Plan, int, list[str]]:
        plan, readers, notes = super()._plan(form)
        return plan, readers, [*notes, NOTE]

    def _planned(self, connection: psycopg.Connection[Any], form: Form) -> ConnectorxPlan:
        plan = super()._planned(connection, form)
        rules = tuple(_as_text(rule) for rule in plan.rules)
        made = ConnectorxPlan(
            plan.query,
            plan.columns,
            rules,
            plan.shape_checks,
            plan.estimated_rows,
            "connectorx reads by one connection",
            url=_url(connection, self._options),
        )
        _check_types(made)
        try:
            begun = (*opening(self._options), *_watching(connection))
            return replace(made, opening=begun, holding=_holding(connection, made))
        except psycopg.Error as error:
            raise query_failed(self._options, error.sqlstate) from None

    def _stream(self, plan: Plan, readers: int, notes: list[str]) -> Stream:
        return ConnectorxStream(self._options, plan, readers, notes)


def _as_text(rule: Rule) -> Rule:
    """JSON as text: connectorx parses it and writes it anew."""
    element, brackets = (rule.arrow.value_type, "[]") if pa.types.is_list(rule.arrow) else (rule.arrow, "")
    return replace(rule, casts=(f"text{brackets}",)) if element == pa.json_(pa.string()) else rule


def _check_types(plan: ConnectorxPlan) -> None:
    wrong = [f"{column.name!r} ({column.declared})" for column, sent in zip(plan.columns, plan.sent, strict=False) if sent not in _DELIVERED]
    if wrong:
        raise ConfigurationError(
            f"'reader' connectorx does not deliver exactly: {', '.join(wrong)}; use --reader adbc, write the column as text with --unrepresentable "
            f"COLUMN=text, or choose CSV"
        )


def _watching(connection: psycopg.Connection[Any]) -> list[str]:
    """Have the server notice that nobody reads any more, also before it has a row to send (PostgreSQL 14 and newer, not on Windows)."""
    wish = "SET LOCAL client_connection_check_interval = '200ms'"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(wish)
    except (psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue):
        return []
    return [wish]


def _holding(connection: psycopg.Connection[Any], plan: ConnectorxPlan) -> str:
    """See `ConnectorxPlan.holding`: connectorx asks for the types before its transaction, and COPY's bytes do not say what they mean."""
    names = [f"s{i}" for i in range(len(plan.sent))]
    types = f"ARRAY[{', '.join(f'pg_catalog.pg_typeof({name})' for name in names)}]::oid[]::text"
    nothing = f"FROM (SELECT) AS one LEFT JOIN (\n{plan.statement()}\n) AS r({', '.join(names)}) ON false"
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        row = connection.execute(f"SELECT {types} {nothing}".encode()).fetchone()
    found = sql.Literal(row[0] if row else None).as_string(None)
    return f"SELECT 1 / ({types} = {found})::int {nothing}"


def _url(connection: psycopg.Connection[Any], options: PostgresSourceOptions) -> str:
    """The way of a connection that libpq has made: connectorx knows no service file, password file or environment.

    Raises:
        ConfigurationError: It goes a way that connectorx does not.
    """
    asked = {one.keyword.decode(): one.val.decode() for one in connection.pgconn.info if one.val}
    encrypted = bool(connection.pgconn.ssl_in_use)
    _refuse(connection, asked, encrypted=encrypted)

    def quoted(text: str) -> str:
        return urllib.parse.quote(text, safe="")

    info = connection.info
    query = {
        "application_name": "arrow-ferry",
        "sslmode": "require" if encrypted else "disable",
        "connect_timeout": options.connect_timeout,
        "keepalives_idle": KEEPALIVES["keepalives_idle"],
        "keepalives_interval": KEEPALIVES["keepalives_interval"],
        "keepalives_retries": KEEPALIVES["keepalives_count"],
        **({"options": asked["options"]} if asked.get("options") else {}),
    }
    host = info.host if encrypted else info.hostaddr or info.host  # a Unix socket has no address
    user = f"{quoted(info.user)}:{quoted(info.password)}" if info.password else quoted(info.user)
    host = f"[{host}]" if ":" in host else quoted(host)
    return f"postgresql://{user}@{host}:{info.port}/{quoted(info.dbname)}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"


def _refuse(connection: psycopg.Connection[Any], asked: Mapping[str, str], *, encrypted: bool) -> None:
    wrong = [f"{key}={value}" for key, value in _REFUSED.items() if asked.get(key) == value]
    wrong += [f"sslmode={asked['sslmode']}"] if asked.get("sslmode", "").startswith("verify") else []
    wrong += [key for key in _REFUSED_IF_GIVEN if asked.get(key)]
    wrong += [key for key in _TLS_KEYS if asked.get(key) and encrypted]
    if connection.pgconn.used_gssapi:
        wrong.append("GSSAPI")
    if wrong:
        raise ConfigurationError(f"'reader' connectorx does not connect with {', '.join(wrong)} as libpq does; use --reader adbc")


class ConnectorxStream(Stream):
    """Rows on their way (`RowStream`), by connectorx."""

    def _reader(self) -> ConnectorxReader:
        return ConnectorxReader(self._options, cast("ConnectorxPlan", self._plan))


class ConnectorxReader(Reader):
    """Reads by connectorx (`Reader`): one query, once, after the statements that come before it."""

    def __init__(self, options: PostgresSourceOptions, plan: ConnectorxPlan) -> None:
        super().__init__(options, plan)
        self._ours = plan
        self._before: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.connected = True
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing: each read connects for itself."""

    def begin(self) -> None:
        """See `Reader.begin`."""
        for statement in self._ours.opening:
            self._execute(statement)
        self.hold()

    def hold(self) -> None:
        """See `Reader.hold`."""
        self._execute(self._ours.holding)

    def commit(self) -> None:
        """See `Reader.commit`: COPY's own last bytes have said that it was whole."""

    @contextlib.contextmanager
    def open(self, part: int, deadline: float | None = None) -> Iterator[Iterator[Delivery]]:
        """See `Reader.open`; batches have `BATCH_ROWS` rows, whatever these weigh."""
        self._limit(deadline)
        rows = min(self._options.batch_size or BATCH_ROWS, BATCH_ROWS)
        request = {"conn": self._ours.url, "query": self._plan.statement(part), "pre_execution_query": self._before, "batch_size": rows}
        with self._started() as (requests, answers):
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
            self._look_at(answers.readline(), begun=False)
            with pa.ipc.open_stream(answers) as arriving:
                self._check_schema(arriving.schema)
                yield self._deliveries(arriving, answers)

    def cancel(self) -> None:
        """See `Reader.cancel`: the server notices that its client has gone."""
        if self._process is not None:
            self._process.kill()

    def _execute(self, text: str) -> None:
        """Later: connectorx runs it in its connection, before the query."""
        self._before.append(text)

    def _row(self, text: str) -> tuple[str, ...]:  # noqa: ARG002 - none is asked
        """None: connectorx gives the rows of its query alone."""
        raise Ended(FEATURE_NOT_SUPPORTED)

    @contextlib.contextmanager
    def _started(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        command = [sys.executable, "-P", str(_PROGRAM)]  # -P: beside the program stands a types.py
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            self._process = process
            try:
                yield cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
            finally:
                process.kill()

    def _deliveries(self, arriving: pa.RecordBatchReader, answers: IO[bytes]) -> Iterator[Delivery]:
        with contextlib.suppress(pa.ArrowInvalid, OSError):  # cut off: there is no last line then
            for batch in arriving:
                yield Delivery(batch.num_rows, batch.nbytes, partial(_convert, self._plan, batch))
        self._look_at(answers.readline(), begun=True)

    def _check_schema(self, schema: pa.Schema) -> None:
        names = [column.name for column in self._plan.columns]
        for name, sent, given in zip(names, self._ours.sent, schema, strict=False):
            if given.type != _DELIVERED[sent]:
                raise SchemaMismatch(f"column {name!r} arrived as {given.type}, not as {_DELIVERED[sent]}; was the table altered meanwhile?")

    def _look_at(self, line: bytes, *, begun: bool) -> None:
        """Raise what the process tells of, if it is an error."""
        if not line:
            raise ProcessingError(f"the process in which connectorx read ended after {self.rows:,} rows; nothing was written")
        told: dict[str, str] = json.loads(line)
        if not told:
            return
        kind = told.get("kind")
        if kind == "unreachable":
            raise connection_failed(self._options, "timeout")
        if kind == "other" and not begun:
            self._ask_the_server()
        if kind == "other":
            hint = "" if begun else " (behind a pooler in transaction mode it cannot read)"
            raise ProcessingError(f"connectorx failed after {self.rows:,} rows{hint}; nothing was written; use --reader adbc")
        raise Ended(CHARACTER_NOT_IN_REPERTOIRE if kind == "encoding" else told.get("sqlstate"))

    def _ask_the_server(self) -> None:
        """Why it did not begin: connectorx gives no code for that."""
        with connect(self._options) as connection:
            try:
                for statement in self._before:
                    connection.execute(statement.encode())
            except psycopg.errors.DivisionByZero:
                raise SchemaMismatch("a column has another type than was announced; was the table altered meanwhile?") from None
            except psycopg.Error as error:
                raise Ended(error.sqlstate) from error


def _convert(plan: Plan, batch: pa.RecordBatch) -> pa.RecordBatch:
    """What connectorx delivered into what the rules start from."""
    columns = [column.cast(delivered(rule)) for column, rule in zip(batch.columns, plan.rules, strict=False)]
    columns += batch.columns[len(columns) :]
    return batches.convert(plan, pa.RecordBatch.from_arrays(columns, names=[""] * len(columns)))
