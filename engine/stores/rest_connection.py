"""How an endpoint is reached through requests: a write that fails hides no answer, and certificates are read once."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, InsecureRequestWarning, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from engine.errors import ConfigurationError
from engine.results import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.response import HTTPResponse

_BLOCK_BYTES = 256 << 10
_SHOWN_BYTES = 4096
ANSWER_TIMEOUTS = 5
"""So many times as long as a server may be silent may its whole answer take: one that comes byte by byte would hold a delivery up for ever."""
_answers = logging.getLogger("engine.answers")
if not _answers.level:
    _answers.setLevel(logging.CRITICAL)  # never with the engine's other records: an answer may quote what was sent; `ferry --debug` on a terminal lowers it


@contextlib.contextmanager
def _answer_first() -> Iterator[None]:
    """Let urllib3 look for an answer where writing failed; it does so for a broken pipe, and not for its like under TLS or a server that reads no more."""
    try:
        yield
    except (TimeoutError, ssl.SSLError):
        raise BrokenPipeError from None


@contextlib.contextmanager
def _in_time(connection: HTTPConnection) -> Iterator[None]:
    """Cut the connection when the block takes too long."""
    plain = connection.sock
    seconds = connection.timeout

    def cut() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_RDWR)  # under TLS too: nothing is said to a server that may not listen

    if plain is None or not isinstance(seconds, int | float):
        yield
        return
    alarm = threading.Timer(ANSWER_TIMEOUTS * seconds, cut)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


class _Connection(HTTPConnection):
    def send(self, data: Any) -> None:
        with _answer_first():
            super().send(data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _in_time(self):
            return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def send(self, data: Any) -> None:
        with _answer_first():
            super().send(data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _in_time(self):
            return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """Sends bodies in larger pieces than the usual 16 KiB, and trusts what `context` trusts."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more, blocksize=_BLOCK_BYTES, ssl_context=self._context)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def cert_verify(self, *_: Any) -> None:
        """The context does; requests would read some hundred certificates for each connection."""


def trust(*, verify: bool, ca_bundle: str | None) -> ssl.SSLContext:
    """What is trusted: the certificates of `ca_bundle`, else those that come with requests; without `verify` anything.

    Raises:
        ConfigurationError: `ca_bundle` holds no certificates.
    """
    context = create_urllib3_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        urllib3.disable_warnings(InsecureRequestWarning)  # the summary says so
        return context
    try:
        context.load_verify_locations(ca_bundle or DEFAULT_CA_BUNDLE_PATH)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(f"'ca_bundle' {ca_bundle} cannot be read, or holds no certificates (PEM)") from None
    return context


def session(context: ssl.SSLContext | None) -> requests.Session:
    """A session that takes nothing from the environment: no netrc and no proxy."""
    made = requests.Session()
    made.trust_env = False
    made.mount("http://", _Adapter(None))
    made.mount("https://", _Adapter(context))
    return made


def tell_body(response: requests.Response, what: str) -> None:
    """Show how the body of a refusal begins, where somebody has asked for that."""
    if not _answers.isEnabledFor(logging.INFO):
        return
    with contextlib.suppress(HTTPError, OSError):  # the refusal itself says what went wrong
        begin = response.raw.read1(_SHOWN_BYTES, decode_content=True) or b""
        _answers.info("%s: the answer begins: %s", what, printable(begin.decode(errors="replace")))


def never_connected(error: requests.RequestException) -> bool:
    """Whether a request failed before its first byte could go out, whatever was announced in it."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError) or isinstance(reason, NewConnectionError)
