"""Ways to a relay: what an address means, and which further ones it stands for.

Must never live here: connections, and which way is the better one (ladder.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from relay.client.link import TransportName
from relay.client.websocket import PATH
from relay.errors import LocalError

DEFAULT_PORT: Final = 443
SECOND_PORT: Final = 3478


class Destination(NamedTuple):
    """Where a relay is, and how to get there."""

    transport: TransportName
    host: str
    port: int


def parse_url(url: str) -> Destination:
    """Where "quic://host:port", "wss://host:port/vrl/1" or "tls://host:port" leads; else LocalError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # brackets without an address in them, or a port that is none
        parts, host, port = urlsplit(""), None, None
    if host and parts.scheme == "quic":
        return Destination("quic", host, port or DEFAULT_PORT)
    if host and parts.scheme == "wss" and parts.path in ("", "/", PATH):
        return Destination("ws", host, port or DEFAULT_PORT)
    if host and parts.scheme == "tls":
        return Destination("tls", host, port or DEFAULT_PORT)
    raise LocalError(
        "a relay's address looks like quic://host:port, wss://host:port/vrl/1 or tls://host:port"
    )


def destinations(urls: Sequence[str]) -> tuple[Destination, ...]:
    """Where a relay says that we may go; what we cannot read is left out."""
    found = []
    for url in urls:
        with contextlib.suppress(LocalError):
            found.append(parse_url(url))
    return tuple(found)


def ladder_of(url: str, fallbacks: Sequence[str] | None, *, tcp: bool = True) -> list[Destination]:
    """The rungs, best first. A quic address without a port, and no fallbacks named: 443, 3478, WebSocket.

    `tcp`: whether the token allows legs on TCP; else none is added, only what was named.
    """
    best = parse_url(url)
    if fallbacks is not None:
        return [best, *map(parse_url, fallbacks)]
    if best.transport != "quic" or urlsplit(url).port:
        return [best]
    last = [Destination("ws", best.host, DEFAULT_PORT)] if tcp else []
    return [best, best._replace(port=SECOND_PORT), *last]
