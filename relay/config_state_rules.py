"""Rules that span several keys of `[state]`.

Must never live here: ranges of a single key (they stand at the field), files, behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config import Config


def check_state(config: Config) -> None:
    """ConfigError for the first that is broken."""
    state = config.state
    if state.backend == "nats" and not state.servers:
        raise ConfigError("state.servers", "is empty", 'write ["nats://127.0.0.1:4222"]')
    for position, url in enumerate(state.servers):
        if not url.startswith(("nats://", "tls://")) or "@" in url:
            cure = "nats://host:4222 or tls://host:4222; what is secret belongs into state.credentials"
            raise ConfigError(f"state.servers[{position}]", "is no address of NATS", cure)
    if len(state.keys) > 2 or len(set(state.keys)) != len(state.keys):
        raise ConfigError("state.keys", "not one key, or two for a rotation", "remove what is too much")
    if not state.file:
        return
    if not state.keys:
        raise ConfigError(
            "state.keys", "is empty: no state would count", "print one with `relay token keygen`"
        )
    files = {"floor_file": state.floor_file, "kill_file": state.kill_file, "store": state.store}
    for name, path in files.items():
        if path in (state.file, f"{state.file}.kill"):
            raise ConfigError(f"state.{name}", "is the same file as state.file's", "name another")
    if state.backend == "file" and not state.store:
        raise ConfigError("state.store", 'is empty, but state.backend is "file"', "name a file")
