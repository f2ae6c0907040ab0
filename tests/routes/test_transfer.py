"""The way of files from store to store: what is chosen, what becomes of each, and what the ledger is told."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import threading
import time
import unicodedata
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import pytest

from engine import jobs
from engine.errors import ConfigurationError, FerryError, LeaseLost, OutcomeUnknown, PartlyFailed, ResourceError, TransferFailed
from engine.protocols import Earlier
from engine.results import Progress, Receipt, RunResult
from engine.routes import transfer as route
from engine.routes import unmatched
from engine.routes.delivery import NullJournal
from engine.routes.transfer import transfer
from engine.routes.transfer_plan import Orders
from engine.routes.transfer_queue import BUDGET_BYTES, LARGE_BYTES
from engine.stops import partly
from engine.stores.local import FolderOptions, LocalStore
from engine.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from engine.protocols import FileInfo
    from engine.results import LedgerState

Filled = TypeVar("Filled", bound=MemoryStore)
NAMES = ("a.csv", "b.csv", "c.txt", "sub/d.csv", "sub/deep/e.csv")


class Journal(NullJournal):
    """A ledger in memory, which may refuse."""

    def __init__(self, refuse: Callable[[str, str], None] = lambda *_: None) -> None:
        self.told: dict[str, list[str]] = defaultdict(list)
        self.known: dict[tuple[str, str], Earlier] = {}
        self._refuse = refuse

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
        assert source is not None
        assert rows is None
        del leftover, receipt
        self._refuse(path, state)
        self.told[path].append(state)

    def earlier(self, sources: Sequence[str]) -> dict[tuple[str, str], Earlier]:
        return {key: value for key, value in self.known.items() if key[0] in sources}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "PAUSE_SECONDS", 0)


@pytest.fixture
def source() -> MemoryStore:
    store = MemoryStore()
    for name in NAMES:
        put(store, name, f"content of {name}".encode())
    return store


def put(store: Any, path: str, data: bytes) -> None:
    with store.open_write(path) as writer:
        writer.write(data)


def content(store: MemoryStore) -> dict[str, bytes]:
    return {path: data for path, (_, data) in store._files.items()}


def states(result: RunResult) -> dict[str, str]:
    return {str(file.source).removeprefix("memory://"): file.state for file in result.files}


def failing(source: Any, destination: Any, orders: Orders, **more: Any) -> RunResult:
    """The result that a transfer fails with."""
    with pytest.raises(PartlyFailed) as caught:
        transfer(source, destination, orders, **more)
    assert caught.value.result is not None
    return caught.value.result


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        (Orders(), {"a.csv", "b.csv", "c.txt"}),
        (Orders(pattern="*.csv"), {"a.csv", "b.csv"}),
        (Orders(pattern="**/*.csv"), {"a.csv", "b.csv", "sub/d.csv", "sub/deep/e.csv"}),
        (Orders(pattern="**/*", target="in/here"), {f"in/here/{name}" for name in NAMES}),
        (Orders(pattern="**/*", flatten=True), {"a.csv", "b.csv", "c.txt", "d.csv", "e.csv"}),
        (Orders(base="sub"), {"d.csv"}),
        (Orders(base="sub", pattern="**/*"), {"d.csv", "deep/e.csv"}),
        (Orders(base="sub", pattern="**/*", target="x"), {"x/d.csv", "x/deep/e.csv"}),
        (Orders(base="sub/d.csv"), {"d.csv"}),
        (Orders(base="sub/d.csv", target="folder"), {"folder/d.csv"}),
        (Orders(base="sub/d.csv", target="new.csv", target_is_folder=False), {"new.csv"}),
        (Orders(base="sub/d.csv", target="full", target_is_folder=False), {"full/d.csv"}),
        (Orders(pattern="nothing*"), set()),
    ],
)
def test_what_is_chosen_and_where_it_goes(source: MemoryStore, orders: Orders, expected: set[str]) -> None:
    destination = MemoryStore()
    if orders.target == "full":
        put(destination, "full/x", b"")
    result = transfer(source, destination, orders)
    arrived = {path: data for path, data in content(destination).items() if path != "full/x"}
    assert set(arrived) == expected
    for file in result.files:
        data = arrived[file.path.removeprefix("memory://")]
        assert data == content(source)[str(file.source).removeprefix("memory://")]
        assert (file.sha256, file.bytes, file.state, file.verified) == (hashlib.sha256(data).hexdigest(), len(data), "written", "read-back")
    assert (result.ingested, result.counts, result.bytes) == (len(expected), "files", sum(map(len, arrived.values())))
    assert len(content(source)) == len(NAMES)
    assert not [state for state in states(result).values() if state != "written"]


def test_one_file_that_the_pattern_leaves_out_is_refused(source: MemoryStore) -> None:
    with pytest.raises(ConfigurationError, match=r"sub/d\.csv is one file, and the pattern '\*\.parquet' does not match"):
        transfer(source, MemoryStore(), Orders(base="sub/d.csv", pattern="*.parquet"))
    assert transfer(source, MemoryStore(), Orders(base="sub/d.csv", pattern="**/*.csv")).ingested == 1


def test_nothing_to_transfer_is_a_success_that_says_so() -> None:
    result = transfer(MemoryStore(), MemoryStore(), Orders())
    assert str(result) == "nothing to transfer"
    assert result.ingested == 0


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    source = LocalStore(FolderOptions(path=str(tmp_path / "missing")))
    with pytest.raises(ConfigurationError, match=r"no file or folder .*missing"):
        transfer(source, MemoryStore(), Orders())
    (tmp_path / "missing").mkdir()
    assert transfer(source, MemoryStore(), Orders()).files == ()
    with pytest.raises(ConfigurationError, match=r"no file or folder .*missing/x"):
        transfer(source, MemoryStore(), Orders(base="x"))


def test_files_that_the_pattern_leaves_out_below_are_counted(source: MemoryStore) -> None:
    assert transfer(source, MemoryStore(), Orders()).notes == ("2 files in subfolders did not match '*' ('**/*' takes all)",)
    assert transfer(source, MemoryStore(), Orders(base="sub")).notes == ("1 file in subfolders did not match '*' ('**/*' takes all)",)
    assert transfer(source, MemoryStore(), Orders(pattern="**/*")).notes == ()
    assert transfer(source, MemoryStore(), Orders(base="a.csv")).notes == ()


def test_two_files_that_would_meet_are_refused_before_anything_moves(source: MemoryStore) -> None:
    put(source, "other/a.csv", b"another")
    destination = MemoryStore()
    with pytest.raises(ConfigurationError, match=r"'a\.csv' and 'other/a\.csv' would both become .*a\.csv"):
        transfer(source, destination, Orders(pattern="**/*", flatten=True))
    assert content(destination) == {}


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        (Orders(), "over itself"),
        (Orders(base="a.csv", target="a.csv", target_is_folder=False), "over itself"),
        (Orders(base="sub", pattern="**/*", target="sub", target_is_folder=True), "over itself"),
        (Orders(pattern="**/*.csv", target="copy"), "next run looks for sources"),
    ],
)
def test_a_source_is_not_written_over_itself_and_does_not_wander(source: MemoryStore, orders: Orders, message: str) -> None:
    before = content(source)
    with pytest.raises(ConfigurationError, match=message):
        transfer(source, source, orders)
    assert content(source) == before


def test_within_one_store_files_go_to_another_folder(source: MemoryStore) -> None:
    transfer(source, source, Orders(pattern="*.csv", target="copy", delete_source=True))
    assert {path for path in content(source) if path.endswith(".csv")} == {"copy/a.csv", "copy/b.csv", "sub/d.csv", "sub/deep/e.csv"}


def test_the_same_folder_by_two_names_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.csv").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    stores = [LocalStore(FolderOptions(path=str(tmp_path / name))) for name in ("real", "link")]
    with pytest.raises(ConfigurationError, match="over itself"):
        transfer(stores[0], stores[1], Orders(delete_source=True))
    assert (tmp_path / "real" / "x.csv").read_text() == "x"


def test_a_move_deletes_each_source_after_its_delivery(source: MemoryStore) -> None:
    journal, destination = Journal(), MemoryStore()
    result = transfer(source, destination, Orders(pattern="*.csv", delete_source=True), journal=journal)
    assert set(content(source)) == {"c.txt", "sub/d.csv", "sub/deep/e.csv"}
    assert set(content(destination)) == {"a.csv", "b.csv"}
    assert [file.source_deleted for file in result.files] == [True, True]
    assert journal.told["a.csv"] == ["publishing", "written", "removing source", "moved"]
    assert "2 sources deleted" in str(result)


class Stubborn(MemoryStore):
    """A store that fails where it is told to."""

    def __init__(self, **failures: Callable[[str], None]) -> None:
        super().__init__()
        self._failures = failures

    def _fail(self, verb: str, path: str) -> None:
        if verb in self._failures:
            self._failures[verb](path)

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        with super().open_read(file, start, length) as body:
            self._fail("read", file.path)
            yield body
            self._fail("end", file.path)

    def delete(self, file: FileInfo) -> None:
        self._fail("delete", file.path)
        super().delete(file)

    @contextlib.contextmanager
    def open_write(self, path: str, **more: Any) -> Iterator[Any]:
        self._fail("write", path)
        with super().open_write(path, **more) as writer:
            yield writer
            self._fail("publish", path)


def filled(store: Filled) -> Filled:
    for name in NAMES:
        put(store, name, f"content of {name}".encode())
    return store


def on(path: str, error: Exception, *, times: int = 1_000) -> Callable[[str], None]:
    left = [times]

    def fail(now: str) -> None:
        if now == path and left[0]:
            left[0] -= 1
            raise error

    return fail


def test_one_failure_stops_no_other() -> None:
    source, destination, journal = filled(Stubborn(read=on("b.csv", TransferFailed("broken")))), MemoryStore(), Journal()
    result = failing(source, destination, Orders(delete_source=True), journal=journal)
    assert states(result) == {"a.csv": "written", "b.csv": "failed", "c.txt": "written"}
    assert set(content(destination)) == {"a.csv", "c.txt"}
    assert "b.csv" in content(source)
    assert "a.csv" not in content(source)
    assert journal.told["b.csv"] == ["discarded"]
    text = str(result).splitlines()
    assert text[0].startswith("2 of 3 files delivered, ")
    assert text[0].endswith("; 1 failed")
    assert text[1] == "failed memory://b.csv: broken"


@pytest.mark.parametrize(("times", "state"), [(1, "written"), (2, "written"), (3, "failed")])
@pytest.mark.parametrize("verb", ["read", "end", "write", "publish"])
def test_what_may_pass_is_tried_again(verb: str, times: int, state: str) -> None:
    ends = [Stubborn(**{verb: on("a.csv", TransferFailed("broke off", transient=True), times=times)}) for _ in range(2)]
    source, destination = (filled(ends[0]), MemoryStore()) if verb in {"read", "end"} else (filled(MemoryStore()), ends[1])
    if state == "failed":
        assert states(failing(source, destination, Orders(pattern="a*")))["a.csv"] == "failed"
        assert content(destination) == {}
    else:
        assert states(transfer(source, destination, Orders(pattern="a*")))["a.csv"] == state
        assert content(destination) == {"a.csv": b"content of a.csv"}


def test_a_defect_in_one_file_is_told_without_its_text() -> None:
    result = failing(filled(Stubborn(read=on("a.csv", RuntimeError("MRN 4711")))), MemoryStore(), Orders(pattern="[ab]*"))
    assert states(result) == {"a.csv": "failed", "b.csv": "written"}
    assert "MRN" not in str(result)
    assert "RuntimeError" in str(result)


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_run() -> None:
    source = filled(Stubborn())
    source._failures["end"] = lambda path: put(source, "a.csv", b"longer than before") if path == "a.csv" and source.stat("a.csv").size == 16 else None  # type: ignore[union-attr]
    true = source.open_read

    @contextlib.contextmanager
    def checking(file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        with true(file, start, length) as body:
            yield body
        source._same(file)

    source.open_read = checking  # type: ignore[method-assign]
    destination = MemoryStore()
    result = transfer(source, destination, Orders(pattern="[ab].csv", delete_source=True))
    assert states(result) == {"a.csv": "left", "b.csv": "written"}
    assert "a.csv" not in content(destination)
    assert content(source)["a.csv"] == b"longer than before"
    assert "1 left" in str(result)
    assert "the next run takes it" in str(result)


def test_a_source_that_changes_after_its_delivery_is_kept() -> None:
    source, destination = filled(Stubborn()), MemoryStore()
    source._failures["delete"] = lambda path: put(source, path, b"a newer version")
    result = failing(source, destination, Orders(pattern="a.csv", delete_source=True))
    assert content(destination) == {"a.csv": b"content of a.csv"}
    assert content(source)["a.csv"] == b"a newer version"
    assert (result.files[0].state, result.files[0].source_deleted) == ("written", False)
    assert "the source is kept" in str(result)


def test_a_source_that_cannot_be_deleted_fails_the_run_and_is_named() -> None:
    source, destination, journal = filled(Stubborn(delete=on("a.csv", ResourceError("access denied")))), MemoryStore(), Journal()
    result = failing(source, destination, Orders(pattern="[ab].csv", delete_source=True), journal=journal)
    assert result.ingested == 2
    assert [file.source_deleted for file in result.files] == [False, True]
    assert result.files[0].error == "delivered, but its source is kept: access denied"
    assert journal.told["a.csv"][-1] == "removing source"


class Folding(MemoryStore):
    """Takes names that differ only by case, by how accents are written, or by dots and spaces at their end for one, as disks of other systems do."""

    def _standing(self, path: str) -> str:
        alike = self._folded(path)
        return next((name for name in self._files if self._folded(name) == alike), path)

    @staticmethod
    def _folded(path: str) -> str:
        return "/".join(part.rstrip(" .") for part in unicodedata.normalize("NFC", path).casefold().split("/"))

    def stat(self, path: str) -> FileInfo | None:
        found = super().stat(self._standing(path))
        return found and replace(found, path=path)

    def open_write(self, path: str, **options: Any) -> AbstractContextManager[Any]:  # type: ignore[override]  # whatever it is asked for
        return super().open_write(self._standing(path), **options)


@pytest.mark.parametrize(
    "names",
    [("Lab.csv", "lab.csv"), ("caf\u00e9.csv", "cafe\u0301.csv"), ("A/x.csv", "a/x.csv", "a/X.csv"), ("x.csv", "x.csv.", "x.csv .", "X.csv "), ("a/x", "a./x")],
)
@pytest.mark.parametrize("move", [True, False])
def test_of_names_that_the_destination_takes_for_one_only_one_is_delivered(names: tuple[str, ...], move: bool) -> None:
    source, target = MemoryStore(), Folding()
    for name in names:
        put(source, name, f"content of {name}".encode())
    with pytest.raises(PartlyFailed, match="takes this name and that of another file") as caught:
        transfer(source, target, Orders("", "**/*", delete_source=move))
    result = caught.value.result
    assert result is not None
    assert sorted(file.state for file in result.files) == ["failed"] * (len(names) - 1) + ["written"]
    (delivered,) = content(target).values()
    kept = set(content(source).values())
    assert {delivered, *kept} == {f"content of {name}".encode() for name in names}
    assert (delivered in kept) is not move


def test_names_that_differ_by_case_all_arrive_where_they_are_different() -> None:
    source, target = MemoryStore(), MemoryStore()
    for name in ("a.csv", "A.csv", "b.csv"):
        put(source, name, name.encode())
    put(target, "a.csv", b"old")
    transfer(source, target, Orders(delete_source=True))
    assert content(target) == {name: name.encode() for name in ("a.csv", "A.csv", "b.csv")}
    assert content(source) == {}


def test_names_that_differ_by_case_arrive_again_whatever_lies_beside_the_target() -> None:
    class Guarded(MemoryStore):
        def list(self, pattern: str = "*", *, ordered: bool = True) -> Iterator[Any]:
            if not pattern.startswith("in/"):
                raise ResourceError("cannot list what is not the target")
            return super().list(pattern, ordered=ordered)

    source, target = MemoryStore(), Guarded()
    for name in ("a.csv", "A.csv", "sub/b.csv", "Sub/b.csv"):
        put(source, name, name.encode())
    for _ in range(2):
        assert transfer(source, target, Orders(pattern="**/*", target="in")).ingested == 4
    assert content(target) == {f"in/{name}": name.encode() for name in ("a.csv", "A.csv", "sub/b.csv", "Sub/b.csv")}


def test_young_files_are_left() -> None:
    source = filled(MemoryStore())
    now = datetime.now(UTC)
    for name, seconds in (("a.csv", 1), ("b.csv", 100)):
        file, data = source._files[name]
        source._files[name] = (type(file)(file.path, file.size, now - timedelta(seconds=seconds), file.version), data)
    result = transfer(source, MemoryStore(), Orders(min_age=50))
    assert states(result) == {"a.csv": "left", "b.csv": "written", "c.txt": "written"}
    assert "left memory://a.csv: younger than 50 s (min_age); the next run takes it" in str(result)
    assert "note: min_age says nothing of 1 file, whose time of modification the source does not tell" in str(result)


@pytest.mark.parametrize(("exists", "state", "stays"), [("replace", "replaced", False), ("skip", "skipped", True), ("fail", "failed", True)])
def test_what_stands_there_already(source: MemoryStore, exists: Any, state: str, stays: bool) -> None:
    destination = MemoryStore()
    put(destination, "a.csv", b"before")
    orders = Orders(pattern="*.csv", exists=exists, delete_source=True)
    result = failing(source, destination, orders) if state == "failed" else transfer(source, destination, orders)
    assert states(result) == {"a.csv": state, "b.csv": "written"}
    assert content(destination)["a.csv"] == (b"before" if stays else b"content of a.csv")
    assert ("a.csv" in content(source)) is stays


def test_a_file_that_somebody_else_puts_there_meanwhile_is_skipped(source: MemoryStore) -> None:
    destination = Stubborn()
    destination._failures["publish"] = lambda path: _faster(destination, path)
    result = transfer(source, destination, Orders(pattern="a.csv", exists="skip", delete_source=True))
    assert states(result) == {"a.csv": "skipped"}
    assert content(destination) == {"a.csv": b"faster"}
    assert "a.csv" in content(source)


def _faster(store: MemoryStore, path: str) -> None:
    with MemoryStore.open_write(store, path) as writer:
        writer.write(b"faster")


def test_a_dry_run_does_nothing(source: MemoryStore) -> None:
    destination, journal = MemoryStore(), Journal()
    result = transfer(source, destination, Orders(pattern="*.csv", dry_run=True, delete_source=True), journal=journal)
    assert states(result) == {"a.csv": "planned", "b.csv": "planned"}
    assert content(destination) == {}
    assert len(content(source)) == len(NAMES)
    assert not journal.told
    assert str(result).startswith("would transfer 2 of 2 files, 32 B\n")


def test_a_dry_run_says_what_would_be_skipped(source: MemoryStore) -> None:
    destination = MemoryStore()
    put(destination, "a.csv", b"old")
    assert states(transfer(source, destination, Orders(pattern="*.csv", dry_run=True, exists="skip"))) == {"a.csv": "skipped", "b.csv": "planned"}


@pytest.mark.parametrize("more", [0, 30])
def test_a_dry_run_says_what_would_fail(source: MemoryStore, more: int) -> None:
    destination = MemoryStore()
    for number in range(more):  # enough for one listing of the target
        put(source, f"{number}.csv", b"")
    put(destination, "a.csv", b"old")
    orders = Orders(pattern="*.csv", exists="fail", delete_source=True)
    foreseen = failing(source, destination, replace(orders, dry_run=True))
    assert (states(foreseen)["a.csv"], states(foreseen)["b.csv"]) == ("failed", "planned")
    assert set(content(destination)) == {"a.csv"}
    assert {file.source for file in foreseen.failed} == {file.source for file in failing(source, destination, orders).failed}


class Watched(MemoryStore):
    """Counts the files that are being read."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self._guard = 0, 0, threading.Lock()

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        with self._guard:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with super().open_read(file, start, length) as body:
            yield body
        with self._guard:
            self.now -= 1


