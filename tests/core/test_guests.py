"""TURN for people in calls: who gets credentials, and whom they may reach with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest

import turnrig
from pair import PUBLIC, Client, World, config
from relay.config import IssuerConfig, TokenConfig
from relay.core.company import Budget, Owner
from relay.core.credentials import TurnKeys, UserName
from relay.core.events import CompanyChanged, ConfigChanged, EngineKeys
from relay.core.guests import Guests, nothing_announced
from relay.core.reasons import Refusal
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.address import Address
from relay.protocol.ids import CallId, Sub
from turnrig import Rig, code_of

KEYS = TurnKeys.of([bytes(32)])
TURN = turnrig.config(policy="strict", urls=("turn:relay.example:3478?transport=udp",)).turn
MAY = token.MAY_SEND | token.MAY_RECEIVE | token.MAY_E2E | token.MAY_TURN
NOBODY = Owner(CallId(bytes(16)), bytes(16))


class Node(World):
    """A node with TURN for its calls; what people announced stands in `announced`."""

    def __init__(self, turn: Any = TURN, secrets: Iterable[bytes] = KEYS.rest) -> None:
        super().__init__(config(turn=turn))
        keys = self.engine.node.keys
        self.engine.node.keys = EngineKeys(keys.issuers, keys.ticket_keys, tuple(secrets))
        self.announced: dict[tuple[CallId, int], list[Address]] = {}
        self.guests.announced = lambda call, by, to: self.announced.get((call, by), [])

    @property
    def guests(self) -> Guests:
        return self.engine.node.guests

    def announce(self, client: Client, *hosts: str) -> None:
        self.announced[client.cid, client.index] = [Address(host, 9) for host in hosts]

    def owner(self, client: Client) -> Owner:
        return Owner(client.cid, client.sub)

    def changes(self) -> list[CallId]:
        return [each.call for each in self.outputs if isinstance(each, CompanyChanged)]


def talking(node: Node, **changes: Any) -> tuple[Client, Client]:
    return node.talking(**{"prm": MAY} | changes)


def ask(client: Client) -> Any:
    return client.ask(control.Turn())


# ---------------------------------------------------------------- credentials


def test_a_person_in_a_call_gets_credentials_that_the_engine_takes() -> None:
    node = Node()
    ann, _ = talking(node)
    answer = ask(ann)
    assert isinstance(answer, control.Turn)
    assert (answer.urls, answer.ttl) == (TURN.urls, 600)
    name = UserName.parse(answer.user.encode())
    assert name is not None
    assert name.expiry == int(node.wall) + 600
    assert node.guests.owner_of(answer.user.encode(), name) == node.owner(ann)
    rig = Rig(turnrig.changed(node.config, addresses=turnrig.ADDRESSES), node.guests, KEYS)
    rig.wall = node.wall
    client = rig.client(user=answer.user, password=answer.password)
    assert code_of(client.allocate()) == 0
    assert rig.relays[client.number].bps == 512_000
    assert answer.user not in repr(answer)


def test_the_same_person_has_the_same_id_each_time_and_others_have_others() -> None:
    node = Node()
    ann, bob = talking(node)
    first, second, other = ask(ann).user, ask(ann).user, ask(bob).user
    node.run(5.0, (ann, bob))
    later = ask(ann).user
    ids = [user.partition(":")[2] for user in (first, second, other, later)]
    assert ids[0] == ids[1] == ids[3] != ids[2]
    assert first != later
    assert len(node.guests) == 2


def test_one_who_has_not_accepted_may_gather_addresses_already() -> None:
    node = Node()
    ann, _ = node.pair(prm=MAY)
    assert isinstance(ask(ann), control.Turn)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], ErrorCode]] = [
    ("a token without it", {}, {"prm": MAY & ~token.MAY_TURN}, ErrorCode.FORBIDDEN),
    ("a node without it", {"enabled": False}, {}, ErrorCode.NOT_ENABLED),
    ("a node whose back end mints", {"policy": "open", "secret_file": "/x"}, {}, ErrorCode.NOT_ENABLED),
]


@pytest.mark.parametrize(("turn", "claims", "code"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_who_may_not_have_credentials_is_told_and_stays(
    turn: dict[str, Any], claims: dict[str, Any], code: ErrorCode
) -> None:
    node = Node(dataclasses.replace(TURN, **turn))
    ann, _ = talking(node, **claims)
    answer = ask(ann)
    assert (answer.code, answer.fatal) == (code, False)
    assert ann.closed is None
    assert len(node.guests) == 0


def test_a_node_without_secrets_has_no_turn() -> None:
    node = Node(secrets=())
    ann, _ = talking(node)
    assert ask(ann).code == ErrorCode.NOT_ENABLED


def test_one_who_is_in_no_call_is_told_so() -> None:
    node = Node()
    ann = node.client(node.call().token(prm=MAY)).open()
    ann.hello()
    assert ask(ann).code == ErrorCode.NOT_IN_CALL
    ann.join()
    assert isinstance(ask(ann), control.Turn)
    ann.hangup()
    assert ask(ann).code == ErrorCode.NOT_IN_CALL


# ---------------------------------------------------------------- whom one may reach


def test_a_peer_is_what_one_announced_with_whom_both_ways_are_open() -> None:
    node = Node()
    ann, bob = node.pair(prm=MAY)
    node.announce(bob, "8.8.8.8")
    node.announce(ann, "8.8.4.4")
    guests, one, other = node.guests, node.owner(ann), node.owner(bob)
    ann.accept()
    assert bytes([8] * 4) not in guests.reach(one)
    assert not guests.may_meet(one, other)
    bob.accept()
    assert bytes([8] * 4) in guests.reach(one)
    assert guests.may_meet(one, other)
    assert bytes([8, 8, 4, 4]) not in guests.reach(one)  # his own word
    assert bytes([8, 8, 1, 1]) not in guests.reach(one)


def test_one_who_may_only_listen_is_nobodys_peer() -> None:
    node = Node()
    ids = node.call()
    ann = node.client(ids.token(prm=MAY)).enter()
    bob = node.client(ids.token(prm=MAY & ~token.MAY_SEND)).enter()
    ann.accept()
    bob.accept()
    node.announce(bob, "8.8.8.8")
    assert bytes([8] * 4) not in node.guests.reach(node.owner(ann))
    assert not node.guests.may_meet(node.owner(ann), node.owner(bob))


def test_a_mute_shuts_no_way_and_a_block_shuts_both() -> None:
    node = Node()
    ids = node.call()
    ann, bob, eve = (node.client(ids.token(prm=MAY, lim=(64, 64, 50, 8))).enter() for _ in range(3))
    for each in (ann, bob, eve):
        each.accept()
        ask(each)
    node.announce(bob, "8.8.8.8")
    bob.mute()
    assert bytes([8] * 4) in node.guests.reach(node.owner(ann))
    before = len(node.changes())
    bob.block(ann.index)
    assert len(node.changes()) > before
    assert bytes([8] * 4) not in node.guests.reach(node.owner(ann))
    assert bytes([8] * 4) in node.guests.reach(node.owner(eve))
    assert not node.guests.may_meet(node.owner(ann), node.owner(bob))


def test_people_of_two_calls_are_nobodys_peers() -> None:
    node = Node()
    ann, _ = talking(node)
    eve, _ = talking(node)
    node.announce(eve, "8.8.8.8")
    assert bytes([8] * 4) not in node.guests.reach(node.owner(ann))
    assert not node.guests.may_meet(node.owner(ann), node.owner(eve))


def test_a_budget_is_the_larger_grant_of_the_token_cut_to_the_nodes() -> None:
    node = Node()
    ann, _ = talking(node, lim=(64, 2048, 9999, 2))
    assert node.guests.budget(node.owner(ann)) == Budget(2_048_000, 500)


# ---------------------------------------------------------------- nothing outlives its owner


def test_who_hangs_up_is_nobody_at_once_and_the_turn_engine_is_told() -> None:
    node = Node()
    ann, bob = talking(node)
    user = ask(ann).user.encode()
    name = UserName.parse(user)
    assert name is not None
    before = len(node.changes())
    bob.hangup()
    assert len(node.changes()) > before
    assert node.guests.owner_of(user, name) is None
    assert not node.guests.is_here(node.owner(ann))
    assert not node.guests.may_meet(node.owner(ann), node.owner(bob))
    assert node.guests.budget(node.owner(ann)) == Budget(0, 0)
    assert len(node.guests) == 0
    node.check()


def test_one_who_leaves_a_group_is_nobody_while_it_goes_on_and_the_same_when_he_returns() -> None:
    node = Node()
    ids = node.call()
    raws = [ids.token(prm=MAY, lim=(64, 64, 50, 8)) for _ in range(3)]
    ann, bob, _ = (node.client(raw).enter() for raw in raws)
    user = ask(ann).user
    name = UserName.parse(user.encode())
    assert name is not None
    ann.hangup()
    assert node.guests.owner_of(user.encode(), name) is None
    again = node.client(ids.token(prm=MAY, lim=(64, 64, 50, 8), sub=ann.sub)).enter()
    assert ask(again).user.partition(":")[2] == user.partition(":")[2]
    assert node.guests.owner_of(user.encode(), name) == node.owner(again)
    assert bob.closed is None


def test_silence_shuts_the_way_and_a_return_opens_it() -> None:
    node = Node()
    ann, bob = talking(node)
    ask(ann)
    node.announce(bob, "8.8.8.8")
    bob.lose()
    assert node.guests.is_here(node.owner(bob))
    assert bytes([8] * 4) not in node.guests.reach(node.owner(ann))
    again = bob.resume(node.call(bob.cid).token(prm=MAY, sub=bob.sub))
    again.rejoin()
    assert bytes([8] * 4) in node.guests.reach(node.owner(ann))
    assert node.changes()[-1] == ann.cid


def test_a_newer_token_without_the_right_takes_it_away() -> None:
    node = Node()
    ann, _ = talking(node)
    user = ask(ann).user.encode()
    name = UserName.parse(user)
    assert name is not None
    raw = node.call(ann.cid).token(prm=MAY & ~token.MAY_TURN, sub=ann.sub)
    assert isinstance(ann.ask(control.TokenUpdate(tok=raw)), control.Ok)
    assert node.guests.owner_of(user, name) is None
    assert node.changes()[-1] == ann.cid


def test_calls_without_turn_cost_the_turn_engine_nothing() -> None:
    node = Node()
    ann, _ = talking(node)
    ann.hangup()
    assert node.changes() == []


def test_an_unknown_id_or_call_is_nobody() -> None:
    node = Node()
    ann, _ = talking(node)
    guests = node.guests
    assert guests.owner_of(b"1:x", UserName(1, b"x")) is None
    for owner in (NOBODY, Owner(None, b"ann"), Owner(ann.cid, Sub(bytes(16)))):
        assert not guests.is_here(owner)
        assert bytes(4) not in guests.reach(owner)
        assert not guests.may_meet(owner, node.owner(ann))
        assert not guests.may_meet(node.owner(ann), owner)


def test_without_candidates_nothing_is_announced() -> None:
    assert list(nothing_announced(CallId(bytes(16)), 0, 1)) == []
    world = World(config(turn=TURN))
    ann, _ = world.talking(prm=MAY)
    assert bytes([8] * 4) not in world.engine.node.guests.reach(Owner(ann.cid, ann.sub))


def test_a_reload_brings_new_secrets_and_urls() -> None:
    node = Node()
    ann, _ = talking(node)
    keys = node.engine.node.keys
    turn = dataclasses.replace(TURN, urls=("turns:other.example:443",))
    new = EngineKeys(keys.issuers, keys.ticket_keys, (b"new secret",))
    node.feed(ConfigChanged(dataclasses.replace(node.config, turn=turn), new))
    answer = ask(ann)
    assert answer.urls == turn.urls
    wanted = turnrig.mint(answer.user.partition(":")[2], int(node.wall) + 600, b"new secret")
    assert (answer.user, answer.password) == wanted


def test_an_allocation_is_charged_to_the_issuer_of_its_owner_within_its_number() -> None:
    node = Node()
    ann, bob = talking(node)
    row = IssuerConfig("app", PUBLIC.hex(), allocations=1, max_up_kbps=40, max_down_kbps=50, max_pps=30)
    changed = dataclasses.replace(node.config, tokens=TokenConfig((row,)))
    node.feed(ConfigChanged(changed))
    guests, tenants = node.guests, node.engine.node.tenants
    assert guests.budget(node.owner(ann)) == (50_000, 30)
    assert [guests.charge(node.owner(one)) for one in (ann, bob)] == ["app", None]
    assert tenants.held(Refusal.ALLOCATIONS, "app") == 1
    guests.release("app")
    assert tenants.held(Refusal.ALLOCATIONS, "app") == 0
    assert guests.charge(NOBODY) == ""
