"""Broken and odd CSV files: what a reader must say of each. `SECRET` stands for what no message may hold."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SECRET = "Zebrowska"
_S = SECRET.encode()


@dataclass(frozen=True)
class Case:
    """A file, how it is declared, and what is to be said: either an error's whole text, or the rejects and the number of rows."""

    data: bytes
    error: str = ""
    rejects: tuple[tuple[int, str], ...] = ()  # line, rule
    rows: int = 0
    dialect: dict[str, Any] = field(default_factory=dict)


def _zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.csv", data)
    return out.getvalue()


def _parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"a": [SECRET]}), out)
    return out.getvalue()


def _zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data).to_pybytes())


GOOD = b"id,name,born\n1," + _S + b",1950-01-01\n2,b,\n"
HEADER = b"id,name,born\n"
UNCLOSED = "a quote opens here and is not closed before the file ends: the file was cut off, or a quote of the value was not doubled"
ASTRAY = "with text after it, so rows cannot be told apart: close it, or double a quote of the value"
STRAY = "a quote inside a field that does not begin with one"
AFTER = "text after a closing quote"
RETURN = "a carriage return outside quotes that is no line end"
NOT_UTF8 = "not valid utf-8: give 'encoding', such as cp1252, if the file has another one"


def _fields(found: int, expected: int = 3) -> str:
    return f"{found} field{'' if found == 1 else 's'} where {expected} were expected"


