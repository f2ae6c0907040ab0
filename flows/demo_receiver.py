"""A REST endpoint for the demo: it keeps what it is sent, and says so."""

from __future__ import annotations

import contextlib
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def receiver(folder: Path) -> Iterator[str]:
    """Take files by POST (multipart/form-data or raw) and PUT into a folder; gives the URL."""
    folder.mkdir(parents=True, exist_ok=True)

    class Handler(BaseHTTPRequestHandler):
        """One request, one file."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name, data = self._part(body) if self.headers.get_content_maintype() == "multipart" else (unquote(self.path.rpartition("/")[2]), body)
            (folder / name.rpartition("/")[2]).write_bytes(data)
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST  # noqa: N815 - http.server's own names

        def _part(self, body: bytes) -> tuple[str, bytes]:
            """The file among the fields of a form."""
            message = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
            file = next(part for part in message.walk() if part.get_filename())
            data = file.get_payload(decode=True)
            return str(file.get_filename()), data if isinstance(data, bytes) else b""

        def log_message(self, *_: object) -> None:
            """Say nothing: the demo tells its own story."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="demo-receiver", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
