"""What is cast and ingested is what PostgreSQL itself would have stored, or is refused by a rule: nothing changes silently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.postgres.casting import caster
from engine.postgres.columns import Column
from tests.effort import spread
from tests.postgres.cases import CASES, TYPES_OF_OURS, Case
from tests.postgres.loading import difference, load, query
from tests.postgres.test_types import create_tables, read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def matrix(module_database: str) -> str:
    """The export's type matrix: `t0`, `t1` … with values that every format holds, `r0` … with those that only text holds."""
    create_tables(module_database, CASES, TYPES_OF_OURS)
    return module_database


def numbered() -> list[Any]:
    return [pytest.param(i, case, id=case.id) for i, case in enumerate(CASES)]


def copy_of(database: str, i: int, case: Case) -> str:
    query(database, f"DROP TABLE IF EXISTS loaded{i}; CREATE TABLE loaded{i} (v {case.sql_type})")
    return f"loaded{i}"


@pytest.mark.parametrize(("i", "case"), spread(numbered(), 3))
def test_what_a_csv_export_writes_loads_back_exactly(matrix: str, i: int, case: Case) -> None:
    original = f"(SELECT v FROM t{i} UNION ALL SELECT v FROM r{i}) AS o" if case.sql_type not in {"json", "xml", "point"} else f"t{i}"
    text = read(matrix, f"SELECT v FROM t{i} UNION ALL SELECT v FROM r{i}", "text")["v"].combine_chunks().cast(pa.string())
    copy = copy_of(matrix, i, case)
    assert not any(load(matrix, copy, text))
    assert difference(matrix, original, copy) == []


@pytest.mark.parametrize(("i", "case"), spread(numbered(), 3))
def test_what_a_parquet_export_writes_loads_back_exactly(matrix: str, i: int, case: Case, tmp_path: Path) -> None:
    parquet.write_table(read(matrix, f"SELECT v FROM t{i}"), tmp_path / "x.parquet")
    copy = copy_of(matrix, i, case)
    assert not any(load(matrix, copy, parquet.read_table(tmp_path / "x.parquet")["v"].combine_chunks()))
    assert difference(matrix, f"t{i}", copy) == []


@pytest.mark.parametrize(("i", "case"), [p for p in numbered() if p.values[1].refused])
def test_what_a_parquet_export_writes_as_text_loads_back_exactly(matrix: str, i: int, case: Case) -> None:
    text = read(matrix, f"SELECT v FROM t{i} UNION ALL SELECT v FROM r{i}", unrepresentable="v=text")["v"].combine_chunks()
    copy = copy_of(matrix, i, case)
    assert not any(load(matrix, copy, text))
    assert difference(matrix, f"(SELECT v FROM t{i} UNION ALL SELECT v FROM r{i}) AS o", copy) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5e2", "150.00"), ("1E-2", "0.01"), ("0E-679504100", None), ("5e-999999999", None), ("1e400", None), ("1." + "0" * 40 + "E-1", None), ("see", None)],
)
def test_exponents_are_read_exactly_or_refused(text: str, value: str | None) -> None:
    cast = caster(Column("dose", "numeric(10,2)"), pa.string()).cast(pa.array([text, "1"]))
    assert [str(one) for one in cast.values.to_pylist()] == [str(value), "1.00"]
    assert (cast.rules is None) is (value is not None)
