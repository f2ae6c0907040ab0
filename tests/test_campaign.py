"""What the campaigns themselves rely on."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.campaign.points import MAIN
from tests.campaign.trial import contents

if TYPE_CHECKING:
    from pathlib import Path


def test_trials_side_by_side_see_whole_files_only(tmp_path: Path) -> None:
    """A source that was copied while another trial still wrote it looked like a delivery of other bytes."""
    size = 20_000_000

    def seen(number: int) -> int:
        return contents(random.Random(number), (size,), tmp_path)[MAIN].stat().st_size

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(seen, range(64))) == {size}
