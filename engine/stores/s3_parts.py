"""How an object is cut into the parts of a multipart upload (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)."""

from __future__ import annotations

from engine.options import MIB

MOST_PARTS = 10_000
_LARGEST_PART_IN_BUDGET = 64 * MIB


def part_size(number: int, chunk: int) -> int:
    """Bytes of part `number` (from 1) when parts begin at `chunk` bytes.

    Parts grow with their number, so that a stream whose length nobody knows does not meet the limit of 10,000 parts: `chunk` for the first thousand,
    twice that for the next, then four times that, but at least 64 MiB. So they hold 536 GiB with parts of 5 MiB, 539 GiB with the default of 8.

    Example:
        >>> [part_size(n, 8 * MIB) // MIB for n in (1, 1000, 1001, 2001)]
        [8, 8, 32, 64]
    """
    if number <= 1000:  # noqa: PLR2004 - as the docstring says
        return chunk
    return max(2 * chunk, _LARGEST_PART_IN_BUDGET // 2) if number <= 2000 else max(4 * chunk, _LARGEST_PART_IN_BUDGET)  # noqa: PLR2004
