"""Event lines of the daemon to letters for an endpoint, and who gets which.

    line (bytes) --read--> Event --pack--> Draft: id, body

A letter is made once and never changes: its id and its bytes are the same in each try. The id is that of its
first event. Must never live here: files, signatures, what an event means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from relay.config_feed import WebhookConfig

MAX_LINE: Final = 262_144  # bytes; the daemon's lines are below 4 KiB

_ID: Final = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,18})")


class _Line(msgspec.Struct):
    """What is read of a line; docs/events.schema.json has all of it."""

    id: str
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    issuer: Annotated[str, msgspec.Meta(max_length=32)] = ""


_DECODER: Final = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True)
class Event:
    """A line that the daemon wrote."""

    log: str
    """Which numbering: the part of the id before the dash."""
    seq: int
    kind: str
    line: bytes
    """As it came, without its end."""
    issuer: str = ""
    """Whose news it is; "": the node's own."""

    @property
    def id(self) -> str:
        """Unique for ever."""
        return f"{self.log}-{self.seq}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A letter that nobody has written down yet."""

    id: str
    body: bytes
    events: int
    kinds: str
    """What is inside, for people: kinds in order, each once, with commas."""


def read(line: bytes) -> Event | None:
    """An event, or None: not one (readers pass such lines over, a crash may cut one)."""
    try:
        found = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    parts = _ID.fullmatch(found.id)
    if parts is None or int(parts[2]) != found.seq:
        return None
    return Event(parts[1], found.seq, found.kind, line, found.issuer)


def pack(events: Iterable[Event], webhook: WebhookConfig) -> list[Draft]:
    """Letters for one endpoint, with the events it wants, in order."""
    wanted = [event for event in events if _is_for(webhook, event)]
    return [
        _draft(wanted[at : at + webhook.batch], as_list=webhook.batch > 1)
        for at in range(0, len(wanted), webhook.batch)
    ]


def _is_for(webhook: WebhookConfig, event: Event) -> bool:
    """Whether the endpoint is told: of this kind of news, and of this issuer's."""
    is_kind = not webhook.events or event.kind in webhook.events
    return is_kind and (not webhook.issuers or event.issuer in webhook.issuers)


def _draft(events: Sequence[Event], *, as_list: bool) -> Draft:
    body = b",".join(event.line for event in events)
    kinds = ",".join(dict.fromkeys(event.kind for event in events))
    return Draft(events[0].id, b"[" + body + b"]" if as_list else body, len(events), kinds)
