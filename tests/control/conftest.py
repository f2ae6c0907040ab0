"""A control database as `ferry db init` makes it."""

from __future__ import annotations

import pytest

from engine import registry
from engine.control import tables
from engine.control.database import ControlDatabase


@pytest.fixture
def control_url(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an initialised control database without connectors; `DATABASE_URL` names it."""
    with ControlDatabase(database) as control:
        tables.init(control, registry.TYPE_CODES)
    monkeypatch.setenv("DATABASE_URL", database)
    return database
