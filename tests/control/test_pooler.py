"""Leases, ledger and whole connectors through PgBouncer in transaction mode, where each statement may meet another server connection."""

from __future__ import annotations

import contextlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

import engine
from engine import embedded
from engine.control import leases
from engine.control.database import ControlDatabase
from engine.errors import LeaseLost
from engine.postgres.columns import Column
from tests.conftest import open_to_nobody
from tests.control.platform import Control, until
from tests.postgres import loads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pooled(control: Control, postgres: Any, tmp_path_factory: pytest.TempPathFactory, as_user: str | None) -> Iterator[str]:
    """The control database through PgBouncer, where two server connections serve everybody and each transaction gets another."""
    folder, port = tmp_path_factory.mktemp("pgbouncer"), embedded.free_ports(1)[0]
    name = control.url.rpartition("/")[2]
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 2,
        "server_round_robin": 1,
        "logfile": "",
    }
    lines = ["[databases]", f"{name} = host=127.0.0.1 port={postgres.port} user=postgres password={postgres.password}", "[pgbouncer]"]
    configuration = folder / "pgbouncer.ini"
    configuration.write_text("\n".join([*lines, *(f"{key} = {value}" for key, value in settings.items())]) + "\n")
    open_to_nobody(folder)
    process = subprocess.Popen(["pgbouncer", configuration], user=as_user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    url = f"postgresql://anybody@127.0.0.1:{port}/{name}"
    try:
        until(lambda: process.poll() is None and answers(url))
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.system
def test_leases_ledger_and_whole_connectors_work_through_a_pooler_in_transaction_mode(control: Control, pooled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", pooled)
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    control.source = pooled
    names = [f"x{number}.csv" for number in range(4)]
    connectors = [control.connector("SELECT i FROM generate_series(1, 25) i", csv_filename=name, max_file_rows=10) for name in names]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(engine.run_connector, connectors))
    assert [(result.status, result.rows, len(result.files)) for result in results] == [("success", 25, 3)] * 4
    assert len(list(control.folder.iterdir())) == 12
    assert [control.records(connector)[0]["status"] for connector in connectors] == ["success"] * 4
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda number: leases.acquire(number, None, None), connectors * 2))
    held = [claim for claim in claims if isinstance(claim, leases.Lease)]
    assert sorted(lease.connector_id for lease in held) == connectors
    with contextlib.ExitStack() as stack:
        for lease in held:
            stack.enter_context(lease)
        query = "SELECT bool_and(clock_timestamp() > acquired_at + interval '3 seconds') AS old FROM ferry_leases"
        until(lambda: control.execute(query)[0]["old"])
        for lease in held:
            lease.check()
        assert all(control.lease(connector)["held"] for connector in connectors)
        control.expire(connectors[0])
        lost = next(lease for lease in held if lease.connector_id == connectors[0])
        with ControlDatabase() as database, pytest.raises(LeaseLost):
            leases.Ledger(database, lost, str).record("x", "publishing")
    assert not any(control.lease(connector)["held"] for connector in connectors)


@pytest.mark.system
def test_loads_work_through_a_pooler_in_transaction_mode(pooled: str) -> None:
    """Temporary tables, locks and settings belong to their transaction alone; four loads share two server connections."""
    more: list[dict[str, Any]] = [{}, {"write_disposition": "merge", "primary_key": "id"}, {"write_disposition": "replace"}]
    for i, options in enumerate(more):
        target = loads.destination(pooled, table=f"people{i}", **options)
        assert loads.load(target, (loads.file(), loads.people(1, 2)), (loads.file("/data/b.csv"), loads.people(3))) == [2, 1]
        assert loads.fetch(pooled, f"SELECT count(*) FROM people{i}") == [(3,)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda i: loads.load(loads.destination(pooled), (loads.file(str(i)), loads.people(i))), range(8)))
    assert counts == [[1]] * 8
    wanted = (*loads.IDS, Column("ip", "inet"))
    with loads.destination(pooled).open(wanted) as opened, opened.file(loads.file("/data/c.csv")) as one:
        rows = loads.reader(id=pa.array([9], pa.int32()), name=["x"], ip=["::1"])
        one.write(rows, by_server=loads.casts(ip="inet"), on_refused=lambda refused: pytest.fail(f"{len(refused)} refused"))
    assert loads.fetch(pooled, "SELECT count(*), count(ip) FROM people") == [(9, 1)]


@pytest.mark.system
@pytest.mark.parametrize("reader", ["adbc", "copy"])
def test_exports_work_through_a_pooler_in_transaction_mode(pooled: str, tmp_path: Path, reader: str) -> None:
    """Statements that are only described, the settings and the snapshot belong to one transaction each."""

    def export(number: int) -> tuple[int, str | None]:
        target = tmp_path / f"{number}.{('csv', 'parquet')[number % 2]}"
        result = engine.export("SELECT i, i::numeric(9,2) AS n, ARRAY[i] AS a FROM generate_series(1, 5000) i", target, database=pooled, reader=reader)
        return result.rows, result.files[0].sha256

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(export, range(12)))
    assert [rows for rows, _ in results] == [5000] * 12
    assert len({sha for _, sha in results[::2]}) == 1
