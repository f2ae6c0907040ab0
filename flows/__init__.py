"""Connectors as Prefect flows. Only this package imports Prefect, and it imports the engine, never the other way round.

Prefect's telemetry is off unless somebody has asked for it.
"""

from __future__ import annotations

import os

TELEMETRY_OFF = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}

for _name, _value in TELEMETRY_OFF.items():
    os.environ.setdefault(_name, _value)
