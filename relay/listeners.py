"""All that listens beside UDP: web legs, TURN's streams, metrics, commands. It says who has which, and when.

    open_alone    TURN's addresses, commands, metrics: what only one process of a machine can have
    open_late     what needs libraries that take a while to load: web, and the server of metrics

Must never live here: where the sockets of web and metrics come from (edge/sockets.py), what is spoken.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from relay.account import Account
from relay.config import Config
from relay.edge.raw import RawEdge
from relay.edge.sockets import Sockets
from relay.ops.commands import Answer, CommandServer, QlogWish
from relay.papers import kinds_on_web
from relay.protocol.demux import StreamKind

if TYPE_CHECKING:
    from relay.edge.web import WebEdge
    from relay.ops.http import OpsServer
    from relay.ops.metrics import Exporter


def import_web() -> tuple[type[WebEdge], type[OpsServer], type[Exporter]]:
    """The servers on TCP, with the libraries that they need: for a thread, since that takes a while."""
    from relay.edge.web import WebEdge
    from relay.ops.http import OpsServer
    from relay.ops.metrics import Exporter

    return WebEdge, OpsServer, Exporter


class Listeners:
    """Those of one daemon."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        account: Account,
        tls: ssl.SSLContext,
        trace: Callable[[QlogWish], Answer],
    ) -> None:
        self._loop = loop
        self._account = account
        self._tls = tls
        self._node = account.node
        self._turn = account.turn
        self._sockets: Sockets | None = None
        self._commands = CommandServer(self._node.driver.command, trace)
        self._metrics: socket.socket | None = None
        self._http: OpsServer | None = None
        self._web: WebEdge | None = None
        self._raw: RawEdge | None = None
        self._is_open = False

    def use(self, sockets: Sockets) -> None:
        """Listen by these."""
        self._sockets = sockets

    @property
    def web(self) -> list[socket.socket]:
        """Listening sockets for web legs, which two generations of the daemon may both have."""
        return [sock for sock in self._sockets.web if sock.fileno() >= 0] if self._sockets else []

    async def open_alone(self) -> None:
        """Take what only one process can have. ConfigError names what cannot be had."""
        config = self._account.config
        self._turn.start(config)
        if config.listen.command_socket:
            await self._commands.start(config.listen.command_socket)
        if self._sockets is not None:
            self._metrics = self._sockets.open_metrics()
        await self._serve_metrics()

    async def close_alone(self) -> None:
        """Let go of it; streams that are open go on."""
        await self._commands.close()
        self._turn.stop_accepting()
        metrics, self._metrics = self._metrics, None
        if self._http is not None:
            await self._http.close()
        if metrics is not None:
            metrics.close()

    async def open_late(self) -> None:
        """What listens by sockets that were bound with the others: who comes earlier waits there.

        The library that serves it takes a fifth of a start, which holds up neither audio nor handshakes. A
        second time it does nothing.
        """
        if self._is_open:
            return
        self._is_open = True
        account = self._account
        web, http, exporter = await asyncio.to_thread(import_web)
        if self.web:
            self._open_web(web)
        scrape = exporter(account.snapshot).answer
        self._http = http(scrape, account.report, account.health, account.nodes.answer, account.commands)
        await self._serve_metrics()

    async def _serve_metrics(self) -> None:
        if self._http is not None and self._metrics is not None:
            await self._http.start(self._metrics)

    def _open_web(self, edge: type[WebEdge]) -> None:
        config, endpoint = self._account.config, self._node.endpoint
        self._web = self._account.web = edge(
            self._loop,
            config.limits,
            self._tls,
            config.listen.web_origins,
            self._node.streams,
            accepting=lambda: endpoint.accepting,
        )
        self._raw = RawEdge(
            self._loop,
            config.limits,
            self._node.streams,
            accepting=lambda: endpoint.accepting,
            clock=time.monotonic,
        )
        self._web.listener.offer(StreamKind.RAW, self._raw.make, is_leg=True)
        turn = self._turn.streams
        if turn is not None and StreamKind.TURN in kinds_on_web(config):
            self._web.listener.offer(StreamKind.TURN, turn.adopt, is_leg=True)
        for sock in self.web:
            self._web.listener.listen(sock)

    def stop_accepting(self) -> None:
        """No more connections for web legs; those there are stay."""
        if self._web is not None:
            self._web.listener.stop_accepting()

    def configure(self, config: Config, tls: ssl.SSLContext, turn: ssl.SSLContext | None) -> None:
        """A reload: for connections that come from now on."""
        self._tls = tls
        if self._raw is not None:
            self._raw.configure(config.limits)
        if self._web is not None:
            self._web.configure(config.limits, tls, config.listen.web_origins)
        self._turn.configure(config, turn)

    def facts(self) -> dict[str, object]:
        """Where it listens, for the log."""
        return {
            "web_ports": self._web.listener.ports if self._web else [],
            "turn_ports": self._turn.ports,
            "metrics": self._http.address if self._http else "",
        }

    async def close(self) -> None:
        """Everything."""
        self._turn.close()
        await self._commands.close()
        if self._http is not None:
            await self._http.close()
        if self._raw is not None:
            self._raw.close()
        if self._web is not None:
            await self._web.close()
