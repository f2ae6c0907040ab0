"""REST endpoints, as destinations of files: each file is the body of one request, streamed, through requests.

A request that repeats itself may deliver twice, one that does not may lose: `idempotent` and the method decide, and what nobody can tell is `OutcomeUnknown`.
"""

from __future__ import annotations

import os
import random
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import requests
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from requests.auth import HTTPBasicAuth

from engine import paths
from engine.addresses import is_loopback
from engine.errors import ConfigurationError, ConnectionFailed, FerryError, FileChanged, LeaseLost, OutcomeUnknown, TransferFailed
from engine.options import Options, Secret, json_object
from engine.results import Receipt
from engine.stores.rest_body import FileBody, Frame, SourceFailedError, form
from engine.stores.rest_connection import never_connected, session, tell_body, trust

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import BinaryIO, Self

REQUESTS_PER_FILE = 3
PAUSE_SECONDS = 1.0
"""Before the second request; doubled for the third, with jitter. `Retry-After` wins, up to `LONGEST_PAUSE_SECONDS`."""
LONGEST_PAUSE_SECONDS = 60.0
_TRY_AGAIN = frozenset({408, 429})
_OURS = frozenset({"content-length", "content-type", "transfer-encoding", "host", "idempotency-key", "expect", "connection"})
_NEEDED = {"bearer_token": ("token",), "api_key": ("api_key",), "basic": ("username", "password"), "none": ()}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NUMBER = re.compile(r"[0-9]{1,15}")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)


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
    if "{" in url.netloc:
        raise ValueError("holds {name} in its host; a file's name does not choose who gets the file")
    try:
        requests.PreparedRequest().prepare_url(value, None)
    except requests.RequestException:
        raise ValueError("should be a URL such as https://host/upload") from None
    return value


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value) or value.lower() in _OURS:
        raise ValueError("is set by ferry itself, or is no name of a header")
    return value


