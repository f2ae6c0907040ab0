"""Several readers are one reader, only faster: the same bytes, one snapshot whatever others write, and everybody gone when it ends."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import pyarrow.parquet as pq
import pytest

import engine
from engine import embedded, registry, workers
from engine.errors import FerryError, ProcessingError, QueryFailed, SchemaMismatch, UnrepresentableValue
from engine.postgres import splitting
from engine.postgres.reader import Reader, Shared
from engine.postgres.source import Stream
from engine.postgres.source_options import PostgresSourceOptions
from tests.conftest import open_to_nobody
from tests.effort import slow
from tests.tcp_proxy import Fault, tcp_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


READERS = (1, 2, 4)
MIXED = """
CREATE TABLE mixed AS SELECT i, i::numeric(15, 2) AS n, md5(i::text) AS s, date '2024-01-01' + i % 1000 AS d, now() - i * interval '1 min' AS ts,
    CASE WHEN i % 1000 = 0 THEN repeat(md5(i::text), 2000) END AS long FROM generate_series(1, 40000) i;
DELETE FROM mixed WHERE i BETWEEN 5000 AND 12000;
UPDATE mixed SET s = s || 'x' WHERE i % 11 = 0;
INSERT INTO mixed SELECT -i, i, '', NULL, NULL FROM generate_series(1, 1000) i;
"""
SLOW = "CREATE FUNCTION slow(i int, seconds float8) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_sleep(seconds); RETURN i; END'"


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "SPLIT_FROM_BYTES", 0)
    monkeypatch.setattr(splitting, "RANGE_BYTES", 32 * 8192)


@pytest.fixture(params=["adbc", slow("copy")], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test is of each kind of reader."""
    parse = PostgresSourceOptions.parse

    def with_reader(values: Any, **more: Any) -> PostgresSourceOptions:
        return parse({"reader": request.param, **values}, **more)

    monkeypatch.setattr(PostgresSourceOptions, "parse", with_reader)
    return str(request.param)


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def fetch(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()


def connections(database: str) -> list[int]:
    return [pid for (pid,) in fetch(database, "SELECT pid FROM pg_stat_activity WHERE application_name = 'arrow-ferry' AND datname = current_database()")]


def reading(database: str) -> list[int]:
    """Those that are at a range now; one that is ended earlier is only missed."""
    return [pid for (pid,) in fetch(database, "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%slow(%'")]


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def opened(database: str, query: str, readers: int, **more: Any) -> Iterator[Stream]:
    given = {"connection_string": database, "query": query, "readers": readers, **more}
    with registry.row_source(registry.POSTGRES, PostgresSourceOptions.parse(given, where="source")).read("typed") as stream:
        yield stream


def numbers(stream: Stream) -> list[int]:
    return [i for batch in stream.reader for i in batch.column(0).to_pylist()]


@pytest.mark.parametrize("limit", [{}, {"max_file_rows": 3000}, {"max_file_mb": 0.5}], ids=["one-file", "by-rows", "by-size"])
@pytest.mark.parametrize("suffix", [".csv", slow(".csv.zst"), ".parquet"])
def test_any_number_of_readers_writes_the_same_bytes(database: str, tmp_path: Path, suffix: str, limit: dict[str, Any]) -> None:
    execute(database, MIXED)
    results = [engine.export("SELECT * FROM mixed WHERE i % 3 <> 0", tmp_path / f"{n}{suffix}", database=database, readers=n, **limit) for n in READERS]
    hashes = [[(file.sha256, file.rows) for file in result.files] for result in results]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(hashes[0]) > 1 or not limit
    assert [result.rows for result in results] == [fetch(database, "SELECT count(*) FROM mixed WHERE i % 3 <> 0")[0][0]] * 3
    assert [result.notes for result in results] == [()] * 3


def test_what_four_readers_wrote_comes_back(database: str, tmp_path: Path) -> None:
    execute(database, MIXED, "CREATE TABLE copied (LIKE mixed)")
    engine.export("TABLE mixed", tmp_path / "x.csv", database=database, readers=4)
    with psycopg.connect(database) as connection, connection.cursor().copy("COPY copied FROM STDIN (FORMAT csv, HEADER)") as copy:
        copy.write((tmp_path / "x.csv").read_bytes())
    both = "(SELECT t::text FROM {} t EXCEPT ALL SELECT t::text FROM {} t)"
    assert fetch(database, f"{both.format('mixed', 'copied')} UNION ALL {both.format('copied', 'mixed')}") == []
    ordered = [i for (i,) in fetch(database, "SELECT i FROM mixed ORDER BY ctid")]
    engine.export("SELECT i FROM mixed", tmp_path / "x.parquet", database=database, readers=4)
    assert pq.read_table(tmp_path / "x.parquet")["i"].to_pylist() == ordered


def test_all_readers_read(database: str) -> None:
    execute(database, MIXED, SLOW)
    with opened(database, "SELECT slow(i, 0.005) FROM mixed WHERE i % 20 = 0", readers=4) as stream:
        until(lambda: len(connections(database)) == 4)
        assert sorted(numbers(stream)) == [i for (i,) in fetch(database, "SELECT i FROM mixed WHERE i % 20 = 0 ORDER BY i")]
        assert sum(reader.rows > 0 for reader in stream._readers) == 4
    assert stream.notes == []
    until(lambda: not connections(database), 5)


def test_transfers_between_accounts_meanwhile_do_not_change_the_sum(database: str) -> None:
    execute(
        database,
        "CREATE TABLE account AS SELECT i, 1000 AS balance, repeat('x', 200) AS pad FROM generate_series(0, 19999) i; ALTER TABLE account ADD PRIMARY KEY (i)",
    )
    stop, transfers = threading.Event(), Counter[str]()

    def write(name: str, step: int) -> None:
        with psycopg.connect(database) as connection:
            for n in itertools.count(step, step):
                if stop.is_set():
                    return
                connection.execute(f"UPDATE account SET balance = balance - 7, pad = pad || 'y' WHERE i = {n * 7919 % 20000}")
                connection.execute(f"UPDATE account SET balance = balance + 7 WHERE i = {(n * 104729 + 1) % 20000}")
                connection.commit()
                transfers[name] += 1

    writers = [threading.Thread(target=write, args=(f"writer {step}", step)) for step in (1, 10)]
    for writer in writers:
        writer.start()
    try:
        until(lambda: sum(transfers.values()) > 100)
        for readers in (2, 4, 4, 4):
            before = sum(transfers.values())
            with opened(database, "SELECT i, balance FROM account", readers) as stream:
                table = stream.reader.read_all()
            assert stream.notes == []
            assert table.num_rows == 20_000
            assert sum(table["balance"].to_pylist()) == 20_000_000
            assert sorted(table["i"].to_pylist()) == list(range(20_000))
            assert sum(transfers.values()) > before
    finally:
        stop.set()
        for writer in writers:
            writer.join()


CHANGES = {
    "inserted": ("INSERT INTO mixed SELECT i FROM generate_series(100000, 140000) i",),
    "updated": ("UPDATE mixed SET s = repeat('y', 500)",),
    "deleted": ("DELETE FROM mixed",),
    "vacuumed": ("DELETE FROM mixed WHERE i % 2 = 0", "VACUUM (FREEZE, ANALYZE) mixed"),
    "filled again": ("DELETE FROM mixed WHERE i > 1000", "VACUUM mixed", "INSERT INTO mixed SELECT i FROM generate_series(100000, 140000) i"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_are_those_of_the_moment_it_began(database: str, change: str) -> None:
    execute(database, MIXED)
    expected = [i for (i,) in fetch(database, "SELECT i FROM mixed ORDER BY ctid")]
    with opened(database, "SELECT i, s, long FROM mixed", readers=4) as stream:
        execute(database, *CHANGES[change])
        assert numbers(stream) == expected


def changing_before_it_begins(database: str, *statements: str) -> Callable[..., None]:
    """`Reader.begin`, with somebody else's work between the plan and it."""
    begin = Reader.begin

    def changed(self: Reader) -> None:
        execute(database, *statements)
        begin(self)

    return changed


@pytest.mark.parametrize(
    "change", [("INSERT INTO mixed SELECT i FROM generate_series(100000, 160000) i",), ("DELETE FROM mixed WHERE i > 1000", "VACUUM FULL mixed")]
)
def test_a_table_that_grows_or_shrinks_between_plan_and_snapshot_is_read_whole(database: str, monkeypatch: pytest.MonkeyPatch, change: tuple[str, ...]) -> None:
    execute(database, MIXED)
    monkeypatch.setattr(Reader, "begin", changing_before_it_begins(database, *change))
    with opened(database, "SELECT i FROM mixed", readers=4) as stream:
        assert numbers(stream) == [i for (i,) in fetch(database, "SELECT i FROM mixed ORDER BY ctid")]


@pytest.mark.parametrize("rows", [0, 1, 100])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_smaller_than_a_page_and_empty_ones(database: str, tmp_path: Path, rows: int, suffix: str) -> None:
    execute(database, f"CREATE TABLE small AS SELECT i FROM generate_series(1, {rows}) i")
    assert engine.export("TABLE small", tmp_path / f"x{suffix}", database=database, readers=4).rows == rows


def test_pages_without_rows_and_rows_of_megabytes_keep_the_order(database: str) -> None:
    execute(database, "CREATE TABLE skewed (i int, s text); ALTER TABLE skewed ALTER s SET STORAGE EXTERNAL")
    execute(database, "INSERT INTO skewed SELECT i, 'x' FROM generate_series(1, 60000) i; DELETE FROM skewed WHERE i BETWEEN 2000 AND 58000")
    execute(database, "INSERT INTO skewed SELECT -i, repeat(md5(i::text), 60000) FROM generate_series(1, 20) i")
    expected = [i for (i,) in fetch(database, "SELECT i FROM skewed ORDER BY ctid")]
    for readers in READERS:
        with opened(database, "TABLE skewed", readers) as stream:
            assert numbers(stream) == expected


def test_nobody_can_drop_or_alter_the_table_meanwhile(database: str) -> None:
    execute(database, MIXED, SLOW)
    expected = [i for (i,) in fetch(database, "SELECT i FROM mixed WHERE i % 20 = 0 ORDER BY ctid")]
    with opened(database, "SELECT slow(i, 0.005) FROM mixed WHERE i % 20 = 0", readers=4) as stream:
        with psycopg.connect(database) as connection, pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("SET lock_timeout = '200ms'; DROP TABLE mixed")
        altering = threading.Thread(target=execute, args=(database, "ALTER TABLE mixed DROP COLUMN s"))
        altering.start()
        assert numbers(stream) == expected
    altering.join(20)
    assert not altering.is_alive()


def test_readers_that_would_wait_behind_an_alter_table_leave_the_work_to_the_first(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(database, MIXED, SLOW)
    join = Reader.join
    altering = threading.Thread(target=execute, args=(database, "ALTER TABLE mixed ADD COLUMN late int"))

    def join_behind_somebody(self: Reader, shared: Shared) -> None:
        altering.start()
        until(lambda: fetch(database, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER%' AND wait_event_type = 'Lock'"))
        join(self, shared)

    monkeypatch.setattr(Reader, "join", join_behind_somebody)
    with opened(database, "SELECT slow(i, 0.002) FROM mixed WHERE i % 20 = 0", readers=2) as stream:
        assert len(numbers(stream)) > 1_000
    assert stream.notes == ["one reader of 2 could not take part: another session waits for the table"]
    altering.join(20)
    assert not altering.is_alive()


@pytest.mark.parametrize(
    ("change", "error"),
    [("DROP TABLE mixed", QueryFailed), ("DROP TABLE mixed; CREATE TABLE mixed (i text)", SchemaMismatch), ("ALTER TABLE mixed RENAME i TO j", QueryFailed)],
)
def test_a_table_that_is_gone_or_another_one_when_reading_begins_is_an_error(
    database: str, monkeypatch: pytest.MonkeyPatch, change: str, error: type[FerryError]
) -> None:
    execute(database, MIXED)
    monkeypatch.setattr(Reader, "begin", changing_before_it_begins(database, change))
    with pytest.raises(error), opened(database, "SELECT i FROM mixed", readers=4) as stream:
        numbers(stream)
    until(lambda: not connections(database), 5)


@pytest.mark.parametrize("interrupted", [False, True], ids=["left", "interrupted"])
def test_leaving_early_ends_all_readers_within_a_second(database: str, interrupted: bool) -> None:
    execute(database, MIXED, SLOW)
    begun: list[float] = []

    def unwanted() -> None:
        if begun and interrupted:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), workers.watching(unwanted), opened(database, "SELECT slow(i, 0.1) FROM mixed", readers=4) as stream:
        until(lambda: len(connections(database)) == 4)
        begun.append(time.monotonic())
        if interrupted:
            numbers(stream)
    until(lambda: not connections(database), 1)
    assert time.monotonic() - begun[0] < 1.5


def test_leaving_while_readers_wait_for_their_turn_ends_them(database: str) -> None:
    execute(database, MIXED)
    with opened(database, "SELECT * FROM mixed", readers=4) as stream:
        stream.reader.read_next_batch()
        started = time.monotonic()
    assert time.monotonic() - started < 1
    until(lambda: not connections(database), 1)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_one_killed_backend_ends_all_with_one_error_and_no_file(database: str, tmp_path: Path, suffix: str) -> None:
    execute(database, MIXED, SLOW)

    def kill() -> None:
        until(lambda: len(reading(database)) == 4)
        fetch(database, f"SELECT pg_terminate_backend({max(reading(database))})")

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(QueryFailed) as caught:
        engine.export("SELECT slow(i, 0.001) FROM mixed", tmp_path / f"out/x{suffix}", database=database, readers=4)
    killer.join()
    assert caught.value.transient
    assert not (tmp_path / "out").exists()
    until(lambda: not connections(database), 2)


@pytest.mark.parametrize("readers", READERS)
@pytest.mark.parametrize("kind", [slow("reset"), "truncate"])
def test_a_connection_that_breaks_or_ends_early_is_an_error_and_no_file(
    postgres: embedded.Postgres, database: str, tmp_path: Path, readers: int, kind: Literal["reset", "truncate"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have joined before one reads: who breaks off earlier is only missed."""
    execute(database, MIXED)
    joined, take_turns = threading.Barrier(readers), Stream._take_turns

    def together(self: Stream, reader: Reader) -> None:
        joined.wait(30)
        take_turns(self, reader)

    monkeypatch.setattr(Stream, "_take_turns", together)
    with tcp_proxy(postgres.port) as proxy:
        url = re.sub(r":\d+/", f":{proxy.port}/", database)
        for after in (1_000_000, 2_000_000, 2_900_000):
            proxy.arm(Fault(kind, "down", after, times=1))
            with pytest.raises(FerryError):
                engine.export("TABLE mixed", tmp_path / f"{after}/x.csv", database=url, readers=readers)
            assert not (tmp_path / str(after)).exists()
            assert proxy.hits == 1


def test_a_server_that_is_gone_before_the_last_commit_is_an_error(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might have gone a moment earlier: the end of the last range is not taken for an end."""
    execute(database, MIXED)

    def gone(self: Reader) -> None:
        for pid in connections(database):
            fetch(database, f"SELECT pg_terminate_backend({pid})")
        self._execute("COMMIT")

    monkeypatch.setattr(Reader, "commit", gone)
    for readers in READERS:
        with pytest.raises(QueryFailed), opened(database, "TABLE mixed", readers) as stream:
            numbers(stream)


def test_rows_that_are_asked_for_too_late_are_an_error(database: str) -> None:
    execute(database, MIXED)
    with opened(database, "TABLE mixed", readers=2) as stream:
        stream.reader.read_next_batch()
    with pytest.raises(ProcessingError, match="after their stream was left"):
        numbers(stream)


@pytest.mark.parametrize("readers", READERS)
def test_an_error_of_the_server_in_any_range_is_the_streams(database: str, tmp_path: Path, readers: int) -> None:
    execute(database, MIXED)
    with pytest.raises(QueryFailed, match="division by zero") as caught:
        engine.export("SELECT 1 / (i - 39000) FROM mixed", tmp_path / "out/x.csv", database=database, readers=readers)
    assert caught.value.sqlstate == "22012"
    assert not (tmp_path / "out").exists()
    until(lambda: not connections(database), 2)


@pytest.mark.parametrize("readers", READERS)
def test_an_unrepresentable_value_is_told_by_its_row(database: str, tmp_path: Path, readers: int) -> None:
    execute(database, MIXED, "UPDATE mixed SET d = 'infinity' WHERE i IN (30000, 35000)")
    place = fetch(database, "SELECT n FROM (SELECT i, row_number() OVER (ORDER BY ctid) n FROM mixed) x WHERE i = 30000")[0][0]
    with pytest.raises(UnrepresentableValue, match=f"column 'd' \\(date\\), row {place:,}: "):
        engine.export("SELECT i, d FROM mixed", tmp_path / "x.parquet", database=database, readers=readers)


@pytest.mark.parametrize("readers", READERS)
def test_the_statement_timeout_is_for_all_ranges_together(database: str, readers: int) -> None:
    execute(database, MIXED, SLOW)
    started = time.monotonic()
    with pytest.raises(QueryFailed, match="57014"), opened(database, "SELECT slow(i, 0.002) FROM mixed", readers, statement_timeout=1.5) as stream:
        numbers(stream)
    assert 1 < time.monotonic() - started < 5


def test_settings_of_the_server_that_change_text_do_not_change_it_in_any_reader(database: str, tmp_path: Path) -> None:
    execute(database, MIXED)
    plain = engine.export("SELECT i, ts, d, n, interval '1 day' AS v FROM mixed", tmp_path / "a.csv", database=database, readers=4, timezone="UTC")
    for setting in ("datestyle = 'SQL, DMY'", "intervalstyle = 'iso_8601'", "timezone = 'Asia/Kolkata'", "idle_in_transaction_session_timeout = '1s'"):
        execute(database, f"ALTER DATABASE {database.rpartition('/')[2]} SET {setting}")
    hostile = engine.export("SELECT i, ts, d, n, interval '1 day' AS v FROM mixed", tmp_path / "b.csv", database=database, readers=4, timezone="UTC")
    assert plain.files[0].sha256 == hostile.files[0].sha256


def test_what_another_client_has_set_in_a_pooled_session_changes_nothing(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(database, MIXED, "CREATE SCHEMA other; CREATE TABLE other.mixed AS SELECT * FROM mixed WHERE i % 2 = 0", SLOW)
    query = "SELECT slow(i, 0.002), ts, d, i::money FROM mixed WHERE d > '02/03/2024' AND i % 20 = 0"
    alone = engine.export(query, tmp_path / "a.csv", database=database, readers=1)
    join = Reader.join

    def join_after_somebody(self: Reader, shared: Shared) -> None:
        self._execute("SET search_path = other, public; SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'SQL, DMY'")
        join(self, shared)

    monkeypatch.setattr(Reader, "join", join_after_somebody)
    together = engine.export(query, tmp_path / "b.csv", database=database, readers=4)
    assert together.notes == ()
    assert alone.files[0].sha256 == together.files[0].sha256


def test_where_no_more_connections_are_given_those_that_are_do_the_work(database: str) -> None:
    execute(database, MIXED, "CREATE ROLE lonely LOGIN PASSWORD 'x' CONNECTION LIMIT 2", "GRANT SELECT ON mixed TO lonely", SLOW)
    try:
        address = database.rpartition("@")[2]
        with opened(f"postgresql://lonely:x@{address}", "SELECT slow(i, 0.0001) FROM mixed WHERE i % 20 = 0", readers=4) as stream:
            assert len(numbers(stream)) == fetch(database, "SELECT count(*) FROM mixed WHERE i % 20 = 0")[0][0]
        assert len(stream.notes) == 2
        assert all(note.startswith("one reader of 4 could not take part: cannot connect") for note in stream.notes)
    finally:
        execute(database, "DROP OWNED BY lonely", "DROP ROLE lonely")


def test_a_query_that_is_not_split_says_so_when_readers_were_asked_for(database: str, tmp_path: Path) -> None:
    asked = engine.export("SELECT 1 AS a", tmp_path / "x.csv", database=database, readers=2)
    assert asked.notes == ("read as one stream, not by 2 readers: it is no plain scan of one table",)
    assert engine.export("SELECT 1 AS a", tmp_path / "x.csv", database=database).notes == ()


def test_small_tables_are_read_by_one_connection(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    execute(database, MIXED)
    with opened(database, "TABLE mixed", readers=2) as stream:
        assert len(stream._readers) == 1
        assert stream.notes == ["read as one stream, not by 2 readers: its table has less than 64 MiB"]


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Postgres]:
    """A server in recovery, with a table."""
    folder = tmp_path_factory.mktemp("standby")
    open_to_nobody(folder)
    with embedded.postgres(folder) as server:
        execute(server.url, MIXED)
    (folder / "data" / "standby.signal").touch()
    with embedded.postgres(folder) as server:
        yield server


def test_a_standby_is_read_by_one_reader_and_says_so(standby: embedded.Postgres) -> None:
    assert fetch(standby.url, "SELECT pg_is_in_recovery()") == [(True,)]
    expected = [i for (i,) in fetch(standby.url, "SELECT i FROM mixed ORDER BY ctid")]
    with opened(standby.url, "SELECT i FROM mixed", readers=4) as stream:
        assert numbers(stream) == expected
    assert stream.notes == ["read by one reader: the server is a standby, where a shared snapshot is not relied on"]


def test_connections_that_lead_to_another_server_are_noticed(
    postgres: embedded.Postgres, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a balancer in front of several servers leads them; the other one has a table of that name, too."""
    execute(postgres.url, "DROP TABLE IF EXISTS mixed", MIXED, "DROP FUNCTION IF EXISTS slow", SLOW)
    folder = tmp_path_factory.mktemp("other")
    open_to_nobody(folder)
    export = Reader.export
    with embedded.postgres(folder) as other, tcp_proxy(postgres.port) as proxy:
        execute(other.url, MIXED, SLOW, f"ALTER ROLE postgres PASSWORD '{postgres.password}'")

        def export_then_turn(self: Reader) -> Shared:
            shared = export(self)
            proxy.target = ("127.0.0.1", other.port)
            return shared

        monkeypatch.setattr(Reader, "export", export_then_turn)
        with opened(re.sub(r":\d+/", f":{proxy.port}/", postgres.url), "SELECT slow(i, 0.001) FROM mixed WHERE i % 20 = 0", readers=2) as stream:
            assert numbers(stream) == [i for (i,) in fetch(postgres.url, "SELECT i FROM mixed WHERE i % 20 = 0 ORDER BY ctid")]
    assert len(stream.notes) == 1
    assert stream.notes[0].startswith("one reader of 2 could not take part: the leading reader's snapshot is not known")


def test_a_server_that_shares_no_snapshot_is_read_by_one_reader(database: str) -> None:
    execute(
        database, MIXED, "REVOKE EXECUTE ON FUNCTION pg_export_snapshot() FROM PUBLIC", "CREATE ROLE plain LOGIN PASSWORD 'x'", "GRANT SELECT ON mixed TO plain"
    )
    try:
        with opened(f"postgresql://plain:x@{database.rpartition('@')[2]}", "SELECT i FROM mixed", readers=4) as stream:
            assert numbers(stream) == [i for (i,) in fetch(database, "SELECT i FROM mixed ORDER BY ctid")]
        assert stream.notes == ["read by one reader: the server shares no snapshot (SQLSTATE 42501)"]
    finally:
        execute(database, "DROP OWNED BY plain", "DROP ROLE plain")
