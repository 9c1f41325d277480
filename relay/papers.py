"""Files that the configuration names: cluster keys, TURN secrets, the key for trunks, certificate and key.

Must never live here: what is done with them.
"""

from __future__ import annotations

import datetime
import os
import ssl
import stat
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509

from relay.config import Config
from relay.edge.assembly import NodeKeys
from relay.edge.tcp import server_context
from relay.edge.turn_server import read_secrets
from relay.errors import ConfigError
from relay.protocol import trunk_proof
from relay.protocol.demux import StreamKind
from relay.protocol.keys import ClusterKey, read_key
from relay.protocol.signed import public_of
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
    return NodeKeys.of(found, config, read_secrets(config), read_trunk_key(config))


def read_trunk_key(config: Config) -> bytes | None:
    """The seed by which other nodes know this one; None: no trunks. ConfigError: it is none, or not secret.

    Where the list of nodes names this one too, its pin there has to be the key's: so a list that is the same
    everywhere is right here.
    """
    path = config.trunks.key
    if not path:
        return None
    try:
        text, mode = Path(path).read_text(encoding="ascii"), os.stat(path).st_mode
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not ASCII"
        cure = "make one with `relay nodes trunk-key --out FILE`"
        raise ConfigError("trunks.key", f"{path}: {why}", cure) from None
    if mode & stat.S_IRWXO:
        raise ConfigError("trunks.key", f"{path}: anybody on this machine may read it", "chmod 600, or 640")
    seed = read_key(text, "trunks.key")
    pin = trunk_proof.pin_of(public_of(seed)).hex()
    for position, row in enumerate(config.trunks.nodes):
        if row.node == config.node.id and pin not in row.pins:
            where = f"trunks.nodes[{position}].pins"
            raise ConfigError(where, "are of this node, whose key has another one", f"write {pin}")
    return seed


def kinds_on_web(config: Config) -> list[StreamKind]:
    """What the listener of listen.web serves."""
    has_turn = config.turn.enabled and config.turn.on_web
    legs = [StreamKind.WEB, StreamKind.RAW]
    return [*legs, StreamKind.TURN] if has_turn else legs


def read_certificate(
    config: Config, serving: QuicConfiguration | None = None
) -> tuple[QuicConfiguration, ssl.SSLContext]:
    """Certificate and key for new connections, on UDP and TCP. ConfigError: they are no pair of PEM files.

    `serving`: what they would replace. One that has ended is refused then: whatever serves is better. At a
    start nothing is, and who is in a call comes back without looking at a certificate again: see `ended`.
    """
    certificate, key = config.tls.certificate, config.tls.key
    try:
        quic = server_configuration(certificate, key, config.limits.idle_s)
        context = server_context(certificate, key, kinds_on_web(config))
    except ssl.SSLError as error:  # an OSError without a file's name
        if error.reason == "KEY_VALUES_MISMATCH":
            cure = "name the key that the certificate was made for"
            raise ConfigError("tls.key", "does not belong to tls.certificate", cure) from None
        cure = "PEM: leaf first; its private key"
        raise ConfigError("tls", f"cannot be used: {error.reason or 'no PEM'}", cure) from None
    except OSError as error:
        raise ConfigError("tls", f"{error.filename}: {error.strerror}", "name readable PEM files") from None
    except (ValueError, IndexError, TypeError) as error:
        if not _holds_certificates(certificate):
            cure = "PEM: leaf first, then intermediates"
            raise ConfigError("tls.certificate", "holds none that can be read", cure) from None
        raise ConfigError("tls.key", f"cannot be used: {error}", "PEM: its private key") from None
    is_new = serving is not None and quic.certificate.message != serving.certificate.message
    if is_new and (refusal := ended(quic)) is not None:
        raise refusal
    return quic, context


def _holds_certificates(path: str) -> bool:
    try:
        return bool(x509.load_pem_x509_certificates(Path(path).read_bytes()))
    except ValueError:
        return False


def ended(quic: QuicConfiguration) -> ConfigError | None:
    """What is wrong with a certificate whose time is over: every client refuses it. Else None."""
    until: datetime.datetime = quic.certificate.not_valid_after_utc
    if datetime.datetime.now(datetime.UTC) < until:
        return None
    return ConfigError("tls.certificate", f"ended at {until:%Y-%m-%d %H:%M} UTC", "renew it, then reload")
