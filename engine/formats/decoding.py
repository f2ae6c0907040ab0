"""The bytes of a text file as UTF-8: decompressed, decoded from a declared encoding, without a byte order mark.

What is no such text is said at the first bytes, by name: UTF-16 read as UTF-8, a gzip archive that is called `.csv`, a spreadsheet, Parquet.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from engine.errors import ConfigurationError, IntegrityError, ProcessingError

if TYPE_CHECKING:
    from collections.abc import Callable

COMPRESSIONS = ("none", "gzip", "zstd")
_BOM = codecs.BOM_UTF8
_HEAD = 4096  # bytes looked at to say what a file is
_PIECE = 1 << 20  # bytes decompressed or decoded at once
# RFC 1952 section 2.3.1; RFC 8878 section 3.1 (the second byte pattern: a skippable frame).
_MAGIC = {"gzip": re.compile(rb"\x1f\x8b"), "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")}
_FOREIGN = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip-compressed: name it .csv.gz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd-compressed: name it .csv.zst"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive or an Excel workbook: unpack it, or save the sheet as CSV"),
    (re.compile(rb"\xd0\xcf\x11\xe0"), "an old Excel or Word file: save the sheet as CSV"),
    (re.compile(rb"PAR1(?=.{0,64}[\x00-\x08])", re.DOTALL), "Parquet: give 'format' parquet"),
    (re.compile(rb"ARROW1\x00\x00"), "an Arrow IPC file"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bzip2-compressed: recompress it with gzip or zstd"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz-compressed: recompress it with gzip or zstd"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"SQLite format 3\x00"), "an SQLite database"),
)
# UTF-32 first: its little-endian mark begins as that of UTF-16 does.
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_WIDE = ("utf-16", "utf-32")


def checked_encoding(name: str) -> str:
    """The name that Python gives to an encoding; `utf-8` whether or not a byte order mark is expected.

    Raises:
        ConfigurationError: There is none of that name for text.

    Example:
        >>> checked_encoding("Latin-1"), checked_encoding("UTF8")
        ('iso8859-1', 'utf-8')
    """
    try:
        "".encode(name)  # a codec for other things than text (`zip`, `rot13`) fails here
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ConfigurationError(f"'encoding': there is no text encoding {name!r}; utf-8, cp1252, latin-1 and utf-16 are usual ones") from None
    return "utf-8" if found == "utf-8-sig" else found


class Utf8Stream:
    r"""The text of a file, as UTF-8 bytes.

    Bytes that are not valid in the declared encoding come out as bytes that are not valid UTF-8, so that the reader of the text can reject
    their record; `as_in_file` turns them back. For UTF-8 itself the bytes pass untouched, and unchecked.

    Args:
        file: At its beginning; `read` may return less than was asked for. It is not closed.
        encoding: As `checked_encoding` gives it.
        compression: `none`, `gzip` (any number of members) or `zstd` (any number of frames).

    Raises:
        ProcessingError: The file is something else than was declared.
        IntegrityError: A compressed file ends early or is damaged.

    Example:
        >>> import io
        >>> room = bytearray(8)
        >>> room[:Utf8Stream(io.BytesIO(b"caf\xe9"), "cp1252").readinto(memoryview(room))].decode()
        'café'
    """

    def __init__(self, file: BinaryIO, encoding: str = "utf-8", compression: str = "none") -> None:
        self._read = _decompressed(file, compression)
        head = _fill(self._read, _HEAD)
        _refuse_foreign(head, encoding)
        if encoding == "utf-8":
            self._pending = head.removeprefix(_BOM)
            return
        self._read = _decoded(_after(head, self._read), encoding)
        # Encodings of Unicode may begin with a byte order mark, which their decoders keep where the name says the byte order.
        self._pending = _fill(self._read, _HEAD).removeprefix(_BOM)

    def readinto(self, room: memoryview) -> int:
        """The next bytes; as many as there is room for, unless the text ends. Returns how many."""
        filled = min(len(self._pending), len(room))
        room[:filled] = self._pending[:filled]
        self._pending = self._pending[filled:]
        while filled < len(room) and (piece := self._read(len(room) - filled)):
            taken = min(len(piece), len(room) - filled)
            room[filled : filled + taken] = piece[:taken]
            self._pending = piece[taken:]
            filled += taken
        return filled


def as_in_file(record: bytes, encoding: str) -> bytes:
    r"""A record of a `Utf8Stream` where bytes that could not be decoded stand as they are in the file.

    Example:
        >>> as_in_file(b"caf\xc3\xa9 \xed\xb2\x81", "cp1252")
        b'caf\xc3\xa9 \x81'
    """
    if encoding == "utf-8" or encoding.startswith(_WIDE):
        return record
    return record.decode("utf-8", "surrogatepass").encode("utf-8", "surrogateescape")


def _fill(read: Callable[[int], bytes], size: int) -> bytes:
    """Bytes until there are `size`, or no more; some beyond it where `read` gives more than it was asked for."""
    pieces: list[bytes] = []
    while size > 0 and (piece := read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _after(head: bytes, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Reads `head`, then on."""

    def reading(size: int) -> bytes:
        nonlocal head
        if not head:
            return read(size)
        piece, head = head[:size], head[size:]
        return piece

    return reading


