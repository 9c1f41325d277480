import dataclasses

import pytest

import standing
from pair import ISSUER, KEY, PUBLIC, Client, Two, World, config
from relay.config import ClientLists, LimitsConfig
from relay.core import events as ev
from relay.core.door import client_of
from relay.core.handover import seal
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.ids import Jti, Sub
from tenancy import ALICE, BERT, caller, issuer, world_of
from trunkrig import Net


@pytest.fixture
def world() -> World:
    return World()


def opened(world: World, **changes) -> Client:
    return world.client(world.call().token(**changes)).open()


def test_a_hello_is_answered_with_what_the_leg_may_use(world):
    ann = opened(world, lim=(64, 4096, 120, 2))
    welcome = ann.hello(cli=control.Cli(sdk="py", os="plan9"))
    assert (welcome.v, welcome.dg, welcome.ka, welcome.node) == (1, 1024, 5, "relay-1")
    assert welcome.lim == control.Limits(up=64, dn=4096, pps=120)
    assert welcome.obs == ("192.0.2.2", 4000)
    assert welcome.now == round(world.wall * 1000)
    assert ev.SetBudget(ann.leg, 64_000, 4_096_000, 120) in world.outputs
    assert world.engine.counters["client_sdk", "py"] == 1
    assert world.engine.counters["client_os", "other"] == 1


def test_words_about_the_client_come_from_the_operators_lists():
    said = control.Cli(sdk="web", app="evil\n", os="", dev="phone")
    assert client_of(said, ClientLists()) == {"sdk": "web", "app": "other", "os": "other", "dev": "phone"}


def test_a_transport_without_datagrams_is_closed_at_once(world):
    ann = world.client(world.call().token()).open(datagrams=False)
    assert ann.closed is ErrorCode.DATAGRAM_REQUIRED


def test_one_leg_too_many_is_closed_as_overload_and_a_place_is_free_again_after_one_left():
    world = World(config(limits=LimitsConfig(legs=1)))
    first, second = opened(world), opened(world)
    assert (first.closed, second.closed) == (None, ErrorCode.OVERLOADED)
    first.lose()
    assert opened(world).closed is None
    world.check()


def test_a_closing_node_takes_no_transport(world):
    ann, _ = world.talking()
    for _ in range(3):
        world.feed(ev.DrainRequested())
    assert opened(world).closed is ErrorCode.DRAINING
    assert ann.closed is ErrorCode.DRAIN_TIMEOUT


def test_who_is_silent_for_five_seconds_is_closed(world):
    ann = opened(world)
    world.run(4.99)
    assert ann.closed is None
    world.run(0.01)
    assert ann.closed is ErrorCode.AUTH_REQUIRED


def test_a_challenge_is_signed_with_the_tokens_key(world):
    assert isinstance(opened(world, key=True).hello(), control.Welcome)
    assert opened(world, key=True).hello(key=bytes(32)).code == ErrorCode.POP_FAILED


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"v": (2,)}, ErrorCode.VERSION),
        ({"leg": "ws"}, ErrorCode.PROTOCOL_VIOLATION),
        ({"tok": None}, ErrorCode.AUTH_REQUIRED),
        ({"tok": b"junk"}, ErrorCode.TOKEN_INVALID),
        ({"tok": None, "resume": bytes(90)}, ErrorCode.RESUME_UNKNOWN),
    ],
)
def test_a_bad_hello_closes_with_its_code(world, changes, code):
    ann = opened(world)
    answer = ann.hello(**changes)
    assert (answer.code, answer.fatal, ann.closed) == (code, True, code)


def test_a_tcp_leg_needs_the_tokens_leave(world):
    ids = world.call()
    assert world.client(ids.token(), "ws").open().hello().code == ErrorCode.TRANSPORT_DENIED
    assert isinstance(world.client(ids.token(net=2), "ws").open().hello(), control.Welcome)


def test_an_admitted_leg_must_join_while_its_token_lives(world):
    ann = opened(world)
    ann.hello()
    world.wall -= 3600  # a clock that jumps back does not stretch it
    world.run(149.9)
    assert ann.closed is None
    world.run(0.1)
    assert ann.closed is ErrorCode.TOKEN_EXPIRED


# ---------------------------------------------------------------- tickets


def test_a_ticket_with_the_devices_proof_lets_back_in(world):
    ann, _ = world.talking(key=True)
    ann.lose()
    again = ann.resume()
    assert isinstance(again.got[-1], control.Welcome)
    assert isinstance(again.rejoin(), control.Joined)


def test_a_ticket_without_its_key_is_no_credential(world):
    ann, _ = world.talking(key=True)
    ann.lose()
    assert ann.resume(key=bytes(32)).closed is ErrorCode.POP_FAILED


