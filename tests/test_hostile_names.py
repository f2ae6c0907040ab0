"""Keys of a bucket that mean harm, or only trouble, as sources of every destination."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine.errors import ConfigurationError, PartlyFailed
from engine.results import DELIVERED
from tests.control.platform import until
from tests.hostile_names import NEVER, PERHAPS, TEMPORARY
from tests.places import FolderPlace, Place, RestPlace, S3Place, SftpPlace
from tests.stores.keys_server import keys_server
from tests.stores.rest_server import endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.control.platform import Control

KEPT = "keep.csv"


@pytest.fixture(params=["folder", "s3", "sftp", "rest"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Place, Place | None]]:
    """A place, and its neighbour."""
    if request.param == "rest":
        with endpoint() as server:
            yield RestPlace(server, "in"), None
    elif request.param == "folder":
        yield FolderPlace(tmp_path / "root" / "in"), FolderPlace(tmp_path / "root")
    elif request.param == "s3":
        options = request.getfixturevalue("s3_options")
        keys = {key: value for key, value in options.items() if key != "bucket"}
        client, bucket = request.getfixturevalue("s3_client"), options["bucket"]
        yield S3Place(client, keys, bucket, "root/in"), S3Place(client, keys, bucket, "root")
        for name in S3Place(client, keys, bucket, "root").names():  # many at once go as XML, which cannot hold all of them
            client.delete_object(Bucket=bucket, Key=f"root/{name}")
    else:
        sftp, folder = request.getfixturevalue("sftp_server"), request.getfixturevalue("sftp_folder")
        yield SftpPlace(sftp, f"{folder}/in"), SftpPlace(sftp, folder)


def test_names_are_kept_or_refused_and_nothing_lands_outside(destination: tuple[Place, Place | None], tmp_path: Path) -> None:
    goes, around = destination
    contents = {name: f"content of {number}".encode() for number, name in enumerate((*NEVER, *PERHAPS, "good.csv", "sub/fine.csv"))}
    assert len(contents) >= 60
    if around is not None:
        (tmp_path / KEPT).write_bytes(b"a neighbour's")
        for name in (f"neighbour/{KEPT}", "up.csv"):
            around.put(name, tmp_path / KEPT)  # type: ignore[union-attr]  # no REST endpoint
    with keys_server({f"from/{name}": data for name, data in contents.items()}) as source:
        result = transferred(source, goes)
    told = {str(file.source).removeprefix("s3://keys/").removeprefix("from/"): file for file in result.files}
    expected = {name: hashlib.sha256(contents[name]).hexdigest() for name, file in told.items() if file.state in DELIVERED}
    assert standing(goes, expected) == {shown(goes, name): digest for name, digest in expected.items() if name != TEMPORARY}
    assert told.keys() == contents.keys()
    assert {file.state for file in told.values()} <= {*DELIVERED, "failed"}
    assert {"good.csv", "sub/fine.csv"} <= expected.keys()
    assert not expected.keys() & set(NEVER)
    for name in contents.keys() - expected.keys():
        assert (told[name].error or "\n").isprintable(), told[name].error
    if around is not None:
        kept = hashlib.sha256(b"a neighbour's").hexdigest()
        looked = FolderPlace(around.server.root / around.folder) if isinstance(around, SftpPlace) else around
        outside = {name: digest for name, digest in looked.hashes().items() if not name.startswith("in/")}
        assert outside == {f"neighbour/{KEPT}": kept, "up.csv": kept}


def transferred(source: dict[str, Any], goes: Place) -> engine.RunResult:
    """The result, which is one of a failure."""
    bucket, options = source["bucket"], {key: value for key, value in source.items() if key != "bucket"}
    with pytest.raises(PartlyFailed) as caught:
        engine.transfer(f"s3://{bucket}/from/", goes.url, pattern="**/*", source_options=options, dest_options=goes.options)
    assert caught.value.result is not None
    return caught.value.result


def standing(goes: Place, expected: dict[str, str]) -> dict[str, str]:
    """What stands there. rclone lists names that its disk refused: that is looked at, once everything has come."""
    if not isinstance(goes, SftpPlace):
        return {name: digest for name, digest in goes.hashes().items() if name != TEMPORARY}
    disk = FolderPlace(goes.server.root / goes.folder)
    with contextlib.suppress(AssertionError):
        until(lambda: len(disk.names()) >= len(expected) - 1, 5)
    return disk.hashes()


def shown(goes: Place, name: str) -> str:
    """An endpoint is told the last part of a path."""
    return name.rpartition("/")[2] if isinstance(goes, RestPlace) else name


def test_a_connector_delivers_what_stands_beside_hostile_keys(control: Control) -> None:
    names = ("../up.csv", "nul\0byte.csv", "line\nfeed.csv", "good.csv")
    with keys_server({f"from/{name}": b"x" for name in names}) as source:
        connector = control.transfer(("s3", "nfs"), {**source, "path": "from", "file_pattern": "**/*"})
        with pytest.raises(PartlyFailed, match="2 of 4 files delivered"):
            engine.run_connector(connector)
    assert set(FolderPlace(control.folder).names()) == {"line\nfeed.csv", "good.csv"}
    (record,) = control.records(connector)
    assert (record["status"], record["rows_ingested"]) == ("failed", 2)
    assert "no path below a store's root" in record["log_summary"]


def test_a_connector_delivers_what_stands_beside_a_name_that_is_not_utf8(control: Control, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in (b"\xff.csv", b"good.csv"):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(b"x")
    connector = control.transfer(("nfs", "nfs"), {"path": str(tmp_path / "in")})
    with pytest.raises(PartlyFailed, match="1 of 2 files delivered") as caught:
        engine.run_connector(connector)
    assert "UTF-8" in str(caught.value)
    assert set(FolderPlace(control.folder).names()) == {"good.csv"}
    assert control.statuses(connector) == ["failed"]
    assert engine.transfer(f"{tmp_path}/in/", f"{tmp_path}/out2/").ingested == 2  # without a ledger any name will do


def test_files_that_would_take_each_others_place_at_an_endpoint_are_refused(tmp_path: Path) -> None:
    """A PUT replaces what was put at the address before."""
    for name in ("a/x.csv", "b/x.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    with endpoint() as server:
        for url in (f"{server.url}/{{name}}", f"{server.url}/one"):
            with pytest.raises(ConfigurationError, match=r"a/x\.csv' and '.*b/x\.csv' would both become http"):
                engine.transfer(f"{tmp_path}/", url, pattern="**/*", delete_source=True, dest_options={"method": "PUT"})
        assert server.taken == []
        assert engine.transfer(f"{tmp_path}/", server.url, pattern="**/*").ingested == 2  # each POST is a file of its own
    assert (tmp_path / "a/x.csv").exists()


def test_a_name_in_a_folder_that_no_store_takes_fails_by_itself(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "good.csv").write_text("x")
    (source / "back\\slash.csv").write_text("y")
    (source / "loop").symlink_to("loop")
    with pytest.raises(PartlyFailed) as failed:
        engine.transfer(source, tmp_path / "out")
    assert failed.value.result is not None
    assert {file.state for file in failed.value.result.files} == {"written", "failed"}
    assert any("in a circle" in note for note in failed.value.result.notes)
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["good.csv"]


def test_file_urls_name_this_machine_and_every_character_counts(tmp_path: Path) -> None:
    (tmp_path / "a#b?c d.csv").write_text("x")
    result = engine.transfer(f"file://{tmp_path}/a#b?c%20d.csv", tmp_path / "out/")
    assert result.files[0].bytes == 1
    with pytest.raises(ConfigurationError, match="'file://elsewhere/data' names a host"):
        engine.transfer("file://elsewhere/data", tmp_path)
