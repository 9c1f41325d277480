"""The settings of rollouts' state, a branch of the tree in relay/config.py.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta

PUBLIC_KEY: Final = r"^[0-9a-f]{64}$"
PublicKey = Annotated[str, Meta(pattern=PUBLIC_KEY, description="64 lower-case hexadecimal digits")]


@dataclass(frozen=True, slots=True)
class StateConfig:
    """Who gets what of a rollout, and where calls go."""

    file: str = ""
    """The last-known-good state: `relay feed` copies it here from the store, the daemon reads it each second,
    and takes calls by it. "": none, and everyone may call."""
    keys: tuple[PublicKey, ...] = ()
    """Ed25519 public keys that may sign it, as `relay token keygen` prints them; in a rotation two. The
    private ones do not belong on this machine."""
    floor_file: str = "/var/lib/relay/state.floor"
    """Where the daemon notes the newest revision that it went by, so that no older one counts after a
    restart. "": then any counts that is signed and not too old."""
    kill_file: str = "/etc/relay/kill"
    """Ids of rollouts that are off at once on this box, one a line; an empty file: all. Read each second. "":
    none."""
    without: Literal["control", "all"] = "control"
    """Who may call while a file is named but no state counts. control: nobody but who is in a running call,
    since calling may not be open yet. all: everybody; for boxes whose calls never wait for a rollout. A
    rollout that is known opens no wider for it."""
    variant: Literal["control", "candidate"] = "control"
    """Which of a release's two versions this box runs; the label of its metrics. Needs a restart."""
    backend: Literal["file", "nats"] = "file"
    """Where `relay feed` finds the state: in a file of this machine, or in NATS JetStream (extra `fleet`)."""
    store: str = "/var/lib/relay-feed/state.sqlite"
    """The file of backend "file" (SQLite)."""
    servers: tuple[str, ...] = ()
    """Servers of backend "nats": ["nats://127.0.0.1:4222"], on an edge the leaf beside us."""
    credentials: str = ""
    """File with credentials for them. "": none."""
