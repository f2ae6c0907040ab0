"""Loads from every store that files come from: what is asked of it, what is packed, what goes to its archive."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import engine
from engine.errors import PartlyFailed
from engine.formats import csv_blocks
from engine.postgres import loading
from engine.routes import load as route
from tests.effort import slow
from tests.places import FolderPlace, S3Place, SftpPlace
from tests.postgres.loads import fetch

if TYPE_CHECKING:
    from pathlib import Path

    Place = FolderPlace | S3Place | SftpPlace

STORES = ("folder", "s3", "sftp", pytest.param("openssh", marks=pytest.mark.system))
ROWS = 30_000
TEXT = ("id,name\n" + "".join(f"{i},name {i}\n" for i in range(ROWS))).encode()


@pytest.fixture(params=STORES)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Place, Place]:
    """Where files come from, and their archive."""
    if request.param == "folder":
        return FolderPlace(tmp_path / "in"), FolderPlace(tmp_path / "done")
    if request.param == "s3":
        options = dict(request.getfixturevalue("s3_options"))
        found = (request.getfixturevalue("s3_client"), options, options.pop("bucket"))
        return S3Place(*found, "in"), S3Place(*found, "done")
    server = request.getfixturevalue("openssh_server" if request.param == "openssh" else "sftp_server")
    folder = request.getfixturevalue("sftp_folder")
    return SftpPlace(server, f"{folder}/in"), SftpPlace(server, f"{folder}/done")


@pytest.fixture
def came(ends: tuple[Place, Place]) -> Place:
    return ends[0]


def put(place: Place, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / "given").write_bytes(data)
    place.put(name, tmp_path / "given")


def load(place: Place, database: str, **options: Any) -> Any:
    return engine.load(place.url, database, pattern="*", source_options=place.options, **options)


def as_parquet(tmp_path: Path) -> bytes:
    parquet.write_table(pa.table({"id": range(ROWS), "name": [f"name {i}" for i in range(ROWS)]}), tmp_path / "x.parquet", row_group_size=10_000)
    return (tmp_path / "x.parquet").read_bytes()


def test_plain_and_packed_csv_and_parquet_are_loaded_from_every_store(came: Place, database: str, tmp_path: Path) -> None:
    put(came, tmp_path, "a.csv", TEXT)
    put(came, tmp_path, "b.csv.gz", gzip.compress(TEXT))
    put(came, tmp_path, "c.csv.zst", pa.Codec("zstd").compress(TEXT).to_pybytes())
    columns = {"id": "bigint", "name": "text"}
    assert load(came, database, table="t", format="csv", columns=columns).rows == 3 * ROWS
    put(came, tmp_path, "d.parquet", as_parquet(tmp_path))
    assert engine.load(f"{came.url}d.parquet", database, table="t", source_options=came.options).rows == ROWS
    assert fetch(database, "SELECT count(*), count(DISTINCT id), count(DISTINCT name), sum(id) FROM t") == [(4 * ROWS, ROWS, ROWS, 4 * sum(range(ROWS)))]
    assert [file.state for file in load(came, database, table="t", format="csv", columns=columns).files[:3]] == ["already delivered"] * 3


@pytest.mark.parametrize("fate", [slow("delete"), "archive"])
def test_sources_leave_every_store_once_they_are_loaded(ends: tuple[Place, Place], database: str, tmp_path: Path, fate: str) -> None:
    came, archive = ends
    put(came, tmp_path, "a.csv", TEXT)
    before = came.hashes()
    more: dict[str, Any] = {"delete_source": True} if fate == "delete" else {"archive_path": archive.config["path"]}
    for comes in ("first", "again"):  # the same content, which is a replace all the same
        if comes == "again":
            time.sleep(1)  # stores tell times by the second
            put(came, tmp_path, "a.csv", TEXT)
        result = load(came, database, table="t", format="csv", write_disposition="replace", **more)
        assert (result.rows, [file.state for file in result.files]) == (ROWS, ["written"])
        assert came.names() == set()
    assert load(came, database, table="t", format="csv", write_disposition="replace", **more).files == ()
    assert archive.hashes() == ({} if fate == "delete" else before)
    assert archive.leftovers() == came.leftovers() == []
    assert fetch(database, "SELECT count(*) FROM t") == [(ROWS,)]


def test_an_archive_below_the_source_is_left_out_in_every_store(ends: tuple[Place, Place], database: str, tmp_path: Path) -> None:
    came, _ = ends
    put(came, tmp_path, "2024/a.csv", TEXT)
    asked: dict[str, Any] = {"pattern": "**/*.csv", "table": "t", "source_options": came.options, "archive_path": f"{came.config['path']}/done"}
    assert engine.load(came.url, database, **asked).rows == ROWS
    assert engine.load(came.url, database, **asked).files == ()
    assert came.names() == {"done/2024/a.csv"}


def test_each_file_is_opened_once(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first, whose columns the table is opened for."""
    for i in range(5):
        (tmp_path / f"{i}.csv").write_text(f"id,name\n{i},a\n")
    opened: list[str] = []
    layout = route._Loading.__init__

    def watched(self: Any, source: Any, layout_: Any, *more: Any) -> None:
        true = layout_.open

        def open_(source: Any, file: Any) -> Any:
            opened.append(file.path.rpartition("/")[2])
            return true(source, file)

        layout_.open = open_
        layout(self, source, layout_, *more)

    monkeypatch.setattr(route._Loading, "__init__", watched)
    assert engine.load(tmp_path, database, pattern="*.csv", table="t", columns={"id": "bigint", "name": "text"}).rows == 5
    assert sorted(opened) == ["0.csv", *(f"{i}.csv" for i in range(5))]


