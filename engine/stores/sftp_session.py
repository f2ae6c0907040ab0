"""One SFTP session: paramiko's client with what it lacks, all of its private methods that we use in one place.

paramiko's own files drop the errors of pipelined writes and of CLOSE, and prefetch without bound; so none of them is used here. Requests are sent
by number, each answer goes to whoever asked, and a status other than success is `StatusError`.
"""

from __future__ import annotations

import contextlib
import math
import os
import posixpath
import stat
import struct
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import paramiko
from paramiko.sftp import (
    CMD_ATTRS,
    CMD_CLOSE,
    CMD_EXTENDED,
    CMD_EXTENDED_REPLY,
    CMD_FSTAT,
    CMD_HANDLE,
    CMD_INIT,
    CMD_LSTAT,
    CMD_MKDIR,
    CMD_NAME,
    CMD_OPEN,
    CMD_OPENDIR,
    CMD_READ,
    CMD_READDIR,
    CMD_READLINK,
    CMD_REALPATH,
    CMD_REMOVE,
    CMD_RENAME,
    CMD_RMDIR,
    CMD_STAT,
    CMD_STATUS,
    CMD_VERSION,
    CMD_WRITE,
    SFTP_EOF,
    SFTP_OK,
    int64,
)

from engine.stores import sftp_packets
from engine.stores.sftp_answer import Answer
from engine.stores.sftp_errors import FLUSH_SECONDS, NO_SUCH_FILE, UNSUPPORTED, StatusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

T = TypeVar("T")
POSIX_RENAME = "posix-rename@openssh.com"
HARD_LINK = "hardlink@openssh.com"
SYNC = "fsync@openssh.com"
LIMITS = "limits@openssh.com"
CHECK_FILE = "check-file"
_VERSION = 3
_COMMON_CHUNK = 32_600  # every server takes 32 KiB; this with its header fits one packet of an SSH channel, which is faster than one and a bit
_RECEIVE = 1 << 20  # more lies in the channel; taken at once it would be in memory twice
_LARGEST_CHUNK = 255 << 10  # what OpenSSH takes
_HELD_BYTES = 30_000  # of small requests; they fit one packet of an SSH channel
_ONE_AFTER_ANOTHER = "SSH-2.0-OpenSSH"
_MOST_LINKS = 40  # as many as Linux follows
ANSWER_TIMEOUTS = 5
"""So many times as long as a server may be silent may one answer take: one that comes byte by byte would hold a run up for ever."""


class Asks(Protocol):
    """Whoever sends pipelined requests; `Session` keeps it by a weak reference only."""

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        """Take the answer to request `number`; may not raise."""