def _header_value(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("holds control characters, such as a line's end")
    if not value.isascii() or value != value.strip():
        raise ValueError("holds what no header can: spaces around it, or more than ASCII")
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    return value


_Text = Annotated[str, AfterValidator(_text)]


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
        timeout: Seconds without any sign of the server: to connect, to take more of the file, to answer. The whole answer has five times as long.
        verify_tls: Check the server's certificate.
        ca_bundle: A file of certificates to trust instead of the usual ones.
    """

    other_routes: ClassVar[frozenset[str]] = frozenset({"file_pattern"})

    url: Annotated[str, Field(repr=False), AfterValidator(_address)]  # its query may hold a key
    method: Annotated[Literal["POST", "PUT", "PATCH"], BeforeValidator(_upper)] = "POST"
    auth_type: Literal["bearer_token", "api_key", "basic", "none"] = "none"
    token: Secret | None = None
    api_key: Secret | None = None
    api_key_header: Annotated[str, AfterValidator(_header_name)] = "X-API-Key"
    username: str | None = None
    password: Secret | None = None
    use_multipart: bool = True
    file_field_name: Annotated[_Text, Field(min_length=1)] = "file"
    additional_fields: Annotated[dict[_Text, _Text], BeforeValidator(json_object)] = Field(default_factory=dict)
    content_type: Annotated[str, Field(min_length=1), AfterValidator(_header_value)] = "application/octet-stream"
    headers: Annotated[dict[str, Secret], BeforeValidator(json_object)] = Field(default_factory=dict)
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
        lost = [key for key in ("additional_fields", "file_field_name") if not self.use_multipart and getattr(self, key) != _default(key)]
        if lost:
            raise ValueError(f"'{lost[0]}' is given, and without 'use_multipart' there is no form that could hold it")
        for name, value in self.headers.items():
            _named(f"'headers': {name!r}", _header_name, name)
            _named(f"'headers': the value of {name!r}", _header_value, value.get_secret_value())
        if self.auth_type in {"bearer_token", "basic"} and "authorization" in {name.lower() for name in self.headers}:
            raise ValueError(f"'headers': 'Authorization' is set by 'auth_type' {self.auth_type}")
        for key in ("token", "api_key"):
            if (secret := getattr(self, key)) is not None:
                _named(f"'{key}'", _header_value, secret.get_secret_value())
        if self.ca_bundle is not None and not os.path.isfile(self.ca_bundle):  # noqa: PTH113 - text of a configuration
            raise ValueError("'ca_bundle' is no file")
        return self


class RestDestination:
    """An endpoint that takes files (`SendsBody`). Each request has a connection of its own: on an old one nobody could tell whether it arrived.

    Attributes:
        may_repeat: Whether a file that may have been taken can be sent again.
    """

    def __init__(self, options: RestOptions) -> None:
        self.notes: list[str] = []
        self._options = options
        self._context: ssl.SSLContext | None = None
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
        unknown: OutcomeUnknown | None = None  # of an earlier request: no later refusal says what became of that one
        for number in range(1, REQUESTS_PER_FILE + 1):
            body = FileBody(open_body, size, on_commit, self.url(path), self._frame(path))
            try:
                return self._sent(path, body, key)
            except LeaseLost:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a source raises does not tell what became of an earlier request
                unknown = error if isinstance(error, OutcomeUnknown) else unknown
                if number == REQUESTS_PER_FILE or not self._may_help(error):
                    raise (unknown or error) from None
                seconds = _pause_seconds(error, number)
            try:
                pause(seconds)
            except Exception as stop:  # noqa: BLE001 - nor does whoever wants no more
                raise (unknown or stop) from None
        raise AssertionError  # the loop returns or raises

    def probe(self, path: str) -> None:
        """A HEAD request, whose status does not matter."""
        address = self._address_of(path)
        try:
            with session(self._trust()) as one:
                one.head(address, **self._manner).close()
        except requests.RequestException as error:
            raise self._unreached(error, path, is_begun=False) from None

    def _may_help(self, error: Exception) -> bool:
        """Whether another request can."""
        if isinstance(error, OutcomeUnknown):
            return self.may_repeat
        return isinstance(error, FerryError) and error.transient and not isinstance(error, FileChanged)

    def _sent(self, path: str, body: FileBody, key: str) -> Receipt:
        """One request."""
        what = f"{self._options.method} to {self.url(path)}"
        body.commit_if_empty()
        try:
            with session(self._trust()) as one, self._request(one, path, body, key) as response:
                if 200 <= response.status_code < 300:  # noqa: PLR2004 - HTTP
                    if not body.is_complete:
                        raise TransferFailed(f"{what}: the server answered {response.status_code} before it had the whole file", transient=True)
                    return Receipt(body.size, body.sha256, "accepted", reported=_reported(response))
                self._refused(response, what)
        except SourceFailedError as failure:
            raise failure.reason from None
        except requests.RequestException as error:
            if body.is_complete and (body.is_begun or not never_connected(error)):
                raise OutcomeUnknown(f"{what}: the whole file was sent, and no answer came ({type(error).__name__}); it may have been taken or not") from None
            raise self._unreached(error, path, is_begun=body.is_begun) from None

    def _request(self, one: requests.Session, path: str, body: FileBody, key: str) -> requests.Response:
        """Send it; the answer's headers are read, its body is not."""
        headers = {**self._headers(), "Idempotency-Key": key, "Content-Type": body.content_type}
        return one.request(self._options.method, self._address_of(path), data=body if body.len else b"", headers=headers, auth=self._auth, **self._manner)

    def _frame(self, path: str) -> Frame:
        options, name = self._options, path.rpartition("/")[2]
        if not options.use_multipart:
            return Frame(options.content_type)
        fields = [(field, _filled(value, name)) for field, value in options.additional_fields.items()]
        return form(fields, options.file_field_name, name, options.content_type)

    def _refused(self, response: requests.Response, what: str) -> NoReturn:
        """Status, media type and length; the body may quote what was sent, and is no part of the error."""
        tell_body(response, what)
        status = response.status_code
        media, length = response.headers.get("Content-Type", "").partition(";")[0].strip(), response.headers.get("Content-Length", "")
        media = media if _MEDIA_TYPE.fullmatch(media) else "no media type"
        text = f"{what}: the server answered {status} ({media}, {f'{length} bytes' if _NUMBER.fullmatch(length) else 'unknown length'})"
        if 300 <= status < 400:  # noqa: PLR2004 - HTTP
            raise TransferFailed(f"{text}; redirects are not followed: put the final address into url")
        if status in {401, 403}:
            raise ConnectionFailed(f"{text}; look at auth_type and its keys")
        error = TransferFailed(text, transient=status in _TRY_AGAIN or status >= 500)  # noqa: PLR2004 - HTTP
        error.__dict__["retry_after"] = response.headers.get("Retry-After")
        raise error

    def _unreached(self, error: requests.RequestException, path: str, *, is_begun: bool) -> FerryError:
        """Their text may hold the address with its query. TLS that fails once the body is on its way is a connection that broke."""
        where = self.url(path)
        if isinstance(error, requests.exceptions.SSLError) and not is_begun:
            return ConnectionFailed(f"cannot reach {where}: its certificate is not trusted, or TLS failed; see ca_bundle")
        if isinstance(error, requests.exceptions.Timeout):
            return ConnectionFailed(f"cannot reach {where}: no sign of the server for {self._options.timeout:g} s", transient=True)
        return ConnectionFailed(f"cannot reach {where}: the connection failed or broke off ({type(error).__name__})", transient=True)

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
    def _manner(self) -> dict[str, Any]:
        return {"timeout": self._options.timeout, "allow_redirects": False, "verify": self._options.verify_tls, "stream": True}

    def _trust(self) -> ssl.SSLContext | None:
        """Made at first use; threads share it."""
        if self._context is None and self._options.url.lower().startswith("https:"):
            self._context = trust(verify=self._options.verify_tls, ca_bundle=self._options.ca_bundle)
        return self._context

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


def _default(key: str) -> Any:
    return RestOptions.model_fields[key].get_default(call_default_factory=True)


def _named(what: str, check: Callable[[str], str], value: str) -> None:
    """Check a value whose place pydantic cannot tell, or whose type hides it."""
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def _filled(text: str, name: str) -> str:
    return text.replace("{name}", name)


def _reported(response: requests.Response) -> dict[str, str]:
    found = {"status": str(response.status_code)}
    if etag := response.headers.get("ETag"):
        found["ETag"] = etag.removeprefix('"').removesuffix('"') if not etag.startswith("W/") else etag
    if location := response.headers.get("Location"):
        found["Location"] = re.split("[?#]", location, maxsplit=1)[0]
    return found


def _pause_seconds(error: Exception, number: int) -> float:
    """How long to wait before the next request: what the server asks for, else twice as long each time, with jitter."""
    asked = _retry_after(error.__dict__.get("retry_after"))
    own = PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
    return min(own if asked is None else max(asked, 0.0), LONGEST_PAUSE_SECONDS)


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if _NUMBER.fullmatch(value.strip()):
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
