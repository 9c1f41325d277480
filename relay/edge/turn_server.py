"""What TURN needs beside UDP: the secret shared with a back end, listening sockets, a certificate.

Must never live here: streams once they are open, packets.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from typing import Final

from relay.config import Config
from relay.edge.assembly import Node
from relay.edge.tcp import bind, server_context
from relay.edge.turn_streams import TCP, TLS, TurnStreams
from relay.errors import ConfigError
from relay.protocol.demux import StreamKind

SHORTEST_SECRET: Final = 16  # characters


def read_secrets(config: Config) -> tuple[bytes, ...]:
    """Secrets that credentials are minted with elsewhere, newest first; none in strict policy.

    ConfigError names the setting.
    """
    turn = config.turn
    if not turn.enabled or turn.policy != "open":
        return ()
    files = [("turn.secret_file", turn.secret_file)]
    if turn.previous_secret_file:
        files.append(("turn.previous_secret_file", turn.previous_secret_file))
    found = []
    for key, path in files:
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(key, f"{path}: {why}", "one line, the secret of the back end") from None
        if len(text) < SHORTEST_SECRET or "\n" in text:
            raise ConfigError(
                key, f"{path}: not one line of {SHORTEST_SECRET} characters or more", "openssl rand -hex 32"
            )
        found.append(text.encode())
    return tuple(found)


def read_context(config: Config) -> ssl.SSLContext:
    """The TLS side of the certificate. ConfigError when it cannot be used."""
    try:
        return server_context(config.tls.certificate, config.tls.key, [StreamKind.TURN])
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError("tls", f"cannot be used for TURN: {error}", "PEM: leaf first; its key") from None


class TurnServer:
    """The listeners of one daemon. Nothing listens while TURN is off."""

    def __init__(self, loop: asyncio.AbstractEventLoop, node: Node, config: Config) -> None:
        self._node = node
        self._streams = (
            TurnStreams(
                loop,
                node.turn,
                node.endpoint,
                node.lane,
                config.turn,
                config.limits,
                read_context(config),
                clock=time.monotonic,
            )
            if config.turn.enabled
            else None
        )

    def start(self, config: Config) -> None:
        """Listen. ConfigError names the address that cannot be had."""
        if self._streams is None:
            return
        rows = (("turn.tcp", TCP, config.turn.tcp), ("turn.tls", TLS, config.turn.tls))
        for key, transport, addresses in rows:
            for position, text in enumerate(addresses):
                self._streams.listen(bind(text, f"{key}[{position}]"), transport)

    def stop_accepting(self) -> None:
        """Listen no more; streams that are open go on."""
        if self._streams is not None:
            self._streams.stop_accepting()

    def configure(self, config: Config, context: ssl.SSLContext | None) -> None:
        """A reload: limits and certificate for streams that come from now on."""
        if self._streams is not None and context is not None:
            self._streams.configure(config.turn, config.limits, context)

    def close(self) -> None:
        """Listen no more; all streams and relay sockets are closed."""
        if self._streams is not None:
            self._streams.close()
        self._node.turn.close()

    @property
    def ports(self) -> list[int]:
        """Where it listens, those of TCP first."""
        return self._streams.ports if self._streams is not None else []

    @property
    def streams(self) -> TurnStreams | None:
        """Clients on TCP and TLS; None while TURN is off."""
        return self._streams
