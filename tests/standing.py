"""Legs that stand by at another node, for tests of the engine's parts."""

from __future__ import annotations

from typing import Any

from pair import KEY, Client, Two
from relay.core.handover import seal
from relay.protocol import control, token


def ticket(two: Two, one: Client) -> bytes:
    """What the old node gives this person for others now."""
    call = two.old.engine.node.calls[one.cid]
    made = seal(two.old.engine.node, call, call.seats[one.index])
    assert made is not None
    return made


def stand(two: Two, one: Client, shown: bytes | None = None, **more: Any) -> Client:
    """A leg of this person at the new node that says it stands by."""
    again = Client(two.new, one.raw).open()
    again.send(control.Ping(t=1))
    pop = token.pop_sign(KEY, again.last(control.Challenge).n, one.sub, one.cid)
    again.ask(control.Hello(resume=shown or ticket(two, one), stand=True, pop=pop, **more))
    return again
