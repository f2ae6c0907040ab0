"""`ferry demo`: real servers, a synthetic study, two exports, connectors run by a Prefect worker, a summary, and nothing left running."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import ConnectionFailed, Interrupted
from flows import TELEMETRY_OFF
from flows.demo_samples import Places, data_folder

if TYPE_CHECKING:
    import httpx

    from engine import embedded
    from engine.results import RunResult

HELP = """Fill an embedded PostgreSQL with a synthetic clinical study; export it as CSV to data/out/ and as Parquet to an embedded S3 server;
make a control database with connectors; run the sample connectors of data/connectors/ between a folder, S3, SFTP and a REST endpoint;
then have a Prefect worker run three more.

Everything else stays in .demo/; a second run finds the study there and takes seconds.
"""
BUCKET = "ferry-demo"
PREFECT_PORT = 4200
ATTEMPTS = 10
BY_THE_API = (1, 2, 3)
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
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
    from flows.demo_receiver import receiver
    from flows.serve import serve

    folder, output = folder.absolute(), output.absolute()
    with contextlib.ExitStack() as servers:
        say("starting PostgreSQL, an S3 server, an SFTP server and a REST endpoint …")
        postgres = servers.enter_context(embedded.postgres(folder / "postgres"))
        s3 = servers.enter_context(embedded.s3(folder / "s3"))
        s3.create_bucket(BUCKET)
        sftp = servers.enter_context(embedded.sftp(folder / "sftp"))
        rest = servers.enter_context(receiver(folder / "rest"))
        database = fill(postgres)
        csv = export(database, str(output / "lab_results.csv"), {})
        parquet = export(database, f"s3://{BUCKET}/lab_results.parquet", s3.options())
        environment = {**platform_environment(postgres, database, s3), **TELEMETRY_OFF, "PREFECT_HOME": str(folder / "prefect")}
        store_connectors(environment["DATABASE_URL"], output)
        samples = run_samples(environment, Places(folder / "files", s3, BUCKET, sftp, rest))
        say("starting a Prefect server and a worker …")
        shutil.rmtree(folder / "prefect", ignore_errors=True)  # what was scheduled while nobody served would run first, for minutes
        log = servers.enter_context((folder / "prefect.log").open("wb"))
        prefect = servers.enter_context(serve(host="127.0.0.1", port=free_port(), environment=environment, log=log.fileno()))
        records = run_connectors(prefect.api_url, environment["DATABASE_URL"])
        if as_json:
            told = {"csv": csv.to_dict(), "parquet": parquet.to_dict(), "peak_memory_bytes": peak_memory(), "runs": records}
            told["samples"] = {name: result.to_dict() for name, result in samples.items()}
            typer.echo(json.dumps(told, ensure_ascii=False, default=str))
        else:
            show([csv, parquet], samples, records)
        if keep:
            wait_for_interrupt({**environment, "FERRY_DATABASE": database, "PREFECT_API_URL": prefect.api_url}, prefect.ui_url)
    if not as_json:
        say("the servers are stopped; `ferry demo --keep` leaves them up to try more")


def platform_environment(postgres: embedded.Postgres, study: str, s3: embedded.S3) -> dict[str, str]:
    """What a worker is told, and nothing else: where the control database is, and what the connectors' references stand for."""
    keys = {"MINIO_ENDPOINT": s3.endpoint_url, "MINIO_ACCESS_KEY": s3.access_key, "MINIO_SECRET_KEY": s3.secret_key}
    return {"DATABASE_URL": postgres.url_of("control"), "STUDY_URL": study, **keys}


def run_samples(environment: dict[str, str], places: Places) -> dict[str, RunResult]:
    """The sample connectors, with the environment that their comments ask for."""
    from flows import demo_samples

    os.environ.update({**environment, **places.environment(), "SOURCE_URL": environment["STUDY_URL"], "WAREHOUSE_URL": environment["STUDY_URL"]})
    say("running the sample connectors of data/connectors …")
    return demo_samples.run(demo_samples.documents(places))


def free_port() -> int:
    """Prefect's own port if nobody has it, so that `--keep` can be found where people look."""
    import socket

    from engine import embedded

    with socket.socket() as probe:
        return PREFECT_PORT if probe.connect_ex(("127.0.0.1", PREFECT_PORT)) else embedded.free_ports(1)[0]


