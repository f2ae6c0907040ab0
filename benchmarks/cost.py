"""What one export to Parquet costs against rows, columns and readers.

    RUNS=3 python -m benchmarks.cost

TPC-H `lineitem` into a folder, each run a process; the database is kept in `.bench/`. The table goes to standard output, the single runs to
`benchmarks/results/`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from benchmarks import lineitem, measure, report
from benchmarks.export import CACHE, MIB, SETTINGS
from engine import embedded

SCALES = (0.1, 0.3, 1.0)
MIDDLE = 0.3
COLUMNS = (1, 4, 8, 16)
READERS = (1, 2, 4)
ENGINES = ("adbc", "copy")


@dataclass(frozen=True, slots=True)
class Case:
    """One export: what of it varies, the database, the query, and options of `ferry export`."""

    varies: str
    database: str
    query: str
    options: tuple[str, ...]
    rows: int

    def once(self) -> measure.Run:
        """Run it, and remove what it made."""
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            target = f"{folder}/lineitem.parquet"
            program = [sys.executable, "-c", "from engine.cli import main; main()", "export", self.query, target, "--quiet", *self.options]
            return measure.run(program, {"FERRY_DATABASE": self.database})


def main() -> None:
    """Measure, print, and keep the results."""
    runs = int(os.environ.get("RUNS", "3"))
    CACHE.mkdir(exist_ok=True)
    with embedded.postgres(CACHE / "postgres", settings=SETTINGS) as server:
        cases = _cases(server)
        taken: dict[Case, list[measure.Run]] = {case: [] for case in cases}
        for number, case, run in measure.interleaved(cases, runs, Case.once):
            report.say(f"  {'warm-up' if number == 0 else f'run {number}'}  {case.varies:24} {' '.join(case.options):28} {run.seconds:6.2f} s")
            if number:
                taken[case].append(run)
    _show(taken, runs)


def _cases(server: embedded.Postgres) -> list[Case]:
    urls = {scale: lineitem.database(server, scale) for scale in SCALES}
    rows = {scale: lineitem.rows(url, "lineitem") for scale, url in urls.items()}
    cases = []
    for engine in ENGINES:
        reader = ("--reader", engine)
        cases += [Case(f"{rows[s]:,} rows", urls[s], "SELECT * FROM lineitem", reader, rows[s]) for s in SCALES]
        for count in COLUMNS:
            names = ", ".join(list(lineitem.COLUMNS)[:count])
            cases.append(Case(f"{count} columns", urls[MIDDLE], f"SELECT {names} FROM lineitem", reader, rows[MIDDLE]))
        cases += [Case(f"{n} readers", urls[MIDDLE], "SELECT * FROM lineitem", (*reader, "--readers", str(n)), rows[MIDDLE]) for n in READERS]
    return cases


def _show(taken: dict[Case, list[measure.Run]], runs: int) -> None:
    print(f"lineitem to Parquet (zstd), medians of {runs} interleaved runs\n\n| reader | what varies | wall s | client CPU s | µs a row | peak MiB |")
    print("|---|---|---:|---:|---:|---:|")
    for case, of in taken.items():
        s = measure.summary(of, of)
        print(f"| `{case.options[1]}` | {case.varies} | {s.seconds:.2f} | {s.cpu_seconds:.2f} | {s.seconds / case.rows * 1e6:.2f} | {s.peak_bytes / MIB:.0f} |")
    about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": measure.machine(), "versions": measure.versions()}
    told = [{"reader": case.options[1], "varies": case.varies, "rows": case.rows, "runs": [asdict(run) for run in of]} for case, of in taken.items()]
    report.say(f"kept in {report.keep('cost', {**about, 'cases': told})}")


if __name__ == "__main__":
    main()
