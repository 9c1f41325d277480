"""Hostile words: what the engine must answer to each message, and what it must drop without a word.

    Said      messages of a leg in a certain state     -> error code, and whether it ends the leg
    Waited    a leg that lets time pass                -> close code
    Passing   control datagrams                        -> drop reason
    Spoken    media of a leg, through engine and lane  -> drop reason

Must never live here: tokens, tickets and commands (table_admission.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from pair import Client, World, config
from relay.config import LimitsConfig
from relay.core import events
from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol import control, datagram, token
from relay.rollout.lastgood import Offer, Serving
from relay.rollout.mandate import Mandate

E, D = ErrorCode, DropReason
OTHER_CALL = b"\xee" * 16


class Cast(NamedTuple):
    """Who is on stage. `eve` does what a row says; the others did as they should."""

    world: World
    eve: Client
    bob: Client
    carol: Client


Words = bytes | control.Message | Callable[[Cast], control.Message]


# ---------------------------------------------------------------- states


def _cast(people: int = 2, settings: World | None = None, **claims: object) -> Cast:
    world = settings or World()
    ids = world.call()
    size = 2 if people < 3 else 4
    lim = (512, 512, 500, size)
    first = [world.client(ids.token(**{"lim": lim} | claims)) for _ in range(3)]
    return Cast(world, *first)


def opened() -> Cast:
    """Eve's handshake is done, nothing was said."""
    cast = _cast()
    cast.eve.open()
    return cast


def challenged() -> Cast:
    """Eve has a nonce."""
    cast = opened()
    cast.eve.send(control.Ping(t=1))
    return cast


def ready() -> Cast:
    """Eve's token was taken."""
    cast = opened()
    cast.eve.hello()
    return cast


def joined(**claims: object) -> Cast:
    """Eve and Bob are in a call, nobody has accepted."""
    cast = _cast(**claims)
    cast.eve.enter()
    cast.bob.enter()
    return cast


def strangers() -> Cast:
    """They do not know each other, but both accepted."""
    cast = joined(ctc=0)
    cast.eve.accept()
    cast.bob.accept()
    return cast


def without_e2e() -> Cast:
    """Their tokens allow no end-to-end messages."""
    return joined(prm=token.MAY_SEND | token.MAY_RECEIVE)


def accepted_by_bob() -> Cast:
    """Only Bob accepted."""
    cast = joined()
    cast.bob.accept()
    return cast


def talking() -> Cast:
    """Eve and Bob talk."""
    cast = accepted_by_bob()
    cast.eve.accept()
    return cast


def group() -> Cast:
    """Three talk; none of them is a moderator."""
    cast = _cast(3)
    for one in (cast.eve, cast.bob, cast.carol):
        one.enter()
        one.accept()
    return cast


def hosting() -> Cast:
    """Eve is the host of a call with Bob."""
    return joined(rol=token.ROLE_HOST)


def silenced() -> Cast:
    """Carol, who may, has muted Eve."""
    cast = _cast(3)
    moderator = cast.world.client(
        cast.world.call(cast.eve.cid).token(rol=token.ROLE_HOST, lim=(64, 64, 50, 4))
    )
    for one in (cast.eve, cast.bob, moderator):
        one.enter()
        one.accept()
    moderator.mute(True, p=cast.eve.index, hard=True)
    return cast


def over() -> Cast:
    """Bob has hung up; Eve may say a last word."""
    cast = talking()
    cast.bob.hangup()
    return cast


def crowded() -> Cast:
    """A call of two has two; Eve has a token for it too."""
    cast = _cast()
    cast.bob.enter()
    cast.carol.enter()
    cast.eve.open()
    cast.eve.hello()
    return cast


def fifth_device() -> Cast:
    """Four devices of Eve ring."""
    cast = _cast()
    ids = cast.world.call(cast.eve.cid)
    for _ in range(4):
        cast.world.client(ids.token(sub=cast.eve.sub)).enter()
    cast.eve.open()
    cast.eve.hello()
    return cast


def other_size() -> Cast:
    """The call is for two; Eve's token says four."""
    cast = _cast()
    cast.bob.enter()
    eve = cast.world.client(cast.world.call(cast.bob.cid).token(lim=(64, 64, 50, 4)))
    eve.open()
    eve.hello()
    return cast._replace(eve=eve)


