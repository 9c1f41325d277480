"""The TURN engine as its clients see it: who is answered, with what and how much, and what comes twice."""

from __future__ import annotations

import pytest

from relay.core import turn_events as te
from relay.core.events import CompanyChanged
from relay.core.turn import FAREWELL_S, MAX_FAREWELLS
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.ids import CallId
from relay.protocol.stun import Attribute, Class
from relay.protocol.turn import Method
from turnrig import Rig, changed, code_of, config

REFUSAL = 56  # bytes, as docs/security.md says


# ---------------------------------------------------------------- whom it answers


@pytest.mark.parametrize(
    ("method", "cls"),
    [(Method.SEND, Class.INDICATION), (Method.DATA, Class.INDICATION), (Method.ALLOCATE, Class.SUCCESS),
     (Method.ALLOCATE, Class.ERROR), (Method.BINDING, Class.SUCCESS), (Method.BINDING, Class.INDICATION),
     (Method.SEND, Class.REQUEST), (0x00A, Class.REQUEST), (0xFFF, Class.REQUEST)],
)  # fmt: skip
def test_only_requests_that_exist_are_answered(method: int, cls: Class) -> None:
    rig = Rig(config(open_binding=True))
    assert rig.client().bare(method, turn.transport(), cls=cls) is None
    assert rig.outputs == []
    assert sum(n for (name, _), n in rig.engine.counters.items() if name == "turn_ignored") == 1


def test_noise_is_counted_and_not_answered() -> None:
    rig = Rig()
    assert rig.client().send(b"\0\3\0\1noise") is None
    assert rig.engine.counters == {("turn_dropped", "malformed"): 1}


def test_two_engines_that_hear_each_other_fall_silent() -> None:
    one, two = Rig(config(open_binding=True)), Rig(config(open_binding=True))
    ann = one.client()
    ann.bare(Method.BINDING)
    answer = one.answers[ann.via][-1]
    bob = two.client()
    assert bob.send(answer) is None
    assert ann.send(answer) is None


def test_a_node_without_turn_answers_no_request() -> None:
    rig = Rig(changed(config(), enabled=False))
    assert rig.client().bare(Method.ALLOCATE, turn.transport()) is None


# ---------------------------------------------------------------- how much


def test_the_refusal_of_a_stranger_has_56_bytes() -> None:
    rig = Rig()
    ann = rig.client()
    answer = ann.bare(Method.ALLOCATE, turn.transport())
    assert answer is not None
    assert len(answer.raw) == REFUSAL == 2 * len(ann.sent)
    assert [type for type, _ in answer.attributes] == [stun.ERROR_CODE, stun.REALM, stun.NONCE]
    assert [len(value) for _, value in answer.attributes] == [4, 4, 16]
    assert not answer.guards


SIZES = [
    # request, FINGERPRINT, greatest answer in bytes per byte asked; 0 is silence
    ("allocate", False, 2.0), ("allocate", True, 2.0), ("refresh", False, 2.0), ("refresh", True, 2.0),
    ("empty", False, 0), ("empty", True, 0), ("unknown", False, 2.0), ("binding", False, 1.6),
    ("binding", True, 1.5), ("binding_unknown", False, 0), ("binding_padded", False, 1.0),
    ("no_user", False, 1.0), ("noise", False, 0),
]  # fmt: skip


@pytest.mark.parametrize(("what", "fingerprint", "bound"), SIZES, ids=[f"{a}-{b}" for a, b, _ in SIZES])
@pytest.mark.parametrize("client", [Address("7.7.7.7", 7), Address("2600:7::7", 7)], ids=["v4", "v6"])
def test_what_a_forged_source_gets_is_within_the_exceptions(
    what: str, fingerprint: bool, bound: float, client: Address
) -> None:
    rig = Rig(config(open_binding=True))
    ann = rig.client(client=client)
    ann.fingerprint = fingerprint
    long = [Attribute(0x7000 + each, b"") for each in range(9)]
    requests: dict[str, tuple[int, list[Attribute]]] = {
        "allocate": (Method.ALLOCATE, [turn.transport()]),
        "refresh": (Method.REFRESH, [turn.lifetime(0)]),
        "empty": (Method.CREATE_PERMISSION, []),
        "unknown": (Method.ALLOCATE, [turn.transport(), *long]),
        "binding": (Method.BINDING, []),
        "binding_unknown": (Method.BINDING, long[:1]),
        "binding_padded": (Method.BINDING, [Attribute(stun.SOFTWARE, bytes(40))]),
        "no_user": (0, []),
        "noise": (0, []),
    }
    method, attributes = requests[what]
    if what == "no_user":
        ann.send(stun.build(3, Class.REQUEST, bytes(12), key=b"x"))
    elif what == "noise":
        ann.send(bytes(28))
    else:
        ann.bare(method, *attributes)
    answers = rig.answers.get(ann.via, [])
    total = sum(map(len, answers))
    if what == "binding" and client.host.count(":"):
        bound = 2.2
    assert total <= bound * len(ann.sent) + 1e-9, (total, len(ann.sent))
    assert bool(answers) == bool(bound)


