"""The calls that the README gives to a backend, run as they stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.flows.conftest import Control, Prefect

pytestmark = [pytest.mark.xdist_group("flows"), pytest.mark.timeout(240), pytest.mark.system]
README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("worker")
def test_the_three_calls_of_a_backend(prefect: Prefect, control: Control) -> None:
    block = re.search(r"<!-- runs in tests/flows/test_readme.py -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block
    connector = control.connector("readme", "SELECT 1 AS a")
    calls = block[1].replace('"connector_id": 7', f'"connector_id": {connector}') + '\necho "$RUN"'
    ran = subprocess.run(["bash", "-euc", calls], env=prefect.environment, capture_output=True, text=True, check=True, timeout=60)
    state, flow_run = ran.stdout.split()
    assert state in {"SCHEDULED", "PENDING", "RUNNING", "COMPLETED"}
    assert prefect.wait(flow_run)["state_type"] == "COMPLETED"
    again = subprocess.run(["bash", "-euc", calls], env=prefect.environment, capture_output=True, text=True, check=True, timeout=60)
    assert again.stdout.split() == ["COMPLETED", flow_run]
    assert control.records(connector)[0][4] == flow_run
