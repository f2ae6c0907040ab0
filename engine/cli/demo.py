"""`ferry demo`."""

from __future__ import annotations

HELP = "Fill an embedded PostgreSQL with a synthetic study and export it."


def demo() -> None:
    """The command."""
