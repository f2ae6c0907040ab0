"""Real servers for all tests: one PostgreSQL and one S3 server per test process, a fresh database or bucket per test."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psycopg
import pytest

from engine import embedded
from tests.control.platform import Control
from tests.effort import THOROUGH
from tests.stores import sftp_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)
HASTY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}  # no test has its server outlive a crash of the machine


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Postgres]:
    """The embedded PostgreSQL."""
    folder = tmp_path_factory.mktemp("postgres")
    open_to_nobody(folder)
    with embedded.postgres(folder, settings={"max_connections": "200", **HASTY}) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.S3]:
    """The embedded S3 server."""
    with embedded.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def open_to_nobody(folder: Path) -> None:
    """As root, PostgreSQL runs as another user, who must get through pytest's private folders."""
    if os.geteuid() == 0:
        for parent in (folder, *folder.parents):
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)


@contextlib.contextmanager
def _new_database(server: embedded.Postgres) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield server.url_of(name)
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database(postgres: embedded.Postgres) -> Iterator[str]:
    """The URL of an empty database for one test."""
    with _new_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def module_database(postgres: embedded.Postgres) -> Iterator[str]:
    """The URL of an empty database for the tests of one module."""
    with _new_database(postgres) as url:
        yield url


@pytest.fixture
def control(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    """A control database, which `DATABASE_URL` names; its connectors read from itself and write into `tmp_path / "out"`."""
    monkeypatch.setenv("DATABASE_URL", database)
    with contextlib.closing(Control(database, tmp_path / "out")) as platform:
        yield platform


@pytest.fixture(scope="session")
def s3_client(s3_server: embedded.S3) -> Iterator[Any]:
    """A plain boto3 client, to look at the server by another way than the engine's."""
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    yield client
    client.close()


@pytest.fixture
def bucket(s3_client: Any) -> Iterator[str]:
    """An empty bucket for one test; removed afterwards, because SeaweedFS keeps volumes for each and has some sixty of them."""
    name = f"test-{next(_numbers)}"
    s3_client.create_bucket(Bucket=name)
    yield name
    for upload in s3_client.list_multipart_uploads(Bucket=name).get("Uploads", []):
        s3_client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3_client.get_paginator("list_objects_v2").paginate(Bucket=name):
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
        if keys:
            s3_client.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def s3_options(s3_server: embedded.S3, bucket: str) -> dict[str, Any]:
    """Keys of an S3 destination in that bucket."""
    return {**s3_server.options(), "bucket": bucket}


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sftp_servers.SftpServer]:
    """rclone's SFTP server."""
    with sftp_servers.rclone(tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(scope="session")
def openssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sftp_servers.SftpServer]:
    """OpenSSH's SFTP server; needed by tests marked `system`."""
    with sftp_servers.openssh(tmp_path_factory.mktemp("openssh")) as server:
        yield server


@pytest.fixture
def sftp_folder() -> str:
    """The name of a folder that nobody else uses, for one test."""
    return f"test-{next(_numbers)}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's own shell sets must not decide a test."""
    for name in (
        "FERRY_DATABASE",
        "FERRY_LEASE_SECONDS",
        "FERRY_REQUIRE_TLS",
        "DATABASE_URL",
        "MINIO_ACCESS_KEY",
        "MINIO_SECRET_KEY",
        "MINIO_ENDPOINT",
        "PGUSER",
        "PGPASSWORD",
        "PGHOST",
        "PGDATABASE",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def system_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Postgres]:
    """A PostgreSQL of the system, with its extensions; needed by tests marked `system`."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *(Path(p).parent for p in [shutil.which("initdb")] if p)]
    if not found:
        pytest.fail("no PostgreSQL with extensions on this system (Debian: postgresql, postgresql-contrib)")
    folder = tmp_path_factory.mktemp("system-postgres")
    open_to_nobody(folder)
    with embedded.postgres(folder, bin_dir=found[-1]) as server:
        yield server


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `system` need root or installed programs: they run where FERRY_SYSTEM_TESTS says so, and fail there if something is missing.

    Those marked `slow` run where FERRY_SLOW_TESTS says so; both do in CI.
    """
    del config
    not_run = {} if THOROUGH else {"slow": pytest.mark.skip(reason="takes long; FERRY_SLOW_TESTS=1 runs it")}
    if os.environ.get("FERRY_SYSTEM_TESTS") != "1":
        not_run["system"] = pytest.mark.skip(reason="needs root or installed programs; FERRY_SYSTEM_TESTS=1 runs it")
    for item in items:
        for name, skipped in not_run.items():
            if item.get_closest_marker(name):
                item.add_marker(skipped)


@pytest.fixture
def as_user() -> str | None:
    """Whom a process runs as that must not be root: root is refused no folder."""
    return "nobody" if os.geteuid() == 0 else None
