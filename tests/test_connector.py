"""Whole runs of connectors: stopped, cut off from either database, failing in foreign ways; the record tells the truth each time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import engine
from engine import connector as connectors
from engine import embedded, jobs
from engine.control import connectors as stored
from engine.control import leases
from engine.errors import ConfigurationError, ProcessingError, QueryFailed
from engine.formats.csv import CsvFormat
from engine.stops import delivered
from engine.stores.local import LocalStore
from engine.stores.local_writer import LocalWriter
from tests.conftest import open_to_nobody
from tests.control.platform import GATED, PAUSE, ROOT, Control, is_paused, told, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.results import Progress, RunResult

CANARY = "s3cr3t-canary"
FERRY = (sys.executable, "-c", "from engine.cli import main; main()")


def streaming(control: Control) -> int:
    """Queries of ours that are active on the source's server."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arrow-ferry' AND state = 'active' AND datname = current_database()"
    with psycopg.connect(control.source) as connection:
        found = connection.execute(query).fetchone()
    return int(found[0]) if found else 0


# --- told to stop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_signal_ends_a_run_with_a_true_record_and_the_next_begins_at_once(
    control: Control, number: signal.Signals, place: str, request: pytest.FixtureRequest
) -> None:
    destination = {**request.getfixturevalue("s3_options"), "prefix": "out"} if place == "s3" else None
    connector = control.connector(GATED.format(rows=60_000), destination, types=("postgres", "s3" if place == "s3" else "nfs"))
    with control.close_gate():
        process = subprocess.Popen([*FERRY, "run", str(connector)], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        until(lambda: control.waiting() == 1)
        until(lambda: control.execute("SELECT 1 FROM ferry_files WHERE leftover IS NOT NULL"))
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 128 + number, error
        until(lambda: streaming(control) == 0)
        (record,) = control.records(connector)
        assert (record["status"], record["rows_ingested"]) == ("failed", 0)
        assert record["log_summary"] == f"cancelled: stopped by {number.name}; what was not finished is removed"
        assert record["finished_at"] is not None
        assert not control.lease(connector)["held"]
        assert [file["state"] for file in control.files(connector)] == ["discarded"]
    if place == "s3":
        client, bucket = request.getfixturevalue("s3_client"), request.getfixturevalue("s3_options")["bucket"]
        assert "Contents" not in client.list_objects_v2(Bucket=bucket)
        assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    else:
        assert not control.folder.exists()
    control.override(connector, query="SELECT 1 AS a")
    assert engine.run_connector(connector).status == "success"


def test_ctrl_c_in_a_python_program_is_a_cancelled_run(control: Control) -> None:
    connector = control.connector(GATED.format(rows=1000))
    with control.close_gate():
        process = control.process(connector)
        until(lambda: control.waiting() == 1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in error
    assert control.records(connector)[0]["log_summary"] == "cancelled: stopped by SIGINT; what was not finished is removed"
    assert not control.lease(connector)["held"]
    assert not control.folder.exists()


def test_a_run_that_is_stopped_while_it_asks_for_its_lease_gives_it_back(control: Control) -> None:
    connector = control.connector()
    control.execute(
        """CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END';
        CREATE TRIGGER wait BEFORE INSERT ON ferry_leases FOR EACH ROW EXECUTE FUNCTION wait()"""
    )
    with control.close_gate():
        process = control.process(connector)
        until(lambda: control.waiting() == 1)
        process.send_signal(signal.SIGINT)
        until(lambda: process.poll() is not None or is_interrupted(process.pid))
    process.communicate(timeout=30)
    assert control.records(connector)[0]["log_summary"].startswith("cancelled: ")
    assert not control.lease(connector)["held"]


def is_interrupted(pid: int) -> bool:
    """Whether no Ctrl-C is pending: the process has seen it."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return not int(status["ShdPnd"], 16) & (1 << (signal.SIGINT - 1))


def test_whoever_is_stopped_after_everything_was_delivered_was_not_cancelled(control: Control) -> None:
    connector, calls = control.connector(), []

    def update(*values: Any) -> None:
        calls.append(values)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connectors.run(connector, steps=connectors.Steps(update_run_record=update))
    assert len(calls) == 1
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 1)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_whatever_stops_a_run_while_its_outcome_is_told_changes_nothing(control: Control, stop: type[BaseException]) -> None:
    class Told(connectors.Observer):
        def finished(self, _: RunResult) -> None:
            heard.append(control.records(connector)[0]["status"])
            raise stop

    connector = control.connector()
    heard: list[str] = []
    with contextlib.nullcontext() if stop is RuntimeError else pytest.raises(stop):
        connectors.run(connector, observer=Told())
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 1)]
    assert heard == ["started"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stop_while_the_places_are_left_comes_too_late(control: Control, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]) -> None:
    def close(_: LocalStore) -> None:
        raise stop

    connector = control.connector()
    monkeypatch.setattr(LocalStore, "close", close)
    with contextlib.nullcontext() if stop is RuntimeError else pytest.raises(stop) as caught:
        assert engine.run_connector(connector).rows == 1
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 1)]
    if caught is not None:
        told_of = delivered(caught.value)
        assert told_of is not None
        assert told_of.rows == 1


@pytest.mark.parametrize("fault", [SystemExit, ValueError])
@pytest.mark.parametrize("closes", [True, False])
def test_a_log_that_fails_changes_nothing_about_what_is_delivered(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: type[BaseException], closes: bool
) -> None:
    """Also the warning that something failed after the delivery."""

    class Gone(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "delivered, then" in record.getMessage() or "written" in record.getMessage():
                raise fault

    def close(_: LocalStore) -> None:
        if not closes:
            raise RuntimeError

    connector, gone, logger = control.connector(), Gone(logging.INFO), logging.getLogger("engine")
    monkeypatch.setattr(LocalStore, "close", close)
    caplog.set_level(logging.INFO, "engine")
    logger.addHandler(gone)
    try:
        if fault is SystemExit:
            with pytest.raises(SystemExit):
                engine.run_connector(connector)
        else:
            assert engine.run_connector(connector).status == "success"
    finally:
        logger.removeHandler(gone)
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 1)]


def test_an_orchestrator_that_stops_after_the_step_that_moved_data_changes_nothing(control: Control) -> None:
    connector = control.connector()

    def moves(config: Mapping[str, Any]) -> dict[str, Any]:
        connectors.run_dlt_pipeline(config)
        raise SystemExit

    with pytest.raises(SystemExit):
        connectors.run(connector, steps=connectors.Steps(run_dlt_pipeline=moves))
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 1)]


def test_the_outcome_is_what_the_step_returned_also_when_the_record_is_not_ended_in_peace(control: Control) -> None:
    """A step need not call the engine's function in this process."""
    connector, outcome = control.connector(), {"status": "success", "rows_ingested": 7, "log_summary": "elsewhere"}

    def update(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connectors.run(connector, steps=connectors.Steps(run_dlt_pipeline=lambda _: outcome, update_run_record=update))
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 7)]


def test_a_log_that_stops_the_run_does_not_keep_its_record_open(control: Control) -> None:
    """As rich's does that finds its pipe broken."""

    class Gone(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            raise SystemExit

    class Stopped(connectors.Observer):
        def progress(self, _: Progress) -> None:
            raise KeyboardInterrupt

    connector, gone = control.connector(), Gone(logging.WARNING)
    logging.getLogger("engine").addHandler(gone)
    try:
        with pytest.raises(SystemExit):
            connectors.run(connector, observer=Stopped())
    finally:
        logging.getLogger("engine").removeHandler(gone)
    assert control.records(connector)[0]["log_summary"].startswith("cancelled: stopped by SIGINT")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no file that is always full")
def test_a_log_on_a_full_disk_does_not_stop_a_run(control: Control) -> None:
    connector = control.connector()
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([*FERRY, "--debug", "run", str(connector)], stderr=full, stdout=subprocess.DEVNULL, cwd=ROOT, check=False).returncode == 0
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 1)]


