"""How an SSH server is reached: connecting, its host key, who we are, and the connections that wait to be used again."""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import io
import logging
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from paramiko.ssh_exception import IncompatiblePeer

from engine.errors import ConfigurationError, ConnectionFailed
from engine.stores import sftp_hostkeys
from engine.stores.sftp_errors import FAILURES, STALL_SECONDS, StatusError
from engine.stores.sftp_packets import Packetizer
from engine.stores.sftp_session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.stores.sftp import SftpOptions
    from engine.stores.sftp_hostkeys import KnownKeys

CONNECT_SECONDS = 15
LOGIN_SECONDS = 60  # from the first byte to the SFTP session
KEEPALIVE_SECONDS = 20
KEPT_CONNECTIONS = 8  # idle ones that wait to be used again
_LOGINS_AT_ONCE = 3  # sshd drops connections when more than ten log in (MaxStartups)
_DROPPED_SECONDS = 2  # a connection that ended sooner was dropped, not lost
_PAUSES = (0.2, 0.6)
_READ_AHEAD = 256 << 10
_CHANNEL_WINDOW = 16 << 20  # what the server may send before it is read
_DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_FASTEST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")  # twice as fast here as paramiko's first choice (AES-CTR and a separate HMAC)
_KEY_CLASSES: tuple[tuple[type, Any], ...] = (
    (rsa.RSAPrivateKey, paramiko.RSAKey),
    (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey),
    (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key),
)

# paramiko logs names of files, and prints tracebacks of what we raise as one line.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class Pool:
    """Connections of one store: made when none waits, each used by one borrower at a time, kept for the next.

    There is no limit on those in use: a run that holds several unfinished files in one thread would wait for itself.
    """

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._idle: list[Session] = []
        self._lock = threading.Lock()
        self._logins = threading.BoundedSemaphore(_LOGINS_AT_ONCE)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Session]:
        """A session for the block; after an error that leaves it unclear it is closed instead of kept."""
        session = self.take()
        try:
            yield session
        finally:
            self.give_back(session)

    def take(self) -> Session:
        """A session, which must be given back."""
        while True:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            if session is None:
                return self.fresh()
            if session.is_usable:
                return session
            session.close()

    def fresh(self) -> Session:
        """A session on a new connection, which must be given back."""
        with self._logins:
            return self._connect()

    def give_back(self, session: Session) -> None:
        """Keep it, or close it."""
        with self._lock:
            keep = session.is_usable and len(self._idle) < KEPT_CONNECTIONS
            if keep:
                self._idle.append(session)
        if not keep:
            session.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()


def connect(options: SftpOptions, known: KnownKeys) -> Session:
    """Reach the server, be sure that it is the one, log in.

    Raises:
        ConfigurationError: A file of keys that is named cannot be used.
        ConnectionFailed: Not reached (transient), not the known server, or the login was refused.
    """
    key = _key_of(options)
    with _verified(options, known) as transport:
        _log_in(transport, options, key)
        return _open_sftp(transport, options)


def server_host_key(options: SftpOptions) -> tuple[str, str, str]:
    """What the server shows before anybody logs in, for a person to confirm: type, key in base64, SHA-256 fingerprint. Blocking.

    Raises:
        ConnectionFailed: Not reached.
    """
    transport = _handshake(options, sftp_hostkeys.ALL_KINDS)
    try:
        key = transport.get_remote_server_key()
        return key.get_name(), key.get_base64(), sftp_hostkeys.fingerprint(key.asbytes())
    finally:
        transport.close()


@contextlib.contextmanager
def _verified(options: SftpOptions, known: KnownKeys) -> Iterator[paramiko.Transport]:
    """A transport to the known server, closed if the block fails or takes too long: paramiko waits for some answers without a limit."""
    transport = _to_known_server(options, known)
    alarm = threading.Timer(LOGIN_SECONDS, transport.close)
    alarm.daemon = True
    alarm.start()
    try:
        yield transport
    except BaseException:
        transport.close()
        raise
    finally:
        alarm.cancel()