def test_a_ticket_without_a_key_in_it_needs_a_fresh_token_of_the_same_person(world):
    ids = world.call()
    sub = Sub(b"s" * 16)
    ann = world.client(ids.token(sub=sub)).enter()
    ann.lose()
    assert ann.resume().closed is ErrorCode.AUTH_REQUIRED
    assert ann.resume(raw=ids.token()).closed is ErrorCode.RESUME_UNKNOWN
    assert ann.resume(raw=ids.token(sub=sub, key=True)).closed is ErrorCode.POP_FAILED
    again = ann.resume(raw=ids.token(sub=sub))
    assert isinstance(again.rejoin(), control.Joined)


def test_a_ticket_on_a_tcp_leg_needs_the_same_leave_as_a_token(world):
    ann, _ = world.pair(key=True)
    ann.lose()
    again = Client(world, ann.raw, "ws").open()
    again.send(control.Ping(t=1))
    pop = token.pop_sign(KEY, again.last(control.Challenge).n, ann.sub, ann.cid)
    again.ask(control.Hello(resume=ann.ticket, pop=pop, leg="ws"))
    assert again.closed is ErrorCode.TRANSPORT_DENIED


def test_an_old_ticket_is_unknown(world):
    ann, bob = world.talking(key=True)
    ann.lose()
    world.wall += 91
    assert ann.resume().closed is ErrorCode.RESUME_UNKNOWN
    assert bob.closed is None


def test_a_ticket_for_a_call_that_is_over_says_so(world):
    ann, bob = world.talking(key=True)
    bob.hangup()
    assert ann.resume().closed is ErrorCode.CALL_ENDED


def test_a_ticket_of_somebody_who_was_removed_says_so(world):
    group = {"key": True, "lim": (512, 512, 500, 3)}
    ann, bob = world.talking(**group)
    assert world.command("remove", cid=ann.cid, sub=ann.sub) is ErrorCode.NO_ERROR
    assert ann.resume().closed is ErrorCode.REMOVED
    assert bob.closed is None


def test_a_ticket_for_a_call_this_node_never_had_is_unknown(world):
    ann, _ = world.talking(key=True)
    elsewhere = World(seed=2)
    twin = Client(elsewhere, ann.raw).open()
    twin.send(control.Ping(t=1))
    pop = token.pop_sign(KEY, twin.last(control.Challenge).n, ann.sub, ann.cid)
    twin.ask(control.Hello(resume=ann.ticket, pop=pop))
    assert twin.closed is ErrorCode.RESUME_UNKNOWN


def test_a_ticket_of_somebody_who_left_a_group_is_unknown(world):
    ann, bob = world.talking(key=True, lim=(512, 512, 500, 3))
    ann.hangup()
    assert ann.resume().closed is ErrorCode.RESUME_UNKNOWN
    assert bob.closed is None


# ---------------------------------------------------------------- a newer token


def test_a_newer_token_changes_rights_and_budget(world):
    ann, bob = world.talking()
    assert ann.claims is not None
    assert ann.speak() is None
    newer = dataclasses.replace(ann.claims, jti=Jti(b"j" * 16), prm=6, lim=(32, 32, 60, 2))
    assert isinstance(ann.ask(control.TokenUpdate(tok=token.mint(newer, ISSUER))), control.Ok)
    assert ev.SetBudget(ann.leg, 32_000, 32_000, 60) in world.outputs
    assert ann.speak() == "gate_closed"
    assert bob.speak() is None


def test_a_leg_that_proved_its_key_needs_no_second_proof(world):
    ann, _ = world.talking(key=True)
    assert ann.claims is not None
    newer = dataclasses.replace(ann.claims, jti=Jti(b"j" * 16))
    assert isinstance(ann.ask(control.TokenUpdate(tok=token.mint(newer, ISSUER))), control.Ok)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sub": Sub(bytes(16)), "jti": Jti(b"j" * 16)}, ErrorCode.FORBIDDEN),
        ({"lim": (512, 512, 500, 5), "jti": Jti(b"j" * 16)}, ErrorCode.FORBIDDEN),
        ({}, ErrorCode.TOKEN_REPLAYED),
        ({"aud": "x"}, ErrorCode.TOKEN_AUDIENCE),
    ],
)
def test_a_newer_token_that_does_not_fit_changes_nothing(world, changes, code):
    ann, _ = world.talking()
    assert ann.claims is not None
    newer = token.mint(dataclasses.replace(ann.claims, **changes), ISSUER)
    answer = ann.ask(control.TokenUpdate(tok=newer))
    assert (answer.code, answer.fatal, ann.closed) == (code, False, None)
    assert ann.speak() is None


def test_a_leg_that_has_not_joined_may_wait_as_long_as_its_newest_token_lives(world):
    ann = opened(world)
    ann.hello()
    assert ann.claims is not None
    newer = dataclasses.replace(ann.claims, jti=Jti(b"j" * 16), exp=ann.claims.exp + 100)
    assert isinstance(ann.ask(control.TokenUpdate(tok=token.mint(newer, ISSUER))), control.Ok)
    world.run(200)
    assert isinstance(ann.join(), control.Joined)