def test_a_source_and_all_sources_have_budgets() -> None:
    rig = Rig(config(unproven_per_source_per_s=10, unproven_per_s=30))
    ann = rig.client()
    for _ in range(50):
        ann.bare(Method.ALLOCATE, turn.transport())
    assert len(rig.answers[ann.via]) == 10
    for _ in range(60):
        rig.client().bare(Method.ALLOCATE, turn.transport())
    assert sum(map(len, rig.answers.values())) == 30
    assert rig.engine.counters["turn_dropped", "over_budget"] == 80
    rig.run(1.0)
    assert ann.bare(Method.ALLOCATE, turn.transport()) is not None


def test_a_flood_from_100000_sources_leaves_no_state() -> None:
    rig = Rig(config(unproven_per_s=1))
    request = stun.build(3, Class.REQUEST, bytes(12), [turn.transport()])
    for number in range(100_000):
        host = f"{number >> 16 | 16}.{number >> 8 & 255}.{number & 255}.1"
        rig.engine.handle(te.ClientPacket(te.Via("udp", Address(host, 9), 1), request), 0.0, 0.0)
    assert len(rig.engine.relays.outputs) == 1
    assert (rig.engine.allocations, len(rig.engine._farewells)) == (0, 0)


def test_a_stream_is_told_of_sha256_and_has_no_budget() -> None:
    rig = Rig()
    ann = rig.client(transport="tcp")
    for _ in range(50):
        answer = ann.bare(Method.ALLOCATE, turn.transport())
        assert answer is not None
        assert answer.get(stun.PASSWORD_ALGORITHMS) is not None
    assert ann.bare(Method.CREATE_PERMISSION) is not None


def test_a_long_request_over_udp_is_told_of_sha256_for_no_more_than_it_is() -> None:
    rig = Rig()
    ann = rig.client()
    answer = ann.bare(Method.ALLOCATE, turn.transport(), Attribute(stun.SOFTWARE, bytes(60)))
    assert answer is not None
    assert answer.get(stun.PASSWORD_ALGORITHMS) is not None
    assert len(answer.raw) <= len(ann.sent)


# ---------------------------------------------------------------- Binding


def test_a_bare_binding_is_answered_where_the_operator_wants_it() -> None:
    rig = Rig(config(open_binding=True))
    ann = rig.client()
    answer = ann.bare(Method.BINDING)
    assert answer is not None
    mapped = answer.get(stun.XOR_MAPPED_ADDRESS)
    assert mapped is not None
    assert stun.decode_xor_address(mapped, answer.transaction) == ann.via.client
    assert len(answer.raw) == 32


def test_elsewhere_a_binding_is_answered_to_holders_of_an_allocation_and_on_streams() -> None:
    rig = Rig()
    ann, bob = rig.client(), rig.client(transport="tls")
    assert ann.bare(Method.BINDING) is None
    ann.allocate()
    assert ann.bare(Method.BINDING) is not None
    assert bob.bare(Method.BINDING) is not None
    assert code_of(bob.bare(Method.BINDING, Attribute(0x7000, b""))) == 420


def test_a_binding_that_must_be_refused_is_refused_for_no_more_than_it_is() -> None:
    rig = Rig(config(open_binding=True))
    ann = rig.client()
    assert ann.bare(Method.BINDING, Attribute(0x7000, b"")) is None
    answer = ann.bare(Method.BINDING, Attribute(0x7000, bytes(16)))
    assert code_of(answer) == 420
    assert answer is not None
    assert answer.get(stun.UNKNOWN_ATTRIBUTES) == b"\x70\0"
    assert rig.engine.counters["turn_dropped", "unproven"] == 1


def test_an_attribute_that_cannot_be_read_is_400_to_who_is_known() -> None:
    rig = Rig()
    ann = rig.client()
    assert code_of(ann.request(Method.ALLOCATE, Attribute(turn.REQUESTED_TRANSPORT, b"\x11"))) == 400
    assert code_of(ann.request(Method.ALLOCATE, turn.transport(), Attribute(turn.LIFETIME, b""))) == 400
    assert rig.engine.allocations == 0


# ---------------------------------------------------------------- twice the same


def test_a_request_that_comes_twice_gets_the_same_answer() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    first = rig.answers[ann.via][-1]
    assert ann.send(ann.sent) is not None
    assert rig.answers[ann.via][-1] == first
    rig.run(10.0)
    ann.refresh(900)
    first = rig.answers[ann.via][-1]
    ann.send(ann.sent)
    assert rig.answers[ann.via][-1] == first
    assert rig.engine.counters["turn_repeated", ""] == 2
    assert rig.engine.allocations == 1


