"""Row groups that were encoded apart and joined are, byte for byte, the file that one writer makes of them."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from engine.errors import ProcessingError
from engine.formats import parquet_footer
from engine.formats.parquet import ParquetFormat
from engine.stores.memory import MemoryWriter

OPTIONS: dict[str, Any] = {"compression": "zstd", "version": "2.6", "store_decimal_as_integer": True, "use_dictionary": ["words"]}
SIZES = st.lists(st.integers(1, 300), max_size=40)


def table(rows: int) -> pa.Table:
    """Columns of every shape that a footer treats in its own way."""
    return pa.table(
        {
            "id": range(rows),
            "words": [f"ward {i % 5}" for i in range(rows)],
            "sum": pa.array([Decimal(i) / 100 for i in range(rows)], pa.decimal128(15, 2)),
            "lists": pa.array([[i, None] if i % 3 else None for i in range(rows)], pa.list_(pa.int64())),
            "subject": pa.array([i.to_bytes(16, "big") for i in range(rows)], pa.uuid()),
            "never": pa.nulls(rows, pa.string()),
        }
    )


def one_writer(schema: pa.Schema, groups: list[pa.Table], **options: Any) -> bytes:
    made = io.BytesIO()
    with parquet.ParquetWriter(made, schema, **{**OPTIONS, **options}) as writer:
        for group in groups:
            writer.write_table(group)
    return made.getvalue()


def joined(schema: pa.Schema, groups: list[pa.Table], **options: Any) -> bytes:
    made = bytearray(parquet_footer.MAGIC)
    footer = parquet_footer.Footer(memoryview(one_writer(schema, [], **options)))
    for group in groups:
        made += footer.add(memoryview(one_writer(schema, [group], **options)), len(made), group.num_rows)
    return bytes(made) + footer.end()


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES)
def test_joined_row_groups_are_the_file_of_one_writer(sizes: list[int]) -> None:
    whole = table(sum(sizes))
    groups = [whole.slice(sum(sizes[:i]), size) for i, size in enumerate(sizes)]
    assert joined(whole.schema, groups) == one_writer(whole.schema, groups)


@pytest.mark.parametrize("groups", [0, 1, 14, 15, 16, 200])
def test_any_number_of_row_groups(groups: int) -> None:
    whole = table(groups * 3)
    parts = [whole.slice(3 * i, 3) for i in range(groups)]
    assert joined(whole.schema, parts) == one_writer(whole.schema, parts)


def test_the_encoder_writes_what_one_writer_does() -> None:
    """With the encoder's own settings, in the row groups that it made."""
    whole = table(9_000)
    encoder, file = ParquetFormat(row_group_rows=1_000).encoder(whole.schema), MemoryWriter("x", None)
    for batch in whole.to_batches(max_chunksize=700):
        encoder.write(file, encoder.prepare(batch))
    encoder.close(file)
    found = parquet.ParquetFile(io.BytesIO(file.data.getvalue()))
    sizes = [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)]
    assert len(sizes) > 8
    groups = [whole.slice(sum(sizes[:i]), size) for i, size in enumerate(sizes)]
    repeating = [found.schema.column(i).path for i in range(len(found.schema)) if "RLE_DICTIONARY" in found.metadata.row_group(0).column(i).encodings]
    options = {"compression_level": 1, "use_dictionary": repeating}
    assert file.data.getvalue() == one_writer(whole.schema, groups, **options)


def test_what_is_no_row_group_of_the_file_is_refused() -> None:
    whole = table(4)
    footer = parquet_footer.Footer(memoryview(one_writer(whole.schema, [])))
    with pytest.raises(ProcessingError, match="written as 2"):
        footer.add(memoryview(one_writer(whole.schema, [whole, whole])), 4, 8)
    other = whole.select(["id"])
    with pytest.raises(ProcessingError, match="another schema"):
        footer.add(memoryview(one_writer(other.schema, [other], use_dictionary=False)), 4, 4)
