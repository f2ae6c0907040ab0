"""arrow-ferry: moves columns between PostgreSQL, object stores and folders, fast, in bounded memory, without changing a value.

Importing this package is cheap: what a name needs is loaded when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engine.errors import (
    ConfigurationError,
    ConnectionFailed,
    FerryError,
    IntegrityError,
    Interrupted,
    ProcessingError,
    QueryFailed,
    ResourceError,
    SchemaMismatch,
    TransferFailed,
    UnrepresentableValue,
)
from engine.results import FileResult, Receipt, RunResult

if TYPE_CHECKING:
    from engine.adhoc import export, stream
    from engine.routes.export import Progress

__all__ = [
    "ConfigurationError",
    "ConnectionFailed",
    "FerryError",
    "FileResult",
    "IntegrityError",
    "Interrupted",
    "ProcessingError",
    "Progress",
    "QueryFailed",
    "Receipt",
    "ResourceError",
    "RunResult",
    "SchemaMismatch",
    "TransferFailed",
    "UnrepresentableValue",
    "export",
    "stream",
]

_LAZY = {"export": "engine.adhoc", "stream": "engine.adhoc", "Progress": "engine.routes.export"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
