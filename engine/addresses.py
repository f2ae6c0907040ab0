"""Which addresses are this machine's own: what goes there needs no encryption, and nobody else is served there."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback interface, as far as can be told without asking a name server.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("db.example.org")
        (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def canonical_host(host: str) -> str:
    """A host for comparing: names of the loopback interface alike, in lower case. Aliases in DNS stay apart.

    Example:
        >>> canonical_host("LOCALHOST."), canonical_host("::1"), canonical_host("Db.example.org")
        ('127.0.0.1', '127.0.0.1', 'db.example.org')
    """
    host = host.lower().rstrip(".")
    return "127.0.0.1" if is_loopback(host) else host


def canonical(endpoint_url: str) -> str:
    """A server's URL for comparing: as `canonical_host`, with the port spelled out.

    Example:
        >>> canonical("http://LOCALHOST:80/"), canonical("https://s3.example.org")
        ('http://127.0.0.1:80', 'https://s3.example.org:443')
    """
    url = urlsplit(endpoint_url)
    return f"{url.scheme}://{canonical_host(url.hostname or '')}:{url.port or _PORTS.get(url.scheme, 0)}{url.path.rstrip('/')}"
