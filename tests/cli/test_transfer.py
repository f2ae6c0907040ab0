"""`ferry transfer` as a process: what it prints, and what it takes from a command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_bad_input import ferry

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
