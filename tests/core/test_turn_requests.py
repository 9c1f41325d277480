"""What Allocate, Refresh, CreatePermission and ChannelBind do, and each error with its number."""

from __future__ import annotations

import pytest

from relay.core import turn_events as te
from relay.core.company import OpenCompany, Owner
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.stun import Attribute, Message
from relay.protocol.turn import Method
from turnrig import ADDRESSES, V4, V6, Rig, TurnClient, changed, code_of, config

EVEN = Attribute(turn.EVEN_PORT, b"\x80")
TOKEN = Attribute(turn.RESERVATION_TOKEN, bytes(8))
ADDITIONAL = Attribute(turn.ADDITIONAL_ADDRESS_FAMILY, b"\x02\0\0\0")


def address(answer: Message, type: int) -> Address:
    value = answer.get(type)
    assert value is not None
    return stun.decode_xor_address(value, answer.transaction)


def seconds(answer: Message) -> int:
    value = answer.get(turn.LIFETIME)
    assert value is not None
    return turn.u32_of(value)


def ready(rig: Rig | None = None, **fields: object) -> tuple[Rig, TurnClient]:
    rig = rig or Rig()
    ann = rig.client(**fields)
    assert code_of(ann.allocate()) == 0
    return rig, ann


# ---------------------------------------------------------------- Allocate


def test_an_allocation_tells_its_relayed_address_lifetime_and_the_clients_own_address() -> None:
    rig = Rig()
    ann = rig.client()
    answer = ann.allocate()
    assert address(answer, turn.XOR_RELAYED_ADDRESS) == Address(V4, 50_001)  # what the NAT in front is called
    assert address(answer, stun.XOR_MAPPED_ADDRESS) == ann.via.client
    assert seconds(answer) == 600
    assert rig.relays[ann.number] == te.OpenRelay(ann.number, ann.via, 4, 2_048_000, 500)
    rig.check()


@pytest.mark.parametrize(
    ("asked", "granted"), [(0, 600), (1, 600), (601, 601), (3600, 3600), (2**32 - 1, 3600)]
)
def test_a_lifetime_is_never_less_than_ten_minutes_nor_more_than_an_hour(asked: int, granted: int) -> None:
    rig = Rig()
    ann = rig.client()
    assert seconds(ann.allocate(turn.lifetime(asked))) == granted
    if asked:
        assert seconds(ann.refresh(asked)) == granted
    rig.run(granted - 0.5)
    assert rig.engine.allocations == 1
    rig.run(0.5)
    assert rig.engine.allocations == 0
    rig.check()


@pytest.mark.parametrize(("number", "host", "family"), [(stun.IPV4, V4, 4), (stun.IPV6, V6, 6)])
def test_either_family_may_be_asked_for(number: int, host: str, family: int) -> None:
    rig = Rig()
    ann = rig.client()
    assert address(ann.allocate(turn.family(number)), turn.XOR_RELAYED_ADDRESS).host == host
    assert rig.relays[ann.number].family == family


REFUSED = [
    ("no transport", Method.ALLOCATE, [], 400),
    ("TCP", Method.ALLOCATE, [turn.transport(6)], 442),
    ("a transport of 2 bytes", Method.ALLOCATE, [Attribute(turn.REQUESTED_TRANSPORT, b"\x11\0")], 400),
    ("a lifetime of 2 bytes", Method.ALLOCATE, [turn.transport(), Attribute(turn.LIFETIME, b"\0\0")], 400),
    ("an unknown family", Method.ALLOCATE, [turn.transport(), turn.family(3)], 440),
    ("two families", Method.ALLOCATE, [turn.transport(), turn.family(1), ADDITIONAL], 400),
    ("an even port and the one above", Method.ALLOCATE, [turn.transport(), EVEN], 508),
    ("an even port of no bytes", Method.ALLOCATE, [turn.transport(), Attribute(turn.EVEN_PORT, b"")], 400),
    ("a reservation", Method.ALLOCATE, [turn.transport(), TOKEN], 508),
    ("a reservation of an even port", Method.ALLOCATE, [turn.transport(), TOKEN, EVEN], 400),
    ("a reservation with a family", Method.ALLOCATE, [turn.transport(), TOKEN, turn.family(1)], 400),
    ("not to fragment", Method.ALLOCATE, [turn.transport(), Attribute(turn.DONT_FRAGMENT, b"")], 420),
    ("a refresh", Method.REFRESH, [], 437),
    ("a permission", Method.CREATE_PERMISSION, [], 437),
    ("a channel", Method.CHANNEL_BIND, [], 437),
]


