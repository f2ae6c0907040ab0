"""Ad hoc calls from folder to folder: what counts as the folder, and what lies beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine import embedded
from engine.errors import ConfigurationError, FerryError, PartlyFailed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A folder with one file, beside another with a file that was not meant."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/secret.csv").write_text("secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("a")
    return tmp_path / "in"


@pytest.mark.parametrize("slash", ["", "/"])
def test_links_do_not_lead_out_of_the_folder_that_is_named(inbox: Path, tmp_path: Path, slash: str) -> None:
    (inbox / "link.csv").symlink_to(tmp_path / "beside/secret.csv")
    (inbox / "inner.csv").symlink_to("a.csv")
    result = engine.transfer(f"{inbox}{slash}", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.csv", "inner.csv"}
    assert [note for note in result.notes if "link.csv is a link that leads out" in note]


@pytest.mark.parametrize("slash", ["", "/"])
def test_nothing_is_written_through_links_in_the_target(inbox: Path, tmp_path: Path, slash: str) -> None:
    (inbox / "sub").mkdir()
    (inbox / "sub/b.csv").write_text("b")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "beside")
    with pytest.raises(PartlyFailed, match=r"leads out of .*/out by a link"):
        engine.transfer(inbox, f"{tmp_path / 'out'}{slash}", pattern="**/*")
    assert {path.name for path in (tmp_path / "beside").iterdir()} == {"secret.csv"}
    assert (tmp_path / "out/a.csv").read_text() == "a"


def test_a_load_follows_no_link_out_of_its_folder(inbox: Path, tmp_path: Path, database: str) -> None:
    (inbox / "a.csv").write_text("id\n1\n")
    (tmp_path / "beside/secret.csv").write_text("id\n2\n")
    (inbox / "link.csv").symlink_to(tmp_path / "beside/secret.csv")
    result = engine.load(inbox, database, pattern="*.csv", table="labs")
    assert result.rows == 1
    assert [note for note in result.notes if "link.csv is a link that leads out" in note]


def test_a_folder_that_is_missing_is_made_and_named(inbox: Path, tmp_path: Path) -> None:
    engine.transfer(inbox / "a.csv", f"{tmp_path / 'new/deep'}/")
    assert (tmp_path / "new/deep/a.csv").read_text() == "a"
    with pytest.raises(ConfigurationError, match=r"no file or folder .*/missing"):
        engine.transfer(f"{tmp_path}/missing/", tmp_path / "out")


def test_a_folder_that_is_itself_the_mount_point_is_below_one(tmp_path: Path) -> None:
    assert engine.transfer("/proc", tmp_path / "out", pattern="no-such*", source_options={"require_mount": True}).files == ()


@pytest.mark.parametrize("more", [{"delete_source": True}, {"if_exists": "skip"}])
def test_a_share_that_is_not_mounted_is_neither_read_nor_taken_for_what_stands_there(inbox: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    if any(place.is_mount() for place in (tmp_path, *tmp_path.parents[:-1])):
        pytest.skip("the folder for temporary files is a mount")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.csv").write_text("shadow")
    for ends in ((inbox / "a.csv", tmp_path / "out", "source_options"), (inbox, tmp_path / "out", "dest_options")):
        with pytest.raises(FerryError, match="mount point"):
            engine.transfer(*ends[:2], **{ends[2]: {"require_mount": True}, **more})
    assert (inbox / "a.csv").read_text() == "a"
    assert (tmp_path / "out/a.csv").read_text() == "shadow"


def test_a_dry_run_fails_where_no_file_could_go(inbox: Path, tmp_path: Path, s3_server: embedded.S3) -> None:
    (port,) = embedded.free_ports(1)
    targets: list[tuple[str, dict[str, Any], str]] = [
        ("s3://no-such-bucket/x/", s3_server.options(), "no bucket 'no-such-bucket'"),
        (f"http://127.0.0.1:{port}/up", {}, "cannot reach"),
        (f"sftp://me@127.0.0.1:{port}/x/", {"password": "x"}, f"127.0.0.1:{port}"),
    ]
    for target, options, words in targets:
        with pytest.raises(FerryError, match=words):
            engine.transfer(inbox, target, dest_options=options, dry_run=True)
    assert str(engine.transfer(inbox, tmp_path / "out", dry_run=True)).startswith("would transfer 1 of 1 files")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_leaves_no_upload(inbox: Path, s3_options: dict[str, Any], s3_client: Any) -> None:
    bucket = s3_options.pop("bucket")
    assert str(engine.transfer(inbox, f"s3://{bucket}/x/", dest_options=s3_options, dry_run=True)).startswith("would transfer 1 of 1 files")
    assert "Contents" not in s3_client.list_objects_v2(Bucket=bucket)
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket)
