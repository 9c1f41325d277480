"""The operator's HTTP listener: GET /metrics, /health, /healthz, /readyz, /v1/nodes, /v1/commands, no more.

On its own address, away from the public side. It reads, and can change nothing. Must never live here: what
the answers contain.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from relay.config_addresses import split_address
from relay.errors import ConfigError
from relay.ops.health import Report
from relay.ops.nodes import Answer

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
MAX_BODY = 1024


class OpsServer:
    """One listener.

    `metrics(accept)` gives body and content type, `report()` the present findings about the node, `health()`
    a JSON value that says how the region is, `nodes()` the node list or why there is none, and
    `commands(run, since)` what came of commands of the fleet.
    """

    def __init__(
        self,
        metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
        report: Callable[[], Report],
        health: Callable[[], dict[str, object]],
        nodes: Callable[[], Answer],
        commands: Callable[[str, int], dict[str, object]],
    ) -> None:
        self._metrics = metrics
        self._report = report
        self._health = health
        self._nodes = nodes
        self._commands = commands
        self._runner: web.AppRunner | None = None
        self.address = ""
        """Where it listens, once started: host:port."""

    async def start(self, where: str | socket.socket) -> None:
        """Listen on "host:port" or on an inherited socket. ConfigError when the address cannot be had."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/health", self._get_health)
        app.router.add_get("/healthz", self._get_healthz)
        app.router.add_get("/readyz", self._get_readyz)
        app.router.add_get("/v1/nodes", self._get_nodes)
        app.router.add_get("/v1/commands", self._get_commands)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await self._site(self._runner, where).start()
        except OSError as error:
            await self.close()
            why = error.strerror or str(error)
            raise ConfigError("listen.metrics", f"cannot listen: {why}", "choose a free address") from None
        host, port = self._runner.addresses[0][:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def close(self) -> None:
        """Stop listening; running answers get a second."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @staticmethod
    def _site(runner: web.AppRunner, where: str | socket.socket) -> web.BaseSite:
        if isinstance(where, socket.socket):
            return web.SockSite(runner, where)
        host, port = split_address(where, "listen.metrics")
        return web.TCPSite(runner, host, port, reuse_address=True)

    async def _get_metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={**HEADERS, "Content-Type": content_type})

    async def _get_health(self, _: web.Request) -> web.Response:
        """200 whatever the state is: it is news about the region, not a reason to restart or to drain."""
        text = json.dumps(self._health()) + "\n"
        return web.Response(text=text, content_type="application/json", headers=HEADERS)

    async def _get_healthz(self, _: web.Request) -> web.Response:
        report = self._report()
        return self._answer(report, report.is_alive)

    async def _get_readyz(self, _: web.Request) -> web.Response:
        report = self._report()
        return self._answer(report, report.is_ready)

    async def _get_nodes(self, request: web.Request) -> web.Response:
        """The signed document as it stands: whoever gets it here or elsewhere checks the same bytes."""
        answer = self._nodes()
        headers = {**HEADERS, "Content-Type": "application/json", **answer.headers}
        tag = answer.headers.get("ETag")
        if tag is not None:
            headers["Cache-Control"] = "no-cache"  # it may be kept, and is asked about each time
            if tag.strip('"') in {each.value for each in request.if_none_match or ()}:
                del headers["Content-Type"]
                return web.Response(status=304, headers=headers)
        return web.Response(body=answer.body, status=answer.status, headers=headers)

    async def _get_commands(self, request: web.Request) -> web.Response:
        """Ids, codes and ages; what is no number is 0, so that everything is told."""
        since = request.query.get("since", "")
        number = int(since) if since.isascii() and since.isdigit() and len(since) < 16 else 0
        text = json.dumps(self._commands(request.query.get("run", ""), number)) + "\n"
        return web.Response(text=text, content_type="application/json", headers=HEADERS)

    @staticmethod
    def _answer(report: Report, ok: bool) -> web.Response:
        text = json.dumps(report.body(ok)) + "\n"
        return web.Response(
            text=text, status=200 if ok else 503, content_type="application/json", headers=HEADERS
        )
