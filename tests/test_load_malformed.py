"""Broken files through the whole route: one clear message each, and database and disk as they were."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine.errors import FerryError
from tests.formats.malformed_files import FILES, SECRET, Case
from tests.formats.test_parquet_reader import MALFORMED
from tests.formats.test_parquet_reader import SECRET as PARQUET_SECRET
from tests.postgres.loads import state

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


@pytest.mark.parametrize("table", ["visits", "fresh"])
@pytest.mark.parametrize("name", BROKEN)
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
@pytest.mark.parametrize("name", MALFORMED)
def test_a_broken_parquet_file_is_refused_and_leaves_all_as_it_was(clinic: str, tmp_path: Path, spool: Path, name: str, table: str) -> None:
    make, rule = MALFORMED[name]
    file = tmp_path / "visits.parquet"
    file.write_bytes(make())
    message = refused(file, clinic, table, spool)
    assert f"{file}: not a Parquet file that can be read: " in message
    assert rule in message
    assert not any(part in message for part in PARQUET_SECRET.split())


@pytest.mark.parametrize("name", [name for name, case in FILES.items() if name not in BROKEN and case.rows and name != "very long name"])
def test_an_odd_file_that_is_sound_is_loaded(database: str, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"visits{SUFFIXES[FILES[name].dialect.get('compression')]}"
    file.write_bytes(FILES[name].data)
    assert engine.load(file, database, **options_of(FILES[name])).rows == FILES[name].rows
