"""Batches made in another thread while the one before them is being sent."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import pyarrow as pa

_AHEAD = 2  # batches that wait


def ahead(batches: Iterator[pa.RecordBatch]) -> Generator[Any]:
    """The same batches; their iterator is used in one thread alone."""
    with ThreadPoolExecutor(1, thread_name_prefix="ferry-cast") as thread:
        coming = deque(thread.submit(next, batches, None) for _ in range(_AHEAD))
        while (batch := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, batches, None))
            yield batch