def uninvited(**claims: object) -> Cast:
    """Bob's token, or Eve's, names the people it may meet, and they do not meet."""
    cast = _cast()
    bob = cast.world.client(cast.world.call(cast.eve.cid).token(peer=(cast.carol.sub,)))
    bob.enter()
    cast.eve.open()
    cast.eve.hello()
    return cast._replace(bob=bob)


def too_young_for_strangers() -> Cast:
    """Eve is 17 and Bob is no contact of hers."""
    cast = _cast()
    bob = cast.world.client(cast.world.call(cast.eve.cid).token(ctc=0))
    eve = cast.world.client(cast.world.call(cast.eve.cid).token(age=token.AGE_16_17))
    bob.enter()
    eve.open()
    eve.hello()
    return cast._replace(eve=eve, bob=bob)


def removed() -> Cast:
    """Eve was thrown out and comes again."""
    cast = group()
    cast.world.command("remove", cid=cast.eve.cid, sub=cast.eve.sub)
    eve = cast.world.client(cast.world.call(cast.bob.cid).token(sub=cast.eve.sub, lim=(512, 512, 500, 4)))
    eve.open()
    eve.hello()
    return cast._replace(eve=eve)


def ended() -> Cast:
    """The call that Eve wants to join is over."""
    cast = talking()
    cast.bob.hangup()
    eve = cast.world.client(cast.world.call(cast.bob.cid).token())
    eve.open()
    eve.hello()
    return cast._replace(eve=eve)


def beside_two() -> Cast:
    """Bob has two legs that carry one way each; Eve is in the same call."""
    cast = _cast(key=True)
    for one in (cast.eve, cast.bob):
        one.enter()
        one.accept()
    again = cast.bob.resume()
    again.rejoin()
    again.ask(control.Carry(c=cast.bob.cid, way="up"))
    return cast._replace(carol=again)


def returning() -> Cast:
    """Eve's ticket was taken on a second leg, which has not taken her place."""
    cast = _cast(key=True)
    for one in (cast.eve, cast.bob):
        one.enter()
        one.accept()
    return cast._replace(eve=cast.eve.resume())


def leaving() -> Cast:
    """The node drains while Bob and Carol talk; Eve was ready before."""
    cast = _cast()
    other = cast.world.call()
    for one in (cast.world.client(other.token()), cast.world.client(other.token())):
        one.enter()
    cast.eve.open()
    cast.eve.hello()
    cast.world.feed(events.DrainRequested())
    return cast


def no_more_calls() -> Cast:
    """The node has all the calls it takes."""
    settings = config(limits=dataclasses.replace(LimitsConfig(), calls=1))
    cast = _cast(settings=World(settings))
    cast.world.client(cast.world.call().token()).enter()
    cast.eve.open()
    cast.eve.hello()
    return cast


def not_open(people: int = 1) -> Cast:
    """Calling is being opened, and not for Eve; Bob is in a call of hers if there are two."""
    cast = _cast()
    offer = Offer("o1", "s1", always=("staff",), kind="open")
    cast.world.feed(events.MandateChanged(Mandate(Serving.STATE, offer)))
    bob = cast.world.client(cast.world.call(cast.eve.cid).token(grp=("staff",)))
    if people > 1:
        bob.enter()
    cast.eve.open()
    cast.eve.hello()
    return cast._replace(bob=bob)


def not_open_and_called() -> Cast:
    """The same, and Bob, for whom it is open, waits for her."""
    return not_open(2)


def without_a_state() -> Cast:
    """The node goes by a state, and there is none that counts."""
    cast = ready()
    cast.world.feed(events.MandateChanged(Mandate(Serving.NONE)))
    return cast


# ---------------------------------------------------------------- what is said


class Said(NamedTuple):
    """In `state`, eve says `words` one after the other; the last is refused with `code`."""

    id: str
    state: Callable[[], Cast]
    words: Sequence[Words]
    code: ErrorCode
    fatal: bool = True


def framed(body: bytes) -> bytes:
    """Bytes as one frame of the control stream."""
    return len(body).to_bytes(2, "big") + body


