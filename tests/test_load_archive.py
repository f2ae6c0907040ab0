"""Files that were loaded go to an archive of the same store: never lost, never in another's place, not loaded again from there."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine import checking
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError, PartlyFailed
from engine.routes.archive import Archive
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.memory import MemoryStore
from engine.stores.temporary import new_token, temporary_name
from tests.conformance.test_stores import get, put
from tests.postgres.loads import fetch
from tests.test_load import rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.control.platform import Control

A, B = b"id,name\n1,a\n", b"id,name\n2,b\n"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in" / "2024").mkdir(parents=True)
    (tmp_path / "in" / "a.csv").write_bytes(A)
    (tmp_path / "in" / "2024" / "b.csv").write_bytes(B)
    return tmp_path / "in"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("disposition", ["append", "merge", "replace"])
def test_what_is_loaded_goes_to_the_archive(database: str, inbox: Path, disposition: str) -> None:
    asked: dict[str, Any] = {"pattern": "**/*.csv", "table": "t", "write_disposition": disposition, "primary_key": "id"}
    result = engine.load(inbox, database, archive_path=str(inbox.parent / "done"), **asked)
    assert names(inbox.parent) == ["done/2024/b.csv", "done/a.csv"]
    assert [file.archived for file in result.files] == [str(inbox.parent / "done" / "2024" / "b.csv"), str(inbox.parent / "done" / "a.csv")]
    assert f"archived as {inbox.parent}/done/a.csv" in str(result)
    assert engine.load(inbox, database, archive_path=str(inbox.parent / "done"), **asked).files == ()
    assert len(rows(database, "t")) == 2


def test_an_archive_below_the_source_is_not_loaded_from(database: str, inbox: Path) -> None:
    for _ in range(2):
        engine.load(inbox, database, pattern="**/*.csv", table="t", archive_path=str(inbox / "done"))
    assert names(inbox) == ["done/2024/b.csv", "done/a.csv"]
    assert len(rows(database, "t")) == 2


@pytest.mark.parametrize("source", ["in", "in/a.csv"])
def test_an_archive_that_is_the_source_is_refused(database: str, inbox: Path, source: str) -> None:
    with pytest.raises(ConfigurationError, match="'archive_path': the files are loaded from there"):
        engine.load(inbox.parent / source, database, format="csv", table="t", archive_path=str(inbox))
    assert fetch(database, "SELECT to_regclass('t')") == [(None,)]


def test_a_file_is_deleted_or_archived(database: str, inbox: Path) -> None:
    with pytest.raises(ConfigurationError, match="deleted or moved, not both"):
        engine.load(inbox / "a.csv", database, delete_source=True, archive_path="done")


def test_what_is_not_loaded_stays(database: str, inbox: Path) -> None:
    (inbox / "a.csv").write_bytes(A + b"2\n")
    with pytest.raises(PartlyFailed):
        engine.load(inbox, database, pattern="**/*.csv", table="t", archive_path=str(inbox.parent / "done"))
    assert names(inbox.parent) == ["done/2024/b.csv", "in/a.csv"]


def test_a_name_that_other_bytes_have_in_the_archive_is_left_to_them(database: str, inbox: Path) -> None:
    done = inbox.parent / "done"
    for day in (A, B, A + b"3,c\n"):
        (inbox / "a.csv").write_bytes(day)
        engine.load(inbox / "a.csv", database, on_changed_file="append", archive_path=str(done))
    assert sorted((done / name).read_bytes() for name in names(done)) == sorted([A, B, A + b"3,c\n"])
    assert [name.partition(".")[0] + name[-4:] for name in names(done)] == ["a.csv"] * 3


def test_a_move_that_ended_after_the_commit_is_ended_by_the_next_run(database: str, inbox: Path) -> None:
    engine.load(inbox / "a.csv", database)
    result = engine.load(inbox / "a.csv", database, archive_path=str(inbox.parent / "done"))
    assert (result.rows, result.files[0].state, names(inbox.parent / "done")) == (0, "already delivered", ["a.csv"])


def test_a_replace_that_was_killed_while_it_took_its_sources_away_is_not_begun_anew(database: str, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"pattern": "**/*.csv", "table": "t", "write_disposition": "replace", "delete_source": True}
    delete, calls = LocalStore.delete, []

    def killed(self: LocalStore, file: Any) -> None:
        calls.append(file)
        if len(calls) > 1:
            raise KeyboardInterrupt
        delete(self, file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalStore, "delete", killed)
        engine.load(inbox, database, **asked)
    assert names(inbox) == ["a.csv"]
    engine.load(inbox, database, **asked)
    assert names(inbox) == []
    assert [text for (text,) in rows(database, "t")] == ["(1,a)", "(2,b)"]
    (inbox / "a.csv").write_bytes(A)  # comes anew, with the same content
    os.utime(inbox / "a.csv", (1, 1))
    engine.load(inbox, database, **asked)
    assert [text for (text,) in rows(database, "t")] == ["(1,a)"]


@pytest.mark.parametrize("end", [0, 1])
def test_a_connector_archives(control: Control, database: str, inbox: Path, end: int) -> None:
    ends = [{"path": str(inbox), "file_pattern": "**/*.csv"}, {"connection_string": database, "table": "t"}]
    ends[end]["archive_path"] = str(inbox.parent / "done")
    connector = control.transfer(("nfs", "postgres"), *ends)
    with ControlDatabase(control.url) as opened:
        checked = checking.check(opened, connector)
    assert str(checked.would).endswith(f"2 files, 24 B by now, without regard to what was loaded before; then moved to {inbox.parent}/done")
    assert not (inbox.parent / "done").exists()
    assert engine.run_connector(connector).rows == 2
    assert names(inbox.parent) == ["done/2024/b.csv", "done/a.csv"]


# The archive itself, over any store


def archived(source: Any, store: Any, path: str) -> str:
    return Archive(source, store).take(source.stat(path))


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_copy_that_stands_there_is_the_file_and_one_of_other_bytes_is_not(tmp_path: Path, by_itself: bool) -> None:
    source: Any = LocalStore(FolderOptions(path=str(tmp_path / "in")))
    store: Any = LocalStore(FolderOptions(path=str(tmp_path / "done"))) if by_itself else MemoryStore()
    put(source, "x/labs.csv.gz", A)
    put(store, "x/labs.csv.gz", A)  # as a kill leaves it
    archived(source, store, "x/labs.csv.gz")
    assert source.stat("x/labs.csv.gz") is None
    put(source, "x/labs.csv.gz", B)
    second = archived(source, store, "x/labs.csv.gz").rpartition("/")[2]
    assert second.startswith("labs.")
    assert second.endswith(".csv.gz")
    assert (get(store, "x/labs.csv.gz"), get(store, f"x/{second}")) == (A, B)
    assert list(source.list("**/*")) == []


def test_another_disk_gets_a_copy_and_what_a_kill_left_of_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, store = (LocalStore(FolderOptions(path=str(tmp_path / name))) for name in ("in", "done"))
    put(source, "a.csv", A)
    for left in ("a.csv", "b.csv"):
        put(store, "x", b"half")
        (tmp_path / "done" / "x").rename(tmp_path / "done" / temporary_name(left, new_token()))

    link = os.link

    def other_disk(old: str, new: str) -> None:
        if old.startswith(f"{tmp_path}/in/"):
            raise OSError(errno.EXDEV, "cross-device link")
        link(old, new)

    monkeypatch.setattr(os, "link", other_disk)
    archived(source, store, "a.csv")
    assert [name.partition(".csv")[0] for name in names(tmp_path)] == ["done/.b", "done/a"]


def test_of_a_link_the_file_is_archived_and_the_link_goes(tmp_path: Path) -> None:
    source, store = (LocalStore(FolderOptions(path=str(tmp_path / name))) for name in ("in", "done"))
    put(source, "real/a.csv", A)
    (tmp_path / "in" / "a.csv").symlink_to("real/a.csv")
    archived(source, store, "a.csv")
    assert not (tmp_path / "done" / "a.csv").is_symlink()
    assert names(tmp_path) == ["done/a.csv", "in/real/a.csv"]
