"""One run of a connector at a time: a lease row with a fencing token, and the ledger that only its holder may write.

A lease, not an advisory lock: a pooler hands a session's lock to somebody else, a restart of the database drops it while the run goes on, and it fences
nothing. The database's clock alone decides when a lease has ended.

    acquire ── renew ── renew ── … ── release          every write to the ledger asks: is this token still the holder's?
        └──────── no renewal for `seconds` ──────► expired: closed by whoever comes next (`engine.reaper`), and the token is worth nothing
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from engine.control.database import ANSWER_SECONDS, ControlDatabase
from engine.control.runs import DELIVERED_COUNT, RUNNING, sign_of_life
from engine.errors import ConfigurationError, FerryError, LeaseLost, describe
from engine.protocols import Earlier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from engine.control.database import Row
    from engine.protocols import FileInfo
    from engine.results import LedgerState, Receipt

DEFAULT_SECONDS = 60.0
VARIABLE = "FERRY_LEASE_SECONDS"
SOURCES_AT_ONCE = 5_000
RENEWALS = 4  # in the life of a lease, so that some may fail
_log = logging.getLogger("engine")


def lease_seconds() -> float:
    """How long a lease lasts without renewal: `FERRY_LEASE_SECONDS`, else a minute.

    Raises:
        ConfigurationError: No number of seconds from 2 on.
    """
    text = os.environ.get(VARIABLE) or str(DEFAULT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 2 <= seconds <= 86_400:  # noqa: PLR2004 - below, a slow answer would lose it; above, the dead would hold it for days
        raise ConfigurationError(f"{VARIABLE} is a number of seconds from 2 to 86400")
    return seconds


@dataclass(frozen=True, slots=True)
class Holder:
    """Who runs a connector now."""

    run_id: int | None
    flow_run_id: str | None
    host: str
    process: int

    def __str__(self) -> str:
        """`run 12 (flow run …) on HOST, process 4711`."""
        run = f"run {self.run_id}" if self.run_id is not None else "a run without a record"
        flow_run = f" (flow run {self.flow_run_id})" if self.flow_run_id else ""
        return f"{run}{flow_run} on {self.host}, process {self.process}"


def acquire(connector_id: int, run_id: int | None, flow_run_id: str | None, *, url: str | None = None) -> Lease | Holder:
    """Take the lease of a connector, or learn who holds it.

    Raises:
        FerryError: The control database did not answer; without a lease nothing runs.
    """
    seconds = lease_seconds()
    control = ControlDatabase(url, answer_seconds=_answer_seconds(seconds))
    statement = """
        INSERT INTO ferry_leases AS held (connector_id, token, run_id, flow_run_id, host, process, acquired_at, renewed_at, expires_at)
        VALUES (%s, 1, %s, %s, %s, %s, clock_timestamp(), clock_timestamp(), clock_timestamp() + make_interval(secs => %s))
        ON CONFLICT (connector_id) DO UPDATE SET token = held.token + 1, run_id = excluded.run_id, flow_run_id = excluded.flow_run_id, host = excluded.host,
            process = excluded.process, acquired_at = excluded.acquired_at, renewed_at = excluded.renewed_at, expires_at = excluded.expires_at
        WHERE held.expires_at IS NULL OR held.expires_at < clock_timestamp()
        RETURNING token
    """
    holder = "SELECT run_id, flow_run_id, host, process FROM ferry_leases WHERE connector_id = %s AND expires_at >= clock_timestamp()"
    try:
        while True:
            asked = time.monotonic()
            taken = control.once(statement, (connector_id, run_id, flow_run_id, socket.gethostname(), os.getpid(), seconds))
            if taken:
                return Lease(control, url, connector_id, int(taken[0]["token"]), run_id, seconds, asked)
            found = control.query(holder, (connector_id,))
            if found:  # else it was released between the two questions
                control.close()
                return Holder(**found[0])
    except BaseException:
        control.close()
        raise


def give_back(claiming: Future[Lease | Holder]) -> None:
    """Release what an `acquire` gave that nobody waited for to its end."""
    if claiming.exception() is None and isinstance(claim := claiming.result(), Lease):
        with claim:
            pass


def _answer_seconds(seconds: float) -> float:
    """How long a statement about a lease may take: a connection that swallows a renewal is given up while there is time for another."""
    return min(ANSWER_SECONDS, seconds / 3)


class Lease:
    """A lease that is held, and renewed by a thread of its own while its block lasts; leaving the block releases it.

    Attributes:
        connector_id: Whose lease.
        token: Larger than that of every earlier holder.
    """

    def __init__(self, control: ControlDatabase, url: str | None, connector_id: int, token: int, run_id: int | None, seconds: float, asked: float) -> None:
        self.connector_id = connector_id
        self.token = token
        self.run_id = run_id
        self._control = control
        self._url = url
        self._seconds = seconds
        self._until = asked + seconds  # counted from before the question, so that our clock never ends it later than the database's
        self._refused = False
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_released, name="ferry-lease", daemon=True)

    def check(self) -> None:
        """Whether the lease is held, as far as this process knows; costs nothing.

        Raises:
            LeaseLost: It was refused, could not be renewed in time, or was given back.
        """
        if self._refused or self._released.is_set() or time.monotonic() >= self._until:
            raise self.lost()

    @property
    def seconds_left(self) -> float:
        """How long it lasts if it is not renewed, as far as this process knows."""
        return self._until - time.monotonic()

    @property
    def answer_seconds(self) -> float:
        """How long a statement under this lease may take."""
        return _answer_seconds(self._seconds)

    def lost(self) -> LeaseLost:
        """The error of a run that may not go on."""
        late = "was given back" if self._released.is_set() else f"could not be renewed for {self._seconds:.0f} s"
        why = "has ended, or was taken over" if self._refused else late
        return LeaseLost(f"the lease of connector {self.connector_id} (token {self.token}) {why}; the run stopped, and published nothing more", transient=True)

    def refuse(self) -> LeaseLost:
        """The database has said that the lease is not ours any more."""
        self._refused = True
        return self.lost()

    def __enter__(self) -> Self:
        self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._released.set()
        self._renewer.join(timeout=1)
        if self.run_id is not None:
            with contextlib.suppress(FerryError):  # a role that may not, or a database that is away: the release says so, if it matters
                sign_of_life(self._control, self.run_id)
        release = "UPDATE ferry_leases SET expires_at = NULL WHERE connector_id = %s AND token = %s RETURNING token"
        try:
            self._control.query(release, (self.connector_id, self.token), patience=min(5.0, max(0.0, self.seconds_left)))
        except FerryError as failure:
            _log.warning("connector %s: the lease could not be released, and ends by itself within %.0f s: %s", self.connector_id, self._seconds, failure)
        finally:
            self._control.close()

    def _renew_until_released(self) -> None:
        renew = """
            UPDATE ferry_leases SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => %s)
            WHERE connector_id = %s AND token = %s AND expires_at >= clock_timestamp() RETURNING token
        """
        with ControlDatabase(self._url, answer_seconds=self.answer_seconds) as control:
            pause = self._seconds / RENEWALS
            while not self._released.wait(pause):
                asked = time.monotonic()
                try:
                    renewed = control.query(renew, (self._seconds, self.connector_id, self.token))
                except Exception as error:  # noqa: BLE001 - as long as the lease lasts, nothing ends its renewal
                    _log.warning("connector %s: the lease could not be renewed just now: %s", self.connector_id, describe(error))
                    pause = min(1.0, self._seconds / 40)
                    continue
                pause = self._seconds / RENEWALS
                if not renewed:
                    self._refused = True
                    return
                self._until = asked + self._seconds


class Ledger:
    """What a run does to each file (`Journal`): one guarded statement a row, refused when the lease is not this run's any more."""

    def __init__(self, control: ControlDatabase, lease: Lease, url_of: Callable[[str], str], source_root: Callable[[], str | None] = lambda: None) -> None:
        self._control = control
        self._lease = lease
        self._url_of = url_of
        self._source_root = source_root
        self._root: str | None = None  # known once `earlier` has been asked, before any file moves

    def record(
        self,
        path: str,
        state: LedgerState,
        *,
        leftover: str | None = None,
        receipt: Receipt | None = None,
        rows: int | None = None,
        source: FileInfo | None = None,
    ) -> None:
        """See `Journal.record`. `FOR SHARE` keeps the lease from changing hands while the row is written.

        A delivery settles what an earlier run could not say of the same file: nobody needs to look any more.

        A control database that is away is waited for as long as the lease lasts; not for a note that merely saves a later look.
        """
        self._lease.check()
        if not _is_text(path) or (source is not None and not _is_text(source.path)):
            raise ConfigurationError(f"{(source.path if source else path)!r} is not UTF-8, and cannot be noted in the control database; rename it")
        statement = """
            WITH held AS (SELECT token FROM ferry_leases WHERE connector_id = %s AND token = %s AND expires_at >= clock_timestamp() FOR SHARE),
            settled AS (
                UPDATE ferry_files old SET state = 'swept', changed_at = clock_timestamp() FROM held
                WHERE old.connector_id = %s AND old.source_path = %s AND old.token < held.token AND old.url = %s AND old.state = 'ambiguous' AND %s
            )
            INSERT INTO ferry_files AS known
                (connector_id, token, path, run_id, url, host, state, leftover, file_rows, file_bytes, sha256, verified, source_path, source_root, source_version, changed_at)
            SELECT %s, token, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp() FROM held
            ON CONFLICT (connector_id, token, path) DO UPDATE SET state = excluded.state, leftover = COALESCE(excluded.leftover, known.leftover),
                file_rows = COALESCE(excluded.file_rows, known.file_rows), file_bytes = COALESCE(excluded.file_bytes, known.file_bytes),
                sha256 = COALESCE(excluded.sha256, known.sha256), verified = COALESCE(excluded.verified, known.verified),
                source_path = excluded.source_path, source_root = excluded.source_root, source_version = excluded.source_version, changed_at = excluded.changed_at
            RETURNING token
        """
        lease, url = self._lease, self._url_of(path)
        known = (receipt.bytes, receipt.sha256, receipt.verified) if receipt is not None else (None, None, None)
        values = (
            lease.connector_id,
            lease.token,
            *(lease.connector_id, source.path if source is not None else None, url, state in {"written", "replaced"}),
            lease.connector_id,
            path,
            lease.run_id,
            url,
            socket.gethostname(),
            state,
            leftover,
            rows,
            *known,
            *((source.path, self._root, source.version) if source is not None else (None, None, None)),
        )
        try:
            held = self._control.query(statement, values, patience=0 if state == "discarded" else max(0.0, lease.seconds_left))
        except FerryError:
            lease.check()  # the control database was away until the lease had ended: that is the reason, and the run's end
            raise
        if not held:
            raise lease.refuse()

    def earlier(self, sources: Sequence[str]) -> Mapping[tuple[str, str], Earlier]:
        """See `Journal.earlier`. After a connector was pointed elsewhere, a file of the same name is another one."""
        self._root = self._source_root()
        statement = """
            SELECT DISTINCT ON (source_path, url) id, source_path, url, state, source_version FROM ferry_files
            WHERE connector_id = %s AND source_root IS NOT DISTINCT FROM %s AND source_path = ANY (%s) ORDER BY source_path, url, token DESC
        """
        found, known = {}, [source for source in sources if _is_text(source)]
        for start in range(0, len(known), SOURCES_AT_ONCE):
            for row in self._control.query(statement, (self._lease.connector_id, self._root, known[start : start + SOURCES_AT_ONCE])):
                found[row["source_path"], row["url"]] = Earlier(row["id"], row["state"], row["source_version"])
        return found


