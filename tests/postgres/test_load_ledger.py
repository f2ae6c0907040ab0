"""Exactly once: two loads at once, kills, interruptions."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from engine import workers
from engine.errors import LoadFailed, ResourceError
from engine.postgres.columns import Column
from engine.postgres.load_ledger import FileIdentity
from tests.control.platform import until
from tests.effort import slow
from tests.postgres.loads import IDS, destination, execute, fetch, file, load, people, reader

if TYPE_CHECKING:
    from pathlib import Path

BATCH = pa.record_batch({"id": pa.array([1], pa.int32()), "name": ["x"]})


def streamed(batches: Any) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(BATCH.schema, batches)


@pytest.mark.parametrize("more", [{}, {"write_disposition": "merge", "primary_key": "id"}])
def test_two_loads_of_one_file_at_once_load_it_once(database: str, more: dict[str, Any]) -> None:
    load(destination(database, **more), (file("/data/first.csv"), people(0)))
    inside, go = threading.Event(), threading.Event()

    def slowly() -> Any:
        yield BATCH
        inside.set()
        assert go.wait(20)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load, destination(database, **more), (file(), streamed(slowly())))
        assert inside.wait(20)
        second = pool.submit(load, destination(database, **more), (file(), people(1)))
        time.sleep(0.5)
        assert not second.done(), "the second waits for the first to commit or give up"
        go.set()
        assert (first.result(), second.result()) == ([1], [None])
    assert fetch(database, "SELECT count(*) FROM people WHERE id = 1") == [(1,)]


def test_the_second_loads_the_file_when_the_first_gives_up(database: str) -> None:
    load(destination(database), (file("/data/first.csv"), people(0)))
    inside, go = threading.Event(), threading.Event()

    def slowly() -> Any:
        yield BATCH
        inside.set()
        assert go.wait(20)
        raise LoadFailed("given up")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load, destination(database), (file(), streamed(slowly())))
        assert inside.wait(20)
        second = pool.submit(load, destination(database), (file(), people(1)))
        go.set()
        assert second.result() == [1]
        with pytest.raises(LoadFailed, match="given up"):
            first.result()
    assert fetch(database, "SELECT count(*) FROM people WHERE id = 1") == [(1,)]


def test_two_versions_of_one_file_at_once_are_one_change(database: str) -> None:
    load(destination(database), (file("/data/first.csv"), people(0)))
    inside, go = threading.Event(), threading.Event()

    def slowly() -> Any:
        yield BATCH
        inside.set()
        assert go.wait(20)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load, destination(database), (file(), streamed(slowly())))
        assert inside.wait(20)
        second = pool.submit(load, destination(database), (file(version="v2"), people(1)))
        time.sleep(0.3)
        go.set()
        assert first.result() == [1]
        with pytest.raises(LoadFailed, match="as another version"):
            second.result()


def test_a_file_that_comes_twice_in_a_replace_is_refused(database: str) -> None:
    with pytest.raises(LoadFailed, match="loaded twice in one load"):
        load(destination(database, write_disposition="replace"), (file(), people(1)), (file(), people(2)))


def test_six_first_loads_of_one_new_table_at_once(database: str) -> None:
    start = threading.Barrier(6)

    def one(i: int) -> list[int | None]:
        start.wait()
        return load(destination(database, schema="new one"), (file(f"/data/{i}.csv"), people(i)))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(6))) == [[1]] * 6
    assert fetch(database, 'SELECT id FROM "new one".people ORDER BY id') == [(i,) for i in range(6)]


def test_first_loads_of_six_new_tables_do_not_wait_for_each_other(database: str) -> None:
    """All are within their first file at the same time."""
    start = threading.Barrier(6)

    def one(i: int) -> list[int | None]:
        def rows() -> Any:
            start.wait(20)
            yield BATCH

        return load(destination(database, table=f"t{i}", schema="fresh"), (file(f"/data/{i}.csv"), streamed(rows())))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(6))) == [[1]] * 6
    assert fetch(database, "SELECT count(*) FROM pg_index WHERE indrelid = 'fresh._ferry_loads'::regclass") == [(2,)], "the ledger is made once"


def test_a_load_that_adds_a_column_waits_for_one_that_does_not_and_readers_only_for_its_end(database: str) -> None:
    load(destination(database), (file("/data/first.csv"), people(0)))
    wider = (*IDS, Column("more", "text"))
    inside, go = threading.Event(), threading.Event()

    def slowly() -> Any:
        yield BATCH
        inside.set()
        assert go.wait(20)

    def wide() -> list[int | None]:
        return load(
            destination(database), (file("/data/wide.csv"), reader(id=pa.array([7], pa.int32()), name=pa.array(["x"]), more=pa.array(["y"]))), wanted=wider
        )

    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(load, destination(database), (file(), streamed(slowly())))
        assert inside.wait(20)
        added = pool.submit(wide)
        until(lambda: fetch(database, "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'people'::regclass"))
        go.set()
        assert (plain.result(), added.result()) == ([1], [1])
    assert fetch(database, "SELECT id, more FROM people ORDER BY id") == [(0, None), (1, None), (7, "y")]


def test_a_table_is_read_while_rows_with_a_new_column_are_sent(database: str) -> None:
    load(destination(database), (file("/data/first.csv"), people(0)))
    seen: list[Any] = []

    batch = BATCH.append_column("more", pa.array(["y"]))

    def rows() -> Any:
        yield batch
        seen.append(fetch(database, "SELECT to_json(p)::text FROM people p"))

    sent = pa.RecordBatchReader.from_batches(batch.schema, rows())
    load(destination(database), (file(), sent), wanted=(*IDS, Column("more", "text")))
    assert seen == [[('{"id":0,"name":"x"}',)]]


LOADER = """
import os, signal, sys
import dlt
from engine.postgres import dataset, file_load, load_ledger, rejected, session, staging
from tests.postgres.loads import destination, file, load, people, IDS

