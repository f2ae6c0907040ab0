"""arrow-ferry: moves rows and files between PostgreSQL, object stores, SFTP servers, folders and REST endpoints, fast, in bounded memory, without changing a value.

Importing this package is cheap: what a name needs is loaded when the name is first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from engine.errors import (
    ConfigurationError,
    ConnectionFailed,
    FerryError,
    FileChanged,
    IntegrityError,
    Interrupted,
    LeaseLost,
    LoadFailed,
    OutcomeUnknown,
    PartlyFailed,
    ProcessingError,
    QueryFailed,
    ResourceError,
    SchemaMismatch,
    TransferFailed,
    UnrepresentableValue,
)
from engine.results import FileResult, Receipt, RunResult

if TYPE_CHECKING:
    from engine.adhoc import copy, export, load, stream, transfer
    from engine.connector import run_connector
    from engine.results import Progress

__all__ = [
    "ConfigurationError",
    "ConnectionFailed",
    "FerryError",
    "FileChanged",
    "FileResult",
    "IntegrityError",
    "Interrupted",
    "LeaseLost",
    "LoadFailed",
    "OutcomeUnknown",
    "PartlyFailed",
    "ProcessingError",
    "Progress",
    "QueryFailed",
    "Receipt",
    "ResourceError",
    "RunResult",
    "SchemaMismatch",
    "TransferFailed",
    "UnrepresentableValue",
    "copy",
    "export",
    "load",
    "run_connector",
    "stream",
    "transfer",
]

_LAZY = {
    "copy": "engine.adhoc",
    "transfer": "engine.adhoc",
    "export": "engine.adhoc",
    "load": "engine.adhoc",
    "stream": "engine.adhoc",
    "run_connector": "engine.connector",
    "Progress": "engine.results",
}
logging.getLogger(__name__).addHandler(logging.NullHandler())  # who calls decides whether and where anything is logged


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