def _is_text(name: str) -> bool:
    """Whether PostgreSQL can hold a name: a file system's need not be UTF-8."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def close_expired(control: ControlDatabase) -> list[Row]:
    """End the records of runs whose lease has expired, and of runs that died before they had one or after they gave it back. Returns `id, connector_id, prefect_flow_run_id`.

    The rows of leases stay, with their tokens. A record without a lease is closed only if ferry made it, and when it is older than a lease lives; its age is
    what its summary says in UTC, since `started_at` is in the time zone of whatever session wrote it. The two are compared as text, which cannot fail.
    """
    expired = f"""
        WITH expired AS (
            UPDATE ferry_leases SET expires_at = NULL WHERE expires_at < clock_timestamp() RETURNING run_id, host, process, renewed_at
        )
        UPDATE cai_connector_runs r
        SET status = 'failed', finished_at = NOW(), rows_ingested = COALESCE(rows_ingested, {DELIVERED_COUNT}),
            log_summary = format('abandoned: no sign of life since %%s from process %%s on %%s; what it had not finished is removed before another run begins',
                                 to_char(e.renewed_at, 'YYYY-MM-DD HH24:MI:SS TZ'), e.process, e.host)
        FROM expired e WHERE r.id = e.run_id AND r.status = 'started'
        RETURNING r.id, r.connector_id, r.prefect_flow_run_id
    """  # noqa: S608 - our own text
    leaseless = f"""
        UPDATE cai_connector_runs r
        SET status = 'failed', finished_at = NOW(), rows_ingested = COALESCE(rows_ingested, {DELIVERED_COUNT}),
            log_summary = 'abandoned: its process ended without a word (it was ' || r.log_summary || '); its files are what ferry runs show tells'
        WHERE r.status = 'started' AND r.log_summary LIKE %s
          AND substring(r.log_summary FROM ', since ([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}} [0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}) UTC$') COLLATE "C"
            < to_char((clock_timestamp() - make_interval(secs => %s)) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
          AND NOT EXISTS (SELECT FROM ferry_leases l WHERE l.run_id = r.id AND l.expires_at IS NOT NULL)
        RETURNING r.id, r.connector_id, r.prefect_flow_run_id
    """  # noqa: S608 - our own text
    return control.once(expired) + control.once(leaseless, (RUNNING + "%", lease_seconds()))


def unfinished_files(control: ControlDatabase) -> list[Row]:
    """Ledger rows of runs that are over which say that a file was being written.

    Returns:
        `connector_id, token, path, url, host, state, leftover, source_path, changed_at`; `is_orphan`: the connector is not there any more; `is_outlived`: a later run
        of it has delivered.
    """
    statement = """
        SELECT f.connector_id, f.token, f.path, f.url, f.host, f.state, f.leftover, f.source_path, f.changed_at,
            NOT EXISTS (SELECT FROM cai_connectors c WHERE c.id = f.connector_id) AS is_orphan,
            EXISTS (SELECT FROM ferry_files n WHERE n.connector_id = f.connector_id AND n.token > f.token AND n.state IN ('written', 'replaced')) AS is_outlived
        FROM ferry_files f
        WHERE f.state IN ('writing', 'publishing')
          AND NOT EXISTS (SELECT FROM ferry_leases l WHERE l.connector_id = f.connector_id AND l.token = f.token AND l.expires_at IS NOT NULL)
        ORDER BY f.connector_id, f.token, f.path
    """
    return control.query(statement)


def claim_unfinished(control: ControlDatabase, file: Row) -> bool:
    """Whether this engine is to deal with a row of `unfinished_files`: of several that read it one is, and none once a new run of the connector has been here.

    An engine that dies after it claimed leaves a row that the next one finds.
    """
    statement = """
        UPDATE ferry_files SET changed_at = clock_timestamp()
        WHERE connector_id = %s AND token = %s AND path = %s AND changed_at = %s AND state IN ('writing', 'publishing') RETURNING token
    """
    return bool(control.once(statement, (file["connector_id"], file["token"], file["path"], file["changed_at"])))


def mark_swept(control: ControlDatabase, file: Row, state: LedgerState = "swept") -> None:
    """A row of `unfinished_files` is dealt with; `ambiguous` where the run died while it published, and nobody can say whether it did.

    Unless a later run has delivered the same file, before a reaper came to this row: then nobody needs to look.
    """
    statement = """
        UPDATE ferry_files f SET changed_at = clock_timestamp(), state = CASE WHEN %s = 'ambiguous' AND EXISTS (
            SELECT FROM ferry_files n WHERE n.connector_id = f.connector_id AND n.source_path = f.source_path AND n.token > f.token AND n.url = f.url
              AND n.state IN ('written', 'replaced', 'removing source', 'moved')) THEN 'swept' ELSE %s END
        WHERE connector_id = %s AND token = %s AND path = %s
    """
    control.query(statement, (state, state, file["connector_id"], file["token"], file["path"]))


def seconds_to_next_end(control: ControlDatabase) -> float | None:
    """Seconds until the first lease ends whose holder has missed two renewals, and is probably dead; None without such a lease."""
    statement = """
        SELECT EXTRACT(epoch FROM min(expires_at) - clock_timestamp())::float8 AS left_over FROM ferry_leases
        WHERE expires_at >= clock_timestamp() AND clock_timestamp() - renewed_at > (expires_at - renewed_at) / 2
    """
    found = control.query(statement)[0]["left_over"]
    return None if found is None else float(found)
