"""Batches of rows that the compiled decoder writes, in memory as `copy_layout.py` draws it: how much of it each column is given, and Arrow columns of it.

The memory of a batch is used again once nobody holds its columns: 6 M rows of lineitem made 80,000 page faults instead of 150,000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.errors import ProcessingError
from engine.postgres import copy_compiled
from engine.postgres import copy_layout as layout
from engine.postgres.blocks import Blocks
from engine.postgres.convert import Unfit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from engine.postgres.blocks import Bytes

    Numbers = npt.NDArray[np.int64]

BATCH_BYTES = 4 << 20
MOST_ROWS = 1 << 16
DAYS_TO_2000 = 10_957
MICROSECONDS_TO_2000 = 946_684_800_000_000
_ALIGNED = 64
"""Regions begin at multiples of so many bytes from the start."""
_TEXT_BYTES = 32.0
"""Of each row, before any was seen."""
_SPARE = 1.25
"""Room for texts and elements, as a multiple of what rows had so far."""
_LEAST_TEXT_BYTES, _LEAST_ELEMENTS = 4.0, 0.125
"""Of each row, however little there was: a column that is empty for long may be filled later."""
_MOST_ROOM = 0x7FFFFFFF  # offsets are int32
_LEAST_ELEMENT_BYTES = 4
"""Of an array, on the wire: its length."""
_ALL_VALID = 0xFF
_LAST_ASCII = 0x7F


class BatchPlan:
    """How columns of these types stand in the memory of a batch, and how much of it each is given.

    One is used by one reader: what it has seen of the texts, and the memory that it is done with, are for its next batches.

    Args:
        types: Of the columns; the wire carries their values.
        batch_bytes: About how many bytes a batch has; one row that is longer is a batch of its own.

    Attributes:
        arenas: The memory of batches; longer rows have their own.
    """

    def __init__(self, types: Sequence[pa.DataType], batch_bytes: int = BATCH_BYTES) -> None:
        self.types = list(types)
        described = [*types, *(kind.value_type for kind in types if pa.types.is_list(kind))]
        self._lines = np.array([_line(_storage(kind)) for kind in described], np.int64).reshape(-1, layout.LINE)
        kinds = self._lines[:, layout.KIND]
        self._texts, self._lists = kinds == layout.TEXT, kinds == layout.LIST
        self._has_offsets = self._texts | self._lists
        self._inner = np.arange(len(types), len(described))
        self._lines[self._lists, layout.ELEMENTS] = self._inner
        self._least = np.where(self._texts, _LEAST_TEXT_BYTES, np.where(self._lists, _LEAST_ELEMENTS, 0.0))
        self._per_row = np.where(self._texts, _TEXT_BYTES, np.where(self._lists, 1.0, 0.0))
        self._batch_bytes = batch_bytes
        self.arenas = Blocks(batch_bytes + 4 * _ALIGNED * len(described))

    def begin(self) -> Batch:
        """A batch without rows."""
        rows = self._rows()
        return self._begin(rows, np.ceil(self._per_row * (rows * _SPARE)).astype(np.int64) + layout.SLACK)

    def begin_long(self, lengths: Sequence[int]) -> Batch:
        """A batch for one row that found no room in an empty one: its fields, or as many of them as have come, have these lengths."""
        room = np.ceil(self._per_row * _SPARE).astype(np.int64) + layout.SLACK
        for column, length in enumerate(lengths):
            room[column] = length + layout.SLACK
            if self._lists[column]:
                room[column] = length // _LEAST_ELEMENT_BYTES + 1
                room[self._lines[column, layout.ELEMENTS]] = length + layout.SLACK
        return self._begin(1, room)

    def _begin(self, rows: int, room: Numbers) -> Batch:
        lines, room = self._lines.copy(), np.minimum(room, _MOST_ROOM)
        items = np.full(len(lines), rows)
        items[self._inner] = room[self._lists]
        data = np.where(self._texts, room, items * lines[:, layout.WIDTH])
        sizes = -(-np.concatenate([(items + 7) // 8, self._has_offsets * (items + 1) * 4, data]) // _ALIGNED) * _ALIGNED
        lines[:, [layout.VALID, layout.OFFSETS, layout.DATA]] = (sizes.cumsum() - sizes).reshape(3, -1).T
        lines[:, layout.ROOM] = room
        arena = self._arena(int(sizes.sum()))
        arena[: sizes[: len(lines)].sum()] = _ALL_VALID
        for start in lines[self._has_offsets, layout.OFFSETS]:
            arena[start : start + 4] = 0
        return Batch(self, lines, rows, arena)

    def learn(self, rows: int, used: Mapping[int, int]) -> None:
        """What a batch had, by line: bytes of text, elements. Room grows at once, and shrinks slowly."""
        for line, size in used.items():
            seen = max(size / rows, self._per_row[line] / 2, self._least[line])
            self._per_row[line] = min(seen, self._batch_bytes)

    def lease(self, arena: Bytes) -> memoryview:
        """The same memory; when nobody has what is returned here any more, it is used again."""
        return self.arenas.lease(arena) if len(arena) == self.arenas.size else arena.data

    def give_back(self, arena: Bytes) -> None:
        """Nobody looks at it any more."""
        if len(arena) == self.arenas.size:
            self.arenas.give_back(arena)

    def _rows(self) -> int:
        """How many have room in a batch."""
        items = np.ones(len(self._lines))
        items[self._inner] = self._per_row[self._lists] * _SPARE
        fixed = items * (1 / 8 + 4 * self._has_offsets + self._lines[:, layout.WIDTH])
        row = float(fixed.sum() + self._per_row[self._texts].sum() * _SPARE)
        return max(1, min(int(self._batch_bytes / max(row, 1)), MOST_ROWS))

    def _arena(self, size: int) -> Bytes:
        return self.arenas.take() if size <= self.arenas.size else np.empty(size, np.uint8)


class Batch:
    """Rows on their way into columns.

    Attributes:
        size: Bytes of their columns, once the batch is closed.
    """

    def __init__(self, plan: BatchPlan, lines: Numbers, most: int, arena: Bytes) -> None:
        self._plan = plan
        self._lines = lines
        self._most = most
        self._arena = arena
        self._told = np.array([0, 0, 0, -1, -1], np.int64)
        self._decode = copy_compiled.decoder()
        self._memory = (len(plan.types), lines.ctypes.data, len(lines), arena.ctypes.data, len(arena), self._told.ctypes.data)
        self._used: dict[int, int] = {}
        self._is_taken = False
        self.size = 0

    @property
    def rows(self) -> int:
        """How many are there."""
        return int(self._told[layout.ROW])

    def add(self, source: Bytes, at: int) -> tuple[int, int]:
        """Decode rows of the stream, from `at` on. Gives how that ended (see `copy_layout`), and where."""
        self._told[layout.AT] = at
        how = self._decode(source.ctypes.data, len(source), self._most, *self._memory)
        if how == layout.FAILED:
            raise RuntimeError("the compiled decoder failed")
        return how, int(self._told[layout.AT])

    @property
    def ended_by(self) -> int:
        """The column of the field that ended decoding."""
        return int(self._told[layout.COLUMN])

    def close(self) -> Batch:
        """No more rows come."""
        top = len(self._plan.types)
        items = dict.fromkeys(range(top), self.rows)
        for line in range(len(self._lines)):
            kind, width, offsets = (int(self._lines[line, what]) for what in (layout.KIND, layout.WIDTH, layout.OFFSETS))
            count = items[line]
            self.size += (count + 7) // 8 + count * width
            if kind in (layout.TEXT, layout.LIST):
                end = offsets + 4 * count
                self._used[line] = int(self._arena[end : end + 4].view(np.int32)[0])
                self.size += 4 * (count + 1) + (self._used[line] if kind == layout.TEXT else 0)
            if kind == layout.LIST:
                items[int(self._lines[line, layout.ELEMENTS])] = self._used[line]
        self._plan.learn(self.rows, self._used)
        return self

    def columns(self) -> list[pa.Array]:
        """The rows' columns; once, in any thread.

        ±infinity and what 64 bits do not hold come out as the ADBC driver gives them (see `convert.py`).

        Raises:
            ProcessingError: Text that is not UTF-8.
            UnfitColumn: A numeric that its decimal does not hold.
        """
        if self._is_taken:
            raise RuntimeError("the memory of these columns may hold others by now")
        self._is_taken = True
        row, column = (int(self._told[what]) for what in (layout.UNFIT_ROW, layout.UNFIT_COLUMN))
        if 0 <= row < self.rows:  # the row after the last one is another batch's
            raise UnfitColumn(column, Unfit(row, _unfit(self._plan.types[column])))
        if 2 * self.size < len(self._arena):  # whoever keeps few rows shall not keep the memory of many; what is kept may be twice the rows' bytes
            columns = self._arrays(lambda at, size: pa.py_buffer(self._arena[at : at + size].tobytes()))
            self._plan.give_back(self._arena)
            return columns
        whole = pa.py_buffer(self._plan.lease(self._arena))
        return self._arrays(whole.slice)

    def _arrays(self, buffer: Callable[[int, int], pa.Buffer]) -> list[pa.Array]:
        return [self._array(line, kind, self.rows, buffer) for line, kind in enumerate(self._plan.types)]

    def _array(self, line: int, kind: pa.DataType, count: int, buffer: Callable[[int, int], pa.Buffer]) -> pa.Array:
        if isinstance(kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(kind, self._array(line, kind.storage_type, count, buffer))
        of = self._lines[line].tolist()
        valid = buffer(of[layout.VALID], (count + 7) // 8) if of[layout.NULLS] else None
        nulls = -1 if of[layout.NULLS] else 0
        if of[layout.KIND] not in (layout.TEXT, layout.LIST):
            size = (count + 7) // 8 if of[layout.KIND] == layout.BOOL else count * of[layout.WIDTH]
            return pa.Array.from_buffers(kind, count, [valid, buffer(of[layout.DATA], size)], nulls)
        offsets, used, data = buffer(of[layout.OFFSETS], 4 * (count + 1)), self._used[line], of[layout.DATA]
        if of[layout.KIND] == layout.LIST:
            return pa.Array.from_buffers(kind, count, [valid, offsets], nulls, children=[self._array(of[layout.ELEMENTS], kind.value_type, used, buffer)])
        array = pa.Array.from_buffers(kind, count, [valid, offsets, buffer(data, used)], nulls)
        if used and pa.types.is_string(kind) and self._arena[data : data + used].max() > _LAST_ASCII:
            try:
                array.validate(full=True)
            except pa.ArrowInvalid:
                raise corrupt("text that is not UTF-8") from None
        return array


class UnfitColumn(Exception):  # noqa: N818 - a finding, as `Unfit` is
    """A value that does not fit, and the position of its column."""

    def __init__(self, column: int, unfit: Unfit) -> None:
        super().__init__(unfit.why)
        self.column = column
        self.unfit = unfit


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _line(kind: pa.DataType) -> list[int]:
    """What the decoder must know of a type."""
    line = [0] * layout.LINE
    line[layout.KIND], line[layout.WIDTH] = _kind(kind)
    if pa.types.is_date(kind):
        line[layout.SETTING] = DAYS_TO_2000
    elif pa.types.is_timestamp(kind):
        line[layout.SETTING] = MICROSECONDS_TO_2000
    elif pa.types.is_decimal128(kind):
        line[layout.SETTING] = kind.scale
        line[layout.LIMIT_HIGH], line[layout.LIMIT_LOW] = np.array(divmod(10**kind.precision, 1 << 64), np.uint64).view(np.int64).tolist()
    return line


def _kind(kind: pa.DataType) -> tuple[int, int]:
    """Kind and width."""
    if pa.types.is_list(kind):
        return layout.LIST, 0
    if pa.types.is_decimal128(kind):
        return layout.NUMERIC, 16
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return layout.TEXT, 0
    if pa.types.is_boolean(kind):
        return layout.BOOL, 1
    return {16: layout.INT16, 32: layout.INT32, 64: layout.INT64, 128: layout.SIXTEEN}[kind.bit_width], kind.bit_width // 8


def _unfit(kind: pa.DataType) -> str:
    decimal = kind.value_type if pa.types.is_list(kind) else kind
    return f"NaN, ±infinity or more digits than {decimal.precision},{decimal.scale} allows"


def corrupt(what: str) -> ProcessingError:
    """What to raise for a stream that cannot be believed."""
    return ProcessingError(f"the server's COPY stream is not as it should be: {what}; the connection, or a proxy in it, changed it")
