"""Two nodes meet: each knows the other before anything is said, and a stranger learns nothing."""

import msgspec
import pytest

from golden import load
from relay.core.trunk_greeting import PATIENCE_S, Greeting, Identity, Stage
from relay.errors import ErrorCode, LocalError
from relay.protocol import control, trunk_control
from relay.protocol.messages import Bye, Challenge, Err, Join, Ok, Ping
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Greet
from relay.protocol.trunk_proof import pin_of

PROOF = load("trunk")["proof"]
N = bytes.fromhex(PROOF["n"])


def identity(node: str, seed: bytes, **changes) -> Identity:
    told = {"cluster": "demo", "region": "eu", "version": "1", "variants": ("control",), "boot": seed[:8]}
    return Identity(node=node, seed=seed, **{**told, **changes})


D = identity("fra-1", bytes.fromhex(PROOF["dialer_seed"]))
A = identity("iad-1", bytes.fromhex(PROOF["acceptor_seed"]))
PINS = {each.node: (pin_of(each.public),) for each in (D, A)}


def pair(d: Identity = D, a: Identity = A, pins=PINS) -> tuple[Greeting, Greeting]:
    """Both sides of a connection whose handshake is under way."""
    return Greeting(d, pins, 100.0, dialed="iad-1"), Greeting(a, pins, 100.0, nonce=N)


def carry(said, to: Greeting):
    """Give what one side said to the other, as bytes; what that one says."""
    answers = ()
    for message, id in said:
        frame = trunk_control.decode(control.encode_body(message, id))
        answers += to.on_frame(frame, 5, 1_750_000_000_000)
    return answers


def meet(dialer: Greeting, acceptor: Greeting, key: bytes | None = A.public) -> None:
    """All that is said, in turns."""
    acceptor.on_connected(None, 0)
    said = dialer.on_connected(key, 7)
    while said:
        said = carry(said, acceptor)
        said = carry(said, dialer)


def test_two_that_know_each_other_meet_in_one_round_trip_and_a_half():
    dialer, acceptor = pair()
    assert dialer.is_dialer
    assert not acceptor.is_dialer
    assert acceptor.on_connected(None, 0) == ()
    ping = dialer.on_connected(A.public, 7)
    assert ping == ((Ping(t=7), 1),)
    assert (dialer.state, acceptor.state) == (Stage.ASKING, Stage.LISTENING)
    challenge = carry(ping, acceptor)
    assert challenge == ((Challenge(n=N, t=5), 0),)
    assert acceptor.state is Stage.CHALLENGING
    proof = carry(challenge, dialer)
    assert dialer.state is Stage.PROVING
    assert proof[0][0].pop.hex() == PROOF["pop"]
    answer = carry(proof, acceptor)
    assert acceptor.state is Stage.MET
    assert (acceptor.peer.node, acceptor.peer.boot) == ("fra-1", D.boot)
    assert isinstance(answer[0][0], Greet)
    assert answer[0][0].key is answer[0][0].pop is None
    assert carry(answer, dialer) == ()
    assert dialer.state is Stage.MET
    assert (dialer.peer.node, dialer.peer.boot, dialer.peer.now) == ("iad-1", A.boot, 1_750_000_000_000)
    assert dialer.next_deadline() is acceptor.next_deadline() is None


def test_either_key_of_a_rotation_will_do():
    other = pin_of(N)
    pins = {node: (other, *known) for node, known in PINS.items()}
    dialer, acceptor = pair(pins=pins)
    meet(dialer, acceptor)
    assert dialer.state is acceptor.state is Stage.MET


@pytest.mark.parametrize("key", [None, D.public], ids=["none of Ed25519", "another"])
def test_the_dialer_says_nothing_to_who_has_another_key(key):
    dialer, _ = pair()
    assert dialer.on_connected(key, 7) == ()
    assert (dialer.state, dialer.code) == (Stage.REFUSED, TrunkCode.PEER_UNKNOWN)


def test_the_dialer_knows_no_node_without_a_pin():
    dialer, _ = pair(pins={})
    assert dialer.on_connected(A.public, 7) == ()
    assert dialer.code == TrunkCode.PEER_UNKNOWN


@pytest.mark.parametrize(
    "d",
    [
        identity("fra-1", N),
        identity("fra-2", D.seed),
        identity("iad-1", A.seed),
        identity("fra-1", D.seed, cluster="other"),
    ],
    ids=["another key", "another name", "our own name and key", "another cluster"],
)
def test_the_acceptor_says_nothing_to_a_stranger(d):
    dialer, acceptor = pair(d)
    meet(dialer, acceptor)
    assert (acceptor.state, acceptor.code) == (Stage.REFUSED, TrunkCode.PEER_UNKNOWN)
    assert dialer.state is Stage.PROVING
    assert acceptor.peer is None


