"""How Parquet files are encoded: dictionaries where values repeat, decimals as integers, and every value as it was."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from engine.formats.parquet import ParquetFormat
from engine.stores.memory import MemoryWriter

ROWS = 50_000


def written(table: pa.Table) -> parquet.ParquetFile:
    """The file that the encoder makes of a table."""
    encoder, writer = ParquetFormat().encoder(table.schema), MemoryWriter("x", None)
    for batch in table.to_batches(max_chunksize=7_000):
        encoder.write(writer, encoder.prepare(batch))
    encoder.close(writer)
    return parquet.ParquetFile(io.BytesIO(writer.data.getvalue()))


def has_dictionary(file: parquet.ParquetFile, path: str) -> bool:
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns) if group.column(i).path_in_schema == path]
    assert columns, path
    return all(column.has_dictionary_page for column in columns)


def test_a_dictionary_is_made_where_values_repeat() -> None:
    few, many = [i % 7 for i in range(ROWS)], list(range(ROWS))
    columns: dict[str, Any] = {"few": few, "many": many, "words": [f"ward {i}" for i in few], "texts": [f"note {i}" for i in many]}
    columns |= {"lists": [[i, i + 1] for i in few], "long": [[i] for i in many], "nothing": pa.array([None] * ROWS, pa.string())}
    table = pa.table(columns)
    file = written(table)
    assert file.read().equals(table)
    found = {path: has_dictionary(file, path) for path in ("few", "many", "words", "texts", "lists.list.element", "long.list.element")}
    assert found == {"few": True, "many": False, "words": True, "texts": False, "lists.list.element": True, "long.list.element": False}


def test_values_that_begin_to_vary_later_stay_what_they_are() -> None:
    """The first row group decides; a dictionary that grows too large is given up by the library."""
    table = pa.table({"v": [f"{0 if i < ROWS else i:0100}" for i in range(9 * ROWS)]})
    file = written(table)
    assert file.num_row_groups > 1
    assert file.read().equals(table)


def test_decimals_of_18_digits_are_integers_and_longer_ones_are_not() -> None:
    values = [Decimal("12.50"), None, Decimal("-9999999.99")]
    table = pa.table(
        {"price": pa.array(values, pa.decimal128(9, 2)), "sum": pa.array(values, pa.decimal128(18, 2)), "all": pa.array(values, pa.decimal128(38, 2))}
    )
    file = written(table)
    assert [file.schema.column(i).physical_type for i in range(3)] == ["INT32", "INT64", "FIXED_LEN_BYTE_ARRAY"]
    assert file.read().equals(table)


def test_a_file_of_long_values_is_sampled_by_bytes() -> None:
    table = pa.table({"v": ["x" * (1 << 20)] * 30})
    assert written(table).read().equals(table)


def test_a_file_without_rows_has_its_columns() -> None:
    table = pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.list_(pa.string()))})
    assert written(table).read().schema.equals(table.schema)
