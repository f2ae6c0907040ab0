"""The flow that the platform calls, and its four tasks: thin names over `engine.connector`, which holds the sequence."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from engine import connector
from engine.errors import FerryError, ProcessingError, describe
from flows.report import Reporter

P = ParamSpec("P")
R = TypeVar("R")


def _task(step: Callable[P, R]) -> Callable[P, R]:
    """A step of the engine as a task: no result is kept, none is reused, and what it raises holds no text of a library.

    Prefect puts an exception's text and traceback into states and logs, which everybody reads who may open the UI.
    """

    @functools.wraps(step)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return step(*args, **kwargs)
        except FerryError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may hold what must not be shown
            raise ProcessingError(describe(error)) from None

    return task(name=step.__name__, persist_result=False, cache_policy=NO_CACHE)(call)


create_run_record = _task(connector.create_run_record)
read_connector_config = _task(connector.read_connector_config)
run_dlt_pipeline = _task(connector.run_dlt_pipeline)
update_run_record = _task(connector.update_run_record)


@flow(name="run_connector_pipeline", persist_result=False)
def run_connector_pipeline(connector_id: int, prefect_flow_run_id: str | None = None) -> dict[str, Any]:
    """Run a connector of the control database (`DATABASE_URL`).

    Args:
        connector_id: `cai_connectors.id`.
        prefect_flow_run_id: What the run record carries; default: this flow run's own id.

    Returns:
        `status` (`success`, `skipped`), `rows_ingested`, `log_summary`, `run_id`.

    Raises:
        FerryError: The run failed, and its record says so; the error holds the summary alone. An unknown connector is a `ValueError`.

    Example:
        >>> run_connector_pipeline(7)  # doctest: +SKIP
    """
    return _run(connector_id, prefect_flow_run_id)  # type: ignore[return-value]  # a state stands for the result that it carries


def _run(connector_id: int, prefect_flow_run_id: str | None) -> dict[str, Any] | State[dict[str, Any]]:
    own = flow_run.id
    if own is None:  # `run_connector_pipeline.fn(7)`: the plain function, and no server to report to
        steps, reporter = connector.Steps(), Reporter(connector_id, None)
    else:
        steps = connector.Steps(create_run_record, read_connector_config, run_dlt_pipeline, update_run_record)
        reporter = Reporter(connector_id, own)
    with reporter:
        outcome = connector.run(connector_id, prefect_flow_run_id or own, steps=steps, observer=reporter)
    if outcome["status"] == "failed":
        raise reporter.fresh_error(outcome["log_summary"]) from None
    if outcome["status"] == "skipped" and own is not None:
        return Completed(message=outcome["log_summary"], data=outcome)
    return outcome
