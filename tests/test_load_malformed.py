"""Broken files through the whole route: one clear message each, and database and disk as they were."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import engine
from engine.errors import FerryError
from tests.effort import slow, spread
from tests.formats.malformed_files import FILES, SECRET, Case
from tests.formats.test_parquet_reader import MALFORMED
from tests.formats.test_parquet_reader import SECRET as PARQUET_SECRET
from tests.postgres.loads import fetch, state

if TYPE_CHECKING:
    from pathlib import Path

BROKEN = {name: case for name, case in FILES.items() if case.error or case.rejects}
SUFFIXES = {None: ".csv", "gzip": ".csv.gz", "zstd": ".csv.zst"}
LONGEST_MESSAGE = 1_000


@pytest.fixture(scope="module")
def clinic(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a table that was loaded before."""
    sound = tmp_path_factory.mktemp("sound") / "visits.csv"
    sound.write_text("id,name,born\n1,a,1950-01-01\n")
    engine.load(sound, module_database, columns={"id": "text", "name": "text", "born": "text"})
    return module_database


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def options_of(case: Case) -> dict[str, Any]:
    """The case's dialect as a user gives it."""
    given = {key: value for key, value in case.dialect.items() if key in {"delimiter", "encoding", "header"}}
    if "columns" in case.dialect:
        given["columns"] = dict.fromkeys(case.dialect["columns"], "text")
    return given


def refused(file: Path, database: str, table: str, spool: Path, **options: Any) -> str:
    """What is said of a file that is refused, after a look at what it left."""
    before = state(database)
    with pytest.raises(FerryError) as caught:
        engine.load(file, database, table=table, **options)
    assert state(database) == before
    assert list(spool.iterdir()) == []
    message = str(caught.value)
    assert str(file) in message
    assert len(message) < LONGEST_MESSAGE
    assert caught.value.__cause__ is None
    return message


@pytest.mark.parametrize("table", ["visits", slow("fresh")])
@pytest.mark.parametrize("name", spread(BROKEN, 4))
def test_a_broken_csv_file_is_refused_and_leaves_all_as_it_was(clinic: str, tmp_path: Path, spool: Path, name: str, table: str) -> None:
    case = BROKEN[name]
    file = tmp_path / f"visits{SUFFIXES[case.dialect.get('compression')]}"
    file.write_bytes(case.data)
    message = refused(file, clinic, table, spool, **options_of(case))
    assert SECRET not in message
    if name == "very long header":
        assert f"{file}: public.{table} would have 20,000 columns" in message
    elif case.error:
        assert f"{file}: {case.error}" in message
    else:
        line, rule = case.rejects[0]
        assert f"{file}: line {line:,}: {rule}" in message


@pytest.mark.parametrize("table", ["visits", "fresh"])
@pytest.mark.parametrize("name", spread(MALFORMED, 2))
def test_a_broken_parquet_file_is_refused_and_leaves_all_as_it_was(clinic: str, tmp_path: Path, spool: Path, name: str, table: str) -> None:
    make, rule = MALFORMED[name]
    file = tmp_path / "visits.parquet"
    file.write_bytes(make())
    message = refused(file, clinic, table, spool)
    assert f"{file}: not a Parquet file that can be read: " in message
    assert rule in message
    assert not any(part in message for part in PARQUET_SECRET.split())


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        (pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), "more than one column is named 'a' (positions 1, 2)"),
        (pa.table({"": [1]}), "a column has no name"),
        (pa.table({"x\0y": [1]}), "holds a NUL character"),
        (pa.table({"x" * 64: [1]}), "has 64 bytes; PostgreSQL keeps 63"),
        (pa.table({"x" * 5_000_000: [1]}), "has 5,000,000 bytes; PostgreSQL keeps 63"),
        (pa.table({}), "there are no columns to load"),
        (pa.table({f"c{i}": [1] for i in range(1601)}), "would have 1,601 columns, and PostgreSQL takes 1,600"),
        (pa.table({"ctid": [1]}), "conflicts with a system column name"),
        (pa.table({"v": [SECRET, SECRET + "\0"]}), "row 2, column 'v': holds a NUL byte"),
        (pa.table({"v": pa.array([1_000, 1], pa.timestamp("ns"))}), "row 2, column 'v': finer than a microsecond"),
    ],
    ids=["twice", "no name", "NUL in a name", "long name", "very long name", "no columns", "many columns", "system column", "NUL", "nanoseconds"],
)
def test_a_parquet_file_that_no_table_can_hold_is_refused(clinic: str, tmp_path: Path, spool: Path, table: pa.Table, rule: str) -> None:
    parquet.write_table(table, tmp_path / "visits.parquet")
    message = refused(tmp_path / "visits.parquet", clinic, "fresh", spool)
    assert rule in message
    assert SECRET not in message


@pytest.mark.parametrize("disposition", ["append", "merge", "replace"])
@pytest.mark.parametrize("schema", ["public", "study"])
def test_the_first_load_of_a_database_leaves_nothing_if_it_fails(database: str, tmp_path: Path, spool: Path, schema: str, disposition: str) -> None:
    (tmp_path / "visits.csv").write_text("id,name\n1,a\n2\n")
    asked: dict[str, Any] = {"schema": schema, "write_disposition": disposition, "primary_key": "id", "columns": {"id": "integer", "name": "text"}}
    assert "line 3: 1 field" in refused(tmp_path / "visits.csv", database, "visits", spool, **asked)


@pytest.mark.parametrize("disposition", ["append", "merge", "replace"])
def test_a_file_that_fails_adds_no_column(clinic: str, tmp_path: Path, spool: Path, disposition: str) -> None:
    (tmp_path / "visits.csv").write_text("id,name,more\n1,a,x\n2\n")
    asked: dict[str, Any] = {"write_disposition": disposition, "primary_key": "id"}
    assert "line 3: 1 field" in refused(tmp_path / "visits.csv", clinic, "visits", spool, **asked)


def test_new_columns_of_a_replace_come_with_its_commit(database: str, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id\n1\n")
    engine.load(tmp_path / "1.csv", database, table="t")
    for number in (1, 2):
        (tmp_path / f"{number}.csv").write_text(f"id,more\n{number},x\n")
    assert engine.load(tmp_path, database, pattern="*.csv", table="t", write_disposition="replace").rows == 2
    assert fetch(database, "SELECT id, more FROM t ORDER BY 1") == [(1, "x"), (2, "x")]


@pytest.mark.parametrize("name", [name for name, case in FILES.items() if name not in BROKEN and case.rows and name != "very long name"])
def test_an_odd_file_that_is_sound_is_loaded(database: str, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"visits{SUFFIXES[FILES[name].dialect.get('compression')]}"
    file.write_bytes(FILES[name].data)
    assert engine.load(file, database, **options_of(FILES[name])).rows == FILES[name].rows
