"""A file as the body of a request: its last bytes go out only after its source has ended well."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from engine.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

PIECE_BYTES = 1 << 20


class FileBody:
    """What `requests` and its multipart encoder read.

    Args:
        open_body: Opens the file anew.
        size: In bytes, as announced in the request's head.
        on_commit: Called when the source has ended well, before the last bytes are given out; what it raises ends the request.
        name: Where it goes, for messages.

    Raises:
        IntegrityError: On reading, when the source gives more or fewer bytes than `size`: the request never completes then.
    """

    def __init__(self, open_body: Callable[[], AbstractContextManager[BinaryIO]], size: int, on_commit: Callable[[], None], name: str) -> None:
        self.size = size
        self.len = size  # bytes that are left, as the encoder and requests ask for it
        self.is_committed = False  # the last bytes may be on their way
        self._open_body = open_body
        self._on_commit = on_commit
        self._name = name
        self._digest = hashlib.sha256()
        self._pieces = self._generate()
        self._piece = memoryview(b"")

    @property
    def sha256(self) -> str:
        """Of what was read so far."""
        return self._digest.hexdigest()

    @property
    def is_complete(self) -> bool:
        """Whether everything was given out."""
        return self.is_committed and self.len == 0

    def commit_if_empty(self) -> None:
        """Nobody reads the body of an empty file; its source is looked at all the same."""
        if not self.size:
            next(self._pieces, None)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        taken = bytes(self._piece if size < 0 else self._piece[:size])
        self._piece = self._piece[len(taken) :]
        self.len -= len(taken)
        return taken

    def _generate(self) -> Iterator[bytes]:
        held, count = b"", 0
        with self._open_body() as body:
            while data := body.read(PIECE_BYTES):
                self._digest.update(data)
                count += len(data)
                if held:
                    yield held
                held = data
                if count > self.size:
                    raise IntegrityError(f"{self._name}: the source gave more than the {self.size:,} bytes that were announced; nothing was delivered")
        if count != self.size:
            raise IntegrityError(f"{self._name}: the source ended {self.size - count:,} bytes early; nothing was delivered", transient=True)
        self._on_commit()
        self.is_committed = True
        if held:
            yield held
