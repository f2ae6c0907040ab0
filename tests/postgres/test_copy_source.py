"""`reader: copy` gives what the ADBC reader gives, for every type; and it connects as libpq does, or says that it does not."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine import embedded
from engine.errors import ConfigurationError, ConnectionFailed, UnrepresentableValue
from engine.postgres import copy_reader, copy_source
from tests.conftest import open_to_nobody
from tests.effort import slow, spread
from tests.postgres.cases import CASES, SYSTEM_CASES, TYPES_OF_OURS
from tests.postgres.test_types import create_tables, numbered, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.protocols import Form


@pytest.fixture(scope="module")
def typed_database(module_database: str) -> str:
    create_tables(module_database, CASES, TYPES_OF_OURS)
    return module_database


def both(database: str, query: str, form: Form = "typed", /, **options: Any) -> tuple[pa.Table, pa.Table]:
    """A query's rows by either reader."""
    by_adbc, by_copy = (read(database, query, form, reader=reader, **options) for reader in ("adbc", "copy"))
    return by_adbc, by_copy


def assert_same(database: str, query: str, form: Form = "typed", /, **options: Any) -> None:
    by_adbc, by_copy = both(database, query, form, **options)
    assert by_copy.schema.equals(by_adbc.schema, check_metadata=True)
    for name, one, other in zip(by_adbc.schema.names, by_adbc.columns, by_copy.columns, strict=True):
        assert exact(one) == exact(other), name
        assert one.null_count == other.null_count


def exact(column: pa.ChunkedArray) -> list[Any]:
    """Values that compare by their bits, NaN too."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    array.validate(full=True) if not isinstance(array.type, pa.BaseExtensionType) else array.storage.validate(full=True)
    return bits(array)


def bits(array: pa.Array) -> list[Any]:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return bits(array.storage)
    if isinstance(kind, pa.ListType):
        items, bounds = bits(array.values), array.offsets.to_pylist()
        return [items[a:b] if ok else None for a, b, ok in zip(bounds, bounds[1:], array.is_valid().to_pylist(), strict=False)]
    if pa.types.is_date(kind) or kind == pa.float32():
        return list(array.view(pa.int32()).to_pylist())
    if pa.types.is_temporal(kind) or kind == pa.float64():
        return list(array.view(pa.int64()).to_pylist())
    return list(array.to_pylist())


@pytest.mark.parametrize(("i", "case"), spread(numbered(), 2))
@pytest.mark.parametrize("form", ["typed", slow("text")])
def test_every_type_is_as_by_adbc(typed_database: str, i: int, case: Any, form: Form) -> None:
    assert_same(typed_database, f"SELECT n, v, v AS again FROM t{i} ORDER BY n", form)
    if form == "typed":
        assert_same(typed_database, f"SELECT v FROM t{i} ORDER BY n", unrepresentable="text")
    for n in range(1, len(case.refused) + 1):
        query = f"SELECT v FROM (SELECT v, 0 AS part, n FROM t{i} UNION ALL SELECT v, 1, n FROM r{i} WHERE n = {n}) x ORDER BY part, n"
        if form == "text":
            assert_same(typed_database, query, form)
            continue
        messages = []
        for reader in ("adbc", "copy"):
            with pytest.raises(UnrepresentableValue) as caught:
                read(typed_database, query, reader=reader)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@pytest.mark.system
def test_types_of_extensions_are_as_by_adbc(system_postgres: embedded.Postgres) -> None:
    database = system_postgres.url_of("copied")
    with psycopg.connect(system_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE copied TEMPLATE template0")
    create_tables(database, SYSTEM_CASES, "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree")
    for i in range(len(SYSTEM_CASES)):
        assert_same(database, f"SELECT v FROM t{i} ORDER BY n")


def test_a_wide_row_is_as_by_adbc(typed_database: str) -> None:
    tables = ", ".join(f"(SELECT v AS c{i} FROM t{i} WHERE n = 1) x{i}" for i in range(len(CASES)))
    for form in ("typed", "text"):
        assert_same(typed_database, f"SELECT * FROM {tables}", form)


def test_numerics_by_policy_are_as_by_adbc(database: str) -> None:
    query = "SELECT a::numeric AS a, ARRAY[a::numeric, NULL] AS b, a::numeric(7,-2) AS c, (a / 100000)::numeric(3,5) AS d FROM (VALUES (1.5), (-20.25), (0), (NULL)) t(a)"
    assert_same(database, query)
    assert_same(database, query, numeric={"a": "38,20", "b": [5, 2]})
    assert_same(database, query, numeric={"*": "50,30"})
    messages = set()
    for reader in ("adbc", "copy"):
        with pytest.raises(UnrepresentableValue) as caught:
            read(database, query, numeric={"b": "5,1"}, reader=reader)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_many_random_rows_are_as_by_adbc(database: str) -> None:
    query = """
        SELECT i, (random() * 1e6)::numeric(12,4) AS n, CASE WHEN i % 7 > 0 THEN random() END AS f, repeat('ž', (random() * 50)::int) AS t,
               now() + i * interval '1 hour' AS z, CASE WHEN i % 3 = 0 THEN ARRAY[i, NULL, i * 2] END AS a, i % 2 = 0 AS b, md5(i::text)::uuid AS u,
               ('{"a": ' || i || '}')::jsonb AS j, decode(md5(i::text), 'hex') AS x, i::int2 AS s, CASE WHEN i % 5 = 0 THEN i::float4 / 3 END AS r
        FROM generate_series(1, 30000) i"""
    with psycopg.connect(database) as connection:
        connection.execute(f"SELECT setseed(0.5); CREATE TABLE t AS {query}")
    assert_same(database, "TABLE t")
    assert_same(database, "TABLE t", "text")


@pytest.mark.parametrize("missing", ["asyncpg", "uvloop", "numba"])
def test_a_missing_library_is_named_with_its_extra(missing: str) -> None:
    code = f"""
