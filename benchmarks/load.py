"""Files into PostgreSQL: `ferry load` of TPC-H's `lineitem` against others, one after another in turn.

    python -m benchmarks.load [--quick] [--runs N] [--format csv|parquet] [--slow] [WAY …]        # or: make bench WHAT=load

Each way is a process of its own and fills a table that is new (or empty, where it makes none) in an embedded PostgreSQL; afterwards the rows and the sums of
two columns are compared with the file's, and the table is dropped. `--slow` adds dlt's ways that take minutes. Tables go to standard output, the single runs
to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks import lineitem, measure, report
from benchmarks.loaders import LOADERS, Loader
from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


OURS = "ferry"
CACHE = measure.ROOT / ".bench" / "load"
PACKAGES = ("pyarrow", "adbc-driver-postgresql", "dlt", "polars")
SETTINGS = {"max_wal_size": "8GB", "checkpoint_timeout": "1h"}  # checkpoints would fall to whoever runs when one is due
QUICK = 0.1
MIB = 1 << 20
SUMS = "SELECT count(*), sum(l_orderkey), sum(l_extendedprice) FROM {table}"


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep the results."""
    asked = _parser().parse_args(arguments)
    unknown = set(asked.way) - LOADERS.keys()
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(LOADERS)}")
    scale = asked.scale or (QUICK if asked.quick else 1.0)
    about: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": measure.machine(), "scale": scale, "runs": asked.runs}
    taken: dict[str, dict[str, list[measure.Run]]] = {}
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as folder, embedded.postgres(Path(folder) / "postgres", settings=SETTINGS) as server:
        about["versions"] = versions(server)
        for suffix in asked.format or ("csv", "parquet"):
            ways = [way for way in LOADERS.values() if suffix in way.formats and (way.name in {OURS, *asked.way} if asked.way else asked.slow or not way.slow)]
            taken[suffix] = measured(server, lineitem.file(CACHE, scale, f".{suffix}"), ways, asked.runs)
            formats = {name: report.single(ways) for name, ways in taken.items()}
            report.keep(f"load-scale-{about['scale']:g}", {**about, "formats": formats})
    show(about, taken)


def _parser() -> argparse.ArgumentParser:
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="Files into PostgreSQL, by arrow-ferry and by others.")
    parser.add_argument("way", nargs="*", metavar="WAY", help=f"of {', '.join(LOADERS)}")
    parser.add_argument("--format", action="append", choices=("csv", "parquet"), help="of the files; both if not given")
    parser.add_argument("--quick", action="store_true", default=quick, help=f"scale {QUICK} (QUICK=1)")
    parser.add_argument("--scale", type=float, help="of TPC-H")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or 5), help="of each way, after a warm-up (RUNS=5)")
    parser.add_argument("--slow", action="store_true", help="dlt's ways that take minutes too")
    return parser


def measured(server: embedded.Postgres, path: Path, ways: Sequence[Loader], runs: int) -> dict[str, list[measure.Run]]:
    """The measured runs of each way."""
    environment = {"TARGET_DATABASE": server.url}
    report.say(f"{path.name}: {path.stat().st_size / 1e6:,.0f} MB; {len(ways)} ways, {runs} runs each in turn after a warm-up")
    expected: tuple[Any, ...] | None = None

    def once(way: Loader) -> measure.Run:
        nonlocal expected
        with psycopg.connect(server.url, autocommit=True) as connection:
            if way.fills:
                connection.execute(lineitem.table("target"))
            connection.execute("CHECKPOINT")
            took = measure.run([sys.executable, "-m", "benchmarks.loaders", way.name, str(path), "target"], environment)
            found = connection.execute(SUMS.format(table="target")).fetchone()
            clear(connection)
        expected = expected or found
        if found != expected:
            raise RuntimeError(f"{way.name} loaded {found}, not {expected}")
        return took

    taken: dict[str, list[measure.Run]] = {way.name: [] for way in ways}
    for number, way, run in measure.interleaved(ways, runs, once):
        report.say(f"  {'warm-up' if number == 0 else f'run {number}'}  {way.name:18} {run.seconds:7.2f} s, others {run.others or 0:.0%}")
        if number:
            taken[way.name].append(run)
    return taken


def clear(connection: psycopg.Connection) -> None:
    """Nothing of a run is left: tables of dlt and of our ledger too."""
    connection.execute("DROP SCHEMA public CASCADE")
    connection.execute("CREATE SCHEMA public")
    for (name,) in connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'public%staging'").fetchall():
        connection.execute(f'DROP SCHEMA "{name}" CASCADE')


def rows(name: str, taken: Mapping[str, Sequence[measure.Run]]) -> Iterator[str]:
    """One format as rows of a Markdown table; ratios are a way's wall seconds divided by ours, round by round."""
    for way, runs in taken.items():
        s = measure.summary(taken[OURS], runs)
        own = measure.summary(runs, runs)
        ratio = "" if way == OURS else f"{s.ratio:.2f} ({min(s.ratios):.2f}-{max(s.ratios):.2f})"
        yield f"| {name} | {LOADERS[way].label} | {own.seconds:.2f} | {own.cpu_seconds:.2f} | {own.peak_bytes / MIB:.0f} | {ratio} |"


def show(about: Mapping[str, Any], taken: Mapping[str, Mapping[str, Sequence[measure.Run]]]) -> None:
    """The table, and what it depends on."""
    others = [run.others for ways in taken.values() for runs in ways.values() for run in runs if run.others is not None]
    lines = ["", "| file | way | wall s | client CPU s | peak MiB | arrow-ferry with `--columns` is times as fast (range) |", "|---|---|---:|---:|---:|---:|"]
    lines += [row for name, ways in taken.items() for row in rows(name, ways)]
    lines += ["", f"Medians of {about['runs']} interleaved runs at scale {about['scale']:g}, {about['date']}; {report.listed(about['machine'])}"]
    lines += [report.listed(about["versions"]), f"Other processes took at most {max(others):.0%} of the machine." if others else ""]
    print("\n".join(lines))


def versions(server: embedded.Postgres) -> dict[str, str]:
    """Of all that takes part."""
    known = {name: found for name, found in measure.versions().items() if name in {"arrow-ferry", "Python"}}
    return {**known, **{package: version(package) for package in PACKAGES}, "PostgreSQL": lineitem.server_version(server.url)}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving by an exception stops the servers
    main(sys.argv[1:])
