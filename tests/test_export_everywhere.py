"""Exports to SFTP servers, which stream, and to REST endpoints, which are spooled; by command and by connector."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

import engine
from engine import reaper
from engine.errors import ConfigurationError, OutcomeUnknown
from engine.stores.spool import spool_folder
from tests.control.platform import Control, until
from tests.effort import slow
from tests.stores.rest_server import Endpoint, endpoint
from tests.test_reaper import at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUERY = "SELECT i, repeat('x', 100) AS t FROM generate_series(1, 10000) i"


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint() as state:
        yield state


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FERRY_SPOOL_DIR", str(tmp_path / "spool"))
    return spool_folder()


@pytest.fixture
def control(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("FERRY_LEASE_SECONDS", "2")
    control = Control(database, tmp_path / "out")
    yield control
    control.close()


@pytest.mark.parametrize("verify", [None, "read-back"])
def test_an_export_streams_to_an_sftp_server(database: str, sftp_server: Any, sftp_folder: str, verify: str | None) -> None:
    options = sftp_server.options(sftp_folder)
    url = f"sftp://{options['username']}@127.0.0.1:{options['port']}{options['path']}/x.parquet"
    more = {key: value for key, value in options.items() if key in {"password", "host_key"}}
    result = engine.export(QUERY, url, database=database, dest_options={**more, "verify": verify})
    (file,) = result.files
    assert (result.rows, file.path, file.verified) == (10_000, url, verify or "size")
    assert (
        pq.read_metadata(sftp_server.root / sftp_folder.lstrip("/") / "x.parquet").num_rows == 10_000
        if (sftp_server.root / sftp_folder.lstrip("/")).exists()
        else True
    )


def test_chunks_of_a_longer_delivery_are_removed_from_an_sftp_server(database: str, sftp_server: Any, sftp_folder: str) -> None:
    options = sftp_server.options(sftp_folder)
    url = f"sftp://{options['username']}@127.0.0.1:{options['port']}{options['path']}/x.csv"
    more = {key: value for key, value in options.items() if key in {"password", "host_key"}}
    assert len(engine.export(QUERY, url, database=database, dest_options=more, max_file_rows=3000).files) == 4
    again = engine.export(QUERY, url, database=database, dest_options=more, max_file_rows=6000)
    assert [file.state for file in again.files] == ["replaced", "replaced"]
    assert sum(note.startswith("removed ") for note in again.notes) == 2


def test_an_export_to_an_endpoint_is_spooled_and_sent(database: str, server: Endpoint, spool: Path) -> None:
    result = engine.export(QUERY, f"{server.url}/upload", database=database, source_options={"filename": "labs.csv"}, header=False)
    (taken,) = server.taken
    name, _, data = taken.parts["file"]
    assert (name, len(data.splitlines())) == ("labs.csv", 10_000)
    assert (result.rows, result.files[0].verified) == (10_000, "accepted")
    assert list(spool.iterdir()) == []
    with pytest.raises(ConfigurationError, match="REST endpoint"):
        engine.export(QUERY, f"{server.url}/upload", database=database, if_exists="fail")
    assert len(server.begun) == 1


def rest_connector(control: Control, server: Endpoint, **more: Any) -> int:
    return control.connector(QUERY, {"url": f"{server.url}/upload", **more}, types=("postgres", "rest_api"))


def test_an_export_whose_answer_is_lost_is_not_sent_again_by_itself(control: Control, server: Endpoint) -> None:
    connector = rest_connector(control, server)
    server.answers = ["lost"]
    with pytest.raises(OutcomeUnknown):
        engine.run_connector(connector)
    (row,) = control.files(connector)
    assert row["state"] == "ambiguous"
    with pytest.raises(OutcomeUnknown, match=f"ferry files resolve {row['id']} delivered"):
        engine.run_connector(connector)
    assert len(server.begun) == 1
    assert control.statuses(connector) == ["failed", "failed"]
    control.execute("UPDATE ferry_files SET state = 'written' WHERE id = %s", row["id"])
    assert engine.run_connector(connector).rows == 10_000
    assert len(server.taken) == 2


@pytest.mark.parametrize(
    ("point", "state", "sent"),
    [
        (at("engine.stores.spool.SpoolWriter", "finish"), "swept", 0),
        slow(at("engine.stores.rest.RestDestination", "send"), "ambiguous", 0),
        slow(at("engine.stores.rest.RestDestination", "send", after=True), "ambiguous", 1),
    ],
)
def test_a_killed_export_leaves_no_spool_file_and_says_what_it_does_not_know(
    control: Control, server: Endpoint, spool: Path, point: str, state: str, sent: int
) -> None:
    connector = rest_connector(control, server)
    assert control.process(connector, point).wait(timeout=30) == -signal.SIGKILL
    assert len(list(spool.iterdir())) == 1
    until(lambda: reaper.reap().runs)
    assert list(spool.iterdir()) == []
    assert [row["state"] for row in control.files(connector)] == [state]
    assert len(server.taken) == sent


def test_what_no_run_can_do_is_refused_before_anything_is_opened(control: Control, server: Endpoint, tmp_path: Path) -> None:
    source = {"path": str(tmp_path)}
    for destination, words in (
        ({"verify": "checksum"}, "cannot be asked for more"),
        ({"if_exists": "skip"}, "REST endpoint"),
        ({"if_exists": "fail"}, "REST endpoint"),
    ):
        connector = control.transfer(("filesystem", "rest_api"), source, {"url": f"{server.url}/x", **destination})
        with pytest.raises(ConfigurationError, match=words):
            engine.run_connector(connector)
    backwards = control.transfer(("rest_api", "nfs"), {"url": f"{server.url}/x"})
    with pytest.raises(ConfigurationError, match=r"source: 'rest_api' is not possible here"):
        engine.run_connector(backwards)
