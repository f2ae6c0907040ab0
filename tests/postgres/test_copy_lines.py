"""Lines that the server writes: collected in memory that is used again, and never while somebody holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from engine.postgres.blocks import Blocks
from engine.postgres.copy_lines import LineCollector, count

if TYPE_CHECKING:
    from engine.protocols import Lines


def collected(blocks: Blocks, pieces: list[bytes]) -> list[Lines]:
    collector = LineCollector(blocks)
    deliveries = [delivery for piece in pieces for delivery in collector.feed(piece)]
    return [delivery.convert() for delivery in (*deliveries, *collector.end())]


@given(st.lists(st.binary(min_size=1, max_size=40).map(lambda line: line + b"\n"), max_size=60), st.integers(1, 64))
def test_all_lines_come_whole_and_in_order_and_those_that_are_held_stay(lines: list[bytes], size: int) -> None:
    blocks = Blocks(size)
    held = collected(blocks, lines)
    collected(blocks, [b"\0"] * 4 * size)  # in the same memory, if anybody had it
    assert b"".join(held) == b"".join(lines)
    ends = {0}
    for line in lines:
        ends.add(max(ends) + len(line))
    at = 0
    for piece in held:
        at += len(piece)
        assert at in ends


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    blocks = Blocks(1000)
    for _ in range(50):
        first, *more = collected(blocks, [b"x" * 99 + b"\n"] * 25)
        assert [len(first), *map(len, more)] == [1000, 1000, 500]
        part = first[10:20]
        del first, more
        assert blocks.spare == 2
        assert bytes(part) == b"x" * 10
        del part
        assert blocks.spare == 3


def test_few_lines_do_not_keep_the_memory_of_many() -> None:
    blocks = Blocks(1000)
    held = [lines for _ in range(50) for lines in collected(blocks, [b"a line\n"])]
    assert b"".join(held) == b"a line\n" * 50
    assert blocks.spare == 1


def test_a_row_longer_than_a_block_passes_as_it_came() -> None:
    long = b"y" * 5000 + b"\n"
    assert [bytes(lines) for lines in collected(Blocks(1000), [b"a\n", long, b"b\n"])] == [b"a\n", long, b"b\n"]


@given(st.binary())
def test_line_ends_are_counted(data: bytes) -> None:
    assert count(memoryview(data)) == data.count(b"\n")
