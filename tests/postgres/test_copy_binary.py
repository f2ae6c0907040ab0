"""The compiled decoder of COPY BINARY: any stream, cut anywhere, comes out exactly; a wrong one is refused, and never read past its end."""

from __future__ import annotations

import itertools
import os
import random
import struct
import subprocess
import sys
import uuid
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import ProcessingError
from engine.postgres import copy_layout as layout
from engine.postgres.copy_batch import BatchPlan, UnfitColumn
from engine.postgres.copy_binary import LARGEST_ROW, Decoder
from tests.postgres.copy_streams import HEADER, TRAILER, row, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    return st.integers(1 - 10**precision, 10**precision - 1).map(lambda n: scaled(n, scale))


def scaled(number: int, scale: int) -> Decimal:
    """number / 10 ** scale, without a context's rounding."""
    return Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale))


VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int16(): integers(16),
    pa.int32(): integers(32),
    pa.int64(): integers(64),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): TEXT,
    pa.binary(): st.binary(max_size=40),
    pa.date32(): st.integers(-2_440_588, 2_000_000_000),
    pa.time64("us"): st.integers(0, 86_400_000_000),
    pa.timestamp("us"): st.integers(-210_866_803_200_000_000, (1 << 63) - 1),
    pa.timestamp("us", tz="UTC"): st.integers(-210_866_803_200_000_000, (1 << 63) - 1),
    pa.uuid(): st.uuids().map(lambda u: u.bytes),
    pa.json_(pa.string()): TEXT,
    pa.decimal128(4, 2): decimals(4, 2),
    pa.decimal128(15, 2): decimals(15, 2),
    pa.decimal128(18, 0): decimals(18, 0),
    pa.decimal128(19, 19): decimals(19, 19),
    pa.decimal128(38, 0): decimals(38, 0),
    pa.decimal128(38, 7): decimals(38, 7),
    pa.decimal128(38, 38): decimals(38, 38),
}
LISTS = {pa.list_(kind): st.lists(st.none() | values, max_size=4) for kind, values in VALUES.items()}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[pa.DataType], list[tuple[Any, ...]]]:
    """Column types, and rows with NULLs."""
    known = {**VALUES, **LISTS}
    types = draw(st.lists(st.sampled_from(list(known)), min_size=1, max_size=6))
    return types, draw(st.lists(st.tuples(*(st.none() | known[kind] for kind in types)), max_size=12))


def read(pieces: Iterable[bytes], types: Sequence[pa.DataType], batch_bytes: int = 1 << 20) -> list[list[pa.Array]]:
    """Columns of each batch."""
    plan = BatchPlan(types, batch_bytes)
    decoder = Decoder(plan)
    made = [batch.columns() for piece in pieces for batch in decoder.feed(piece)]
    return made + [batch.columns() for batch in decoder.end()]


def values(batches: list[list[pa.Array]], position: int) -> list[Any]:
    """One column, as what it was made of."""
    return [plain(value, array.type) for batch in batches for array in [batch[position]] for value in array_values(array)]


def array_values(array: pa.Array) -> list[Any]:
    kind = array.type
    array.validate(full=not (isinstance(kind, pa.ListType) or pa.types.is_time(kind)))  # 24:00 is delivered; `convert` refuses it
    if isinstance(kind, pa.ListType):
        items = array_values(array.values)
        bounds = array.offsets.to_pylist()
        return [items[a:b] if ok else None for a, b, ok in zip(bounds, bounds[1:], array.is_valid().to_pylist(), strict=False)]
    if isinstance(kind, pa.BaseExtensionType):
        return list(array.storage.to_pylist())
    if pa.types.is_date(kind):
        return list(array.cast(pa.int32()).to_pylist())
    if pa.types.is_temporal(kind):
        return list(array.cast(pa.int64()).to_pylist())
    return list(array.to_pylist())


