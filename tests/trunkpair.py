"""Two nodes with a trunk between them, for tests of what knows of connections.

    net = up(Net("a", "b"))           `a` has dialed
    two = both_up()                   by two paths
    say(net, "b", message)            `b` says what it never would

Must never live here: calls and people (trunkrig.py).
"""

from __future__ import annotations

from typing import Any

from relay.config_trunks import TrunkNode, TrunksConfig
from relay.core import events as ev
from relay.core.trunks import Trunks
from relay.protocol import control, trunk_control
from relay.protocol.messages import Message
from relay.protocol.trunk_messages import Greet
from trunkrig import Net, Peer


def greet(node: str, boot: int = 1) -> Greet:
    """What a process of a node says of itself; `boot`: which one."""
    return Greet(
        v=(1,),
        node=node,
        cluster="demo",
        region="eu",
        version="1",
        variants=("control",),
        boot=boot.to_bytes(8, "big"),
        dg=1200,
        routes=16320,
        now=0,
    )


def trunks(net: Net, name: str) -> Trunks:
    """All of this node's."""
    abroad = net[name].engine.abroad
    assert abroad is not None
    return abroad.trunks


def need(net: Net, name: str, other: str) -> None:
    """Somebody at a node needs a trunk to the other one, and it is due now."""
    trunks(net, name).need(other)
    for _ in range(2):  # the deadline that it is due at, and what is due
        net[name].feed(ev.Tick())


def up(net: Net) -> Net:
    """A trunk that `a` dialed."""
    need(net, "a", "b")
    net.run(1.0)
    assert trunks(net, "a").leg_of("b") is not None
    assert trunks(net, "b").leg_of("a") is not None
    return net


def doubled(*names: str, **changes: Any) -> Net:
    """Nodes that name a second address for each other."""
    rows = tuple(TrunkNode(name, "", (), "a second address") for name in names)
    return Net(*names, **{"trunks": TrunksConfig("/k", rows), **changes})


def both_up() -> Net:
    """A trunk of two paths that `a` dialed."""
    net = up(doubled("a", "b"))
    assert paths_up(net) == [(1, 1), (1, 1)]
    assert [out.second for out in net["a"].outputs if isinstance(out, ev.DialTrunk)] == [False, True]
    return net


def paths_up(net: Net) -> list[tuple[int, int]]:
    """Connections in use by the first path and by the second, at `a` and at `b`."""
    return [(trunks(net, name).paths["first"], trunks(net, name).paths["second"]) for name in ("a", "b")]


def say(net: Net, name: str, message: Message, id: int = 0) -> None:
    """Something that this node would never say on its connection."""
    peer = net[name]
    (leg,) = peer.wires
    net.send(peer, leg, lambda there: ev.StreamReceived(there, control.encode(message, id)))
    net.run(0.5)


def sent(net: Net, name: str, kind: type[Message]) -> list[tuple[Any, int]]:
    """What this node said of a kind, with its id."""
    frames = [
        control.decode(out.data[2:], trunk_control._TYPES)
        for out in net[name].outputs
        if isinstance(out, ev.SendStream) and out.leg not in net[name].clients
    ]
    return [(frame.body, frame.id) for frame in frames if isinstance(frame.body, kind)]


def closed(net: Net, name: str) -> list[int]:
    """With what codes this node closed connections."""
    return [out.code for out in net[name].outputs if isinstance(out, ev.CloseLeg)]


def alone(net: Net, name: str, *legs: int) -> Peer:
    """These connections of a node have nobody at the other end."""
    net.close = lambda *_: None  # type: ignore[method-assign]
    for leg in legs:
        net[name].wires[leg] = object()  # type: ignore[assignment]
    return net[name]
