"""How a connector's configuration is made: base, the connector's override on top, then the environment and defaults for what is missing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import ConfigurationError
from engine.options import ENVIRONMENT, masked

if TYPE_CHECKING:
    from engine.control.connectors import End, StoredConnector
    from engine.options import Options
    from engine.registry import Role


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a merged configuration: its value, and the layer it comes from (`base`, `override`, `environment NAME`, `default`, or `missing`)."""

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
        "source_config": merged_end(stored.source, "source", stored.id),
        "destination_type": stored.destination.type,
        "destination_config": merged_end(stored.destination, "destination", stored.id),
    }


def merged_end(end: End, role: Role, connector_id: int) -> dict[str, Any]:
    """One end of it."""
    return {one.key: one.value for one in _merged(end, role, connector_id)}


def parsed_end(end: End, role: Role, connector_id: int) -> Any:
    """The checked options of one end, without keys that speak to the route.

    Raises:
        ConfigurationError: As `merged_connector`, and for wrong options.
    """
    options, where = _options_class(end, role, connector_id), f"connector {connector_id}: {role}"
    known = options.known_keys()
    return options.parse({key: value for key, value in merged_end(end, role, connector_id).items() if key in known}, where=where)


def explain(end: End, role: Role, connector_id: int) -> list[Setting]:
    """Every key that this end knows, with the value that counts and where it comes from; secrets are masked.

    Raises:
        ConfigurationError: As `merged_connector`; `as_stored` shows such an end nevertheless.
    """
    given = _merged(end, role, connector_id)
    options = _options_class(end, role, connector_id)
    seen = {one.key for one in given}
    filled = [_filled(name, options) for name in options.model_fields if name not in seen]
    return [Setting(one.key, masked(one.key, one.value), one.origin) for one in (*given, *filled)]


def as_stored(end: End) -> list[Setting]:
    """The keys that are written down, without what follows from them; secrets are masked."""
    together = {**{key: (value, "base") for key, value in end.base.items()}, **{key: (value, "override") for key, value in end.override.items()}}
    return [Setting(key, masked(key, value), origin) for key, (value, origin) in together.items()]


def _merged(end: End, role: Role, connector_id: int) -> list[Setting]:
    """Each layer is normalised, then the override replaces base values key by key; null removes a base value.

    A base value is removed before the base is normalised, so that `connection_string: null` takes away all that the string would have given, and
    afterwards, so that `username: null` takes away what the base's string has given.
    """
    options, where = _options_class(end, role, connector_id), f"connector {connector_id}: {role}"
    removed = {options.aliases.get(key, key) for key, value in end.override.items() if value is None}
    base = _normalised(options, {key: value for key, value in end.base.items() if options.aliases.get(key, key) not in removed}, where)
    override = _normalised(options, end.override, where)
    together = {key: Setting(key, value, "base") for key, value in base.items() if value is not None and key not in removed}
    together.update({key: Setting(key, value, "override") for key, value in override.items() if value is not None})
    return list(together.values())


def _normalised(options: type[Options], layer: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return options.normalise(layer)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _options_class(end: End, role: Role, connector_id: int) -> type[Options]:
    where = f"connector {connector_id}: {role}"
    return registry.options_class(registry.kind_of(end.type, {**end.base, **end.override}, where=where), role, where=where)


def _filled(name: str, options: type[Options]) -> Setting:
    """A key that no layer gives."""
    field = options.model_fields[name]
    extra = field.json_schema_extra
    variable = str(extra[ENVIRONMENT]) if isinstance(extra, dict) and ENVIRONMENT in extra else None
    if variable and os.environ.get(variable):
        value = os.environ[variable]
        return Setting(name, value, f"environment {variable}")
    if field.is_required():
        return Setting(name, None, "missing")
    default = field.get_default(call_default_factory=True)
    return Setting(name, sorted(default) if isinstance(default, frozenset) else default, "default")
