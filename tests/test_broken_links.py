"""Connections that break in the middle: nothing half stands anywhere, the error says so once, and what passes is tried again."""

from __future__ import annotations

import contextlib
import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest
from botocore.retries import standard

import engine
from engine.errors import FerryError, PartlyFailed
from engine.routes import transfer as route
from engine.stores import rest
from tests.effort import slow
from tests.places import FolderPlace, Place, RestPlace, S3Place, SftpPlace
from tests.stores.rest_server import endpoint
from tests.tcp_proxy import Fault, TcpProxy, tcp_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "lab.bin"
BYTES = 12_000_000  # S3: one request, which breaks in its middle
PARTS_BYTES = 30_000_000  # S3: a multipart upload; REST: more than the system's own buffers hold of a link that stalls
CUT = 3_000_000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(rest, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda *_: 0)


class Link:
    """A transfer of one file, one end of which lies behind a proxy."""

    def __init__(self, came: Place, goes: Place, proxy: TcpProxy, options: tuple[dict[str, Any], dict[str, Any]], urls: tuple[str, str], data: bytes) -> None:
        self.came = came
        self.goes = goes
        self.proxy = proxy
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._options = options
        self._urls = urls

    def run(self) -> engine.RunResult:
        return engine.transfer(*self._urls, source_options=self._options[0], dest_options=self._options[1])

    def failure(self) -> FerryError:
        """What the run fails with: in words that hold no secret."""
        with pytest.raises(FerryError) as caught:
            self.run()
        told = str(caught.value) + (caught.value.result.summary() if isinstance(caught.value, PartlyFailed) and caught.value.result else "")
        for key in ("aws_access_key_id", "aws_secret_access_key", "password"):
            for options in self._options:
                assert options.get(key, "\0") not in told
        assert "defect" not in told
        return caught.value


ENDS = ("s3-source", "s3-destination", "s3-parts", "sftp-source", "sftp-destination", "rest-destination")


@pytest.fixture(params=ENDS)
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Link]:
    kind, _, role = request.param.partition("-")
    data = random.Random(7).randbytes(PARTS_BYTES if role == "parts" or kind == "rest" else BYTES)
    (tmp_path / NAME).write_bytes(data)
    folder = FolderPlace(tmp_path / role)
    folder.folder.mkdir()
    with contextlib.ExitStack() as stack:
        place: Place
        if kind == "s3":
            options = request.getfixturevalue("s3_options")
            keys = {key: value for key, value in options.items() if key != "bucket"}
            place = S3Place(request.getfixturevalue("s3_client"), keys, options["bucket"], "in")
            port = int(keys["endpoint_url"].rpartition(":")[2])
        elif kind == "sftp":
            place = SftpPlace(request.getfixturevalue("sftp_server"), request.getfixturevalue("sftp_folder"))
            port = place.server.port
        else:
            place = RestPlace(stack.enter_context(endpoint()), "in")
            port = int(place.endpoint.url.rpartition(":")[2])
        proxy = stack.enter_context(tcp_proxy(port))
        url, there = place.url.replace(f":{port}", f":{proxy.port}"), {**place.options}
        if kind == "s3":
            there["endpoint_url"] = f"http://127.0.0.1:{proxy.port}"
        came, goes = (place, folder) if role == "source" else (folder, place)
        came.put(NAME, tmp_path / NAME)  # type: ignore[union-attr]  # no REST endpoint
        ends = ((there, {}), (url, folder.url)) if role == "source" else (({}, there), (folder.url, url))
        yield Link(came, goes, proxy, *ends, data)


def direction(link: Link) -> Any:
    """The one in which the file goes."""
    return "down" if isinstance(link.goes, FolderPlace) else "up"


@pytest.mark.parametrize("kind", ["reset", slow("truncate")])
def test_a_link_that_breaks_each_time_fails_the_file_and_leaves_nothing(link: Link, kind: Any) -> None:
    link.proxy.arm(Fault(kind, direction(link), CUT))
    error = link.failure()
    assert link.proxy.hits >= 3, "one file is tried three times"
    assert error.transient
    assert link.goes.hashes() == {}
    assert link.came.hashes() == {NAME: link.sha256}
    link.proxy.arm(None)
    assert [file.state for file in link.run().files] == ["written"]
    assert link.goes.hashes() == {NAME: link.sha256}
    assert link.goes.leftovers() == []


@pytest.mark.parametrize("kind", [slow("reset"), "truncate"])
def test_a_link_that_breaks_once_is_survived(link: Link, kind: Any) -> None:
    link.proxy.arm(Fault(kind, direction(link), CUT, times=1))
    result = link.run()
    assert link.proxy.hits == 1
    assert [(file.state, file.sha256) for file in result.files] == [("written", link.sha256)]
    assert link.goes.hashes() == {NAME: link.sha256}
    assert link.goes.leftovers() == []


def test_a_link_that_loses_answers_once_is_survived(link: Link) -> None:
    """A reset against the stream: the first bytes of an answer."""
    link.proxy.arm(Fault("reset", "up" if direction(link) == "down" else "down", 0, times=1))
    result = link.run()
    assert link.proxy.hits == 1
    assert [(file.state, file.sha256) for file in result.files] == [("written", link.sha256)]
    assert link.goes.hashes() == {NAME: link.sha256}
    assert link.goes.leftovers() == []


def test_a_slow_link_changes_nothing(link: Link) -> None:
    link.proxy.arm(Fault("delay", direction(link), 0, times=10, seconds=0.02))
    assert link.run().files[0].sha256 == link.sha256
    assert link.proxy.hits == 10
    assert link.goes.hashes() == {NAME: link.sha256}


@pytest.mark.parametrize("link", ["rest-destination"], indirect=True)
def test_a_stalled_request_ends_with_its_timeout(link: Link) -> None:
    link._options[1]["timeout"] = 0.5
    link.proxy.arm(Fault("stall", "up", CUT, times=1))
    assert link.run().files[0].sha256 == link.sha256
    link.proxy.arm(Fault("stall", "up", CUT))
    assert link.failure().transient
    assert link.proxy.hits == 3


@pytest.mark.parametrize("link", ["rest-destination"], indirect=True)
def test_a_post_whose_answer_is_lost_is_not_sent_again(link: Link) -> None:
    link._options[1]["method"] = "POST"
    link.proxy.arm(Fault("reset", "down", 0, times=1))
    error = link.failure()
    assert isinstance(error, PartlyFailed)
    assert error.result is not None
    assert [file.state for file in error.result.files] == ["ambiguous"]
    assert "it may have been taken or not" in str(error)
    assert isinstance(link.goes, RestPlace)
    assert link.goes.deliveries() == [(NAME, link.sha256)]
    link.proxy.arm(Fault("reset", "up", CUT, times=1))  # before the last bytes: nobody can have taken it
    assert [file.state for file in link.run().files] == ["written"]
    assert len(link.goes.deliveries()) == 2