@pytest.mark.parametrize("most", [1, 3, 8])
def test_no_more_files_are_in_flight_than_asked(most: int) -> None:
    source = Watched()
    for number in range(20):
        put(source, f"{number:02d}", b"x")
    assert transfer(source, MemoryStore(), Orders(files_in_flight=most)).ingested == 20
    assert 1 <= source.most <= most
    assert source.now == 0


class Gated(MemoryStore):
    """Lets nobody read before it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    @contextlib.contextmanager
    def open_read(self, file: FileInfo, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        assert self.gate.wait(20)
        with super().open_read(file, start, length) as body:
            yield body


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stop_while_the_threads_begin_stops_those_that_have_begun(stop: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = Gated(), MemoryStore()
    for number in range(30):
        put(source, f"{number:02d}", b"x")
    submit, begun = ThreadPoolExecutor.submit, []

    def third_fails(self: ThreadPoolExecutor, *work: Any) -> Any:
        begun.append(submit(self, *work))
        if len(begun) == 3:
            raise stop
        return begun[-1]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", third_fails)
    monkeypatch.setattr(route, "GIVE_UP_SECONDS", 0.05)  # those that have begun wait for the gate
    with pytest.raises(stop):
        transfer(source, target, Orders(delete_source=True))
    monkeypatch.undo()
    source.gate.set()
    assert not concurrent.futures.wait(begun, timeout=20).not_done
    assert {file.path for file in source.list()} == {f"{number:02d}" for number in range(30)}
    assert not list(target.list())


def test_large_files_are_fewer_at_a_time_so_that_memory_is_bounded() -> None:
    source = Watched()
    for number in range(6):
        put(source, f"{number}", b"x")
        file, data = source._files[str(number)]
        source._files[str(number)] = (type(file)(file.path, LARGE_BYTES * 4, None, file.version), data)
    failing(source, MemoryStore(), Orders())  # their sizes do not agree
    assert 1 < source.most <= BUDGET_BYTES // LARGE_BYTES


def test_progress_tells_files_and_bytes(source: MemoryStore) -> None:
    seen: list[Progress] = []
    transfer(source, MemoryStore(), Orders(pattern="**/*"), on_progress=seen.append)
    total = sum(map(len, content(source).values()))
    assert (seen[-1].files, seen[-1].total_files, seen[-1].bytes, seen[-1].total_bytes) == (5, 5, total, total)


@pytest.mark.parametrize("where", ["memory", "one file system"])
def test_the_rate_is_kept_by_pauses(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Any] = [MemoryStore() if where == "memory" else LocalStore(FolderOptions(path=str(tmp_path / name))) for name in ("in", "out")]
    pauses: list[float] = []
    true = threading.Event.wait

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        pauses.append(timeout or 0)
        return true(event, 0)

    put(ends[0], "large", bytes(1_000_000))
    monkeypatch.setattr(threading.Event, "wait", wait)
    transfer(ends[0], ends[1], Orders(pattern="large", bytes_per_second=1_000_000.0))
    assert 0.9 < max(pauses) <= 1.0


class ToldToStopError(BaseException):
    """Whatever stops a process."""


def test_a_stop_gives_up_what_is_under_way_and_leaves_nothing_half(source: MemoryStore) -> None:
    put(source, "slow", bytes(100 << 20))
    destination, journal = MemoryStore(), Journal()

    def stop(now: Progress) -> None:
        if now.bytes > 1_000_000:  # the large one is under way
            raise ToldToStopError

    with pytest.raises(ToldToStopError) as caught:
        transfer(source, destination, Orders(bytes_per_second=10e6), journal=journal, on_progress=stop)
    assert partly(caught.value) == (len(content(destination)), 0)
    assert "slow" not in content(destination)
    assert set(content(destination)) <= {"a.csv", "b.csv", "c.txt"}
    assert journal.told["slow"] == ["discarded"]


def test_a_stop_does_not_wait_for_a_server_that_does_not_answer(source: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stalled, released = threading.Event(), threading.Event()

    def stall(_: str) -> None:
        stalled.set()
        released.wait(60)

    def stop(_: Progress) -> None:
        if stalled.is_set():
            raise ToldToStopError

    monkeypatch.setattr(route, "GIVE_UP_SECONDS", 0.1)
    destination = Stubborn(write=stall)
    with pytest.raises(ToldToStopError) as caught:
        transfer(source, destination, Orders(pattern="a.csv"), on_progress=stop)
    assert not released.is_set()
    assert partly(caught.value) == (0, 1)
    released.set()
    for thread in [one for one in threading.enumerate() if one.name.startswith("ferry-file")]:
        thread.join(10)
    assert content(destination) == {}, "what comes back late publishes nothing"


class Unverifying(MemoryStore):
    """Takes files, and cannot tell what it holds."""

    @contextlib.contextmanager
    def open_write(self, path: str, **more: Any) -> Iterator[Any]:
        with super().open_write(path, **more) as writer:
            yield writer
        writer.published = replace(writer.receipt, verified="accepted")


def test_a_source_is_kept_when_a_store_cannot_tell_what_it_holds(source: MemoryStore) -> None:
    result = failing(source, Unverifying(), Orders(pattern="a.csv", delete_source=True))
    assert (result.files[0].state, result.files[0].source_deleted) == ("written", False)
    assert "its source is kept" in str(result.files[0].error)
    assert "a.csv" in content(source)


@pytest.mark.parametrize(("exists", "listings"), [("replace", 0), ("skip", 1)])
def test_a_target_with_folders_is_listed_only_when_that_saves_questions(exists: Any, listings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = MemoryStore(), LocalStore(FolderOptions(path=str(tmp_path)))
    for number in range(25):
        put(source, f"{number:02d}", b"x")
    listed: list[str] = []
    true = LocalStore.list

    def listing(store: LocalStore, pattern: str, **more: Any) -> Any:
        listed.append(pattern)
        return true(store, pattern, **more)

    monkeypatch.setattr(LocalStore, "list", listing)
    assert transfer(source, destination, Orders(exists=exists)).ingested == 25
    assert len(listed) == listings


@pytest.mark.parametrize("at", ["publishing", "written", "removing source"])
def test_a_lost_lease_stops_everything(source: MemoryStore, at: str) -> None:
    def refuse(path: str, state: str) -> None:
        if state == at and path == "a.csv":
            raise LeaseLost("gone")

    destination = MemoryStore()
    with pytest.raises(LeaseLost):
        transfer(source, destination, Orders(pattern="a.csv", delete_source=True), journal=Journal(refuse))
    assert ("a.csv" in content(destination)) is (at != "publishing")
    assert "a.csv" in content(source)


def test_a_delivery_that_could_not_be_noted_is_not_sent_again() -> None:
    def refuse(_: str, state: str) -> None:
        if state == "written":
            raise FerryError("the control database is away", transient=True)

    writes: list[str] = []
    destination = Stubborn(write=writes.append)
    result = failing(filled(MemoryStore()), destination, Orders(pattern="a.csv", delete_source=True), journal=Journal(refuse))
    assert writes == ["a.csv"]
    assert result.files[0].state == "written"
    assert "delivered, but not noted" in str(result.files[0].error)


# What earlier runs left in the ledger.


def known(source: MemoryStore, path: str, state: Any, *, version: str | None = None) -> Journal:
    journal = Journal()
    file = source.stat(path)
    assert file is not None
    journal.known[path, f"memory://{path}"] = Earlier(17, state, version or file.version)
    return journal


@pytest.mark.parametrize("state", ["written", "replaced"])
def test_what_was_delivered_and_has_not_changed_is_not_sent_again(source: MemoryStore, state: str) -> None:
    destination = MemoryStore()
    result = transfer(source, destination, Orders(pattern="*.csv"), journal=known(source, "a.csv", state))
    assert states(result) == {"a.csv": "already delivered", "b.csv": "written"}
    assert set(content(destination)) == {"b.csv"}
    assert "1 already delivered" in str(result)
    again = transfer(source, destination, Orders(pattern="*.csv", redeliver=True), journal=known(source, "a.csv", state))
    assert states(again) == {"a.csv": "written", "b.csv": "replaced"}


@pytest.mark.parametrize("state", ["swept", "discarded", "moved", "writing"])
def test_what_was_not_delivered_or_came_back_is_sent(source: MemoryStore, state: str) -> None:
    assert states(transfer(source, MemoryStore(), Orders(pattern="a.csv"), journal=known(source, "a.csv", state))) == {"a.csv": "written"}


def test_another_version_is_sent(source: MemoryStore) -> None:
    assert states(transfer(source, MemoryStore(), Orders(pattern="a.csv"), journal=known(source, "a.csv", "written", version="old"))) == {"a.csv": "written"}


@pytest.mark.parametrize("state", ["written", "replaced", "removing source"])
def test_a_move_that_ended_before_the_deletion_is_ended(source: MemoryStore, state: str) -> None:
    destination, journal = MemoryStore(), known(source, "a.csv", state)
    put(destination, "a.csv", b"content of a.csv")
    result = transfer(source, destination, Orders(pattern="a.csv", delete_source=True), journal=journal)
    assert result.files[0].source_deleted
    assert "a.csv" not in content(source)
    assert journal.told["a.csv"] == ["removing source", "moved"]


@pytest.mark.parametrize("standing", [None, b"short", b"CONTENT OF A.CSV"], ids=["gone", "another size", "other bytes"])
def test_a_source_is_not_deleted_when_its_delivery_is_not_there_any_more(source: MemoryStore, standing: bytes | None) -> None:
    destination = MemoryStore()
    if standing is not None:
        put(destination, "a.csv", standing)
    result = failing(source, destination, Orders(pattern="a.csv", delete_source=True), journal=known(source, "a.csv", "written"))
    assert "its source is kept (--redeliver" in str(result.files[0].error)
    assert "a.csv" in content(source)


@pytest.mark.parametrize("state", ["publishing", "ambiguous"])
@pytest.mark.parametrize(
    ("standing", "expected", "publications"),
    [(b"content of a.csv", "written", 0), (b"CONTENT OF A.CSV", "replaced", 1), (b"other", "replaced", 1), (None, "written", 1)],
    ids=["ours", "same size", "another", "nothing"],
)
def test_a_publication_that_nobody_can_tell_of_is_looked_at(source: MemoryStore, state: str, standing: bytes | None, expected: str, publications: int) -> None:
    writes: list[str] = []
    destination, journal = Stubborn(), known(source, "a.csv", state)
    if standing is not None:
        put(destination, "a.csv", standing)
    destination._failures["write"] = writes.append
    result = transfer(source, destination, Orders(pattern="a.csv"), journal=journal)
    assert states(result) == {"a.csv": expected}
    assert len(writes) == publications
    assert content(destination)["a.csv"] == b"content of a.csv"
    assert journal.told["a.csv"][-1] == expected


class Endpoint:
    """Takes bodies (`SendsBody`), in memory."""

    def __init__(self, *failures: Exception, may_repeat: bool = False) -> None:
        self.may_repeat = may_repeat
        self.notes: list[str] = []
        self.taken: dict[str, bytes] = {}
        self.keys: list[str] = []
        self._failures = list(failures)

    def url(self, path: str) -> str:
        return f"https://host/{path}"

    def slot(self, path: str) -> str | None:
        del path
        return None

    def send(
        self, path: str, open_body: Callable[[], AbstractContextManager[BinaryIO]], size: int, *, key: str, on_commit: Callable[[], None], **_: Any
    ) -> Receipt:
        self.keys.append(key)
        with open_body() as body:
            data = body.read(size) if size else b""
        on_commit()
        if self._failures:
            raise self._failures.pop(0)
        self.taken[path] = data
        return Receipt(size, hashlib.sha256(data).hexdigest(), "accepted")

    def probe(self, path: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_bodies_are_sent_and_their_sources_deleted(source: MemoryStore) -> None:
    endpoint, journal = Endpoint(), Journal()
    expected = {name: data for name, data in content(source).items() if "/" not in name}
    result = transfer(source, endpoint, Orders(delete_source=True), journal=journal)
    assert endpoint.taken == expected
    assert {file.verified for file in result.files} == {"accepted"}
    assert journal.told["a.csv"] == ["writing", "publishing", "written", "removing source", "moved"]
    assert len(set(endpoint.keys)) == 3


def test_the_key_of_a_delivery_is_the_same_when_it_is_sent_again(source: MemoryStore) -> None:
    endpoint = Endpoint(TransferFailed("503"))
    failing(source, endpoint, Orders(pattern="a.csv"))
    transfer(source, endpoint, Orders(pattern="a.csv"))
    put(source, "a.csv", b"another version")
    transfer(source, endpoint, Orders(pattern="a.csv"))
    assert endpoint.keys[0] == endpoint.keys[1] != endpoint.keys[2]


def test_the_same_bytes_put_there_anew_or_redelivered_are_another_delivery(source: MemoryStore) -> None:
    """Else an endpoint that keeps to the key stores nothing, and a move deletes the source."""
    endpoint, now = Endpoint(), datetime.now(UTC).replace(microsecond=0)
    file, data = source._files["a.csv"]
    for second in (0.0, 0.25, 60.0):
        source._files["a.csv"] = (replace(file, modified=now + timedelta(seconds=second)), data)
        transfer(source, endpoint, Orders(pattern="a.csv"))
    assert endpoint.keys[0] == endpoint.keys[1] != endpoint.keys[2], "a listing may tell more than whole seconds"
    for _ in range(2):
        transfer(source, endpoint, Orders(pattern="a.csv", redeliver=True))
    assert len(set(endpoint.keys)) == 4


def test_an_answer_that_was_lost_parks_the_file_with_its_source(source: MemoryStore) -> None:
    endpoint, journal = Endpoint(OutcomeUnknown("the answer was lost")), Journal()
    result = failing(source, endpoint, Orders(pattern="a.csv", delete_source=True), journal=journal)
    assert states(result) == {"a.csv": "ambiguous"}
    assert "a.csv" in content(source)
    assert journal.told["a.csv"] == ["writing", "publishing", "ambiguous"]


@pytest.mark.parametrize("state", ["ambiguous", "publishing"])
@pytest.mark.parametrize("redeliver", [False, True])
def test_a_parked_file_is_left_alone_and_named(source: MemoryStore, state: str, redeliver: bool) -> None:
    endpoint, journal = Endpoint(), Journal()
    file = source.stat("a.csv")
    assert file is not None
    journal.known["a.csv", "https://host/a.csv"] = Earlier(17, state, file.version)  # type: ignore[arg-type]
    result = failing(source, endpoint, Orders(pattern="[ab].csv", redeliver=redeliver), journal=journal)
    assert states(result) == {"a.csv": "ambiguous", "b.csv": "written"}
    assert set(endpoint.taken) == {"b.csv"}
    assert "ferry files resolve 17 delivered|resend" in str(result)


@pytest.mark.parametrize("state", ["ambiguous", "publishing"])
def test_what_may_be_sent_again_is_not_parked(source: MemoryStore, state: str) -> None:
    endpoint, journal = Endpoint(may_repeat=True), Journal()
    file = source.stat("a.csv")
    assert file is not None
    journal.known["a.csv", "https://host/a.csv"] = Earlier(17, state, file.version)  # type: ignore[arg-type]
    assert states(transfer(source, endpoint, Orders(pattern="a.csv"), journal=journal)) == {"a.csv": "replaced"}  # sent a second time, and said so
    assert set(endpoint.taken) == {"a.csv"}


def test_nothing_is_counted_any_more_when_a_transfer_has_returned(source: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lists on would open connections that nobody closes."""
    monkeypatch.setattr(unmatched, "COUNTING_SECONDS", 0.2)
    listed: list[float] = []
    true = source.list

    def slowly(pattern: str, *, ordered: bool = True) -> Iterator[FileInfo]:
        for file in true(pattern, ordered=ordered):
            if not ordered:
                time.sleep(0.15)
                listed.append(time.monotonic())
            yield file

    for number in range(20):
        put(source, f"below/{number}", b"x")
    monkeypatch.setattr(source, "list", slowly)
    assert transfer(source, MemoryStore(), Orders()).notes == ()
    returned = time.monotonic()
    assert not [thread for thread in threading.enumerate() if thread.name == "ferry-count"]
    assert listed
    assert max(listed) <= returned


