"""One run of a connector, the same wherever it was started: `engine.run_connector`, `ferry run`, a Prefect worker, a schedule, the API.

    record (started) → configuration → lease → job → record (success, failed, skipped)

The sequence stands here once. Its four steps are named as the platform knows them (specification 4); Prefect's flow hands in tasks of the same
names, which call the functions below. Correctness rests on the lease: without one nothing runs, and before each publication and each deletion
the ledger asks the control database whether it is still held.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine import jobs, layers, reaper, run_log, workers
from engine.control import connectors, files, host_keys, leases, runs
from engine.control.database import ControlDatabase
from engine.copy_jobs import CopyJob
from engine.errors import FerryError, Interrupted, OutcomeUnknown, PartlyFailed, ProcessingError, describe, frames
from engine.results import RunResult
from engine.run_log import log, say
from engine.stops import delivered, may_remain, noting_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.results import Progress

FILES_IN_SUMMARY = 20
GIVE_BACK_SECONDS = 2.0


class Observer:
    """Who is told how a run goes. Nothing here may block or raise: data is moving meanwhile."""

    def progress(self, now: Progress) -> None:
        """After each batch."""

    def finished(self, result: RunResult) -> None:
        """Everything is delivered."""

    def failed(self, error: FerryError) -> None:
        """It went wrong, and was logged."""


_reached: ContextVar[list[dict[str, Any]]] = ContextVar("reached")  # the outcome of the step that moved data, once there is one
_observer: ContextVar[Observer] = ContextVar("observer", default=Observer())  # noqa: B039 - it keeps nothing


def create_run_record(connector_id: int, prefect_flow_run_id: str) -> int:
    """Insert a run record with status `started` (specification 4.2).

    Returns:
        The record's id.

    Raises:
        FerryError: The control database did not take it.
    """
    with ControlDatabase() as control:
        return workers.call(lambda: runs.create_run_record(control, connector_id, prefect_flow_run_id))


def read_connector_config(connector_id: int) -> dict[str, Any]:
    """The merged configuration of a connector (specification 4.1), references to secrets not resolved.

    Returns:
        `connector_id, connector_name, source_type, source_config, destination_type, destination_config`.

    Raises:
        ConfigurationError: (a `ValueError`) No such connector, or one that is not complete.
    """
    with ControlDatabase() as control:
        return layers.merged_connector(workers.call(lambda: connectors.read_connector(control, connector_id)))


def run_dlt_pipeline(config: Mapping[str, Any]) -> dict[str, Any]:
    """Move the data of one connector, under its lease (specification 4.3).

    Args:
        config: As `read_connector_config` gives it; also `run_id` and `prefect_flow_run_id`, where there is a record.

    Returns:
        `status` (`success`, `failed`, `skipped`), `rows_ingested`, `log_summary`. Errors are logged and returned, not raised.
    """
    ids = config.get("connector_id"), config.get("run_id")
    late: Exception | None = None
    try:
        ended = _under_lease(config)
    except Exception as error:  # noqa: BLE001 - whatever it is, the record must end with it
        result = delivered(error)
        if result is None:
            return _failed(*ids, error)
        late, ended = error, result
    if isinstance(ended, leases.Holder):
        outcome = _reach("skipped", 0, f"skipped: connector {ids[0]} is being run by {ended}")
        say("run skipped", connector=ids[0], run=ids[1], holder=ended)
        return outcome
    outcome = _reach(**_success(ended))
    _tell_delivered(*ids, ended)
    if late is not None:
        log.warning("connector %s: run %s was delivered, then: %s\n%s", *ids, describe(late), frames(late))
    return outcome


def update_run_record(run_id: int, status: str, rows_ingested: int | None = None, log_summary: str | None = None) -> None:
    """End a run record (specification 4.4); a control database that is away is waited for.

    Raises:
        FerryError: It stayed away. The record is closed as abandoned by whichever engine comes next.
    """
    with ControlDatabase() as control:
        workers.call(lambda: runs.update_run_record(control, run_id, status, rows_ingested, log_summary))


@dataclass(frozen=True, slots=True)
class Steps:
    """The four steps, as they are called; Prefect's flow has tasks in their places."""

    create_run_record: Callable[[int, str], int] = create_run_record
    read_connector_config: Callable[[int], dict[str, Any]] = read_connector_config
    run_dlt_pipeline: Callable[[dict[str, Any]], dict[str, Any]] = run_dlt_pipeline
    update_run_record: Callable[[int, str, int, str], None] = update_run_record


