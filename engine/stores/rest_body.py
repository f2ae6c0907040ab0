"""A file as the body of a request: its last bytes go out only after its source has ended well."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

PIECE_BYTES = 1 << 20
_QUOTED = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a file in a body.

    Attributes:
        content_type: Of the whole body.
        head: Before the file.
        tail: Behind it.
    """

    content_type: str
    head: bytes = b""
    tail: bytes = b""


def form(fields: Iterable[tuple[str, str]], file_field: str, name: str, content_type: str) -> Frame:
    """A form (multipart/form-data, RFC 7578) around a file, which comes last.

    Names are UTF-8 with `"`, CR and LF percent-encoded, as browsers write them: RFC 7578 (4.2) forbids the `filename*` of RFC 5987 here.
    """
    boundary = secrets.token_hex(16)
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(field)}"\r\n\r\n{value}\r\n' for field, value in fields]
    disposition = f'Content-Disposition: form-data; name="{_quoted(file_field)}"; filename="{_quoted(name)}"'
    parts.append(f"--{boundary}\r\n{disposition}\r\nContent-Type: {content_type}\r\n\r\n")
    return Frame(f"multipart/form-data; boundary={boundary}", "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode())


class SourceFailedError(Exception):
    """Reading a body failed: no kind that a library would take for its connection's.

    Attributes:
        reason: What was raised.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


def _quoted(name: str) -> str:
    return name.translate(_QUOTED)


class FileBody:
    """What `requests` reads.

    Args:
        open_body: Opens the file anew.
        size: Of the file, in bytes, as announced in the request's head.
        on_commit: Called when the source has ended well, before the last bytes are given out; what it raises ends the request.
        name: Where it goes, for messages.
        frame: What stands around the file.

    Attributes:
        size: Of the file.
        len: Bytes of the body that are left, as requests asks for it.
        is_begun: Whether any byte was asked for: the connection stood.

    Raises:
        SourceFailedError: On reading, also for a source that gives more or fewer bytes than `size` (`IntegrityError`): the request never completes then.
    """

    def __init__(self, open_body: Callable[[], AbstractContextManager[BinaryIO]], size: int, on_commit: Callable[[], None], name: str, frame: Frame) -> None:
        self.size = size
        self.len = len(frame.head) + size + len(frame.tail)
        self.is_begun = False
        self._is_committed = False
        self._open_body = open_body
        self._on_commit = on_commit
        self._name = name
        self._frame = frame
        self._digest = hashlib.sha256()
        self._pieces = self._generate()
        self._piece = memoryview(b"")

    @property
    def content_type(self) -> str:
        """Of the whole body."""
        return self._frame.content_type

    @property
    def sha256(self) -> str:
        """Of what was read of the file so far."""
        return self._digest.hexdigest()

    @property
    def is_complete(self) -> bool:
        """Whether the last byte was given out: before that no server can have the whole file."""
        return self._is_committed and self.len == 0

    def commit_if_empty(self) -> None:
        """Nobody reads a body without bytes; its source is looked at all the same."""
        if not self.len:
            next(self._pieces, None)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        self.is_begun = True
        try:
            while not self._piece and self.len:
                self._piece = memoryview(next(self._pieces))
        except Exception as error:  # noqa: BLE001 - whatever it is, the route says what becomes of it
            raise SourceFailedError(error) from None
        taken = bytes(self._piece if size < 0 else self._piece[:size])
        self._piece = self._piece[len(taken) :]
        self.len -= len(taken)
        return taken

    def _generate(self) -> Iterator[bytes]:
        held, count = self._frame.head, 0
        with self._open_body() as body:
            while data := body.read(PIECE_BYTES):
                self._digest.update(data)
                count += len(data)
                if count > self.size:
                    raise IntegrityError(f"{self._name}: the source gave more than the {self.size:,} bytes that were announced; nothing was delivered")
                yield held
                held = data
        if count != self.size:
            raise IntegrityError(f"{self._name}: the source ended {self.size - count:,} bytes early; nothing was delivered", transient=True)
        self._on_commit()
        self._is_committed = True
        yield held
        yield self._frame.tail
