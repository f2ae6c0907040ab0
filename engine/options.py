"""Options of connectors: frozen, typed, checked before anything is opened; secrets print as `***`."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import pydantic
from pydantic import BeforeValidator, ConfigDict, SecretStr

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MIB = 1 << 20
ENVIRONMENT = "environment"
"""Key of a field's extra that names the environment variable which fills the field."""
_SECRET_KEYS = re.compile("password|passphrase|secret|access_key|token|api_key$|connection_string|^headers$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(\w+://[^/@\s:]*:)[^/\s]*@")  # up to the last @ of the address: passwords with an @ are written, if wrongly
_QUERY_SECRETS = re.compile(r"([?&](?:[^=&#\s]*(?:pass|secret|token|key|sig|auth|credential)[^=&#\s]*|code)=)[^&#\s]+", re.IGNORECASE)


class _Secret(SecretStr):
    """A string that prints as `***` wherever it goes."""

    def _display(self) -> str:
        return "***"


def is_reference(value: object) -> bool:
    """Whether a value says where a secret is kept instead of being one."""
    return isinstance(value, str) and value.startswith(("env:", "file:"))


def resolve_reference(value: object) -> object:
    """`env:NAME` and `file:NAME` stand for the value kept there; anything else is the value itself.

    Raises:
        ValueError: Nothing is kept there, or it may not be read.
    """
    if not isinstance(value, str):
        return value
    kind, _, name = value.partition(":")
    if kind == "env":
        if name not in os.environ:
            raise ValueError(f"refers to the environment variable {name}, which is not set")
        return os.environ[name]
    if kind == "file":
        folder = Path(os.environ.get("FERRY_SECRETS_DIR", "/run/secrets")).resolve()
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ValueError("refers to a file outside FERRY_SECRETS_DIR")
        try:
            return path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"refers to the file {name} in FERRY_SECRETS_DIR ({folder}), which cannot be read, or is not UTF-8") from None
    return value


Secret = Annotated[_Secret, BeforeValidator(resolve_reference)]


def json_object(value: object) -> object:
    """The object that JSON text stands for, as a command line gives it; anything else is the value itself.

    Raises:
        ValueError: The text is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('should be an object, as text in JSON: {"NAME": "VALUE"}') from None


class Options(pydantic.BaseModel):
    """Base of every connector's options.

    Example:
        >>> class Folder(Options):
        ...     path: str
        >>> Folder.parse({"path": "/data"}, where="destination").path
        '/data'
    """

    # Deferred: what no one asks for is not built, which saves 18 ms at each start.
    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names of keys: `prefix` → `path`."""
    other_routes: ClassVar[frozenset[str]] = frozenset()
    """Keys that this connector knows in another role; accepted without effect."""

    @classmethod
    def normalise(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Resolve the aliases of one configuration layer; None removes a value and stays for the merge to see."""
        return {cls.aliases.get(key, key): value for key, value in values.items()}

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str, beside: Iterable[str] = ()) -> Self:
        """Check a merged configuration.

        Args:
            values: Keys and values, as JSON or as text from a command line. None means "not given".
            where: What the values configure (`source`, `destination`, `connector 7 source`), for messages.
            beside: Keys that may stand in the same configuration and were taken out of it: an unknown key may have meant one of them.

        Raises:
            ConfigurationError: All problems at once; names keys, never values.
        """
        given = {k: v for k, v in cls.normalise(values).items() if v is not None and k not in cls.other_routes}
        unknown = [key for key in given if key not in cls.model_fields]
        if unknown:
            raise ConfigurationError("; ".join(_unknown_key(key, {*cls.known_keys(), *beside}, where) for key in unknown))
        try:
            return cls(**given)
        except pydantic.ValidationError as error:
            problems = "; ".join(_problem(e) for e in error.errors(include_url=False, include_context=True, include_input=False))
            raise ConfigurationError(f"{where}: {problems}") from None

    @classmethod
    def known_keys(cls) -> set[str]:
        """Every key that a configuration of this connector may have."""
        return {*cls.model_fields, *cls.aliases, *cls.other_routes}


def is_secret(key: str) -> bool:
    """Whether a key's value is shown to nobody, by its name alone, whatever connector it belongs to."""
    return bool(_SECRET_KEYS.search(key))


def masked(key: str, value: Any) -> Any:
    """A value as it may be shown: `***` for a secret, but a reference as it is; objects key by key, addresses without what logs in.

    Example:
        >>> masked("password", "x"), masked("password", "env:PW"), masked("headers", {"X-Key": "x"}), masked("port", 5432)
        ('***', 'env:PW', {'X-Key': '***'}, 5432)
    """
    if isinstance(value, dict):
        return {inner: masked(key if is_secret(key) else inner, one) for inner, one in value.items()}
    if isinstance(value, list):
        return [masked(key, one) for one in value]
    if is_secret(key) and value is not None:
        return value if is_reference(value) else "***"
    return _QUERY_SECRETS.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", value)) if isinstance(value, str) else value


def _unknown_key(key: str, known: Iterable[str], where: str) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown key {key!r}{hint}"


def _problem(error: Any) -> str:
    """One pydantic error in words, without the value that caused it."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{key!r} is missing"
    text = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return f"{key!r} {text}" if key else text
