"""How long the tests may take: the quick run of a developer, or everything (`FERRY_SLOW_TESTS=1`, as CI does)."""

from __future__ import annotations

import os
from typing import Any

import pytest

THOROUGH = os.environ.get("FERRY_SLOW_TESTS") == "1"


def examples(thorough: int) -> int:
    """How many examples hypothesis tries: a fifth in the quick run."""
    return thorough if THOROUGH else max(10, thorough // 5)


def slow(*values: Any, id: str | None = None) -> Any:  # noqa: A002 - pytest's own word
    """Parameters of a case that only the thorough run takes."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)