def test_a_log_that_nobody_reads_any_more_does_not_stop_a_run(control: Control) -> None:
    connector = control.connector("SELECT i, pg_sleep(CASE WHEN i % 40000 = 0 THEN 0.05 END) IS NULL AS s FROM generate_series(1, 200000) i")
    often = "import sys; from engine.cli import display, main; display.PLAIN_SECONDS = 0.0; sys.argv[0] = 'ferry'; main()"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for options in (["--debug"], []):  # with the log, and with lines of progress alone
        ours, theirs = os.pipe()
        os.close(ours)
        command = [sys.executable, "-c", often, *options, "run", str(connector)]
        assert subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, cwd=ROOT, env=buffered, check=False).returncode == 0
        os.close(theirs)
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 200_000)] * 2


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_terminal_that_is_gone_does_not_stop_a_run(control: Control, is_closed: bool) -> None:
    """Somebody logs out; or standard error was closed before it began (`2>&-`)."""
    connector = control.connector(GATED.format(rows=60_000))
    ours, theirs = pty.openpty()
    command = " ".join(shlex.quote(word) for word in (*FERRY, "run", str(connector), "--json")) + (" 2>&-" if is_closed else "")
    with control.close_gate():
        process = subprocess.Popen(["sh", "-c", command], stderr=theirs, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(theirs)
        until(lambda: control.waiting() == 1)
        os.close(ours)
        time.sleep(0.5)  # the line moves ten times a second
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out)["status"] == "success"
    assert [(record["status"], record["rows_ingested"]) for record in control.records(connector)] == [("success", 60_010)]


