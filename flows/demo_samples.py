"""The sample connectors of `data/connectors`, with the demo's own servers at both of their ends."""

from __future__ import annotations

import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine import embedded
    from engine.control.exchange import Document
    from engine.results import RunResult

SECRETS = ("TRUENAS_PASSWORD", "UPLOAD_TOKEN", "UPLOAD_KEY", "UPLOAD_PASSWORD")
FILES = {
    "patients.csv": "pseudonym,born\n1f3a,1980-01-01\n",
    "labs.csv": "analyte,value\nCRP,3.1\n" * 50_000,
    "2024/cultures.csv": "analyte,value\n",
    "empty.csv": "",
}
ANALYSES = "analyte,value\n" + "CRP,3.1\n" * 50_000 + "CRP,see report\n"  # one row of them is no number


@dataclass(frozen=True, slots=True)
class Places:
    """Where the demo's servers are."""

    folder: Path
    s3: embedded.S3
    bucket: str
    sftp: embedded.SFTP
    rest: str
    run: str = field(default_factory=lambda: secrets.token_hex(4))  # each demo has folders of its own

    def environment(self) -> dict[str, str]:
        """What the samples' references stand for."""
        archive = {"ARCHIVE_ACCESS_KEY": self.s3.access_key, "ARCHIVE_SECRET_KEY": self.s3.secret_key}
        return {**archive, **dict.fromkeys(SECRETS, "not-a-secret"), "TRUENAS_PASSWORD": self.sftp.password}

    def config(self, kind: str, sample: str, role: str) -> dict[str, Any]:
        """Keys that lead to a place of this sample's own."""
        own = f"samples-{self.run}/{sample}/{role}"
        if kind == registry.S3:
            return {"bucket": self.bucket, "path": own, "prefix": None, "endpoint_url": self.s3.endpoint_url}
        if kind == registry.SFTP:
            return {**self.sftp.options(), "password": "env:TRUENAS_PASSWORD", "path": f"/{own}", "pkey_path": None}
        if kind == registry.REST:
            return {"url": f"{self.rest}/{{name}}"}
        return {"path": str(self.folder / own), "require_mount": None} if kind == registry.FOLDER else {}


def data_folder() -> Path:
    """`data/`: beside the packages in a checkout, inside the engine's in a wheel.

    Raises:
        ConfigurationError: It is in neither.
    """
    root = Path(__file__).parent.parent
    for place in (root / "data", root / "engine" / "data"):
        if (place / "demo").is_dir():
            return place
    raise ConfigurationError("data/ is missing from this installation")


def documents(places: Places) -> dict[str, Document]:
    """All samples by name, as `ferry connectors import` takes them."""
    return {file.stem: _adapted(file.read_text(encoding="utf-8"), file.stem, places) for file in sorted((data_folder() / "connectors").glob("*.yaml"))}


def _adapted(text: str, sample: str, places: Places) -> Document:
    from engine.control import exchange

    document = exchange.parse(text)
    for role, entries in (("source", document.sources), ("destination", document.destinations)):
        for entry in entries:
            base = dict(entry.config or {})
            together = {**base, **places.config(registry.kind_of(entry.type or "", base), sample, role)}
            entry.config = {key: value for key, value in together.items() if value is not None}
    for connector in document.connectors:
        for override in (connector.source_override, connector.destination_override):
            if override is not None:
                override.pop("min_age", None)  # the files are as new as the demo
    return document


def run(samples: dict[str, Document]) -> dict[str, RunResult]:
    """Put files where a sample takes them from, and run it: in this process, as `ferry run` does."""
    import engine
    from engine.control import exchange
    from engine.control.database import ControlDatabase

    results = {}
    for name, document in samples.items():
        with ControlDatabase() as control:
            exchange.apply(control, document)
        source, destination, connector = document.sources[0], document.destinations[0], document.connectors[0]
        if registry.kind_of(source.type or "", source.config or {}) != registry.POSTGRES:
            is_load = registry.kind_of(destination.type or "", destination.config or {}) == registry.POSTGRES
            _fill(source.type or "", source.config or {}, _loadable if is_load else _any_files)
        assert connector.id is not None  # noqa: S101 - each sample says it
        results[name] = engine.run_connector(connector.id)
    return results


def _any_files(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def _loadable(folder: Path) -> None:
    """Files whose rows a table can take."""
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "labs.csv").write_text(ANALYSES)
    parquet.write_table(pa.table({"analyte": ["CRP"] * 50_000, "value": pa.array([3.1] * 50_000).cast(pa.decimal128(12, 3))}), folder / "labs.parquet")


def _fill(kind: str, config: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Files where a sample takes them from, by the way that all files go."""
    from engine import jobs

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        jobs.transfer_job("filesystem", {"path": folder, "file_pattern": "**/*"}, kind, config).run()
