"""`make campaign`: kill runs of connectors, or loads, at named points and at random times, and see that nothing is lost, halved, doubled or left behind."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.campaign.kinds import Loads, Transfers
from tests.campaign.servers import Servers
from tests.campaign.trial import OUTCOMES
from tests.control.platform import Control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.campaign.kinds import Route
    from tests.campaign.points import Point

    Kind = Loads | Transfers

SHARE_AT_RANDOM = 0.35
AT_RANDOM = "at a random time"


def schedule(kind: Kind, rng: random.Random) -> Iterator[tuple[Route, Point | None]]:
    """Named points and random times, without end: each point of each route in turn, in an order of its own each time."""
    while True:
        named: list[tuple[Route, Point | None]] = [(route, point) for route in kind.routes for point in kind.points(route)]
        rng.shuffle(named)
        for one in named:
            if rng.random() < SHARE_AT_RANDOM / (1 - SHARE_AT_RANDOM):
                yield rng.choice(kind.routes), None
            yield one


class Campaign:
    """Trials, several at once, until there were enough kills."""

    def __init__(self, kind: Kind, arguments: argparse.Namespace) -> None:
        self.trials: list[Any] = []
        self._kind = kind
        self._arguments = arguments
        self._plan = enumerate(schedule(kind, random.Random(arguments.seed)))
        self._lock = threading.Lock()
        self._kills = 0
        self._usual: dict[Route, float] = {}

    def run(self) -> None:
        routes = self._kind.routes
        with ThreadPoolExecutor(self._arguments.jobs) as pool:
            self._usual = dict(zip(routes, pool.map(self._measured, routes), strict=True))
            say("usual durations: " + ", ".join(f"{' → '.join(route)} {seconds:.2f} s" for route, seconds in self._usual.items()))
            for done in [pool.submit(self._work) for _ in range(self._arguments.jobs)]:
                done.result()

    def _measured(self, route: Route) -> float:
        """Seconds that a run of this route takes."""
        trial = self._trial(-1 - self._kind.routes.index(route), route, None)
        seconds = trial.measure()
        self._kind.forget(trial)
        return float(seconds)

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._kills >= self._arguments.kills:
                    return
                number, (route, point) = next(self._plan)
            if self._arguments.only not in {None, number}:
                if number > self._arguments.only:
                    return
                continue
            trial = self._trial(number, route, point)
            trial.run()
            self._kind.forget(trial)
            with self._lock:
                self.trials.append(trial)
                self._kills += "killed" in trial.seen
                what = trial.point.name if trial.point else f"after {trial.delay:.2f} s"
                say(f"{self._kills:4} kills  trial {number}  {trial.route}  {'move' if trial.is_move else 'copy'}  {what}: {', '.join(sorted(trial.seen))}")
                for wrong in trial.wrong:
                    say(f"      VIOLATION (--seed {self._arguments.seed} --only {number}): {wrong}")

    def _trial(self, number: int, route: Route, point: Point | None) -> Any:
        rng = random.Random(f"{self._arguments.seed} {number}")
        delay = rng.uniform(0, 1) * self._usual.get(route, 0)
        return self._kind.trial(number, route, point, delay, rng)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: dict[str, list[Any]], head: str) -> None:
    """Counts of what happened, a line for each."""
    width = max(len(name) for name in (*rows, head))
    say(f"\n{head:{width}}  trials  " + "  ".join(f"{outcome:>11}" for outcome in OUTCOMES) + "  violations")
    for name, trials in (*sorted(rows.items()), ("all", [trial for some in rows.values() for trial in some])):
        seen = Counter(itertools.chain.from_iterable(trial.seen for trial in trials))
        wrong = sum(bool(trial.wrong) for trial in trials)
        say(f"{name:{width}}  {len(trials):6}  " + "  ".join(f"{seen[outcome]:11}" for outcome in OUTCOMES) + f"  {wrong:10}")


def grouped(trials: list[Any], key: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for trial in trials:
        found.setdefault(key(trial), []).append(trial)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--what", choices=("transfers", "loads"), default="transfers", help="runs of connectors that move files (default), or ferry load")
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="repeats a campaign")
    parser.add_argument("--jobs", type=int, default=4, help="trials at once (default: 4)")
    parser.add_argument("--only", type=int, help="this trial alone")
    arguments = parser.parse_args()
    say(f"seed {arguments.seed}")
    began = time.monotonic()
    os.environ["FERRY_LEASE_SECONDS"] = "2"
    with tempfile.TemporaryDirectory(prefix="campaign-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)
        servers = Servers(folder, stack)
        (folder / "files").mkdir()
        os.environ["DATABASE_URL"] = servers.postgres.url
        control = stack.enter_context(contextlib.closing(Control(servers.postgres.url, folder)))
        kind = Loads(servers) if arguments.what == "loads" else Transfers(servers, control, folder / "files")
        campaign = Campaign(kind, arguments)
        campaign.run()
    table(grouped(campaign.trials, lambda trial: trial.route), "route")
    table(grouped(campaign.trials, lambda trial: trial.point.name if trial.point else AT_RANDOM), "point")
    wrong = [trial for trial in campaign.trials if trial.wrong]
    kills = sum("killed" in trial.seen for trial in campaign.trials)
    say(f"\n{kills} kills in {time.monotonic() - began:.0f} s, seed {arguments.seed}: {len(wrong)} trials with violations")
    for trial in sorted(wrong, key=lambda one: one.number):
        say(f"  trial {trial.number}  {trial.route}  {trial.point.name if trial.point else AT_RANDOM}: {'; '.join(trial.wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
