"""`ferry serve`: Prefect's server, the deployments and a worker on one machine, up together and down together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.addresses import is_loopback
from engine.errors import ConfigurationError, ConnectionFailed, ProcessingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_SECONDS = 120.0
STOP_SECONDS = 45.0  # a worker gives its flow runs half a minute to end
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Serving:
    """Prefect as it runs here. `ui_url` is for a browser, `api_url` what `PREFECT_API_URL` should be."""

    host: str
    port: int
    worker: subprocess.Popen[bytes]
    server: subprocess.Popen[bytes]

    @property
    def ui_url(self) -> str:
        """For a browser."""
        return f"http://{self.host}:{self.port}"

    @property
    def api_url(self) -> str:
        """For clients and workers."""
        return f"{self.ui_url}/api"

    def wait(self) -> None:
        """Wait until a signal comes.

        Raises:
            ProcessingError: Server or worker ended by itself.
        """
        while True:
            time.sleep(POLL_SECONDS)
            for name, process in (("server", self.server), ("worker", self.worker)):
                if process.poll() is not None:
                    raise ProcessingError(f"the Prefect {name} ended by itself (exit code {process.returncode}); the other was stopped")


@contextlib.contextmanager
def serve(*, host: str, port: int, limit: int | None = None, environment: Mapping[str, str] | None = None, log: int | None = None) -> Iterator[Serving]:
    """Start the server, deploy, start a worker; leaving the block stops both, the worker first.

    Args:
        host: The address to listen on.
        port: The port.
        limit: The most flow runs at once.
        environment: What the processes see beside this process's own environment.
        log: A file descriptor for their output; None leaves it on this process's own.

    Raises:
        ConfigurationError: The port is taken, or other machines would be served without asking them for an auth string.
        ConnectionFailed: The server did not start.
    """
    seen = _environment(host, port, environment or {})
    if not is_loopback(host) and "PREFECT_SERVER_API_AUTH_STRING" not in seen:
        raise ConfigurationError(f"--host {host} serves other machines: set PREFECT_SERVER_API_AUTH_STRING to a user:password first")
    _check_port(host, port)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_running(["server", "start", "--host", host, "--port", str(port)], seen, log))
        _wait_for_server(f"http://{host}:{port}/api/health", server)
        if subprocess.run([sys.executable, "-m", "flows.deploy"], env=seen, check=False, stdout=subprocess.DEVNULL, stderr=log).returncode:
            raise ProcessingError("the deployments could not be made; the output above, or the log, says why")
        limited = ["--limit", str(limit)] if limit else []
        worker = stack.enter_context(_running(["worker", "start", "--pool", "default", "--type", "process", *limited], seen, log))
        stack.callback(_stop_flow_runs, worker)
        yield Serving(host, port, worker, server)


def _environment(host: str, port: int, more: Mapping[str, str]) -> dict[str, str]:
    seen = {**os.environ, **more, "PREFECT_API_URL": f"http://{host}:{port}/api"}
    if "PREFECT_SERVER_API_AUTH_STRING" in seen:
        seen.setdefault("PREFECT_API_AUTH_STRING", seen["PREFECT_SERVER_API_AUTH_STRING"])
    seen.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")  # on one machine, asking costs nothing, and a run begins sooner
    return seen


def _check_port(host: str, port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, or --host") from None


def _wait_for_server(url: str, process: subprocess.Popen[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code in {200, 401}:  # 401: it asks for its auth string
                return
        time.sleep(POLL_SECONDS)
    raise ConnectionFailed("the Prefect server did not start; its own output says why")


@contextlib.contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str], log: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """One of Prefect's processes, in a session of its own: a terminal's Ctrl-C is ours to pass on, in order."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "--no-prompt", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop_flow_runs(worker: subprocess.Popen[bytes]) -> None:
    """Let the flow runs clean up and end their records: a worker that is told to stop kills them (SIGKILL)."""
    import psutil

    deadline = time.monotonic() + STOP_SECONDS
    asked: set[int] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(worker.pid)
        while (children := parent.children(recursive=True)) and time.monotonic() < deadline:
            for child in children:  # again and again: the worker may start another one meanwhile
                if child.pid not in asked:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.terminate()
                    asked.add(child.pid)
            psutil.wait_procs(children, timeout=POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