def test_a_transfer_that_fails_counts_no_more(source: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[threading.Event] = []
    true = unmatched.Unmatched.__exit__

    def exit_(counting: unmatched.Unmatched, *error: object) -> None:
        true(counting, *error)
        ended.append(counting._ended)

    monkeypatch.setattr(unmatched.Unmatched, "__exit__", exit_)

    def refuse(*_: str) -> None:
        raise LeaseLost("gone")

    with pytest.raises(LeaseLost):
        transfer(source, MemoryStore(), Orders(), journal=Journal(refuse))
    assert [event.is_set() for event in ended] == [True]


@pytest.mark.parametrize("most", [1, 16])
def test_a_move_sends_links_before_the_files_that_they_lead_to(tmp_path: Path, most: int) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/2024-01.csv").write_bytes(b"the content")
    for name in ("1.csv", "latest.csv"):
        (tmp_path / "in" / name).symlink_to("2024-01.csv")
    (tmp_path / "in/gone.csv").symlink_to("2023-12.csv")
    stores = [LocalStore(FolderOptions(path=str(tmp_path / name))) for name in ("in", "out")]
    result = transfer(stores[0], stores[1], Orders(delete_source=True, files_in_flight=most))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == dict.fromkeys(["1.csv", "2024-01.csv", "latest.csv"], b"the content")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["gone.csv"]
    assert any("gone.csv is a link that leads nowhere" in note for note in result.notes)


@pytest.mark.parametrize(("kind", "more", "most"), [("filesystem", {}, 32), ("sftp", {}, 8), ("rest_api", {}, 16), ("sftp", {"files_in_flight": 3}, 3)])
def test_servers_with_a_program_for_each_file_are_asked_for_fewer_at_once(tmp_path: Path, kind: str, more: dict[str, Any], most: int) -> None:
    ends = {
        "filesystem": {"path": str(tmp_path / "out")},
        "sftp": {"host": "127.0.0.1", "username": "ferry", "path": "/out"},
        "rest_api": {"url": "https://127.0.0.1/in"},
    }
    job = jobs.transfer_job("filesystem", {"path": str(tmp_path)}, kind, {**ends[kind], **more})
    assert job.orders.files_in_flight == most