def run(
    connector_id: int, flow_run_id: str | None = None, *, steps: Steps | None = None, observer: Observer | None = None, redeliver: bool = False
) -> dict[str, Any]:
    """Run a connector from its record's beginning to its record's end.

    Args:
        connector_id: `cai_connectors.id`.
        flow_run_id: Prefect's, for correlation; a new UUID where there is none.
        steps: What to call for each step.
        observer: Who is told how it goes.
        redeliver: Send files again that the ledger says are delivered.

    Returns:
        What `run_dlt_pipeline` returned, and `run_id` (None where the record could not be made).

    Raises:
        BaseException: Only what stops a process (Ctrl-C, SIGTERM, Prefect's cancellation); the record says `cancelled:` then, unless everything was delivered.
    """
    steps, flow_run_id = steps or Steps(), flow_run_id or str(uuid.uuid4())
    told = _observer.set(observer or Observer())
    run_id: int | None = None
    reached: list[dict[str, Any]] = []
    try:
        reaper.before_run(connector_id)
        run_id = _begin(steps, connector_id, flow_run_id)
        if run_id is not None:
            say("run begins", connector=connector_id, run=run_id, flow_run=flow_run_id)
        outcome = _work(steps, connector_id, {"run_id": run_id, "prefect_flow_run_id": flow_run_id, "redeliver": redeliver}, reached)
        _end(steps, run_id, outcome)
    except BaseException as stop:
        _stopped(connector_id, run_id, reached, stop)
        raise
    finally:
        _observer.reset(told)
    return {**outcome, "run_id": run_id}


def run_connector(connector_id: int, *, redeliver: bool = False, on_progress: Callable[[Progress], None] | None = None) -> RunResult:
    """Run a connector of the control database (`DATABASE_URL`), without Prefect.

    Args:
        connector_id: `cai_connectors.id`.
        redeliver: Send files again that were delivered before and have not changed since.
        on_progress: Called in this thread as it goes.

    Returns:
        What was delivered; `status` is `skipped`, and `notes` name the holder, when another run of the connector is under way.

    Raises:
        FerryError: What went wrong; the run record says the same.

    Example:
        >>> engine.run_connector(7)  # doctest: +SKIP
    """
    started = time.monotonic()
    ControlDatabase().close()  # a DATABASE_URL that is missing or malformed is the caller's to see, not a warning
    with noting_delivery() as noted:
        told = _Told(on_progress, noted)
        outcome = run(connector_id, observer=told, redeliver=redeliver)
    if told.error is not None:
        if isinstance(told.error, PartlyFailed) and told.error.result is not None:
            told.error.result = replace(told.error.result, run_id=outcome["run_id"])
        raise told.error
    if told.result is None:
        return RunResult(0, 0, time.monotonic() - started, None, (), (outcome["log_summary"],), "skipped", outcome["run_id"])
    return replace(told.result, run_id=outcome["run_id"])


