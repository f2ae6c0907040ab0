"""Connectors that move files: their ledger, what a kill leaves at each point, and what the next run makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import engine
import engine.connector as connector_module
from engine import checking, reaper
from engine.connector import Steps, run_dlt_pipeline
from engine.control.database import ControlDatabase
from engine.errors import ConfigurationError, Interrupted, PartlyFailed
from engine.routes import transfer as route
from engine.stores.local_writer import LocalWriter
from tests.control.platform import KILL, Control, until
from tests.effort import spread
from tests.test_reaper import at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.results import Progress

FILES = {"a.csv": b"a" * 1000, "b.csv": b"", "sub/c.csv": b"c" * 3_000_000}


@pytest.fixture
def control(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    (tmp_path / "out").mkdir()
    control = Control(database, tmp_path / "out")
    yield control
    control.close()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mover(control: Control, inbox: Path, **more: Any) -> int:
    return control.transfer(("filesystem", "nfs"), {"path": str(inbox), "file_pattern": "**/*", **more})


def states(control: Control, connector: int) -> dict[str, list[str]]:
    """By source path, over the runs."""
    found: dict[str, list[str]] = {}
    for row in control.files(connector):
        found.setdefault(row["source_path"], []).append(row["state"])
    return found


def test_files_are_moved_noted_and_counted(control: Control, inbox: Path) -> None:
    connector = mover(control, inbox, delete_source=True)
    result = engine.run_connector(connector)
    assert tree(control.folder) == FILES
    assert tree(inbox) == {}
    assert (result.ingested, result.counts) == (3, "files")
    (record,) = control.records(connector)
    assert (record["status"], record["rows_ingested"]) == ("success", 3)
    assert record["log_summary"].startswith("3 of 3 files delivered, ")
    rows = {row["source_path"]: row for row in control.files(connector)}
    assert {path: (row["state"], row["path"], row["file_bytes"], row["verified"]) for path, row in rows.items()} == {
        name: ("moved", name, len(data), "size") for name, data in FILES.items()
    }
    assert engine.run_connector(connector).headline == "nothing to transfer"


def test_a_kept_source_is_sent_once_unless_it_changes_or_is_asked_for(control: Control, inbox: Path) -> None:
    connector = mover(control, inbox)
    engine.run_connector(connector)
    again = engine.run_connector(connector)
    assert {file.state for file in again.files} == {"already delivered"}
    assert again.ingested == 0
    assert (
        control.records(connector)[-1]["log_summary"].endswith("3 already delivered") or "3 already delivered" in control.records(connector)[-1]["log_summary"]
    )
    (inbox / "a.csv").write_bytes(b"changed")
    assert sorted(file.state for file in engine.run_connector(connector).files) == ["already delivered", "already delivered", "replaced"]
    assert [file.state for file in engine.run_connector(connector, redeliver=True).files] == ["replaced"] * 3
    control.folder.joinpath("a.csv").unlink()
    assert {file.state for file in engine.run_connector(connector).files} == {"already delivered"}  # whoever took it away took it away


def test_a_run_is_shown_with_its_files_and_without_rows_that_nobody_counted(control: Control, inbox: Path) -> None:
    run = engine.run_connector(mover(control, inbox)).run_id
    shown = ferry("runs", "show", str(run)).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("written ") and "/a.csv" in line and "sha256" in line and "bytes" in line]
    assert "1,000 bytes" in line
    assert " rows" not in line


def test_another_destination_gets_the_files_again(control: Control, inbox: Path, tmp_path: Path) -> None:
    connector = mover(control, inbox)
    engine.run_connector(connector)
    control.execute("UPDATE cai_connectors SET destination_config_override = %s", f'{{"path": "{tmp_path}/elsewhere"}}')
    assert engine.run_connector(connector).ingested == 3
    assert tree(tmp_path / "elsewhere") == FILES


def test_another_source_has_other_files_even_if_they_look_the_same(control: Control, inbox: Path, tmp_path: Path) -> None:
    connector = mover(control, inbox)
    engine.run_connector(connector)
    other = tmp_path / "other"
    shutil.copytree(inbox, other)  # with names, sizes and times
    (other / "a.csv").write_bytes(b"b" * 1000)
    os.utime(other / "a.csv", ns=(0, (inbox / "a.csv").stat().st_mtime_ns))
    control.override(connector, path=str(other), file_pattern="**/*")
    assert engine.run_connector(connector).ingested == len(FILES)
    assert tree(control.folder) == {**FILES, "a.csv": b"b" * 1000}
    assert engine.run_connector(connector).ingested == 0


def test_a_partial_failure_is_a_failed_run_that_names_the_files(control: Control, inbox: Path) -> None:
    (control.folder / "a.csv").mkdir()
    connector = mover(control, inbox, delete_source=True)
    with pytest.raises(PartlyFailed) as caught:
        engine.run_connector(connector)
    assert caught.value.result is not None
    assert caught.value.result.ingested == 2
    assert set(tree(inbox)) == {"a.csv"}
    (record,) = control.records(connector)
    assert (caught.value.result.status, caught.value.result.run_id) == ("failed", record["id"])
    assert (record["status"], record["rows_ingested"]) == ("failed", 2)
    assert record["log_summary"].startswith("2 of 3 files delivered, ")
    assert "a.csv" in record["log_summary"]
    assert states(control, connector) == {"a.csv": ["discarded"], "b.csv": ["moved"], "sub/c.csv": ["moved"]}
    (control.folder / "a.csv").rmdir()
    assert engine.run_connector(connector).ingested == 1


LEDGER = "engine.control.leases.Ledger"
STATE = "len(args) > 2 and args[1] == 'a.csv' and args[2] == {!r}"
# Points at which a run kills itself: whether the file's source and its delivery stand then, and whether the ledger knows of the delivery.
POINTS = {
    "before a file is begun": (at("engine.stores.local.LocalStore", "open_write"), True, False, False),
    "with the file begun": (at("engine.stores.local.LocalWriter", "__enter__", after=True), True, False, False),
    "before the note of its publication": (at(LEDGER, "record", STATE.format("publishing")), True, False, False),
    "between the note of its publication and its publication": (at(LEDGER, "record", STATE.format("publishing"), after=True), True, False, False),
    "between its publication and the note of it": (at(LEDGER, "record", STATE.format("written")), True, True, False),
    "before the note of its deletion": (at(LEDGER, "record", STATE.format("removing source")), True, True, True),
    "between the note of its deletion and its deletion": (at(LEDGER, "record", STATE.format("removing source"), after=True), True, True, True),
    "between its deletion and the note of it": (at(LEDGER, "record", STATE.format("moved")), False, True, True),
    "when all is done": (at(LEDGER, "record", STATE.format("moved"), after=True), False, True, True),
}


@pytest.mark.parametrize("point", spread(POINTS, 9))
def test_a_rerun_finishes_what_was_killed_at_any_point(control: Control, inbox: Path, point: str) -> None:
    code, source_stands, is_delivered, is_noted = POINTS[point]
    connector = mover(control, inbox, delete_source=True, file_pattern="a.csv")
    process = control.process(connector, code)
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert ("a.csv" in tree(inbox)) is source_stands
    assert ("a.csv" in tree(control.folder)) is is_delivered
    assert source_stands or is_delivered
    until(lambda: reaper.reap().runs)
    assert set(tree(control.folder)) <= {"a.csv"}  # no temporary file
    result = engine.run_connector(connector)
    assert tree(control.folder) == {"a.csv": FILES["a.csv"]}
    assert "a.csv" not in tree(inbox)
    assert states(control, connector)["a.csv"][-1] == ("moved" if source_stands or point == "when all is done" else "removing source")
    if is_delivered:
        assert all(file.state == "written" and file.sha256 is None for file in result.files)  # found, not sent again
    assert control.statuses(connector) == ["failed", "success"]
    assert control.records(connector)[0]["rows_ingested"] == int(is_noted)
    assert "ambiguous" not in states(control, connector)["a.csv"], "nobody needs to look at what has been found"


def test_an_upload_that_was_begun_and_not_noted_is_swept(control: Control, inbox: Path, s3_client: Any, s3_options: dict[str, Any]) -> None:
    (inbox / "large.bin").write_bytes(bytes(26 << 20))
    connector = control.transfer(("nfs", "s3"), {"path": str(inbox), "file_pattern": "large.bin"}, {**s3_options, "path": "out"})
    begun = at("botocore.client.BaseClient", "_make_api_call", "args[1] == 'CreateMultipartUpload'", after=True)
    assert control.process(connector, begun).wait(timeout=30) == -signal.SIGKILL
    assert len(s3_client.list_multipart_uploads(Bucket=s3_options["bucket"])["Uploads"]) == 1
    until(lambda: reaper.reap().runs)
    assert engine.run_connector(connector).ingested == 1
    assert s3_client.list_multipart_uploads(Bucket=s3_options["bucket"]).get("Uploads", []) == []


def test_a_late_reaper_asks_nobody_to_look_at_what_a_later_run_has_delivered(control: Control, inbox: Path) -> None:
    """The reaper before it died with the row in its hands."""
    connector = mover(control, inbox, file_pattern="a.csv")
    process = control.process(connector, at(LEDGER, "record", STATE.format("written")))
    assert process.wait(timeout=30) == -signal.SIGKILL
    until(lambda: reaper.reap().runs)
    engine.run_connector(connector)
    control.execute("UPDATE ferry_files SET state = 'publishing' WHERE token = 1")
    assert reaper.reap().problems == []
    assert states(control, connector) == {"a.csv": ["swept", "written"]}


def ferry(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", "from engine.cli import main; main()", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_files_are_listed_and_ambiguous_ones_resolved(control: Control, inbox: Path) -> None:
    connector = mover(control, inbox)
    engine.run_connector(connector)
    control.execute("UPDATE ferry_files SET state = 'ambiguous' WHERE source_path = 'a.csv'")
    number = next(row["id"] for row in control.files(connector) if row["state"] == "ambiguous")
    shown = ferry("files", "--state", "ambiguous")
    assert shown.stdout.startswith(f"{number}  ambiguous  connector {connector}, run 1  a.csv -> {control.folder}/a.csv  1000 B  ")
    assert len(ferry("files").stdout.splitlines()) == 3
    assert ferry("files", "--connector", "99").stdout == "no files\n"
    assert "noted as delivered" in ferry("files", "resolve", str(number), "delivered").stdout
    for arguments, words in (
        ((str(number), "resend"), "is written, not ambiguous"),
        (("999", "resend"), "there is no file 999"),
        ((str(number), "perhaps"), "delivered or resend, not 'perhaps'"),
    ):
        refused = ferry("files", "resolve", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert words in refused.stderr
    assert ferry("files", "--state", "lost").returncode == 2
    control.execute("UPDATE ferry_files SET state = 'ambiguous' WHERE source_path = 'a.csv'")
    assert "the next run sends it again" in ferry("files", "resolve", str(number), "resend").stdout
    assert sorted(file.state for file in engine.run_connector(connector).files) == ["already delivered", "already delivered", "replaced"]


def test_an_interrupted_transfer_counts_what_it_delivered(control: Control, inbox: Path) -> None:
    connector = mover(control, inbox, files_in_flight=1)
    stop = "import engine.control.leases as l, os, signal\n" + at(LEDGER, "record", "args[2] == 'writing' and args[1] == 'sub/c.csv'").replace(
        KILL, "__import__('os').kill(__import__('os').getpid(), 2), __import__('time').sleep(1)"
    )
    process = control.process(connector, stop)
    process.wait(timeout=30)
    record = until(lambda: [one for one in control.records(connector) if one["finished_at"]])[0]
    assert (record["status"], record["rows_ingested"]) == ("failed", 2)
    assert record["log_summary"].startswith("cancelled: ")
    assert set(tree(control.folder)) == {"a.csv", "b.csv"}


def test_a_record_says_what_may_remain_where_a_server_does_not_answer(control: Control, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connector, answers = mover(control, inbox), threading.Event()
    monkeypatch.setattr(route, "GIVE_UP_SECONDS", 0.2)
    monkeypatch.setattr(LocalWriter, "finish", lambda _: answers.wait(30))

    def stop(_: Progress) -> None:
        raise Interrupted

    try:
        with pytest.raises(Interrupted):
            engine.run_connector(connector, on_progress=stop)
        (record,) = control.records(connector)
        assert record["log_summary"].endswith("; of 3 whose server does not answer something unfinished may remain there")
    finally:
        answers.set()


def test_the_log_holds_nothing_that_acts_on_a_terminal(control: Control, inbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "a \x9b31m\u202e\n b.csv"
    (inbox / name).write_text("x")
    caplog.set_level("INFO", "engine")
    engine.run_connector(mover(control, inbox))
    (told,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("file written") and "31m" in record.getMessage()]
    assert told.isprintable()


def test_keys_of_the_route_may_stand_at_either_end_and_are_checked(control: Control, inbox: Path) -> None:
    connector = control.transfer(
        ("filesystem", "nfs"),
        {"path": str(inbox), "delete_source": False, "flatten": True},
        {"path": str(control.folder), "file_pattern": "x", "flatten": False},
    )
    assert engine.run_connector(connector).ingested == 2
    wrong = control.transfer(("filesystem", "nfs"), {"path": str(inbox), "files_in_fligth": 3})
    with pytest.raises(ConfigurationError, match=r"files_in_fligth.*did you mean 'files_in_flight'"):
        engine.run_connector(wrong)


def test_an_orchestrator_that_fails_after_the_data_was_moved_changes_nothing_about_that(control: Control, inbox: Path) -> None:
    connector = mover(control, inbox, delete_source=True)

    def fail_late(config: dict[str, Any]) -> dict[str, Any]:
        run_dlt_pipeline(config)
        raise ConnectionError("the orchestrator is gone")

    outcome = connector_module.run(connector, steps=Steps(run_dlt_pipeline=fail_late))
    assert (outcome["status"], outcome["rows_ingested"]) == ("success", 3)
    (record,) = control.records(connector)
    assert (record["status"], record["rows_ingested"]) == ("success", 3)
    assert record["log_summary"].startswith("3 of 3 files delivered")


def test_a_check_says_what_a_run_would_refuse(control: Control, inbox: Path, tmp_path: Path) -> None:
    missing = control.transfer(("filesystem", "nfs"), {"path": str(tmp_path / "nowhere")})
    itself = control.transfer(("filesystem", "nfs"), {"path": str(inbox)}, {"path": str(inbox)})
    sound = mover(control, inbox)
    with ControlDatabase() as database:
        assert "no file or folder" in str(checking.check(database, missing).problem)
        assert "over itself" in str(checking.check(database, itself).problem)
        assert "3 files" in checking.check(database, sound).would
    assert tree(control.folder) == {}
    assert tree(inbox) == FILES