@pytest.fixture
def two() -> Two:
    return Two(World(), World(seed=2))


def handed(two: Two, one: Client, is_nobodys: bool = False) -> bytes:
    node = two.old.engine.node
    call = node.calls[one.cid]
    blob = seal(node, call, None if is_nobodys else call.seats[one.index])
    assert blob is not None
    return blob


def test_a_ticket_of_another_node_lets_its_owner_in_with_the_rights_it_names(two):
    ann, _ = two.old.talking(key=True)
    again = two.go(ann, handed(two, ann))
    assert again.closed is None
    assert again.last(control.Welcome).lim.up == 512
    assert two.new.engine.calls == 0, "nothing is taken up before the rejoin"


def test_where_the_place_is_known_its_own_rights_count(two):
    ann, _ = two.old.talking(key=True)
    two.tell()
    assert two.go(ann, handed(two, ann)).closed is None


def test_a_ticket_of_another_node_that_is_nobodys_opens_nothing(two):
    ann, _ = two.old.talking(key=True)
    assert two.go(ann, handed(two, ann, is_nobodys=True)).closed is ErrorCode.RESUME_UNKNOWN


def test_a_token_of_another_tenant_beside_a_ticket_resumes_nothing():
    world = world_of(issuer("a", ALICE, apart=True), issuer("b", BERT, apart=True))
    ann = caller(world, ALICE)
    claims = world.call(ann.cid).claims(sub=ann.sub)
    assert ann.resume(token.mint(claims, BERT)).closed is ErrorCode.RESUME_UNKNOWN
    assert ann.resume(token.mint(claims, ALICE)).closed is None


# ---------------------------------------------------------------- calls of other nodes


def test_a_call_whose_home_is_another_node_is_refused_with_the_way_there(world):
    world.engine._door.urls_of = {"fra-1": ("quic://fra-1.example:443",)}.__getitem__
    client = world.client(world.call().token(home="fra-1")).open()
    answer = client.hello()
    assert (answer.code, answer.fatal, client.closed) == (ErrorCode.MOVED, True, ErrorCode.MOVED)
    assert answer.data == {"node": "fra-1", "to": ["quic://fra-1.example:443"]}
    assert world.engine.spent_tokens == 0
    world.check()


def test_a_call_whose_home_is_this_node_is_like_any_other(world):
    client = world.client(world.call().token(home=world.config.node.id)).enter()
    assert client.joined.p == 0


def test_a_call_that_is_here_stays_here_whatever_a_later_token_says(world):
    ids = world.call()
    world.client(ids.token()).enter()
    assert world.client(ids.token(home="fra-1")).enter().joined.p == 1


def test_a_call_that_comes_by_ticket_is_this_nodes_whatever_a_token_beside_it_says(two):
    ann, _ = two.old.talking(key=True)
    raw = two.new.call(ann.cid).token(sub=ann.sub, key=True, home="fra-1")
    again = two.new.client(raw).open()
    assert isinstance(again.hello(resume=handed(two, ann)), control.Welcome)


def test_a_ticket_alone_lets_back_in_who_was_here_for_another_nodes_call():
    net = Net("a", "b")
    _, bob = net.talking("a", "a", "b", key=True)
    bob.lose()
    assert isinstance(bob.resume().got[-1], control.Welcome)
    net["b"].engine._admission.revoked_keys.add(token.kid_of(PUBLIC))
    assert bob.resume().closed is ErrorCode.TOKEN_INVALID


def test_a_leg_that_stood_by_has_the_rights_of_the_ticket_that_calls_it(two):
    ann, bob = two.old.talking(key=True)
    legs = [standing.stand(two, one) for one in (ann, bob)]
    call = two.old.engine.node.calls[ann.cid]
    seat = call.seats[ann.index]
    seat.claims = dataclasses.replace(seat.claims, lim=(32, 32, 50, 2), iat=seat.claims.iat + 1)
    assert isinstance(legs[0].rejoin(standing.ticket(two, ann)), control.Joined)
    assert isinstance(legs[1].rejoin(standing.ticket(two, bob)), control.Joined)
    assert two.new.engine.node.legs[legs[0].leg].claims.lim == (32, 32, 50, 2)


def test_a_leg_that_stood_by_is_not_called_by_the_ticket_of_another_device(two):
    ann, _ = two.old.talking(key=True)
    leg = standing.stand(two, ann)
    seat = two.old.engine.node.calls[ann.cid].seats[ann.index]
    seat.claims = dataclasses.replace(seat.claims, cnf=bytes(32))
    assert leg.rejoin(standing.ticket(two, ann)).code == ErrorCode.RESUME_UNKNOWN


def test_only_a_hand_over_ticket_stands_by(two):
    ann, _ = two.new.talking(key=True)
    assert standing.stand(two, ann, ann.ticket).closed is ErrorCode.PROTOCOL_VIOLATION
