"""`make bench`: the export of a table by arrow-ferry and by others, in one interleaved run.

    python -m benchmarks.export [--table NAME] [--scale N] [--runs N] [--quick] [--full] [WAY …]

`--quick` (QUICK=1) means scale 0.1, 3 runs and few ways; `--full` (FULL=1) adds the other tables and scales, by the fastest ways. The database is kept in
`.bench/`; tables go to standard output, the single runs to `benchmarks/results/`, their medians as plots to `benchmarks/plots/`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg
from pyarrow import fs, parquet

from benchmarks import lineitem, measure, plots, report, tables
from benchmarks.contenders import CONTENDERS, Contender
from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BASELINES = ("row_by_row", "psql_csv")  # the first that takes part is what ratios refer to
BUCKET = "bench"
CACHE = measure.ROOT / ".bench"
PLOTS = measure.ROOT / "benchmarks" / "plots"
MIB = 1 << 20
DISTURBED = 0.05  # a larger part of the machine in other hands shows in the ratios
FEW = ("row_by_row", "psql_csv", "ferry_csv", "ferry_parquet", "adbc_csv", "adbc_parquet", "duckdb_csv", "duckdb_parquet")
FASTEST = tuple(name for name in CONTENDERS if name.startswith(("ferry_", "psql_", "duckdb_")))
REST = tuple((table, scale) for table in tables.NAMES for scale in (0.1, 1.0, 5.0) if (table == "lineitem") != (scale == 1.0))
# Loading skips the WAL; every scan starts at the first row, so that files can be compared.
SETTINGS = {"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "4GB", "synchronize_seqscans": "off"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where contenders write: what their targets begin with, and the same place as pyarrow sees it, to look at what they made."""

    url: str
    path: str
    files: fs.FileSystem


