"""The table of allocations: charges, deadlines, and what the lane is told of whom."""

from __future__ import annotations

from collections.abc import Container
from ipaddress import ip_address

import pytest

from relay.config import Config
from relay.core import turn_events as te
from relay.core.company import Budget, Owner
from relay.core.credentials import UserName, Via
from relay.core.events import CompanyChanged
from relay.core.relays import Relays
from relay.protocol import turn
from relay.protocol.address import Address
from relay.protocol.ids import CallId
from turnrig import V4, Rig, TurnClient, changed, code_of, config

CALL, ELSEWHERE = CallId(bytes(16)), CallId(bytes([1] * 16))


class Circle:
    """People by id; who is away is in nobody's company."""

    def __init__(self) -> None:
        self.people = {
            b"ann": Owner(CALL, b"ann"),
            b"bob": Owner(CALL, b"bob"),
            b"eve": Owner(ELSEWHERE, b"eve"),
        }
        self.gone: set[Owner] = set()
        self.shut: set[Owner] = set()
        self.announced: dict[Owner, set[bytes]] = {}
        self.charged = 0

    def owner_of(self, user: bytes, name: UserName) -> Owner | None:
        owner = self.people.get(name.id)
        return owner if owner not in self.gone else None

    def is_here(self, owner: Owner) -> bool:
        return owner not in self.gone

    def reach(self, owner: Owner) -> Container[bytes]:
        return {ip for other, found in self.announced.items() if self.may_meet(owner, other) for ip in found}

    def may_meet(self, owner: Owner, other: Owner) -> bool:
        there = {owner, other} & (self.gone | self.shut)
        return owner != other and owner.call == other.call and not there

    def budget(self, owner: Owner) -> Budget:
        return Budget(64_000, 50)

    def charge(self, owner: Owner) -> str | None:
        self.charged += 1
        return "app"

    def release(self, holder: str) -> None:
        assert holder == "app"
        self.charged -= 1

    def announce(self, id: bytes, *hosts: str) -> None:
        self.announced[self.people[id]] = {ip_address(host).packed for host in hosts}


def pair() -> tuple[Rig, Circle, TurnClient, TurnClient]:
    """Two people of one call, each with an allocation."""
    circle = Circle()
    rig = Rig(config(policy="strict", urls=("turn:x",)), circle)
    ann, bob = rig.client(id="ann"), rig.client(id="bob")
    assert (code_of(ann.allocate()), code_of(bob.allocate())) == (0, 0)
    return rig, circle, ann, bob


def test_only_what_somebody_of_the_call_announced_is_a_peer() -> None:
    rig, circle, ann, _ = pair()
    assert code_of(ann.permit("8.8.8.8")) == 403
    circle.announce(b"bob", "8.8.8.8", "10.0.0.1")
    circle.announce(b"eve", "8.8.4.4")
    circle.announce(b"ann", "8.8.1.1")
    assert code_of(ann.permit("8.8.8.8")) == 0
    assert code_of(ann.bind(0x4000, "8.8.8.8", 4321)) == 0  # a port behind a NAT is nobody's to announce
    assert [code_of(ann.permit(host)) for host in ("8.8.4.4", "8.8.1.1", "10.0.0.1")] == [403, 403, 403]
    rig.check()


def test_when_consent_goes_the_lane_is_told_at_once_and_again_when_it_returns() -> None:
    rig, circle, ann, _ = pair()
    circle.announce(b"bob", "8.8.8.8")
    ann.bind(0x4000, "8.8.8.8")
    told = dict(rig.permits), dict(rig.channels)
    rig.run(10.0)
    circle.shut = {circle.people[b"bob"]}
    rig.feed(CompanyChanged(CALL))
    assert rig.permits == rig.channels == {}
    rig.check()
    rig.run(10.0)
    circle.shut = set()
    rig.feed(CompanyChanged(CALL))
    assert (rig.permits, rig.channels) == told
    rig.feed(CompanyChanged(CALL))
    assert [type(each) for each in rig.outputs[-2:]] == [te.Permit, te.BindChannel]
    rig.check()


def test_a_permission_that_ends_while_it_is_shut_ends_silently() -> None:
    rig, circle, ann, _ = pair()
    circle.announce(b"bob", "8.8.8.8")
    ann.bind(0x4000, "8.8.8.8")
    circle.shut = {circle.people[b"bob"]}
    rig.feed(CompanyChanged(CALL))
    ann.refresh(3600)
    before = [each for each in rig.outputs if not isinstance(each, te.Answer)]
    rig.run(1000.0)
    assert [each for each in rig.outputs if isinstance(each, te.Forbid | te.Unbind)] == before[-2:]
    rig.check()


def test_nothing_outlives_its_owner() -> None:
    rig, circle, ann, bob = pair()
    circle.announce(b"bob", "8.8.8.8")
    ann.bind(0x4000, "8.8.8.8")
    circle.gone = {circle.people[b"ann"]}
    rig.feed(CompanyChanged(CALL))
    assert list(rig.relays) == [bob.number]
    assert code_of(ann.allocate()) == 401
    rig.check()
    circle.gone = set(circle.people.values())
    rig.feed(CompanyChanged(CALL))
    assert rig.relays == rig.permits == {}
    assert rig.engine.relays.user_quota.keys() == 0
    rig.check()