def plain(value: Any, kind: pa.DataType) -> Any:
    """Comparable: floats by their bits, decimals by their number."""
    if value is None:
        return None
    if isinstance(kind, pa.ListType):
        return [plain(item, kind.value_type) for item in value]
    if pa.types.is_floating(kind):
        return struct.pack(">f" if kind == pa.float32() else ">d", value)
    return value


@example(table=([pa.list_(pa.time64("us")), pa.time64("us")], [([86_400_000_000], 86_400_000_000)]), cuts=[], batch_bytes=1)
@settings(max_examples=300, deadline=None)
@given(table=tables(), cuts=st.lists(st.integers(0, 2000), max_size=8), batch_bytes=st.sampled_from([1, 40, 300, 1 << 20]))
def test_any_stream_cut_anywhere_comes_out_exactly(table: tuple[list[pa.DataType], list[tuple[Any, ...]]], cuts: list[int], batch_bytes: int) -> None:
    types, rows = table
    data = stream(types, rows)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    batches = read([data[a:b] for a, b in itertools.pairwise(edges)], types, batch_bytes)
    for i, kind in enumerate(types):
        assert values(batches, i) == [plain(r[i], kind) for r in rows]
        assert all(batch[i].type == kind for batch in batches)
        assert sum(batch[i].null_count for batch in batches) == sum(r[i] is None for r in rows)


def test_a_stream_cut_at_every_byte_comes_out_whole() -> None:
    types = [pa.int32(), pa.string(), pa.decimal128(10, 2), pa.list_(pa.int64())]
    rows = [(i, "ž" * i, scaled(i * 12_345, 2), [i, None]) for i in range(6)]
    data = stream(types, rows)
    for cut in range(len(data) + 1):
        batches = read([data[:cut], data[cut:]], types, batch_bytes=1)
        assert [values(batches, i) for i in range(4)] == [[r[i] for r in rows] for i in range(4)]
    batches = read([data[i : i + 1] for i in range(len(data))], types, batch_bytes=1)
    assert values(batches, 1) == [r[1] for r in rows]


@settings(max_examples=400, deadline=None)
@given(
    number=st.decimals(allow_nan=True, allow_infinity=True) | st.integers(-(10**45), 10**45).flatmap(lambda n: st.integers(0, 45).map(lambda s: scaled(n, s))),
    bounds=st.integers(1, 38).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p))),
)
def test_a_numeric_fits_exactly_or_is_refused(number: Decimal, bounds: tuple[int, int]) -> None:
    if number.is_snan() or number.is_qnan():
        number = Decimal("NaN")
    elif number.is_finite() and not -2000 < int(number.as_tuple().exponent) < 2000:
        return  # PostgreSQL has none of these
    precision, scale = bounds
    kind = pa.decimal128(precision, scale)
    with localcontext() as context:
        context.prec = 9000
        shifted = number.scaleb(scale) if number.is_finite() else number
        fits = number.is_finite() and shifted == shifted.to_integral_value() and abs(shifted) < 10**precision
    data = stream([kind], [(scaled(0, 0),), (number,)])
    if fits:
        assert values(read([data], [kind]), 0)[1] == number
    else:
        with pytest.raises(UnfitColumn) as caught:
            read([data], [kind])
        assert (caught.value.column, caught.value.unfit.index) == (0, 1)


@pytest.mark.parametrize("precision", [18, 19, 37, 38])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_numerics_fit_and_the_next_does_not(precision: int, sign: int) -> None:
    kind = pa.decimal128(precision, 0)
    largest = sign * (10**precision - 1)
    assert values(read([stream([kind], [(scaled(largest, 0),)])], [kind]), 0) == [Decimal(largest)]
    with pytest.raises(UnfitColumn):
        read([stream([kind], [(scaled(largest + sign, 0),)])], [kind])


