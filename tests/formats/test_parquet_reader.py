"""Parquet files come in bounded pieces with their types kept; a broken one is refused by a rule, without a value of it."""

from __future__ import annotations

import gzip
import io
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet
from pyarrow.parquet import encryption

from engine.errors import ConnectionFailed, ProcessingError
from engine.formats.parquet_reader import _MAGIC, FETCHED_WHOLE_BYTES, ParquetReader

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "Novák 850101/1234"


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, **options)
    return sink.getvalue()


def batches(raw: bytes, **options: Any) -> list[pa.RecordBatch]:
    return list(ParquetReader(io.BytesIO(raw), where="x.parquet", **options))


def read(raw: bytes) -> pa.Table:
    reader = ParquetReader(io.BytesIO(raw), where="x.parquet")
    return pa.Table.from_batches(list(reader), reader.schema)


def patients(rows: int = 2000) -> pa.Table:
    return pa.table({"id": range(rows), "name": [SECRET] * rows, "dose": pa.array([Decimal("1.50")] * rows, pa.decimal128(6, 2))})


PATIENTS = written(patients())
PLAIN = written(patients(), compression="none", use_dictionary=False)
FOOTER = int.from_bytes(PATIENTS[-8:-4], "little") + 8


def encrypted(*, plaintext_footer: bool) -> bytes:
    class Vault(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key: bytes, _: str) -> bytes:
            return key

        def unwrap_key(self, key: bytes, _: str) -> bytes:
            return key

    connection = encryption.KmsConnectionConfig()
    keys = encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["name"]}, plaintext_footer=plaintext_footer, double_wrapping=False)
    factory = encryption.CryptoFactory(lambda _: Vault())
    return written(patients(), encryption_properties=factory.file_encryption_properties(connection, keys))


def not_utf8() -> bytes:
    hidden = pa.array([SECRET.encode("utf-16")], pa.binary()).view(pa.string())
    return written(pa.table({"name": hidden}))


def as_csv() -> bytes:
    sink = io.BytesIO()
    csv.write_csv(patients(), sink)
    return sink.getvalue()


def as_feather() -> bytes:
    sink = io.BytesIO()
    feather.write_feather(patients(), sink)
    return sink.getvalue()


def flipped(raw: bytes, start: int, length: int, what: int = 0xFF) -> bytes:
    return raw[:start] + bytes([what]) * length + raw[start + length :]


def fewer_rows() -> bytes:
    """The footer of a file of 2000 rows before the pages of one of 2000, with the number of rows of the file changed: FileMetaData field 3, a zigzag varint."""
    marker = b"\x16\xa0\x1f\x19"  # i64 2000, then the list of row groups
    assert PATIENTS.count(marker, len(PATIENTS) - FOOTER) == 1
    place = PATIENTS.rindex(marker)
    return PATIENTS[:place] + b"\x16\xa2\x1f\x19" + PATIENTS[place + 4 :]


def nested_int96() -> bytes:
    moments = pa.array([[0]], pa.list_(pa.timestamp("us")))
    return written(pa.table({"seen": moments}), use_deprecated_int96_timestamps=True)


