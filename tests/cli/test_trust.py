"""`ferry connectors trust`: host keys that somebody has looked at."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine.errors import ConnectionFailed, FerryError
from tests.control.platform import Control

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FERRY = (sys.executable, "-c", "from engine.cli import main; main()")


@pytest.fixture
def control(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("HOME", str(tmp_path))  # without known_hosts
    control = Control(database, tmp_path / "out")
    yield control
    control.close()


def connector(control: Control, server: Any, tmp_path: Path) -> int:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/labs.csv").write_text("x")
    place = {key: value for key, value in server.options("trusted").items() if key not in {"host_key", "known_hosts"}}
    return control.transfer(("filesystem", "sftp"), {"path": str(tmp_path / "in")}, place)


def ferry(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FERRY, *arguments], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def test_a_key_is_refused_until_somebody_trusts_it(control: Control, sftp_server: Any, tmp_path: Path) -> None:
    number = connector(control, sftp_server, tmp_path)
    with pytest.raises(ConnectionFailed, match=r"SHA256:.*ferry connectors trust") as caught:
        engine.run_connector(number)
    fingerprint = next(word.strip("();,.") for word in str(caught.value).split() if word.startswith(("SHA256:", "(SHA256:")))
    unattended = ferry("connectors", "trust", str(number))
    assert (unattended.returncode, unattended.stdout) == (2, "")
    assert fingerprint in unattended.stderr
    wrong = ferry("connectors", "trust", str(number), "--fingerprint", "SHA256:other")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "nothing was changed" in wrong.stderr
    trusted = ferry("connectors", "trust", str(number), "--fingerprint", fingerprint)
    assert (trusted.returncode, "is trusted from now on" in trusted.stdout) == (0, True)
    assert "is trusted already" in ferry("connectors", "trust", str(number)).stdout
    assert ferry("connectors", "check", str(number)).returncode == 0
    assert engine.run_connector(number).ingested == 1
    control.execute("UPDATE ferry_host_keys SET public_key = 'AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'")
    with pytest.raises(FerryError, match="SHA256:"):
        engine.run_connector(number, redeliver=True)


@pytest.mark.parametrize(("answer", "code", "rows"), [("n", 2, 0), ("y", 0, 1)])
def test_on_a_terminal_somebody_is_asked(control: Control, sftp_server: Any, tmp_path: Path, answer: str, code: int, rows: int) -> None:
    number = connector(control, sftp_server, tmp_path)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*FERRY, "connectors", "trust", str(number)], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, f"{answer}\n".encode())
    out, error = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code
    assert "Trust it?" in error + out
    assert len(control.execute("SELECT 1 FROM ferry_host_keys")) == rows


def test_a_connector_without_sftp_has_nothing_to_trust(control: Control, tmp_path: Path) -> None:
    refused = ferry("connectors", "trust", str(control.transfer(("filesystem", "nfs"), {"path": str(tmp_path)})))
    assert refused.returncode == 2
    assert "has no SFTP server" in refused.stderr
