"""Files from store to store against rclone, OpenSSH's sftp and boto3's own calls, one after another in turn.

    RUNS=5 python -m benchmarks.transfers [CASE …]        # QUICK=1: a tenth of the data

1 file of 1 GB, and 5,000 of 20 kB, of random bytes; each contender is a process of its own with its defaults, the destination is emptied in between, and after each
run files and bytes are counted by another way. Printed: medians of wall seconds, client CPU and peak memory, and how many times as fast as each peer we are,
round by round. The single runs go to `benchmarks/results/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import sysconfig
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import measure, places
from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.places import Place, Sshd

WORK = places.ROOT / ".bench" / "transfers"
SHAPES = {"one": (1, 1_000_000_000), "many": (5_000, 20_000)}
PAIRS = ("local-s3", "s3-local", "s3-s3", "s3-other", "local-sftp", "s3-sftp")
BOTO = """
import boto3, os, pathlib, sys
def client(prefix=""): return boto3.client("s3", endpoint_url=os.environ[prefix+"MINIO_ENDPOINT"], region_name="us-east-1",
    aws_access_key_id=os.environ[prefix+"MINIO_ACCESS_KEY"], aws_secret_access_key=os.environ[prefix+"MINIO_SECRET_KEY"])
c, (source, target) = client(), sys.argv[1:]
def keys(prefix): return [o["Key"] for page in c.get_paginator("list_objects_v2").paginate(Bucket="ferry-bench", Prefix=prefix) for o in page.get("Contents", [])]
"""
BOTO_WAYS = {
    "local-s3": BOTO + "for p in pathlib.Path(source).iterdir(): c.upload_file(str(p), 'ferry-bench', target + p.name)",
    "s3-local": BOTO + "for k in keys(source): c.download_file('ferry-bench', k, target + '/' + k.rpartition('/')[2])",
    "s3-s3": BOTO + "for k in keys(source): c.copy({'Bucket': 'ferry-bench', 'Key': k}, 'ferry-bench', target + k.rpartition('/')[2])",
}


def main() -> None:
    """Measure and print."""
    rounds, quick = int(os.environ.get("RUNS", "5")), bool(os.environ.get("QUICK"))
    chosen = sys.argv[1:] or [f"{pair} {shape}" for shape in SHAPES for pair in PAIRS]
    shutil.rmtree(WORK, ignore_errors=True)
    results = {}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(embedded.s3(WORK / name)) for name in ("s3", "other")]
        for server in servers:
            server.create_bucket(places.BUCKET)
        ssh = stack.enter_context(places.sshd(WORK / "ssh"))
        for shape in SHAPES:
            cases = [case for case in chosen if case.endswith(shape)]
            if cases:
                made = make_data(WORK / f"data-{shape}", shape, quick=quick)
                fill(places.s3(servers[0], "main", shape), made)
            for case in cases:
                results[case] = measured(case, made, servers, ssh, rounds)
                print(table(case, results[case]), flush=True)
    report(results, rounds)


def make_data(folder: Path, shape: str, *, quick: bool) -> Path:
    """The files of a shape."""
    folder.mkdir(parents=True)
    count, size = SHAPES[shape]
    count, size = (count // 10 or 1, size // 10 if count == 1 else size) if quick else (count, size)
    for number in range(count):
        with (folder / f"{number:05d}.bin").open("wb") as file:
            for at in range(0, size, 1 << 24):
                file.write(os.urandom(min(1 << 24, size - at)))
    return folder


def fill(place: Place, data: Path) -> None:
    """Put the files where S3 is the source."""
    measure.run([rclone(), "copy", "--config=", str(data), place.remote], place.environment)


def measured(case: str, data: Path, servers: list[embedded.S3], ssh: Sshd, rounds: int) -> dict[str, list[measure.Run]]:
    """All contenders of a case, in turn."""
    pair, shape = case.split()
    came, _, goes = pair.partition("-")
    source = places.local(data) if came == "local" else places.s3(servers[0], "main", shape)
    ends: dict[str, Callable[[], Place]] = {
        "s3": lambda: places.s3(servers[0], "main", "target"),
        "other": lambda: places.s3(servers[1], "other", "target"),
        "local": lambda: places.local(WORK / "target"),
        "sftp": lambda: ssh.place(WORK / "target"),
    }
    target = ends[goes]()
    expected = places.local(data).found()
    commands = contenders(pair, source, target, ssh)
    runs: dict[str, list[measure.Run]] = {name: [] for name in commands}

    def once(name: str) -> measure.Run:
        target.clear()
        took = measure.run(commands[name], {**source.environment, **target.environment})
        if target.found() != expected:
            raise RuntimeError(f"{name} delivered {target.found()}, not {expected}")
        return took

    for number, name, run in measure.interleaved(list(commands), rounds, once):
        if number:
            runs[name].append(run)
    return runs


def contenders(pair: str, source: Place, target: Place, ssh: Sshd) -> dict[str, list[str]]:
    """The commands by their names; ours first."""
    ours = [*places.ferry(), "transfer", source.url, target.url, "--quiet"]
    for option, place in (("--source-option", source), ("--dest-option", target)):
        ours += [part for one in place.options for part in (option, one)]
    commands = {"arrow-ferry": ours, "rclone": [rclone(), "copy", "--config=", source.remote, target.remote]}
    if pair in BOTO_WAYS:
        commands["boto3"] = [sys.executable, "-c", BOTO_WAYS[pair], source.folder, target.folder]
    if pair == "local-sftp":
        batch = WORK / "batch"
        batch.write_text(f"put -r {source.folder}/. {target.folder}\n")
        commands["sftp"] = [*ssh.command(), "-b", str(batch), "127.0.0.1"]
    return commands


def rclone() -> str:
    """Of the wheel."""
    return str(Path(sysconfig.get_path("scripts")) / "rclone")


def table(case: str, runs: dict[str, list[measure.Run]]) -> str:
    """One case as rows of a Markdown table."""
    ours = runs["arrow-ferry"]
    lines = []
    for name, theirs in runs.items():
        took = measure.summary(ours, theirs)
        own = measure.summary(theirs, theirs)
        ratio = "" if name == "arrow-ferry" else f"{took.ratio:.2f} ({min(took.ratios):.2f}-{max(took.ratios):.2f})"
        lines.append(f"| {case} | {name} | {own.seconds:.2f} | {own.cpu_seconds:.1f} | {own.peak_bytes / 2**20:.0f} | {ratio} |")
    return "\n".join(lines)


def report(results: dict[str, dict[str, list[measure.Run]]], rounds: int) -> None:
    """The table, what it depends on, and a file with the single runs."""
    others = [run.others for case in results.values() for runs in case.values() for run in runs if run.others is not None]
    print(f"\nmedians of {rounds} interleaved runs, {datetime.now(UTC):%Y-%m-%d}, {measure.machine()}, {measure.versions()}")
    if others:
        print(f"other processes of the machine took {median(others):.0%} of it (median; at most {max(others):.0%})")
    print("| case | way | wall s | client CPU s | peak MiB | we are times as fast (range) |\n|---|---|---:|---:|---:|---:|")
    for case, runs in results.items():
        print(table(case, runs))
    found = {case: {name: [asdict(run) for run in runs] for name, runs in one.items()} for case, one in results.items()}
    told = {"machine": measure.machine(), "versions": measure.versions(), "runs": found}
    (places.ROOT / "benchmarks/results" / f"{datetime.now(UTC):%Y-%m-%d}-transfers.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
