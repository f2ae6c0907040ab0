"""Every source with every destination: the bytes that arrive are those that left, whatever their number."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

import engine
from engine.options import MIB
from tests.effort import spread
from tests.places import FolderPlace, Place, RestPlace, S3Place, SftpPlace
from tests.stores.rest_server import endpoint
from tests.test_memory import peak_mb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.control.platform import Control

PART = 5 * MIB
SIZES = {"none.bin": 0, "one.bin": 1, "below.bin": PART - 1, "part.bin": PART, "above.bin": PART + 1, "sub/parts.bin": 26 * MIB}
SOURCES = ("folder", "s3", "sftp")
DESTINATIONS = ("folder", "nfs", "s3", "sftp", "rest")
PAIRS = [(source, destination) for source in SOURCES for destination in DESTINATIONS if destination != "nfs"]  # a URL cannot say `nfs`
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Place]]:
    """Makes a new place of a kind."""
    with contextlib.ExitStack() as stack:
        rest = stack.enter_context(endpoint())

        def made(kind: str) -> Place:
            name = f"pairs-{next(_numbers)}"
            if kind == "rest":
                return RestPlace(rest, name)
            if kind == "sftp":
                return SftpPlace(request.getfixturevalue("sftp_server"), name)
            if kind == "s3":
                return S3Place(
                    request.getfixturevalue("s3_client"), request.getfixturevalue("s3_server").options(), request.getfixturevalue("pairs_bucket"), name
                )
            return FolderPlace(tmp_path_factory.mktemp(name), "nfs" if kind == "nfs" else "filesystem")

        yield made


@pytest.fixture(scope="module")
def pairs_bucket(s3_client: Any) -> Iterator[str]:
    s3_client.create_bucket(Bucket="pairs")
    yield "pairs"
    for page in s3_client.get_paginator("list_objects_v2").paginate(Bucket="pairs"):
        for entry in page.get("Contents", []):
            s3_client.delete_object(Bucket="pairs", Key=entry["Key"])
    s3_client.delete_bucket(Bucket="pairs")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each size, without a pattern that would hide pieces in a wrong order."""
    folder = tmp_path_factory.mktemp("files")
    made = {}
    for name, size in {**SIZES, "small.bin": 5_000_000, "large.bin": 100_000_000}.items():
        made[name] = folder / name.rpartition("/")[2]
        made[name].write_bytes(random.Random(size).randbytes(size))
    return made


@pytest.fixture(scope="module")
def hashes(files: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


@pytest.fixture(scope="module")
def filled(places: Callable[[str], Place], files: dict[str, Path]) -> Callable[..., Place]:
    """A source of a kind with these files, made once."""
    known: dict[tuple[str, ...], Place] = {}

    def made(kind: str, *names: str) -> Place:
        if (kind, *names) not in known:
            known[kind, *names] = place = places(kind)
            for name in names:
                place.put(name, files[name])  # type: ignore[union-attr]  # a REST endpoint is no source
        return known[kind, *names]

    return made


@pytest.mark.parametrize(("source", "destination"), spread(PAIRS, 6))
def test_files_of_every_size_arrive_as_they_are(
    places: Callable[[str], Place], filled: Callable[..., Place], hashes: dict[str, str], source: str, destination: str
) -> None:
    came, goes = filled(source, *SIZES), places(destination)
    chunks = {"chunk_size_mb": 5} if destination == "s3" else {}
    result = engine.transfer(came.url, goes.url, pattern="**/*", source_options=came.options, dest_options={**goes.options, **chunks})
    expected = {(name.rpartition("/")[2] if destination == "rest" else name): hashes[name] for name in SIZES}
    assert goes.hashes() == expected
    assert goes.leftovers() == []
    assert {file.state for file in result.files} == {"written"}
    assert sorted(file.bytes for file in result.files) == sorted(SIZES.values())
    assert all(file.sha256 in {None, *expected.values()} for file in result.files)
    assert came.hashes() == {name: hashes[name] for name in SIZES}


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_connector_moves_between_every_pair(
    places: Callable[[str], Place], files: dict[str, Path], hashes: dict[str, str], control: Control, source: str, destination: str
) -> None:
    came, goes = places(source), places(destination)
    came.put("above.bin", files["above.bin"])  # type: ignore[union-attr]  # no REST endpoint
    connector = control.transfer((came.type_code, goes.type_code), came.config, {**goes.config, "delete_source": True})
    result = engine.run_connector(connector)
    assert goes.hashes() == {"above.bin": hashes["above.bin"]}
    assert goes.leftovers() == []
    assert came.names() == set()
    assert (result.ingested, result.files[0].source_deleted) == (1, True)
    assert [(row["state"], row["source_path"]) for row in control.files(connector)] == [("moved", "above.bin")]
    assert control.statuses(connector) == ["success"]


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_a_move_has_emptied_is_nothing_to_transfer(places: Callable[[str], Place], files: dict[str, Path], control: Control, source: str) -> None:
    came = places(source)
    came.put("one.bin", files["one.bin"])  # type: ignore[union-attr]  # no REST endpoint
    connector = control.transfer((came.type_code, "nfs"), {**came.config, "delete_source": True})
    assert engine.run_connector(connector).ingested == 1
    assert engine.run_connector(connector).headline == "nothing to transfer"


@pytest.mark.slow
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_memory_does_not_grow_with_the_file(
    places: Callable[[str], Place], filled: Callable[..., Place], hashes: dict[str, str], source: str, destination: str
) -> None:
    peaks = []
    for name in ("small.bin", "large.bin"):
        came, goes = filled(source, name), places(destination)
        options = [*_given("--source-option", came), *_given("--dest-option", goes)]
        peaks.append(peak_mb(["transfer", came.url, goes.url, *options]))
        assert goes.hashes() == {name: hashes[name]}
    assert peaks[1] < peaks[0] + 80  # MB: parts in flight, and what is read ahead
    assert peaks[1] < 250


def _given(option: str, place: Place) -> list[str]:
    return [part for key, value in place.options.items() for part in (option, f"{key}={value}")]