def test_infinite_dates_come_out_as_the_driver_gives_them() -> None:
    """`convert.py` finds them by these numbers."""
    for kind, bits, found in ((pa.date32(), 32, [-2147472692, -2147472691]), (pa.timestamp("us"), 64, [-9222425352054775809, -9222425352054775808])):
        data = HEADER + b"".join(
            struct.pack(">hi", 1, bits // 8) + (end).to_bytes(bits // 8, "big", signed=True) for end in ((1 << bits - 1) - 1, -(1 << bits - 1))
        )
        expected = [(n + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1) for n in found]
        assert values(read([data + TRAILER], [kind]), 0) == expected


ONE = [pa.int32()]
WRONG = {
    "nothing": (b"", ONE),
    "no signature": (b"PGCOPY\n\xff\r\n1" + bytes(8) + TRAILER, ONE),
    "half a header": (HEADER[:13], ONE),
    "critical flags": (HEADER[:11] + b"\0\1\0\0" + bytes(4) + TRAILER, ONE),
    "a negative extension": (HEADER[:15] + b"\xff\xff\xff\xff" + TRAILER, ONE),
    "an extension that is not there": (HEADER[:15] + b"\0\0\1\0" + TRAILER, ONE),
    "no trailer": (HEADER + row(ONE, [1]), ONE),
    "half a trailer": (HEADER + row(ONE, [1]) + b"\xff", ONE),
    "bytes after the trailer": (HEADER + TRAILER + b"\0", ONE),
    "a row after the trailer": (HEADER + TRAILER + row(ONE, [1]), ONE),
    "two trailers": (HEADER + TRAILER + TRAILER, ONE),
    "too few fields": (HEADER + b"\0\0" + TRAILER, ONE),
    "too many fields": (HEADER + row(ONE * 2, [1, 2]) + TRAILER, ONE),
    "a negative number of fields": (HEADER + b"\xff\xfe" + TRAILER, ONE),
    "a length below -1": (HEADER + b"\0\1\xff\xff\xff\xfe" + TRAILER, ONE),
    "a length beyond the end": (HEADER + b"\0\1\0\0\0\x05\0\0\0\0", ONE),
    "a length beyond PostgreSQL's": (HEADER + b"\0\1\x40\0\0\0" + bytes(100) + TRAILER, ONE),
    "the largest length": (HEADER + b"\0\1\x7f\xff\xff\xff" + TRAILER, ONE),
    "a short int": (HEADER + row([pa.string()], ["abc"]) + TRAILER, ONE),
    "a long int": (HEADER + row([pa.string()], ["abcde"]) + TRAILER, ONE),
    "an empty bool": (HEADER + row([pa.string()], [""]) + TRAILER, [pa.bool_()]),
    "a short uuid": (HEADER + row([pa.string()], ["x" * 15]) + TRAILER, [pa.uuid()]),
    "a long uuid": (HEADER + row([pa.string()], ["x" * 17]) + TRAILER, [pa.uuid()]),
    "text that is not UTF-8": (HEADER + row([pa.string()], [b"\xc3"]) + TRAILER, [pa.string()]),
    "text cut within a letter": (HEADER + row([pa.string()] * 2, [b"\xc5", b"\xbe"]) + TRAILER, [pa.string()] * 2),
    "a numeric without a head": (HEADER + row([pa.string()], [bytes(7)]) + TRAILER, [pa.decimal128(5, 2)]),
    "more digits than are there": (HEADER + row([pa.string()], [b"\0\2" + bytes(8)]) + TRAILER, [pa.decimal128(5, 2)]),
    "a negative number of digits": (HEADER + row([pa.string()], [b"\xff\xff" + bytes(6)]) + TRAILER, [pa.decimal128(5, 2)]),
    "a digit of 10000": (HEADER + row([pa.string()], [b"\0\1" + bytes(6) + b"\x27\x10"]) + TRAILER, [pa.decimal128(5, 2)]),
    "a negative digit": (HEADER + row([pa.string()], [b"\0\1" + bytes(6) + b"\xff\xff"]) + TRAILER, [pa.decimal128(5, 2)]),
    "an unknown sign": (HEADER + row([pa.string()], [b"\0\0\0\0\x12\x34\0\0"]) + TRAILER, [pa.decimal128(5, 2)]),
    "an array without a head": (HEADER + row([pa.string()], [bytes(11)]) + TRAILER, [pa.list_(pa.int32())]),
    "an array of two dimensions": (HEADER + row([pa.string()], [struct.pack(">iiiiiii", 2, 0, 23, 1, 1, 0, 1)]) + TRAILER, [pa.list_(pa.int32())]),
    "an array that starts at 2": (HEADER + row([pa.string()], [struct.pack(">iiiiiii", 1, 0, 23, 1, 2, 4, 7)]) + TRAILER, [pa.list_(pa.int32())]),
    "an array of fewer elements": (HEADER + row([pa.string()], [struct.pack(">iiiii", 1, 0, 23, 1, 1)]) + TRAILER, [pa.list_(pa.int32())]),
    "an array of more elements": (HEADER + row([pa.string()], [struct.pack(">iiiiii", 1, 0, 23, 0, 1, -1)]) + TRAILER, [pa.list_(pa.int32())]),
    "an array of very many": (HEADER + row([pa.string()], [struct.pack(">iiiii", 1, 0, 23, 0x7FFFFFFF, 1) + bytes(40)]) + TRAILER, [pa.list_(pa.int32())]),
    "a negative number of elements": (HEADER + row([pa.string()], [struct.pack(">iiiii", 1, 0, 23, -1, 1)]) + TRAILER, [pa.list_(pa.int32())]),
    "an element beyond its array": (
        HEADER + row([pa.string()] * 2, [struct.pack(">iiiiii", 1, 0, 23, 1, 1, 4), bytes(8)]) + TRAILER,
        [pa.list_(pa.int32()), pa.int64()],
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_a_wrong_stream_is_one_error(name: str, batch_bytes: int) -> None:
    data, types = WRONG[name]
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        with pytest.raises(ProcessingError, match="COPY stream is not as it should be"):
            read(pieces, types, batch_bytes)


def test_the_trailer_alone_ends_a_stream() -> None:
    decoder, whole = Decoder(BatchPlan([pa.int32()])), stream([pa.int32()], [(1,), (2,)])
    list(decoder.feed(whole[:-2]))
    assert not decoder.ended
    list(decoder.feed(whole[-2:]))
    assert decoder.ended


def test_a_header_may_have_an_extension() -> None:
    data = HEADER[:15] + b"\0\0\0\5" + b"hello" + row(ONE, [7]) + TRAILER
    assert values(read([data], ONE), 0) == [7]
    assert values(read([data[i : i + 1] for i in range(len(data))], ONE, 1), 0) == [7]


def test_a_row_longer_than_a_batch_is_a_batch_of_its_own() -> None:
    long = "x" * 100_000
    data = stream([pa.string()], [("a",), (long,), ("b",)])
    batches = read([data[i : i + 1000] for i in range(0, len(data), 1000)], [pa.string()], batch_bytes=2000)
    assert [value for batch in batches for value in batch[0].to_pylist()] == ["a", long, "b"]
    assert max(len(batch[0]) for batch in batches) <= 2


def test_batches_are_bounded_in_bytes() -> None:
    rows = [("x" * 100,)] * 5000
    data = stream([pa.string()], rows)
    batches = read([data[i : i + 700] for i in range(0, len(data), 700)], [pa.string()], batch_bytes=10_000)
    assert max(batch[0].nbytes for batch in batches) <= 10_000 + 700 + 8 * 100
    assert sum(len(batch[0]) for batch in batches) == 5000


FUZZED = [
    pa.int32(),
    pa.string(),
    pa.decimal128(15, 2),
    pa.list_(pa.string()),
    pa.bool_(),
    pa.uuid(),
    pa.timestamp("us"),
    pa.int16(),
    pa.list_(pa.decimal128(9, 3)),
]


def corrupted(seed: int) -> bytes:
    """A stream in which a few bytes are others, or which is cut or has bytes put in; lengths above all."""
    chance = random.Random(seed)
    rows = [
        (i, "žluť" * (i % 5), scaled(i * 777, 2), ["a", None, "bb"][: i % 4], i % 2 == 0, uuid.UUID(int=i).bytes, i, i % 100, [scaled(i, 3)])
        for i in range(chance.randrange(1, 30))
    ]
    data = bytearray(stream(FUZZED, rows))
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(HEADER), len(data))
        match chance.randrange(5):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                data[at : at + 4] = struct.pack(">i", chance.choice([-1, -2, 0, 1, 3, 5, 0x7FFFFFFF, -(1 << 31), 1 << 20, 0x3FFFFFFF, len(data)]))
            case _:
                del data[at:]
        if len(data) <= len(HEADER):
            break
    return bytes(data)


def fuzz(seeds: range) -> None:
    """Each stream is read, or refused in words; no other exception, no column that is not whole."""
    for seed in seeds:
        data = corrupted(seed)
        size = random.Random(seed).choice([1, 7, 64, 4096])
        try:
            batches = read([data[i : i + size] for i in range(0, len(data), size)], FUZZED, batch_bytes=random.Random(seed).choice([1, 500, 1 << 20]))
        except (ProcessingError, UnfitColumn):
            continue
        for batch in batches:
            for array in batch:
                array.validate(full=True)


def test_corrupt_streams_are_read_or_refused() -> None:
    fuzz(range(3000))


@pytest.mark.slow
def test_no_corrupt_stream_is_read_past_its_end(tmp_path: Any) -> None:
    """The same code compiled with a check of every index: an access outside of an array is an IndexError."""
    code = "from tests.postgres import test_copy_binary as t; t.fuzz(range(3000, 6000)); t.compiled_with_checks()"
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def compiled_with_checks() -> None:
    """Proves that the checks are on: a line that says it has more room than there is."""
    batch = BatchPlan([pa.string()], batch_bytes=1).begin()
    batch._lines[:, layout.ROOM] = 1 << 40
    with pytest.raises(RuntimeError):
        batch.add(np.frombuffer(stream([pa.string()], [("x" * 1000,)]), np.uint8), len(HEADER))


def test_fields_of_every_length_stay_within_their_buffer() -> None:
    """Text is copied in whole: its neighbours keep theirs."""
    rows = [("x" * n, "y" * (300 - n), None if n % 3 else "") for n in range(301)]
    batches = read([stream([pa.string()] * 3, rows)], [pa.string()] * 3)
    assert [tuple(batch[i].to_pylist() for i in range(3)) for batch in batches] == [tuple([r[i] for r in rows] for i in range(3))]


def test_one_row_beyond_what_arrow_holds_is_refused() -> None:
    decoder = Decoder(BatchPlan([pa.string()]))
    list(decoder.feed(HEADER + b"\0"))
    decoder._rest = type("Rest", (bytearray,), {"__len__": lambda _: LARGEST_ROW})(b"\0")
    with pytest.raises(ProcessingError, match="longer than 2 GiB"):
        list(decoder.feed(HEADER))


def test_memory_that_is_used_again_is_nobody_elses() -> None:
    """Columns that are still held keep their values; those that nobody holds give their memory to the next batch."""
    types = [pa.int64(), pa.string(), pa.list_(pa.int32())]
    rows = [(i, f"text {i}", [i, None]) for i in range(4000)]
    plan = BatchPlan(types, batch_bytes=10_000)
    decoder = Decoder(plan)
    data = stream(types, rows)
    held, seen = [], []
    for number, batch in enumerate(itertools.chain(*(decoder.feed(data[i : i + 1000]) for i in range(0, len(data), 1000)), decoder.end())):
        columns = batch.columns()
        seen += [value.as_py() for value in columns[0]]
        if number % 3 == 0:
            held.append(columns)
    assert seen == list(range(4000))
    for columns in held:
        assert [(f"text {i}", [i, None]) for i in columns[0].to_pylist()] == list(zip(columns[1].to_pylist(), columns[2].to_pylist(), strict=True))
    assert 0 < plan.arenas.spare < 10


def test_few_rows_do_not_keep_the_memory_of_many() -> None:
    plan = BatchPlan([pa.string()], batch_bytes=1 << 20)
    decoder = Decoder(plan)
    (batch,) = [*decoder.feed(stream([pa.string()], [("a",), (None,)])), *decoder.end()]
    (column,) = batch.columns()
    assert column.to_pylist() == ["a", None]
    assert sum(buffer.size for buffer in column.buffers() if buffer) < 100
    assert plan.arenas.spare == 1


def test_nulls_hide_nothing_of_what_was_there_before() -> None:
    types = [pa.int64(), pa.decimal128(20, 2), pa.uuid(), pa.bool_()]
    plan = BatchPlan(types, batch_bytes=1000)
    full = [(-1, scaled(-1, 2), b"\xff" * 16, True)] * 500
    for rows in (full, [(None,) * 4] * 500):
        decoder = Decoder(plan)
        batches = [batch.columns() for batch in (*decoder.feed(stream(types, rows)), *decoder.end())]
    for columns in batches:
        for column in columns:
            storage = column.storage if isinstance(column, pa.ExtensionArray) else column
            data = storage.buffers()[1].to_pybytes()
            assert not any(data[: len(column) // 8 if storage.type == pa.bool_() else None])


def test_rows_that_become_longer_find_room() -> None:
    types = [pa.string(), pa.list_(pa.string()), pa.list_(pa.int64())]
    rows = [("x" * (i * i % 5000), ["y" * (i % 300), None, "z"] * (i % 50), [i] * (i % 700)) for i in range(400)]
    data = stream(types, rows)
    for batch_bytes in (1, 5_000, 1 << 20):
        batches = read([data[i : i + 9_000] for i in range(0, len(data), 9_000)], types, batch_bytes)
        assert [values(batches, i) for i in range(3)] == [[r[i] for r in rows] for i in range(3)]


@pytest.mark.parametrize(
    ("types", "rows", "most"),
    [
        ([pa.string()], [(None,)] * 400_000 + [("x" * 20,)] * 20_000, 60),
        ([pa.list_(pa.string())], [([],)] * 400_000 + [(["x" * 20],)] * 20_000, 120),
        ([pa.string()] * 40, [("s",) * 39 + ("x" * 40_000,)] * 200, 30),
        ([pa.string()] * 40, [("s",) * 40] * 500 + [("x" * 40_000,) * 40] * 20 + [("s",) * 40] * 5000, 60),
    ],
    ids=["empty for long", "empty lists for long", "one long of many", "all long for a while"],
)
def test_rows_of_another_length_do_not_become_many_batches(types: list[pa.DataType], rows: list[tuple[Any, ...]], most: int) -> None:
    data = stream(types, rows)
    batches = read([data[i : i + 100_000] for i in range(0, len(data), 100_000)], types, 1 << 18)
    assert sum(len(batch[0]) for batch in batches) == len(rows)
    assert len(batches) <= most + len(data) // (1 << 17)


@pytest.mark.slow
def test_machine_code_is_kept_and_loaded_without_numba(tmp_path: Path) -> None:
    """A file that is not whole is made anew; where none can be kept, it works all the same."""
    code = """
import sys
from engine.postgres.copy_batch import BatchPlan
from engine.postgres.copy_binary import Decoder
import pyarrow as pa
from tests.postgres.copy_streams import stream
decoder = Decoder(BatchPlan([pa.int32()]))
batches = [*decoder.feed(stream([pa.int32()], [(7,)])), *decoder.end()]
print([batch.columns()[0].to_pylist() for batch in batches], "numba" in sys.modules)
"""

    def run(folder: Path) -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.strip()

    folder = tmp_path / "cache"
    assert [run(folder), run(folder)] == ["[[7]] True", "[[7]] False"]
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert [run(folder), run(folder)] == ["[[7]] True", "[[7]] False"]
    (tmp_path / "file").touch()
    assert [run(tmp_path / "file"), run(tmp_path / "file")] == ["[[7]] True"] * 2
    kept.chmod(0o666)  # anybody might have put it there
    assert run(folder) == "[[7]] True"
    assert kept.stat().st_mode & 0o002 == 0
