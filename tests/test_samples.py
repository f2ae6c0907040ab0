"""The sample connectors of `data/connectors` are valid, and do what their comments say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow.parquet as pq
import pytest

import engine
from engine import checking, registry
from engine.control import exchange, tables
from engine.control.database import ControlDatabase
from engine.errors import ResourceError

if TYPE_CHECKING:
    from engine import embedded

FOLDER = Path(__file__).parents[1] / "data/connectors"
SAMPLES = sorted(FOLDER.glob("*.yaml"))
ROWS = 1000
KEYS = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "TRUENAS_PASSWORD", "UPLOAD_TOKEN", "UPLOAD_KEY", "UPLOAD_PASSWORD")


@pytest.fixture
def control(database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty control database, which is the source as well: with the tables that the samples read."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("SOURCE_URL", database)
    monkeypatch.setenv("WAREHOUSE_URL", database)
    with psycopg.connect(database) as connection:
        connection.execute(f"""
            CREATE TABLE lab_results AS SELECT i AS result_id, i % 7 AS encounter_id, 'CRP' AS analyte, (i / 8.0)::numeric(9, 3) AS value,
                i / 7.0::float8 AS raw_signal, CASE WHEN i = 1 THEN 'infinity' ELSE timestamptz '2024-01-01 00:00+00' END AS taken_at
            FROM generate_series(1, {ROWS}) i""")
        connection.execute(f"""
            CREATE TABLE patients AS SELECT i AS patient_id, md5(i::text)::uuid AS pseudonym, 'other' AS sex, date '2000-01-01' AS born
            FROM generate_series(1, {ROWS}) i""")
    with ControlDatabase() as opened:
        tables.init(opened, registry.TYPE_CODES)
        yield opened


def imported(control: ControlDatabase, sample: str, **config: str) -> int:
    """Import a sample whose destination has these values instead; returns the id of its connector."""
    document = exchange.parse((FOLDER / f"{sample}.yaml").read_text(encoding="utf-8"))
    destination = document.destinations[0]
    assert destination.config is not None
    destination.config.update(config)
    exchange.apply(control, document)
    connector_id = document.connectors[0].id
    assert connector_id is not None
    return connector_id


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: one.stem)
def test_each_sample_begins_with_what_it_does_and_is_a_connector_that_can_run(sample: Path, control: ControlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    text = sample.read_text(encoding="utf-8")
    assert text.startswith("# ")
    for variable in ("ARCHIVE_ACCESS_KEY", "ARCHIVE_SECRET_KEY", *KEYS):
        monkeypatch.setenv(variable, "given")
    document = exchange.parse(text)
    assert exchange.apply(control, document)
    assert exchange.compare(control, document) == []
    (connector,) = document.connectors
    assert connector.id is not None
    checked = checking.check(control, connector.id, offline=True)
    assert checked.problem is None
    assert checked.would.startswith(("would write ", "would copy ", "would move ", "would load "))


def test_samples_can_stand_side_by_side(control: ControlDatabase) -> None:
    for sample in SAMPLES:
        assert all(line.startswith("+ ") for line in exchange.apply(control, exchange.parse(sample.read_text(encoding="utf-8"))))
    assert len(control.query("SELECT id FROM cai_connectors")) == len(SAMPLES)


def test_the_folder_sample_writes_csv(control: ControlDatabase, tmp_path: Path) -> None:
    result = engine.run_connector(imported(control, "database_to_folder_csv", path=str(tmp_path)))
    assert (result.status, result.rows) == ("success", ROWS)
    assert (tmp_path / "lab_results.csv").read_text().splitlines()[0] == "result_id,encounter_id,analyte,value,taken_at"


def test_the_nfs_sample_refuses_a_path_that_is_not_mounted(control: ControlDatabase, tmp_path: Path) -> None:
    connector_id = imported(control, "database_to_nfs_parquet", path=str(tmp_path / "share"))
    with pytest.raises(ResourceError, match=r"not below a mount point.*is the share mounted\?"):
        engine.run_connector(connector_id)
    assert not (tmp_path / "share").exists()
    assert control.query("SELECT status FROM cai_connector_runs") == [{"status": "failed"}]


def test_the_nfs_sample_writes_numbered_files_where_no_mount_is_asked_for(control: ControlDatabase, tmp_path: Path) -> None:
    connector_id = imported(control, "database_to_nfs_parquet", path=str(tmp_path))
    control.query("UPDATE cai_connectors SET destination_config_override = '{\"require_mount\": false}'")
    control.query("UPDATE cai_connectors SET source_config_override = source_config_override || '{\"max_file_rows\": 400}'")
    # lab_results.taken_at holds an infinity, which this sample does not expect
    control.query("UPDATE lab_results SET taken_at = NULL WHERE taken_at = 'infinity'")
    assert engine.run_connector(connector_id).rows == ROWS
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.iterdir())] == [400, 400, 200]


def test_the_minio_sample_takes_address_and_keys_from_the_environment(
    control: ControlDatabase, s3_server: embedded.S3, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_ENDPOINT", s3_server.endpoint_url)
    monkeypatch.setenv("MINIO_ACCESS_KEY", s3_server.access_key)
    monkeypatch.setenv("MINIO_SECRET_KEY", s3_server.secret_key)
    result = engine.run_connector(imported(control, "database_to_minio_csv", bucket=bucket))
    assert (result.status, result.rows) == ("success", ROWS)
    assert s3_client.get_object(Bucket=bucket, Key="processed/patients.csv")["Body"].read().startswith(b"pseudonym,sex,born\n")


def test_the_parquet_sample_decides_about_its_columns(
    control: ControlDatabase, s3_server: embedded.S3, s3_client: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_ACCESS_KEY", s3_server.access_key)
    monkeypatch.setenv("ARCHIVE_SECRET_KEY", s3_server.secret_key)
    result = engine.run_connector(imported(control, "database_to_s3_parquet", bucket=bucket, endpoint_url=s3_server.endpoint_url))
    assert (result.status, result.rows) == ("success", ROWS)
    s3_client.download_file(bucket, "lab/measurements.parquet", str(tmp_path / "m.parquet"))
    table = pq.read_table(tmp_path / "m.parquet")
    assert {name: str(table.schema.field(name).type) for name in ("value", "raw_signal", "taken_at")} == {
        "value": "decimal128(12, 3)",
        "raw_signal": "string",
        "taken_at": "string",
    }
    assert table["taken_at"][0].as_py() == "infinity"


def test_the_loading_samples_load(control: ControlDatabase, s3_server: embedded.S3, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_ACCESS_KEY", s3_server.access_key)
    monkeypatch.setenv("MINIO_SECRET_KEY", s3_server.secret_key)
    lines = "analyte,value\n" + "CRP,3.1\n" * 200 + "CRP,see report\n"
    s3_client.put_object(Bucket=bucket, Key="analyses/labs.csv", Body=lines.encode())
    connector_id = imported(control, "s3_to_database_csv")
    control.query("UPDATE cai_connectors SET source_config_override = %s", (f'{{"bucket": "{bucket}", "endpoint_url": "{s3_server.endpoint_url}"}}',))
    assert engine.run_connector(connector_id).rows == 200
    assert control.query("SELECT count(*) AS n FROM analyses__rejected") == [{"n": 1}]
    assert [file.state for file in engine.run_connector(connector_id).files] == ["already delivered"]
    assert control.query("SELECT status, rows_ingested FROM cai_connector_runs ORDER BY id") == [
        {"status": "success", "rows_ingested": 200},
        {"status": "success", "rows_ingested": 0},
    ]


def test_the_parquet_load_replaces_its_table(control: ControlDatabase, tmp_path: Path) -> None:
    connector_id = imported(control, "folder_to_database_parquet")
    control.query("UPDATE cai_connectors SET source_config_override = %s", (f'{{"path": "{tmp_path}"}}',))
    for count in (10, 20):
        engine.export(f"SELECT * FROM lab_results WHERE result_id BETWEEN 2 AND {count + 1}", tmp_path / "labs.parquet", database=os.environ["WAREHOUSE_URL"])
        assert engine.run_connector(connector_id).rows == count
        assert control.query("SELECT count(*) AS n FROM lab_extracts") == [{"n": count}]


def test_the_copying_sample_updates_what_it_knows_and_inserts_what_is_new(control: ControlDatabase) -> None:
    connector_id = imported(control, "database_to_database")
    assert engine.run_connector(connector_id).rows == 7
    control.query("INSERT INTO lab_results SELECT 9999, 99, 'CRP', 1, 1, 'infinity'")
    control.query("UPDATE lab_results SET value = 999 WHERE result_id = 7")
    assert engine.run_connector(connector_id).rows == 8
    assert control.query("SELECT count(*) AS n, sum(results)::int AS results, max(highest)::text AS highest FROM encounter_summary") == [
        {"n": 8, "results": ROWS + 1, "highest": "999.000"}
    ]
    assert control.query("SELECT count(*) AS n FROM encounter_summary WHERE last_taken_at = 'infinity'") == [{"n": 2}]
