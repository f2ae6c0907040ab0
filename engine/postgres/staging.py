"""A temporary table that a file's rows pass through when they cannot go straight into the table: to be cast by the server, or to be merged.

It lives in the load's transaction and goes with it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import LoadFailed
from engine.postgres.session import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from engine.postgres.columns import Column
    from engine.postgres.dataset import Dataset
    from engine.postgres.session import Session

_numbers = itertools.count(1)

_ASKS_SINCE = 16_00_00
_READ_AS = {"money": "numeric", "money[]": "numeric[]"}
"""Types that are cast by way of another: text of money is read by lc_monetary."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that the server would not take.

    Attributes:
        row: Its number among the rows of one `write`, from 0.
        column: The column whose text is none of its type.
    """

    row: int
    column: Column


class Staging:
    """Rows of one file, before they reach its table. Every method blocks.

    Args of the constructor:
        session: The load's transaction.
        target: The table's quoted name.
        columns: The columns that are sent, as the table has them.
        by_server: Of each column that is sent as text: SQL that casts it (`Caster.expression`).

    Attributes:
        names: The columns' names.
        rows: The quoted relation that has the rows as the table would.
    """

    def __init__(self, session: Session, target: str, columns: Sequence[Column], by_server: Mapping[str, str]) -> None:
        number = next(_numbers)
        self._session = session
        self._target = target
        self.names = [column.name for column in columns]
        self._table = f"ferry_sent_{number}"
        self._sent = identifier("pg_temp", self._table)
        self.rows = identifier("pg_temp", f"ferry_rows_{number}")
        self._checked = [column for column in columns if column.name in by_server]
        self._taken = 0
        self._row = identifier(next(name for i in itertools.count() if (name := f"row_{i}") not in self.names))
        kinds = ", ".join(f"{identifier(c.name)} {'text' if c.name in by_server else c.type}" for c in columns)
        numbered = f", {self._row} bigint GENERATED ALWAYS AS IDENTITY" if by_server else ""
        session.execute(f"CREATE TEMPORARY TABLE {identifier(self._table)} ({kinds}{numbered}) ON COMMIT DROP")
        shown = ", ".join(f"{by_server.get(name, identifier(name))} AS {identifier(name)}" for name in self.names)
        session.execute(f"CREATE TEMPORARY VIEW {self.rows} AS SELECT {shown} FROM {self._sent}")  # noqa: S608 - quoted

    def ingest(self, reader: pa.RecordBatchReader) -> int:
        """Take batches; returns their rows."""
        rows = self._session.ingest(reader, self._table, None)
        self._taken += rows
        return rows

    def refuse(self, last: int) -> list[Refused]:
        """Take out those of the last so many rows that hold a text which the server would not cast, and say which: the first such column of each.

        Servers before PostgreSQL 16 cannot be asked (`pg_input_is_valid`): there the cast itself fails, and the file with it.
        """
        version = self._session.fetch("SELECT current_setting('server_version_num')::int")[0][0]
        if version < _ASKS_SINCE or not self._checked:
            return []
        wrong = [f"NOT coalesce(pg_input_is_valid({identifier(c.name)}, {literal(_READ_AS.get(c.type, c.type))}), true)" for c in self._checked]
        which = " ".join(f"WHEN {condition} THEN {i}" for i, condition in enumerate(wrong))
        before = self._taken - last
        rows = self._session.fetch(
            f"WITH wrong AS (DELETE FROM {self._sent} WHERE {self._row} > {before} AND ({' OR '.join(wrong)}) "  # noqa: S608 - quoted
            f"RETURNING {self._row} AS row, CASE {which} END AS n) SELECT row, n FROM wrong ORDER BY row"
        )
        return [Refused(int(row) - before - 1, self._checked[n]) for row, n in rows]

    def insert(self) -> None:
        """Append the rows to the table, and be empty again."""
        names = ", ".join(identifier(name) for name in self.names)
        self._session.execute(f"INSERT INTO {self._target} ({names}) SELECT {names} FROM {self.rows}; TRUNCATE {self._sent}")  # noqa: S608 - quoted

    def analyze(self) -> None:
        """Have the planner know how many rows there are."""
        self._session.execute(f"ANALYZE {self._sent}")

    def drop(self) -> None:
        """Free its space before the transaction ends."""
        self._session.execute(f"DROP VIEW {self.rows} CASCADE; DROP TABLE {self._sent}")


def merge(session: Session, target: str, stagings: Sequence[Staging], dataset: Dataset, key: Sequence[str]) -> None:
    """Update the table's rows of the same key, insert the others, all of one file together.

    Nobody else may write to the table from here to the commit (readers may go on): two merges would both insert a key that neither sees.

    Args:
        session: The load's transaction.
        target: The table's quoted name.
        stagings: Where the file's rows are, at least one, all with the same columns.
        dataset: Knows the SQL.
        key: Columns that tell one row from another.

    Raises:
        LoadFailed: The file holds a key more than once: nobody can say which row is right.
    """
    rows = stagings[0].rows
    if len(stagings) > 1:
        rows = identifier("pg_temp", f"ferry_all_{next(_numbers)}")
        together = " UNION ALL ".join(f"SELECT * FROM {one.rows}" for one in stagings)  # noqa: S608 - quoted
        session.execute(f"CREATE TEMPORARY VIEW {rows} AS {together}")
    for one in stagings:
        one.analyze()
    _check_key(session, rows, key)
    session.execute(f"LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE")
    for statement in dataset.merge_statements(stagings[0].names, rows):
        session.execute(statement)


def _check_key(session: Session, rows: str, key: Sequence[str]) -> None:
    names = ", ".join(identifier(name) for name in key)
    grouped = f"SELECT count(*) AS n FROM {rows} GROUP BY {names} HAVING count(*) > 1"  # noqa: S608 - quoted
    keys, several = session.fetch(f"SELECT count(*), coalesce(sum(n), 0)::bigint FROM ({grouped}) AS q")[0]  # noqa: S608 - quoted
    if keys:
        raise LoadFailed(
            f"{session.what}: the rows hold {keys:,} key{'s' if keys > 1 else ''} ({', '.join(key)}) more than once, in {several:,} rows, and a merge takes one row for each; "
            "nothing of it was committed"
        )
