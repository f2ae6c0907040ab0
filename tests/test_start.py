"""What must stay light: an import of the package, and the help, load no heavy library."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("pyarrow", "boto3", "psycopg", "adbc_driver_manager", "sqlglot", "pandas", "polars", "prefect", "pydantic", "rich", "yaml")


@pytest.mark.parametrize("code", ["import engine", "import engine.cli"])
def test_heavy_libraries_load_when_used(code: str) -> None:
    script = f"import sys; {code}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_export_to_a_folder_loads_neither_boto3_nor_pandas() -> None:
    script = f"import sys, engine.jobs, engine.postgres.source, engine.stores.local, engine.formats.csv; print(sorted({{'boto3', 'pandas', 'polars', 'prefect', 'sqlglot'}} & set(sys.modules)), {HEAVY!r}[:0])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[] ()"
