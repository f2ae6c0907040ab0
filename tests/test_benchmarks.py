"""The benchmarks run to their end, on little data: each contender delivers, and the figures are kept."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks import cost, export, load, measure, report, transfers
from benchmarks.contenders import CONTENDERS
from benchmarks.places import local
from tests.conftest import open_to_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(transfers, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    return tmp_path


def cases_kept(folder: Path) -> dict[str, dict[str, list[dict[str, float]]]]:
    (kept,) = (folder / "results").iterdir()
    cases: dict[str, dict[str, list[dict[str, float]]]] = json.loads(kept.read_text())["cases"]
    return cases


@pytest.mark.slow
def test_each_contender_delivers_and_is_measured(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transfers.main(["--scale", "0.001", "--runs", "1", "--case", "local-s3/small"])
    (case,) = cases_kept(places).values()
    assert list(case) == ["arrow-ferry", "rclone", "boto3"]
    assert all(len(runs) == 1 and runs[0]["cpu_seconds"] > 0 and runs[0]["peak_bytes"] > 0 for runs in case.values())
    assert capsys.readouterr().out.count("| local-s3/small |") == 3
    assert [path.name for path in (places / "cache").iterdir()] == ["data-5x20000"], "servers and what was delivered are gone, the data is kept"


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "third"), [("far-sftp/large", "OpenSSH sftp"), ("local-sftp/small", "OpenSSH sftp"), ("s3-sftp/small", "boto3, then OpenSSH sftp")]
)
def test_openssh_takes_part(places: Path, name: str, third: str) -> None:
    transfers.main(["--scale", "0.001", "--runs", "1", "--case", name])
    assert list(cases_kept(places)[name]) == ["arrow-ferry", "rclone", third]


def test_a_contender_that_delivers_other_bytes_is_found_out(places: Path) -> None:
    data, target = local(transfers.made(2, 100)), local(places / "target")
    forge = f"import pathlib; [pathlib.Path({target.folder!r}, p.name).write_bytes(b'x' * 100) for p in pathlib.Path({data.folder!r}).iterdir()]"
    case = transfers.Case("forged", data, data, target, {"arrow-ferry": [sys.executable, "-c", forge]})
    with pytest.raises(RuntimeError, match="SHA-256"):
        transfers.measured(case, 1)
    short = transfers.Case("short", data, data, target, {"arrow-ferry": [sys.executable, "-c", ""]})
    with pytest.raises(RuntimeError, match=r"delivered \(0, 0\)"):
        transfers.measured(short, 1)


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


@pytest.fixture
def echo_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def test_the_slow_link_hands_on_every_byte_and_none_too_soon(echo_port: int) -> None:
    sent = bytes(range(256)) * 8192
    with subprocess.Popen([sys.executable, "-m", "benchmarks.slow_link", str(echo_port), "50"], stdout=subprocess.PIPE, cwd=measure.ROOT) as link:
        assert link.stdout is not None
        try:
            with socket.create_connection(("127.0.0.1", int(link.stdout.readline()))) as connection:
                began = time.monotonic()
                threading.Thread(target=send, args=(connection, sent)).start()
                first = connection.recv(1)
                assert time.monotonic() - began >= 0.05
                assert first + connection.makefile("rb").read() == sent
        finally:
            link.terminate()


@pytest.mark.system
def test_each_way_to_load_fills_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    open_to_nobody(tmp_path)
    monkeypatch.setattr(load, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    load.main(["--scale", "0.001", "--runs", "1", "--format", "csv", "adbc_ingest", "psql_copy"])
    assert capsys.readouterr().out.count("| csv |") == 3
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lineitem-0.001.csv"]
    (kept,) = (tmp_path / "results").iterdir()
    assert all(len(runs) == 1 for runs in json.loads(kept.read_text())["formats"]["csv"].values())


@pytest.mark.system
def test_each_way_to_export_makes_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    open_to_nobody(tmp_path)
    monkeypatch.setattr(export, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(export, "PLOTS", tmp_path / "plots")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    export.main(["--scale", "0.001", "--runs", "1", "ferry_csv", "ferry_parquet_s3", "ferry_csv_copy", "psql_csv"])
    said = capsys.readouterr().out
    assert "| `psql \\copy` |" in said
    assert "| times as fast as | CSV | CSV, `reader: copy` |" in said
    assert re.search(r"\| psql \\copy \|( \d+\.\d\d \|){2}", said)
    (kept,) = (tmp_path / "results").iterdir()
    told = json.loads(kept.read_text())
    assert list(told["contenders"]) == ["row_by_row", "ferry_csv", "ferry_csv_copy", "ferry_parquet_s3", "psql_csv"]
    assert told["contenders"]["ferry_csv_copy"]["median"]["file_bytes"] == told["contenders"]["psql_csv"]["median"]["file_bytes"]
    plot = (tmp_path / "plots" / "export-lineitem-scale-0.001-csv.svg").read_text()
    assert all(name in plot for name in ("arrow-ferry<", "arrow-ferry, reader: copy<", "psql"))


@pytest.mark.slow
def test_costs_are_told_by_rows_columns_and_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    open_to_nobody(tmp_path)
    for name, value in (("CACHE", tmp_path / "cache"), ("SCALES", (0.001,)), ("MIDDLE", 0.001), ("COLUMNS", (2,)), ("READERS", (1,)), ("ENGINES", ("copy",))):
        monkeypatch.setattr(cost, name, value)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("RUNS", "1")
    cost.main()
    (kept,) = (tmp_path / "results").iterdir()
    assert [case["varies"] for case in json.loads(kept.read_text())["cases"]] == ["6,005 rows", "2 columns", "1 readers"]
    assert capsys.readouterr().out.count("| `copy` |") == 3


def test_a_bar_is_named_by_its_way() -> None:
    assert [export._short(one.label) for one in (CONTENDERS["ferry_csv_copy"], CONTENDERS["row_by_row"])] == [
        "arrow-ferry, reader: copy",
        "Row by row",
    ]
