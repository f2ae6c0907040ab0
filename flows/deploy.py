"""Work pool, deployments and schedules, made so that doing it again changes nothing. `prefect.yaml` says the same declaratively.

Deployments name the flow by its module, so that any machine with the package installed can work. Schedules are cron schedules of the one
deployment, each with its connector's id as parameter.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from engine.errors import ConfigurationError, ConnectionFailed, FerryError, ProcessingError
from flows.connector import run_connector_pipeline
from flows.reap import reap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from prefect import Flow
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

POOL = "default"
QUEUE = "default"
NAME = "default"
DEPLOYMENT = f"{run_connector_pipeline.name}/{NAME}"
REAP_INTERVAL = timedelta(minutes=1)
SUPPORTED_MAJOR = "3."
CRON_FIELDS = 5
# Minutes during which no worker was up are not made up for, one process each. Three, since the slot of a run whose machine died stays taken for minutes.
_FEW_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 3, "concurrency_options": ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)}


@dataclass(frozen=True, slots=True)
class Deployed:
    """What `deploy` found and made."""

    server: str
    version: str
    deployment_id: str
    work_pool: str
    work_queue: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """A connector's cron schedule."""

    connector_id: int
    cron: str
    timezone: str
    active: bool


def deploy() -> Deployed:
    """Make the work pool `default` (process), the deployment `run_connector_pipeline/default` and the one-minute `reap/default`.

    Schedules of connectors stay as they are.

    Raises:
        ConfigurationError: No `PREFECT_API_URL`, a server of another major version, or a pool `default` of another type.
        ConnectionFailed: The server is not reached, or refuses us.
    """
    with _client() as client:
        version = _version(client)
        _make_pool(client)
        deployment_id = _make_deployment(client, run_connector_pipeline, "flows.connector.run_connector_pipeline")
        reap_id = _make_deployment(client, reap, "flows.reap.reap", **_FEW_AT_A_TIME)
        if not client.read_deployment_schedules(reap_id):
            client.create_deployment_schedules(reap_id, [DeploymentScheduleCreate(schedule=IntervalSchedule(interval=REAP_INTERVAL), slug="every-minute")])
        return Deployed(str(PREFECT_API_URL.value()), version, str(deployment_id), POOL, QUEUE)


def schedule(connector_id: int, cron: str, timezone: str = "UTC") -> Schedule:
    """Run a connector by a cron schedule, instead of the one it has.

    Args:
        connector_id: Whose schedule.
        cron: Five fields, as crontab takes them.
        timezone: An IANA name.

    Raises:
        ConfigurationError: No cron expression, no such time zone, or nothing is deployed.
    """
    refusal = ConfigurationError(f'{cron!r} in {timezone!r} is no cron schedule: five fields ("0 3 * * *"), and a time zone such as Europe/Prague')
    if len(cron.split()) != CRON_FIELDS:
        raise refusal
    try:
        wanted = CronSchedule(cron=cron, timezone=timezone)
    except ValueError:
        raise refusal from None
    with _client() as client:
        deployment = _deployment(client)
        standing = _schedules_of(deployment, connector_id)
        parameters, slug = {"connector_id": connector_id}, f"connector-{connector_id}"
        if standing:  # changed in place: a connector is never without its schedule; what is not said again here is lost
            client.update_deployment_schedule(deployment.id, standing[0].id, active=True, schedule=wanted, parameters=parameters, slug=slug)
        else:
            client.create_deployment_schedules(deployment.id, [DeploymentScheduleCreate(schedule=wanted, parameters=parameters, slug=slug)])
        for surplus in standing[1:]:
            client.delete_deployment_schedule(deployment.id, surplus.id)
    return Schedule(connector_id, cron, timezone, active=True)


def unschedule(connector_id: int) -> int:
    """Take a connector's schedule away; returns how many there were."""
    with _client() as client:
        deployment = _deployment(client)
        found = _schedules_of(deployment, connector_id)
        for one in found:
            client.delete_deployment_schedule(deployment.id, one.id)
    return len(found)