def store_connectors(url: str, output: Path) -> None:
    """The control database with the sample connectors, made new: a demo's history begins with the demo."""
    import psycopg

    from engine import registry
    from engine.control import exchange, tables
    from engine.control.database import ControlDatabase

    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    with ControlDatabase(url) as control:
        tables.init(control, registry.TYPE_CODES)
        exchange.apply(control, exchange.parse((data_folder() / "demo/connectors.yaml").read_text(encoding="utf-8").replace("OUTPUT", str(output))))


def run_connectors(api: str, database: str) -> list[dict[str, Any]]:
    """Trigger each connector as a platform does, wait for the runs, and read their records."""
    import httpx

    from engine.control import runs
    from engine.control.connectors import list_connectors
    from engine.control.database import ControlDatabase

    with ControlDatabase(database) as control, httpx.Client(base_url=api, timeout=60) as http:
        deployment = asked(http, "GET", "/deployments/name/run_connector_pipeline/default")["id"]
        triggered: set[str] = set()
        demo_run = secrets.token_hex(8)
        for connector in (one for one in list_connectors(control) if one["id"] in BY_THE_API):
            say(f"the API is asked to run connector {connector['id']}: {connector['name']} …")
            triggered.add(
                asked(
                    http,
                    "POST",
                    f"/deployments/{deployment}/create_flow_run",
                    json={"parameters": {"connector_id": connector["id"]}, "idempotency_key": f"{demo_run}-{connector['id']}"},
                )["id"]
            )
        waiting = set(triggered)
        while waiting:
            time.sleep(0.2)
            waiting -= {one for one in waiting if asked(http, "GET", f"/flow_runs/{one}")["state_type"] in FINAL}
        return [run for run in runs.list_runs(control, limit=100)[::-1] if run["prefect_flow_run_id"] in triggered]


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
        connection.execute((data_folder() / "demo/study.sql").read_bytes())
    say(f"made in {time.monotonic() - started:.0f} s")
    return url


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


def asked(http: httpx.Client, method: str, path: str, **more: Any) -> Any:
    """What the API answers; a 503 (its SQLite file is busy), or no answer, is asked again."""
    import httpx

    for _ in range(ATTEMPTS):
        try:
            answer = http.request(method, path, **more)
        except httpx.ReadTimeout:
            continue
        if answer.status_code != 503:  # noqa: PLR2004 - HTTP
            return answer.raise_for_status().json()
        time.sleep(1)
    raise ConnectionFailed("the demo's Prefect server does not answer; see .demo/prefect.log")


def show(results: list[RunResult], samples: dict[str, RunResult], records: list[dict[str, Any]]) -> None:
    """The summary tables, and what to try next."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from engine.cli.runs import runs_table
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
    console.print("\nsample connectors (data/connectors):", highlight=False)
    for name, result in samples.items():
        console.print(f"  {name:<26} {result.headline}", highlight=False, soft_wrap=True)
    console.print("\nrun records of the connectors that the API ran, as the platform finds them:", highlight=False)
    console.print(runs_table(records, console.width))
    console.print("try next (with the addresses that [bold]ferry demo --keep[/bold] prints):", highlight=False)
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
        "ferry connectors show 2",
        "ferry run 3",
        "ferry runs",
    ]


def wait_for_interrupt(environment: dict[str, str], ui_url: str) -> None:
    """Print how to reach the servers, then wait; Ctrl-C stops them."""
    shown = ("FERRY_DATABASE", "DATABASE_URL", "STUDY_URL", "PREFECT_API_URL", "MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
    lines = [
        "",
        f"Prefect's UI: {ui_url}",
        "the servers are up until Ctrl-C; in another terminal:",
        *(f"  export {name}={environment[name]}" for name in shown),
        *(f"  {line}" for line in next_commands()),
    ]
    typer.echo("\n".join(lines))
    with contextlib.suppress(Interrupted):
        while True:
            time.sleep(1)


def say(text: str) -> None:
    """A line about what happens, beside the results."""
    sys.stderr.write(f"{text}\n")
