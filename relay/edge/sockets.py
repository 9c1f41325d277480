"""Where a daemon's listening sockets come from: a socket unit, the manager's store, or they are made.

    handed     by a socket unit, under the name "public" or "metrics": they take precedence over the settings
    kept       ours, from before a restart: packets waited in them, and nobody else took the port meanwhile
    made       bound here, and given to the manager to keep

The kernel knows the sockets of an address by the order in which they were bound; the manager gives back in
any order what it kept: a socket's name there says its position. Must never live here: reading them.
"""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from typing import Final

from relay.config import ListenConfig
from relay.edge import manager, tcp, udp

PUBLIC: Final = "public"
METRICS: Final = "metrics"
KEPT_UDP: Final = "kept-udp-"
"""A name begins so; then the position of its sockets among those of their addresses."""
KEPT_WEB: Final = "kept-web"


class Sockets:
    """What to listen on. `groups`: UDP, those of one address together. Owned by who reads them."""

    def __init__(self, handed: manager.Handed, listen: ListenConfig) -> None:
        """ConfigError when an address cannot be had."""
        public = handed.take(PUBLIC)
        datagram = [sock for sock in public if sock.type == socket.SOCK_DGRAM]
        stream = [sock for sock in public if sock.type == socket.SOCK_STREAM]
        metrics = handed.take(METRICS)
        self.were_kept = 0
        """How many of them are from before a restart."""
        self.are_handed = bool(datagram)
        """Those of UDP, by a socket unit."""
        stored = handed.take_numbered(KEPT_UDP)
        self._stored = {name: set(sockets) for name, sockets in stored.items()}
        kept = [sock for sockets in stored.values() for sock in sockets], handed.take(KEPT_WEB)
        self.groups = udp.by_address(datagram) or self._open_udp(kept[0], listen)
        self.web = stream or self._open_web(kept[1], listen)
        self._is_web_handed = bool(stream)
        _close([*kept[0], *kept[1]])  # of addresses that are no longer wanted
        for sock in self.udp:
            udp.prepare(sock, listen)
        self.metrics = metrics.pop(0) if metrics else None
        if self.metrics is None and listen.metrics:
            self.metrics = tcp.bind(listen.metrics, "listen.metrics")
        _close(metrics)

    @property
    def udp(self) -> list[socket.socket]:
        """All of UDP."""
        return [sock for group in self.groups for sock in group]

    def _open_udp(self, kept: list[socket.socket], listen: ListenConfig) -> list[list[socket.socket]]:
        found = [_pick(kept, text, listen.lanes) for text in listen.udp]
        self.were_kept += sum(map(len, found))
        groups = []
        for text, group in zip(listen.udp, found, strict=True):
            for sock in group:  # the kernel takes it from a bound socket too, for those that are bound later
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, listen.lanes > 1)
            more = range(listen.lanes - len(group)) if group else ()
            whole = [*group, *(udp.bind_beside(group[0], listen) for _ in more)]
            groups.append(whole or udp.bind(text, listen))
        return groups

    def _open_web(self, kept: list[socket.socket], listen: ListenConfig) -> list[socket.socket]:
        found = [_pick(kept, text, 1) for text in listen.web]
        self.were_kept += sum(map(len, found))
        return [
            group[0] if group else tcp.bind(text, "listen.web")
            for text, group in zip(listen.web, found, strict=True)
        ]

    def keep(self) -> None:
        """Let the manager keep copies of what we made ourselves; what socket units hand over it has."""
        self.keep_udp()
        manager.store(KEPT_WEB, () if self._is_web_handed else [sock.fileno() for sock in self.web])

    def keep_udp(self) -> None:
        """As `keep`, after a change of their number. What is kept under its name already stays."""
        rows = () if self.are_handed else zip(*self.groups, strict=True)
        wanted = {f"{KEPT_UDP}{position}": set(row) for position, row in enumerate(rows)}
        # The manager takes nothing that it has under another name: first it lets go of that.
        for name in [name for name, sockets in self._stored.items() if wanted.get(name) != sockets]:
            manager.store(name, ())
            del self._stored[name]
        for name in [name for name in wanted if name not in self._stored]:
            manager.store(name, [sock.fileno() for sock in wanted[name]])
        self._stored = wanted


def _pick(kept: list[socket.socket], text: str, most: int) -> list[socket.socket]:
    """Take up to `most` sockets of the address `text` out of `kept`."""
    host, _, port = text.rpartition(":")
    picked = [sock for sock in kept if _is_at(sock, host.strip("[]"), port)][:most]
    kept[:] = [sock for sock in kept if sock not in picked]
    return picked


def _is_at(sock: socket.socket, host: str, port: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        bound = sock.getsockname()
        return ip_address(bound[0]) == ip_address(host) and bound[1] == int(port) != 0
    return False


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
