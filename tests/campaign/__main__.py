"""`make campaign`: kill runs of connectors at named points and at random times, and see that nothing is lost, halved, doubled or left behind."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from engine import embedded
from tests.campaign import points
from tests.campaign.trial import OUTCOMES, Trial, contents
from tests.conftest import open_to_nobody
from tests.control.platform import Control
from tests.places import FolderPlace, Place, RestPlace, S3Place, SftpPlace
from tests.stores import sftp_servers
from tests.stores.rest_server import Endpoint, endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.campaign.points import Point

ROUTES = (
    *(("folder", "folder"), ("folder", "s3"), ("s3", "folder"), ("s3", "s3"), ("s3", "sftp"), ("sftp", "folder"), ("s3", "post"), ("s3", "put")),
    *(("folder", "sftp"), ("sftp", "s3")),
)
SHARE_AT_RANDOM = 0.35
AT_RANDOM = "at a random time"


class Servers:
    """What the ends lie on; the places of one trial are its own."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        for name in ("postgres", "s3", "sftp", "ends"):
            (folder / name).mkdir()
        open_to_nobody(folder / "postgres")
        self.folder = folder / "ends"
        self.postgres = stack.enter_context(embedded.postgres(folder / "postgres", settings={"max_connections": "200"}))
        self._s3 = stack.enter_context(embedded.s3(folder / "s3"))
        self._s3.create_bucket("campaign")
        serve = sftp_servers.openssh if Path("/usr/sbin/sshd").exists() or shutil.which("sshd") else sftp_servers.rclone
        self._sftp = stack.enter_context(serve(folder / "sftp"))
        self._endpoint: Endpoint = stack.enter_context(endpoint())
        keys = {"aws_access_key_id": self._s3.access_key, "aws_secret_access_key": self._s3.secret_key}
        self._client = boto3.client("s3", endpoint_url=self._s3.endpoint_url, region_name="us-east-1", **keys)  # type: ignore[call-overload]
        stack.callback(self._client.close)

    def place(self, kind: str, name: str) -> Place:
        if kind == "s3":
            return S3Place(self._client, self._s3.options(), "campaign", name)
        if kind == "sftp":
            return SftpPlace(self._sftp, name)
        if kind in {"post", "put"}:
            return RestPlace(self._endpoint, name, {"method": kind.upper(), "use_multipart": False})
        (self.folder / name).mkdir()
        return FolderPlace(self.folder / name)

    def forget(self, trial: Trial) -> None:
        """Give back the room that a trial took."""
        for place in (trial.came, trial.goes):
            if isinstance(place, RestPlace):
                place.forget()
            elif isinstance(place, S3Place):
                for name in place.names():
                    self._client.delete_object(Bucket=place.bucket, Key=f"{place.prefix}/{name}")
            else:
                shutil.rmtree(place.folder if isinstance(place, FolderPlace) else self._sftp.root / place.folder, ignore_errors=True)


def schedule(rng: random.Random) -> Iterator[tuple[tuple[str, str], Point | None]]:
    """Named points and random times, without end: each point of each route in turn, in an order of its own each time."""
    while True:
        named: list[tuple[tuple[str, str], Point | None]] = [(route, point) for route in ROUTES for point in points.of_route(*route)]
        rng.shuffle(named)
        for one in named:
            if rng.random() < SHARE_AT_RANDOM / (1 - SHARE_AT_RANDOM):
                yield rng.choice(ROUTES), None
            yield one


class Campaign:
    """Trials, several at once, until there were enough kills."""

    def __init__(self, servers: Servers, control: Control, arguments: argparse.Namespace) -> None:
        self.trials: list[Trial] = []
        self._servers = servers
        self._control = control
        self._arguments = arguments
        self._plan = enumerate(schedule(random.Random(arguments.seed)))
        self._lock = threading.Lock()
        self._kills = 0
        self._usual: dict[tuple[str, str], float] = {}

    def run(self) -> None:
        with ThreadPoolExecutor(self._arguments.jobs) as pool:
            self._usual = dict(zip(ROUTES, pool.map(self._measured, ROUTES), strict=True))
            say("usual durations: " + ", ".join(f"{source} → {destination} {seconds:.2f} s" for (source, destination), seconds in self._usual.items()))
            for done in [pool.submit(self._work) for _ in range(self._arguments.jobs)]:
                done.result()

    def _measured(self, route: tuple[str, str]) -> float:
        """Seconds that a run of this route takes."""
        trial = self._trial(-1 - ROUTES.index(route), route, points.AS_LARGE)
        seconds = trial.measure()
        self._servers.forget(trial)
        return seconds

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
            self._servers.forget(trial)
            with self._lock:
                self.trials.append(trial)
                self._kills += "killed" in trial.seen
                what = trial.point.name if trial.point else f"after {trial.delay:.2f} s"
                say(f"{self._kills:4} kills  trial {number}  {trial.route}  {'move' if trial.is_move else 'copy'}  {what}: {', '.join(sorted(trial.seen))}")
                for wrong in trial.wrong:
                    say(f"      VIOLATION (--seed {self._arguments.seed} --only {number}): {wrong}")

    def _trial(self, number: int, route: tuple[str, str], point: Point | None) -> Trial:
        rng = random.Random(f"{self._arguments.seed} {number}")
        is_move = (point is not None and point.moves) or rng.random() < 0.6
        files = contents(rng, point.sizes if point else (), self._arguments.folder)
        delay = rng.uniform(0, 1) * self._usual.get(route, 0)
        came, goes = self._servers.place(route[0], f"t{number}-in"), self._servers.place(route[1], f"t{number:+}-out")
        return Trial(number, f"{route[0]} → {route[1]}", point, delay, is_move, files, came, goes, self._control)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: dict[str, list[Trial]], head: str) -> None:
    """Counts of what happened, a line for each."""
    width = max(len(name) for name in (*rows, head))
    say(f"\n{head:{width}}  trials  " + "  ".join(f"{outcome:>11}" for outcome in OUTCOMES) + "  violations")
    for name, trials in (*sorted(rows.items()), ("all", [trial for some in rows.values() for trial in some])):
        seen = Counter(itertools.chain.from_iterable(trial.seen for trial in trials))
        wrong = sum(bool(trial.wrong) for trial in trials)
        say(f"{name:{width}}  {len(trials):6}  " + "  ".join(f"{seen[outcome]:11}" for outcome in OUTCOMES) + f"  {wrong:10}")


def grouped(trials: list[Trial], key: Any) -> dict[str, list[Trial]]:
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(key(trial), []).append(trial)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
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
        arguments.folder = folder / "files"
        arguments.folder.mkdir()
        os.environ["DATABASE_URL"] = servers.postgres.url
        control = stack.enter_context(contextlib.closing(Control(servers.postgres.url, folder)))
        campaign = Campaign(servers, control, arguments)
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
