"""Addresses as settings spell them: `[v6]:port`, `v4:port`, and a bare address the one way it can be written.

Must never live here: which setting is one, names, sockets.
"""

from __future__ import annotations

from ipaddress import ip_address

from relay.errors import ConfigError


def split_address(text: str, key: str) -> tuple[str, int]:
    """`[v6]:port` or `v4:port` -> (host, port); ConfigError names `key`. Port 0 means: any free one."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(key, f"{text!r}: an IPv6 address needs brackets", "write [::1]:443")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(key, f"{text!r} is not an address with a port", "write 127.0.0.1:443 or [::]:443")
    return host, int(port)


def canonical_family(text: str, key: str) -> int:
    """4 or 6. ConfigError unless the address is spelled the one way it can be, without a scope."""
    try:
        ip = ip_address(text)
    except ValueError:
        raise ConfigError(key, f"{text!r} is not an IP address", "write 192.0.2.1 or 2001:db8::1") from None
    if str(ip) != text or "%" in text or (ip.version == 6 and ip.ipv4_mapped is not None):
        raise ConfigError(key, f"{text!r} is not the canonical spelling", "write 192.0.2.1 or 2001:db8::1")
    return ip.version