def test_a_greet_without_proof_is_a_strangers():
    _, acceptor = pair()
    acceptor.on_connected(None, 0)
    carry(((Ping(t=1), 1),), acceptor)
    greet = Greeting(A, PINS, 0.0, nonce=N)._greet(0)
    assert carry(((msgspec.structs.replace(greet, node="fra-1"), 0),), acceptor) == ()
    assert acceptor.code == TrunkCode.PEER_UNKNOWN


def test_a_proof_for_one_node_is_worth_nothing_at_another():
    """Who was dialed may be bad: it cannot show what it was shown."""
    bad = identity("bad-1", N)
    pins = {**PINS, "bad-1": (pin_of(bad.public),)}
    dialer = Greeting(D, pins, 100.0, dialed="bad-1")
    victim = Greeting(A, pins, 100.0, nonce=N)
    victim.on_connected(None, 0)
    challenge = carry(dialer.on_connected(bad.public, 7), victim)
    assert carry(carry(challenge, dialer), victim) == ()
    assert victim.code == TrunkCode.PEER_UNKNOWN


@pytest.mark.parametrize("a", [identity("fra-1", A.seed), identity("iad-1", A.seed, cluster="other")])
def test_who_answers_with_another_name_or_cluster_is_not_whom_we_dialed(a):
    dialer, _ = pair()
    dialer.on_connected(A.public, 7)
    carry(((Challenge(n=N, t=0), 0),), dialer)
    greet = Greeting(a, PINS, 0.0, nonce=N)._greet(0)
    assert carry(((greet, 0),), dialer) == ()
    assert (dialer.state, dialer.code) == (Stage.REFUSED, TrunkCode.PEER_UNKNOWN)


def test_no_common_version_is_said_to_who_is_known():
    dialer, acceptor = pair()
    acceptor.on_connected(None, 0)
    ((greet, _),) = carry(carry(dialer.on_connected(A.public, 7), acceptor), dialer)
    assert carry(((msgspec.structs.replace(greet, v=(2, 3)), 0),), acceptor) == ()
    assert (acceptor.state, acceptor.code) == (Stage.REFUSED, ErrorCode.VERSION)


def test_a_later_version_beside_ours_is_no_matter():
    dialer, acceptor = pair()
    acceptor.on_connected(None, 0)
    ((greet, _),) = carry(carry(dialer.on_connected(A.public, 7), acceptor), dialer)
    assert carry(((msgspec.structs.replace(greet, v=(2, 1)), 0),), acceptor)
    assert acceptor.state is Stage.MET


def test_a_type_of_a_later_version_is_ignored_or_refused_if_it_wants_an_answer():
    _, acceptor = pair()
    acceptor.on_connected(None, 0)
    assert carry(((Join(c=bytes(16)), 0),), acceptor) == ()
    assert carry(((Join(c=bytes(16)), 9),), acceptor) == ((Err(code=ErrorCode.VERSION), 9),)
    assert acceptor.state is Stage.LISTENING


def test_what_is_out_of_turn_ends_it():
    dialer, acceptor = pair()
    acceptor.on_connected(None, 0)
    assert carry(((Ok(), 1),), acceptor) == ()
    assert (acceptor.state, acceptor.code) == (Stage.REFUSED, ErrorCode.PROTOCOL_VIOLATION)
    dialer.on_connected(A.public, 7)
    assert carry(((Ping(t=1), 1),), dialer) == ()
    assert dialer.code == ErrorCode.PROTOCOL_VIOLATION


def test_a_goodbye_ends_it_with_its_own_code():
    dialer, _ = pair()
    dialer.on_connected(A.public, 7)
    assert carry(((Bye(code=int(TrunkCode.GLARE)), 0),), dialer) == ()
    assert (dialer.state, dialer.code) == (Stage.REFUSED, TrunkCode.GLARE)


def test_patience_ends_after_five_seconds_wherever_it_stands():
    shaking, listening = pair()
    listening.on_connected(None, 0)
    for one in (shaking, listening):
        assert one.next_deadline() == 100.0 + PATIENCE_S
        one.on_timer(104.9)
        assert one.state is not Stage.REFUSED
        one.on_timer(105.0)
        assert (one.state, one.code) == (Stage.REFUSED, ErrorCode.AUTH_REQUIRED)
        assert one.next_deadline() is None
        one.on_timer(200.0)


@pytest.mark.parametrize("ways", [{}, {"dialed": "iad-1", "nonce": N}])
def test_a_greeting_has_one_side(ways):
    with pytest.raises(LocalError):
        Greeting(D, PINS, 0.0, **ways)


def test_no_seed_is_printed():
    assert D.seed.hex()[:8] not in repr(D)
    assert repr(D.seed) not in repr(D)
