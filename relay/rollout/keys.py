"""Names of what stands in the store.

Must never live here: what a value means.
"""

from __future__ import annotations

from typing import Final

BUCKET: Final = "rollout"
STATE: Final = "state"
"""The key of the signed state."""
LIVES: Final = b"false"
"""The value by which a kill is taken back; every other one kills."""
ROUTES: Final = "routes"
NODES: Final = "nodes"
"""The key of the signed node list, in the bucket `routes`."""
HEALTH: Final = "health"
"""The bucket in which each node says how it is, under its id."""
COMMANDS: Final = "commands"
"""The bucket of signed commands to all nodes, each under its id in hexadecimal."""
ANSWERS: Final = "answers"
"""The bucket in which each node says what came of a command."""
_KILL: Final = "/kill"


def kill_key(rollout: str) -> str:
    """The key of a rollout's kill."""
    return rollout + _KILL


def killed_id(key: str) -> str | None:
    """The rollout that a key kills; None: it is no kill's."""
    return key.removesuffix(_KILL) if key.endswith(_KILL) and key != _KILL else None


def days_key(region: str) -> str:
    """The key of a region's control calls of the days before. No rollout's id begins like that."""
    return f"_prior/{region}/days"


def answers_of(command: str) -> str:
    """What keys of answers to a command, hexadecimal, begin with. It ends with a dot."""
    return command + "."


def answer_key(command: str, node: str) -> str:
    """The key of one node's."""
    return answers_of(command) + node
