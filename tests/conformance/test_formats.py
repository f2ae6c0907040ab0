"""What every format promises (`Format`, `Encoder`), run against each layout and compression, read back by other libraries."""

from __future__ import annotations

import gzip
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.formats.csv import CsvFormat
from engine.formats.parquet import COMPRESSIONS, ParquetFormat
from engine.stores.memory import MemoryStore, MemoryWriter
from tests.effort import examples
from tests.postgres.cases import TEXTS

FORMATS = {
    **{f"csv-{c}": CsvFormat(compression=c) for c in ("none", "gzip", "zstd")},
    **{f"parquet-{c}": ParquetFormat(compression=c) for c in COMPRESSIONS},
}
SCHEMA = pa.schema([("id", pa.int64()), ("ok", pa.bool_()), ("text", pa.string())])


@pytest.fixture(params=FORMATS)
def layout(request: pytest.FixtureRequest) -> Any:
    return FORMATS[request.param]


def batch(rows: list[tuple[int | None, bool | None, str | None]]) -> pa.RecordBatch:
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(SCHEMA)]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


ROWS: list[tuple[int | None, bool | None, str | None]] = [
    *((n, n % 2 == 0, text) for n, text in enumerate(TEXTS)),
    (None, None, None),
    (-(2**63), True, "x" * 100_000),
]


def encode(layout: Any, batches: list[pa.RecordBatch]) -> bytes:
    encoder = layout.encoder(SCHEMA)
    writer = MemoryWriter("x", None)
    for one in batches:
        encoder.write(writer, encoder.prepare(one))
    encoder.close(writer)
    return writer.data.getvalue()


