"""Whether an SSH server is the one that is meant: its host key against those that are known. None is ever added here.

Sources, the first that knows the server decides: the option `host_key`, the file of the option `known_hosts`, keys pinned by the caller,
`~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`. Where one of the two options is given, nothing else counts.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import paramiko

    from engine.stores.sftp import SftpOptions

_SYSTEM_FILES = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
_SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}  # an RSA key signs with either; SHA-1 is not taken
ALL_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256")
_SHA256 = "SHA256:"


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What is known of one server.

    Attributes:
        keys: The bytes of each key, by which it is compared, with its type.
        revoked: Keys that are never taken.
        fingerprint: Instead of a key: `SHA256:…`.
        source: Where that was found, for messages.
        may_pin: Whether a key that is pinned now would be known the next time.
    """

    source: str
    keys: tuple[tuple[str, bytes], ...] = ()
    revoked: frozenset[bytes] = frozenset()
    fingerprint: str | None = None
    may_pin: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Algorithms to ask the server for, those of the known keys first: a server has several keys, and shows the one that it is asked for."""
        first = [kind for name, _ in self.keys for kind in algorithms(name) if kind in ALL_KINDS]
        return tuple(dict.fromkeys((*first, *ALL_KINDS)))

    def has(self, key: paramiko.PKey) -> bool:
        """Whether that is the server's key."""
        shown = key.asbytes()
        if shown in self.revoked:
            return False
        return fingerprint(shown) == self.fingerprint or any(hmac.compare_digest(shown, known) for _, known in self.keys)

    def refusal(self, key: paramiko.PKey, where: str) -> ConnectionFailed:
        """The error for a key that is not known."""
        shown = f"{key.get_name()} {fingerprint(key.asbytes())}"
        pin = ", or run 'ferry connectors trust ID'" if self.may_pin else ""
        if key.asbytes() in self.revoked:
            return ConnectionFailed(f"the SSH server {where} shows the host key {shown}, which is marked as revoked in {self.source}; nothing was sent")
        if not self.keys and not self.fingerprint:
            return ConnectionFailed(
                f"the SSH server {where} is not known ({self.source}); it shows the host key {shown}. If its administrator confirms that fingerprint, "
                f"set host_key to it, or name a file that has the key in known_hosts{pin}"
            )
        known = self.fingerprint or ", ".join(f"{name} {fingerprint(data)}" for name, data in self.keys)
        return ConnectionFailed(
            f"the host key of the SSH server {where} has changed, or another server answers in its place: {self.source} has {known}, the server shows {shown}. "
            f"Nothing was sent. If its administrator confirms the new fingerprint, renew host_key or known_hosts{pin}"
        )


def algorithms(name: str) -> tuple[str, ...]:
    """What a server is asked for, to see its key of that type."""
    return _SIGNATURES.get(name, (name,))


def fingerprint(key: bytes) -> str:
    """As OpenSSH prints it: `SHA256:` and base64 without padding."""
    return _SHA256 + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def parsed(line: str) -> tuple[str, bytes]:
    """Type and bytes of an OpenSSH line `type base64 [comment]`.

    Raises:
        ValueError: It is none.
    """
    name, _, rest = line.strip().partition(" ")
    try:
        data = base64.b64decode(rest.split()[0], validate=True)
    except (IndexError, binascii.Error):
        raise ValueError('should be a line such as "ssh-ed25519 AAAA…" or a fingerprint such as "SHA256:…"') from None
    if data[4 : 4 + len(name)] != name.encode() or int.from_bytes(data[:4]) != len(name):
        raise ValueError("holds no key of the type that it names")
    return name, data


def checked(value: str) -> str:
    """The option `host_key`, if it can be understood."""
    if not value.startswith(_SHA256):
        parsed(value)
    elif len(value.rstrip("=")) != len(fingerprint(b"")):
        raise ValueError("holds no whole SHA-256 fingerprint (43 characters after SHA256:)")
    return value


def known_keys(options: SftpOptions, pinned: Callable[[str, int], Sequence[str]] | None) -> KnownKeys:
    """What is known of the server.

    Raises:
        ConfigurationError: The file of `known_hosts` cannot be read, or a pinned key is none.
    """
    if options.host_key is not None:
        if options.host_key.startswith(_SHA256):
            return KnownKeys("host_key", fingerprint=options.host_key.rstrip("="))
        return KnownKeys("host_key", (parsed(options.host_key),))
    name = options.host.lower() if options.port == 22 else f"[{options.host.lower()}]:{options.port}"  # noqa: PLR2004 - SSH's own port
    if options.known_hosts is not None:
        return _from_files([options.known_hosts], name, must_exist=True)
    try:
        lines = [parsed(line) for line in (pinned(options.host, options.port) if pinned is not None else ())]
    except ValueError as problem:
        raise ConfigurationError(f"a pinned host key of {options.host}:{options.port} {problem}; run 'ferry connectors trust ID' again") from None
    known = KnownKeys("the keys trusted by 'ferry connectors trust'", tuple(lines)) if lines else _from_files(_SYSTEM_FILES, name, must_exist=False)
    return replace(known, may_pin=pinned is not None)


def _from_files(files: Sequence[str], name: str, *, must_exist: bool) -> KnownKeys:
    keys: list[tuple[str, bytes]] = []
    revoked: set[bytes] = set()
    for file in files:
        try:
            text = Path(file).expanduser().read_text(encoding="utf-8", errors="replace")
        except (OSError, RuntimeError):
            if must_exist:
                raise ConfigurationError(f"'known_hosts': the file {file} cannot be read") from None
            continue
        for marker, key in _matching(text, name):
            if marker == "@revoked":
                revoked.add(key[1])
            elif not marker:
                keys.append(key)  # certificate authorities are not supported: paramiko checks no host certificates
    return KnownKeys(", ".join(files), tuple(keys), frozenset(revoked))


def _matching(text: str, name: str) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Marker and key of each line for that host; lines that cannot be understood are passed over, as OpenSSH does."""
    for line in text.splitlines():
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or not _is_for(fields[0], name):  # noqa: PLR2004 - names, type, key
            continue
        try:
            yield marker, parsed(" ".join(fields[1:3]))
        except ValueError:
            continue


def _is_for(names: str, wanted: str) -> bool:
    """Whether a line's comma-separated names (plain, with `*` and `?`, negated, or hashed) are of that host (sshd(8), SSH_KNOWN_HOSTS)."""
    found = False
    for name in names.split(","):
        if name.startswith("|1|"):
            found = found or _is_hash_of(name, wanted)
        elif fnmatch.fnmatchcase(wanted, name.lstrip("!").lower().replace("[", "[[]")):
            if name.startswith("!"):
                return False
            found = True
    return found


def _is_hash_of(name: str, wanted: str) -> bool:
    _, _, salt, digest = (name.split("|") + [""] * 4)[:4]
    try:
        return hmac.compare_digest(hmac.new(base64.b64decode(salt), wanted.encode(), "sha1").digest(), base64.b64decode(digest))
    except binascii.Error:
        return False
