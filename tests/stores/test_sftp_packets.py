"""Packets that paramiko's own reader takes for paramiko's, whatever the cipher."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import MSG_CHANNEL_DATA
from paramiko.compress import ZlibCompressor, ZlibDecompressor
from paramiko.packet import Packetizer as Theirs

from engine.stores.sftp_packets import Packetizer, _Data


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("cipher", ["none", "AES-GCM", "AES-CTR", "AES-CTR, encrypt-then-MAC"])
def test_they_are_read_as_they_were_sent(cipher: str, compressed: bool) -> None:
    here, there = socket.socketpair()
    with here, there:
        out: Any = Packetizer(here)
        back: Any = Theirs(there)
        if cipher == "AES-GCM":
            key, nonce = os.urandom(32), os.urandom(12)
            out.set_outbound_cipher(AESGCM(key), 16, None, 16, b"", aead=True, iv_out=nonce)
            back.set_inbound_cipher(AESGCM(key), 16, None, 16, b"", aead=True, iv_in=nonce)
        elif cipher != "none":
            aes, etm = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))), "then" in cipher
            out.set_outbound_cipher(aes.encryptor(), 16, hashlib.sha256, 32, b"k" * 32, sdctr=True, etm=etm)
            back.set_inbound_cipher(aes.decryptor(), 16, hashlib.sha256, 32, b"k" * 32, etm=etm)
        if compressed:
            out.set_outbound_compressor(ZlibCompressor())
            back.set_inbound_compressor(ZlibDecompressor())
        for size in (*range(70), 32_704, 32_768, 65_535):
            data = os.urandom(size)
            sending = threading.Thread(target=out.send_message, args=(_Data(7, memoryview(data)),))
            sending.start()
            kind, message = back.read_message()
            sending.join()
            assert (kind, message.get_int(), message.get_binary(), message.get_remainder()) == (MSG_CHANNEL_DATA, 7, data, b"")