def test_an_allocate_that_comes_again_before_its_socket_waits_for_one_answer() -> None:
    rig = Rig()
    rig.opens = False
    ann = rig.client()
    assert ann.allocate() is None
    assert ann.send(ann.sent) is None
    rig.open(ann.number)
    assert code_of(stun.parse(rig.answers[ann.via][-1])) == 0
    assert len(rig.answers[ann.via]) == 2  # the challenge, and this
    rig.check()


def test_a_refresh_to_0_that_comes_again_is_still_a_success_for_a_while() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    assert code_of(ann.refresh(0)) == 0
    again = ann.sent
    assert code_of(ann.send(again)) == 0
    rig.run(FAREWELL_S - 1)
    assert code_of(ann.send(again)) == 0
    rig.run(1.0)
    assert code_of(ann.send(again)) == 437
    assert not rig.engine._farewells
    rig.check()


def test_a_farewell_is_for_who_said_it() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    ann.refresh(0)
    eve = rig.client(client=ann.via.client, id="eve")
    eve.realm, eve.nonce = ann.realm, ann.nonce
    again = eve.written(Method.REFRESH, [turn.lifetime(0)], stun.parse(ann.sent).transaction)
    assert code_of(eve.send(again)) == 437


def test_farewells_are_bounded() -> None:
    rig = Rig()
    ann = rig.client()
    for _ in range(MAX_FAREWELLS + 5):
        ann.allocate()
        ann.refresh(0)
    assert len(rig.engine._farewells) == MAX_FAREWELLS


def test_somebody_elses_request_is_not_taken_for_a_repetition() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    eve = rig.client(client=ann.via.client, id="eve")
    eve.realm, eve.nonce = ann.realm, ann.nonce
    transaction = stun.parse(ann.sent).transaction
    answer = eve.send(eve.written(Method.REFRESH, [turn.lifetime(0)], transaction))
    assert code_of(answer) == 441
    assert rig.engine.allocations == 1


# ---------------------------------------------------------------- sockets that come, or do not


@pytest.mark.parametrize(("is_full", "code"), [(True, 508), (False, 500)])
def test_a_socket_that_cannot_be_had_is_told(is_full: bool, code: int) -> None:
    rig = Rig()
    rig.opens = False
    ann = rig.client()
    ann.allocate()
    rig.feed(te.RelayFailed(ann.number, is_full))
    assert code_of(stun.parse(rig.answers[ann.via][-1])) == code
    assert rig.engine.allocations == 0
    rig.check()


def test_a_socket_that_never_comes_is_not_waited_for() -> None:
    rig = Rig()
    rig.opens = False
    ann = rig.client()
    ann.allocate()
    number = ann.number
    rig.run(5.0)
    assert rig.engine.allocations == 0
    assert rig.outputs[-1] == te.CloseRelay(number)
    for late in (te.RelayOpened(number, Address("10.0.0.9", 50000)), te.RelayFailed(number, True)):
        rig.feed(late)
    assert rig.outputs[-1] == te.CloseRelay(number)
    rig.check()


def test_what_is_said_of_a_live_allocation_again_changes_nothing() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    before = len(rig.outputs)
    rig.feed(te.RelayFailed(ann.number, True))
    rig.feed(te.RelayOpened(ann.number, Address("10.0.0.9", 1)))
    assert len(rig.outputs) == before
    rig.check()


def test_a_stream_that_ends_takes_its_allocation_with_it() -> None:
    rig = Rig()
    ann = rig.client(transport="tls")
    ann.allocate()
    rig.feed(te.ClientGone(ann.via))
    rig.feed(te.ClientGone(ann.via))
    assert (rig.engine.allocations, rig.relays) == (0, {})
    rig.check()


# ---------------------------------------------------------------- settings


def test_a_draining_node_makes_no_allocations_and_keeps_those_it_has() -> None:
    rig = Rig()
    ann, bob = rig.client(), rig.client()
    ann.allocate()
    rig.feed(te.Draining())
    assert code_of(bob.allocate()) == 508
    assert code_of(ann.refresh()) == 0


def test_a_reload_changes_limits_and_secrets_and_leaves_what_runs() -> None:
    rig = Rig()
    ann, bob = rig.client(), rig.client(id="bob")
    ann.allocate()
    rig.feed(te.TurnChanged(changed(rig.config, allocations=1), te.TurnKeys.of([bytes(32)], [b"another"])))
    assert code_of(ann.refresh()) == 0
    bob.challenged()
    assert code_of(bob.allocate()) == 401
    rig.keys = te.TurnKeys.of([bytes(32)], [b"another"])
    assert code_of(rig.client(id="bob").allocate()) == 508


def test_a_clock_that_steps_back_stands_still() -> None:
    rig = Rig()
    ann = rig.client()
    rig.run(100.0)
    ann.allocate()
    rig.now = 0.0
    assert code_of(ann.refresh()) == 0
    assert rig.engine.next_deadline() == 700.0


def test_a_company_that_changed_is_looked_at_again() -> None:
    rig = Rig()
    rig.feed(CompanyChanged(CallId(bytes(16))))  # nobody of that call is here
    assert rig.outputs == []