import sys, engine
sys.modules[{missing!r}] = None
try:
    engine.export("SELECT 1 AS a", "x.csv", database="postgresql://nowhere/", reader="copy")
except engine.ConfigurationError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"'reader' needs {missing}, which is not installed: pip install 'arrow-ferry[turbo]'"


def test_lines_do_not_wait_for_numba(database: str, tmp_path: Path) -> None:
    code = f"""
import sys, engine
engine.export("SELECT 1 AS a", {str(tmp_path / "x.csv")!r}, database={database!r}, reader="copy")
print("numba" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_what_asyncpg_does_otherwise_is_refused_by_name(database: str) -> None:
    with pytest.raises(ConfigurationError, match="'reader' copy does not connect with require_auth as libpq does; use --reader adbc"):
        read("", "SELECT 1", reader="copy", connection_string=f"{database}?require_auth=scram-sha-256")


def test_the_way_is_libpqs_own(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several hosts, a service file, a password file, the environment."""
    given = psycopg.conninfo.conninfo_to_dict(database)
    (tmp_path / "service.conf").write_text(f"[study]\nhost={given['host']}\nport={given['port']}\ndbname={given['dbname']}\n")
    (tmp_path / "pgpass").write_text(f"*:*:*:*:{given['password']}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service.conf"))
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    monkeypatch.setenv("PGUSER", str(given["user"]))
    where = f"host=127.0.0.2,{given['host']} port={given['port']} dbname={given['dbname']} user={given['user']} password={given['password']}"
    for conninfo in (
        f"host={given['host']} port={given['port']} dbname={given['dbname']}",
        f"{where} target_session_attrs=read-write",
    ):
        table = read("", "SELECT current_database() AS a, current_setting('application_name') AS b", reader="copy", connection_string=conninfo)
        assert table.to_pylist() == [{"a": given["dbname"], "b": "arrow-ferry"}]
    monkeypatch.setenv("PGOPTIONS", "-c search_path=pg_catalog")
    assert read(database, "SELECT current_setting('search_path') AS a", reader="copy").to_pylist() == [{"a": "pg_catalog"}]


SLOWLY = "SELECT repeat('x', 1000) AS x, pg_sleep(0.01)::text AS y FROM generate_series(1, 100)"


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What readers sleep."""
    slept: list[float] = []
    monkeypatch.setattr(copy_reader, "time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    return slept


def test_a_reader_naps_after_small_pieces_and_not_after_the_last(database: str, naps: list[float]) -> None:
    read(database, "SELECT 1 AS one", reader="copy")
    assert naps == []
    read(database, SLOWLY, reader="copy")
    assert set(naps) == {copy_source.Binary.nap_seconds}


def test_a_unix_socket_is_a_way_too(tmp_path_factory: pytest.TempPathFactory, naps: list[float]) -> None:
    folder = tmp_path_factory.mktemp("unix")
    open_to_nobody(folder)
    with embedded.postgres(folder, settings={"unix_socket_directories": "/tmp"}) as server:
        url = f"postgresql://postgres:{server.password}@/postgres?host=/tmp&port={server.port}"
        for reader in ("adbc", "copy", "connectorx"):
            assert read("", "SELECT inet_client_addr() AS a", reader=reader, connection_string=url).to_pylist() == [{"a": None}]
        read("", SLOWLY, reader="copy", connection_string=url)
        assert set(naps) == {copy_reader.NAP_SECONDS}  # it holds less than what comes in a longer one


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[embedded.Postgres, Path]]:
    """A PostgreSQL with TLS, for `localhost`, and the folder with its certificate; the wheel's is built without."""
    folder = tmp_path_factory.mktemp("tls")
    open_to_nobody(folder)
    certify(folder)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.fail("no PostgreSQL with TLS on this system (Debian: postgresql)")
    settings = {"ssl": "on", "ssl_cert_file": str(folder / "server.crt"), "ssl_key_file": str(folder / "server.key")}
    with embedded.postgres(folder / "server", bin_dir=found[-1], settings=settings) as server:
        yield server, folder


