"""`make bench`: the export of `lineitem` by arrow-ferry and by others, in one interleaved run.

    SCALE=1 RUNS=5 python -m benchmarks.export [CONTENDER …]

QUICK=1 means scale 0.1 and 3 runs. The database is kept in `.bench/`; tables go to standard output, the single runs to `benchmarks/results/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs, parquet

from benchmarks import lineitem, measure
from benchmarks.contenders import CONTENDERS, Contender
from engine import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BASELINE = "row_by_row"
BUCKET = "bench"
CACHE = measure.ROOT / ".bench"
RESULTS = measure.ROOT / "benchmarks" / "results"
MIB = 1 << 20
DISTURBED = 0.05  # a larger part of the machine in other hands shows in the ratios
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
    rows: int

    def once(self, one: Contender) -> measure.Run:
        """Run a contender in its own process, check what it made, and remove it."""
        place, name = self.places[one.place], f"lineitem{one.suffix}"
        took = measure.run([sys.executable, "-m", "benchmarks.contenders", one.name, f"{place.url}/{name}"], self.environment)
        path = f"{place.path}/{name}"
        made = _rows_in(place.files, path)
        if made != self.rows:
            raise RuntimeError(f"{one.name} wrote {made} rows of {self.rows}")
        size = place.files.get_file_info(path).size
        place.files.delete_file(path)
        return replace(took, file_bytes=size)


def main(names: Sequence[str]) -> None:
    """Measure, print, and keep the results."""
    quick = os.environ.get("QUICK", "") not in ("", "0")
    scale = float(os.environ.get("SCALE") or (0.1 if quick else 1))
    runs = int(os.environ.get("RUNS") or (3 if quick else 5))
    unknown = set(names) - CONTENDERS.keys()
    if unknown or runs < 1:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}" if unknown else "RUNS must be 1 at least")
    chosen = [c for c in CONTENDERS.values() if not names or c.name in {BASELINE, *names}]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving by an exception stops the servers
    with _bench(scale) as (bench, about):
        about |= {"scale": scale, "rows": bench.rows, "runs": runs}
        _say(f"lineitem at scale {scale:g}: {bench.rows:,} rows; {len(chosen)} ways, {runs} runs each in turn after a warm-up")
        taken = _taken(bench, chosen, runs)
    _report(about, chosen, taken)


@contextlib.contextmanager
def _bench(scale: float) -> Iterator[tuple[Bench, dict[str, Any]]]:
    """Servers up, table filled, folders empty; and what is known about them."""
    CACHE.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE, prefix="run-"))
        _say("starting PostgreSQL and an S3 server …")
        server = stack.enter_context(embedded.postgres(CACHE / "postgres", settings=SETTINGS))
        s3 = stack.enter_context(embedded.s3(Path(folder) / "s3"))
        s3.create_bucket(BUCKET)
        _say("filling lineitem, unless it is there …")
        database = lineitem.database(server, scale)
        remote = fs.S3FileSystem(access_key=s3.access_key, secret_key=s3.secret_key, endpoint_override=s3.endpoint_url, region="us-east-1")
        places = {"folder": Place(folder, folder, fs.LocalFileSystem()), "s3": Place(f"s3://{BUCKET}", BUCKET, remote)}
        environment = {
            "FERRY_DATABASE": database,
            "MINIO_ENDPOINT": s3.endpoint_url,
            "MINIO_ACCESS_KEY": s3.access_key,
            "MINIO_SECRET_KEY": s3.secret_key,
        }
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": measure.machine(),
            "versions": {**measure.versions(), "PostgreSQL": lineitem.server_version(database)},
        }
        yield Bench(places, environment, lineitem.rows(database)), about


def _taken(bench: Bench, chosen: Sequence[Contender], runs: int) -> dict[str, list[measure.Run]]:
    """The measured runs of each contender, round by round."""
    taken: dict[str, list[measure.Run]] = {c.name: [] for c in chosen}
    for number, one, run in measure.interleaved(chosen, runs, bench.once):
        _say(f"  {'warm-up' if number == 0 else f'run {number}'}  {one.name:18} {run.seconds:7.2f} s{_disturbance(run)}")
        if number:
            taken[one.name].append(run)
    return taken


def _disturbance(run: measure.Run) -> str:
    """What to say of a run that others got in the way of; nothing where they did not, or nobody knows."""
    return f"  (other processes took {run.others:.0%} of the machine)" if run.others is not None and run.others > DISTURBED else ""


def _rows_in(files: fs.FileSystem, path: str) -> int:
    """Rows of a finished file, counted without trusting its maker; no value of lineitem holds a newline."""
    if path.endswith(".parquet"):
        return int(parquet.read_metadata(path, filesystem=files).num_rows)
    lines = 0
    with files.open_input_stream(path) as stream:
        while piece := stream.read(MIB):
            lines += piece.count(b"\n")
    return lines - 1


def _report(about: Mapping[str, Any], chosen: Sequence[Contender], taken: Mapping[str, list[measure.Run]]) -> None:
    """The table, and the results file."""
    summaries = {c.name: measure.summary(taken[c.name], taken[BASELINE]) for c in chosen}
    lines = [
        f"lineitem, scale {about['scale']:g}, {about['rows']:,} rows; medians of {about['runs']} interleaved runs; ratios run by run",
        "",
        "| way | wall s | client CPU s | peak MiB | file MB | times as fast (range) |",
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
    lines += ["", f"{about['date']}; {_listed(about['machine'])}", _listed(about["versions"])]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{about['date'][:10]}-export-scale-{about['scale']:g}.json"
    contenders = {name: {"median": asdict(s), "runs": [asdict(r) for r in taken[name]]} for name, s in summaries.items()}
    path.write_text(json.dumps({**about, "contenders": contenders}, indent=1) + "\n")
    _say(f"kept in {path.relative_to(measure.ROOT)}")


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
