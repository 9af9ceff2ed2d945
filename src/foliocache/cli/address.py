"""Where a command listens: ``HOST:PORT``, and that this is loopback unless the user says otherwise."""

from __future__ import annotations

import ipaddress
import socket

from foliocache.cli.exits import CommandError, UsageError
from foliocache.sizes import quoted

LOOPBACK = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, ``:PORT`` or ``PORT``, without a host the loopback address.

    Raises
    ------
    UsageError
        It is none of them, or no port from 0 to 65535.
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise UsageError(f"{quoted(text)} is no address; give HOST:PORT, [IPV6]:PORT, :PORT or PORT")
    return host.strip("[]") or LOOPBACK, int(port)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can connect to a host name or address, whichever of its addresses is taken.

    Raises
    ------
    CommandError
        It has no address.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(f"{quoted(host)} has no address: {error.strerror}") from None
    return all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


def shown(host: str, port: int) -> str:
    """Return host and port as they are in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
