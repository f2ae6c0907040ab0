"""Which addresses are this machine's own: what goes there needs no encryption, and nobody else is served there."""

from __future__ import annotations

import ipaddress


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
