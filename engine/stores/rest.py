"""REST endpoints, as destinations of files: each file is the body of one request, streamed, through requests.

A request that repeats itself may deliver twice, one that does not may lose: `idempotent` and the method decide, and what nobody can tell is `OutcomeUnknown`.
"""

from __future__ import annotations

import logging
import os
import random
import re
import sys
import time
import warnings
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import requests
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests_toolbelt import MultipartEncoder
from urllib3.exceptions import NewConnectionError

from engine import paths
from engine.addresses import is_loopback
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, FileChanged, LeaseLost, OutcomeUnknown, TransferFailed
from engine.options import Options, Secret
from engine.results import Receipt
from engine.stores.rest_body import FileBody

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import BinaryIO, Self

REQUESTS_PER_FILE = 3
PAUSE_SECONDS = 1.0
"""Before the second request; doubled for the third, with jitter. `Retry-After` wins, up to `LONGEST_PAUSE_SECONDS`."""
LONGEST_PAUSE_SECONDS = 60.0
CONNECT_SECONDS = 10.0
_BLOCK_BYTES = 256 << 10
_SHOWN_BYTES = 2000
_TRY_AGAIN = frozenset({408, 429})
_OURS = frozenset({"content-length", "content-type", "transfer-encoding", "host", "authorization", "idempotency-key", "expect", "connection"})
_NEEDED = {"bearer_token": ("token",), "api_key": ("api_key",), "basic": ("username", "password"), "none": ()}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HEADER_VALUE = re.compile(r"|[\x21-\x7e\xa1-\xff]([\x20-\x7e\xa1-\xff]*[\x21-\x7e\xa1-\xff])?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_log = logging.getLogger("engine")


def _address(value: str) -> str:
    try:
        url = urlsplit(value)
        sound = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or _CONTROL.search(value):
        raise ValueError("should be a URL such as https://host/upload")
    if url.username is not None or url.password is not None:
        raise ValueError("holds a user name; use auth_type basic with username and password")
    return value


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("is no name of a header")
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class RestOptions(Options):
    """An endpoint that takes files (CONFIGURATION: "REST"; specification 6.5).

    Attributes:
        url: Where to; `{name}` is the file's name.
        method: `POST`, `PUT` or `PATCH`.
        auth_type: What proves who we are: `bearer_token` (`token`), `api_key` (`api_key`, in the header `api_key_header`), `basic` (`username`, `password`), `none`.
        use_multipart: Send multipart/form-data with `additional_fields` and the file as `file_field_name`; else the file is the body.
        additional_fields: Text fields of the form; `{name}` is the file's name.
        content_type: Of the file.
        headers: More headers; their values are secrets.
        idempotent: The endpoint takes a repeated POST or PATCH with the same `Idempotency-Key` for one.
        timeout: Seconds without any sign of the server.
        verify_tls: Check the server's certificate.
        ca_bundle: A file of certificates to trust instead of the usual ones.
    """

    other_routes: ClassVar[frozenset[str]] = frozenset({"file_pattern"})

    url: Annotated[str, AfterValidator(_address)]
    method: Annotated[Literal["POST", "PUT", "PATCH"], BeforeValidator(_upper)] = "POST"
    auth_type: Literal["bearer_token", "api_key", "basic", "none"] = "none"
    token: Secret | None = None
    api_key: Secret | None = None
    api_key_header: Annotated[str, AfterValidator(_header_name)] = "X-API-Key"
    username: str | None = None
    password: Secret | None = None
    use_multipart: bool = True
    file_field_name: Annotated[str, Field(min_length=1)] = "file"
    additional_fields: dict[str, str] = Field(default_factory=dict)
    content_type: str = "application/octet-stream"
    headers: dict[str, Secret] = Field(default_factory=dict)
    idempotent: bool = False
    timeout: Annotated[float, Field(gt=0)] = 60.0
    verify_tls: bool = True
    ca_bundle: str | None = None
    require_tls: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [key for key in _NEEDED[self.auth_type] if getattr(self, key) is None]
        if missing:
            raise ValueError(f"'auth_type' {self.auth_type} needs {' and '.join(map(repr, missing))}")
        unused = [key for key in ("token", "api_key", "password") if getattr(self, key) is not None and key not in _NEEDED[self.auth_type]]
        if unused:
            raise ValueError(f"'{unused[0]}' is given, and 'auth_type' {self.auth_type} does not use it")
        for key in ("token", "api_key"):
            if (secret := getattr(self, key)) is not None and not _HEADER_VALUE.fullmatch(secret.get_secret_value()):
                raise ValueError(f"{key!r} holds what no header can carry (a line break, a space at an end, or a character beyond Latin-1)")
        for name, value in self.headers.items():
            if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(f"'headers': {name!r} is set by ferry itself, or is no name of a header")
            if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
                raise ValueError(f"'headers': the value of {name!r} holds control characters, or others that no header can carry")
        if self.ca_bundle is not None and not os.path.isfile(self.ca_bundle):  # noqa: PTH113 - text of a configuration
            raise ValueError("'ca_bundle' is no file")
        return self


class _Adapter(HTTPAdapter):
    """Sends bodies in larger pieces than the usual 16 KiB."""

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more, blocksize=_BLOCK_BYTES)


