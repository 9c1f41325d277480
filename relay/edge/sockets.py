"""Where a daemon's listening sockets come from: a socket unit, the manager's store, or they are made.

    handed     by a socket unit, under the name "public" or "metrics": they take precedence over the settings
    followed   of the generation before us, which stands on the same addresses (succession.py)
    kept       ours, from before a restart: packets waited in them, and nobody else took the port meanwhile
    made       bound here, and given to the manager to keep

The kernel knows the sockets of an address by the order in which they were bound; the manager gives back in
any order what it kept: a socket's name there says its position. Must never live here: reading them.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from relay.config import ListenConfig
from relay.edge import manager, tcp, udp
from relay.edge.generation import KEY
from relay.errors import ConfigError

PUBLIC: Final = "public"
METRICS: Final = "metrics"
KEPT_UDP: Final = "kept-udp-"
"""A name begins so; then the position of its sockets among those of their addresses."""
KEPT_WEB: Final = "kept-web"


class Sockets:
    """What to listen on. `groups`: UDP, those of one address together. Owned by who reads them."""

    def __init__(
        self,
        handed: manager.Handed,
        listen: ListenConfig,
        *,
        generations: int = 1,
        before: Mapping[str, list[socket.socket]] | None = None,
        may_make: bool = True,
    ) -> None:
        """`generations`: for how many an address has a socket, of each lane. `before`: what the one before us
        listens on, "udp" and "web". `may_make` False: it lives, and has bound what we would bind.

        ConfigError when an address cannot be had.
        """
        public = handed.take(PUBLIC)
        datagram = [sock for sock in public if sock.type == socket.SOCK_DGRAM]
        stream = [sock for sock in public if sock.type == socket.SOCK_STREAM]
        self._listen = listen
        self._each = listen.lanes * generations
        self._may_make = may_make
        self.were_kept = 0
        """How many of them are from before a restart."""
        self.are_handed = bool(datagram)
        """Those of UDP, by a socket unit."""
        self.are_fixed = bool(datagram or before) or generations > 1
        """Their number cannot change while we run."""
        stored = handed.take_numbered(KEPT_UDP)
        self._stored = {name: set(sockets) for name, sockets in stored.items()}
        kept = [sock for sockets in stored.values() for sock in sockets], handed.take(KEPT_WEB)
        others = before or {}
        followed = list(others.get("udp", ())), list(others.get("web", ()))
        self.groups = udp.by_address(datagram or followed[0]) or self._open_udp(kept[0])
        self.web = stream or followed[1] or self._open_web(kept[1])
        self._is_web_handed = bool(stream)
        used = {*self.udp, *self.web}
        # Those of addresses that are no longer wanted, and what is there twice.
        _close([sock for some in (*kept, *followed) for sock in some if sock not in used])
        for sock in self.udp:
            udp.prepare(sock, listen)
        metrics = handed.take(METRICS)
        self._metrics = metrics.pop(0) if metrics else None
        _close(metrics)

    @property
    def udp(self) -> list[socket.socket]:
        """All of UDP."""
        return [sock for group in self.groups for sock in group]

    def open_metrics(self) -> socket.socket | None:
        """What to serve metrics by, the caller's; None: nothing. ConfigError: the address cannot be had."""
        if self._metrics is not None:
            return self._metrics.dup()
        return tcp.bind(self._listen.metrics, "listen.metrics") if self._listen.metrics else None

    def _open_udp(self, kept: list[socket.socket]) -> list[list[socket.socket]]:
        listen = self._listen
        found = [_pick(kept, text, self._each) for text in listen.udp]
        if not self._may_make and any(len(group) < self._each for group in found):
            cure = "wait until it has left, or have the service manager hold the sockets"
            raise ConfigError(KEY, "an older generation is there and does not answer", cure)
        self.were_kept += sum(map(len, found))
        groups = []
        for text, group in zip(listen.udp, found, strict=True):
            for sock in group:  # the kernel takes it from a bound socket too, for those that are bound later
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, self._each > 1)
            more = range(self._each - len(group)) if group else ()
            whole = [*group, *(udp.bind_beside(group[0], listen) for _ in more)]
            groups.append(whole or udp.bind(text, listen, self._each))
        return groups

    def _open_web(self, kept: list[socket.socket]) -> list[socket.socket]:
        found = [_pick(kept, text, 1) for text in self._listen.web]
        self.were_kept += sum(map(len, found))
        return [
            group[0] if group else tcp.bind(text, "listen.web")
            for text, group in zip(self._listen.web, found, strict=True)
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
