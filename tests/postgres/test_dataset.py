"""The table is a true dlt dataset: dlt reads it, and a plain dlt pipeline goes on with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dlt
import pyarrow as pa
import pytest

from engine.errors import LoadFailed
from engine.postgres.columns import Column
from engine.postgres.dlt_types import dlt_type
from tests.postgres.cases import CASES, TYPES_OF_OURS
from tests.postgres.loads import IDS, destination, execute, fetch, file, load, people, reader, types

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def plain(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A dlt pipeline as any user of dlt makes one."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "data"))

    def make(name: str = "theirs", dataset: str = "public") -> dlt.Pipeline:
        return dlt.pipeline(name, destination=dlt.destinations.postgres(database), dataset_name=dataset, pipelines_dir=str(tmp_path / "pipelines"))

    return make


def arrow(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int32()), "name": ["dlt"] * len(ids)})


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_plain_pipeline_goes_on_appending_and_reads_all_of_it(database: str, plain: Any, form: str) -> None:
    load(destination(database), (file(), people(1, 2)))
    pipeline = plain()
    pipeline.run(arrow(3), table_name="people", loader_file_format=form)
    assert sorted(row[0] for row in pipeline.dataset()["people"].select("id").fetchall()) == [1, 2, 3]
    assert pipeline.dataset()["people"].arrow().num_rows == 3
    assert load(destination(database), (file("/data/b.csv"), people(4))) == [1], "and we go on after it"
    pipeline.run(arrow(5), table_name="people", loader_file_format=form)
    assert fetch(database, "SELECT id, name FROM people ORDER BY id") == [(1, "x"), (2, "x"), (3, "dlt"), (4, "x"), (5, "dlt")]


def test_a_plain_pipeline_appends_dicts_once_the_table_has_its_columns(database: str, plain: Any) -> None:
    """It wants them NOT NULL, which a table with rows does not take; once they stand, whoever loads fills them."""
    load(destination(database), (file(), people(1)))
    execute(database, "ALTER TABLE people ADD _dlt_load_id text, ADD _dlt_id text")
    plain().run([{"id": 2, "name": "dlt"}], table_name="people")
    load(destination(database), (file("/data/b.csv"), people(3)))
    assert fetch(database, "SELECT id, _dlt_id IS NOT NULL, _dlt_load_id IN (SELECT load_id FROM _dlt_loads) FROM people ORDER BY id") == [
        (1, False, None),
        (2, True, True),
        (3, True, True),
    ]


def test_a_plain_pipeline_merges_and_replaces(database: str, plain: Any) -> None:
    load(destination(database), (file(), people(1, 2)))
    plain().run(arrow(2, 3), table_name="people", loader_file_format="parquet", write_disposition="merge", primary_key="id")
    assert fetch(database, "SELECT id, name FROM people ORDER BY id") == [(1, "x"), (2, "dlt"), (3, "dlt")]
    plain().run(arrow(9), table_name="people", loader_file_format="parquet", write_disposition="replace")
    assert fetch(database, "SELECT id FROM people") == [(9,)]


def test_dlt_finds_the_dataset_by_our_schema(database: str, plain: Any) -> None:
    load(destination(database), (file(), people(1, 2)))
    dataset = plain().dataset(schema="ferry_people")
    assert [row[:2] for row in dataset["people"].fetchall()] == [(1, "x"), (2, "x")]
    assert dataset.schema.tables["people"]["columns"]["id"]["x-postgres-type"] == "integer"
    assert dataset.row_counts().fetchall() == [("people", 2)]


def test_a_table_that_dlt_made_of_rows_is_gone_on_with(database: str, plain: Any) -> None:
    """Its columns `_dlt_load_id` and `_dlt_id` are NOT NULL, the latter unique."""
    plain().run([{"id": 1, "name": "dlt"}], table_name="people")
    target = destination(database)
    for path in ("/data/a.csv", "/data/b.csv"):
        with target.open((Column("id", ""), Column("name", ""))) as opened, opened.file(file(path)) as one:
            for _ in range(2):
                one.write(reader(id=pa.array([2, 3], pa.int64()), name=["x", "y"]))
    assert fetch(database, "SELECT count(*), count(DISTINCT _dlt_id), count(DISTINCT _dlt_load_id) FROM people") == [(9, 9, 3)]
    assert fetch(database, "SELECT count(*) FROM people WHERE _dlt_load_id NOT IN (SELECT load_id FROM _dlt_loads)") == [(0,)]
    plain().run([{"id": 9, "name": "dlt"}], table_name="people")
    assert fetch(database, "SELECT count(*) FROM people") == [(10,)]


def test_schema_versions_are_stored_when_they_change_and_only_then(database: str) -> None:
    versions = "SELECT version FROM _dlt_version WHERE schema_name = 'ferry_people' ORDER BY version"
    load(destination(database), (file(), people(1)))
    first = fetch(database, versions)
    load(destination(database), (file("/data/b.csv"), people(2)))
    assert fetch(database, versions) == first
    load(destination(database), (file("/data/c.csv"), reader(id=pa.array([1], pa.int32()), more=["x"])), wanted=(IDS[0], Column("more", "text")))
    assert len(fetch(database, versions)) == len(first) + 1
    stored = json.loads(fetch(database, "SELECT schema FROM _dlt_version ORDER BY inserted_at DESC LIMIT 1")[0][0])
    assert list(stored["tables"]["people"]["columns"]) == ["id", "name", "more"]
    assert stored["normalizers"]["names"] == "direct"


def test_a_table_that_was_dropped_or_lost_a_column_is_taken_as_it_is(database: str) -> None:
    load(destination(database), (file(), people(1)))
    execute(database, "ALTER TABLE people DROP COLUMN name")
    load(destination(database), (file("/data/b.csv"), reader(id=pa.array([2], pa.int32()))), wanted=IDS[:1])
    assert types(database) == [("id", "integer NOT NULL")], "what somebody dropped is not made again"
    execute(database, "DROP TABLE people")
    load(destination(database), (file("/data/c.csv"), people(3)))
    assert fetch(database, "SELECT * FROM people") == [(3, "x")]


def test_a_table_that_is_altered_between_plan_and_load_is_not_loaded(database: str) -> None:
    execute(database, "CREATE TABLE people (id int, name text)")
    with pytest.raises(LoadFailed, match="altered by somebody else meanwhile") as caught, destination(database).open(IDS) as opened:
        execute(database, "ALTER TABLE people ALTER id TYPE bigint")
        with opened.file(file()):
            pass
    assert caught.value.transient


def test_every_type_is_made_exactly(database: str) -> None:
    execute(database, TYPES_OF_OURS)
    wanted = [Column(f"c{i}", case.sql_type) for i, case in enumerate(CASES)]
    with destination(database).open(wanted) as opened, opened.file(file()):
        pass
    execute(database, "CREATE TABLE theirs (" + ", ".join(f"c{i} {case.sql_type}" for i, case in enumerate(CASES)) + ")")
    assert types(database) == types(database, "theirs")
    with destination(database).open(wanted) as opened:
        assert opened.columns == destination(database, table="theirs").standing()


def test_types_that_are_elsewhere_come_with_their_schema(database: str) -> None:
    execute(database, "CREATE SCHEMA apart", "CREATE TYPE apart.\"Mood x\" AS ENUM ('ok')")
    with destination(database).open([Column("m", 'apart."Mood x"')]) as opened, opened.file(file()) as one:
        one.write(reader(m=["ok"]))
    assert types(database) == [("m", 'apart."Mood x"')]


@pytest.mark.parametrize(
    ("type_", "described"),
    [
        ("bigint", {"data_type": "bigint", "precision": 64}),
        ("numeric(12,2)", {"data_type": "decimal", "precision": 12, "scale": 2}),
        ("numeric", {"data_type": "decimal"}),
        ("timestamp without time zone", {"data_type": "timestamp", "timezone": False}),
        ("timestamp(3) with time zone", {"data_type": "timestamp", "timezone": True, "precision": 3}),
        ("character varying(20)", {"data_type": "text", "precision": 20}),
        ("time with time zone", {"data_type": "text"}),
        ('"odd (type)"', {"data_type": "text"}),
        ("integer[]", {"data_type": "text"}),
    ],
)
def test_dlt_is_told_the_nearest_of_its_own_types(type_: str, described: dict[str, Any]) -> None:
    assert dlt_type(type_) == described