class RestDestination:
    """An endpoint that takes files (`SendsBody`). Each request has a connection of its own: on an old one nobody could tell whether it arrived."""

    def __init__(self, options: RestOptions) -> None:
        self.notes: list[str] = []
        self._options = options
        self.may_repeat = options.method == "PUT" or options.idempotent
        self._check_encryption()

    def url(self, path: str) -> str:
        """The file's address, without its query: that may hold a key.

        Raises:
            ConfigurationError: The path is no relative path, or its name holds control characters.
        """
        return urlunsplit(urlsplit(self._address_of(path))._replace(query="", fragment=""))

    def slot(self, path: str) -> str | None:
        """A PUT replaces what was put at its address (RFC 9110, 9.3.4)."""
        return self._address_of(path) if self._options.method == "PUT" else None

    def close(self) -> None:
        """Nothing is kept open."""

    def send(
        self,
        path: str,
        open_body: Callable[[], AbstractContextManager[BinaryIO]],
        size: int,
        *,
        key: str,
        on_commit: Callable[[], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> Receipt:
        """See `SendsBody.send`."""
        for number in range(1, REQUESTS_PER_FILE + 1):
            body = FileBody(open_body, size, on_commit, self.url(path))
            try:
                return self._sent(path, body, key)
            except (FileChanged, LeaseLost):
                raise
            except FerryError as error:
                if not error.transient or number == REQUESTS_PER_FILE:
                    raise
                pause(_pause_seconds(error, number))
        raise AssertionError  # the loop returns or raises

    def probe(self, path: str) -> None:
        """A HEAD request, whose status does not matter."""
        try:
            with self._session() as session:
                session.head(self._address_of(path), timeout=self._timeouts, allow_redirects=False, verify=self._trust).close()
        except requests.RequestException as error:
            raise self._unreached(error, path) from None

    def _sent(self, path: str, body: FileBody, key: str) -> Receipt:
        """One request."""
        what = f"{self._options.method} to {self.url(path)}"
        try:
            with self._session() as session, self._request(session, path, body, key) as response:
                if 200 <= response.status_code < 300:  # noqa: PLR2004 - HTTP
                    if not body.is_complete:
                        raise TransferFailed(f"{what}: the server answered {response.status_code} before it had the whole file", transient=True)
                    return Receipt(body.size, body.sha256, "accepted", reported=_reported(response))
                self._refused(response, what)
        except requests.RequestException as error:
            if body.is_committed and not self.may_repeat and not _is_unsent(error):
                raise OutcomeUnknown(f"{what}: the whole file was sent, and no answer came ({type(error).__name__}); it may have been taken or not") from None
            raise self._unreached(error, path) from None

    def _request(self, session: requests.Session, path: str, body: FileBody, key: str) -> requests.Response:
        """Send it; the answer's headers are read, its body is not."""
        headers = {**self._headers(), "Idempotency-Key": key}
        data: Any = body
        body.commit_if_empty()
        if self._options.use_multipart:
            name = path.rpartition("/")[2]
            fields = [(field, _filled(value, name)) for field, value in self._options.additional_fields.items()]
            data = MultipartEncoder([*fields, (self._options.file_field_name, (name, body, self._options.content_type))])
            headers["Content-Type"] = data.content_type
        else:
            headers["Content-Type"] = self._options.content_type
            data = body if body.size else b""
        address = self._address_of(path)
        options: dict[str, Any] = {"timeout": self._timeouts, "allow_redirects": False, "verify": self._trust, "stream": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about certificates that are not checked: the summary says so
            return session.request(self._options.method, address, data=data, headers=headers, auth=self._auth, **options)

    def _refused(self, response: requests.Response, what: str) -> NoReturn:
        """Status, media type and length; the body may quote what was sent."""
        status = response.status_code
        media, length = response.headers.get("Content-Type", "no type").partition(";")[0], response.headers.get("Content-Length", "unknown length")
        if _log.isEnabledFor(logging.DEBUG) and sys.stderr.isatty():
            _log.debug("%s: the server answered %s: %s", what, status, response.raw.read(_SHOWN_BYTES, decode_content=True).decode(errors="replace"))
        text = f"{what}: the server answered {status} ({media}, {length}{' bytes' if length.isdigit() else ''})"
        if 300 <= status < 400:  # noqa: PLR2004 - HTTP
            raise TransferFailed(f"{text}; redirects are not followed: put the final address into url")
        if status in {401, 403}:
            raise ConnectionFailed(f"{text}; look at auth_type and its keys")
        error = TransferFailed(text, transient=status in _TRY_AGAIN or status >= 500)  # noqa: PLR2004 - HTTP
        error.__dict__["retry_after"] = response.headers.get("Retry-After")
        raise error

    def _unreached(self, error: requests.RequestException, path: str) -> FerryError:
        """Their text may hold the address with its query."""
        where = self.url(path)
        if isinstance(error, requests.exceptions.SSLError):
            return ConnectionFailed(f"cannot reach {where}: its certificate is not trusted, or TLS failed; see ca_bundle")
        if isinstance(error, requests.exceptions.Timeout):
            return ConnectionFailed(f"cannot reach {where}: no sign of the server for {self._options.timeout:g} s", transient=True)
        return ConnectionFailed(f"cannot reach {where}: the connection failed or broke off ({type(error).__name__})", transient=True)

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # no netrc, no proxy that the configuration does not name
        session.mount("http://", _Adapter())
        session.mount("https://", _Adapter())
        return session

    def _headers(self) -> dict[str, str]:
        options = self._options
        headers = {name: value.get_secret_value() for name, value in options.headers.items()}
        if options.auth_type == "bearer_token" and options.token is not None:
            headers["Authorization"] = f"Bearer {options.token.get_secret_value()}"
        if options.auth_type == "api_key" and options.api_key is not None:
            headers[options.api_key_header] = options.api_key.get_secret_value()
        return headers

    @property
    def _auth(self) -> HTTPBasicAuth | None:
        options = self._options
        if options.auth_type != "basic" or options.username is None or options.password is None:
            return None
        return HTTPBasicAuth(options.username.encode(), options.password.get_secret_value().encode())

    @property
    def _trust(self) -> bool | str:
        return self._options.verify_tls and (self._options.ca_bundle or True)

    @property
    def _timeouts(self) -> tuple[float, float]:
        return min(CONNECT_SECONDS, self._options.timeout), self._options.timeout

    def _address_of(self, path: str) -> str:
        name = paths.checked(path).rpartition("/")[2]
        if _CONTROL.search(name):
            raise ConfigurationError(f"{path!r} holds control characters, which no request can carry")
        try:
            return _filled(self._options.url, quote(name, safe=""))
        except UnicodeEncodeError:
            raise ConfigurationError(f"{path!r} is not UTF-8, and cannot be sent") from None

    def _check_encryption(self) -> None:
        url = urlsplit(self._options.url)
        if not self._options.verify_tls:
            self.notes.append(f"the certificate of {url.hostname} is not checked (verify_tls)")
        if url.scheme != "http" or is_loopback(url.hostname or ""):
            return
        if self._options.require_tls or os.environ.get("FERRY_REQUIRE_TLS") == "1":
            raise ConfigurationError("'url' is http, and require_tls asks for an encrypted connection; use https")
        self.notes.append(f"the connection to {url.scheme}://{url.netloc} is not encrypted")


def _filled(text: str, name: str) -> str:
    return text.replace("{name}", name)


def _is_unsent(error: requests.RequestException) -> bool:
    """Whether there was no connection to send anything on: the body of an empty file counts as sent from the beginning."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.exceptions.ConnectTimeout) or isinstance(reason, NewConnectionError)


def _reported(response: requests.Response) -> dict[str, str]:
    found = {"status": str(response.status_code)}
    if etag := response.headers.get("ETag"):
        found["ETag"] = etag.strip('"')
    if location := response.headers.get("Location"):
        found["Location"] = location.partition("?")[0]
    return found


def _pause_seconds(error: FerryError, number: int) -> float:
    """How long to wait before the next request: what the server asks for, else twice as long each time, with jitter."""
    asked = _retry_after(error.__dict__.get("retry_after"))
    own = PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
    return min(own if asked is None else max(asked, 0.0), LONGEST_PAUSE_SECONDS)


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
