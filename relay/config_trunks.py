"""The settings of trunks, a branch of the tree in relay/config.py, and the rules that span them.

Must never live here: what passes on a trunk (relay/core/trunk.py), files, behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from relay.config_addresses import canonical_family, split_address
from relay.config_issuer import Name
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config import Config

MOST_NODES: Final = 1024
MOST_PINS: Final = 2  # one, and in a rotation the next
Pin = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="64 lower-case hexadecimal digits")]


@dataclass(frozen=True, slots=True)
class TrunkNode:
    """One node of the cluster, as the others know it."""

    node: Name = ""
    """Its `node.id`."""
    address: str = ""
    """IP address and UDP port of its QUIC, v4:port or [v6]:port; no name, since the daemon asks no server for
    one."""
    pins: tuple[Pin, ...] = ()
    """What `relay nodes trunk-key` prints for its key; in a rotation two."""
    second: str = ""
    """Another address of the same QUIC, to which another carrier leads: all media and messages go over both,
    so that the loss or death of one path is not heard. It is used where both nodes name one for the other,
    and doubles the trunk's traffic and its packets: docs/operations.md has figures. "": one path."""


@dataclass(frozen=True, slots=True)
class TrunksConfig:
    """Connections to other nodes, for calls whose people are at two of them. Off while `key` is empty."""

    key: str = ""
    """File with the key by which other nodes know this one: an Ed25519 seed as one line of base64, mode 0600,
    made by `relay nodes trunk-key`. "": no trunks; nobody is dialed, and who asks for one is refused."""
    nodes: tuple[TrunkNode, ...] = ()
    """Nodes that may be met; nobody else gets further than five seconds. The same list may stand on all of
    them: a node does not dial itself."""


def check_trunks(config: Config) -> None:
    """ConfigError for the first rule that is broken."""
    trunks = config.trunks
    if not trunks.key and trunks.nodes:
        cure = "make one with `relay nodes trunk-key --out FILE`"
        raise ConfigError("trunks.key", "is empty, but trunks.nodes names nodes", cure)
    if trunks.key and not trunks.nodes:
        cure = 'add { node = "iad-1", address = "192.0.2.1:443", pins = ["..."] }'
        raise ConfigError("trunks.nodes", "is empty, but trunks.key is set: nobody could be met", cure)
    if len(trunks.nodes) > MOST_NODES:
        raise ConfigError("trunks.nodes", f"names {len(trunks.nodes)} nodes", f"at most {MOST_NODES}")
    for position, row in enumerate(trunks.nodes):
        _check_row(row, f"trunks.nodes[{position}]")
    _check_unique([row.node for row in trunks.nodes], "node", "is named twice")
    _check_unique([row.address for row in trunks.nodes], "address", "is that of another node, too")
    _check_seconds(trunks.nodes)
    for position, row in enumerate(trunks.nodes):
        others = {pin for other in trunks.nodes[:position] for pin in other.pins}
        if others.intersection(row.pins):
            where = f"trunks.nodes[{position}].pins"
            raise ConfigError(where, "holds one of another node: each has a key of its own", "remove it")


def _check_row(row: TrunkNode, where: str) -> None:
    if not row.node:
        raise ConfigError(f"{where}.node", "is empty", "write the other node's node.id")
    _check_address(row.address, f"{where}.address")
    if row.second:
        _check_address(row.second, f"{where}.second")
    if not row.pins or len(row.pins) > MOST_PINS or len(set(row.pins)) != len(row.pins):
        cure = "`relay nodes trunk-key --show FILE` prints it"
        raise ConfigError(f"{where}.pins", "is not one pin, or two for a rotation", cure)


def _check_address(address: str, where: str) -> None:
    host, port = split_address(address, where)
    canonical_family(host, where)
    if not port:
        raise ConfigError(where, "names port 0", "write the port of its listen.udp")


def _check_seconds(rows: tuple[TrunkNode, ...]) -> None:
    taken = {row.address: row for row in rows}
    for position, row in enumerate(rows):
        if not row.second:
            continue
        where, other = f"trunks.nodes[{position}].second", taken.setdefault(row.second, row)
        if row.second == row.address:
            cure = "name the address that another carrier leads to, or remove it"
            raise ConfigError(where, f"{row.second} is its address, too: one path, and not two", cure)
        if other is not row:
            raise ConfigError(where, f"{row.second} is that of another node, too", "keep one")


def _check_unique(values: list[str], name: str, problem: str) -> None:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ConfigError(f"trunks.nodes[{position}].{name}", f"{value} {problem}", "keep one")