def schedules() -> list[Schedule]:
    """The cron schedules of all connectors, by connector."""
    with _client() as client:
        found = [_described(one) for one in _deployment(client).schedules or [] if isinstance(one.schedule, CronSchedule)]
    return sorted((one for one in found if one is not None), key=lambda one: one.connector_id)


@contextlib.contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """A client of the server that `PREFECT_API_URL` names, known to answer; its errors in our words."""
    url = PREFECT_API_URL.value()
    if not url:
        raise ConfigurationError("PREFECT_API_URL is not set: it names the Prefect server (http://host:4200/api)")
    try:
        with get_client(sync_client=True) as client:
            yield client
    except FerryError:
        raise
    except httpx.HTTPStatusError as error:  # also Prefect's own, which derives from it
        status = error.response.status_code
        if status in {401, 403}:
            raise ConnectionFailed(f"the Prefect server at {url} refuses us ({status}); set PREFECT_API_AUTH_STRING to its user:password") from None
        raise ProcessingError(f"the Prefect server at {url} answered {status}") from None
    except httpx.HTTPError as error:
        raise ConnectionFailed(f"the Prefect server at {url} does not answer ({type(error).__name__}); is PREFECT_API_URL right?", transient=True) from None


def _version(client: SyncPrefectClient) -> str:
    url = PREFECT_API_URL.value()
    try:
        version = str(client.api_version())
    except ValueError:  # an answer that is no JSON
        version = ""
    if not version.startswith(SUPPORTED_MAJOR):
        raise ConfigurationError(f"{url} is no Prefect 3 server" + (f", but {version[:20]}" if version else ""))
    return version


def _make_pool(client: SyncPrefectClient) -> None:
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        with contextlib.suppress(ObjectAlreadyExists):  # somebody else deploys at the same time
            client.create_work_pool(WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template))
        return
    if pool.type != ProcessWorker.type:
        raise ConfigurationError(f"the work pool {POOL!r} is of type {pool.type!r}, and connectors run in one of type {ProcessWorker.type!r}")


def _make_deployment(client: SyncPrefectClient, flow: Flow[..., Any], entrypoint: str, **more: Any) -> UUID:
    """Create the deployment, or bring it up to date: a second POST would take its schedules away."""
    values: dict[str, Any] = {
        "entrypoint": entrypoint,
        "work_pool_name": POOL,
        "work_queue_name": QUEUE,
        "description": (flow.description or "").partition("\n")[0],
        "parameter_openapi_schema": parameter_schema(flow).model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        "pull_steps": [],  # the package is installed wherever a worker runs
        **more,
    }
    try:
        found = client.read_deployment_by_name(f"{flow.name}/{NAME}")
    except ObjectNotFound:
        flow_id = client.create_flow_from_name(flow.name)
        return client.create_deployment(flow_id, NAME, **values)
    client.update_deployment(found.id, DeploymentUpdate(**values))
    return found.id


def _deployment(client: SyncPrefectClient) -> DeploymentResponse:
    _version(client)
    try:
        return client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise ConfigurationError(f"there is no deployment {DEPLOYMENT} on the Prefect server; run ferry deploy first") from None


def _schedules_of(deployment: DeploymentResponse, connector_id: int) -> list[DeploymentSchedule]:
    return [one for one in deployment.schedules or [] if (one.parameters or {}).get("connector_id") == connector_id]


def _described(one: DeploymentSchedule) -> Schedule | None:
    connector_id = (one.parameters or {}).get("connector_id")
    cron = one.schedule
    if not isinstance(cron, CronSchedule) or not isinstance(connector_id, int):
        return None
    return Schedule(connector_id, cron.cron, cron.timezone or "UTC", active=one.active)


if __name__ == "__main__":  # `ferry serve` deploys in a process of its own, whose environment names its own server
    deploy()
