"""`ferry serve`: everything up with one command, everything down with one signal."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from engine import embedded
from flows import TELEMETRY_OFF
from tests.cli.test_bad_input import refused
from tests.flows.conftest import FERRY, LEASE_SECONDS, SLOW, Control, Prefect, answers, ferry, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.timeout(240)]


@contextlib.contextmanager
def serving(control: Control, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Prefect]]:
    """The command, up; and its server."""
    port = embedded.free_ports(1)[0]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "FERRY_"))}
    environment = {
        **clean,
        **TELEMETRY_OFF,
        "PREFECT_HOME": str(folder / "home"),
        "DATABASE_URL": control.url,
        "SOURCE_URL": control.url,
        "FERRY_LEASE_SECONDS": str(LEASE_SECONDS),
        "PREFECT_SERVER_API_AUTH_STRING": "ferry:the-password",
    }
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen([*FERRY, "serve", "--port", str(port)], env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/api"
    try:
        until(lambda: process.poll() is None and "API  " in (folder / "serve.log").read_text(), 120)
        yield process, Prefect(url, environment, process, ("ferry", "the-password"))
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_one_command_serves_and_one_signal_ends_it_all(control: Control, tmp_path: Path) -> None:
    connector = control.connector("served", "SELECT 1 AS a")
    slow = control.connector("served_slow", SLOW.format(name="served_slow"))
    with serving(control, tmp_path) as (process, server):
        assert server.wait(server.trigger(connector))["state_type"] == "COMPLETED"
        server.trigger(slow)
        until(lambda: control.streaming("served_slow"))
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("worker" in " ".join(child.cmdline()) for child in children)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=90)
    assert process.returncode == 0
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not answers(server.url)
    assert control.streaming("served_slow") == 0
    assert control.records(slow)[0][1] == "failed"
    assert control.records(slow)[0][3].startswith("cancelled: ")
    assert not list(control.folder.glob(".served_slow*"))
    told = (tmp_path / "serve.log").read_text()
    assert "Traceback" not in told.partition("Starting worker")[0]
    assert "the-password" not in told


def test_a_taken_port_and_a_wrong_database_are_one_line(control: Control, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(ferry(None, "serve", "--port", port, DATABASE_URL=control.url, PREFECT_HOME=str(tmp_path)), 2, port, "in use")
    refused(ferry(None, "serve", PREFECT_HOME=str(tmp_path)), 2, "DATABASE_URL is not set")
    refused(ferry(None, "serve", "--host", "0.0.0.0", DATABASE_URL=control.url, PREFECT_HOME=str(tmp_path)), 2, "PREFECT_SERVER_API_AUTH_STRING")
    elsewhere = f"postgresql://nobody@127.0.0.1:{embedded.free_ports(1)[0]}/x"
    refused(ferry(None, "serve", DATABASE_URL=elsewhere, PREFECT_HOME=str(tmp_path)), 2, "control database", "nothing listens")
