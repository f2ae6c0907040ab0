"""The tables of the control database: made where they are missing (`ferry db init`), compared where they stand (`ferry db check`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

import psycopg

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.control.database import ControlDatabase

LOOKUP_CODES = "ad_lookup_codes"
OWN = "ferry_"
# Types that do as well as ours: the platform's tables were made by its own migrations.
_ALIKE = {
    "jsonb": "json",
    "text": "text",
    "json": "json",
    "character varying": "text",
    "character": "text",
    "bigint": "integer",
    "timestamp with time zone": "timestamp",
    "timestamp without time zone": "timestamp",
}
_JSON_COLUMNS = frozenset({"config", "source_config_override", "destination_config_override"})
_ALL = None
# Rights of the role that runs connectors, and the columns that each is needed for; of every other table it reads all columns.
_READ = {"SELECT": _ALL}
_WRITTEN: dict[str, dict[str, tuple[str, ...] | None]] = {
    "cai_connector_runs": {
        **_READ,
        "INSERT": ("connector_id", "status", "prefect_flow_run_id", "started_at", "log_summary"),
        "UPDATE": ("status", "finished_at", "rows_ingested", "log_summary"),
    },
    "ferry_leases": {**_READ, "INSERT": _ALL, "UPDATE": _ALL},
    "ferry_files": {**_READ, "INSERT": _ALL, "UPDATE": _ALL},
}


@dataclass(frozen=True, slots=True)
class Check:
    """What `check` found.

    Attributes:
        problems: One line each; empty when connectors can run.
        statements: SQL that somebody with the right to do so may run to mend what is missing.
    """

    problems: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)


def table_statements() -> dict[str, str]:
    """The statements of `schema.sql`, by the name of their table."""
    text = resources.files("engine.control").joinpath("schema.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- table: (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def init(control: ControlDatabase, codes: Iterable[str]) -> list[str]:
    """Make the tables that are missing, and columns that a newer version adds to ferry's own, in one transaction; nothing else that stands is altered.

    Args:
        control: The database.
        codes: Type codes, put into `ad_lookup_codes` if, and only if, that table is made here.

    Returns:
        Names of the tables made, and `table.column` of the columns.
    """
    connection, made = control.open(), []
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('ferry db init'))")  # two at once would both find a table missing
            for table, statements in table_statements().items():
                if not _exists(connection, table):
                    connection.execute(statements.encode())
                    made.append(table)
                elif table.startswith(OWN):
                    made.extend(_add_columns(connection, table, statements))
            if LOOKUP_CODES in made:
                connection.cursor().executemany("INSERT INTO ad_lookup_codes (lookup_code) VALUES (%s)", [(code,) for code in codes])
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigurationError(f"the role of DATABASE_URL may not create tables in the control database at {control.where}") from None
    except psycopg.Error as error:
        raise ConfigurationError(f"the tables could not be made in the control database at {control.where} (SQLSTATE {error.sqlstate})") from None
    return made


def check(control: ControlDatabase, codes: Iterable[str]) -> Check:
    """Compare the tables that stand with those that ferry works with, and the rights of this role with those that it needs."""
    found = Check()
    for table, statements in table_statements().items():
        if not control.query("SELECT 1 AS there WHERE to_regclass(%s) IS NOT NULL", (table,)):
            found.problems.append(f"{table} is missing; ferry db init makes it")
            continue
        _compare_columns(control, table, statements, found)
        _compare_rights(control, table, statements, found)
    if not any(problem.startswith(LOOKUP_CODES) for problem in found.problems):
        known = {row["lookup_code"].strip().lower() for row in control.query("SELECT lookup_code FROM ad_lookup_codes WHERE lookup_code IS NOT NULL")}
        missing = [code for code in codes if code not in known]
        if missing:
            found.problems.append(f"{LOOKUP_CODES} lacks the codes {', '.join(missing)} (only those that your connectors use are needed)")
            found.statements.extend(f"INSERT INTO {LOOKUP_CODES} (lookup_code) VALUES ('{code}');" for code in missing)  # noqa: S608 - our own constants
    return found


def _exists(connection: psycopg.Connection[dict[str, object]], table: str) -> bool:
    return connection.execute("SELECT 1 AS there WHERE to_regclass(%s) IS NOT NULL", (table,)).fetchone() is not None


def _add_columns(connection: psycopg.Connection[dict[str, object]], table: str, statements: str) -> list[str]:
    """Columns that an older version of ferry did not make yet, and the indexes that come with them."""
    standing = {
        str(row["name"]) for row in connection.execute("SELECT attname AS name FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0", (table,))
    }
    missing = {name: text for name, text in re.findall(r"^    ([a-z_0-9]+) ([A-Z][^,\n]*)", statements, flags=re.MULTILINE) if name not in standing}
    for name, definition in missing.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}".encode())
    if missing:
        for index in re.findall(r"^CREATE INDEX .*?;", statements, flags=re.MULTILINE):
            connection.execute(index.replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS").encode())
    return [f"{table}.{name}" for name in missing]


def _compare_columns(control: ControlDatabase, table: str, statements: str, found: Check) -> None:
    statement = """
        SELECT a.attname AS name, regexp_replace(format_type(a.atttypid, NULL), '\\(.*', '') AS type,
            a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS demanded, a.atthasdef OR a.attidentity <> '' AS filled
        FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
    """
    standing = {row["name"]: row for row in control.query(statement, (table,))}
    expected = _columns(statements)
    for name, type_name in expected.items():
        if name not in standing:
            found.problems.append(f"{table}.{name} is missing ({type_name})" + ("; ferry db init adds it" if table.startswith(OWN) else ""))
        elif _kind(standing[name]["type"], name) != _kind(type_name, name):
            found.problems.append(f"{table}.{name} is {standing[name]['type']}, not {type_name}")
        elif name == "id" and table == "cai_connector_runs" and not standing[name]["filled"]:
            found.problems.append(f"{table}.id has no default; a record cannot be made")
    if table in _WRITTEN:
        found.problems.extend(
            f"{table}.{name} must be given, and ferry does not know it" for name, row in standing.items() if row["demanded"] and name not in expected
        )


def _compare_rights(control: ControlDatabase, table: str, statements: str, found: Check) -> None:
    lacking = """
        SELECT a.attname AS name FROM pg_attribute a
        WHERE a.attrelid = to_regclass(%s) AND a.attname = ANY (%s) AND NOT a.attisdropped AND NOT has_column_privilege(a.attrelid, a.attnum, %s)
        ORDER BY a.attnum
    """
    for right, columns in _WRITTEN.get(table, _READ).items():
        wanted = list(columns or _columns(statements))
        lacked = [row["name"] for row in control.query(lacking, (table, wanted, right))]
        if lacked:
            of = "" if len(lacked) == len(wanted) else f" of {', '.join(lacked)}"
            found.problems.append(f"{table}: this role lacks {right}{of}; see data/grants.sql")
    sequence = """
        SELECT s AS name FROM pg_attribute a, pg_get_serial_sequence(%s, 'id') s
        WHERE a.attrelid = to_regclass(%s) AND a.attname = 'id' AND a.attidentity = '' AND NOT has_sequence_privilege(s, 'USAGE, UPDATE')
    """
    if table == "cai_connector_runs" and (held := control.query(sequence, (table, table))):
        found.problems.append(f"{held[0]['name']}: this role lacks USAGE; see data/grants.sql")


def _columns(statements: str) -> dict[str, str]:
    """Names and types of the columns that a CREATE TABLE of `schema.sql` makes."""
    types = {
        "SERIAL": "integer",
        "VARCHAR": "character varying",
        "CHAR": "character",
        "TIMESTAMPTZ": "timestamp with time zone",
        "TIMESTAMP": "timestamp without time zone",
    }
    columns = re.findall(r"^    ([a-z_0-9]+) ([A-Z]+)", statements, flags=re.MULTILINE)
    return {name: types.get(word, word.lower()) for name, word in columns}


def _kind(type_name: str, column: str) -> str:
    kind = _ALIKE.get(type_name, type_name)
    return "json" if column in _JSON_COLUMNS and kind == "text" else kind
