"""Hostile users of TURN: forbidden peers in every spelling, loops, and other people's allocations."""

from __future__ import annotations

from collections.abc import Container
from ipaddress import ip_address

import pytest

from core.test_relays import Circle
from protocol.test_peers import SPELLINGS
from relay.core import turn_events as te
from relay.core.company import Company, OpenCompany, Owner
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.stun import Attribute
from relay.protocol.turn import Method
from turnrig import V4, V6, Rig, TurnClient, code_of, config


class Everywhere(Circle):
    """A friend announced every address there is."""

    def reach(self, owner: object) -> Container[bytes]:
        return OpenCompany(config().turn).reach(Owner(None, b""))


COMPANIES = {"open": OpenCompany, "strict": Everywhere}
ROWS = [*SPELLINGS, "10.0.0.9", V4, V6, "::ffff:9.9.9.9"]


def ready(policy: str) -> tuple[Rig, list[TurnClient]]:
    """One user with an allocation of each family."""
    settings = config(policy=policy, urls=("turn:x",))
    company: Company = OpenCompany(settings.turn) if policy == "open" else Everywhere()
    rig = Rig(settings, company)
    clients = [rig.client(id="ann") for _ in range(2)]
    clients[0].allocate()
    clients[1].allocate(turn.family(stun.IPV6))
    return rig, clients


@pytest.mark.parametrize("policy", COMPANIES)
@pytest.mark.parametrize("text", ROWS)
def test_a_forbidden_peer_is_refused_to_permissions_and_channels_of_both_families(
    text: str, policy: str
) -> None:
    rig, clients = ready(policy)
    raw = _on_the_wire(text)
    for client in clients:
        for method, front in (
            (Method.CREATE_PERMISSION, []),
            (Method.CHANNEL_BIND, [turn.channel_number(0x4000)]),
        ):
            transaction = client.next_transaction()
            peer = Attribute(turn.XOR_PEER_ADDRESS, stun._xored(raw, transaction))
            answer = client.send(client.written(method, [*front, peer], transaction))
            assert code_of(answer) in (403, 443)
    assert rig.permits == rig.channels == {}
    assert not [each for each in rig.outputs if isinstance(each, te.Permit | te.BindChannel)]
    rig.check()


def _on_the_wire(text: str) -> bytes:
    """As a client would write it, mapped ones unfolded, with a port."""
    packed = ip_address(text.partition("%")[0]).packed
    return bytes((0, 1 if len(packed) == 4 else 2)) + (9).to_bytes(2, "big") + packed


def test_there_are_at_least_60_rows_with_those_of_the_address_table() -> None:
    assert len(COMPANIES) * len(ROWS) >= 60


def test_a_loop_through_ones_own_relayed_address_is_refused() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    assert code_of(ann.permit(V4)) == 403
    assert code_of(ann.bind(0x4000, V4, ann.relayed.port)) == 403
    second = rig.client(id="ann")
    second.allocate()
    # Two allocations may reach each other, but a packet hops once: what comes from a peer goes to the client.
    assert code_of(ann.bind(0x4000, V4, second.relayed.port)) == 0
    assert code_of(ann.bind(0x4001, V4, 3478)) == 403
    rig.check()


@pytest.mark.parametrize("seconds", [0, 600])
def test_an_allocation_cannot_be_taken_over_from_another_address(seconds: int) -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    ann.permit("8.8.8.8")
    before = dict(rig.relays), dict(rig.permits)
    stolen = ann.written(Method.REFRESH, [turn.lifetime(seconds)])
    for host, port in (("6.6.6.6", 7000), (ann.via.client.host, 7001)):
        rig.feed(te.ClientPacket(ann.via._replace(client=Address(host, port)), stolen))
    assert (rig.relays, rig.permits) == before
    rig.check()


def test_a_request_captured_and_sent_again_from_elsewhere_allocates_nothing() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    thief = ann.via._replace(client=Address("6.6.6.6", 666))
    rig.feed(te.ClientPacket(thief, ann.sent))
    assert rig.engine.allocations == 1
    assert code_of(stun.parse(rig.answers[thief][-1])) == 438