def decode(layout: Any, data: bytes) -> list[tuple[Any, ...]]:
    """Rows, by readers of other projects: NULL in CSV is what stands bare between two delimiters."""
    if layout.suffix == ".parquet":
        return [tuple(row.values()) for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    plain = {".csv": lambda d: d, ".csv.gz": gzip.decompress, ".csv.zst": unzstd}[layout.suffix](data).decode()
    lines = parse_csv(plain)
    assert lines[0] == ["id", "ok", "text"]
    return [(None if i is None else int(i), None if b is None else b == "true", t) for i, b, t in lines[1:]]


def unzstd(data: bytes) -> Any:
    with pa.input_stream(io.BytesIO(data), compression="zstd") as stream:
        return stream.read()


def parse_csv(text: str) -> list[list[str | None]]:
    """RFC 4180 in a dozen lines, which tells a bare field from a quoted one, as Python's csv module of 3.11 does not."""
    rows: list[list[str | None]] = []
    row: list[str | None] = []
    at = 0
    while at < len(text):
        if text[at] == '"':
            value, at = "", at + 1
            while True:
                end = text.index('"', at)
                value, at = value + text[at:end], end + 1
                if text[at : at + 1] != '"':
                    break
                value, at = value + '"', at + 1
            row.append(value)
        else:
            end = min(e for e in (text.find(",", at), text.find("\n", at)) if e >= 0)
            row.append(text[at:end] or None)
            at = end
        if text[at] == "\n":
            rows.append(row)
            row = []
            at += 1
        else:
            at += 1
            if text[at : at + 1] == "\n":
                row.append(None)
                rows.append(row)
                row = []
                at += 1
    return rows


def test_rows_come_back(layout: Any) -> None:
    assert decode(layout, encode(layout, [batch(ROWS)])) == ROWS


def test_no_rows_are_a_valid_file(layout: Any) -> None:
    data = encode(layout, [])
    assert data
    assert decode(layout, data) == []
    assert decode(layout, encode(layout, [batch([])])) == []


def test_one_encoder_writes_file_after_file(layout: Any) -> None:
    encoder = layout.encoder(SCHEMA)
    parts = []
    for rows in (ROWS, [], ROWS[:3]):
        writer = MemoryWriter("x", None)
        encoder.write(writer, encoder.prepare(batch(rows)))
        encoder.close(writer)
        parts.append(writer.data.getvalue())
    assert [decode(layout, part) for part in parts] == [ROWS, [], ROWS[:3]]
    assert parts[0] == encode(layout, [batch(ROWS)])


def test_prepared_in_any_thread_and_written_in_order_the_bytes_are_the_same(layout: Any) -> None:
    batches = [batch([(n * 1000 + k, None, f"{n}-{k}") for k in range(500)]) for n in range(20)]
    encoder = layout.encoder(SCHEMA)
    writer = MemoryWriter("x", None)
    with ThreadPoolExecutor(4) as pool:
        for prepared in list(pool.map(encoder.prepare, batches)):
            encoder.write(writer, prepared)
    encoder.close(writer)
    assert writer.data.getvalue() == encode(layout, batches)


def test_weight_and_pending_bound_what_a_file_grows_by(layout: Any) -> None:
    encoder = layout.encoder(SCHEMA)
    writer = MemoryWriter("x", None)
    footer = 64 * 1024
    for n in range(30):
        prepared = encoder.prepare(batch([(n * k, True, f"value {n} {k * k}") for k in range(1000)]))
        bound = writer.size + encoder.pending + encoder.weigh(prepared)
        encoder.write(writer, prepared)
        assert writer.size + encoder.pending <= bound + footer
    bound = writer.size + encoder.pending
    encoder.close(writer)
    assert writer.size <= bound + footer
    assert encoder.pending == 0


def test_settling_changes_no_byte_and_leaves_a_bound(layout: Any) -> None:
    batches = [batch([(n * k, True, f"value {n} {k * k}") for k in range(1000)]) for n in range(40)]
    encoder = layout.encoder(SCHEMA)
    writer = MemoryWriter("x", None)
    for number, one in enumerate(batches):
        encoder.write(writer, encoder.prepare(one))
        if number % 3 == 0:
            bound = writer.size + encoder.pending
            encoder.settle(writer)
            assert writer.size + encoder.pending <= bound
    encoder.close(writer)
    assert writer.data.getvalue() == encode(layout, batches)


def test_batches_may_be_slices_of_others(layout: Any) -> None:
    whole = batch(ROWS)
    assert decode(layout, encode(layout, [whole.slice(start, 3) for start in range(0, len(ROWS), 3)])) == ROWS


def test_suffix_and_form_fit(layout: Any) -> None:
    assert layout.form == ("typed" if layout.suffix == ".parquet" else "text")


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.booleans(), st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
        ),
        max_size=30,
    )
)
@pytest.mark.parametrize("name", ["csv-none", "csv-zstd", "parquet-zstd"])
def test_any_text_comes_back(name: str, rows: list[tuple[int | None, bool | None, str | None]]) -> None:
    assert decode(FORMATS[name], encode(FORMATS[name], [batch(rows)])) == rows


def test_duckdb_reads_every_layout(layout: Any, tmp_path: Any) -> None:
    rows: list[tuple[int | None, bool | None, str | None]] = [(1, True, "plain"), (2, False, 'say "x", ž\n'), (3, None, None)]
    path = tmp_path / f"{layout.compression}{layout.suffix}"  # DuckDB keeps what it has read of a name
    path.write_bytes(encode(layout, [batch(rows[:1]), batch(rows[1:])]))
    reader = f"read_parquet('{path}')" if layout.suffix == ".parquet" else f"read_csv('{path}', header = true, all_varchar = true, quote = '\"')"
    found = duckdb.sql(f"SELECT count(*), max(text) FROM {reader} WHERE text IS NOT NULL").fetchone()
    assert found == (2, 'say "x", ž\n')


def test_a_memory_store_takes_what_an_encoder_writes(layout: Any) -> None:
    store, encoder = MemoryStore(), layout.encoder(SCHEMA)
    with store.open_write(f"x{layout.suffix}") as writer:
        encoder.write(writer, encoder.prepare(batch(ROWS)))
        encoder.close(writer)
    found = store.stat(f"x{layout.suffix}")
    assert found is not None
    with store.open_read(found) as body:
        assert decode(layout, body.read()) == ROWS