def _refuse_foreign(head: bytes, encoding: str) -> None:
    for magic, what in _FOREIGN:
        if magic.match(head):
            raise ProcessingError(f"the file is no CSV but {what}")
    wide = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    plain = b"\n" in head and b"\0" not in head and head.isascii()
    if plain and encoding.startswith(_WIDE):
        raise ProcessingError(f"the file is plain text, and is read as {encoding}: leave 'encoding' out")
    if encoding in _WIDE and wide != encoding and head:
        raise ProcessingError(f"the file has no byte order mark of {encoding}: say which order it has, by 'encoding' {encoding}-le or {encoding}-be")
    if wide and encoding != wide and not head.startswith("\ufeff".encode(encoding, "replace")):
        raise ProcessingError(f"the file begins with the byte order mark of {wide}, and is read as {encoding}: give 'encoding' {wide}")
    if head.startswith(_BOM) and encoding != "utf-8":
        raise ProcessingError(f"the file begins with the byte order mark of utf-8, and is read as {encoding}: leave 'encoding' out")
    if not encoding.startswith(_WIDE) and (order := _order_of_wide(head)):
        raise ProcessingError(f"the file looks like UTF-16 and is read as {encoding}: give 'encoding' utf-16-{order}")


def _order_of_wide(head: bytes) -> str | None:
    """`le` or `be` where every other byte is mostly NUL, as in UTF-16 of Latin script."""
    first, second = head[0::2], head[1::2]
    for order, low, high in (("le", first, second), ("be", second, first)):
        if len(head) > 1 and high.count(0) > len(high) * 0.7 and low.count(0) < len(low) * 0.1:
            return order
    return None


class _Upstream:
    """A file as pyarrow's decompression wants it: it stays open, and what it raised is kept, since pyarrow may lose it."""

    closed = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.failure: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._read(size)
        except BaseException as error:
            self.failure = error
            raise

    def close(self) -> None:
        """The file is its opener's to close."""


def _decompressed(file: BinaryIO, compression: str) -> Callable[[int], bytes]:
    if compression == "none":
        return file.read
    head = _fill(file.read, 4)
    if not _MAGIC[compression].match(head):
        raise IntegrityError(f"the file is not {compression}-compressed, although its name says so" if head else "the file is empty (0 bytes)")
    upstream = _Upstream(_after(head, file.read))
    stream = pa.CompressedInputStream(pa.PythonFile(upstream, mode="r"), compression)

    def read(size: int) -> bytes:
        try:
            piece: bytes = stream.read(min(size, _PIECE))
        except (OSError, SystemError) as error:
            if upstream.failure is not None:
                raise upstream.failure from None
            early = "Truncated" in str(error)
            what = "ends early: it was cut off" if early else "is damaged, or something else follows its end"
            raise IntegrityError(f"the {compression} data {what}; fetch the file again") from None
        return piece

    return read


def _decoded(read: Callable[[int], bytes], encoding: str) -> Callable[[int], bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass" if encoding.startswith(_WIDE) else "surrogateescape")
    lines = 1
    ended = False

    def reading(_size: int) -> bytes:
        nonlocal lines, ended
        text = ""
        while not text and not ended:
            piece = read(_PIECE)
            ended = not piece
            try:
                text = decoder.decode(piece, final=ended)
            except UnicodeError:
                where = "ends inside a character" if ended else "is not valid"
                raise ProcessingError(f"line {lines} or after: the text {where} in {encoding}; is 'encoding' right?") from None
        lines += text.count("\n")
        return text.encode("utf-8", "surrogatepass")

    return reading
