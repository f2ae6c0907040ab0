"""What a campaign kills: transfers by connectors, or loads by the command."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import psycopg

from tests.campaign import load_points, points
from tests.campaign.load_trial import LoadTrial
from tests.campaign.trial import Trial, contents

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.campaign.points import Point
    from tests.campaign.servers import Servers
    from tests.control.platform import Control

Route = tuple[str, ...]


class Transfers:
    """Files to files: source and destination."""

    routes: tuple[Route, ...] = (
        *(("folder", "folder"), ("folder", "s3"), ("s3", "folder"), ("s3", "s3"), ("s3", "sftp"), ("sftp", "folder"), ("s3", "post"), ("s3", "put")),
        *(("folder", "sftp"), ("sftp", "s3")),
    )

    def __init__(self, servers: Servers, control: Control, folder: Path) -> None:
        self._servers = servers
        self._control = control
        self._folder = folder

    def points(self, route: Route) -> tuple[Point, ...]:
        """Where such a run can be killed."""
        return points.of_route(*route)

    def trial(self, number: int, route: Route, point: Point | None, delay: float, rng: random.Random) -> Trial:
        """One run."""
        is_move = (point is not None and point.moves) or rng.random() < 0.6
        files = contents(rng, point.sizes if point else points.AS_LARGE.sizes if number < 0 else (), self._folder)
        came, goes = self._servers.place(route[0], f"t{number}-in"), self._servers.place(route[1], f"t{number:+}-out")
        return Trial(number, " → ".join(route), point, delay, is_move, files, came, goes, self._control)

    def forget(self, trial: Any) -> None:
        """Give back the room that it took."""
        self._servers.forget((trial.came, trial.goes))


class Loads:
    """Files to rows: source, write disposition, and what becomes of the sources."""

    routes: tuple[Route, ...] = tuple(itertools.product(("folder", "s3", "sftp"), ("append", "merge", "replace"), ("keep", "delete", "archive")))

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def points(self, route: Route) -> tuple[Point, ...]:
        """Where such a run can be killed."""
        return load_points.of_load(*route)

    def trial(self, number: int, route: Route, point: Point | None, delay: float, rng: random.Random) -> LoadTrial:
        """One load, into a database of its own."""
        place, disposition, fate = route
        came: Any = self._servers.place(place, f"l{number}-in")
        archive: Any = self._servers.place(place, f"l{number}-done")
        name = f"load_{number:+}"
        with psycopg.connect(self._servers.postgres.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return LoadTrial(number, point, delay, disposition, fate, rng.random() < 0.5, came, archive, self._servers.postgres.url_of(name))

    def forget(self, trial: Any) -> None:
        """Give back the room that it took."""
        self._servers.forget((trial.came, trial.archive))
        with psycopg.connect(self._servers.postgres.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{trial.url.rpartition("/")[2]}" WITH (FORCE)')
