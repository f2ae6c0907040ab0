"""What a person sees: Prefect's own page of a run, in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.flows.conftest import Control, Prefect, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.timeout(240), pytest.mark.system]
# Nothing but the page: a browser's own services would ask for hosts elsewhere.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1100",
    "--virtual-time-budget=20000",
)


def browse(url: str, folder: Path, option: str) -> str:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.fail("no Chromium on this system (Debian: chromium)")
    command = [browser, *OPTIONS, f"--user-data-dir={folder / 'profile'}", option, url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.usefixtures("worker")
def test_the_page_of_a_run_shows_its_state_its_tag_its_log_and_its_artifacts(prefect: Prefect, control: Control, tmp_path: Path) -> None:
    connector = control.connector("seen", "SELECT i FROM generate_series(1, 1234) i")
    flow_run = prefect.trigger(connector, name="seen-by-a-person")
    assert prefect.wait(flow_run)["state_type"] == "COMPLETED"
    until(lambda: any("status=success" in log["message"] for log in prefect.logs(flow_run)))
    until(lambda: len(prefect.artifacts(flow_run)) == 2)
    page = f"{prefect.url.removesuffix('/api')}/runs/flow-run/{flow_run}"
    shown = browse(page, tmp_path, "--dump-dom")
    for text in ("seen-by-a-person", "Completed", f"connector:{connector}", "run_connector_pipeline", "rows=1234", "4 Task runs"):
        assert text in shown, text
    artifacts = {artifact["type"]: artifact["id"] for artifact in prefect.artifacts(flow_run)}
    for kind, texts in {"progress": ("1,234 rows", "100%"), "table": (f"{control.folder}/seen.csv", "SHA-256", "1234")}.items():
        shown = browse(f"{prefect.url.removesuffix('/api')}/artifacts/artifact/{artifacts[kind]}", tmp_path, "--dump-dom")
        for text in ("seen-by-a-person", *texts):
            assert text in shown, text
    browse(page, tmp_path, f"--screenshot={tmp_path / 'run.png'}")
    picture = (tmp_path / "run.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 50_000  # an empty page of this size has some ten thousand bytes