@pytest.mark.parametrize(
    ("method", "attributes", "code"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_without_an_allocation_a_wrong_request_has_its_code(
    method: int, attributes: list[Attribute], code: int
) -> None:
    rig = Rig()
    assert code_of(rig.client().request(method, *attributes)) == code
    assert rig.relays == {}
    rig.check()


def test_an_even_port_alone_is_given() -> None:
    rig = Rig()
    ann = rig.client()
    assert code_of(ann.allocate(Attribute(turn.EVEN_PORT, b"\0"))) == 0
    assert rig.relays[ann.number].is_even
    assert not ready()[0].relays[1].is_even


def test_an_additional_family_alone_is_not_given_and_not_an_error() -> None:
    assert code_of(Rig().client().allocate(ADDITIONAL)) == 0


def test_a_family_this_node_does_not_relay_on_is_440() -> None:
    only_v6 = Rig(config(addresses=ADDRESSES[1:]))
    assert code_of(only_v6.client().allocate()) == 440
    assert code_of(only_v6.client().allocate(turn.family(stun.IPV6))) == 0


def test_a_second_allocation_on_a_5_tuple_is_437() -> None:
    rig, ann = ready()
    assert code_of(ann.allocate()) == 437
    rig.check()


def test_another_request_while_the_socket_is_under_way_is_437() -> None:
    rig = Rig()
    rig.opens = False
    ann = rig.client()
    ann.allocate()
    assert code_of(ann.allocate()) == 437
    assert [code_of(ann.refresh()), code_of(ann.permit("8.8.8.8"))] == [437, 437]
    rig.check()


def test_a_user_has_two_allocations_and_gets_one_back_for_one_that_ends() -> None:
    rig = Rig()
    clients = [rig.client(id="ann") for _ in range(3)]
    assert [code_of(each.allocate()) for each in clients] == [0, 0, 486]
    assert code_of(rig.client(id="bob").allocate()) == 0
    clients[0].refresh(0)
    assert code_of(clients[2].allocate()) == 0
    rig.check()


def test_a_full_node_is_508_and_charges_nobody() -> None:
    rig = Rig(config(allocations=1))
    ann, bob = rig.client(id="ann"), rig.client(id="bob")
    assert [code_of(ann.allocate()), code_of(bob.allocate())] == [0, 508]
    rig.check()
    ann.refresh(0)
    assert code_of(bob.allocate()) == 0


class Tight(OpenCompany):
    """A company in which everybody together may hold one allocation."""

    held = 0

    def charge(self, owner: Owner) -> str | None:
        if self.held:
            return None
        self.held += 1
        return "all"

    def release(self, holder: str) -> None:
        assert holder == "all"
        self.held -= 1


def test_an_issuer_that_holds_all_it_may_is_486_and_nobody_else_is_charged() -> None:
    company = Tight(config().turn)
    rig = Rig(company=company)
    ann, bob = rig.client(id="ann"), rig.client(id="bob")
    assert [code_of(ann.allocate()), code_of(bob.allocate())] == [0, 486]
    rig.check()
    ann.refresh(0)
    assert company.held == 0
    assert code_of(bob.allocate()) == 0


@pytest.mark.parametrize(("alternate", "code"), [("", 508), ("8.8.8.8:3478", 300), ("[2600:1::1]:3478", 300)])
def test_a_node_that_drains_names_another_if_it_knows_one(alternate: str, code: int) -> None:
    rig = Rig(config(alternate=alternate))
    rig.feed(te.Draining())
    answer = rig.client().allocate()
    assert code_of(answer) == code
    if code == 300:
        value = answer.get(stun.ALTERNATE_SERVER)
        assert stun.decode_address(value).port == 3478


def test_the_same_request_while_the_socket_is_under_way_waits_with_it() -> None:
    rig = Rig()
    rig.opens = False
    ann = rig.client()
    ann.allocate()
    assert ann.send(ann.sent) is None
    rig.feed(te.RelayFailed(ann.number, True))
    assert code_of(stun.parse(rig.answers[ann.via][-1])) == 508
    assert rig.engine.allocations == 0
    rig.check()


# ---------------------------------------------------------------- Refresh


def test_a_refresh_with_0_ends_everything_at_once() -> None:
    rig, ann = ready()
    ann.bind(0x4000, "8.8.8.8")
    number = ann.number
    assert seconds(ann.refresh(0)) == 0
    assert rig.relays == rig.permits == rig.channels == {}
    assert te.CloseRelay(number) in rig.outputs
    rig.check()


def test_a_refresh_for_another_family_is_443() -> None:
    _, ann = ready()
    assert code_of(ann.request(Method.REFRESH, turn.family(stun.IPV6))) == 443
    assert code_of(ann.request(Method.REFRESH, turn.family(7))) == 443
    answer = ann.request(Method.REFRESH, turn.family(stun.IPV4))
    assert answer is not None
    assert seconds(answer) == 600


def test_a_permission_ends_with_its_allocation_and_longer_with_a_refreshed_one() -> None:
    rig, ann = ready()
    rig.run(500.0)
    ann.permit("8.8.8.8")
    key = ann.number, bytes([8] * 4)
    assert rig.permits[key] == 600.0
    ann.refresh(600)
    assert rig.permits[key] == 800.0
    rig.check()


# ---------------------------------------------------------------- CreatePermission


def test_permissions_last_five_minutes_and_are_renewed() -> None:
    rig, ann = ready()
    assert code_of(ann.permit("8.8.8.8", "8.8.4.4", "8.8.8.8")) == 0
    assert sorted(rig.permits.values()) == [300.0, 300.0]
    rig.run(299.0)
    ann.permit("8.8.8.8")
    rig.run(1.0)
    assert list(rig.permits) == [(ann.number, bytes([8] * 4))]
    rig.run(299.0)
    assert rig.permits == {}
    rig.check()


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "224.0.0.1", V4, "0.0.0.0"])
def test_a_forbidden_peer_is_403_for_permission_and_channel_and_nothing_is_installed(host: str) -> None:
    rig, ann = ready()
    assert code_of(ann.permit(host)) == 403
    assert code_of(ann.permit("8.8.8.8", host)) == 403
    assert code_of(ann.bind(0x4000, host)) == 403
    assert rig.permits == rig.channels == {}
    rig.check()


