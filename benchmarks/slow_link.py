"""A TCP relay on 127.0.0.1 that hands on each byte a fixed time after it came: a long way, without loss and as broad as the machine is fast.

    python -m benchmarks.slow_link TO_PORT ROUND_TRIP_MS        # prints the port that it listens on

It needs no root and no kernel module (`tc netem`), and delays what protocols wait for: requests, answers, windows of SSH. TCP's own slow start it does not show.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import deque

PIECE_BYTES = 1 << 18
UNDER_WAY_BYTES = 32 << 20  # of one direction: no way of 50 ms holds more at 600 MB/s


async def serve(to_port: int, round_trip_ms: float) -> None:
    """Relay until the process ends."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to_port, limit=PIECE_BYTES)
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(_one_way(reader, back, round_trip_ms / 2000), _one_way(there, writer, round_trip_ms / 2000))
        finally:
            writer.close()
            back.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0, limit=PIECE_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Bytes are sent on when they are due; the end of them as well."""
    _no_delay(writer)
    loop = asyncio.get_running_loop()
    under_way: deque[tuple[float, bytes]] = deque()
    waiting, came, went = 0, asyncio.Event(), asyncio.Event()

    async def send_on() -> None:
        nonlocal waiting
        while True:
            while not under_way:
                came.clear()
                await came.wait()
            due, data = under_way.popleft()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            waiting -= len(data)
            went.set()

    sending = asyncio.create_task(send_on())
    data = b"-"
    while data and not sending.done():
        while waiting > UNDER_WAY_BYTES:
            went.clear()
            await went.wait()
        data = await reader.read(PIECE_BYTES)
        waiting += len(data)
        under_way.append((loop.time() + seconds, data))
        came.set()
    await sending


def _no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