def test_relayed_addresses_of_a_call_reach_each_other_and_no_other_calls() -> None:
    rig, _, ann, bob = pair()
    eve = rig.client(id="eve")
    eve.allocate()
    assert code_of(ann.permit(V4)) == 0
    assert code_of(ann.bind(0x4000, V4, bob.relayed.port)) == 0
    assert code_of(ann.bind(0x4001, V4, eve.relayed.port)) == 403
    assert code_of(eve.permit(V4)) == 403
    rig.check()


def test_when_a_relayed_address_goes_its_friends_are_shut_and_open_for_the_next() -> None:
    rig, _, ann, bob = pair()
    ann.bind(0x4000, V4, bob.relayed.port)
    bob.refresh(0)
    assert rig.permits == rig.channels == {}
    rig.check()
    bob.allocate()  # on another port: the permission is by address, the channel is not
    assert list(rig.permits) == [(ann.number, ip_address(V4).packed)]
    assert rig.channels == {}
    rig.check()


def test_in_open_policy_too_a_channel_ends_with_the_address_it_leads_to() -> None:
    rig = Rig()
    ann, bob, eve = (rig.client(id=id) for id in ("ann", "bob", "eve"))
    for each in (ann, bob, eve):
        each.allocate()
    ann.bind(0x4000, V4, bob.relayed.port)
    ann.bind(0x4001, V4, eve.relayed.port)
    bob.refresh(0)
    assert list(rig.channels) == [(ann.number, 0x4001)]
    assert list(rig.permits) == [(ann.number, ip_address(V4).packed)]
    rig.check()
    eve.refresh(0)  # nobody else relays there any more
    assert rig.permits == rig.channels == {}
    rig.check()
    bob.allocate()
    assert list(rig.permits) == [(ann.number, ip_address(V4).packed)]
    ann.refresh(0)
    bob.refresh(0)
    rig.check()


def test_an_allocation_still_opening_is_nobodys_peer() -> None:
    rig, _, ann, bob = pair()
    bob.refresh(0)
    rig.opens = False
    bob.allocate()
    assert code_of(ann.permit(V4)) == 403
    rig.check()


def test_many_that_end_at_once_end_a_few_at_a_time_and_answer_no_more_meanwhile() -> None:
    rig = Rig(config(allocations_per_user=64))
    clients = [rig.client() for _ in range(40)]
    for each in clients:
        each.allocate()
    rig.now += 700.0
    rig.wall += 1.0
    last = clients[-1]
    last.nonce = b""
    last.challenged()
    assert rig.engine.allocations == 23
    assert code_of(last.send(last.written(4, []))) == 437
    assert rig.engine.allocations == 7
    rig.feed(te.Tick())
    assert rig.engine.allocations == 0
    assert rig.engine.counters["turn_closed", "expired"] == 40
    rig.check()


def test_what_ends_by_itself_is_told_to_the_lane() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate(turn.lifetime(3600))
    ann.bind(0x4000, "8.8.8.8")
    rig.run(600.0)
    ends = [each for each in rig.outputs if isinstance(each, te.Forbid | te.Unbind)]
    assert ends == [te.Forbid(ann.number, bytes([8] * 4)), te.Unbind(ann.number, 0x4000)]
    rig.check()


def test_an_allocation_that_ends_before_its_socket_comes_leaves_nothing() -> None:
    rig = Rig()
    rig.opens = False
    ann = rig.client()
    ann.allocate()
    rig.run(5.0)
    assert rig.engine.counters["turn_closed", "not_opened"] == 1
    rig.check()


def test_a_reload_changes_ceilings() -> None:
    rig = Rig(config())
    table = rig.engine.relays
    table.on_config(changed(config(), allocations=7, allocations_per_user=3))
    assert (table.node_quota.ceiling, table.user_quota.ceiling) == (7, 3)


def test_our_own_addresses_are_those_bound_advertised_and_given() -> None:
    table = Relays(config(), Circle(), [bytes.fromhex("00000000000000000000ffff08080808"), bytes([1] * 4)])
    wanted = ("10.0.0.9", "9.9.9.9", "2600:9::9", "8.8.8.8", "1.1.1.1")
    assert table.own == {ip_address(each).packed for each in wanted}
    assert table.families == {4, 16}


def test_without_addresses_there_is_nothing_to_relay_on() -> None:
    assert Relays(Config(), Circle()).families == frozenset()


@pytest.mark.parametrize("host", ["9.9.9.9", "10.0.0.9"])
def test_a_relay_socket_on_an_address_without_nat_is_called_as_it_is(host: str) -> None:
    rig = Rig()
    table = rig.engine.relays
    via = Via("udp", Address("7.7.7.7", 1), 1)
    owner = Owner(None, b"ann")
    assert table.user_quota.charge(owner)
    assert table.node_quota.charge("here")
    made = table.open(via, owner, b"ann", b"", 4)
    table.opened(made, Address(host, 50_000), 600.0)
    assert made.relayed == Address("9.9.9.9", 50_000)
    table.close(made, "test")