def test_a_signal_while_everything_is_published_finds_it_delivered(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    connector, publish = control.connector(), LocalWriter._publish

    def interrupted(self: LocalWriter) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: is_interrupted(os.getpid()))
        time.sleep(0.5)  # the waiting thread looks up five times a second
        return publish(self)

    monkeypatch.setattr(LocalWriter, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connectors.run(connector)
    assert (control.folder / "x.csv").exists()
    record = control.records(connector)[0]
    assert (record["status"], record["rows_ingested"]) == ("success", 1)
    assert [file["state"] for file in control.files(connector)] == ["written"]


# --- the control database goes away ---------------------------------------------------------------------------------


class Restartable:
    """A PostgreSQL that is stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.server: embedded.Postgres | None = None

    def start(self) -> embedded.Postgres:
        if self.server is None:
            self.server = self._stack.enter_context(embedded.postgres(self._folder, port=getattr(self, "port", None)))
            self.port = self.server.port
        return self.server

    def stop(self) -> None:
        self._stack.close()
        self.server = None

    def new_database(self) -> str:
        server, name = self.start(), f"test_{time.monotonic_ns()}"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return server.url_of(name)


@pytest.fixture(scope="module")
def restartable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restartable]:
    folder = tmp_path_factory.mktemp("restartable")
    open_to_nobody(folder)
    server = Restartable(folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def fragile(restartable: Restartable, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    """A control database on a server that can be restarted; its connectors read from another server."""
    url = restartable.new_database()
    monkeypatch.setenv("DATABASE_URL", url)
    with contextlib.closing(Control(url, tmp_path / "out", database)) as platform:
        yield platform


outage = pytest.mark.xdist_group("outage")


@outage
def test_a_control_database_that_is_restarted_in_mid_run_disturbs_nobody(fragile: Control, restartable: Restartable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "15")
    connector = fragile.connector(GATED.format(rows=60_000))
    with fragile.close_gate():
        process = fragile.process(connector)
        until(lambda: fragile.waiting() == 1)
        restartable.stop()
        restartable.start()
        begun = fragile.lease(connector)
        until(lambda: fragile.lease(connector)["renewed_at"] > begun["renewed_at"])
    assert told(process)["status"] == "success"
    assert [(record["status"], record["rows_ingested"]) for record in fragile.records(connector)] == [("success", 60_010)]
    assert [file["state"] for file in fragile.files(connector)] == ["written"]
    assert not fragile.lease(connector)["held"]


@outage
def test_a_control_database_that_is_away_for_longer_than_the_lease_ends_the_run_and_nothing_is_left(
    fragile: Control, restartable: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    connector = fragile.connector(GATED.format(rows=60_000))
    with fragile.close_gate():
        process = fragile.process(connector)
        until(lambda: fragile.waiting() == 1)
        assert fragile.folder.exists()
        restartable.stop()
        until(lambda: streaming(fragile) == 0 and not fragile.folder.exists())
        assert process.poll() is None  # it waits for the database, to end its record
        restartable.start()
    assert told(process)["status"] == "LeaseLost"
    (record,) = fragile.records(connector)
    assert record["status"] == "failed"
    assert record["log_summary"] == f"the lease of connector {connector} (token 1) could not be renewed for 2 s; the run stopped, and published nothing more"


PAUSED_BEFORE = """
import importlib
owner = importlib.import_module("{module}")
owner = getattr(owner, "{name}") if "{name}" else owner
true = owner.{function}
def patched(*args, **more):
    if {condition}:
        {PAUSE}
    return true(*args, **more)
owner.{function} = patched
"""


@outage
@pytest.mark.slow
@pytest.mark.parametrize("point", ["publication", "the end of the record"])
def test_a_control_database_that_is_away_for_a_while_is_waited_for(fragile: Control, restartable: Restartable, point: str) -> None:
    """Nothing is published without its word; and what was delivered is not left as started."""
    code = {
        "publication": PAUSED_BEFORE.format(module="engine.control.leases", name="Ledger", function="record", condition="args[2] == 'publishing'", PAUSE=PAUSE),
        "the end of the record": PAUSED_BEFORE.format(module="engine.control.runs", name="", function="update_run_record", condition="True", PAUSE=PAUSE),
    }[point]
    connector = fragile.connector()
    process = fragile.process(connector, code)
    until(lambda: is_paused(process))
    restartable.stop()
    process.send_signal(signal.SIGCONT)
    time.sleep(7)  # longer than an impatient run waits
    assert process.poll() is None
    published = [path.name for path in fragile.folder.iterdir() if path.name == "x.csv"]
    assert published == ([] if point == "publication" else ["x.csv"])
    restartable.start()
    assert told(process)["status"] == "success"
    assert fragile.statuses(connector) == ["success"]
    assert (fragile.folder / "x.csv").exists()


@outage
def test_a_source_that_is_restarted_in_mid_run_fails_it(control: Control, restartable: Restartable) -> None:
    control.source = restartable.new_database()
    connector = control.connector(GATED.format(rows=60_000))
    with ThreadPoolExecutor(1) as pool, contextlib.suppress(psycopg.OperationalError), control.close_gate():
        running = pool.submit(engine.run_connector, connector)
        until(lambda: control.waiting() == 1)
        restartable.stop()
        with pytest.raises(QueryFailed) as caught:
            running.result(timeout=30)
    restartable.start()
    assert caught.value.transient
    (record,) = control.records(connector)
    assert (record["status"], record["log_summary"]) == ("failed", str(caught.value))
    assert not control.folder.exists()
    assert not control.lease(connector)["held"]
    control.override(connector, query="SELECT 1 AS a")
    assert engine.run_connector(connector).status == "success"


# --- errors ---------------------------------------------------------------------------------------------------------


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.levelname == "ERROR"]
    assert {record.name for record in found} <= {"engine"}
    return [record.getMessage() for record in found]


def test_a_failing_cast_is_logged_once_with_its_frames_and_without_the_cell(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    control.execute(f"CREATE TABLE p (name text); INSERT INTO p VALUES ('{CANARY}')")
    connector = control.connector("SELECT name::int AS n FROM p")
    with caplog.at_level("DEBUG", "engine"), pytest.raises(QueryFailed, match="22P02") as caught:
        engine.run_connector(connector)
    (logged,) = errors(caplog)
    assert logged.startswith(f"connector {connector}: run 1 failed: {caught.value}\n")
    for function in ("_under_lease", "export", "_receive", "_take_turns"):
        assert f", in {function}\n" in logged
    assert "adbc_driver_manager." in logged  # the chain below our own error, by its kind
    assert CANARY not in caplog.text
    (record,) = control.records(connector)
    assert record["log_summary"] == str(caught.value)
    assert CANARY not in record["log_summary"]


def fail(*_: Any, **__: Any) -> Any:
    try:
        int(CANARY)
    except ValueError as error:
        raise RuntimeError(f"{CANARY} again") from error


@pytest.mark.parametrize(
    ("owner", "function"),
    [
        (CsvFormat, "encoder"),
        (leases.Ledger, "record"),
        (jobs, "connector_job"),
        (leases, "acquire"),
        (stored, "read_connector"),
    ],
    ids=["format", "ledger", "job", "lease", "configuration"],
)
def test_a_foreign_error_is_logged_once_with_its_frames_and_without_its_text(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: Any, function: str
) -> None:
    connector = control.connector()
    with monkeypatch.context() as patched, caplog.at_level("DEBUG", "engine"):
        patched.setattr(owner, function, fail)
        with pytest.raises(ProcessingError) as caught:
            engine.run_connector(connector)
    (logged,) = errors(caplog)
    assert str(caught.value).startswith("unexpected RuntimeError in fail (test_connector.py, line ")
    assert logged.index("builtins.ValueError") < logged.index("builtins.RuntimeError")
    assert logged.count(", in fail") >= 2
    (record,) = control.records(connector)
    assert (record["status"], record["log_summary"]) == ("failed", str(caught.value))
    for text in (caplog.text, record["log_summary"], str(caught.value)):
        assert CANARY not in text
    assert not control.folder.exists()
    assert engine.run_connector(connector).status == "success"


def test_what_a_callers_own_callback_raises_fails_the_run_and_is_not_quoted(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    connector = control.connector()
    with pytest.raises(ProcessingError, match="unexpected RuntimeError in fail"):
        engine.run_connector(connector, on_progress=fail)
    assert len(errors(caplog)) == 1
    assert CANARY not in caplog.text
    assert control.statuses(connector) == ["failed"]
    assert not control.folder.exists()


@pytest.mark.parametrize("step", ["create_run_record", "read_connector_config", "run_dlt_pipeline", "update_run_record"])
def test_a_step_that_fails_in_a_foreign_way_leaves_a_record_that_has_ended(control: Control, caplog: pytest.LogCaptureFixture, step: str) -> None:
    """As when an orchestrator is gone: the sequence does not rest on it."""
    connector = control.connector()
    outcome = connectors.run(connector, steps=connectors.Steps(**{step: fail}))
    goes_on = step in {"create_run_record", "update_run_record"}
    assert outcome["status"] == ("success" if goes_on else "failed")
    assert control.statuses(connector) == ([] if step == "create_run_record" else [outcome["status"]])
    assert len(errors(caplog)) == (0 if goes_on else 1)
    assert CANARY not in caplog.text + outcome["log_summary"]


def test_an_unknown_connector_is_a_value_error_with_a_record(control: Control) -> None:
    with pytest.raises(ValueError, match="there is no connector 99") as caught:
        engine.run_connector(99)
    assert isinstance(caught.value, ConfigurationError)
    assert [(record["status"], record["log_summary"]) for record in control.records(99)] == [("failed", str(caught.value))]


def test_the_summary_of_a_success_counts_and_names_the_first_files(control: Control) -> None:
    connector = control.connector("SELECT i FROM generate_series(1, 250) i", max_file_rows=10)
    result = engine.run_connector(connector)
    (record,) = control.records(connector)
    assert (result.rows, len(result.files), record["rows_ingested"]) == (250, 25, 250)
    summary = record["log_summary"]
    assert summary.startswith("250 rows, ")
    assert summary.count("written ") == 20
    assert "… and 5 more files" in summary
    assert len(control.files(connector)) == 25


# --- without Prefect ------------------------------------------------------------------------------------------------

NO_PREFECT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"prefect", "flows"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
try:
    import prefect
except ImportError:
    pass
else:
    sys.exit("it could be imported after all")
"""


def test_a_connector_runs_where_prefect_cannot_be_imported(control: Control) -> None:
    connector = control.connector()
    assert told(control.process(connector, NO_PREFECT))["status"] == "success"
    assert control.statuses(connector) == ["success"]
    assert "PREFECT_API_URL" not in os.environ
