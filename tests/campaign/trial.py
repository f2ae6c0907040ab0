"""One kill and what comes after it: the look, the reaper, the runs until the end, and what must hold then."""

from __future__ import annotations

import hashlib
import random
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import engine
from engine import reaper
from engine.control import files
from engine.control.database import ControlDatabase
from engine.errors import FerryError, PartlyFailed
from engine.results import DELIVERED
from tests.campaign.points import MAIN, Point, noted
from tests.control.platform import Control, until
from tests.places import RestPlace

if TYPE_CHECKING:
    from pathlib import Path

    from engine.results import RunResult
    from tests.places import Place

MOST_RUNS = 12
SECONDS = 90.0
IN_MIDDLE = noted("publishing", after=False)
OUTCOMES = ("killed", "not reached", "resumed", "found", "replaced", "sent", "ambiguous")


@dataclass
class Trial:
    """What is done.

    Attributes:
        point: Where the run is killed; None: `delay` seconds after its record's beginning.
        seen: What happened, for the table.
        wrong: What must not have happened.
    """

    number: int
    route: str
    point: Point | None
    delay: float
    is_move: bool
    contents: dict[str, Path]
    came: Any
    goes: Place
    control: Control
    seen: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        """All of it; what does not hold is in `wrong`."""
        try:
            self._run()
        except (AssertionError, FerryError, OSError, subprocess.SubprocessError) as error:
            self.wrong.append(f"the trial itself broke: {type(error).__name__}: {error}")

    def measure(self) -> float:
        """Seconds that a run takes which nobody kills, from its record's beginning."""
        self._fill()
        process = self.control.process(self.connector)
        until(lambda: self.control.statuses(self.connector), SECONDS)
        began = time.monotonic()
        process.communicate(timeout=SECONDS)
        return time.monotonic() - began

    def _fill(self) -> None:
        for name, path in self.contents.items():
            self.came.put(name, path)
        self.hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in self.contents.items()}
        self.connector = self.control.transfer(
            (self.came.type_code, self.goes.type_code), self.came.config, {**self.goes.config, "delete_source": self.is_move}
        )

    def _run(self) -> None:
        self._fill()
        self._kill()
        after_kill = self._look("right after the kill")
        self._reap()
        self._look("after the reaper")
        self._finish(after_kill)
        self._check()

    def _kill(self) -> None:
        code = "" if self.point is None else IN_MIDDLE if self.point.in_reaper else self.point.code
        process = self.control.process(self.connector, code)
        if self.point is None:
            until(lambda: self.control.statuses(self.connector), SECONDS)
            time.sleep(self.delay)
            process.kill()
        try:
            _, told = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, told = process.communicate()
            self.wrong.append(f"the run did not end within {SECONDS:g} s")
        if process.returncode not in {0, -signal.SIGKILL}:
            self.wrong.append(f"the run ended with {process.returncode}: {told[-300:]}")
        self.seen.add("killed" if process.returncode == -signal.SIGKILL else "not reached")

    def _look(self, when: str) -> set[str]:
        """Nothing half is visible, and no source is gone whose bytes do not stand there; returns what stands there."""
        sources = self.came.names()  # before the destination: what is gone from here must be there then
        standing = self.goes.hashes()
        for name, digest in standing.items():
            if self.hashes.get(name) != digest:
                self.wrong.append(f"{when}, {name} is visible and not whole" if name in self.hashes else f"{when}, {name} is visible, which nobody sent")
        for name in self.hashes.keys() - sources:
            if name not in standing:
                self.wrong.append(f"{when}, the source {name} is gone, and nothing stands at the destination: LOST")
            elif not self.is_move:
                self.wrong.append(f"{when}, the source {name} is gone, and this is a copy")
        return set(standing)

    def _reap(self) -> None:
        """Until no record says `started`; killed on its way where that is asked."""
        if self.point is not None and self.point.in_reaper:
            until(lambda: not self.control.lease(self.connector)["held"])
            code = f"{self.point.code}\nfrom engine import reaper\nreaper.reap()\nraise SystemExit"
            self.seen.add("killed" if self.control.process(self.connector, code).wait(SECONDS) == -signal.SIGKILL else "not reached")

        def is_closed() -> bool:
            self._problems(reaper.reap())
            return "started" not in self.control.statuses(self.connector)

        until(is_closed, SECONDS)

    def _problems(self, reaped: reaper.Reaped) -> None:
        self.wrong += [f"the reaper: {problem}" for problem in reaped.problems if problem.startswith(f"connector {self.connector}:")]

    def _finish(self, after_kill: set[str]) -> None:
        """Run the connector until it has nothing to do."""
        for _ in range(MOST_RUNS):
            try:
                result = engine.run_connector(self.connector)
            except PartlyFailed as error:
                if error.result is None or not self._resolve(error.result):
                    self.seen.add("resumed")
                    if not error.transient:
                        self.wrong.append(f"a run after the kill failed: {error}")
                        return
                continue
            except FerryError as error:
                if not error.transient:
                    self.wrong.append(f"a run after the kill failed: {error}")
                    return
                self.seen.add("resumed")  # a lease that a busy machine did not renew in time
                continue
            if result.status == "skipped":  # until that lease has ended
                time.sleep(1)
                continue
            self._told(result, after_kill)
            return
        self.wrong.append(f"{MOST_RUNS} runs after the kill did not finish it")

    def _told(self, result: RunResult, after_kill: set[str]) -> None:
        """What stood there after the kill is found, or said to be replaced."""
        for file in result.files:
            name = str(file.source).removeprefix(self._root())
            if file.state not in DELIVERED and file.state != "already delivered":
                self.wrong.append(f"{name} is {file.state} at the end: {file.error}")
            is_sent = file.state in DELIVERED and bool(file.reported)
            self.seen.add("replaced" if file.state == "replaced" else "sent" if is_sent else "found")
            if is_sent and name in after_kill and file.state != "replaced" and not self._may_repeat:
                self.wrong.append(f"{name} was delivered a second time, and the result says {file.state}")

    def _root(self) -> str:
        return str(self.came.url).removesuffix("/") + "/"

    @property
    def _may_repeat(self) -> bool:
        """A PUT of the same bytes to the same address is one delivery."""
        return isinstance(self.goes, RestPlace) and self.goes.more.get("method") == "PUT"

    def _resolve(self, result: RunResult) -> bool:
        """Do as a person who looked at the endpoint: say of each ambiguous file whether it is there. False: there is none."""
        unsure = [file for file in result.files if file.state == "ambiguous"]
        if not isinstance(self.goes, RestPlace) or not unsure:
            return False
        self.seen.add("ambiguous")
        if self._may_repeat:
            self.wrong.append("a PUT is ambiguous, although it may simply be sent again")
        with ControlDatabase(self.control.url) as control:
            for row in files.list_files(control, connector_id=self.connector, state="ambiguous"):
                named = [file for file in unsure if str(file.source).endswith(str(row["source_path"]))]
                if not named or f"ferry files resolve {row['id']}" not in str(named[0].error):
                    self.wrong.append(f"{row['source_path']} is ambiguous, and the result does not name it")
                if row["source_path"] not in self.came.names():
                    self.wrong.append(f"{row['source_path']} is ambiguous, and its source is gone")
                files.resolve(control, row["id"], "delivered" if row["source_path"] in self.goes.names() else "resend")
        return True

    def _check(self) -> None:
        """At the end, and after one more reaper: the one that dealt with this run may itself have been killed, for another trial."""
        self._problems(reaper.reap())
        standing, sources = self.goes.hashes(), self.came.names()
        if standing != self.hashes:
            self.wrong.append(f"at the end {sorted(standing)} stand there, not {sorted(self.hashes)}, or with other bytes")
        if sources != (set() if self.is_move else set(self.hashes)):
            self.wrong.append(f"at the end the sources are {sorted(sources)}")
        if isinstance(self.goes, RestPlace) and not self._may_repeat:
            names = [name for name, _ in self.goes.deliveries()]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                self.wrong.append(f"the endpoint stored {twice} more than once")
        rows = self.control.files(self.connector)
        known = ", ".join(f"{row['token']} {row['path']} {row['state']} {row['leftover'] or '-'}" for row in rows)
        self.wrong += [f"at the end {left} is left over (ledger: {known})" for left in (*self.goes.leftovers(), *self.came.leftovers())]
        if any(row["state"] in {"writing", "publishing", "ambiguous"} for row in rows):
            self.wrong.append(f"at the end rows of the ledger are open: {known}")
        if "started" in self.control.statuses(self.connector):
            self.wrong.append("at the end a record says started")
        if self.control.lease(self.connector)["expires_at"] is not None:
            self.wrong.append("at the end the lease is held")


def contents(rng: random.Random, sizes: tuple[int, ...], folder: Path) -> dict[str, Path]:
    """Files of one trial: the one that is meant, and two beside it; made once for each size."""
    main = rng.choice(sizes or (0, 1, 1000, 5 << 20, (5 << 20) + 1, 12_000_000, 26 << 20, 30_000_000))
    found = {}
    for name, size in ((MAIN, main), ("a.bin", rng.choice((0, 1, 70_000))), ("z.bin", rng.choice((0, 1, 300_000)))):
        found[name] = folder / str(size)
        if not found[name].exists():  # trials run side by side: none may see a file that is not whole
            unfinished = folder / f"{size}-{secrets.token_hex(8)}"
            unfinished.write_bytes(random.Random(size).randbytes(size))
            unfinished.rename(found[name])
    return found
