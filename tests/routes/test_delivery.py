"""Files that are published together: what the journal is told, and what happens when somebody or something stops it half-way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import ConnectionFailed, LeaseLost, TransferFailed
from engine.routes.delivery import Delivery, NullJournal
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.memory import MemoryStore
from engine.stores.rest import RestDestination, RestOptions
from engine.stores.s3 import S3Options, S3Store
from engine.stores.spool import Spooled
from tests.stores import proxy as faults
from tests.stores.rest_server import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.protocols import FileDestination
    from engine.results import LedgerState, Receipt


class Notes(NullJournal):
    """A journal that keeps what it is told; `refuse` may raise instead."""

    def __init__(self, refuse: Callable[[str, str], None] = lambda *_: None) -> None:
        self.told: list[tuple[str, str]] = []
        self.rows: dict[str, int | None] = {}
        self._refuse = refuse

    def record(
        self,
        path: str,
        state: LedgerState,
        *,
        leftover: str | None = None,
        receipt: Receipt | None = None,
        rows: int | None = None,
        source: Any = None,  # noqa: ARG002 - the form of a journal
    ) -> None:
        self._refuse(path, state)
        if leftover is None:
            self.told.append((path, state))
        if receipt is not None:
            self.rows[path] = rows


def deliver(store: FileDestination, notes: Notes, *paths: str, size: int = 1) -> None:
    with Delivery(store, "replace", notes) as delivery:
        for number, path in enumerate(paths, 1):
            delivery.open(path).write(bytes(size))
            delivery.rows[-1] = number


class ToldToStop(BaseException):
    """As an orchestrator stops a run in its own way (Prefect's `TerminationSignal`)."""


def test_each_file_is_noted_before_and_after_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")
    notes = Notes()
    deliver(LocalStore(FolderOptions(path=str(tmp_path))), notes, "a", "b")
    assert notes.told == [("a", "writing"), ("b", "writing"), ("a", "publishing"), ("a", "written"), ("b", "publishing"), ("b", "replaced")]
    assert notes.rows == {"a": 1, "b": 2}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ToldToStop])
def test_whatever_stops_a_run_waits_for_a_publication_that_has_begun(monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]) -> None:
    """Half of a delivery would be neither there nor away, and files would be discarded while they are published."""
    import concurrent.futures

    store, stopped = MemoryStore(), threading.Event()
    true = concurrent.futures.wait

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if not stopped.is_set():
            stopped.set()
            raise stop
        return true(*args, **kwargs)

    def hold(_: str, state: str) -> None:
        if state == "publishing":
            assert stopped.wait(timeout=20)

    notes = Notes(hold)
    monkeypatch.setattr("engine.routes.delivery.concurrent.futures.wait", interrupted)
    with pytest.raises(stop):
        deliver(store, notes, "a", "b", "c")
    assert [file.path for file in store.list()] == ["a", "b", "c"]
    assert [state for _, state in notes.told if state == "discarded"] == []


@pytest.mark.parametrize("refused_at", [("a", "publishing"), ("b", "publishing"), ("c", "publishing"), ("a", "written"), ("b", "written")])
def test_a_journal_that_refuses_stops_the_publication_there(tmp_path: Path, refused_at: tuple[str, str]) -> None:
    def refuse(path: str, state: str) -> None:
        if (path, state) == refused_at:
            raise LeaseLost("it is over")

    with pytest.raises(LeaseLost):
        deliver(LocalStore(FolderOptions(path=str(tmp_path))), Notes(refuse), "a", "b", "c")
    published = "abc".index(refused_at[0]) + (refused_at[1] == "written")
    assert sorted(path.name for path in tmp_path.iterdir()) == list("abc")[:published]


def test_a_journal_that_is_away_is_asked_once_while_files_are_discarded() -> None:
    asked = []

    def away(path: str, state: str) -> None:
        if state == "discarded":
            asked.append(path)
            raise ConnectionFailed("away", transient=True)

    with pytest.raises(ToldToStop), Delivery(MemoryStore(), "replace", Notes(away)) as delivery:
        for path in "abc":
            delivery.open(path)
        raise ToldToStop
    assert asked == ["c"]


class Stubborn(MemoryStore):
    """A memory store whose files cannot be discarded without another error."""

    def open_write(self, path: str, **options: Any) -> Any:
        import contextlib

        @contextlib.contextmanager
        def opened() -> Any:
            try:
                with MemoryStore.open_write(self, path, **options) as writer:
                    yield writer
            except ToldToStop:
                self.notes.append(f"{path} was let go")
                raise TransferFailed("and now this") from None

        return opened()


def test_a_file_that_cannot_be_discarded_keeps_no_other_from_it() -> None:
    store = Stubborn()
    with pytest.raises(ToldToStop), Delivery(store, "replace", Notes()) as delivery:
        for path in "abc":
            delivery.open(path)
        raise ToldToStop
    assert store.notes == [f"{path} was let go" for path in "cba"]


def test_a_temporary_file_that_remains_is_not_noted_as_discarded(tmp_path: Path) -> None:
    """It stays `writing`, so that the reaper finds it."""
    store, notes = LocalStore(FolderOptions(path=str(tmp_path))), Notes()
    with pytest.raises(ToldToStop), Delivery(store, "replace", notes) as delivery:
        for path in "ab":
            delivery.open(path)
        temporary = next(tmp_path.glob(".a.*.part"))
        temporary.unlink()
        temporary.mkdir()  # what no unlink removes
        raise ToldToStop
    assert notes.told[-1:] == [("b", "discarded")]
    assert ("a", "discarded") not in notes.told
    assert [str(temporary) in note for note in store.notes] == [True]


def test_an_upload_that_remains_is_not_noted_as_discarded(s3_options: dict[str, Any]) -> None:
    notes = Notes()

    def refuse(exchange: faults.Exchange) -> None:
        if exchange.verb == "DELETE":
            exchange.answer_instead = 503

    with faults.proxy(s3_options["endpoint_url"]) as between:
        between.before = refuse
        store = S3Store(S3Options.parse({**s3_options, "endpoint_url": between.endpoint_url}, where="destination"))
        with pytest.raises(ToldToStop), Delivery(store, "replace", notes) as delivery:
            delivery.open("x").write(bytes(26 << 20))
            raise ToldToStop
        store.client.close()
    assert notes.told == [("x", "writing")]
    assert ["unfinished multipart upload" in note for note in store.notes] == [True]


def test_a_clear_refusal_while_publishing_is_no_outcome_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_SPOOL_DIR", str(tmp_path / "spool"))
    notes = Notes()
    with endpoint() as server:
        server.answers = [(400, {})]
        store = Spooled(RestDestination(RestOptions.parse({"url": f"{server.url}/upload"}, where="test")))
        with pytest.raises(TransferFailed, match="400"):
            deliver(store, notes, "x.csv")
    assert notes.told == [("x.csv", "writing"), ("x.csv", "publishing"), ("x.csv", "discarded")]
