"""The process that connectorx reads in, which `connectorx_source.py` starts: a request comes by standard input, record batches leave by standard output.

A process of its own, because connectorx 0.4 keeps the interpreter from every thread while it waits for rows (no signal, no lease, no cancel for as long
as the server computes), and because its panics print the server's text, cell values and all, to standard error, which goes nowhere here.
Run as a file, it imports nothing of the engine.

Out come a line of JSON, the batches as an Arrow IPC stream, and a line of JSON; a line is `{}`, or tells of the error that ended the read, and then it is the
last. None of them holds the server's text.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys

import connectorx
import pyarrow as pa

_SQLSTATE = re.compile(r"SqlState\(E([0-9A-Z]{5})\)")
_KINDS = (("timed out waiting for connection", "unreachable"), ("kind: Io", "broken"), ("kind: Closed", "broken"), ("invalid utf-8", "encoding"))


def main() -> None:
    """Read what the request asks for."""
    request = json.loads(sys.stdin.buffer.readline())
    _end_with_parent()
    out = sys.stdout.buffer
    writer: pa.ipc.RecordBatchStreamWriter | None = None
    try:
        reader = connectorx.read_sql(**request, return_type="arrow_stream")
        out.write(b"{}\n")
        with pa.ipc.new_stream(out, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        told: dict[str, str] = {}
    except BaseException as error:  # noqa: BLE001 - a Rust panic is no Exception
        told = told_of(str(error))
    out.write(json.dumps(told).encode() + b"\n")
    out.flush()


def told_of(text: str) -> dict[str, str]:
    """What can be said of an error without the server's text: its code, or its kind."""
    if state := _SQLSTATE.search(text):
        return {"sqlstate": state[1]}
    return {"kind": next((kind for words, kind in _KINDS if words in text), "other")}


def _end_with_parent() -> None:
    """Have the kernel end this process when the other end of standard input is gone: no thread of ours would come to run and notice."""
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


if __name__ == "__main__":
    main()
