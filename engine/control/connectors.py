"""Connectors as they are stored: the specification's query (4.1), and the single rows that importing and exporting need."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from engine.control.database import ControlDatabase, Row

_JOINED = """
    SELECT c.id, c.name, c.defined_source_id, c.defined_destination_id, ds.id AS found_source_id, dd.id AS found_destination_id,
        c.source_config_override, c.destination_config_override, ds.config AS source_base_config, dd.config AS dest_base_config,
        alc_s.lookup_code AS source_type, alc_d.lookup_code AS dest_type
    FROM cai_connectors c
    LEFT JOIN cai_defined_sources ds ON c.defined_source_id = ds.id
    LEFT JOIN cai_defined_destinations dd ON c.defined_destination_id = dd.id
    LEFT JOIN ad_lookup_codes alc_s ON ds.source_type_lookup_code_id = alc_s.id
    LEFT JOIN ad_lookup_codes alc_d ON dd.destination_type_lookup_code_id = alc_d.id
"""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connector as it is stored.

    Attributes:
        type: Its type code.
        base: The configuration of the defined source or destination.
        override: The connector's own, which goes on top.
    """

    type: str
    base: dict[str, Any]
    override: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredConnector:
    """A connector with both of its ends, their references not resolved."""

    id: int
    name: str
    source: End
    destination: End


def read_connector(control: ControlDatabase, connector_id: int) -> StoredConnector:
    """One connector.

    Raises:
        ConfigurationError: (a `ValueError`) No such connector; no source or destination, or one that is not there; a configuration that is no JSON object.
    """
    return stored_connector(_row(control, connector_id))


def stored_connector(row: Row) -> StoredConnector:
    """What a row of `list_connectors` stands for.

    Raises:
        ConfigurationError: The first of its `problems`.
    """
    return StoredConnector(row["id"], row["name"], _end(row, "source", "source"), _end(row, "destination", "dest"))


def read_destination(control: ControlDatabase, connector_id: int) -> End:
    """The destination of a connector, whatever is wrong with its source.

    Raises:
        ConfigurationError: As `read_connector`.
    """
    return _end(_row(control, connector_id), "destination", "dest")


def list_connectors(control: ControlDatabase) -> list[Row]:
    """All connectors, by id: `id, name, source_type, dest_type` and what the joins gave."""
    return control.query(_JOINED + " ORDER BY c.id")


def problems(row: Row) -> list[str]:
    """Why a row of `list_connectors` is no whole connector, for each of its ends."""
    found: list[str] = []
    for end, short in (("source", "source"), ("destination", "dest")):
        try:
            _end(row, end, short)
        except ConfigurationError as error:
            found.append(str(error))
    return found


def _row(control: ControlDatabase, connector_id: int) -> Row:
    found = control.query(_JOINED + " WHERE c.id = %s", (connector_id,))
    if not found:
        raise ConfigurationError(f"there is no connector {connector_id} in the control database at {control.where}; see ferry connectors list")
    return found[0]


def _end(row: Row, end: str, short: str) -> End:
    where = f"connector {row['id']}"
    defined = row[f"defined_{end}_id"]
    if defined is None:
        raise ConfigurationError(f"{where} has no {end} (defined_{end}_id is NULL)")
    if row[f"found_{end}_id"] is None:
        raise ConfigurationError(f"{where}: its {end} {defined} is not in cai_defined_{end}s")
    if row[f"{short}_type"] is None:
        raise ConfigurationError(f"{where}: its {end} {defined} has no type ({end}_type_lookup_code_id names no row of ad_lookup_codes)")
    base = json_object(row[f"{short}_base_config"], f"{where}: the config of its {end} {defined}")
    override = json_object(row[f"{end}_config_override"], f"{where}: {end}_config_override")
    return End(row[f"{short}_type"].strip(), base, override)


def json_object(value: Any, where: str) -> dict[str, Any]:
    """A configuration column, which may be JSONB, JSON or TEXT, or NULL.

    Raises:
        ConfigurationError: It holds something else than a JSON object; nothing of it is quoted.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError as error:
            at = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            raise ConfigurationError(f"{where} is no JSON{at}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} is no JSON object")
    return value