class _Told(Observer):
    """Keeps what a caller of `run_connector` gets."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, noted: Callable[[RunResult], RunResult]) -> None:
        self.result: RunResult | None = None
        self.error: FerryError | None = None
        self._on_progress = on_progress
        self._noted = noted

    def progress(self, now: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(now)

    def finished(self, result: RunResult) -> None:
        self.result = self._noted(result)

    def failed(self, error: FerryError) -> None:
        self.error = error


def _begin(steps: Steps, connector_id: int, flow_run_id: str) -> int | None:
    try:
        return steps.create_run_record(connector_id, flow_run_id)
    except Exception as error:  # noqa: BLE001 - no record is no reason not to run (specification 4.2)
        log.warning("connector %s: no run record could be made, the run goes on without: %s", connector_id, describe(error))
        return None


def _work(steps: Steps, connector_id: int, more: Mapping[str, Any], reached: list[dict[str, Any]]) -> dict[str, Any]:
    """What came of it, also in `reached`; an orchestrator that fails or stops after the data was moved changes nothing about that."""
    told = _reached.set(reached)
    try:
        config = steps.read_connector_config(connector_id)
        reached.append(steps.run_dlt_pipeline({**config, **more}))
    except Exception as error:  # noqa: BLE001 - as in run_dlt_pipeline
        if reached:
            log.warning("connector %s: run %s: the step run_dlt_pipeline failed after it had ended: %s", connector_id, more["run_id"], describe(error))
        else:
            _failed(connector_id, more["run_id"], error)
    finally:
        _reached.reset(told)
    return reached[-1]


def _end(steps: Steps, run_id: int | None, outcome: Mapping[str, Any]) -> None:
    if run_id is None:
        return
    values = (run_id, outcome["status"], outcome["rows_ingested"], outcome["log_summary"])
    try:
        try:
            steps.update_run_record(*values)
        except FerryError:
            raise
        except Exception as error:  # noqa: BLE001 - an orchestrator that is gone must not keep the record from ending
            log.warning("run %s: the step update_run_record failed, its function is called directly: %s", run_id, describe(error))
            update_run_record(*values)
    except FerryError as error:
        log.error("run %s: its record could not be ended as %s, and will be closed as abandoned: %s", run_id, outcome["status"], error)


def _under_lease(config: Mapping[str, Any]) -> RunResult | leases.Holder:
    """Move the data; or who is doing so already."""
    connector_id, run_id = config["connector_id"], config.get("run_id")
    job = jobs.connector_job(config, pinned=_pinned_keys, redeliver=config.get("redeliver", False))
    claim = _claimed(connector_id, run_id, config.get("prefect_flow_run_id"))
    if isinstance(claim, leases.Holder):
        return claim
    with noting_delivery() as noted, contextlib.ExitStack() as stack:
        lease = stack.enter_context(claim)
        control = stack.enter_context(ControlDatabase(answer_seconds=lease.answer_seconds))
        stack.enter_context(workers.watching(lease.check))
        _refuse_to_repeat(control, connector_id, job)
        if isinstance(job, CopyJob):
            job = _marked(control, config, job)
        ends = {"source": config["source_type"], "destination": config["destination_type"]}
        say("run moves data", connector=connector_id, run=run_id, token=lease.token, **ends)
        result = job.run(_observer.get().progress, journal=leases.Ledger(control, lease, job.store.url, job.source_root))
        return noted(replace(result, notes=(*result.notes, *control.notes)))


def _refuse_to_repeat(control: ControlDatabase, connector_id: int, job: jobs.Job) -> None:
    """An export that may stand at an endpoint which cannot be asked is sent again only when somebody has looked."""
    if not isinstance(job, jobs.ExportJob) or job.store_can_be_asked:
        return
    parked = workers.call(lambda: files.ambiguous_exports(control, connector_id))
    if parked:
        raise OutcomeUnknown(
            f"connector {connector_id}: an earlier run cannot say whether its file was taken: look, then ferry files resolve {parked[0]} delivered|resend"
        )


def _marked(control: ControlDatabase, config: Mapping[str, Any], job: CopyJob) -> CopyJob:
    """The copy as one run of its connector, which knows those before it that may have committed before they died.

    The flow run's id tells runs apart also where several control databases fill one table.
    """
    connector_id = config["connector_id"]
    earlier = [] if config.get("redeliver") else workers.call(lambda: runs.unrecorded(control, connector_id))
    reruns = frozenset(_run_name(run["id"], run["prefect_flow_run_id"]) for run in earlier)
    return job.marked(f"connector {connector_id}", _run_name(config.get("run_id"), config.get("prefect_flow_run_id")), reruns)


def _run_name(run_id: int | None, flow_run_id: str | None) -> str:
    return f"run {run_id if run_id is not None else 'without a record'} (flow run {flow_run_id or uuid.uuid4()})"


def _pinned_keys(host: str, port: int) -> list[str]:
    """SSH host keys that somebody trusts, asked for when an SFTP server is met."""
    with ControlDatabase() as control:
        return host_keys.pinned(control, host, port)


def _claimed(connector_id: int, run_id: int | None, flow_run_id: str | None) -> leases.Lease | leases.Holder:
    """The lease, or who holds it; a run that is stopped while it asks gives back what it may have got."""
    claiming = workers.start(lambda: leases.acquire(connector_id, run_id, flow_run_id), name="ferry-call")
    try:
        return workers.wait(claiming)
    except BaseException:
        concurrent.futures.wait([claiming], timeout=GIVE_BACK_SECONDS)
        claiming.add_done_callback(leases.give_back)
        raise


def _summary(result: RunResult) -> str:
    return result.summary(FILES_IN_SUMMARY)


def _failed(connector_id: object, run_id: object, error: Exception) -> dict[str, Any]:
    """The outcome of a run that failed; logged here, once, with its frames."""
    ours = error if isinstance(error, FerryError) else ProcessingError(describe(error))
    if isinstance(ours, PartlyFailed) and ours.result is not None:
        outcome = _reach("failed", ours.result.ingested, _summary(ours.result))
    else:
        outcome = _reach("failed", _delivered_before(run_id), str(ours))
    _observer.get().failed(ours)
    run_log.say_failed(connector_id, run_id, ours, error)
    return outcome


def _delivered_before(run_id: object) -> int:
    """What a run had delivered when it was ended, by its ledger."""
    if not isinstance(run_id, int):
        return 0
    try:
        with ControlDatabase() as control:
            return runs.delivered_count(control, run_id)
    except FerryError:
        return 0  # the record says what went wrong; the ledger keeps the rest


def _success(result: RunResult) -> dict[str, Any]:
    return {"status": "success", "rows_ingested": result.ingested, "log_summary": _summary(result)}


def _reach(status: str, rows_ingested: int, log_summary: str) -> dict[str, Any]:
    """The outcome, which stands from here on: whatever stops the process while it is told changes nothing about it."""
    outcome = {"status": status, "rows_ingested": rows_ingested, "log_summary": log_summary}
    _reached.get([]).append(outcome)
    return outcome


def _tell_delivered(connector_id: object, run_id: object, result: RunResult) -> None:
    """What goes wrong with the telling is no error of the run."""
    with contextlib.suppress(Exception):
        _observer.get().finished(result)
    with contextlib.suppress(Exception):
        run_log.say_delivered(connector_id, run_id, result)


def _stopped(connector_id: int, run_id: int | None, reached: list[dict[str, Any]], stop: BaseException) -> None:
    """End the record of a run that was told to stop, before anything is said: a log may be what stops it. What is delivered was not cancelled."""
    result = delivered(stop)
    outcome = reached[-1] if reached else _success(result) if result is not None else _cancelled(run_id, stop)
    _end(Steps(), run_id, outcome)
    if reached:
        return
    if result is not None:
        _tell_delivered(connector_id, run_id, result)
    else:
        log.warning("connector %s: run %s %s", connector_id, run_id, outcome["log_summary"])


def _cancelled(run_id: int | None, stop: BaseException) -> dict[str, Any]:
    summary = f"cancelled: {_why(stop)}; what was not finished is removed{may_remain(stop)}"
    return {"status": "failed", "rows_ingested": _delivered_before(run_id), "log_summary": summary}


def _why(stop: BaseException) -> str:
    if isinstance(stop, KeyboardInterrupt):
        return str(Interrupted())
    number = getattr(stop, "signal", None)  # as Prefect's TerminationSignal carries it
    return str(Interrupted(number)) if isinstance(number, int) else str(stop) if isinstance(stop, Interrupted) else f"told to stop ({type(stop).__name__})"