def test_port_0_is_no_peer_of_a_channel() -> None:
    _, ann = ready()
    assert code_of(ann.bind(0x4000, "8.8.8.8", 0)) == 403
    assert code_of(ann.bind(0x4000, "8.8.8.8", 1)) == 0


def test_a_peer_of_the_other_family_is_443() -> None:
    _, ann = ready()
    assert code_of(ann.permit("2600:1::1")) == 443
    assert code_of(ann.bind(0x4000, "2600:1::1")) == 443


def test_ipv6_peers_of_an_ipv6_allocation_pass_and_mapped_ones_are_ipv4() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate(turn.family(stun.IPV6))
    assert code_of(ann.permit("2600:1::1")) == 0
    assert code_of(ann.permit("64:ff9b::808:808")) == 403
    mapped = Attribute(turn.XOR_PEER_ADDRESS, b"")
    transaction = ann.next_transaction()
    mapped = Attribute(
        turn.XOR_PEER_ADDRESS,
        stun._xored(b"\0\2\0\x09" + bytes(10) + b"\xff\xff\x08\x08\x08\x08", transaction),
    )
    assert code_of(ann.send(ann.written(Method.CREATE_PERMISSION, [mapped], transaction))) == 443


@pytest.mark.parametrize("value", [b"", bytes(8), bytes(20), b"\0\1\0\0\0\0\0\0\0"])
def test_a_peer_that_is_no_address_is_400(value: bytes) -> None:
    _, ann = ready()
    peer = Attribute(turn.XOR_PEER_ADDRESS, value)
    assert code_of(ann.request(Method.CREATE_PERMISSION, peer)) == 400
    assert code_of(ann.request(Method.CHANNEL_BIND, turn.channel_number(0x4000), peer)) == 400


def test_no_peer_at_all_is_400() -> None:
    _, ann = ready()
    assert code_of(ann.permit()) == 400


