"""Loads end to end: files in a folder, on S3 or behind SFTP become rows of a table, each file exactly once."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import engine
from engine import workers
from engine.cli.load import read_columns
from engine.errors import ConfigurationError, FerryError, LoadFailed, PartlyFailed, SchemaMismatch
from engine.formats import csv_blocks
from engine.postgres import loading
from tests.control.platform import until
from tests.postgres.loads import execute, fetch
from tests.test_memory import peak_mb

if TYPE_CHECKING:
    from pathlib import Path

LABS = 'id,name,born,dose\n007,"x, y",2024-01-31,1.50\n008,,1999-12-31,2.25\n009,"",,\n'


@pytest.fixture
def labs(tmp_path: Path) -> Path:
    folder = tmp_path / "labs"
    folder.mkdir()
    (folder / "a.csv").write_text(LABS)
    return folder


def rows(url: str, table: str = "a") -> list[tuple[Any, ...]]:
    return fetch(url, f'SELECT t.*::text FROM "{table}" t ORDER BY 1')


def texts(url: str, table: str) -> list[str]:
    return [text for (text,) in fetch(url, f'SELECT t::text FROM "{table}" t ORDER BY 1')]


def states(result: Any) -> list[str]:
    return [file.state for file in result.files]


def failure(caught: Any) -> str:
    return str(caught.value)


def test_a_csv_file_becomes_a_table_without_a_changed_value(database: str, labs: Path) -> None:
    result = engine.load(labs / "a.csv", database)
    assert (result.rows, states(result)) == (3, ["written"])
    assert "id text, name text, born date, dose numeric(38,2)" in str(result)
    assert texts(database, "a") == ['(007,"x, y",2024-01-31,1.50)', "(008,,1999-12-31,2.25)", '(009,"",,)']
    assert fetch(database, "SELECT name IS NULL FROM a ORDER BY id") == [(False,), (True,), (False,)]


def test_each_file_is_loaded_once_and_a_new_one_is_taken(database: str, labs: Path) -> None:
    assert engine.load(labs, database, pattern="*.csv", table="labs").rows == 3
    (labs / "b.csv").write_text(LABS.replace("00", "10"))
    result = engine.load(labs, database, pattern="*.csv", table="labs")
    assert (result.rows, states(result)) == (3, ["already delivered", "written"])
    assert fetch(database, "SELECT count(*) FROM labs") == [(6,)]
    assert states(engine.load(labs, database, pattern="*.csv", table="labs")) == ["already delivered"] * 2


@pytest.mark.parametrize(
    ("changed", "rows_then"),
    [("fail", 3), ("append", 4)],
)
def test_a_changed_file_under_an_old_name(database: str, labs: Path, changed: str, rows_then: int) -> None:
    engine.load(labs / "a.csv", database)
    (labs / "a.csv").write_text("id,name,born,dose\n1,z,,1.00\n")
    if changed == "fail":
        with pytest.raises(PartlyFailed, match="on_changed_file decides"):
            engine.load(labs / "a.csv", database, on_changed_file=changed)
    else:
        engine.load(labs / "a.csv", database, on_changed_file=changed)
    assert fetch(database, "SELECT count(*) FROM a") == [(rows_then,)]


def test_a_reload_takes_back_what_the_file_had_brought(database: str, labs: Path) -> None:
    asked: dict[str, Any] = {"columns": {"*": True, "_source_file": "text"}, "on_changed_file": "reload"}
    engine.load(labs / "a.csv", database, **asked)
    (labs / "a.csv").write_text("id,name,born,dose\n1,z,,1.00\n")
    engine.load(labs / "a.csv", database, **asked)
    assert fetch(database, 'SELECT id, "_source_file" FROM a') == [("1", str(labs / "a.csv"))]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("011,x,2024-02-30,1.00", "column 'born'"),
        ("011,x,2024-01-01,much", "column 'dose': not a number"),
        ("011,x,2024-01-01,1.005", "column 'dose': does not fit numeric"),
        ("011,x,2024-01-01", "3 fields where 4 were expected"),
        ("011,x\0y,2024-01-01,1", "NUL byte"),
        ('011,"x,2024-01-01,1', "quote"),
    ],
)
def test_a_bad_row_fails_its_file_by_line_column_and_rule(database: str, labs: Path, line: str, rule: str) -> None:
    engine.load(labs / "a.csv", database)
    (labs / "b.csv").write_text(LABS.replace("00", "10") + line + "\n")
    with pytest.raises(PartlyFailed) as caught:
        engine.load(labs / "b.csv", database, table="a")
    message = failure(caught)
    assert "b.csv" in message
    assert "line 5" in message
    assert rule in message
    assert "much" not in message
    assert fetch(database, "SELECT count(*) FROM a") == [(3,)]


def test_quarantine_puts_bad_rows_aside_as_they_stand(database: str, labs: Path) -> None:
    engine.load(labs / "a.csv", database)
    (labs / "b.csv").write_text(LABS.replace("00", "10") + "011,x,2024-01-01,much\n012,x\n")
    result = engine.load(labs / "b.csv", database, table="a", on_bad_row="quarantine", max_bad_rows="40%")
    assert result.rows == 3
    assert "2 rows were put aside" in str(result)
    assert fetch(database, "SELECT line, column_name, rule, raw FROM a__rejected ORDER BY line") == [
        (5, "dose", "not a number", b"011,x,2024-01-01,much"),
        (6, None, "2 fields where 4 were expected", b"012,x"),
    ]


@pytest.mark.parametrize("limit", ["1%", "1"])
def test_too_many_bad_rows_fail_the_file(database: str, labs: Path, limit: str) -> None:
    engine.load(labs / "a.csv", database)
    (labs / "b.csv").write_text(LABS.replace("00", "10") + "011,x,2024-01-01,much\n012,x\n")
    with pytest.raises(PartlyFailed, match="more than max_bad_rows"):
        engine.load(labs / "b.csv", database, table="a", on_bad_row="quarantine", max_bad_rows=limit)
    assert fetch(database, "SELECT count(*) FROM a") == [(3,)]


@pytest.mark.parametrize("bad", [False, True])
def test_values_that_only_the_server_takes_come_in_the_middle_of_a_file(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bool) -> None:
    monkeypatch.setattr(csv_blocks, "BLOCK", 2_000)
    monkeypatch.setattr(loading, "BLOCKS_HELD", 2)
    execute(database, "CREATE TABLE t (id integer, seen date, host inet)")
    lines = [f"{i},{'infinity' if i == 700 else '2024-01-31'},10.0.0.{i % 250}" for i in range(1_000)]
    if bad:
        lines[900] = "900,2024-01-31,nowhere"
    (tmp_path / "t.csv").write_text("id,seen,host\n" + "\n".join(lines) + "\n")
    result = engine.load(tmp_path / "t.csv", database, on_bad_row="quarantine")
    assert result.rows == 1_000 - bad
    assert fetch(database, "SELECT count(*), count(DISTINCT id), sum((seen = 'infinity')::int) FROM t") == [(1_000 - bad, 1_000 - bad, 1)]
    if bad:
        assert fetch(database, "SELECT line, column_name, raw FROM t__rejected") == [(902, "host", b"900,2024-01-31,nowhere")]


@pytest.mark.parametrize("contract", ["evolve", "freeze"])
def test_a_column_that_the_table_has_in_snake_case_needs_no_guess(database: str, tmp_path: Path, contract: str) -> None:
    execute(database, "CREATE TABLE t (patient_id text, dose numeric(6,2))")
    (tmp_path / "t.csv").write_text("Patient ID,dose\n7,1.50\n")
    result = engine.load(tmp_path / "t.csv", database, schema_contract=contract)
    assert "types found" not in str(result)
    assert texts(database, "t") == ["(7,1.50)"]


def test_a_value_that_does_not_fit_later_fails_with_the_remedy(database: str, labs: Path) -> None:
    engine.load(labs / "a.csv", database)
    (labs / "b.csv").write_text("id,name,born,dose\n1,x,,1.005\n")
    with pytest.raises(PartlyFailed, match=r"line 2, column 'dose': does not fit numeric\(38,2\).*ALTER TABLE public\.a or, for a new table, 'columns'"):
        engine.load(labs / "b.csv", database, table="a")


def test_a_replace_is_all_files_or_none(database: str, labs: Path) -> None:
    engine.load(labs, database, pattern="*.csv", table="labs", write_disposition="replace")
    (labs / "b.csv").write_text(LABS.replace("00", "10") + "1,2\n")
    with pytest.raises(PartlyFailed) as caught:
        engine.load(labs, database, pattern="*.csv", table="labs", write_disposition="replace")
    assert caught.value.result is not None
    assert states(caught.value.result) == ["failed", "failed"]
    assert fetch(database, "SELECT count(*) FROM labs") == [(3,)]
    (labs / "b.csv").write_text(LABS.replace("00", "10"))
    assert engine.load(labs, database, pattern="*.csv", table="labs", write_disposition="replace").rows == 6
    assert engine.load(labs, database, pattern="*.csv", table="labs", write_disposition="replace").rows == 0
    assert fetch(database, "SELECT count(*) FROM labs") == [(6,)]


def test_a_merge_updates_by_key(database: str, labs: Path) -> None:
    engine.load(labs / "a.csv", database, write_disposition="merge", primary_key="id")
    (labs / "b.csv").write_text("id,name,born,dose\n009,new,,3.00\n010,more,,4.00\n")
    engine.load(labs / "b.csv", database, table="a", write_disposition="merge", primary_key=["id"])
    assert fetch(database, "SELECT id, name FROM a ORDER BY id") == [("007", "x, y"), ("008", None), ("009", "new"), ("010", "more")]


def test_one_bad_file_stops_no_other(database: str, labs: Path) -> None:
    (labs / "b.csv").write_bytes(b"")
    (labs / "c.csv").write_text(LABS.replace("00", "10"))
    with pytest.raises(PartlyFailed, match=r"b\.csv: .*empty") as caught:
        engine.load(labs, database, pattern="*.csv", table="labs")
    assert caught.value.result is not None
    assert states(caught.value.result) == ["written", "failed", "written"]
    assert fetch(database, "SELECT count(*) FROM labs") == [(6,)]


def test_files_of_other_columns_are_loaded_too_and_the_table_grows(database: str, labs: Path) -> None:
    (labs / "b.csv").write_text("id,dose,unit\n1,5.00,mg\n")
    result = engine.load(labs, database, pattern="*.csv", table="labs")
    assert result.rows == 4
    assert fetch(database, "SELECT name, unit FROM labs WHERE id = '1'") == [(None, "mg")]


def test_columns_select_rename_and_cast(database: str, labs: Path) -> None:
    columns = {"patient": {"type": "integer", "from": "id"}, "dose": "numeric(6,2)", "_loaded_at": "timestamptz"}
    result = engine.load(labs / "a.csv", database, columns=columns)
    assert "not loaded, since 'columns' does not name them: 'name', 'born'" in str(result)
    assert fetch(database, "SELECT patient, dose::text, _loaded_at <= now() FROM a ORDER BY 1") == [(7, "1.50", True), (8, "2.25", True), (9, None, True)]


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("a.csv.gz", gzip.compress(LABS.encode(), mtime=0), {}),
        ("a.csv", LABS.replace(",", ";").replace('"x; y"', '"x, y"').encode(), {"delimiter": ";"}),
        ("a.csv", LABS.encode("utf-16"), {"encoding": "utf-16"}),
        ("a.txt", LABS.encode(), {"format": "csv"}),
        ("a.csv", b"\xef\xbb\xbf" + LABS.encode(), {}),
        (
            "a.csv",
            LABS.partition("\n")[2].encode(),
            {"header": False, "columns": {"id": "text", "name": "text", "born": "date", "dose": "numeric(38,2)"}},
        ),
    ],
)
def test_the_same_rows_however_they_are_written(database: str, tmp_path: Path, name: str, data: bytes, options: dict[str, Any]) -> None:
    (tmp_path / name).write_bytes(data)
    assert engine.load(tmp_path / name, database, **options).rows == 3
    assert texts(database, "a") == ['(007,"x, y",2024-01-31,1.50)', "(008,,1999-12-31,2.25)", '(009,"",,)']


def test_a_header_alone_makes_no_table(database: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name\n")
    with pytest.raises(PartlyFailed, match="hold no rows"):
        engine.load(tmp_path / "a.csv", database)
    assert fetch(database, "SELECT to_regclass('a')") == [(None,)]
    execute(database, "CREATE TABLE a (id integer, name text)")
    assert engine.load(tmp_path / "a.csv", database).rows == 0


def test_parquet_keeps_its_types(database: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([1, None], pa.int32()),
            "dose": pa.array([1, 2], pa.int64()).cast(pa.decimal128(21, 2)),
            "tags": pa.array([["a", None], []]),
            "more": pa.array([{"x": 1}, None]),
        }
    )
    parquet.write_table(table, tmp_path / "p.parquet")
    assert engine.load(tmp_path / "p.parquet", database).rows == 2
    assert texts(database, "p") == ["(,2.00,{},)", '(1,1.00,"{a,NULL}","{""x"": 1}")']


def test_an_export_loads_back_as_it_was(database: str, tmp_path: Path) -> None:
    execute(
        database,
        "CREATE TABLE src AS SELECT g AS id, g::numeric / 7 AS share, 'née '||g AS name, now() + g * interval '1 day' AS seen, "
        "NULLIF(g % 3, 0)::smallint AS part, md5(g::text)::uuid AS key, jsonb_build_object('g', g) AS doc FROM generate_series(1, 5000) g",
    )
    engine.export("TABLE src", tmp_path / "src.parquet", database=database)
    engine.load(tmp_path / "src.parquet", database, table="back")
    assert fetch(database, "SELECT count(*) FROM (SELECT s::text FROM src s EXCEPT ALL SELECT b::text FROM back b) d") == [(0,)]
    assert fetch(database, "SELECT count(*) FROM back") == [(5000,)]


@pytest.mark.parametrize("data", [b"", b"not parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_is_said_to_be_none(database: str, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.parquet").write_bytes(data)
    with pytest.raises(PartlyFailed, match=r"p\.parquet: not a Parquet file"):
        engine.load(tmp_path / "p.parquet", database)
    assert fetch(database, "SELECT to_regclass('p')") == [(None,)]


def test_sources_are_deleted_only_once_their_rows_are_there(database: str, labs: Path) -> None:
    (labs / "b.csv").write_text(LABS + "1,2\n")
    with pytest.raises(PartlyFailed):
        engine.load(labs, database, pattern="*.csv", table="labs", delete_source=True)
    assert [path.name for path in labs.iterdir()] == ["b.csv"]


def test_a_dry_run_loads_nothing(database: str, labs: Path) -> None:
    assert states(engine.load(labs / "a.csv", database, dry_run=True)) == ["planned"]
    assert fetch(database, "SELECT to_regclass('a')") == [(None,)]


def test_objects_on_s3_are_loaded(database: str, s3_options: dict[str, Any], s3_client: Any) -> None:
    s3_client.put_object(Bucket=s3_options["bucket"], Key="in/a.csv", Body=LABS.encode())
    options = {key: value for key, value in s3_options.items() if key != "bucket"}
    url = f"s3://{s3_options['bucket']}/in"
    assert engine.load(url, database, pattern="*.csv", table="a", source_options=options).rows == 3
    assert states(engine.load(f"{url}/a.csv", database, source_options=options)) == ["already delivered"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "*.csv"}, "which table"),
        ({"write_disposition": "merge"}, "primary_key"),
        ({"on_changed_file": "reload"}, "_source_file"),
        ({"columns": {"x": {"from": "nothing"}}}, "no such column"),
        ({"dest_options": {"tabel": "x"}}, "did you mean 'table'"),
        ({"header": False}, "'columns'"),
    ],
)
def test_what_cannot_be_is_refused_before_a_row_moves(database: str, labs: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FerryError, match=message) as caught:
        engine.load(labs if "pattern" in options else labs / "a.csv", database, **options)
    assert isinstance(caught.value, ConfigurationError | SchemaMismatch | LoadFailed | PartlyFailed)
    assert fetch(database, "SELECT to_regclass('a')") == [(None,)]


def test_a_pattern_that_leaves_out_the_one_file_that_is_named_is_refused(database: str, labs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a\.csv is one file, and the pattern '\*\.parquet' does not match"):
        engine.load(labs / "a.csv", database, pattern="*.parquet", format="csv")
    assert engine.load(labs / "a.csv", database, pattern="*.csv").rows == 3


def test_a_move_that_ended_between_commit_and_deletion_is_ended(database: str, labs: Path) -> None:
    engine.load(labs / "a.csv", database)
    result = engine.load(labs / "a.csv", database, delete_source=True)
    assert (states(result), result.rows, result.files[0].source_deleted) == (["already delivered"], 0, True)
    assert list(labs.iterdir()) == []


def test_a_table_that_somebody_has_dropped_is_loaded_anew(database: str, labs: Path) -> None:
    engine.load(labs / "a.csv", database)
    execute(database, "DROP TABLE a")
    assert engine.load(labs / "a.csv", database).rows == 3
    assert fetch(database, "SELECT count(*) FROM a") == [(3,)]


def test_a_replace_is_skipped_only_if_the_table_is_made_of_just_these_files(database: str, labs: Path) -> None:
    asked: dict[str, Any] = {"pattern": "*.csv", "table": "labs", "write_disposition": "replace"}
    (labs / "b.csv").write_text(LABS.replace("00", "10"))
    engine.load(labs, database, **asked)
    (labs / "b.csv").unlink()
    assert engine.load(labs, database, **asked).rows == 3
    assert fetch(database, "SELECT count(*) FROM labs") == [(3,)]
    (labs / "c.csv").write_text(LABS.replace("00", "20"))
    engine.load(labs / "c.csv", database, table="labs")
    (labs / "c.csv").unlink()
    assert engine.load(labs, database, **asked).rows == 3
    assert fetch(database, "SELECT count(*) FROM labs") == [(3,)]


def test_progress_tells_rows_bytes_and_files_in_the_calling_thread(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    (tmp_path / "t.csv").write_text("id,name\n" + "".join(f"{i},{'x' * 50}\n" for i in range(300_000)))
    seen: list[tuple[engine.Progress, int]] = []
    engine.load(tmp_path / "t.csv", database, columns={"id": "bigint", "name": "text"}, on_progress=lambda now: seen.append((now, threading.get_ident())))
    size = (tmp_path / "t.csv").stat().st_size
    assert {thread for _, thread in seen} == {threading.get_ident()}
    assert {now.total_bytes for now, _ in seen} >= {size}
    assert any(0 < now.bytes < size for now, _ in seen)
    assert [now.rows for now, _ in seen] == sorted(now.rows for now, _ in seen)


def test_a_load_that_is_interrupted_leaves_nothing_and_ends_soon(database: str, tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w") as file:
        file.write("id,name\n")
        for start in range(0, 4_000_000, 1_000):
            file.writelines(f"{i},some text of a patient\n" for i in range(start, start + 1_000))
    command = [
        sys.executable,
        "-c",
        "from engine.cli import main; main()",
        "load",
        str(tmp_path / "t.csv"),
        database,
        "--columns",
        '{"id": "bigint", "name": "text"}',
        "--quiet",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: fetch(database, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%t%FROM STDIN%' AND datname = current_database()"))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in told
    until(lambda: not fetch(database, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%' AND datname = current_database() AND state = 'active'"))
    assert fetch(database, "SELECT to_regclass('t')") == [(None,)]
    assert engine.load(tmp_path / "t.csv", database, columns={"id": "bigint", "name": "text"}).rows == 4_000_000


def test_rows_that_cannot_be_loaded_are_put_aside_while_the_file_is_read(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_blocks, "BLOCK", 2_000)
    monkeypatch.setattr(loading, "_MOST_BAD", 20)
    (tmp_path / "t.csv").write_text("id,n\n" + "".join(f"{i},{'x' if i % 3 == 0 else i}\n" for i in range(3_000)))
    columns = {"id": "integer", "n": "integer"}
    assert engine.load(tmp_path / "t.csv", database, columns=columns, on_bad_row="quarantine", max_bad_rows="40%").rows == 2_000
    assert fetch(database, "SELECT count(*), count(DISTINCT line), min(line), max(line) FROM t__rejected") == [(1_000, 1_000, 2, 2_999)]
    assert fetch(database, "SELECT count(DISTINCT id) FROM t") == [(2_000,)]


@pytest.mark.parametrize("given", ["folder", "folder/"])
def test_a_folder_needs_the_name_of_a_table(database: str, labs: Path, given: str) -> None:
    with pytest.raises(ConfigurationError, match="give --table"):
        engine.load(str(labs) + given.removeprefix("folder"), database, format="csv")


def test_nothing_to_load_is_a_success_that_says_so(database: str, tmp_path: Path) -> None:
    assert "nothing to load: no file of" in str(engine.load(tmp_path, database, pattern="*.csv", table="t"))


def test_the_summary_names_each_file_and_its_table(database: str, labs: Path) -> None:
    assert f"written {labs}/a.csv → 127.0.0.1:" in str(engine.load(labs / "a.csv", database))


def test_unknown_keys_of_a_load_are_refused_by_name(database: str, labs: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'delimiter'"):
        engine.load(labs / "a.csv", database, dest_options={"delimeter": ";"})


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(database: str, tmp_path: Path) -> None:
    peaks = []
    for name, rows_of_it in (("small", 500_000), ("large", 2_000_000)):
        with (tmp_path / f"{name}.csv").open("w") as file:
            file.write("id,dose,seen,note\n")
            for start in range(0, rows_of_it, 1_000):
                file.writelines(f"{i},{i % 100}.50,2024-01-31 10:20:30,a note of some length about a patient\n" for i in range(start, start + 1_000))
        columns = '{"id": "bigint", "dose": "numeric(6,2)", "seen": "timestamp", "note": "text"}'
        peaks.append(peak_mb(["load", str(tmp_path / f"{name}.csv"), database, "--columns", columns]))
        assert fetch(database, f"SELECT count(*) FROM {name}") == [(rows_of_it,)]
    assert peaks[1] < peaks[0] + 60  # MB: blocks that wait, and what the driver holds of one COPY
    assert peaks[1] < 500


def test_too_many_bad_rows_are_named_whatever_the_limit(database: str, labs: Path) -> None:
    execute(database, "CREATE TABLE people (id int, v text)")
    (labs / "people.csv").write_text("id,v\n" + "1,x\n" * 50 + "many,x\n" + "1,x\n" * 47 + "2\n3\n4\n")
    told = r"more than max_bad_rows .*: line 52, column 'id': not an integer; .*: line 100: 1 field where 2 were expected; .*: line 101: 1 field"
    for limit in ("1%", "3"):
        with pytest.raises(PartlyFailed, match=told):
            engine.load(labs / "people.csv", database, on_bad_row="quarantine", max_bad_rows=limit)


def test_a_typed_file_whose_bad_rows_stand_nowhere_else_is_not_deleted(database: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parquet.write_table(pa.table({"id": [1, 2], "note": ["sound", "not\0sound"]}), tmp_path / "in" / "labs.parquet")
    asked: dict[str, Any] = {"pattern": "*.parquet", "table": "labs", "on_bad_row": "quarantine", "max_bad_rows": "50%"}
    for state in ("written", "already delivered"):
        result = engine.load(tmp_path / "in", database, **asked, delete_source=True)
        assert (states(result), result.files[0].source_deleted) == ([state], False)
        assert "labs.parquet is kept: the values of rows that were put aside are only there" in str(result)
    assert (tmp_path / "in" / "labs.parquet").exists()
    assert engine.load(tmp_path / "in", database, **asked, archive_path=str(tmp_path / "done")).files[0].archived is not None


def test_a_file_that_is_not_there_is_said_to_be_missing(database: str, labs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no file or folder .*b\.csv"):
        engine.load(labs / "b.csv", database)


def test_a_dry_run_names_the_files(database: str, labs: Path) -> None:
    engine.load(labs, database, pattern="*.csv", table="labs")
    (labs / "b.csv").write_text(LABS)
    told = str(engine.load(labs, database, pattern="*.csv", table="labs", dry_run=True))
    assert told.startswith(f"would load 1 of 2 files, {len(LABS)} B\n")
    assert f"planned {labs}/b.csv → 127.0.0.1:" in told


def test_a_tab_as_people_write_it_is_explained(database: str, labs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a tab is \$'\\t' in the shell"):
        engine.load(labs / "a.csv", database, delimiter=r"\t")


def test_a_row_that_no_page_holds_is_told_as_that(database: str, labs: Path) -> None:
    names = [f"c{i}" for i in range(1500)]
    (labs / "wide.csv").write_text(f"{','.join(names)}\n{','.join('1' for _ in names)}\n")
    with pytest.raises(PartlyFailed, match="a row holds about 8 kB beside its long texts"):
        engine.load(labs / "wide.csv", database)


def test_a_file_that_was_only_touched_is_not_said_to_have_other_content(database: str, labs: Path) -> None:
    engine.load(labs / "a.csv", database)
    os.utime(labs / "a.csv", (0, 0))
    with pytest.raises(PartlyFailed, match=r"as another version \(size, time or ETag differ\); on_changed_file"):
        engine.load(labs / "a.csv", database)


def test_files_in_subfolders_that_the_pattern_leaves_out_are_counted(database: str, labs: Path) -> None:
    (labs / "2024").mkdir()
    (labs / "2024" / "b.csv").write_text(LABS)
    asked: dict[str, Any] = {"pattern": "*.csv", "table": "labs", "archive_path": str(labs / "done")}
    for _ in range(2):  # the second time a.csv is in the archive
        assert "1 file in subfolders did not match '*.csv' ('**/*' takes all)" in engine.load(labs, database, **asked).notes


def test_options_may_come_from_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "columns.json").write_text('\ufeff{"id": "bigint"}')
    assert read_columns(str(tmp_path / "columns.json")) == '{"id": "bigint"}'


def test_a_key_that_is_no_json_is_told_as_that(database: str, labs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'primary_key' is not JSON \(line 1, column 6\)"):
        engine.load(labs / "a.csv", database, write_disposition="merge", primary_key='["id"')


def test_another_type_is_no_remedy_for_null(database: str, labs: Path) -> None:
    execute(database, "CREATE TABLE people (id int NOT NULL)")
    (labs / "people.csv").write_text("id\n1\n\n2\n")
    with pytest.raises(PartlyFailed, match="line 3, column 'id': NULL in a NOT NULL column") as caught:
        engine.load(labs / "people.csv", database)
    assert "on_bad_row quarantine puts such rows aside)" in failure(caught)
