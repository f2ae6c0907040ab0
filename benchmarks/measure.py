"""Measuring fairly: whole processes, one after another in turn (A B A B …), compared pair by pair."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")
# Python programs start with their bytecode kept, as installed ones do, whatever this shell has set.
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": ""}
PACKAGES = ("pyarrow", "adbc-driver-postgresql", "psycopg", "boto3", "polars", "connectorx", "pandas", "dlt", "duckdb")


@dataclass(frozen=True, slots=True)
class Run:
    """One process: wall seconds, CPU seconds of the client, its peak resident bytes, and bytes of the file it made.

    `others` is the part of the machine that went to anything but us and our servers meanwhile; None where the system does not tell.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    others: float | None = None
    file_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians of several runs; `ratios` are the baseline's wall seconds divided by ours, round by round."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    file_bytes: int
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return median(self.ratios)


def run(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """One command, measured from outside.

    Raises:
        RuntimeError: It failed; what it said stands on standard error.
    """
    meter = [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "meter.py")]
    before = _others_cpu_seconds()
    done = subprocess.run([*meter, *command], stdout=subprocess.PIPE, env={**os.environ, **ENVIRONMENT, **environment}, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
    after = _others_cpu_seconds()
    took = json.loads(done.stdout)
    others = None if before is None or after is None else max(0.0, after - before) / (took["seconds"] * (os.cpu_count() or 1))
    return Run(**took, others=others)


def interleaved(names: Sequence[T], runs: int, once: Callable[[T], Run]) -> Iterator[tuple[int, T, Run]]:
    """Each name in turn, `runs` times after a warm-up round, which is number 0."""
    for number in range(runs + 1):
        for name in names:
            yield number, name, once(name)


def summary(runs: Sequence[Run], baseline: Iterable[Run]) -> Summary:
    """Medians, and the ratios to the baseline's run of the same round."""
    return Summary(
        seconds=median(r.seconds for r in runs),
        cpu_seconds=median(r.cpu_seconds for r in runs),
        peak_bytes=round(median(r.peak_bytes for r in runs)),
        file_bytes=round(median(r.file_bytes for r in runs)),
        ratios=tuple(other.seconds / ours.seconds for ours, other in zip(runs, baseline, strict=True)),
    )


def machine() -> dict[str, str | int]:
    """What the figures depend on; nothing that names the machine."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of Python, the commit, and the libraries that do the work."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607 - git of the PATH
    return {"arrow-ferry": commit.stdout.strip() or "unknown", "Python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}


def _others_cpu_seconds() -> float | None:
    """CPU seconds that this machine has spent on processes other than ours, and waiting for its host; Linux only, where parents keep their children's."""
    if not sys.platform.startswith("linux"):
        return None
    machine = psutil.cpu_times()
    spent = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent -= sum(process.cpu_times()[:4])  # its own and its ended children's
    return spent


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