@dataclass(frozen=True, slots=True)
class Bench:
    """The servers and places of one run."""

    places: Mapping[str, Place]
    environment: Mapping[str, str]
    table: str
    rows: int
    counted: set[tuple[str, int]] = field(default_factory=set)  # ways and sizes of files that had all rows

    def once(self, one: Contender) -> measure.Run:
        """Run a contender in its own process, check what it made, and remove it."""
        place, name = self.places[one.place], f"{self.table}{one.suffix}"
        took = measure.run([sys.executable, "-m", "benchmarks.contenders", one.name, f"{place.url}/{name}"], self.environment)
        path = f"{place.path}/{name}"
        size = place.files.get_file_info(path).size
        if (one.name, size) not in self.counted:
            made = _rows_in(place.files, path)
            if made != self.rows:
                raise RuntimeError(f"{one.name} wrote {made} rows of {self.rows}")
            self.counted.add((one.name, size))
        place.files.delete_file(path)
        return replace(took, file_bytes=size)

    def floor(self, runs: int) -> float:
        """Seconds that the server alone takes to make the rows: what no client can be faster than with one reader."""
        with psycopg.connect(self.environment["FERRY_DATABASE"]) as connection:
            return median(_seconds(connection, f"COPY {self.table} TO '/dev/null' (FORMAT binary)") for _ in range(runs))


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep the results."""
    asked = _parser().parse_args(arguments)
    unknown = set(asked.way) - CONTENDERS.keys()
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving by an exception stops the servers
    for table, scale in [(asked.table, asked.scale or (0.1 if asked.quick else 1.0)), *(REST if asked.full else ())]:
        few = FEW if asked.quick else FASTEST if (table, scale) in REST else CONTENDERS
        named = {BASELINES[0], *asked.way} if asked.way else set(few)
        chosen = [c for c in CONTENDERS.values() if c.name in named]
        with _bench(table, scale) as (bench, about):
            about |= {"table": table, "scale": scale, "rows": bench.rows, "runs": asked.runs, "server_seconds": bench.floor(asked.runs)}
            report.say(f"{table} at scale {scale:g}: {bench.rows:,} rows; {len(chosen)} ways, {asked.runs} runs each in turn after a warm-up")
            taken = _taken(bench, chosen, asked.runs)
        _show(about, chosen, taken)


def _parser() -> argparse.ArgumentParser:
    quick, full = (os.environ.get(name, "") not in ("", "0") for name in ("QUICK", "FULL"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description="A table into one file, by arrow-ferry and by others.")
    parser.add_argument("way", nargs="*", metavar="WAY", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--table", choices=tables.NAMES, default="lineitem", help="what is exported (lineitem)")
    parser.add_argument("--scale", type=float, default=float(os.environ.get("SCALE") or 0), help="of the table (SCALE=1)")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or (3 if quick else 5)), help="of each way, after a warm-up (RUNS=5)")
    parser.add_argument("--quick", action="store_true", default=quick, help="scale 0.1 and few ways (QUICK=1)")
    parser.add_argument("--full", action="store_true", default=full, help="the other tables and scales too (FULL=1)")
    return parser


@contextlib.contextmanager
def _bench(table: str, scale: float) -> Iterator[tuple[Bench, dict[str, Any]]]:
    """Servers up, table filled, folders empty; and what is known about them."""
    CACHE.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE, prefix="run-"))
        report.say("starting PostgreSQL and an S3 server …")
        server = stack.enter_context(embedded.postgres(CACHE / "postgres", settings=SETTINGS))
        s3 = stack.enter_context(embedded.s3(Path(folder) / "s3"))
        s3.create_bucket(BUCKET)
        report.say(f"filling {table}, unless it is there …")
        database = tables.database(server, table, scale)
        remote = fs.S3FileSystem(access_key=s3.access_key, secret_key=s3.secret_key, endpoint_override=s3.endpoint_url, region="us-east-1")
        places = {"folder": Place(folder, folder, fs.LocalFileSystem()), "s3": Place(f"s3://{BUCKET}", BUCKET, remote)}
        environment = {
            "FERRY_DATABASE": database,
            "BENCH_TABLE": table,
            "MINIO_ENDPOINT": s3.endpoint_url,
            "MINIO_ACCESS_KEY": s3.access_key,
            "MINIO_SECRET_KEY": s3.secret_key,
        }
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": measure.machine(),
            "versions": {**measure.versions(), "PostgreSQL": lineitem.server_version(database)},
        }
        yield Bench(places, environment, table, lineitem.rows(database, table)), about


def _taken(bench: Bench, chosen: Sequence[Contender], runs: int) -> dict[str, list[measure.Run]]:
    """The measured runs of each contender, round by round."""
    taken: dict[str, list[measure.Run]] = {c.name: [] for c in chosen}
    for number, one, run in measure.interleaved(chosen, runs, bench.once):
        report.say(f"  {'warm-up' if number == 0 else f'run {number}'}  {one.name:18} {run.seconds:7.2f} s{_disturbance(run)}")
        if number:
            taken[one.name].append(run)
    return taken


def _disturbance(run: measure.Run) -> str:
    """What to say of a run that others got in the way of; nothing where they did not, or nobody knows."""
    return f"  (other processes took {run.others:.0%} of the machine)" if run.others is not None and run.others > DISTURBED else ""


def _rows_in(files: fs.FileSystem, path: str) -> int:
    """Rows of a finished file, counted without trusting its maker: of CSV the newlines outside quotes."""
    if path.endswith(".parquet"):
        return int(parquet.read_metadata(path, filesystem=files).num_rows)
    lines, quoted = 0, 0
    with files.open_input_stream(path) as stream:
        while piece := stream.read(MIB):
            between = piece.split(b'"')
            lines += sum(part.count(b"\n") for part in between[quoted::2])
            quoted ^= (len(between) - 1) & 1
    return lines - 1


def _seconds(connection: psycopg.Connection, statement: str) -> float:
    started = time.perf_counter()
    connection.execute(statement)
    return time.perf_counter() - started


def _show(about: Mapping[str, Any], chosen: Sequence[Contender], taken: Mapping[str, list[measure.Run]]) -> None:
    """The table, and the results file."""
    baseline = next(name for name in BASELINES if name in taken)
    summaries = {c.name: measure.summary(taken[c.name], taken[baseline]) for c in chosen}
    lines = [
        f"{about['table']}, scale {about['scale']:g}, {about['rows']:,} rows; medians of {about['runs']} interleaved runs; ratios run by run",
        f"the server alone (COPY … TO '/dev/null', binary): {about['server_seconds']:.2f} s",
        "",
        f"| way | wall s | client CPU s | peak MiB | file MB | times as fast as {_short(CONTENDERS[baseline].label)} (range) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in chosen:
        s = summaries[one.name]
        figures = f"{s.seconds:.2f} | {s.cpu_seconds:.2f} | {s.peak_bytes / MIB:.0f} | {s.file_bytes / 1e6:.0f}"
        lines.append(f"| {one.label} | {figures} | {s.ratio:.1f} ({min(s.ratios):.1f}-{max(s.ratios):.1f}) |")
    disturbed = sum(1 for runs in taken.values() for run in runs if _disturbance(run))
    if disturbed:
        lines += [
            "",
            f"NOT A FAIR RUN: during {disturbed} of {sum(map(len, taken.values()))} runs other processes took more than {DISTURBED:.0%} of the machine",
        ]
    lines += ["", *_against(chosen, taken), "", f"{about['date']}; {report.listed(about['machine'])}", report.listed(about["versions"])]
    print("\n".join(lines))
    name = f"export-{about['table']}-scale-{about['scale']:g}"
    runs = report.single(taken)
    path = report.keep(name, {**about, "contenders": {way: {"median": asdict(s), "runs": runs[way]} for way, s in summaries.items()}})
    for suffix in sorted({c.suffix for c in chosen}):
        seconds = {_short(c.label): summaries[c.name].seconds for c in chosen if c.suffix == suffix and c.place == "folder"}
        title = f"{about['table']}, {about['rows']:,} rows to {suffix}: seconds"
        plots.bars(PLOTS / f"{name}{suffix.replace('.', '-')}.svg", title, seconds, about["server_seconds"])
    report.say(f"kept in {path}")


def _against(chosen: Sequence[Contender], taken: Mapping[str, list[measure.Run]]) -> list[str]:
    """A table of how many times as fast as each other way ours are, into one folder: medians of the ratios run by run."""
    in_folder = [one for one in chosen if one.place == "folder"]
    ours = [one for one in in_folder if one.name.startswith("ferry_")]
    others: dict[str, dict[str, Contender]] = {}
    for one in in_folder:
        if one not in ours:
            # Who goes row by row writes CSV, and is what everybody is compared with.
            suffixes = {us.suffix for us in ours} if one.name == BASELINES[0] else {one.suffix}
            others.setdefault(_short(one.label), {}).update(dict.fromkeys(suffixes, one))
    if not ours:
        return []
    lines = [f"| times as fast as | {' | '.join(us.label.partition(' → ')[2] for us in ours)} |", f"|---|{'---:|' * len(ours)}"]
    for name, ways in others.items():
        ratios = [measure.summary(taken[us.name], taken[ways[us.suffix].name]).ratio if us.suffix in ways else None for us in ours]
        lines.append(f"| {name} | {' | '.join('-' if ratio is None else f'{ratio:.2f}' for ratio in ratios)} |")
    return lines


def _short(label: str) -> str:
    """A way's name beside its bar: without the format, which all bars share, and without details.

    Example:
        >>> _short("arrow-ferry → CSV, `reader: copy`"), _short("Row by row: server-side cursor, csv.writer")
        ('arrow-ferry, reader: copy', 'Row by row')
    """
    way, _, target = label.partition(" → ")
    detail = target.partition(", ")[2]
    return ", ".join(filter(None, (way.partition(": ")[0], detail))).replace("`", "")


if __name__ == "__main__":
    main(sys.argv[1:])