def test_files_of_two_kinds_of_columns_in_turn_are_all_loaded(database: str, tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.csv").write_text(f"id,{'name' if i % 2 else 'dose'}\n{i},7\n")
    result = engine.load(tmp_path, database, pattern="*.csv", table="t")
    assert [file.state for file in result.files] == ["written"] * 6
    assert fetch(database, "SELECT count(*), count(name), count(dose) FROM t") == [(6, 3, 3)]


def test_a_file_that_breaks_in_the_middle_stops_no_other_when_types_are_found(database: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    (tmp_path / "b.csv").write_text('id\n2\n"3\n')
    (tmp_path / "c.csv").write_text("id\n4\n")
    with pytest.raises(PartlyFailed, match=r"b\.csv: line 3: a quote opens here") as caught:
        engine.load(tmp_path, database, pattern="*.csv", table="t")
    assert caught.value.result is not None
    assert [file.state for file in caught.value.result.files] == ["written", "failed", "written"]
    assert fetch(database, "SELECT array_agg(id ORDER BY id)::text, pg_typeof(min(id))::text FROM t") == [("{1,4}", "bigint")]


@pytest.mark.parametrize("disposition", ["append", "replace"])
def test_a_file_that_changes_while_it_is_read_is_not_loaded(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disposition: str) -> None:
    monkeypatch.setattr(csv_blocks, "BLOCK", 1_000)
    (tmp_path / "t.csv").write_bytes(TEXT)
    columns = {"id": "bigint", "name": "text"}
    true = loading._FileRows._cast

    def cast(self: Any, *args: Any, **more: Any) -> Any:
        with (tmp_path / "t.csv").open("r+b") as file:
            file.seek(len(TEXT) - 9)
            file.write(b"9")
        return true(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loading._FileRows, "_cast", cast)
        if disposition == "append":
            assert [file.state for file in engine.load(tmp_path / "t.csv", database, columns=columns).files] == ["left"]
        else:
            with pytest.raises(PartlyFailed, match="has changed since it was listed"):
                engine.load(tmp_path / "t.csv", database, columns=columns, write_disposition="replace")
    assert fetch(database, "SELECT to_regclass('t'), to_regclass('_ferry_loads')") == [(None, None)]
    assert engine.load(tmp_path / "t.csv", database, columns=columns, write_disposition=disposition).rows == ROWS


def test_a_replace_whose_first_file_cannot_be_opened_says_why(database: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("id,name\n2,b\n")
    with pytest.raises(PartlyFailed, match=r"a\.csv: the file is empty") as caught:
        engine.load(tmp_path, database, pattern="*.csv", table="t", write_disposition="replace")
    assert caught.value.result is not None
    assert [file.state for file in caught.value.result.files] == ["failed"] * 2
    assert fetch(database, "SELECT to_regclass('t')") == [(None,)]


def test_a_replace_of_files_that_differ_in_columns_names_the_one_that_does(database: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    (tmp_path / "b.csv").write_text("id,name\n2,b\n")
    with pytest.raises(PartlyFailed, match=r"b\.csv: its columns are not those of the files before it"):
        engine.load(tmp_path, database, pattern="*.csv", table="t", write_disposition="replace")
    assert fetch(database, "SELECT to_regclass('t')") == [(None,)]