def certify(folder: Path) -> None:
    """A certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(private)
    (folder / "server.key").chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(folder / "server.key", "nobody")


ENCRYPTED = "SELECT ssl AS a FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.system
@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
def test_tls_is_as_sslmode_says(tls: tuple[embedded.Postgres, Path], mode: str) -> None:
    server, folder = tls
    url = server.url.replace("127.0.0.1", "localhost")
    given = f"{url}?sslmode={mode}" + (f"&sslrootcert={folder / 'server.crt'}" if mode.startswith("verify") else "")
    for reader in ("adbc", "copy", "connectorx"):
        if reader == "connectorx" and mode.startswith("verify"):
            with pytest.raises(ConfigurationError, match="'reader' connectorx does not connect with "):
                read("", ENCRYPTED, reader=reader, connection_string=given)
            continue
        assert read("", ENCRYPTED, reader=reader, connection_string=given).to_pylist() == [{"a": mode not in ("disable", "allow")}]
    big = read("", "SELECT repeat('x', 1000) AS a, i FROM generate_series(1, 20000) i", reader="copy", connection_string=given)
    assert big.num_rows == 20_000


@pytest.mark.system
def test_a_certificate_that_does_not_fit_is_refused(tls: tuple[embedded.Postgres, Path], tmp_path: Path) -> None:
    server, folder = tls
    certify(tmp_path)
    for reader in ("adbc", "copy"):
        for url in (
            f"{server.url}?sslmode=verify-full&sslrootcert={folder / 'server.crt'}",  # 127.0.0.1 is not in it
            f"{server.url.replace('127.0.0.1', 'localhost')}?sslmode=verify-ca&sslrootcert={tmp_path / 'server.crt'}",
        ):
            with pytest.raises(ConnectionFailed, match="certificate"):
                read("", "SELECT 1", reader=reader, connection_string=url)


@pytest.mark.system
@pytest.mark.parametrize("demand", ["channel_binding=require", "hostaddr=127.0.0.1"])
def test_what_asyncpg_does_otherwise_with_tls_is_refused_by_name(tls: tuple[embedded.Postgres, Path], demand: str) -> None:
    url = tls[0].url.replace("127.0.0.1", "localhost") + f"?sslmode=require&{demand}"
    assert read("", ENCRYPTED, reader="adbc", connection_string=url).to_pylist() == [{"a": True}]
    with pytest.raises(ConfigurationError, match=f"'reader' copy does not connect with {demand.partition('=127')[0]}.* as libpq does"):
        read("", "SELECT 1", reader="copy", connection_string=url)


def test_only_a_numeric_that_is_another_type_is_cast_to_numeric(database: str) -> None:
    """A cast to what a column is already costs the server a copy of each row. Of a domain the server names the base type, of an array of one it does not."""
    from psycopg.conninfo import conninfo_to_dict

    from engine.postgres.copy_source import CopySource
    from engine.postgres.source_options import PostgresSourceOptions

    with psycopg.connect(database) as connection:
        connection.execute("CREATE DOMAIN price AS numeric(9, 2)")
        connection.execute("CREATE TABLE t (plain numeric(15, 2), many numeric(9, 2)[], priced price, cash money, prices price[])")
        connection.execute("INSERT INTO t VALUES (1.25, '{2.50,NULL}', 3.75, 5.00, '{6.25}')")
    known: dict[str, Any] = conninfo_to_dict(database)
    options = PostgresSourceOptions(
        query="TABLE t", host=known["host"], port=known["port"], username=known["user"], password=known["password"], database=known["dbname"], reader="copy"
    )
    source = CopySource(options)
    plan, _, _ = source._plan("typed")
    text = plan.statement(0)
    assert [f"q.c{column}::numeric" in text for column in (0, 1, 2, 3)] == [False, False, False, True]
    assert "::numeric[]" in text
    with source.read() as stream:
        assert [[str(value) for value in row.values()] for row in stream.reader.read_all().to_pylist()] == [
            ["1.25", "[Decimal('2.50'), None]", "3.75", "5.00", "[Decimal('6.25')]"]
        ]
