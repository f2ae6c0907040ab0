"""`ferry demo`: real servers, a synthetic study, two exports, a summary, and nothing left running."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import ConfigurationError, Interrupted

if TYPE_CHECKING:
    from engine import embedded
    from engine.results import RunResult

HELP = """Fill an embedded PostgreSQL with a synthetic clinical study; export it as CSV to data/out/ and as Parquet to an embedded S3 server.

Everything else stays in .demo/; a second run finds the study there and takes seconds.
"""
BUCKET = "ferry-demo"
JOIN = """
SELECT p.pseudonym, p.record_number, p.display_name, p.sex, p.born, p.remark,
       e.kind, e.admitted_at, e.stay, e.location,
       l.result_id, l.analyte, l.value, l.raw_signal, l.taken_at, l.abnormal, l.device, l.comment
FROM lab_results l JOIN encounters e USING (encounter_id) JOIN patients p USING (patient_id)
ORDER BY l.result_id
"""


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers up until Ctrl-C, and print their addresses.")] = False,  # noqa: FBT002 - typer's form
    folder: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path(".demo"),
    output: Annotated[Path, typer.Option(help="Where the CSV goes.")] = Path("data/out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """The command; its help text is HELP."""
    from engine import embedded

    with contextlib.ExitStack() as servers:
        say("starting PostgreSQL and an S3 server …")
        postgres = servers.enter_context(embedded.postgres(folder / "postgres"))
        s3 = servers.enter_context(embedded.s3(folder / "s3"))
        s3.create_bucket(BUCKET)
        database = fill(postgres)
        csv = export(database, str(output / "lab_results.csv"), {})
        parquet = export(database, f"s3://{BUCKET}/lab_results.parquet", s3.options())
        if as_json:
            typer.echo(json.dumps({"csv": csv.to_dict(), "parquet": parquet.to_dict(), "peak_memory_bytes": peak_memory()}, ensure_ascii=False))
        else:
            show([csv, parquet])
        if keep:
            wait_for_interrupt(database, s3)
    if not as_json:
        say("the servers are stopped; `ferry demo --keep` leaves them up to try more")


def fill(server: embedded.Postgres) -> str:
    """The URL of a database that holds the study, made now if it is not there."""
    import psycopg

    url = server.url_of("study")
    with psycopg.connect(server.url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'study'").fetchone():
            with psycopg.connect(url) as study:
                if study.execute("SELECT to_regclass('study_complete')").fetchone() != (None,):
                    return url
            connection.execute("DROP DATABASE study")
        connection.execute("CREATE DATABASE study")
    say("making the study: 20,000 patients, 200,000 encounters, 1,200,000 laboratory results …")
    started = time.monotonic()
    with psycopg.connect(url) as connection:
        connection.execute(study_sql())
    say(f"made in {time.monotonic() - started:.0f} s")
    return url


def study_sql() -> bytes:
    """The SQL file: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent.parent
    for place in (package.parent / "data", package / "data"):
        if (place / "demo" / "study.sql").exists():
            return (place / "demo" / "study.sql").read_bytes()
    raise ConfigurationError("data/demo/study.sql is missing from this installation")


def export(database: str, target: str, options: dict[str, Any]) -> RunResult:
    """One export with its progress shown."""
    import engine
    from engine.cli.display import progress

    with progress(label=target.rpartition("/")[2]) as on_progress:
        return engine.export(JOIN, target, database=database, dest_options=options, on_progress=on_progress)


def peak_memory() -> int:
    """Bytes of this process's largest resident set; Linux counts KiB, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def show(results: list[RunResult]) -> None:
    """The summary table, and what to try next."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from engine.results import human_bytes

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("file", "rows", "bytes", "files", "rows/s"):
        table.add_column(column, justify="left" if column == "file" else "right", no_wrap=True)
    for result in results:
        rate = f"{result.rows / result.seconds:,.0f}"
        table.add_row(shortened(result.files[0].path), f"{result.rows:,}", human_bytes(result.bytes), str(len(result.files)), rate)
    console = Console()
    console.print(table)
    for result in results:
        console.print(f"SHA-256 {result.files[0].sha256}  {Path(result.files[0].path).name}", highlight=False, soft_wrap=True)
    console.print(f"peak memory of this process: {human_bytes(peak_memory())}", highlight=False)
    console.print("\ntry next (with the addresses that [bold]ferry demo --keep[/bold] prints):", highlight=False)
    for line in next_commands():
        console.print(f"  {line}", style="bold", highlight=False, soft_wrap=True)


def shortened(path: str) -> str:
    """A path below this folder without it."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def next_commands() -> list[str]:
    """Commands that work while the servers are up."""
    return [
        'ferry export "SELECT * FROM patients" patients.csv',
        'ferry export "TABLE lab_results" lab.parquet --max-file-rows 500000',
        f'ferry export "TABLE encounters" s3://{BUCKET}/encounters.csv.zst',
    ]


def wait_for_interrupt(database: str, s3: embedded.S3) -> None:
    """Print how to reach the servers, then wait; Ctrl-C stops them."""
    lines = [
        "",
        "the servers are up until Ctrl-C; in another terminal:",
        f"  export FERRY_DATABASE={database}",
        f"  export MINIO_ENDPOINT={s3.endpoint_url} MINIO_ACCESS_KEY={s3.access_key} MINIO_SECRET_KEY={s3.secret_key}",
        *(f"  {line}" for line in next_commands()),
    ]
    typer.echo("\n".join(lines))
    with contextlib.suppress(Interrupted):
        while True:
            time.sleep(1)


def say(text: str) -> None:
    """A line about what happens, beside the results."""
    sys.stderr.write(f"{text}\n")