url, disposition = sys.argv[1:]

def kill(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    setattr(owner, name, kill)

def after(owner, name):
    whole = getattr(owner, name)
    setattr(owner, name, lambda *args, **more: (whole(*args, **more), kill()))

steps = {
    "begin": lambda: after(session.Session, "begin"), "made": lambda: after(dataset.Dataset, "sync"), "claimed": lambda: after(load_ledger.LoadLedger, "claim"),
    "sent": lambda: after(session.Session, "ingest"), "counted": lambda: after(load_ledger.LoadLedger, "complete"),
    "noted": lambda: after(dataset.Dataset, "complete"), "committing": lambda: before(session.Session, "commit"),
    "committed": lambda: after(session.Session, "commit"), "none": lambda: None,
}
more = {"write_disposition": disposition, **({"primary_key": "id"} if disposition == "merge" else {})}
for step in sys.stdin:
    if (child := os.fork()) == 0:
        steps[step.strip()]()
        load(destination(url, **more), (file("/data/a.csv"), people(1, 2)), (file("/data/b.csv"), people(3)))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STEPS = ("begin", "made", "claimed", "sent", "counted", "noted", "committing", "committed")


@pytest.mark.parametrize("disposition", ["append", slow("merge"), slow("replace")])
@pytest.mark.parametrize("standing", [slow(False), True])
def test_sigkill_anywhere_leaves_all_of_a_file_or_nothing_and_a_rerun_ends_with_each_row_once(database: str, disposition: str, standing: bool) -> None:
    """Each step in a process of its own, forked by one that has imported everything; the ledger and the rows agree after each, and the last run completes."""
    if standing:
        load(destination(database, run="before"), (file("/data/before.csv"), people(100)))
    with subprocess.Popen([sys.executable, "-c", LOADER, database, disposition], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loader:
        assert loader.stdin
        assert loader.stdout
        for step in (*STEPS, "none"):
            print(step, file=loader.stdin, flush=True)
            assert int(loader.stdout.readline()) == (0 if step == "none" else -signal.SIGKILL), step
            if fetch(database, "SELECT to_regclass('people') IS NOT NULL AND to_regclass('_ferry_loads') IS NOT NULL")[0][0]:
                in_ledger = fetch(database, "SELECT coalesce(sum(rows), 0)::bigint FROM _ferry_loads")
                assert fetch(database, "SELECT count(*) FROM people") == in_ledger, step
                assert fetch(database, "SELECT count(*) FROM _ferry_loads WHERE load_id NOT IN (SELECT load_id FROM _dlt_loads)") == [(0,)], step
        loader.stdin.close()
    before = [(100,)] if standing and disposition != "replace" else []
    assert fetch(database, "SELECT id FROM people ORDER BY id") == [(1,), (2,), (3,), *before]


def test_an_interruption_acts_within_a_second_and_leaves_nothing(database: str) -> None:
    load(destination(database), (file("/data/first.csv"), people(0)))
    execute(database, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$")
    execute(database, "CREATE TRIGGER t BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION slow()")
    began = time.monotonic()

    def unwanted() -> None:
        if time.monotonic() - began > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workers.watching(unwanted):
        load(destination(database), (file(), people(1)))
    assert time.monotonic() - began < 2.5
    deadline = time.monotonic() + 3
    while fetch(
        database, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    ) != [(0,)]:
        assert time.monotonic() < deadline, "the query still runs"
        time.sleep(0.05)
    assert fetch(database, "SELECT id FROM people") == [(0,)]


def test_an_interruption_ends_a_stream_of_batches_that_goes_on(database: str) -> None:
    """The driver would send every batch to the end."""
    sent = []
    began = time.monotonic()

    def endless() -> Any:
        while True:
            sent.append(1)
            time.sleep(0.05)
            yield BATCH

    def unwanted() -> None:
        if time.monotonic() - began > 1.5:
            raise KeyboardInterrupt

    load(destination(database), (file("/data/first.csv"), people(0)))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers.watching(unwanted):
        load(destination(database), (file(), streamed(endless())))
    assert time.monotonic() - began < 3
    count = len(sent)
    time.sleep(0.3)
    assert len(sent) == count
    assert fetch(database, "SELECT count(*) FROM people") == [(1,)]


def test_an_interruption_does_not_wait_for_a_reader_that_hangs(database: str) -> None:
    """The next batch comes from a store that does not answer."""
    load(destination(database), (file("/data/first.csv"), people(0)))
    go, began = threading.Event(), time.monotonic()

    def hanging() -> Any:
        yield BATCH
        go.wait(20)
        yield BATCH

    def unwanted() -> None:
        if time.monotonic() - began > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workers.watching(unwanted):
        load(destination(database), (file(), streamed(hanging())))
    assert time.monotonic() - began < 2
    go.set()
    deadline = time.monotonic() + 5
    while fetch(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arrow-ferry' AND datname = current_database()") != [(0,)]:
        assert time.monotonic() < deadline, "the connection must be closed once the reader comes back"
        time.sleep(0.05)
    assert fetch(database, "SELECT id FROM people") == [(0,)]


def test_a_wait_for_a_lock_is_interruptible(database: str) -> None:
    load(destination(database), (file("/data/first.csv"), people(0)))
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE people IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()

        def unwanted() -> None:
            if time.monotonic() - began > 0.5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), destination(database).open(IDS) as opened:
            began = time.monotonic()
            with workers.watching(unwanted), opened.file(file()) as one:
                one.write(people(1))
        assert time.monotonic() - began < 2


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_dlt_spools_is_private_and_gone_afterwards_also_after_a_failure(database: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(temporary / "home"))
    monkeypatch.setenv("DLT_DATA_DIR", "/nonexistent/theirs")
    target = destination(database)
    with target.open(IDS) as opened, opened.file(file()) as one:
        one.write(people(4711, name="secret"))
        (folder,) = temporary.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        text = "".join(path.read_text() for path in files)
        assert not re.search("secret|4711", text)
        assert database.rpartition("@")[0].rpartition(":")[2] not in text, "the password"
    with pytest.raises(RuntimeError), target.open(IDS) as opened, opened.file(file("/data/b.csv")):
        raise RuntimeError
    assert list(temporary.iterdir()) == []
    assert os.environ["DLT_DATA_DIR"] == "/nonexistent/theirs"
    assert "RUNTIME__DLTHUB_TELEMETRY" not in os.environ


def test_importing_the_destination_does_not_import_dlt() -> None:
    script = "import sys, engine.postgres.destination; sys.exit('dlt' in sys.modules or 'polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


OLD_LEDGER = "ALTER TABLE _ferry_loads DROP COLUMN leaving"
"""Makes it the one of the version before sources could be taken away."""


@pytest.mark.parametrize("more", [{}, {"write_disposition": "replace"}])
def test_a_ledger_that_an_earlier_version_made_is_read_and_brought_up(database: str, more: dict[str, Any]) -> None:
    load(destination(database, **more), (file(), people(1)))
    execute(database, OLD_LEDGER)
    known = destination(database, **more).loaded(["/data/a.csv"])["/data/a.csv"]
    assert [(one.version, one.rows, one.leaving) for one in known] == [("v1", 1, None)]
    if not more:
        assert load(destination(database), (file(), people(1))) == [None], "what it remembers is not loaded again"
    leaving = FileIdentity("/data/b.csv", "v1", 10, leaving="2026-01-31")
    assert load(destination(database, **more), (leaving, people(2))) == [1]
    assert fetch(database, "SELECT leaving FROM _ferry_loads WHERE path = '/data/b.csv'") == [("2026-01-31",)]


def test_loads_that_bring_an_old_ledger_up_at_once_do_not_wait_for_ever(database: str) -> None:
    load(destination(database), (file("/data/first.csv"), people(0)))
    execute(database, OLD_LEDGER)
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, destination(database), (file(f"/data/{i}.csv"), people(i))) for i in range(1, 5)]
        assert [one.result(timeout=60) for one in loads] == [[1]] * 4
    assert fetch(database, "SELECT count(*) FROM people") == [(5,)]


def test_only_an_old_ledger_needs_its_owner(database: str) -> None:
    load(destination(database), (file(), people(1)))
    execute(
        database,
        "CREATE ROLE loads_only LOGIN PASSWORD 'x'",
        "GRANT USAGE ON SCHEMA public TO loads_only",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO loads_only",
    )
    try:
        user = re.sub("//postgres:[^@]*@", "//loads_only:x@", database)
        assert load(destination(user), (file("/data/b.csv"), people(2))) == [1]
        execute(database, OLD_LEDGER)
        with pytest.raises(ResourceError, match=r"adding the column leaving to public\._ferry_loads.*must be owner of table _ferry_loads"):
            load(destination(user), (file("/data/c.csv"), people(3)))
    finally:
        execute(database, "DROP OWNED BY loads_only", "DROP ROLE loads_only")
    assert fetch(database, "SELECT id FROM people ORDER BY id") == [(1,), (2,)]


def test_the_ledger_is_read_whatever_the_databases_settings(database: str) -> None:
    execute(
        database, *(f"ALTER DATABASE {database.rpartition('/')[2]} SET {setting}" for setting in ("DateStyle = 'SQL, DMY'", "TimeZone = 'America/New_York'"))
    )
    load(destination(database), (file(), people(1)))
    assert destination(database).loaded(["/data/a.csv"])["/data/a.csv"][0].rows == 1
    with pytest.raises(LoadFailed, match="as another version"):
        load(destination(database), (file(version="v2"), people(2)))