class Session(paramiko.SFTPClient):
    """An SFTP channel, used by one thread at a time. Paths are text, and any bytes of a name survive (`os.fsencode`).

    Attributes:
        extensions: What the server announced.
        read_chunk: Bytes to ask for in one request.
        write_chunk: Bytes to send in one request.
        keeps_order: Whether the server is known to take one request after another: https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02#section-6.1
            demands as much for one file, and gateways exist that do not.
    """

    if TYPE_CHECKING:  # what paramiko's stubs leave out
        request_number: int
        sock: paramiko.Channel
        _expecting: MutableMapping[int, Any]

        def _async_request(self, fileobj: Any, t: int, *args: Any) -> int: ...
        def _request(self, t: int, *args: Any) -> tuple[int, paramiko.Message]: ...
        def _send_packet(self, t: int, packet: paramiko.Message) -> None: ...
        def _read_packet(self) -> tuple[int, bytes]: ...

    def __init__(self, channel: paramiko.Channel) -> None:
        self.extensions: dict[str, bytes] = {}
        self.read_chunk = self.write_chunk = _COMMON_CHUNK
        self.keeps_order = channel.get_transport().remote_version.startswith(_ONE_AFTER_ANOTHER)
        self._ahead = b""  # received, and not looked at yet from `_at` on
        self._at = 0
        self._torn = False  # left in the middle of a packet
        self._held: list[bytes] = []  # requests that wait for company
        self._held_bytes = 0
        super().__init__(channel)
        self._ask_limits()

    @property
    def is_usable(self) -> bool:
        """Whether the next request would meet a connection that is alive and owes no answer."""
        return not self._torn and not self._expecting and not self.sock.closed and self.sock.get_transport().is_active()

    @property
    def is_torn(self) -> bool:
        """Whether it was left in the middle of a packet, or while an answer was awaited: nothing more can be asked."""
        return self._torn

    def close(self) -> None:
        """End the connection; says nothing to the server, who may not be listening."""
        self.sock.get_transport().close()

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Wait so long for each answer in the block."""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            yield
        finally:
            self.sock.settimeout(before)

    # requests that are answered before the call returns

    def open_file(self, path: str, flags: int) -> bytes:
        """A handle."""
        return self.ask_open(path, flags).get()

    def close_file(self, handle: bytes) -> None:
        """CLOSE, whose status counts: quotas and delayed writes show here."""
        self.ask_close(handle).get()

    def attributes(self, path: str, *, follow: bool = True) -> paramiko.SFTPAttributes | None:
        """What stands at the path, None when nothing does."""
        return self.ask_attributes(path, follow=follow).get()

    def entries(self, folder: str) -> list[tuple[str, paramiko.SFTPAttributes]]:
        """Names in a folder, with what they themselves are (links are not followed)."""
        handle = self._answer(CMD_HANDLE, CMD_OPENDIR, os.fsencode(folder or ".")).get_binary()
        found: list[tuple[str, paramiko.SFTPAttributes]] = []
        while True:
            try:
                message = self._answer(CMD_NAME, CMD_READDIR, handle)
            except EOFError:
                break
            for _ in range(message.get_int()):
                name = os.fsdecode(message.get_binary())
                message.get_binary()  # the line of `ls -l`
                found.append((name, _attributes(message)))
        self.close_file(handle)
        return [entry for entry in found if entry[0] not in {".", ".."}]

    def absolute(self, path: str) -> str:
        """The path without links and from the root, as the server says."""
        return self._name(CMD_REALPATH, path or ".")

    def links_from(self, path: str) -> int:
        """How many symbolic links lead from a link to the file that it leads to; 1 where the server does not say."""
        links = 1
        with contextlib.suppress(StatusError):
            while links < _MOST_LINKS:
                path = posixpath.join(posixpath.dirname(path), self._name(CMD_READLINK, path))
                found = self.attributes(path, follow=False)
                if found is None or not stat.S_ISLNK(found.st_mode or 0):
                    break
                links += 1
        return links

    def make_folder(self, path: str) -> None:
        """MKDIR."""
        self._answer(CMD_STATUS, CMD_MKDIR, os.fsencode(path), paramiko.SFTPAttributes())

    def remove_folder(self, path: str) -> None:
        """RMDIR."""
        self._answer(CMD_STATUS, CMD_RMDIR, os.fsencode(path))

    def remove_file(self, path: str) -> None:
        """REMOVE."""
        self._answer(CMD_STATUS, CMD_REMOVE, os.fsencode(path))

    def plain_rename(self, old: str, new: str) -> None:
        """RENAME; must not replace (section 6.5 of the draft), which not every server keeps."""
        self._answer(CMD_STATUS, CMD_RENAME, os.fsencode(old), os.fsencode(new))

    def extended(self, name: str, *args: bytes) -> None:
        """A request of an extension that is answered by a status."""
        self.ask_extended(name, *args).get()

    def digest_of(self, handle: bytes) -> bytes:
        """The server's answer to `check-file` for the whole file, which ends with the SHA-256."""
        with self.patience(FLUSH_SECONDS):
            return self._answer(CMD_EXTENDED_REPLY, CMD_EXTENDED, "check-file-handle", handle, "sha256", int64(0), int64(0), 0).get_remainder()

    # requests whose answers may be waited for later, where the server keeps the order

    def ask_open(self, path: str, flags: int) -> Answer[bytes]:
        """For a handle."""
        return self._ask(CMD_HANDLE, paramiko.Message.get_binary, CMD_OPEN, os.fsencode(path), flags, paramiko.SFTPAttributes())

    def ask_close(self, handle: bytes) -> Answer[None]:
        """CLOSE."""
        return self._ask(CMD_STATUS, _nothing, CMD_CLOSE, handle)

    def ask_sync(self, handle: bytes) -> Answer[None]:
        """For what was written to be on the server's disk; a server may offer it and not support it."""
        return self._ask(CMD_STATUS, _nothing, CMD_EXTENDED, SYNC, handle, pardoned=UNSUPPORTED)

    def ask_attributes(self, path: str, *, follow: bool = True) -> Answer[paramiko.SFTPAttributes | None]:
        """For what stands at the path."""
        return self._ask(CMD_ATTRS, _attributes, CMD_STAT if follow else CMD_LSTAT, os.fsencode(path), pardoned=NO_SUCH_FILE)

    def ask_attributes_of(self, handle: bytes) -> Answer[paramiko.SFTPAttributes]:
        """For those of an open file."""
        return self._ask(CMD_ATTRS, _attributes, CMD_FSTAT, handle)

    def ask_extended(self, name: str, *args: bytes) -> Answer[None]:
        """For a request of an extension that is answered by a status."""
        return self._ask(CMD_STATUS, _nothing, CMD_EXTENDED, name, *args)

    # pipelined requests, each answered to `asks`

    def send_write(self, asks: Asks, handle: bytes, offset: int, data: memoryview) -> int:
        """Send one WRITE, copied once; returns its number."""
        number = self.request_number
        self.request_number += 1
        self._expecting[number] = asks
        length = 1 + 4 + 4 + len(handle) + 8 + 4 + len(data)
        head = struct.pack(f">IBII{len(handle)}sQI", length, CMD_WRITE, number, len(handle), handle, offset, len(data))
        self._write_all(b"".join((head, data)))
        return number

    def send_read(self, asks: Asks, handle: bytes, offset: int, length: int) -> int:
        """Send one READ; returns its number."""
        return self._async_request(asks, CMD_READ, handle, int64(offset), length)

    def take_answer(self) -> None:
        """Wait for one answer and give it to whoever asked."""
        self._read_response()

    def has_answer(self) -> bool:
        """Whether an answer has begun to arrive."""
        return self._at < len(self._ahead) or self.sock.recv_ready()

    # what of paramiko is done differently

    def _send_version(self) -> int:
        """Keeps the extensions, which paramiko throws away."""
        message = paramiko.Message()
        message.add_int(_VERSION)
        self._send_packet(CMD_INIT, message)
        kind, data = self._read_packet()
        if kind != CMD_VERSION:
            raise paramiko.SFTPError("no version")
        answer = paramiko.Message(data)
        version = answer.get_int()
        while answer.get_so_far() != data:
            name = answer.get_binary().decode("utf-8", "replace")
            self.extensions[name] = answer.get_binary()
        return version

    def check_status(self, msg: paramiko.Message) -> None:
        """Read a status.

        Raises:
            StatusError: It is no success.
            EOFError: It is the end of the file.
        """
        code = msg.get_int()
        if code == SFTP_EOF:
            raise EOFError
        if code != SFTP_OK:
            raise StatusError(code)

    _convert_status = check_status  # what paramiko calls it

    def _write_all(self, out: bytes) -> None:
        """Small requests are held until an answer is waited for, and go in one packet: a packet costs both ends more than what is in it."""
        if self._held_bytes + len(out) > _HELD_BYTES:
            self._send_held()
        if len(out) > _HELD_BYTES:
            self._send(out)
        else:
            self._held.append(out)
            self._held_bytes += len(out)

    def _send_held(self) -> None:
        if self._held:
            held, self._held, self._held_bytes = b"".join(self._held), [], 0
            self._send(held)

    def _send(self, out: bytes) -> None:
        """Without copying the rest for every packet; a closed channel is no end of a file."""
        rest = memoryview(out)
        self._torn = True
        while rest:
            sent = sftp_packets.send(self.sock, rest)
            if not sent:
                raise paramiko.SSHException("the channel is closed")
            rest = rest[sent:]
        self._torn = False

    def _read_all(self, n: int) -> bytes:
        """Takes all that has arrived at once: paramiko's channel moves its whole buffer for every few bytes that are taken from it."""
        self._send_held()
        pieces: list[bytes] = []
        began, longest = time.monotonic(), ANSWER_TIMEOUTS * (self.sock.gettimeout() or math.inf)
        while n > len(self._ahead) - self._at:
            pieces.append(self._ahead[self._at :])
            n -= len(pieces[-1])
            self._ahead, self._at = self.sock.recv(_RECEIVE), 0
            if not self._ahead:
                raise EOFError
            if time.monotonic() - began > longest:
                raise TimeoutError
        pieces.append(self._ahead[self._at : self._at + n])
        self._at += n
        return b"".join(pieces)

    def _read_response(self, waitfor: int | None = None) -> tuple[Any, Any]:
        self._torn = True
        answer: tuple[Any, Any] = super()._read_response(waitfor)  # type: ignore[misc]
        self._torn = False
        return answer

    def _ask(self, wanted: int, read: Callable[[paramiko.Message], T], kind: int, *args: Any, pardoned: int | None = None) -> Answer[T]:
        answer = Answer(self, wanted, read, pardoned)
        self._async_request(answer, kind, *args)
        if not self.keeps_order:
            answer.wait()
        return answer

    def _name(self, kind: int, path: str) -> str:
        """The one name that answers a question about a path."""
        message = self._answer(CMD_NAME, kind, os.fsencode(path))
        message.get_int()
        return os.fsdecode(message.get_binary())

    def _answer(self, wanted: int, kind: int, *args: Any) -> paramiko.Message:
        return self._ask(wanted, lambda message: message, kind, *args).get()

    def _ask_limits(self) -> None:
        if LIMITS not in self.extensions:
            return
        try:
            message = self._answer(CMD_EXTENDED_REPLY, CMD_EXTENDED, LIMITS)
        except StatusError:
            return
        message.get_int64()  # of a whole packet
        reads, writes = message.get_int64(), message.get_int64()
        self.read_chunk = min(reads or _COMMON_CHUNK, _LARGEST_CHUNK)
        self.write_chunk = min(writes or _COMMON_CHUNK, _LARGEST_CHUNK)


def _attributes(message: paramiko.Message) -> paramiko.SFTPAttributes:
    found: paramiko.SFTPAttributes = paramiko.SFTPAttributes._from_msg(message)  # type: ignore[attr-defined]  # noqa: SLF001 - paramiko's own parser
    return found


def _nothing(message: paramiko.Message) -> None:
    """What is made of a status that is a success."""
    del message
