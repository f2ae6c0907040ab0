"""Reading whole files with `CsvReader`, for tests."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from unittest.mock import patch

from engine.formats import csv_blocks
from engine.formats.csv_reader import CsvInput, CsvReader, Reject

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Whole:
    names: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    blocks: int = 0


class Pieces(io.RawIOBase):
    """A file whose reads give what a network happens to have."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def read(data: bytes | BinaryIO | Pieces, *, block: int = csv_blocks.BLOCK, largest: int = csv_blocks.LARGEST_RECORD, **dialect: Any) -> Whole:
    """Everything that a reader says of a file, read in blocks of that many bytes."""
    file = io.BytesIO(data) if isinstance(data, bytes) else cast("BinaryIO", data)
    whole = Whole()
    with patch.object(csv_blocks, "BLOCK", block), patch.object(csv_blocks, "LARGEST_RECORD", largest):
        reader = CsvReader(file, CsvInput(**dialect))
        whole.names = reader.names
        for one in reader:
            batch = one.text()
            assert batch.schema.names == list(reader.names)
            assert one.rows == len(batch)
            batch.validate(full=True)
            whole.blocks += 1
            whole.rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
            whole.lines += [one.line(row) for row in range(one.rows)]
            whole.raw += [one.raw(row) for row in range(one.rows)]
            whole.rejects += one.rejects
    return whole