def _to_known_server(options: SftpOptions, known: KnownKeys) -> paramiko.Transport:
    """With a fingerprint it is not known which of its keys the server must show: each is asked for."""
    kinds = known.kinds
    first: paramiko.PKey | None = None
    while True:
        try:
            transport = _handshake(options, kinds)
        except ConnectionFailed:
            if first is None:
                raise
            raise known.refusal(first, _where(options)) from None
        key = transport.get_remote_server_key()
        if known.has(key):
            return transport
        transport.close()
        first = first or key
        kinds = tuple(kind for kind in kinds if kind not in sftp_hostkeys.algorithms(key.get_name()))
        if known.fingerprint is None or not kinds:
            raise known.refusal(first, _where(options))


def _handshake(options: SftpOptions, kinds: Sequence[str]) -> paramiko.Transport:
    """Connect and agree on keys; nothing about the server is verified yet. A busy sshd drops connections at random (MaxStartups), so that is tried again."""
    for pause in (*_PAUSES, None):
        began = time.monotonic()
        transport = _connected(options)
        choice = transport.get_security_options()
        choice.ciphers = (*_FASTEST, *(cipher for cipher in choice.ciphers if cipher not in _FASTEST))
        choice.key_types = tuple(kinds)
        try:
            transport.start_client(timeout=CONNECT_SECONDS)
            transport.get_remote_server_key()  # a timeout ends the line before without a word
        except FAILURES as error:
            transport.close()
            if isinstance(error, IncompatiblePeer):
                raise ConnectionFailed(f"the SSH server {_where(options)} offers no algorithm that is taken here; it may be too old") from None
            if pause is None or time.monotonic() - began > _DROPPED_SECONDS:
                raise ConnectionFailed(f"the SSH server {_where(options)} answered, but no encrypted session came about", transient=True) from None
            time.sleep(pause)
        except BaseException:
            transport.close()
            raise
        else:
            return transport
    raise AssertionError


def _connected(options: SftpOptions) -> paramiko.Transport:
    where = _where(options)
    try:
        plain = _reached(options)
    except socket.gaierror:
        raise ConnectionFailed(f"the SSH server {where} was not found: no address is known for that name") from None
    except OSError as error:
        reason = "it did not answer" if isinstance(error, TimeoutError) else (errno.errorcode.get(error.errno or 0) or "no connection")
        raise ConnectionFailed(f"the SSH server {where} was not reached ({reason})", transient=True) from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(_Wire(plain), packetizer_class=Packetizer)  # type: ignore[arg-type]  # what it uses of a socket


def _reached(options: SftpOptions) -> socket.socket:
    """A plain connection; a busy sshd, or what stands in front of it, resets some at once, which is tried again."""
    for pause in _PAUSES:
        with contextlib.suppress(ConnectionResetError):
            return socket.create_connection((options.host, options.port), timeout=CONNECT_SECONDS)
        time.sleep(pause)
    return socket.create_connection((options.host, options.port), timeout=CONNECT_SECONDS)


def _log_in(transport: paramiko.Transport, options: SftpOptions, key: paramiko.PKey | None) -> None:
    """Each way after the other, until the server is content; some ask for a key and a password both."""
    user = user_of(options)
    tried: list[str] = []
    for way, attempt in _ways(transport, options, user, key):
        tried.append(way)
        try:
            attempt()
        except paramiko.AuthenticationException:
            pass
        except FAILURES as error:
            if not transport.is_active() and not isinstance(error, TimeoutError):
                break  # too many attempts
            raise ConnectionFailed(f"the SSH server {_where(options)} broke off during the login", transient=True) from None
        if transport.is_authenticated():
            transport.set_keepalive(KEEPALIVE_SECONDS)
            return
    ways = " and ".join(dict.fromkeys(tried)) or "no key and no password: set password or pkey_path"
    raise ConnectionFailed(f"the SSH server {_where(options)} refused the login of {user!r} (tried: {ways}); check username, password and pkey_path")


def _ways(transport: paramiko.Transport, options: SftpOptions, user: str, key: paramiko.PKey | None) -> Iterator[tuple[str, Callable[[], object]]]:
    if key is not None:
        yield "pkey_path", functools.partial(transport.auth_publickey, user, key)
    if options.password is not None:
        yield "password", functools.partial(transport.auth_password, user, options.password.get_secret_value())
    if key is not None or options.password is not None:
        return
    with contextlib.closing(paramiko.Agent()) as agent:
        for one in agent.get_keys():
            yield "the SSH agent", functools.partial(transport.auth_publickey, user, one)
    for path in _DEFAULT_KEYS:
        with contextlib.suppress(ConfigurationError):
            yield path, functools.partial(transport.auth_publickey, user, load_key(Path(path).expanduser(), None))


