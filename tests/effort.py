"""How long the tests may take: the quick run of a developer, or everything (`FERRY_SLOW_TESTS=1`, as CI does)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

THOROUGH = os.environ.get("FERRY_SLOW_TESTS") == "1"


def examples(thorough: int) -> int:
    """How many examples hypothesis tries: a fifth in the quick run."""
    return thorough if THOROUGH else max(10, thorough // 5)


def slow(*values: Any, id: str | None = None) -> Any:  # noqa: A002 - pytest's own word
    """Parameters of a case that only the thorough run takes."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)


def spread(cases: Iterable[Any], every: int) -> list[Any]:
    """All cases, a tuple or `pytest.param` where there are several arguments, of which the quick run takes one in so many."""
    params: list[Any] = [case if hasattr(case, "marks") else pytest.param(*(case if isinstance(case, tuple) else (case,))) for case in cases]
    return [case if i % every == 0 else pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow], id=case.id) for i, case in enumerate(params)]
