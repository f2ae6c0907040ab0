"""What limits a run is told: of real runs whose slow part is known, and of threads that take turns in stages."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import engine
from engine import stages
from engine.stages import STAGES, Meter, Stages
from tests.cli.test_bad_input import ferry
from tests.effort import slow
from tests.tcp_proxy import NEVER_ENDING, Fault, tcp_proxy

if TYPE_CHECKING:
    from pathlib import Path

    from engine import embedded

SLOW_ROWS = "SELECT i, pg_sleep(0.05)::text AS s FROM generate_series(1, 30) i"
SLEPT = 1.5
LINES = "SELECT md5(i::text) AS a, md5((-i)::text) AS b FROM generate_series(1, 30000) i"


def told(result: engine.RunResult) -> Stages:
    """What the run says of its stages, which holds for each: one thread has no more seconds than the run, and no fewer than none."""
    assert result.stages is not None
    assert tuple(result.stages.times) == STAGES
    for of in result.stages.times.values():
        assert 0 <= of.busiest <= result.seconds
        assert of.busiest <= of.seconds <= max(of.threads, 1) * of.busiest * 1.1
    assert result.stages.busiest <= result.seconds
    return result.stages


@pytest.mark.parametrize("reader", ["adbc", "copy", slow("connectorx")])
@pytest.mark.parametrize("suffix", [slow(".csv"), ".parquet"])
def test_a_server_that_takes_its_time_limits_by_reading(database: str, tmp_path: Path, reader: str, suffix: str) -> None:
    found = told(engine.export(SLOW_ROWS, tmp_path / f"x{suffix}", database=database, reader=reader))
    assert found.limited_by == "reading"
    assert found.times["reading"].busiest >= SLEPT
    assert found.times["reading"].threads == 1
    assert found.times["waiting_for_batches"].busiest >= SLEPT / 2
    assert found.times["waiting_for_room"].seconds <= SLEPT / 2


@pytest.mark.parametrize("suffix", [".csv", slow(".parquet")])
def test_a_destination_that_takes_its_time_limits_by_writing(database: str, sftp_server: Any, sftp_folder: str, suffix: str) -> None:
    options = sftp_server.options(sftp_folder)
    with tcp_proxy(options["port"]) as proxy:
        proxy.arm(Fault("delay", "up", 0, times=NEVER_ENDING, seconds=0.05))  # of each 64 KiB at most, so a second and a half at least
        url = f"sftp://{options['username']}@127.0.0.1:{proxy.port}{options['path']}/x{suffix}"
        found = told(engine.export(LINES, url, database=database, dest_options={**options, "port": proxy.port}))
    assert found.limited_by == "writing"
    assert found.times["writing"].busiest >= 0.75


def test_an_object_that_is_sent_at_the_end_limits_by_publishing(database: str, s3_server: embedded.S3, s3_options: dict[str, Any], bucket: str) -> None:
    with tcp_proxy(int(s3_server.endpoint_url.rpartition(":")[2])) as proxy:
        proxy.arm(Fault("delay", "up", 0, times=NEVER_ENDING, seconds=0.05))
        options = {**s3_options, "endpoint_url": f"http://127.0.0.1:{proxy.port}"}
        found = told(engine.export(LINES, f"s3://{bucket}/x.csv", database=database, dest_options=options))
    assert found.limited_by == "publishing"
    assert found.times["publishing"].busiest >= 0.75


def test_heavy_compression_limits_by_encoding(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            "CREATE TABLE texts AS SELECT string_agg(md5((i * 100 + j)::text), '') AS t FROM generate_series(1, 6000) i, generate_series(1, 100) j GROUP BY i"
        )
    found = told(engine.export("TABLE texts", tmp_path / "x.csv.gz", database=database))
    assert found.limited_by == "encoding"
    assert found.times["encoding"].threads == 2
    assert found.times["waiting_for_room"].seconds > 0


def test_readers_that_convert_where_they_read_are_told_apart(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE wide AS SELECT i, repeat('x', 1900) AS a FROM generate_series(1, 40000) i")
    result = engine.export("TABLE wide", tmp_path / "x.parquet", database=database, readers=2)
    found = told(result)
    assert not result.notes
    assert found.times["reading"].threads == 2
    assert found.times["converting"].seconds > 0


def test_the_command_shows_them_and_json_has_them_always(database: str, tmp_path: Path) -> None:
    target, env = str(tmp_path / "x.csv"), {"FERRY_DATABASE": database}
    shown = ferry("export", SLOW_ROWS, target, "--stats", env=env).stdout.splitlines()
    table, sentence = shown[-len(STAGES) - 1 : -1], shown[-1]
    assert [line[:20].strip().replace(" ", "_") for line in table] == list(STAGES)
    assert sentence.startswith("limited by reading: its thread was busy ")
    assert "limited by" not in ferry("export", "SELECT 1 AS a", target, env=env).stdout
    told_of = json.loads(ferry("export", SLOW_ROWS, target, "--json", env=env).stdout)["stages"]
    assert told_of["limited_by"] == "reading"
    assert list(told_of["times"]) == list(STAGES)
    assert told_of["times"]["reading"].keys() == {"seconds", "threads", "busiest"}


def test_a_file_that_was_left_as_it_is_has_no_stages(database: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n")
    result = engine.export("SELECT 1 AS a", tmp_path / "x.csv", database=database, if_exists="skip")
    assert result.stages is None
    assert result.to_dict()["stages"] is None


def test_a_stage_within_another_stops_its_clock() -> None:
    meter, began = Meter(), time.perf_counter()
    with meter.busy("encoding"):
        time.sleep(0.02)
        with pytest.raises(ZeroDivisionError), meter.busy("writing"):
            time.sleep(0.05)
            _ = 1 / 0
        inner = meter.total()
    total, wall = meter.total(), time.perf_counter() - began
    assert total.times["writing"].seconds == inner.times["writing"].seconds >= 0.05
    assert total.times["encoding"].seconds >= 0.02
    assert total.times["encoding"].seconds + total.times["writing"].seconds == pytest.approx(total.busiest)
    assert total.busiest <= wall


def test_the_busiest_thread_limits_not_the_stage_with_most_threads() -> None:
    meter = Meter()

    def one(seconds: float, stage: stages.Stage) -> None:
        with meter.busy(stage):
            time.sleep(seconds)
        meter.switch("waiting_for_batches")
        time.sleep(0.6)
        meter.switch(None)

    threads = [threading.Thread(target=one, args=(0.1, "encoding")) for _ in range(4)] + [threading.Thread(target=one, args=(0.35, "writing"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = meter.total()
    assert total.limited_by == "writing"
    assert total.times["encoding"].threads == 4
    assert total.times["encoding"].seconds >= 0.4


def test_nobody_is_measured_by_another_run() -> None:
    with stages.measuring() as outer:
        assert stages.current() is outer
        with stages.measuring() as inner:
            assert stages.current() is inner
        assert stages.current() is outer
    stages.current().run("reading", time.sleep, 0)
    assert outer.total().times["reading"].seconds == 0
    assert outer.total().describe(0).count("\n") == len(STAGES) + 1
