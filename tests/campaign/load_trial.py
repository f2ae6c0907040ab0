"""One load that is killed and what comes after it: the look, the run that finishes it, and what must hold then."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import FerryError
from engine.postgres.bookkeeping import BOOKKEEPING
from tests.control.platform import ROOT, until
from tests.postgres.loads import execute, fetch

if TYPE_CHECKING:
    from tests.campaign.points import Point
    from tests.places import FolderPlace, S3Place, SftpPlace

    FilePlace = FolderPlace | S3Place | SftpPlace

COLUMNS = {"id": "bigint", "name": "text", "_source_file": "text"}
OLD = "before.csv"
ROWS = {"a.csv": 40, "main.csv": 60_000, "z.csv": 7}
BLOCK = "from engine.formats import csv_blocks\ncsv_blocks.BLOCK = 100_000\n"
"""So that the larger file has several blocks."""
SECONDS = 90.0
MOST_RUNS = 4


@dataclass
class LoadTrial:
    """What is done.

    Attributes:
        point: Where the load is killed; None: `delay` seconds after its beginning.
        disposition: `append`, `merge` or `replace`.
        fate: Of sources once they are loaded: `keep`, `delete`, `archive`.
        is_new: Whether the first run makes the table; else it has rows, of which a merge updates some and a replace keeps none.
        seen: What happened, for the table.
        wrong: What must not have happened.
    """

    number: int
    point: Point | None
    delay: float
    disposition: str
    fate: str
    is_new: bool
    came: FilePlace
    archive: FilePlace
    url: str
    seen: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    @property
    def route(self) -> str:
        """For the table."""
        return f"{type(self.came).__name__.removesuffix('Place').lower()} → {self.disposition}, {self.fate}"

    @property
    def is_move(self) -> bool:
        """Whether sources go."""
        return self.fate != "keep"

    def run(self) -> None:
        """All of it; what does not hold is in `wrong`."""
        with tempfile.TemporaryDirectory(prefix="load-trial-") as name:
            self._spool = Path(name)
            try:
                self._fill()
                self._kill()
                self._look("right after the kill")
                self._finish()
                self._check()
            except (AssertionError, FerryError, OSError, subprocess.SubprocessError) as error:
                self.wrong.append(f"the trial itself broke: {type(error).__name__}: {error}")

    def measure(self) -> float:
        """Seconds that such a load takes which nobody kills."""
        with tempfile.TemporaryDirectory(prefix="load-trial-") as name:
            self._spool = Path(name)
            self._fill()
            began = time.monotonic()
            self._process("").communicate(timeout=SECONDS)
            return time.monotonic() - began

    def _fill(self) -> None:
        """Files whose ids do not meet, and a table that has some of them already."""
        self.files: dict[str, str] = {}
        start = 0
        for name, count in ROWS.items():
            self.files[name] = "id,name\n" + "".join(f"{i},new {i % 97}\n" for i in range(start, start + count))
            start += count
            (self._spool / name).write_text(self.files[name])
            self.came.put(name, self._spool / name)
            (self._spool / name).unlink()
        self.hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.files.items()}
        if not self.is_new:
            execute(self.url, 'CREATE TABLE t (id bigint PRIMARY KEY, name text, "_source_file" text)')
            ids = "generate_series(20, 30)" if self.disposition == "merge" else "generate_series(-10, -1)"
            execute(self.url, f"INSERT INTO t SELECT i, 'old', '{OLD}' FROM {ids} i")

    def _process(self, before: str) -> subprocess.Popen[str]:
        asked = [str(self.came.url).removesuffix("/"), self.url, "--pattern", "*.csv", "--table", "t", "--write-disposition", self.disposition]
        asked += ["--columns", json.dumps(COLUMNS), "--json"]
        asked += ["--primary-key", "id"] if self.disposition == "merge" else []
        asked += {"delete": ["--delete-source"], "archive": ["--archive-path", self.archive.config["path"]], "keep": []}[self.fate]
        for key, value in self.came.options.items():
            asked += ["--source-option", f"{key}={value}"]
        return subprocess.Popen(
            [sys.executable, "-c", f"{before}\nfrom engine.cli import main; main()", "load", *asked],
            env={**os.environ, "TMPDIR": str(self._spool)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _kill(self) -> None:
        process = self._process(BLOCK + (self.point.code if self.point else ""))
        if self.point is None:
            time.sleep(self.delay)
            process.kill()
        try:
            _, told = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, told = process.communicate()
            self.wrong.append(f"the load did not end within {SECONDS:g} s")
        if process.returncode not in {0, -signal.SIGKILL}:
            self.wrong.append(f"the load ended with {process.returncode}: {told[-300:]}")
        self.seen.add("killed" if process.returncode == -signal.SIGKILL else "not reached")

    def _look(self, when: str) -> None:
        """Each file's rows are there once or not at all, as the ledger says, and no source is gone whose rows are not there."""
        sources, archived = self.came.names(), self.archive.names()
        loaded, ledger = self._loaded()
        for name, count in loaded.items():
            if count != ROWS.get(name, count):
                self.wrong.append(f"{when}, {count} of the {ROWS[name]} rows of {name} are there")
        if loaded.keys() - {OLD} != ledger:
            self.wrong.append(f"{when}, the table has rows of {sorted(loaded)}, and the ledger knows {sorted(ledger)}")
        if self.disposition == "replace" and len(loaded.keys() - {OLD}) not in {0, len(ROWS)}:
            self.wrong.append(f"{when}, the table is made of {sorted(loaded)}")
        for name in ROWS.keys() - sources:
            if name not in loaded:
                self.wrong.append(f"{when}, the source {name} is gone, and its rows are not there: LOST")
            elif not self.is_move or (self.fate == "archive" and name not in archived):
                self.wrong.append(f"{when}, the source {name} is gone")

    def _loaded(self) -> tuple[dict[str, int], set[str]]:
        """Rows of each file in the table, and the files that the ledger knows."""
        if fetch(self.url, "SELECT to_regclass('t')") == [(None,)]:
            return {}, set()
        rows = fetch(self.url, 'SELECT "_source_file", count(*) FROM t GROUP BY 1')
        if fetch(self.url, "SELECT to_regclass('_ferry_loads')") == [(None,)]:
            return dict(rows), set()
        known = fetch(self.url, "SELECT path FROM _ferry_loads")
        return {path.rpartition("/")[2]: count for path, count in rows}, {path.rpartition("/")[2] for (path,) in known}

    def _finish(self) -> None:
        """Run the load until it has nothing to do."""
        for _ in range(MOST_RUNS):
            process = self._process("")
            out, told = process.communicate(timeout=SECONDS)
            if process.returncode:
                self.wrong.append(f"a run after the kill ended with {process.returncode}: {told[-300:]}")
                return
            states = {file["state"] for file in json.loads(out)["files"]}
            self.seen.update({"resumed"} if "written" in states else {"found"})
            if "written" not in states:
                return
            self._look("after another run")
        self.wrong.append(f"{MOST_RUNS} runs after the kill did not finish it")

    def _check(self) -> None:
        self._look("at the end")
        total = sum(ROWS.values())
        old = {"append": 0 if self.is_new else 10, "merge": 0, "replace": 0}[self.disposition]
        rows, ids, new = fetch(self.url, "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE name LIKE 'new%') FROM t")[0]
        if (rows, ids, new) != (total + old, total + old, total):
            self.wrong.append(f"at the end the table has {rows} rows, {ids} ids, {new} new ones; {total + old} and {total} were to be there")
        until(lambda: not fetch(self.url, "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"))
        relations = {
            name
            for (name,) in fetch(
                self.url,
                "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace::regnamespace::text !~ '^pg_(catalog|toast)|^information'",
            )
        }
        if relations != {"t", *BOOKKEEPING}:
            self.wrong.append(f"at the end there are the relations {sorted(relations)}")
        lines = fetch(self.url, "SELECT count(*), count(DISTINCT path), (SELECT count(*) FROM _dlt_loads) - count(DISTINCT load_id) FROM _ferry_loads")
        if lines != [(len(ROWS), len(ROWS), 0)]:
            self.wrong.append(f"at the end the ledger has {lines} rows, files, and loads too many of dlt")
        if self.came.names() != (set() if self.is_move else set(ROWS)):
            self.wrong.append(f"at the end the sources are {sorted(self.came.names())}")
        if self.archive.hashes() != (self.hashes if self.fate == "archive" else {}):
            self.wrong.append(f"at the end the archive holds {sorted(self.archive.names())}, or other bytes")
        self.wrong += [
            f"at the end {left} is left over" for left in (*self.came.leftovers(), *self.archive.leftovers(), *(path.name for path in self._spool.iterdir()))
        ]
