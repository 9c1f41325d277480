"""The daemon's look at the node list, once a second, and what it hands out of it.

    nodes.file --look--> Keeper --> GET /v1/nodes, metrics, /readyz

Off while `nodes.file` is "". Must never live here: what makes a list good (relay/region/nodelist.py).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from relay.config_nodes import NodesConfig
from relay.ops.families import counters
from relay.ops.snapshot import NodesCounters
from relay.protocol.ids import Kid
from relay.protocol.signed import kid_of
from relay.region.nodelist import MAX_SIZE, Keeper, ListError, NodeList, Refusal

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
OLD_S: Final = 300.0
"""A list that was made so long ago is told: its nodes' health is old for whoever places calls (90 s)."""
NOT_CONFIGURED: Final = "not_configured"
NO_FILE: Final = "no_file"
UNREADABLE: Final = "unreadable"
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What GET /v1/nodes says."""

    status: int
    body: bytes
    """JSON: the signed document as it was read, or `{"ok": false, "reason": ...}`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of a document: ETag, and Age in seconds since it was made."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A list that counted, as bytes and as a value: what belongs together changes in one step."""

    list: NodeList
    raw: bytes
    tag: str


class NodesWatch:
    """One daemon's. `config` and `cluster` give the settings as they are now; `wall` is Unix seconds."""

    def __init__(
        self,
        config: Callable[[], NodesConfig],
        cluster: Callable[[], str],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._wall = wall
        self._used = NodesConfig()
        self._keeper: Keeper | None = None
        self._held: _Held | None = None
        self._seen: Stamp | None = None
        self._refused: Counter[str] = Counter()
        self._problem = ""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Read the file if it changed. The disk is waited for in a thread: it may hang."""
        self._configure()
        if self._keeper is not None:
            await asyncio.to_thread(self._read, self._keeper, self._used.file)

    @property
    def list(self) -> NodeList | None:
        """The newest list that counted, past its time too. None: there never was one."""
        return None if self._held is None else self._held.list

    def answer(self) -> Answer:
        """For GET /v1/nodes: the document; 404: none is configured; 503: there is none to give."""
        held, wall = self._held, self._wall()
        if self._keeper is None:
            return _refusal(404, NOT_CONFIGURED)
        if held is None:
            return _refusal(503, self._problem or NO_FILE)
        if wall >= held.list.not_after:
            return _refusal(503, Refusal.EXPIRED.value)  # no reader would take it
        age = max(0, int(wall - held.list.issued_at))
        return Answer(200, held.raw, {"ETag": held.tag, "Age": str(age)})

    def counters(self) -> NodesCounters | None:
        """For the metrics."""
        if self._keeper is None:
            return None
        known, refused = self.list, dict(self._refused)
        if known is None:
            return NodesCounters(0, 0, 0.0, refused)
        return NodesCounters(known.rev, len(known.nodes), max(0.0, self._wall() - known.issued_at), refused)

    def doubt(self) -> str:
        """For /readyz: what somebody should look after; "" if nothing."""
        now, answer = self.counters(), self.answer()
        if now is None:
            return ""
        if answer.status != 200:
            return f"no node list is handed out: {json.loads(answer.body)['reason']}"
        return f"made {now.age_s:.0f} s ago" if now.age_s > OLD_S else ""

    def _configure(self) -> None:
        config = self._config()
        if config == self._used:
            return
        before, self._used = self._used, config
        keys = _accepted(config)
        if config.file and self._keeper is not None and before.file == config.file:
            self._keeper.on_keys(keys)
        else:
            self._keeper = Keeper(self._cluster(), keys) if config.file else None
            self._held = None
        self._seen, self._problem = None, ""

    def _read(self, keeper: Keeper, path: str) -> None:
        """In a thread. What is wrong is counted and logged once, and leaves the list as it was."""
        try:
            found = os.stat(path)
            stamp = found.st_ino, found.st_size, found.st_mtime_ns
            if stamp == self._seen:
                return
            with open(path, "rb") as file:
                raw = file.read(MAX_SIZE + 1)
        except OSError as error:
            self._seen = None
            is_gone = isinstance(error, FileNotFoundError)
            self._refuse(NO_FILE if is_gone else UNREADABLE, error.strerror or "")
            return
        try:
            is_new = keeper.on_document(raw, self._wall())
        except ListError as error:
            if error.reason is not Refusal.TOO_EARLY:  # that one counts as soon as the clock is right
                self._seen = stamp
            self._refuse(error.reason.value, str(error))
            return
        self._seen, self._problem = stamp, ""
        if is_new and keeper.list is not None:
            self._held = _Held(keeper.list, raw, f'"{sha256(raw).hexdigest()[:32]}"')

    def _refuse(self, reason: str, detail: str) -> None:
        if reason == self._problem and self._seen is None:
            return  # the same file as a second ago
        self._problem = reason
        if reason == NO_FILE:
            log.warning("there is no node list")
            return
        self._refused[reason] += 1
        log.error("a node list is refused, the one before stays: %s", detail)


def families(now: NodesCounters) -> Iterator[Metric]:
    """The node list, as this node has it."""
    yield GaugeMetricFamily(
        "relay_nodes_revision", "Of the node list that is gone by; 0: none.", value=now.revision
    )
    yield GaugeMetricFamily("relay_nodes_listed", "Nodes on it.", value=now.listed)
    yield GaugeMetricFamily("relay_nodes_age_seconds", "Since it was made.", value=now.age_s)
    names = (*(each.value for each in Refusal), UNREADABLE)
    yield counters("relay_nodes_refused", "Node lists that did not count.", "reason", now.refused, names)


def _refusal(status: int, reason: str) -> Answer:
    return Answer(status, json.dumps({"ok": False, "reason": reason}).encode() + b"\n")


def _accepted(config: NodesConfig) -> dict[Kid, bytes]:
    publics = [bytes.fromhex(key) for key in config.keys]
    return {kid_of(public): public for public in publics}
