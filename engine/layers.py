"""How a connector's configuration is made: base, the connector's override on top, then the environment and defaults for what is missing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.options import ENVIRONMENT, masked

if TYPE_CHECKING:
    from engine.control.connectors import End, StoredConnector
    from engine.options import Options
    from engine.registry import Role


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a merged configuration: its value, and the layer it comes from (`base`, `override`, `environment NAME`, `default`)."""

    key: str
    value: Any
    origin: str


def merged_connector(stored: StoredConnector) -> dict[str, Any]:
    """What the flow's `read_connector_config` returns (specification 4.1); references to secrets stay references.

    Raises:
        ConfigurationError: A type that is not known or not possible at its end, or a connection string that cannot be read.
    """
    return {
        "connector_id": stored.id,
        "connector_name": stored.name,
        "source_type": stored.source.type,
        "source_config": {one.key: one.value for one in _merged(stored.source, "source", stored.id)},
        "destination_type": stored.destination.type,
        "destination_config": {one.key: one.value for one in _merged(stored.destination, "destination", stored.id)},
    }


def explain(end: End, role: Role, connector_id: int) -> list[Setting]:
    """Every key that this end knows, with the value that counts and where it comes from; secrets are masked."""
    given = _merged(end, role, connector_id)
    options = _options_class(end, role, connector_id)
    seen = {one.key for one in given}
    filled = [_filled(name, options) for name in options.model_fields if name not in seen]
    return [Setting(one.key, masked(one.key, one.value), one.origin) for one in (*given, *filled)]


def _merged(end: End, role: Role, connector_id: int) -> list[Setting]:
    """Each layer is normalised, then the override replaces base values key by key; null removes a base value.

    A base value is removed before the base is normalised, so that `connection_string: null` takes away all that the string would have given.
    """
    options = _options_class(end, role, connector_id)
    removed = {options.aliases.get(key, key) for key, value in end.override.items() if value is None}
    base = options.normalise({key: value for key, value in end.base.items() if options.aliases.get(key, key) not in removed})
    override = options.normalise(end.override)
    together = {key: Setting(key, value, "base") for key, value in base.items() if value is not None}
    together.update({key: Setting(key, value, "override") for key, value in override.items() if value is not None})
    return list(together.values())


def _options_class(end: End, role: Role, connector_id: int) -> type[Options]:
    kind = registry.kind_of(end.type, {**end.base, **end.override})
    return registry.options_class(kind, role, where=f"connector {connector_id}: {role}")


def _filled(name: str, options: type[Options]) -> Setting:
    """A key that no layer gives."""
    field = options.model_fields[name]
    extra = field.json_schema_extra
    variable = str(extra[ENVIRONMENT]) if isinstance(extra, dict) and ENVIRONMENT in extra else None
    if variable and os.environ.get(variable):
        value = os.environ[variable]
        return Setting(name, value, f"environment {variable}")
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return Setting(name, sorted(default) if isinstance(default, frozenset) else default, "default")
