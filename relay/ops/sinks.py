"""Where events go: to one place, and those of issuers who have a place of their own to that alone.

Each place is a writer with its own queue, spool and thread, so that one which is slow, full or gone holds up
no other. Must never live here: how a place is written to (events.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from relay.config import Config
from relay.core.events import CallEvent
from relay.errors import ConfigError
from relay.ops.events import EventWriter
from relay.ops.snapshot import SinkCounters


class EventSinks:
    """All places; to the daemon it is one writer."""

    def __init__(self, common: EventWriter, own: Mapping[str, EventWriter]) -> None:
        """`own`: by issuer."""
        self._common = common
        self._own = own
        self._all = (common, *own.values())

    @classmethod
    def of(cls, config: Config, suffix: str = "") -> EventSinks | None:
        """As configured; None: no events are wanted. `suffix` goes to the name of each spool."""
        events, node = config.events, config.node.id
        if events.sink == "off":
            return None
        own = {
            issuer.name: replace(events, path=issuer.events, spool=f"{events.spool}.{issuer.name}{suffix}")
            for issuer in config.tokens.issuers
            if issuer.events
        }
        common = replace(events, spool=f"{events.spool}{suffix}") if suffix else events
        return cls(EventWriter(common, node), {name: EventWriter(each, node) for name, each in own.items()})

    def start(self) -> None:
        """Open them all (ConfigError). What was opened before one that fails is closed again."""
        begun: list[EventWriter] = []
        try:
            for name, writer in (("", self._common), *self._own.items()):
                _open(name, writer)
                begun.append(writer)
        except BaseException:
            for writer in begun:
                writer.close()
            raise

    def event(self, event: CallEvent) -> None:
        """Take an event; never waits."""
        self._own.get(event.issuer, self._common).event(event)

    @property
    def is_failing(self) -> bool:
        """Whether any of them refused the last try."""
        return any(writer.is_failing for writer in self._all)

    def counters(self) -> SinkCounters:
        """Of all together, for the metrics."""
        each = [writer.counters() for writer in self._all]
        dropped: Counter[str] = Counter()
        for one in each:
            dropped.update(one.dropped)
        return SinkCounters(sum(one.written for one in each), sum(one.waiting for one in each), dict(dropped))

    def close(self) -> None:
        """Deliver what waits, once, and end."""
        for writer in self._all:
            writer.close()


def _open(issuer: str, writer: EventWriter) -> None:
    try:
        writer.start()
    except ConfigError as error:
        key = f"tokens.issuers: events of {issuer}" if issuer else error.key
        raise ConfigError(key, error.problem, error.cure) from None