def _open_sftp(transport: paramiko.Transport, options: SftpOptions) -> Session:
    try:
        channel = transport.open_session(window_size=_CHANNEL_WINDOW, timeout=CONNECT_SECONDS)
        channel.settimeout(STALL_SECONDS)
        channel.invoke_subsystem("sftp")
        return Session(channel)
    except (*FAILURES, StatusError):
        raise ConnectionFailed(f"the SSH server {_where(options)} took the login of {user_of(options)!r}, but offers no SFTP") from None


def _key_of(options: SftpOptions) -> paramiko.PKey | None:
    if options.pkey_path is None:
        return None
    secret = options.pkey_passphrase.get_secret_value().encode() if options.pkey_passphrase is not None else None
    try:
        return load_key(Path(options.pkey_path).expanduser(), secret)
    except RuntimeError:
        raise ConfigurationError(f"'pkey_path' {options.pkey_path}: there is no such user's home folder") from None


def load_key(path: Path, passphrase: bytes | None) -> paramiko.PKey:
    """A private key (RSA, ECDSA, Ed25519) in OpenSSH, PEM or PKCS#8 form, with the certificate beside it if there is one.

    Raises:
        ConfigurationError: No such file, no such key, or the passphrase does not open it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"'pkey_path': {path} cannot be read ({errno.errorcode.get(error.errno or 0, 'error')})") from None
    private = _decrypted(data, passphrase, path)
    kind = next((ours for theirs, ours in _KEY_CLASSES if isinstance(private, theirs)), None)
    if kind is None:
        raise ConfigurationError(f"'pkey_path': {path} is a key of a kind that is not supported; RSA, ECDSA and Ed25519 are")
    text = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()).decode()
    key: paramiko.PKey = kind.from_private_key(io.StringIO(text))
    certificate = path.with_name(f"{path.name}-cert.pub")
    if certificate.exists():
        with contextlib.suppress(ValueError, paramiko.SSHException):  # of another key: the key alone is tried
            key.load_certificate(str(certificate))
    return key


def _decrypted(data: bytes, passphrase: bytes | None, path: Path) -> Any:
    problem = "cannot be read as a private key in OpenSSH or PEM form" + ("" if passphrase is None else ", or pkey_passphrase does not open it")
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        try:
            return load(data, passphrase)
        except TypeError:  # a passphrase that is missing, or that is not needed
            if passphrase is not None:
                return _decrypted(data, None, path)
            problem = "is protected by a passphrase; set pkey_passphrase"
            break
        except (ValueError, UnsupportedAlgorithm):
            continue
    raise ConfigurationError(f"'pkey_path': {path} {problem}")


def user_of(options: SftpOptions) -> str:
    """Who logs in: as with ssh, the user of this machine where nobody is named."""
    try:
        return options.username or getpass.getuser()
    except (KeyError, OSError):
        raise ConfigurationError("'username' is missing, and this machine has no name for its user") from None


def _where(options: SftpOptions) -> str:
    return f"{options.host}:{options.port}"


class _Wire:
    """A socket as paramiko uses it, with two differences.

    It reads ahead, because paramiko asks for 16 bytes and then for the rest of each packet; and a send that stays stuck ends, which paramiko
    would try for ever.
    """

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self._ahead = b""
        self._at = 0
        self._stuck_since: float | None = None

    def recv(self, size: int) -> bytes:
        if self._at == len(self._ahead):
            self._ahead, self._at = self._plain.recv(_READ_AHEAD), 0
        piece = self._ahead[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def send(self, data: bytes) -> int:
        try:
            sent = self._plain.send(data)
        except TimeoutError:
            self._stuck_since = self._stuck_since or time.monotonic()
            if time.monotonic() - self._stuck_since > STALL_SECONDS:
                raise OSError(errno.EPIPE, "stuck") from None
            raise
        self._stuck_since = None
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)
