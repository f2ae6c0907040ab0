"""`ferry transfer` as a process: what it prints, and what it takes from a command line."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_bad_input import FERRY, ferry
from tests.stores.rest_server import endpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("a")
    return tmp_path / "in"


def test_json_of_a_transfer_that_failed_says_so(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "out/a.csv").mkdir(parents=True)
    result = ferry("transfer", str(inbox), str(tmp_path / "out"), "--json")
    told = json.loads(result.stdout)
    assert (result.returncode, told["status"], [file["state"] for file in told["files"]]) == (1, "failed", ["failed"])


def test_every_key_can_be_given_on_the_command_line_objects_as_json(inbox: Path) -> None:
    given = ('headers={"X-Study": "7", "X-Key": "env:KEY"}', 'additional_fields={"note": "of {name}"}')
    with endpoint() as server:
        result = ferry("transfer", str(inbox), f"{server.url}/up", *(part for one in given for part in ("--dest-option", one)), env={"KEY": "k"})
    assert result.returncode == 0, result.stderr
    (taken,) = server.taken
    assert (taken.headers["x-study"], taken.headers["x-key"]) == ("7", "k")
    assert taken.parts["note"][2] == b"of a.csv"


@pytest.mark.parametrize("value", ["{'X-Key': 'canary'}", "canary", '["canary"]', '{"X-Key": ["canary"]}'])
def test_what_is_no_object_is_refused_without_its_value(inbox: Path, value: str) -> None:
    result = ferry("transfer", str(inbox), "https://host/up", "--dest-option", f"headers={value}")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "'headers" in result.stderr
    assert "canary" not in result.stderr


@pytest.mark.parametrize(("encoding", "name"), [("utf-8:strict", b"\xff.csv"), ("latin-1:strict", "ł.csv".encode())])
def test_names_that_standard_output_cannot_carry_are_escaped(inbox: Path, tmp_path: Path, encoding: str, name: bytes) -> None:
    (inbox / os.fsdecode(name)).write_text("x")
    (inbox / f"{os.fsdecode(name)}.link").symlink_to(tmp_path)
    for more in (["--json"], []):
        result = ferry("transfer", str(inbox), str(tmp_path / "out"), *more, env={"PYTHONIOENCODING": encoding})
        assert (result.returncode, result.stderr) == (0, "")
        if more:
            assert os.fsdecode(name) in {file["source"].rpartition("/")[2] for file in json.loads(result.stdout)["files"]}


def on_a_terminal(*arguments: str) -> str:
    """What a command writes to standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as terminal, subprocess.Popen([*FERRY, *arguments], stdout=subprocess.DEVNULL, stderr=theirs):
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the terminal of a process that has ended
            while data := terminal.read(4096):
                said += data
    return said.decode()


def test_the_body_of_an_endpoints_refusal_is_shown_to_a_person_who_debugs_and_to_nobody_else(inbox: Path) -> None:
    with endpoint() as server:
        server.answers = [(400, {})] * 4
        transfer = ("transfer", str(inbox), f"{server.url}/up", "--quiet")
        assert "up: the answer begins: SECRET of the server" in on_a_terminal(*transfer, "--debug")
        quiet, in_a_file = on_a_terminal(*transfer), ferry(*transfer, "--debug").stderr
        assert "answered 400" in quiet
        assert "answered 400" in in_a_file
        assert "SECRET" not in quiet + in_a_file