MALFORMED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty"),
    "one byte": (lambda: b"P", "no Parquet file"),
    "only the magic number": (lambda: b"PAR1", "footer is missing"),
    "the magic number twice": (lambda: b"PAR1PAR1", "footer is missing"),
    "no footer between": (lambda: b"PAR1\0\0\0\0PAR1", "damaged"),
    "cut in the middle": (lambda: PATIENTS[: len(PATIENTS) // 2], "footer is missing"),
    "last byte missing": (lambda: PATIENTS[:-1], "footer is missing"),
    "beginning missing": (lambda: PATIENTS[100:], "no Parquet file"),
    "a byte too many at the end": (lambda: PATIENTS + b"\n", "footer is missing"),
    "middle missing": (lambda: PATIENTS[:100] + PATIENTS[-FOOTER:], "damaged"),
    "csv": (as_csv, "no Parquet file"),
    "feather": (as_feather, "no Parquet file"),
    "gzipped": (lambda: gzip.compress(PATIENTS), "no Parquet file"),
    "text": (lambda: b"<html><body>403 Forbidden</body></html>", "no Parquet file"),
    "zeros": (lambda: bytes(1 << 16), "no Parquet file"),
    "zeros with magic numbers": (lambda: b"PAR1" + bytes(1 << 16) + b"PAR1", "damaged"),
    "footer longer than the file": (lambda: PATIENTS[:-8] + b"\xff\xff\xff\x7fPAR1", "damaged"),
    "footer of negative length": (lambda: PATIENTS[:-8] + b"\xff\xff\xff\xffPAR1", "damaged"),
    "footer overwritten": (lambda: flipped(PATIENTS, len(PATIENTS) - FOOTER, FOOTER - 8), "damaged"),
    "footer zeroed": (lambda: flipped(PATIENTS, len(PATIENTS) - FOOTER, FOOTER - 8, 0), "damaged"),
    "pages overwritten": (lambda: flipped(PATIENTS, 4, len(PATIENTS) - FOOTER - 4), "damaged"),
    "pages zeroed": (lambda: flipped(PATIENTS, 4, len(PATIENTS) - FOOTER - 4, 0), "damaged"),
    "a value changed under a checksum": (
        lambda: written(patients(), compression="none", write_page_checksum=True).replace(b"8501", b"8502"),
        "damaged",
    ),
    "more rows announced than there are": (fewer_rows, "announces 2001 rows"),
    "encrypted": (lambda: encrypted(plaintext_footer=False), "encrypted"),
    "one column encrypted": (lambda: encrypted(plaintext_footer=True), "encrypted"),
    "text that is not UTF-8": (not_utf8, "column 'name' holds values that are none of its type"),
    "INT96 in nanoseconds": (
        lambda: written(pa.table({"seen": pa.array([1], pa.timestamp("ns"))}), use_deprecated_int96_timestamps=True),
        "column 'seen' holds INT96 timestamps finer than a microsecond",
    ),
    "INT96 in a list": (nested_int96, "column 'seen' has INT96 timestamps inside a nested type"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_broken_file_is_refused_by_a_rule(name: str) -> None:
    make, rule = MALFORMED[name]
    with pytest.raises(ProcessingError, match=rule) as caught:
        batches(make())
    assert str(caught.value).startswith("x.parquet: not a Parquet file that can be read: ")
    assert "Nov" not in str(caught.value)
    assert "1234" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("step", [7, 101])
def test_a_damaged_byte_anywhere_never_ends_in_a_foreign_error(step: int) -> None:
    """Damage that no checksum covers may go unseen; what is seen is said in our words."""
    for place in range(4, len(PLAIN) - 8, step):
        try:
            batches(flipped(PLAIN, place, 1, PLAIN[place] ^ 0xFF))
        except ProcessingError as error:
            assert "Nov" not in str(error)  # noqa: PT017


def test_types_are_kept() -> None:
    table = pa.table(
        {
            "uuid": pa.array([b"0" * 16], pa.uuid()),
            "json": pa.array(['{"a": 1}'], pa.json_(pa.string())),
            "decimal": pa.array([Decimal("1.50")], pa.decimal256(60, 2)),
            "naive": pa.array([1], pa.timestamp("us")),
            "zoned": pa.array([1], pa.timestamp("us", "UTC")),
            "unsigned": pa.array([2**64 - 1], pa.uint64()),
            "half": pa.array([1.5], pa.float16()),
            "nested": pa.array([{"a": [1], "m": [("k", 1)]}], pa.struct({"a": pa.list_(pa.int8()), "m": pa.map_(pa.string(), pa.int8())})),
        }
    )
    for stored in (True, False):
        found = read(written(table, store_schema=stored))
        assert [field.type for field in found.schema.remove_metadata()][:7] == [field.type for field in table.schema][:7]
        assert found.to_pylist() == table.to_pylist()


def test_int96_keeps_years_that_nanoseconds_do_not_hold() -> None:
    table = pa.table({"seen": pa.array(["0001-01-01 00:00:00", None, "9999-12-31 23:59:59.999999"]).cast(pa.timestamp("us"))})
    assert read(written(table, use_deprecated_int96_timestamps=True)) == table


def test_rows_come_in_order_and_in_bounded_pieces() -> None:
    table = pa.table({"n": range(200_000), "text": [f"{n:0100}" for n in range(200_000)]})
    found = batches(written(table, row_group_size=90_000), batch_bytes=1 << 20)
    assert pa.Table.from_batches(found) == table
    assert max(batch.nbytes for batch in found) < 2 << 20


def test_a_text_that_repeats_is_large_only_when_decoded() -> None:
    table = pa.table({"text": ["x" * 10_000] * 20_000})  # 200 MB from a few kB
    found = batches(written(table, row_group_size=5_000), batch_bytes=1 << 20)
    assert sum(batch.num_rows for batch in found) == 20_000
    assert max(batch.nbytes for batch in found[2:]) < 2 << 20


def test_large_row_groups_are_read_through_buffers() -> None:
    noise = pa.array([bytes([n % 251]) + n.to_bytes(8, "big") * 64 for n in range(80_000)])
    raw = written(pa.table({"noise": noise}), compression="none", use_dictionary=False, row_group_size=80_000)
    assert len(raw) > FETCHED_WHOLE_BYTES
    longest = 0

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal longest
            got = super().read(size)
            longest = max(longest, len(got))
            return got

    found = list(ParquetReader(Watched(raw), where="x.parquet"))
    assert pa.chunked_array([batch.column(0) for batch in found]) == pa.chunked_array([noise])
    assert longest <= 4 << 20


def test_a_file_without_rows_has_a_schema() -> None:
    reader = ParquetReader(io.BytesIO(written(patients().slice(0, 0))), where="x.parquet")
    assert (reader.rows, reader.schema.names, list(reader)) == (0, ["id", "name", "dose"], [])


def test_an_error_of_the_store_passes_through() -> None:
    raw = written(patients(100_000), compression="none", use_dictionary=False)

    class Gone(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if len(_MAGIC) <= self.tell() < len(raw) // 2:
                raise ConnectionFailed("the store is gone", transient=True)
            return super().read(size)

    with pytest.raises(ConnectionFailed, match="the store is gone"):
        list(ParquetReader(Gone(raw), where="x.parquet"))
