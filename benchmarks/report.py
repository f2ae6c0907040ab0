"""What a benchmark says while it runs, and where its figures are kept."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks import measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RESULTS = measure.ROOT / "benchmarks" / "results"


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def listed(values: Mapping[str, Any]) -> str:
    """What the figures depend on, in one line.

    Example:
        >>> listed({"Python": "3.11.7", "pyarrow": "26.0.1"})
        'Python 3.11.7, pyarrow 26.0.1'
    """
    return ", ".join(f"{name} {value}" for name, value in values.items())


def keep(name: str, told: Mapping[str, Any]) -> Path:
    """Keep what was measured in a file of the day.

    Args:
        name: Of the benchmark, with its scale.
        told: `date`, machine, versions and the single runs.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{told['date'][:10]}-{name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n")
    return path


def single(taken: Mapping[str, Sequence[Any]]) -> dict[str, list[dict[str, Any]]]:
    """The single runs of each way, for `keep`."""
    return {way: [asdict(run) for run in runs] for way, runs in taken.items()}