def test_permissions_have_a_ceiling_and_renewals_none() -> None:
    rig, ann = ready(Rig(config(permissions=2)))
    assert [code_of(ann.permit("8.8.8.1", "8.8.8.2")), code_of(ann.permit("8.8.8.3"))] == [0, 508]
    assert code_of(ann.bind(0x4000, "8.8.8.3")) == 508
    assert code_of(ann.permit("8.8.8.1", "8.8.8.2")) == 0
    assert code_of(ann.bind(0x4000, "8.8.8.1")) == 0
    rig.check()


# ---------------------------------------------------------------- ChannelBind


def test_a_channel_lasts_ten_minutes_and_installs_the_permission() -> None:
    rig, ann = ready()
    ann.refresh(3600)
    assert code_of(ann.bind(0x4000, "8.8.8.8")) == 0
    assert rig.channels == {(ann.number, 0x4000): (Address("8.8.8.8", 9), 600.0)}
    assert rig.permits == {(ann.number, bytes([8] * 4)): 300.0}
    rig.run(400.0)
    assert rig.permits == {}
    assert code_of(ann.bind(0x4000, "8.8.8.8")) == 0
    rig.run(600.0)
    assert rig.channels == {}
    rig.check()


def test_a_number_rests_five_minutes_before_another_peer_gets_it() -> None:
    rig, ann = ready()
    ann.refresh(3600)
    ann.bind(0x4000, "8.8.8.8")
    rig.run(600.0 + 299.0)
    assert code_of(ann.bind(0x4000, "8.8.4.4")) == 400
    assert code_of(ann.bind(0x4001, "8.8.8.8")) == 400
    rig.run(1.0)
    assert code_of(ann.bind(0x4000, "8.8.4.4")) == 0
    rig.check()


CLASHES = [
    ("a number below", 0x3FFF, "8.8.4.4", 400),
    ("a number above", 0x5000, "8.8.4.4", 400),
    ("0", 0, "8.8.4.4", 400),
    ("another peer", 0x4000, "8.8.4.4", 400),
    ("another number", 0x4001, "8.8.8.8", 400),
    ("the same", 0x4000, "8.8.8.8", 0),
    ("the last number", 0x4FFF, "8.8.4.4", 0),
]


@pytest.mark.parametrize(
    ("number", "host", "code"), [row[1:] for row in CLASHES], ids=[r[0] for r in CLASHES]
)
def test_a_channel_beside_another_has_its_code(number: int, host: str, code: int) -> None:
    rig, ann = ready()
    ann.bind(0x4000, "8.8.8.8")
    assert code_of(ann.bind(number, host)) == code
    rig.check()


def test_a_channel_without_number_or_peer_is_400() -> None:
    _, ann = ready()
    assert code_of(ann.request(Method.CHANNEL_BIND, turn.channel_number(0x4000))) == 400
    assert code_of(ann.request(Method.CHANNEL_BIND, ann.peer("8.8.8.8"))) == 400


def test_channels_have_a_ceiling() -> None:
    rig, ann = ready(Rig(config(channels=1)))
    codes = [code_of(ann.bind(0x4000, "8.8.8.8")), code_of(ann.bind(0x4001, "8.8.4.4"))]
    assert [*codes, code_of(ann.bind(0x4000, "8.8.8.8"))] == [0, 508, 0]
    rig.check()


# ---------------------------------------------------------------- one node, two relays


def test_two_people_who_relay_here_may_reach_each_other_and_nobody_himself() -> None:
    rig = Rig()
    ann, bob = rig.client(id="ann"), rig.client(id="bob")
    ann.allocate()
    assert code_of(ann.permit(V4)) == 403
    assert code_of(ann.bind(0x4000, V4, ann.relayed.port)) == 403
    bob.allocate()
    assert code_of(ann.permit(V4)) == 0
    assert code_of(ann.bind(0x4000, V4, bob.relayed.port)) == 0
    assert code_of(ann.bind(0x4001, V4, 3478)) == 403
    assert code_of(ann.bind(0x4001, ADDRESSES[0].bind, bob.relayed.port)) == 403
    rig.check()


def test_a_laboratory_may_use_private_peers() -> None:
    rig, ann = ready(Rig(changed(config(), lab_allow_private_peers=True)))
    assert code_of(ann.permit("192.168.1.1", "127.0.0.1")) == 0
    assert code_of(ann.permit("169.254.169.254")) == 403
    rig.check()
