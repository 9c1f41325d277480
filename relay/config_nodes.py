"""The settings of the node list, a branch of the tree in relay/config.py, and the rules that span them.

Must never live here: what a list means (relay/region/nodelist.py), files, behaviour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.config_state import PublicKey
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config import Config

_HTTP: Final = re.compile(r"http://[^\s/?#@]+")


@dataclass(frozen=True, slots=True)
class NodesConfig:
    """Which nodes the cluster has, and how they are."""

    file: str = ""
    """The signed node list: `relay feed` copies it here from the store of `[state]`, or you put it here. The
    daemon reads it each second, hands it out as `GET /v1/nodes` on `listen.metrics`, and names from it where
    people go when they have to leave. "": none; then the routes of the signed state say it, or `drain.to`."""
    keys: tuple[PublicKey, ...] = ()
    """Ed25519 public keys that may sign it, as `relay token keygen` prints them; in a rotation two. The
    private one is the hub's, and does not belong on this machine."""
    standbys: bool = False
    """Whether calls of two are told of two nodes of the list that take them up when this one is gone without
    a word. Needs `commands`, here and at all nodes of the list: what ends a call must reach those, too."""
    commands: str = ""
    """File by which signed commands to the whole fleet come here: `relay feed` writes it from the store of
    `[state]`, the daemon reads it four times a second and obeys. "": none, and a command reaches the daemon
    that it is given to."""
    announce: tuple[str, ...] = ()
    """Daemons of this machine, by their `listen.metrics`, that `relay feed` asks each ten seconds how they
    are, to tell the store, and what came of commands to the fleet: ["http://127.0.0.1:9464"]. Empty: it
    tells nothing."""


def check_nodes(config: Config) -> None:
    """ConfigError for the first rule that is broken."""
    nodes = config.nodes
    if len(nodes.keys) > 2 or len(set(nodes.keys)) != len(nodes.keys):
        raise ConfigError("nodes.keys", "not one key, or two for a rotation", "remove what is too much")
    if nodes.file and not nodes.keys:
        raise ConfigError(
            "nodes.keys", "is empty: no list would count", "print one with `relay token keygen`"
        )
    for position, url in enumerate(nodes.announce):
        if not _HTTP.fullmatch(url):
            cure = "write http://127.0.0.1:9464, where listen.metrics is"
            raise ConfigError(f"nodes.announce[{position}]", "is no address of a daemon's metrics", cure)
    if nodes.file and nodes.file in (config.state.file, f"{config.state.file}.kill"):
        raise ConfigError("nodes.file", "is the same file as state.file's", "name another")
    if nodes.commands and nodes.commands in (nodes.file, config.state.file, f"{config.state.file}.kill"):
        raise ConfigError("nodes.commands", "is the same file as another one's", "name another")
    if nodes.standbys and not nodes.commands:
        raise ConfigError(
            "nodes.standbys",
            "is on without nodes.commands: a call that was ended by command could go on at a standby",
            'set nodes.commands = "/var/lib/relay-commands/commands", or standbys = false',
        )
