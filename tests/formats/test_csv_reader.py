"""CSV read back: every record is a row as it stands in the file, or a reject; whatever the block size."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import ConfigurationError, ConnectionFailed, IntegrityError, ProcessingError
from engine.formats import csv_blocks
from engine.formats.csv import DELIMITERS, CsvFormat
from engine.formats.csv_grammar import Grammar
from engine.formats.csv_reader import CsvInput, CsvReader
from engine.stores.memory import MemoryWriter
from tests.effort import examples
from tests.formats import reference
from tests.formats.reading import Pieces, Whole, read
from tests.postgres.cases import TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCKS = st.integers(1, 64)
AWKWARD = st.text(st.sampled_from('a\\.0x ,;"\r\n\t|é\U0001f600\ufeff'), max_size=6)
TEXT = st.one_of(
    st.none(),
    st.sampled_from(["", "\\.", "null", "NULL", "0x1F", '"', "\n", "\r\n", "\ufeff"]),
    AWKWARD,
    st.text(st.characters(exclude_characters="\0", codec="utf-8")),
)


def tables(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[values] * width), min_size=1, max_size=12))


def exported(rows: list[tuple[str | None, ...]], **layout: Any) -> bytes:
    schema = pa.schema([(f"c{i}", pa.string()) for i in range(len(rows[0]))])
    encoder = CsvFormat(**layout).encoder(schema)
    writer = MemoryWriter("x", None)
    encoder.write(writer, encoder.prepare(pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=schema)))
    encoder.close(writer)
    return writer.data.getvalue()


def assert_places(whole: Whole, data: bytes, header: bytes, line_end: bytes) -> None:
    """Raw records with their line ends are the file; lines are where they stand."""
    assert header + b"".join(raw + line_end for raw in whole.raw) == data
    starts = itertools.accumulate((raw.count(b"\n") + 1 for raw in whole.raw), initial=header.count(b"\n") + 1)
    assert whole.lines == list(starts)[:-1]


@given(rows=tables(TEXT), block=BLOCKS, delimiter=st.sampled_from(DELIMITERS), null=st.sampled_from(["", "NULL", "\\N"]))
@settings(deadline=None, max_examples=examples(300))
def test_what_the_export_writes_is_read_back(rows: list[tuple[str | None, ...]], block: int, delimiter: str, null: str) -> None:
    data = exported(rows, delimiter=delimiter, null=null)
    whole = read(data, block=block, delimiter=delimiter, null=null)
    assert whole.rows == rows
    assert whole.rejects == []
    assert_places(whole, data, data[: data.index(b"\n") + 1], b"\n")


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("columns", [1, 2])
def test_the_export_of_hostile_texts_is_read_back_from_every_compression(compression: str, columns: int) -> None:
    rows = [(text, "x")[:columns] for text in (*TEXTS, None)]
    data = exported(rows, compression=compression)
    data += exported(rows, compression=compression, header=False)  # another member, or frame
    assert read(data, compression=compression).rows == rows * 2


def test_exports_without_rows_and_header_have_none() -> None:
    writer = MemoryWriter("x", None)
    encoder = CsvFormat(compression="gzip", header=False).encoder(pa.schema([("a", pa.string())]))
    encoder.close(writer)
    assert read(writer.data.getvalue(), compression="gzip", header=False, columns=("a",)).rows == []
    assert read(b"", header=False, columns=("a",)).rows == []
    assert read(b"a,b\n").rows == []


@given(rows=tables(st.text(st.characters(exclude_characters="\0", codec="utf-8"))), block=BLOCKS, line_end=st.sampled_from(["\n", "\r\n"]), every=st.booleans())
@settings(deadline=None, max_examples=examples(200))
def test_what_pythons_csv_module_writes_is_read_back(rows: list[tuple[str, ...]], block: int, line_end: str, every: bool) -> None:
    out = io.StringIO(newline="")
    names = tuple(f"c{i}" for i in range(len(rows[0])))
    if not every:  # before Python 3.14 a carriage return is quoted only where it is part of the line ends
        rows = [tuple(value.replace("\r", "") for value in row) for row in rows]
    csv.writer(out, lineterminator=line_end, quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL).writerows([names, *rows])
    data = out.getvalue().encode()
    whole = read(data, block=block)
    # It writes the empty string bare, but in a single column.
    assert whole.rows == [tuple(value if value or every or len(row) == 1 else None for value in row) for row in rows]
    assert whole.names == names
    assert_places(whole, data, data[: data.index(b"\n") + 1], line_end.encode())


def outcome(data: bytes, block: int, columns: int) -> Whole | int:
    try:
        return read(data, block=block, header=False, columns=tuple("abc"[:columns]))
    except ProcessingError as error:
        assume("UTF-16" not in str(error))  # every other byte is NUL
        return int(str(error).removeprefix("line ").partition(":")[0])


@given(text=st.text(st.sampled_from('a0x, "\r\n\0'), max_size=24), block=BLOCKS, columns=st.integers(1, 3))
@settings(deadline=None, max_examples=examples(2000))
def test_any_text_is_read_as_one_character_after_another_would_be(text: str, block: int, columns: int) -> None:
    found = outcome(text.encode(), block, columns)
    wanted = reference.read(text, columns)
    if isinstance(wanted, int) or isinstance(found, int):
        assert found == wanted
        return
    assert found.rows == wanted.rows
    assert found.lines == wanted.lines
    assert found.raw == [raw.encode() for raw in wanted.raw]
    assert [(reject.line, reject.raw) for reject in found.rejects] == [(line, raw.encode()) for line, _, raw in wanted.rejects]
    assert all(kind in reject.rule for reject, (_, kind, _) in zip(found.rejects, wanted.rejects, strict=True))


@given(text=st.text(st.sampled_from('a01.xeE+-, \t"\r\n\0'), max_size=12), several=st.booleans())
@settings(max_examples=examples(3000))
def test_text_that_the_grammar_holds_needs_no_look_at_records(text: str, several: bool) -> None:
    grammar = Grammar(",")
    if not grammar.holds(pa.py_buffer(text.encode()), several=several):
        return
    wanted = reference.read(text, 2 if several else 1)
    assert not isinstance(wanted, int)
    assert all(kind == "expected" for _, kind, _ in wanted.rejects)
    fields = [field or "" for row in wanted.rows for field in row]
    if not wanted.rejects:
        plain = not any(re.match(r"[ \t]*[+-]?(0[xX]|[0-9.]+[eE][+]?-)", field) for field in fields)
        assert grammar.holds(pa.py_buffer(text.encode()), several=several, exotic=False) == plain


@given(st.lists(st.binary(min_size=1, max_size=5)), st.integers(1, 16))
@settings(deadline=None)
def test_any_bytes_are_rows_or_rejects_or_an_error_of_ours(pieces: list[bytes], block: int) -> None:
    data = b"".join(pieces)
    try:
        whole = read(Pieces(pieces), block=block, header=False, columns=("a", "b"))
    except ProcessingError:
        return
    assert len(whole.rows) + len(whole.rejects) <= data.count(b"\n") + 1
    for reject in whole.rejects:
        assert reject.raw in data
    for raw in whole.raw:
        assert raw.decode()


ODDITIES = [
    b"\xef\xbb\xbf",
    b"\xef",
    b"\xff",
    b"\xc3",
    b"\xed\xb2\x81",
    b"a,b",
    b"\n",
    b"\r\n",
    b"\r",
    b'"',
    b",",
    b"1",
    b"\0",
    b"\n\n",
    b'"\n',
    b",x\n",
    b"\xc3\xa9",
]


@given(st.lists(st.sampled_from(ODDITIES), max_size=20), BLOCKS, st.booleans())
@settings(deadline=None, max_examples=examples(1000))
def test_the_block_size_changes_nothing(pieces: list[bytes], block: int, header: bool) -> None:
    data = (b"a,b\n" if header else b"") + b"".join(pieces)
    dialect: dict[str, Any] = {} if header else {"header": False, "columns": ("a", "b")}
    found = []
    for size in (block, 1 << 20):
        try:
            whole = read(data, block=size, **dialect)
            found.append((whole.rows, whole.lines, whole.raw, whole.rejects))
        except ProcessingError as error:
            found.append(str(error))  # type: ignore[arg-type]
    assert found[0] == found[1]


def test_the_servers_csv_is_read_back(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t (n int, a text, b text)")
        rows = [(n, text, None if n % 3 else "") for n, text in enumerate(TEXTS)]
        connection.cursor().executemany("INSERT INTO t VALUES (%s, %s, %s)", rows)
        with connection.cursor().copy("COPY (SELECT * FROM t ORDER BY n) TO STDOUT (FORMAT csv, HEADER)") as copy:
            data = b"".join(bytes(piece) for piece in copy)
    assert read(data).rows == [(str(n), a, b) for n, a, b in rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037"])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_declared_encodings(encoding: str, block: int) -> None:
    text = 'näme;ort\r\n"Zoë\r\nÜ";"""é"""\r\nß;\r\n'
    whole = read(text.encode(encoding), block=block, encoding=encoding, delimiter=";")
    assert whole.names == ("näme", "ort")
    assert whole.rows == [("Zoë\r\nÜ", '"é"'), ("ß", None)]
    assert whole.lines == [2, 4]


def test_bytes_that_an_encoding_does_not_have_reject_their_record_alone() -> None:
    whole = read("a,b\n1,é\n2,".encode("cp1252") + b"\x81\n3,\xe9\n", encoding="cp1252")
    assert whole.rows == [("1", "é"), ("3", "é")]
    assert [(r.line, r.rule, r.raw) for r in whole.rejects] == [(3, "not valid cp1252", b"2,\x81")]


def test_undecodable_bytes_never_join_to_a_character() -> None:
    """Two bytes that ISO 8859-8 does not have, and that are é in UTF-8."""
    whole = read(b"a,b\n1,\xc3\xa1\n", encoding="iso8859-8")
    assert [r.raw for r in whole.rejects] == [b"1,\xc3\xa1"]
    assert whole.rows == []


@given(st.lists(st.integers(1, 9)))
def test_a_file_may_come_in_pieces_of_any_size(sizes: list[int]) -> None:
    data = gzip.compress(b'a,b\n1,"x\ny"\n,""\n')
    ends = list(itertools.accumulate(sizes, initial=0))
    pieces = [data[a:b] for a, b in itertools.pairwise([*ends, len(data)]) if data[a:b]]
    assert read(Pieces(pieces), compression="gzip", block=4).rows == [("1", "x\ny"), (None, "")]


def endless(record: bytes, total: int) -> Iterator[bytes]:
    yield b"a,b\n"
    piece = record * max(1, (1 << 20) // len(record))
    for _ in range(total // len(piece)):
        yield piece


@pytest.mark.parametrize("record", [b"12345,some text\n", b'1,"a\nb"\n', b'"x","y"\r\n'])
def test_memory_stays_a_few_blocks(record: bytes) -> None:
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    reader = CsvReader(Pieces(endless(record, 200 << 20)), CsvInput())  # type: ignore[arg-type]
    for block in reader:
        rows += block.text().num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == (200 << 20) // (len(record) * ((1 << 20) // len(record))) * ((1 << 20) // len(record))
    assert most < 12 * csv_blocks.BLOCK


def test_a_record_larger_than_a_block_is_read() -> None:
    large = "x\n" * 5_000_000
    whole = read(f'a,b\n1,"{large}"\n2,y\n'.encode())
    assert whole.rows == [("1", large), ("2", "y")]
    assert whole.lines == [2, 5_000_003]


def test_a_record_larger_than_the_limit_names_its_line() -> None:
    with pytest.raises(ProcessingError, match=r"^line 3: the record that begins here is larger than "):
        read(b'a,b\n1,x\n2,"' + b"secret\n" * 1000, block=64, largest=1024)


def test_many_faults_do_not_make_many_blocks() -> None:
    data = b"a,b\n" + b'1,x"y\n2,3\n' * 10_000
    whole = read(data, block=50_000)
    assert (len(whole.rows), len(whole.rejects)) == (10_000, 10_000)
    assert whole.blocks <= 4


def test_line_numbers_cost_nothing_where_rows_have_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(iter(CsvReader(io.BytesIO(b'a,b\n1,"x"\n2,y\n'), CsvInput())))
    monkeypatch.setattr("engine.formats.csv_reader.inspect", None)
    assert [block.line(row) for row in range(block.rows)] == [2, 3]


def test_leaving_early_leaves_the_file_alone() -> None:
    file = io.BytesIO(b"a,b\n" + b"1,2\n" * 100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_blocks, "BLOCK", 100)
        blocks = iter(CsvReader(file, CsvInput()))
        next(blocks)
        blocks.close()  # type: ignore[attr-defined]
        assert file.tell() < 10_000
        file.close()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("failure", [ConnectionFailed("gone", transient=True), OSError(5, "I/O error")])
def test_what_a_file_raises_arrives(compression: str, failure: Exception) -> None:
    def breaking() -> Iterator[bytes]:
        yield exported([("x" * 100, "y")] * 10_000, compression=compression)[:200]
        raise failure

    with pytest.raises(type(failure)) as caught:
        read(Pieces(breaking()), compression=compression)
    assert caught.value is failure


def test_damaged_archives() -> None:
    data = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    for broken in (data[:-1], data[:-4] + b"\0\0\0\0", data + b"more", data[:20] + b"\0" * 4 + data[24:]):
        with pytest.raises(IntegrityError, match="gzip data"):
            read(broken, compression="gzip")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"delimiter": ""}, "'delimiter'"),
        ({"delimiter": "||"}, "'delimiter'"),
        ({"delimiter": '"'}, "'delimiter'"),
        ({"delimiter": "\n"}, "'delimiter'"),
        ({"delimiter": "a"}, "'delimiter'"),
        ({"delimiter": "-"}, "'delimiter'"),
        ({"delimiter": "."}, "'delimiter'"),
        ({"delimiter": "§"}, "'delimiter'"),
        ({"null": "a,b"}, "'null'"),
        ({"null": '"'}, "'null'"),
        ({"encoding": "klingon"}, "'encoding'"),
        ({"encoding": "zip"}, "'encoding'"),
        ({"compression": "rar"}, "'compression'"),
        ({"header": False}, "'columns'"),
        ({"columns": ("a",)}, "'columns'"),
        ({"header": False, "columns": ("a", "a")}, "'columns'"),
        ({"header": False, "columns": ("",)}, "'columns'"),
    ],
)
def test_dialects_that_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        CsvInput(**wrong)


@pytest.mark.parametrize("delimiter", [":", " ", "\t", "^", "\x01", "]", "/", "\\"])
def test_other_delimiters(delimiter: str) -> None:
    out = io.StringIO(newline="")
    rows = [["a", "b"], ["x" + delimiter, "]"], ["0", '"-\\']]
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    assert read(out.getvalue().encode(), delimiter=delimiter).rows == [tuple(row) for row in rows[1:]]


def test_a_null_text_is_null_only_where_it_is_bare() -> None:
    whole = read(b'a,b\nNA,"NA"\n,""\n NA,NA \n', null="NA")
    assert whole.rows == [(None, "NA"), ("", ""), (" NA", "NA ")]
    assert read(b"a\n\nNA\n", null="NA").rows == [("",), (None,)]
