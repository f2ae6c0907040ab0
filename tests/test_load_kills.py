"""Loads that are killed: the next run finishes them, with each row once, no source gone too early and nothing left over (`make campaign` does it at random)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.campaign import load_points
from tests.campaign.load_trial import LoadTrial
from tests.effort import slow
from tests.places import FolderPlace, S3Place

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("place", "disposition", "fate", "point"),
    [
        ("folder", "append", "keep", "in the middle of the rows"),
        slow("folder", "append", "delete", "after the first commit"),
        slow("folder", "append", "archive", "with both names"),
        slow("folder", "replace", "delete", "between two deletions"),
        ("s3", "replace", "archive", "with the copy and the source"),
    ],
)
def test_a_load_that_is_killed_is_finished_by_the_next(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, place: str, disposition: str, fate: str, point: str
) -> None:
    came: Any
    archive: Any
    if place == "s3":
        options = dict(request.getfixturevalue("s3_options"))
        ends = (request.getfixturevalue("s3_client"), options, options.pop("bucket"))
        came, archive = S3Place(*ends, "in"), S3Place(*ends, "done")
    else:
        came, archive = FolderPlace(tmp_path / "in"), FolderPlace(tmp_path / "done")
    named = {one.name: one for one in load_points.of_load(place, disposition, fate)}
    trial = LoadTrial(0, named[point], 0.0, disposition, fate, disposition == "append", came, archive, database)
    trial.run()
    assert trial.wrong == []
    assert "killed" in trial.seen
