"""The settings of the node list, a branch of the tree in relay/config.py, and the rules that span them.

Must never live here: what a list means (relay/region/nodelist.py), files, behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.config_state import PublicKey
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config import Config


@dataclass(frozen=True, slots=True)
class NodesConfig:
    """Which nodes the cluster has, and how they are."""

    file: str = ""
    """The signed node list. The daemon reads it each second and hands it out as `GET /v1/nodes` on
    `listen.metrics`. "": none."""
    keys: tuple[PublicKey, ...] = ()
    """Ed25519 public keys that may sign it, as `relay token keygen` prints them; in a rotation two. The
    private one is the hub's, and does not belong on this machine."""


def check_nodes(config: Config) -> None:
    """ConfigError for the first rule that is broken."""
    nodes = config.nodes
    if len(nodes.keys) > 2 or len(set(nodes.keys)) != len(nodes.keys):
        raise ConfigError("nodes.keys", "not one key, or two for a rotation", "remove what is too much")
    if nodes.file and not nodes.keys:
        raise ConfigError(
            "nodes.keys", "is empty: no list would count", "print one with `relay token keygen`"
        )
    if nodes.file and nodes.file in (config.state.file, f"{config.state.file}.kill"):
        raise ConfigError("nodes.file", "is the same file as state.file's", "name another")