def raw(number: int, body: object, id: int = 9) -> bytes:
    """A frame with any body at all."""
    return framed(msgspec.msgpack.encode([number, id, body]))


def _deep(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


def _join(c: bytes | None = None) -> Callable[[Cast], control.Message]:
    return lambda cast: control.Join(c=c or cast.eve.cid)


def _call(kind: type[control.Message], **fields: object) -> Callable[[Cast], control.Message]:
    return lambda cast: kind(c=cast.eve.cid, **fields)


def _hello(**changes: object) -> Callable[[Cast], control.Message]:
    return lambda cast: control.Hello(**{"tok": cast.eve.raw} | changes)


def _update(**claims: object) -> Callable[[Cast], control.Message]:
    """A token like the one eve has, but for these claims."""

    def make(cast: Cast) -> control.Message:
        own = cast.eve.claims
        assert own is not None
        same = {"sub": own.sub, "lim": own.lim}
        return control.TokenUpdate(tok=cast.world.call(own.cid).token(**same | claims))

    return make


def _old_token(cast: Cast) -> control.Message:
    return control.TokenUpdate(tok=cast.eve.raw)


def _ticket_of_bob(cast: Cast) -> control.Message:
    assert cast.bob.ticket is not None
    return control.Rejoin(c=cast.eve.cid, rt=cast.bob.ticket)


def p2p(**claims: object) -> Cast:
    """Eve and Bob talk, and their tokens allow a direct path."""
    cast = joined(prm=15, **claims)
    cast.eve.accept()
    cast.bob.accept()
    return cast


def hiding() -> Cast:
    """The same, but Bob's token hides his address."""
    cast = _cast(prm=15)
    bob = cast.world.client(cast.world.call(cast.eve.cid).token(prm=15, net=token.NET_RELAY_ONLY))
    for one in (cast.eve, bob):
        one.enter()
        one.accept()
    return cast._replace(bob=bob)


def _cand(**fields: object) -> Callable[[Cast], control.Message]:
    return _call(control.Cand, **{"to": 1, "gen": 0, "b": b"x", "kinds": ("srflx",)} | fields)


MANY = tuple(("192.0.2.1", port) for port in range(1, 9))
C = {"c": bytes(16)}
MINUS_ONE = {"p": 1, "hi": 1, "n": -1, "lost": 0}
AWAY = control.Carry(c=OTHER_CALL, way="up")
REPORT = _call(control.Report, p=1, reason="spam")
BLOB = _call(control.E2e, k=0, b=bytes(8192))

SAID = [
    # Frames that are no messages.
    Said("a frame of no bytes", opened, [framed(b"")], E.BAD_ENCODING),
    Said("a frame of 16385 bytes, by its length alone", opened, [b"\x40\x01"], E.TOO_LARGE),
    Said("a frame that is no msgpack", opened, [framed(b"\xc1")], E.BAD_ENCODING),
    Said("a frame cut short inside", opened, [framed(b"\x93\x06")], E.BAD_ENCODING),
    Said("a frame with bytes left over", opened, [framed(b"\x93\x06\x09\x81\xa1t\x01\x00")], E.BAD_ENCODING),
    Said("a frame of two values", opened, [framed(b"\x92\x06\x09")], E.BAD_ENCODING),
    Said(
        "a frame whose type is text", opened, [framed(msgspec.msgpack.encode(["6", 9, {}]))], E.BAD_ENCODING
    ),
    Said("a frame whose type is 256", opened, [raw(256, {})], E.BAD_ENCODING),
    Said("a frame whose id is negative", opened, [raw(6, {"t": 1}, -1)], E.BAD_ENCODING),
    Said("a body that is a list", opened, [raw(6, [1])], E.BAD_ENCODING),
    Said("a body that is nothing", opened, [raw(6, None)], E.BAD_ENCODING),
    Said("a body nested nine deep", opened, [raw(6, {"t": 1, "x": _deep(7)})], E.BAD_ENCODING),
    Said("a body of 257 keys", opened, [raw(6, {"t": 1} | {str(n): n for n in range(256)})], E.BAD_ENCODING),
    Said("a key that appears twice", opened, [framed(b"\x93\x06\x09\x82\xa1t\x01\xa1t\x02")], E.BAD_ENCODING),
    Said("a key that is a float", opened, [framed(b"\x93\x06\x09\x81\xca\0\0\0\0\x01")], E.BAD_ENCODING),
    Said("an extension type", opened, [framed(b"\x93\x06\x09\x81\xa1t\xd4\x01\x00")], E.BAD_ENCODING),
    Said("text that is no UTF-8", opened, [framed(b"\x93\x09\x09\x81\xa6reason\xa1\xff")], E.BAD_ENCODING),
    Said("an array that claims 2^32 members", opened, [framed(b"\xdd\xff\xff\xff\xff")], E.BAD_ENCODING),
    Said("an unknown type that wants an answer", opened, [raw(0x7F, {})], E.VERSION, False),
    Said("more than 200 messages at once", opened, [raw(0x7F, {}, 0)] * 201, E.RATE_LIMITED),
    # Addresses.
    Said("addresses before both accepted", accepted_by_bob, [_cand()], E.FORBIDDEN, False),
    Said("addresses for oneself", p2p, [_cand(to=0)], E.NOT_IN_CALL, False),
    Said("addresses for an empty seat", p2p, [_cand(to=9)], E.NOT_IN_CALL, False),
    Said("addresses for one who hides", hiding, [_cand()], E.P2P_DENIED, False),
    Said(
        "addresses for one who hides, one kind hidden",
        hiding,
        [_cand(kinds=("relay", "host"))],
        E.P2P_DENIED,
        False,
    ),
    Said("addresses for one who hides, without a kind", hiding, [_cand(kinds=())], E.P2P_DENIED, False),
    Said("addresses between strangers", lambda: p2p(ctc=0), [_cand()], E.P2P_DENIED, False),
    Said("addresses that the token does not allow", talking, [_cand()], E.P2P_DENIED, False),
    Said(
        "an address for TURN that is a name", p2p, [_cand(acl=(("relay.example", 1),))], E.BAD_ENCODING, False
    ),
    Said("an address for TURN at port 0", p2p, [_cand(acl=(("192.0.2.1", 0),))], E.BAD_ENCODING, False),
    Said("nine addresses for TURN at once", p2p, [_cand(acl=(*MANY, ("192.0.2.2", 1)))], E.BAD_ENCODING),
    Said(
        "addresses for TURN by and by",
        p2p,
        [
            _cand(acl=MANY),
            _cand(acl=tuple((host, port + 8) for host, port in MANY)),
            _cand(acl=(("::1", 1),)),
        ],
        E.QUOTA,
        False,
    ),
    Said("seventeen messages of addresses", p2p, [_cand()] * 17, E.QUOTA, False),
    Said("addresses of 1025 bytes", p2p, [_cand(b=bytes(1025))], E.BAD_ENCODING),
    Said(
        "a kind of address that is none",
        p2p,
        [raw(0x30, {**C, "to": 1, "gen": 0, "kinds": ["nat"]})],
        E.BAD_ENCODING,
    ),
    Said("seventeen kinds of address", p2p, [_cand(kinds=("host",) * 17)], E.BAD_ENCODING),
    Said(
        "a direct path before both accepted",
        accepted_by_bob,
        [_call(control.Path, p=1, use="direct")],
        E.FORBIDDEN,
        False,
    ),
    Said("a direct path to nobody", p2p, [_call(control.Path, p=4, use="direct")], E.NOT_IN_CALL, False),
    Said("a path that is none", p2p, [raw(0x33, {**C, "p": 1, "use": "air"})], E.BAD_ENCODING),
    Said(
        "a path of negative delay",
        p2p,
        [raw(0x33, {**C, "p": 1, "use": "relay", "rtt": -1.0})],
        E.BAD_ENCODING,
    ),
    Said(
        "a path with a loss that is no number",
        p2p,
        [raw(0x33, {**C, "p": 1, "use": "relay", "loss": float("nan")})],
        E.BAD_ENCODING,
    ),
    Said(
        "the relay's own word to knock",
        p2p,
        [_call(control.Punch, p=1, round=1, delay_ms=0)],
        E.PROTOCOL_VIOLATION,
    ),
    # Before the hello.
    Said("a join without a hello", opened, [_join()], E.AUTH_REQUIRED),
    Said("an end-to-end message without a hello", opened, [BLOB], E.AUTH_REQUIRED),
    Said("a welcome from a client", opened, [control.Ok()], E.AUTH_REQUIRED),
    Said("a second ping in place of the hello", challenged, [control.Ping(t=2)], E.AUTH_REQUIRED),
    Said("a hello of another version", opened, [_hello(v=(2, 3))], E.VERSION),
    Said("a hello of no version", opened, [raw(2, {"v": [], "tok": b""})], E.BAD_ENCODING),
    Said("a hello that takes QUIC for a WebSocket", opened, [_hello(leg="ws")], E.PROTOCOL_VIOLATION),
    Said("a hello by carrier pigeon", opened, [raw(2, {"v": [1], "leg": "pigeon"})], E.BAD_ENCODING),
    Said("a hello without token and ticket", opened, [control.Hello()], E.AUTH_REQUIRED),
    Said(
        "a hello with a token of 1025 bytes", opened, [raw(2, {"v": [1], "tok": bytes(1025)})], E.BAD_ENCODING
    ),
    Said("a proof of possession of 63 bytes", opened, [raw(2, {"v": [1], "pop": bytes(63)})], E.BAD_ENCODING),
    Said(
        "a client name of 33 letters", opened, [raw(2, {"v": [1], "cli": {"sdk": "x" * 33}})], E.BAD_ENCODING
    ),
    # Before the join.
    Said("a second hello", ready, [_hello()], E.PROTOCOL_VIOLATION),
    Said("a join of another call than the token's", ready, [_join(OTHER_CALL)], E.CALL_NOT_FOUND),
    Said("a call id of 15 bytes", ready, [raw(0x10, {"c": bytes(15)})], E.BAD_ENCODING),
    Said("an accept before the join", ready, [_call(control.Accept)], E.NOT_IN_CALL, False),
    Said("a hang-up before the join", ready, [_call(control.Hangup)], E.NOT_IN_CALL, False),
    Said("a way before the join", ready, [_call(control.Carry, way="up")], E.NOT_IN_CALL, False),
    Said("a way without another leg", talking, [_call(control.Carry, way="up")], E.NOT_IN_CALL, False),
    Said("a way of a call that is not its own", talking, [AWAY], E.CALL_NOT_FOUND, False),
    Said("a way that there is not", talking, [raw(0x42, {"c": OTHER_CALL, "way": "in"})], E.BAD_ENCODING),
    Said(
        "a way of somebody else's two legs",
        beside_two,
        [_call(control.Carry, way="both")],
        E.NOT_IN_CALL,
        False,
    ),
    Said("a way by a ticket alone", returning, [_call(control.Carry, way="down")], E.NOT_IN_CALL, False),
    Said("a report before the join", ready, [REPORT], E.NOT_IN_CALL, False),
    Said("a wish for TURN before the join", ready, [raw(0x34, {})], E.NOT_IN_CALL, False),
    Said("a wish for TURN on a node without it", talking, [raw(0x34, {})], E.NOT_ENABLED, False),
    Said("a rejoin with a made-up ticket", ready, [_call(control.Rejoin, rt=bytes(150))], E.RESUME_UNKNOWN),
    Said("a third one in a call of two", crowded, [_join()], E.CALL_FULL),
    Said("a fifth device of one person", fifth_device, [_join()], E.QUOTA),
    Said("a join with a token for another size", other_size, [_join()], E.FORBIDDEN),
    Said("a join of somebody not on the list", uninvited, [_join()], E.CALL_NOT_FOUND),
    Said("a stranger and a person of 17", too_young_for_strangers, [_join()], E.FORBIDDEN),
    Said("a join of somebody who was removed", removed, [_join()], E.REMOVED),
    Said("a join of a call that is over", ended, [_join()], E.CALL_ENDED),
    Said("a new call on a node that leaves", leaving, [_join()], E.DRAINING),
    Said("a call more than the node takes", no_more_calls, [_join()], E.OVERLOADED),
    Said("a call of somebody for whom calling is not open", not_open, [_join()], E.NOT_ENABLED),
    Said("an answer of somebody for whom it is not", not_open_and_called, [_join()], E.NOT_ENABLED),
    Said("a call where no state of the rollout counts", without_a_state, [_join()], E.NOT_ENABLED),
    # In a call.
    Said("a second join", joined, [_join()], E.PROTOCOL_VIOLATION),
    Said(
        "a message that only the relay sends",
        joined,
        [_call(control.Gate, open=3, ep=1)],
        E.PROTOCOL_VIOLATION,
    ),
    Said(
        "an end that only the relay declares",
        talking,
        [_call(control.Ended, why="completed")],
        E.PROTOCOL_VIOLATION,
    ),
    Said("an accept for another call", joined, [control.Accept(c=OTHER_CALL)], E.CALL_NOT_FOUND, False),
    Said("a mute in another call", talking, [control.Mute(c=OTHER_CALL, on=True)], E.CALL_NOT_FOUND, False),
    Said("no common suite", accepted_by_bob, [_call(control.Accept, suites=(4,))], E.E2E_UNSUPPORTED, False),
    Said("a decline for a reason nobody has", joined, [raw(0x12, C | {"why": "x"})], E.BAD_ENCODING),
    Said("a participant 32", talking, [raw(0x1B, C | {"p": 32, "on": True})], E.BAD_ENCODING),
    Said(
        "an app message before both accepted", joined, [_call(control.E2e, k=1, b=b"x")], E.FORBIDDEN, False
    ),
    Said("an attachment before both accepted", joined, [_call(control.E2e, k=2, b=b"x")], E.FORBIDDEN, False),
    Said("an attachment to a stranger", strangers, [_call(control.E2e, k=2, b=b"x")], E.FORBIDDEN, False),
    Said("keys of a stranger without end", strangers, [BLOB] * 9, E.RATE_LIMITED, False),
    Said("a blob that the token does not allow", without_e2e, [BLOB], E.FORBIDDEN, False),
    Said("a blob to an empty seat", talking, [_call(control.E2e, k=0, b=b"x", to=9)], E.NOT_IN_CALL, False),
    Said("a blob to oneself", talking, [_call(control.E2e, k=0, b=b"x", to=0)], E.NOT_IN_CALL, False),
    Said(
        "a blob of 8193 bytes",
        talking,
        [raw(0x38, C | {"k": 0, "b": bytes(8193)})],
        E.BAD_ENCODING,
    ),
    Said("a blob of a fourth kind", talking, [raw(0x38, C | {"k": 3, "b": b""})], E.BAD_ENCODING),
    Said(
        "muting somebody without the right", talking, [_call(control.Mute, p=1, on=True)], E.FORBIDDEN, False
    ),
    Said(
        "a moderator's mute without the right",
        talking,
        [_call(control.Mute, on=True, hard=True)],
        E.FORBIDDEN,
        False,
    ),
    Said("undoing a moderator's mute", silenced, [_call(control.Mute, on=False)], E.FORBIDDEN, False),
    Said("muting an empty seat", talking, [_call(control.Mute, p=7, on=True)], E.NOT_IN_CALL, False),
    Said("ending a call without the right", talking, [_call(control.Mod, op="end")], E.FORBIDDEN, False),
    Said(
        "removing somebody without the right",
        group,
        [_call(control.Mod, op="remove", p=1)],
        E.FORBIDDEN,
        False,
    ),
    Said("a host who removes nobody", hosting, [_call(control.Mod, op="remove")], E.BAD_ENCODING),
    Said(
        "a host who removes an empty seat",
        hosting,
        [_call(control.Mod, op="remove", p=7)],
        E.NOT_IN_CALL,
        False,
    ),
    Said("a host with an unknown wish", hosting, [raw(0x19, C | {"op": "ban"})], E.BAD_ENCODING),
    Said("blocking oneself", talking, [_call(control.Block, p=0, on=True)], E.NOT_IN_CALL, False),
    Said("blocking an empty seat", talking, [_call(control.Block, p=7, on=True)], E.NOT_IN_CALL, False),
    Said("reporting an empty seat", talking, [_call(control.Report, p=7, reason="x")], E.NOT_IN_CALL, False),
    Said("seven reports in a minute", talking, [REPORT] * 7, E.RATE_LIMITED, False),
    Said(
        "a report with a reason of 65 letters",
        talking,
        [raw(0x28, C | {"p": 1, "reason": "x" * 65})],
        E.BAD_ENCODING,
    ),
    Said("seven ratings in a minute", talking, [_call(control.Feedback, stars=1)] * 7, E.RATE_LIMITED, False),
    Said("six stars", talking, [raw(0x27, C | {"stars": 6})], E.BAD_ENCODING),
    Said(
        "a receiver report of minus one packet",
        talking,
        [raw(0x24, C | {"s": [MINUS_ONE]})],
        E.BAD_ENCODING,
    ),
    Said("a rejoin with somebody else's ticket", talking, [_ticket_of_bob], E.RESUME_UNKNOWN),
    Said("new rights for another person", talking, [_update(sub=b"\xdd" * 16)], E.FORBIDDEN, False),
    Said("new rights for another call", talking, [_update(cid=OTHER_CALL)], E.FORBIDDEN, False),
    Said("new rights for another size", talking, [_update(lim=(64, 64, 50, 4))], E.FORBIDDEN, False),
    Said("new rights that make one 15", talking, [_update(age=token.AGE_UNDER_16)], E.FORBIDDEN, False),
    Said("new rights for another cluster", talking, [_update(aud="elsewhere")], E.TOKEN_AUDIENCE, False),
    Said(
        "new rights by the old token",
        talking,
        [_old_token],
        E.TOKEN_REPLAYED,
        False,
    ),
    Said("new rights with a key nobody proved", talking, [_update(key=True)], E.POP_FAILED, False),
    # After it.
    Said("an accept after the end", over, [_call(control.Accept)], E.CALL_ENDED, False),
    Said("a blob after the end", over, [BLOB], E.CALL_ENDED, False),
    Said("a rejoin after the end", over, [_call(control.Rejoin, rt=bytes(150))], E.CALL_ENDED, False),
    Said("a join after the end", over, [_join()], E.PROTOCOL_VIOLATION),
]


class Waited(NamedTuple):
    """In `state`, eve is silent for `seconds`, and is closed then, not before."""

    id: str
    state: Callable[[], Cast]
    seconds: float
    code: ErrorCode


def whispering() -> Cast:
    """Eve sent half a frame, slowly."""
    cast = opened()
    cast.world.feed(events.StreamReceived(cast.eve.leg, b"\x00"))
    cast.world.run(4.0)
    cast.world.feed(events.StreamReceived(cast.eve.leg, b"\x10\x93"))
    return cast


def chattering() -> Cast:
    """Eve pings and sends unknown messages, but no hello."""
    cast = challenged()
    for _ in range(4):
        cast.world.run(1.0)
        cast.world.feed(events.StreamReceived(cast.eve.leg, raw(0x7F, {}, 0)))
        cast.eve.ping()
    return cast


WAITED = [
    Waited("no hello for 5 seconds", opened, 5.0, E.AUTH_REQUIRED),
    Waited("no answer to the challenge for 5 seconds", challenged, 5.0, E.AUTH_REQUIRED),
    Waited("a hello that comes byte by byte", whispering, 1.0, E.AUTH_REQUIRED),
    Waited("every message but the hello", chattering, 1.0, E.AUTH_REQUIRED),
    Waited("no join while the token lasts", ready, 150.0, E.TOKEN_EXPIRED),
    Waited("no goodbye after the end", over, 5.0, E.NO_ERROR),
]


class Passing(NamedTuple):
    """Control datagrams of a leg in a call; the last is dropped under this name, and the leg lives on."""

    id: str
    data: Sequence[bytes]
    reason: DropReason


PING = datagram.encode_datagram(datagram.Ping(1, 1))
NACK = datagram.encode_datagram(datagram.Nack(1, 0, 0, 0xFFFF))
RR = control.Rr(c=OTHER_CALL, s=())


def _newest(seq: int) -> bytes:
    return datagram.encode_datagram(datagram.NewestWins(control.Rr.TYPE, seq, RR))


PASSING = [
    Passing("a control datagram of one byte", [b"\x00"], D.MALFORMED),
    Passing("a ping cut short", [PING[:-1]], D.MALFORMED),
    Passing("a ping with a tail", [PING + b"\x00"], D.MALFORMED),
    Passing("a leg report of nine flows", [b"\x00\x03" + bytes(6) + b"\x09" + bytes(252)], D.MALFORMED),
    Passing("a leg report of no flow", [b"\x00\x03" + bytes(7)], D.MALFORMED),
    Passing("a nack for flow 0", [b"\x00\x04" + bytes(6)], D.MALFORMED),
    Passing("a nack for flow 63", [b"\x00\x04\x3f" + bytes(5)], D.MALFORMED),
    Passing("a nack cut short", [NACK[:-1]], D.MALFORMED),
    Passing("a nack with a tail", [NACK + b"\x00"], D.MALFORMED),
    Passing("more than 200 nacks at once", [NACK] * 201, D.OVER_BUDGET),
    Passing("a newest-wins message that is no msgpack", [b"\x00\x10\xc1"], D.MALFORMED),
    Passing("an older newest-wins message", [_newest(9), _newest(8)], D.STALE),
    Passing("the same newest-wins message again", [_newest(9), _newest(9)], D.STALE),
    Passing("more than 200 control datagrams at once", [PING] * 201, D.OVER_BUDGET),
]


class Spoken(NamedTuple):
    """After `before`, eve says something in `state`, and nobody hears it, for this reason."""

    id: str
    state: Callable[[], Cast]
    before: Callable[[Cast], object]
    reason: DropReason


def _silence(cast: Cast) -> None:
    cast.world.run(31.0, alive=(cast.bob,))


def _nothing(cast: Cast) -> None: ...


def _by_command(op: str) -> Callable[[Cast], object]:
    return lambda cast: cast.world.command(op, cid=cast.eve.cid, sub=cast.eve.sub)


def _block_eve(cast: Cast) -> None:
    for one in (cast.bob, cast.carol):
        one.block(cast.eve.index)


def _talking_with(**claims: object) -> Callable[[], Cast]:
    def state() -> Cast:
        cast = joined(**claims)
        cast.eve.accept()
        cast.bob.accept()
        return cast

    return state


def bound() -> Cast:
    """They talk, and Eve's token may be shown again, because her leg proved its key."""
    return _talking_with(key=True)()


def _spend_twice(cast: Cast) -> None:
    """Eve uses her packets up and shows her token again."""
    for _ in range(2):
        for _ in range(200):
            cast.eve.speak()
        assert isinstance(cast.eve.ask(control.TokenUpdate(tok=cast.eve.raw)), control.Ok)


SPOKEN = [
    Spoken("after showing a token again for another burst", bound, _spend_twice, D.OVER_BUDGET),
    Spoken("before anybody accepted", joined, _nothing, D.GATE_CLOSED),
    Spoken("before the speaker accepted", accepted_by_bob, _nothing, D.GATE_CLOSED),
    Spoken("before the listener accepted", joined, lambda cast: cast.eve.accept(), D.GATE_CLOSED),
    Spoken("after muting oneself", talking, lambda cast: cast.eve.mute(), D.MUTED),
    Spoken("after a moderator's mute", silenced, _nothing, D.MUTED),
    Spoken(
        "after a mute by command",
        talking,
        _by_command("mute"),
        D.MUTED,
    ),
    Spoken(
        "to those who all blocked the speaker",
        group,
        _block_eve,
        D.BLOCKED,
    ),
    Spoken("after the listener's transport died", talking, lambda cast: cast.bob.lose(), D.GATE_CLOSED),
    Spoken("after 30 seconds of silence", talking, _silence, D.GATE_CLOSED),
    Spoken("after a hang-up", talking, lambda cast: cast.bob.hangup(), D.UNKNOWN_FLOW),
    Spoken(
        "after being removed",
        talking,
        _by_command("remove"),
        D.UNKNOWN_FLOW,
    ),
    Spoken(
        "with a listener's token",
        _talking_with(rol=token.ROLE_LISTENER),
        _nothing,
        D.GATE_CLOSED,
    ),
    Spoken(
        "with a token that allows no sending",
        _talking_with(prm=token.MAY_RECEIVE),
        _nothing,
        D.GATE_CLOSED,
    ),
    Spoken(
        "before the host admits",
        _talking_with(gate=token.GATE_HOST_ADMITS),
        _nothing,
        D.GATE_CLOSED,
    ),
]
