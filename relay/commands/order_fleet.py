"""`relay command ... --fleet`: give a signed command to all nodes by the store, and say what came of it.

    put commands/<id> --> the feeds of all nodes --> daemons --> answers/<id>.<node> --watch--> who did what

Must never live here: signing (order.py), what a node does (relay/core/orders.py), stores.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from relay.commands.desk import with_store
from relay.config import Config
from relay.core.orders import ABSENT
from relay.errors import ErrorCode
from relay.feed.commands import Answer
from relay.protocol import dispatch
from relay.protocol.signed import kid_of
from relay.region.nodelist import ListError, verify
from relay.rollout.keys import ANSWERS, COMMANDS, HEALTH, NODES, ROUTES, answers_of
from relay.rollout.store import ConflictError, StateStore, UnreachableError

TRIES: Final = 3  # of a put of which nobody knows whether it was
OBEYED, FAILED, SILENT = 0, 1, 3
"""Exit status, as order.py tells it."""
_ABSENT: Final = frozenset(code.name for code in ABSENT)
_DECODER: Final = msgspec.json.Decoder(Answer)


@dataclass(slots=True)
class Outcome:
    """What came of a command."""

    id: str
    known: frozenset[str]
    """Nodes that there are, by the node list and by what was heard of them in the last 90 s."""
    answers: dict[str, Answer] = field(default_factory=dict)
    waited_s: float = 0.0

    @property
    def obeyed(self) -> list[str]:
        """Nodes."""
        return sorted(node for node, said in self.answers.items() if said.code == ErrorCode.NO_ERROR.name)

    @property
    def absent(self) -> list[str]:
        """Nodes that have nobody whom it is about, and remember it for who comes."""
        return sorted(node for node, said in self.answers.items() if said.code in _ABSENT)

    @property
    def refused(self) -> dict[str, str]:
        """Nodes that did not do it, and the name of the error."""
        well = {*self.obeyed, *self.absent}
        return {node: said.code for node, said in sorted(self.answers.items()) if node not in well}

    @property
    def silent(self) -> list[str]:
        """Nodes of which nothing was heard in time."""
        return sorted(self.known - self.answers.keys())

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing to wait for. Where no node is known, everybody may still answer."""
        return bool(self.known) and not self.silent

    @property
    def status(self) -> int:
        """Exit status."""
        if self.refused:
            return FAILED
        if not self.is_complete:
            return SILENT
        return OBEYED if self.obeyed else FAILED

    def facts(self) -> dict[str, Any]:
        """For machines."""
        ages = [self.answers[node].age_ms for node in self.obeyed]
        return {
            "ok": self.status == OBEYED,
            "id": self.id,
            "obeyed": self.obeyed,
            "absent": self.absent,
            "refused": self.refused,
            "silent": self.silent,
            "waited_s": round(self.waited_s, 3),
            "age_ms": max(ages, default=None),
        }

    def text(self) -> str:
        """For people."""
        refused = [f"{node} ({code})" for node, code in self.refused.items()]
        parts = [
            ("obeyed by", self.obeyed),
            ("refused by", refused),
            ("no answer from", self.silent),
            ("nobody concerned at", self.absent),
        ]
        told = [f"{head} {', '.join(names)}" for head, names in parts if names]
        if not self.known:
            told.append("no node is known: neither a node list nor announcements are in the store")
        elif not self.obeyed and not self.refused and not self.silent:
            told.append("no node has it; all remember it for who may come")
        return "; ".join(told)


def give(config: Config, raw: bytes, wait_s: float, who: str, why: str) -> Outcome:
    """Give it, wait for answers. PeerError: it is no command. StoreError: it was not given."""
    id = dispatch.take(raw, 0.0).id.hex()

    async def work(store: StateStore) -> Outcome:
        outcome = Outcome(id, await _known(store, config))
        await _put(store, id, raw, who, why)
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await _hear(store, outcome)
        outcome.waited_s = time.monotonic() - began
        return outcome

    return with_store(config.state, work)


async def _known(store: StateStore, config: Config) -> frozenset[str]:
    found = set(await store.keys(HEALTH))
    entry = await store.get(ROUTES, NODES)
    keys = {kid_of(bytes.fromhex(key)): bytes.fromhex(key) for key in config.nodes.keys}
    if entry is not None and keys:
        with contextlib.suppress(ListError):
            found |= {node.id for node in verify(entry.value, keys).nodes}
    return frozenset(found)


async def _put(store: StateStore, id: str, raw: bytes, who: str, why: str) -> None:
    """Given twice it is one command: whether the first time was heard need not be known."""
    for attempt in range(1, TRIES + 1):
        try:
            await store.put(COMMANDS, id, base64.b64encode(raw), expect=0, who=who, why=why)
        except ConflictError:
            return
        except UnreachableError as error:
            if error.is_written is False or attempt == TRIES:
                raise
        else:
            return


async def _hear(store: StateStore, outcome: Outcome) -> None:
    start = answers_of(outcome.id)
    async for entry in store.watch(ANSWERS, start):
        with contextlib.suppress(msgspec.DecodeError):
            outcome.answers[entry.key.removeprefix(start)] = _DECODER.decode(entry.value)
        if outcome.is_complete:
            return