FILES: dict[str, Case] = {
    # Rows with too many or too few fields.
    "too few fields": Case(HEADER + b"1," + _S + b"\n2,b,\n", rejects=((2, _fields(2)),), rows=1),
    "too many fields": Case(HEADER + b"1,a,b," + _S + b"\n2,b,\n", rejects=((2, _fields(4)),), rows=1),
    "trailing delimiter": Case(HEADER + b"1,a,b,\n2,b,\n", rejects=((2, _fields(4)),), rows=1),
    "trailing delimiter in the header": Case(b"id,name,\n1,a,\n", error="line 1: column 3 has no name"),
    "cut off inside a row": Case(HEADER + b"1,a,b\n2," + _S, rejects=((3, _fields(2)),), rows=1),
    "unquoted delimiter in a value": Case(HEADER + b"1," + _S + b", Anna,1950-01-01\n", rejects=((2, _fields(4)),)),
    "two fields for one column": Case(b"id\n1\n2," + _S + b"\n", rejects=((3, "2 fields where 1 was expected"),), rows=1),
    "ragged behind a value with lines": Case(b'a,b\n"x\ny",1\n' + _S + b"\n3,4\n", rejects=((4, _fields(1, 2)),), rows=2),
    "a row count at the end": Case(HEADER + b"1,a,b\n1 row\n", rejects=((3, _fields(1)),), rows=1),
    "a comment at the beginning": Case(b"# made by " + _S + b"\n" + GOOD, rejects=tuple((line, "3 fields where 1 was expected") for line in (2, 3, 4))),
    "a separator line of Excel": Case(b"sep=;\nid;name\n1;" + _S + b"\n", error="line 1: a separator line for Excel, where the header was expected: remove it"),
    # Empty lines.
    "empty line in the middle": Case(HEADER + b"1,a,b\n\n2,b,c\n", rejects=((3, "an empty line"),), rows=2),
    "empty line in the middle, CRLF": Case(HEADER + b"1,a,b\r\n\r\n2,b,c\r\n", rejects=((3, "an empty line"),), rows=2),
    "empty line behind the header": Case(HEADER + b"\n1,a,b\n", rejects=((2, "an empty line"),), rows=1),
    "empty lines at the end": Case(HEADER + b"1,a,b\n\n\r\n\n", rows=1),
    "empty line in one column": Case(b"id\n1\n\n3\n", rows=3),
    "empty lines at the end of one column": Case(b"id\n1\n\n\n", rows=3),
    "empty line inside quotes": Case(HEADER + b'1,"a\n\nb",c\n', rows=1),
    "only empty lines": Case(b"\n\n\n", error="line 1: an empty line, where the header was expected"),
    "empty line before the header": Case(b"\r\n" + GOOD, error="line 1: an empty line, where the header was expected"),
    "a line of blanks": Case(HEADER + b"1,a,b\n   \n", rejects=((3, _fields(1)),), rows=1),
    # Quotes.
    "unclosed quote": Case(HEADER + b'1,a,b\n2,"' + _S + b",c\n3,d,e\n", error=f"line 3: {UNCLOSED}"),
    "unclosed quote in the last field": Case(HEADER + b'1,a,b\n2,c,"', error=f"line 3: {UNCLOSED}"),
    "unclosed quote that meets another": Case(HEADER + b'1,"' + _S + b',x\n2,"b",c\n', error=f"line 2: a quote opens here and closes on line 3 {ASTRAY}"),
    "cut off inside quotes": Case(HEADER + b'1,"' + _S + b"\n" + _S, error=f"line 2: {UNCLOSED}"),
    "cut off behind a doubled quote": Case(HEADER + b'1,a,"b""', error=f"line 2: {UNCLOSED}"),
    "unclosed quote behind a value with lines": Case(HEADER + b'1,"a\nb\nc","' + _S + b"\n", error=f"line 4: {UNCLOSED}"),
    "stray quote": Case(HEADER + b'1,5" pipe ' + _S + b",b\n2,b,c\n", rejects=((2, STRAY),), rows=1),
    "stray quotes": Case(HEADER + b'1,a "b" c,d\n2,b,c\n', rejects=((2, STRAY),), rows=1),
    "blank before a quote": Case(HEADER + b'1, "' + _S + b'",b\n2,b,c\n', rejects=((2, STRAY),), rows=1),
    "blank behind a quote": Case(HEADER + b'1,"' + _S + b'" ,b\n2,b,c\n', rejects=((2, AFTER),), rows=1),
    "text behind a quote": Case(HEADER + b'1,"a"b,c\n2,b,c\n', rejects=((2, AFTER),), rows=1),
    "quote not doubled": Case(HEADER + b'1,"a "b" c",d\n2,b,c\n', rejects=((2, AFTER),), rows=1),
    "quotes escaped by backslashes": Case(HEADER + b'1,"a \\"b\\" c",d\n2,b,c\n', rejects=((2, AFTER),), rows=1),
    "text behind a quote over two lines": Case(HEADER + b'1,"a\nb"c,d\n2,b,c\n', error=f"line 2: a quote opens here and closes on line 3 {ASTRAY}"),
    "a quote alone": Case(HEADER + b'"\n', error=f"line 2: {UNCLOSED}"),
    "single quotes": Case(HEADER + b"1,'a,b',c\n", rejects=((2, _fields(4)),)),
    "faults of all kinds": Case(
        HEADER + b'1,a,b\n2,x"y,c\n\n3,"a"b,c\n4,a\n5,a\0,b\n6,\xff,b\n7,a\rb,c\n8,a,b\n',
        rejects=((3, STRAY), (4, "an empty line"), (5, AFTER), (6, _fields(2)), (7, "a NUL byte"), (8, NOT_UTF8), (9, RETURN)),
        rows=2,
    ),
    # The header.
    "empty file": Case(b"", error="the file is empty (0 bytes): not even a header is there"),
    "only a byte order mark": Case(b"\xef\xbb\xbf", error="the file is empty (0 bytes): not even a header is there"),
    "header only": Case(HEADER),
    "header only, without line end": Case(HEADER[:-1]),
    "duplicate names": Case(b"id,name,id\n1,a,2\n", error="line 1: columns 1 and 3 have the same name"),
    "empty name": Case(b"id,,born\n1,a,2\n", error="line 1: column 2 has no name"),
    "empty name in quotes": Case(b'id,""\n1,a\n', error="line 1: column 2 has no name"),
    "values instead of a header": Case(b"1," + _S + b"," + _S + b"\n", error="line 1: columns 2 and 3 have the same name"),
    "NUL in the header": Case(b"id,na\0me\n1,a\n", error="line 1: the name of column 2 holds a NUL byte"),
    "latin-1 in the header": Case(b"id,gr\xf6\xdfe\n1,a\n", error=f"line 1: the header is {NOT_UTF8}"),
    "stray quote in the header": Case(b'id,na"me\n1,a\n', error=f"line 1: the header has {STRAY}"),
    "unclosed quote in the header": Case(b'id,"name\n1,a\n', error=f"line 1: {UNCLOSED}"),
    "carriage return in the header": Case(b"id,na\rme\n1,a\n", error=f"line 1: the header has {RETURN}"),
    "line end in a name": Case(b'id,"na\nme"\n1,a\n2\n', rejects=((4, _fields(1, 2)),), rows=1),
    "two byte order marks": Case(b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD, error="line 1: column 1 begins with a second byte order mark"),
    "very long header": Case(",".join(f"column_{i}" for i in range(20_000)).encode() + b"\n1,2\n", rejects=((2, _fields(2, 20_000)),)),
    "very long name": Case(b"id," + b"n" * 5_000_000 + b"\n1,2\n", rows=1),
    # Another delimiter.
    "semicolons": Case(b"id;name;born\n1;" + _S + b";2\n", error="line 1: 'delimiter' ',' makes one column of what ';' would make 3 of: give that"),
    "tabs": Case(b"id\tname\n1\ta\n", error="line 1: 'delimiter' ',' makes one column of what '\\t' would make 2 of: give that"),
    "semicolons and quotes": Case(b'"id";"name"\n"1";"a,b"\n', error="line 1: 'delimiter' ',' makes one column of what ';' would make 2 of: give that"),
    "commas read as semicolons": Case(
        GOOD, error="line 1: 'delimiter' ';' makes one column of what ',' would make 3 of: give that", dialect={"delimiter": ";"}
    ),
    "semicolons without header": Case(
        b"1;" + _S + b";2\n", rejects=((1, _fields(1) + "; 'delimiter' ';' would fit"),), dialect={"header": False, "columns": ("a", "b", "c")}
    ),
    "semicolons in one column": Case(b"a;b\n1\n2;3;4\n", rows=2),
    # Characters.
    "NUL": Case(HEADER + b"1," + _S + b"\0,b\n2,b,c\n", rejects=((2, "a NUL byte"),), rows=1),
    "NUL in quotes": Case(HEADER + b'1,"\0",b\n2,b,c\n', rejects=((2, "a NUL byte"),), rows=1),
    "a tail of NUL": Case(HEADER + b"1,a,b\n" + b"\0" * 5000, rejects=((3, "a NUL byte"),), rows=1),
    "latin-1": Case(HEADER + b"1,Zo\xeb,b\n2,b,c\n", rejects=((2, NOT_UTF8),), rows=1),
    "a character cut in half": Case(HEADER + b"1,a,b\n2,c,\xc3", rejects=((3, NOT_UTF8),), rows=1),
    "surrogates in UTF-8": Case(HEADER + b"1,\xed\xa0\x80,b\n", rejects=((2, NOT_UTF8),)),
    "overlong UTF-8": Case(HEADER + b"1,\xc0\xaf,b\n", rejects=((2, NOT_UTF8),)),
    "UTF-16 with a mark": Case(
        GOOD.decode().encode("utf-16"), error="the file begins with the byte order mark of utf-16, and is read as utf-8: give 'encoding' utf-16"
    ),
    "UTF-16 without a mark": Case(GOOD.decode().encode("utf-16-le"), error="the file looks like UTF-16 and is read as utf-8: give 'encoding' utf-16-le"),
    "UTF-16, big endian": Case(GOOD.decode().encode("utf-16-be"), error="the file looks like UTF-16 and is read as utf-8: give 'encoding' utf-16-be"),
    "UTF-32": Case(GOOD.decode().encode("utf-32"), error="the file begins with the byte order mark of utf-32, and is read as utf-8: give 'encoding' utf-32"),
    "declared UTF-16, without a mark": Case(
        GOOD.decode().encode("utf-16-le"),
        error="the file has no byte order mark of utf-16: say which order it has, by 'encoding' utf-16-le or utf-16-be",
        dialect={"encoding": "utf-16"},
    ),
    "declared UTF-16, is ASCII": Case(GOOD, error="the file is plain text, and is read as utf-16-le: leave 'encoding' out", dialect={"encoding": "utf-16-le"}),
    "declared latin-1, is UTF-8 with a mark": Case(
        b"\xef\xbb\xbf" + GOOD,
        error="the file begins with the byte order mark of utf-8, and is read as iso8859-1: leave 'encoding' out",
        dialect={"encoding": "latin-1"},
    ),
    "UTF-16 cut inside a character": Case(
        GOOD.decode().encode("utf-16")[:-1],
        error="line 3 or after: the text ends inside a character in utf-16; is 'encoding' right?",
        dialect={"encoding": "utf-16"},
    ),
    "declared cp1252, byte without meaning": Case(HEADER + b"1,\x81,b\n2,b,c\n", rejects=((2, "not valid cp1252"),), rows=1, dialect={"encoding": "cp1252"}),
    "declared ascii": Case(HEADER + "1,é,b\n".encode(), rejects=((2, "not valid ascii"),), dialect={"encoding": "ascii"}),
    "byte order mark": Case(b"\xef\xbb\xbf" + GOOD, rows=2),
    "byte order mark in the middle, with the header": Case(
        b"\xef\xbb\xbf" + GOOD + b"\xef\xbb\xbf" + GOOD, rejects=((4, "a byte order mark and the header again: files were joined"),), rows=4
    ),
    "byte order mark in the middle, in a value": Case(GOOD + "\ufeff3,\ufeff,\n".encode(), rows=3),
    # Line ends.
    "carriage returns alone": Case(GOOD.replace(b"\n", b"\r"), error="line 1: the lines end in carriage returns alone: convert them to line feeds"),
    "a carriage return inside a line": Case(HEADER + b"1," + _S + b"\rx,b\n2,b,c\n", rejects=((2, RETURN),), rows=1),
    "a carriage return too many": Case(HEADER + b"1,a,b\r\r\n2,b,c\n", rejects=((2, RETURN),), rows=1),
    "a carriage return in quotes": Case(HEADER + b'1,"a\rb",c\n', rows=1),
    "both kinds of line ends": Case(HEADER + b"1,a,b\r\n2,b,c\n", rows=2),
    "a carriage return at the end": Case(HEADER + b"1,a,b\r", rows=1),
    "no line end at the end": Case(HEADER + b'1,"",', rows=1),
    # Large things.
    "a field of 10 MB": Case(HEADER + b"1," + b"x" * 10_000_000 + b",b\n2,b,c\n", rows=2),
    "a quoted field of 10 MB": Case(HEADER + b'1,"' + b'x""\n' * 2_500_000 + b'",b\n2,b\n', rejects=((2_500_003, _fields(2)),), rows=1),
    # Other files.
    "gzip named .csv": Case(gzip.compress(GOOD), error="the file is no CSV but gzip-compressed: name it .csv.gz"),
    "zstd named .csv": Case(_zstd(GOOD), error="the file is no CSV but zstd-compressed: name it .csv.zst"),
    "gzip twice": Case(
        gzip.compress(gzip.compress(GOOD)),
        error="the file is no CSV but gzip-compressed: name it .csv.gz",
        dialect={"compression": "gzip"},
    ),
    "CSV named .gz": Case(GOOD, error="the file is not gzip-compressed, although its name says so", dialect={"compression": "gzip"}),
    "zstd named .gz": Case(_zstd(GOOD), error="the file is not gzip-compressed, although its name says so", dialect={"compression": "gzip"}),
    "empty file named .gz": Case(b"", error="the file is empty (0 bytes)", dialect={"compression": "gzip"}),
    "gzip of nothing": Case(gzip.compress(b""), error="the file is empty (0 bytes): not even a header is there", dialect={"compression": "gzip"}),
    "truncated gzip": Case(gzip.compress(GOOD)[:-9], error="the gzip data ends early: it was cut off; fetch the file again", dialect={"compression": "gzip"}),
    "truncated zstd": Case(_zstd(GOOD * 9)[:-3], error="the zstd data ends early: it was cut off; fetch the file again", dialect={"compression": "zstd"}),
    "gzip with a wrong checksum": Case(
        gzip.compress(GOOD)[:-8] + b"\0" * 4 + gzip.compress(GOOD)[-4:],
        error="the gzip data is damaged, or something else follows its end; fetch the file again",
        dialect={"compression": "gzip"},
    ),
    "gzip with something behind": Case(
        gzip.compress(GOOD) + GOOD, error="the gzip data is damaged, or something else follows its end; fetch the file again", dialect={"compression": "gzip"}
    ),
    "several gzip members": Case(gzip.compress(GOOD[:20]) + gzip.compress(GOOD[20:]), rows=2, dialect={"compression": "gzip"}),
    "several zstd frames": Case(_zstd(GOOD[:20]) + _zstd(GOOD[20:]), rows=2, dialect={"compression": "zstd"}),
    "ZIP archive": Case(_zipped(GOOD), error="the file is no CSV but a ZIP archive or an Excel workbook: unpack it, or save the sheet as CSV"),
    "bzip2": Case(bz2.compress(GOOD), error="the file is no CSV but bzip2-compressed: recompress it with gzip or zstd"),
    "xz": Case(lzma.compress(GOOD), error="the file is no CSV but xz-compressed: recompress it with gzip or zstd"),
    "Parquet": Case(_parquet(), error="the file is no CSV but Parquet: give 'format' parquet"),
    "PDF": Case(b"%PDF-1.7\n" + _S, error="the file is no CSV but a PDF document"),
    "old Excel": Case(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512, error="the file is no CSV but an old Excel or Word file: save the sheet as CSV"),
    "a column called PAR1": Case(b"PAR1,b\n1,2\n", rows=1),
}
