"""Files that the configuration names: cluster keys, TURN secrets, the certificate with its private key.

Must never live here: what is done with them.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration

from relay.config import Config
from relay.edge.assembly import NodeKeys
from relay.edge.tcp import server_context
from relay.edge.turn_server import read_secrets
from relay.errors import ConfigError
from relay.protocol.demux import StreamKind
from relay.protocol.keys import ClusterKey
from relay.quic.connection import server_configuration


def read_keys(config: Config) -> NodeKeys:
    """The cluster keys and TURN secrets that the configuration names. ConfigError names the setting."""
    files = [("cluster.key_file", config.cluster.key_file)]
    if config.cluster.previous_key_file:
        files.append(("cluster.previous_key_file", config.cluster.previous_key_file))
    found = []
    for name, path in files:
        try:
            text = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise ConfigError(
                name, f"{path}: {why}", "make one with `relay token keygen --cluster`"
            ) from None
        found.append(ClusterKey.parse(text, name))
    return NodeKeys.of(found, config, read_secrets(config))


def kinds_on_web(config: Config) -> list[StreamKind]:
    """What the listener of listen.web serves."""
    has_turn = config.turn.enabled and config.turn.on_web
    legs = [StreamKind.WEB, StreamKind.RAW]
    return [*legs, StreamKind.TURN] if has_turn else legs


def read_certificate(config: Config) -> tuple[QuicConfiguration, ssl.SSLContext]:
    """Certificate and key for new connections, on UDP and TCP. ConfigError: they are no pair of PEM files."""
    certificate, key = config.tls.certificate, config.tls.key
    try:
        quic = server_configuration(certificate, key, config.limits.idle_s)
        return quic, server_context(certificate, key, kinds_on_web(config))
    except OSError as error:
        raise ConfigError("tls", f"{error.filename}: {error.strerror}", "name readable PEM files") from None
    except (ValueError, IndexError, TypeError) as error:
        raise ConfigError("tls", f"cannot be used: {error}", "PEM: leaf first; its private key") from None
