"""DuckDB with its extensions for PostgreSQL and S3, in an environment of its own in `.bench/`; it runs there, so it imports nothing of ours.

    python -m benchmarks.duckdb_way            # makes the environment, prints its Python
    .bench/duckdb/bin/python benchmarks/duckdb_way.py load FILE TABLE

    .bench/duckdb/bin/python benchmarks/duckdb_way.py export QUERY TARGET

The database is `TARGET_DATABASE` (of `load`) or `FERRY_DATABASE` (of `export`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".bench" / "duckdb"


def python() -> Path | None:
    """The Python of the environment, made now if it is not there; None where the extension's wheel cannot be had."""
    found = ENVIRONMENT / "bin" / "python"
    ready = ENVIRONMENT / ".ready"
    if ready.exists():
        return found
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    make = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(ENVIRONMENT)] if uv else [sys.executable, "-m", "venv", str(ENVIRONMENT)]
    install = [uv, "pip", "install", "--quiet", "--python", str(found)] if uv else [str(found), "-m", "pip", "install", "--quiet"]
    for command in (make, [*install, "-r", str(ROOT / "benchmarks" / "duckdb.txt")]):
        if subprocess.run(command, check=False).returncode:
            return None
    ready.touch()
    return found


def load(path: str, table: str) -> None:
    """INSERT … SELECT from the file, through the extension's COPY."""
    connection = _attached("TARGET_DATABASE")
    reader = "read_parquet(?)" if path.endswith(".parquet") else "read_csv(?, header = true)"
    connection.execute(f"INSERT INTO pg.public.{table} SELECT * FROM {reader}", [path])


def export(query: str, target: str) -> None:
    """COPY of a scan of PostgreSQL, which it splits by pages itself, in the order of the table as ours is."""
    connection = _attached("FERRY_DATABASE")
    form = "FORMAT parquet, COMPRESSION zstd" if target.endswith(".parquet") else "FORMAT csv, HEADER"
    if target.startswith("s3://"):
        _s3(connection)
    connection.execute("USE pg")
    connection.execute(f"COPY ({query}) TO '{target}' ({form})")


def _s3(connection) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - see _attached
    import duckdb_extension_httpfs as extension  # type: ignore[import-not-found]  # see _attached

    _load(connection, extension)
    address = os.environ["MINIO_ENDPOINT"]
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{os.environ['MINIO_ACCESS_KEY']}', SECRET '{os.environ['MINIO_SECRET_KEY']}', "
        f"ENDPOINT '{address.partition('://')[2]}', URL_STYLE path, USE_SSL {str(address.startswith('https')).lower()})"
    )


def _load(connection, extension) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - see _attached
    (binary,) = Path(extension.__file__).parent.rglob("*.duckdb_extension")
    connection.execute(f"LOAD '{binary}'")


def _attached(variable: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - duckdb is there only in its own environment
    import duckdb
    import duckdb_extension_postgres_scanner as extension  # type: ignore[import-not-found]  # see above

    connection = duckdb.connect(config={"allow_unsigned_extensions": True})
    _load(connection, extension)
    connection.execute(f"ATTACH '{os.environ[variable]}' AS pg (TYPE postgres)")
    return connection


if __name__ == "__main__":
    if sys.argv[1:]:
        {"load": load, "export": export}[sys.argv[1]](*sys.argv[2:])
    else:
        print(python())
