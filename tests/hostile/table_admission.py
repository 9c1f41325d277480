"""Hostile papers: tokens with one thing wrong, proofs, tickets, commands, and the line they come by.

    Claim     a good token but for one claim           -> close code of the hello
    Envelope  a good token, damaged outside its claims -> close code of the hello
    Proof     who shows a token, and when              -> close code of the hello
    Resume    a ticket that names no place any more    -> close code of the hello
    Order     a good command but for one field         -> code of the answer
    Line      bytes on the command socket              -> name in the answer

Must never live here: how a row is acted out (test_admission.py).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from pair import ISSUER, KEY, KID, PERSON, TICKET_KEY, Client, World, canaries
from relay.errors import ErrorCode
from relay.protocol import command, control, signed, ticket, token
from relay.protocol.ids import Jti, Kid
from relay.protocol.ticket import TicketBody

E = ErrorCode
GONE = object()  # a claim that is not there
NOW = 1_700_000_000  # the worlds' wall clock at their start
OTHER_SEED = bytes(range(1, 33))
JTI = Jti(b"\x11" * 16)


def patched(body: bytes, changes: dict[str, Any]) -> bytes:
    """A msgpack map with other values; `GONE` leaves a key out."""
    values = msgspec.msgpack.decode(body) | changes
    return msgspec.msgpack.encode({name: value for name, value in values.items() if value is not GONE})


def token_of(world: World, changes: dict[str, Any], *, key: bool = False) -> bytes:
    """A token that is good but for these claims, correctly signed."""
    body = token.encode_claims(world.call().claims(key=key))
    return signed.seal(token.MAGIC, token.DOMAIN, patched(body, changes), ISSUER)


class Claim(NamedTuple):
    """What is wrong with the claims, and what the token is refused with."""

    id: str
    changes: dict[str, Any]
    code: ErrorCode = E.TOKEN_INVALID
    transport: str = "quic"


CLAIMS = [
    Claim("no version", {"v": GONE}),
    Claim("version 2", {"v": 2}),
    Claim("a version that is text", {"v": "1"}),
    Claim("no issuer name", {"iss": GONE}),
    Claim("an empty issuer name", {"iss": ""}),
    Claim("an issuer name of 65 letters", {"iss": "x" * 65}),
    Claim("no audience", {"aud": GONE}),
    Claim("another cluster's audience", {"aud": "relay-us"}, E.TOKEN_AUDIENCE),
    Claim("an audience that is a list", {"aud": ["relay-test"]}),
    Claim("no pseudonym", {"sub": GONE}),
    Claim("a pseudonym of 15 bytes", {"sub": bytes(15)}),
    Claim("a pseudonym that is text", {"sub": "x" * 16}),
    Claim("no call", {"cid": GONE}),
    Claim("a call id of 17 bytes", {"cid": bytes(17)}),
    Claim("no role", {"rol": GONE}),
    Claim("role 3", {"rol": 3}),
    Claim("no permissions", {"prm": GONE}),
    Claim("permissions of 17 bits", {"prm": 1 << 16}),
    Claim("no time of issue", {"iat": GONE}),
    Claim("issued a minute from now", {"iat": NOW + 60, "exp": NOW + 120}),
    Claim("a negative time of issue", {"iat": -1}),
    Claim("valid a minute from now", {"nbf": NOW + 60}),
    Claim("no end", {"exp": GONE}),
    Claim("ended a minute ago", {"iat": NOW - 180, "nbf": NOW - 180, "exp": NOW - 60}, E.TOKEN_EXPIRED),
    Claim("an end before the issue", {"exp": NOW - 1}),
    Claim("a life of 301 seconds", {"exp": NOW + 301}),
    Claim("an end in half seconds", {"exp": NOW + 100.5}),
    Claim("an end beyond 2^53", {"exp": 1 << 53}),
    Claim("no id", {"jti": GONE}),
    Claim("an id of 8 bytes", {"jti": bytes(8)}),
    Claim("no limits", {"lim": GONE}),
    Claim("three limits", {"lim": [64, 64, 120]}),
    Claim("a negative limit", {"lim": [64, 64, -1, 2]}),
    Claim("no gate", {"gate": GONE}),
    Claim("gate 0", {"gate": 0}),
    Claim("gate 3", {"gate": 3}),
    Claim("no networks", {"net": GONE}),
    Claim("networks of 9 bits", {"net": 256}),
    Claim("33 people one may meet", {"peer": [bytes(16)] * 33}),
    Claim("a person one may meet of 15 bytes", {"peer": [bytes(15)]}),
    Claim("a person id of 15 bytes", {"ru": bytes(15)}),
    Claim("a negative duration", {"dur": -1}),
    Claim("an empty region", {"rgn": ""}),
    Claim("nine rollout groups", {"grp": ["x"] * 9}),
    Claim("a rollout group of 17 letters", {"grp": ["x" * 17]}),
    Claim("no age", {"age": GONE}),
    Claim("age band 4", {"age": 4}),
    Claim("under 16", {"age": token.AGE_UNDER_16}, E.FORBIDDEN),
    Claim("contact state 2", {"ctc": 2}),
    Claim("a key of 31 bytes", {"cnf": bytes(31)}),
    Claim("a key that nobody proves", {"cnf": bytes(32)}, E.POP_FAILED),
    Claim("a WebSocket that the token does not allow", {}, E.TRANSPORT_DENIED, "ws"),
    Claim("a TLS leg that the token does not allow", {"net": 5}, E.TRANSPORT_DENIED, "tls"),
]


class Envelope(NamedTuple):
    """What is done to the bytes of a good token."""

    id: str
    change: Callable[[bytes], bytes]


def _body(raw: bytes) -> bytes:
    return token.parse(raw).body


def _sealed(body: bytes, *, seed: bytes = ISSUER, domain: bytes = token.DOMAIN) -> bytes:
    return signed.seal(token.MAGIC, domain, body, seed)


def _flip(raw: bytes, at: int) -> bytes:
    where = at % len(raw)
    return raw[:where] + bytes((raw[where] ^ 1,)) + raw[where + 1 :]


ENVELOPES = [
    Envelope("no bytes", lambda raw: b""),
    Envelope("the magic alone", lambda raw: b"V1"),
    Envelope("another magic", lambda raw: b"V2" + raw[2:]),
    Envelope("another key id", lambda raw: _flip(raw, 4)),
    Envelope("a length that is one short", lambda raw: _flip(raw, 11)),
    Envelope("a byte less", lambda raw: raw[:-1]),
    Envelope("a byte more", lambda raw: raw + b"\0"),
    Envelope("1024 bytes of padding behind it", lambda raw: raw.ljust(1024, b"\0")),
    Envelope("a flipped bit in the claims", lambda raw: _flip(raw, 40)),
    Envelope("a flipped bit in the signature", lambda raw: _flip(raw, -1)),
    Envelope("a signature of zeros", lambda raw: raw[:-64] + bytes(64)),
    Envelope("signed by a key nobody named", lambda raw: _sealed(_body(raw), seed=OTHER_SEED)),
    Envelope("signed as a command", lambda raw: _sealed(_body(raw), domain=command.DOMAIN)),
    Envelope("claims that are a list", lambda raw: _sealed(msgspec.msgpack.encode([1]))),
    Envelope("claims with a byte behind them", lambda raw: _sealed(_body(raw) + b"\0")),
    Envelope("claims cut short", lambda raw: _sealed(_body(raw)[:-1])),
    Envelope("a claim that stands there twice", lambda raw: _sealed(_doubled(_body(raw)))),
    Envelope("no claims", lambda raw: _sealed(b"")),
]


def _doubled(body: bytes) -> bytes:
    """The map with its version once more: decoders disagree about which of the two counts."""
    assert body[0] == 0xDE or body[0] == 0x80 | body[0] & 0x0F
    if body[0] == 0xDE:
        count = int.from_bytes(body[1:3], "big") + 1
        return b"\xde" + count.to_bytes(2, "big") + body[3:] + b"\xa1v\x01"
    return b"\xde" + ((body[0] & 0x0F) + 1).to_bytes(2, "big") + body[1:] + b"\xa1v\x01"


class Proof(NamedTuple):
    """`act` shows papers as the row says, and returns the client that did."""

    id: str
    act: Callable[[World], Client]
    code: ErrorCode


def _hello(world: World, raw: bytes, **fields: Any) -> Client:
    client = world.client(raw).open()
    client.hello(**fields)
    return client


def _wrong_key(world: World) -> Client:
    return _hello(world, world.call().token(key=True), key=OTHER_SEED)


def _no_pop(world: World) -> Client:
    client = world.client(world.call().token(key=True)).open()
    client.send(control.Ping(t=1))
    client.ask(control.Hello(tok=client.raw))
    return client


def _pop_without_challenge(world: World) -> Client:
    client = world.client(world.call().token(key=True)).open()
    client.ask(control.Hello(tok=client.raw, pop=token.pop_sign(KEY, bytes(32), client.sub, client.cid)))
    return client


def _pop_of_another_leg(world: World) -> Client:
    raw = world.call().token(key=True)
    first = world.client(raw).open()
    first.send(control.Ping(t=1))
    stolen = token.pop_sign(KEY, first.last(control.Challenge).n, first.sub, first.cid)
    client = world.client(raw).open()
    client.send(control.Ping(t=1))
    client.ask(control.Hello(tok=raw, pop=stolen))
    return client


def _pop_of_another_call(world: World) -> Client:
    client = world.client(world.call().token(key=True)).open()
    client.send(control.Ping(t=1))
    pop = token.pop_sign(KEY, client.last(control.Challenge).n, client.sub, world.call().cid)
    client.ask(control.Hello(tok=client.raw, pop=pop))
    return client


def _used(world: World) -> Client:
    raw = world.call().token()
    _hello(world, raw)
    return _hello(world, raw)


def _used_after_the_first_left(world: World) -> Client:
    raw = world.call().token()
    _hello(world, raw).lose()
    world.run(100.0)
    return _hello(world, raw)


def _used_after_the_clock_jumped(world: World) -> Client:
    """The wall clock goes an hour ahead and comes back: what was spent must still be known."""
    raw = world.call().token()
    _hello(world, raw)
    world.wall += 3600
    _hello(world, world.call().token())
    world.wall -= 3600
    world.run(1.0)
    return _hello(world, raw)


def _used_before_the_clock_was_set_back(world: World) -> Client:
    """100 seconds back: when its time on our own clock is over, the token's own is not."""
    raw = world.call().token()
    _hello(world, raw)
    world.run(10.0)
    world.wall -= 100
    world.run(150.0)
    return _hello(world, raw)


def _revoked(world: World, **what: Any) -> Client:
    """Revoked before the first use."""
    raw = world.call().token(jti=JTI, ru=PERSON)
    assert world.command("revoke", **what) is E.NO_ERROR
    return _hello(world, raw)


def _revoked_before_join(world: World) -> Client:
    client = _hello(world, world.call().token(ru=PERSON))
    world.command("revoke", ru=PERSON)
    return client


PROOFS = [
    Proof("a proof by another key", _wrong_key, E.POP_FAILED),
    Proof("no proof for a token with a key", _no_pop, E.POP_FAILED),
    Proof("a proof of no challenge", _pop_without_challenge, E.POP_FAILED),
    Proof("a proof made for another leg", _pop_of_another_leg, E.POP_FAILED),
    Proof("a proof made for another call", _pop_of_another_call, E.POP_FAILED),
    Proof("a token that was used", _used, E.TOKEN_REPLAYED),
    Proof("a token that was used by somebody who left", _used_after_the_first_left, E.TOKEN_REPLAYED),
    Proof("a token used before the clock jumped", _used_after_the_clock_jumped, E.TOKEN_REPLAYED),
    Proof(
        "a token used before the clock was set back", _used_before_the_clock_was_set_back, E.TOKEN_REPLAYED
    ),
    Proof("a revoked token", lambda world: _revoked(world, jti=JTI), E.TOKEN_INVALID),
    Proof("a token of a revoked key", lambda world: _revoked(world, kid=KID), E.TOKEN_INVALID),
    Proof("a token of a revoked person", lambda world: _revoked(world, ru=PERSON), E.FORBIDDEN),
    Proof("a person revoked between hello and join", _revoked_before_join, E.FORBIDDEN),
]


class Resume(NamedTuple):
    """Ann's leg is lost; `show` presents a ticket on a new leg. Her tokens carry a key if `key`."""

    id: str
    show: Callable[[World, Client], Client]
    code: ErrorCode
    key: bool = True


def _again(
    world: World, ann: Client, rt: bytes | None, *, key: bytes = KEY, tok: bytes | None = None
) -> Client:
    """A new leg that says hello with this ticket, signs its challenge with `key`, brings `tok` if given."""
    client = world.client(tok or ann.raw).open()
    client.send(control.Ping(t=1))
    pop = token.pop_sign(key, client.last(control.Challenge).n, client.sub, client.cid)
    client.ask(control.Hello(tok=tok, resume=rt, pop=pop))
    return client


def _resealed(ann: Client, *, seal_key: bytes = TICKET_KEY, **changes: Any) -> bytes:
    """Ann's ticket with other contents."""
    assert ann.ticket is not None
    body = ticket.open(ann.ticket, [TICKET_KEY])
    values = {name: getattr(body, name) for name in TicketBody.__dataclass_fields__} | changes
    return ticket.seal(TicketBody(**values), seal_key, bytes(24))


def _flipped(world: World, ann: Client) -> Client:
    assert ann.ticket is not None
    return _again(world, ann, _flip(ann.ticket, 60))


def _late(world: World, ann: Client) -> Client:
    world.run(91.0)
    return _again(world, ann, ann.ticket)


def _after_removal(world: World, ann: Client) -> Client:
    world.command("remove", cid=ann.cid, sub=ann.sub)
    return _again(world, ann, ann.ticket)


def _after_the_end(world: World, ann: Client) -> Client:
    world.command("end", cid=ann.cid)
    return _again(world, ann, ann.ticket)


def _with_a_token_of_somebody_else(world: World, ann: Client) -> Client:
    return _again(world, ann, ann.ticket, tok=world.call(ann.cid).token(key=True))


def _alone(world: World, ann: Client) -> Client:
    client = world.client(ann.raw).open()
    client.ask(control.Hello(resume=ann.ticket))
    return client


RESUMES = [
    Resume("a ticket of no bytes", lambda world, ann: _again(world, ann, b""), E.RESUME_UNKNOWN),
    Resume("a ticket of 513 bytes", lambda world, ann: _again(world, ann, bytes(513)), E.RESUME_UNKNOWN),
    Resume("a ticket with a flipped bit", _flipped, E.RESUME_UNKNOWN),
    Resume(
        "a ticket of another cluster",
        lambda world, ann: _again(world, ann, _resealed(ann, seal_key=bytes(32))),
        E.RESUME_UNKNOWN,
    ),
    Resume(
        "a ticket that has expired",
        lambda world, ann: _again(world, ann, _resealed(ann, exp=NOW - 1)),
        E.RESUME_UNKNOWN,
    ),
    Resume("a ticket of 91 seconds ago", _late, E.RESUME_UNKNOWN),
    Resume(
        "a ticket for a hand-over",
        lambda world, ann: _again(world, ann, _resealed(ann, kind="ht")),
        E.RESUME_UNKNOWN,
    ),
    Resume(
        "a ticket for another seat",
        lambda world, ann: _again(world, ann, _resealed(ann, p=1)),
        E.RESUME_UNKNOWN,
    ),
    Resume(
        "a ticket with another key in it",
        lambda world, ann: _again(
            world, ann, _resealed(ann, cnf=signed.public_of(OTHER_SEED)), key=OTHER_SEED
        ),
        E.RESUME_UNKNOWN,
    ),
    Resume(
        "a ticket with its key cut out",
        lambda world, ann: _again(world, ann, _resealed(ann, cnf=None)),
        E.RESUME_UNKNOWN,
    ),
    Resume(
        "a ticket shown by somebody without the key",
        lambda world, ann: _again(world, ann, ann.ticket, key=OTHER_SEED),
        E.POP_FAILED,
    ),
    Resume("a ticket without a proof", _alone, E.POP_FAILED),
    Resume("a ticket without key, and no token beside it", _alone, E.AUTH_REQUIRED, key=False),
    Resume("a ticket beside a token of somebody else", _with_a_token_of_somebody_else, E.RESUME_UNKNOWN),
    Resume("a ticket of somebody who was removed", _after_removal, E.CALL_ENDED),
    Resume("a ticket for a call that is over", _after_the_end, E.CALL_ENDED),
]


class Order(NamedTuple):
    """A command that ends ann's call, but for `changes` of its fields or what `damage` does to its bytes."""

    id: str
    changes: dict[str, Any]
    code: ErrorCode = E.TOKEN_INVALID
    damage: Callable[[bytes], bytes] | None = None
    before: Callable[[World, bytes], object] | None = None


def _as_token(raw: bytes) -> bytes:
    return signed.seal(command.MAGIC, token.DOMAIN, signed.split(command.MAGIC, raw).body, ISSUER)


def _by_stranger(raw: bytes) -> bytes:
    return signed.seal(command.MAGIC, command.DOMAIN, signed.split(command.MAGIC, raw).body, OTHER_SEED)


ORDERS = [
    Order("a command of no bytes", {}, damage=lambda raw: b""),
    Order("a command of 1025 bytes", {}, damage=lambda raw: raw.ljust(1025, b"\0")),
    Order("a command with a token's magic", {}, damage=lambda raw: b"V1" + raw[3:]),
    Order("a command with a flipped bit", {}, damage=lambda raw: _flip(raw, 30)),
    Order("a command signed as a token", {}, damage=_as_token),
    Order("a command signed by a key nobody named", {}, damage=_by_stranger),
    Order("an operation nobody has", {"op": "grant"}),
    Order("no operation", {"op": GONE}),
    Order("an end of no call", {"cid": GONE}),
    Order("a mute of nobody", {"op": "mute"}),
    Order("a removal of nobody", {"op": "remove"}),
    Order("a block of one", {"op": "block", "sub": bytes(16)}),
    Order("a revocation of nothing", {"op": "revoke", "cid": GONE}),
    Order("a revocation of a key id of 7 bytes", {"op": "revoke", "kid": bytes(7)}),
    Order("a command id of 15 bytes", {"id": bytes(15)}),
    Order("no command id", {"id": GONE}),
    Order("a command that lives 301 seconds", {"exp": NOW + 301}),
    Order("a command that ends before it begins", {"exp": NOW - 1}),
    Order("a command of the next minute", {"iat": NOW + 60, "exp": NOW + 90}),
    Order("a command of an hour ago", {"iat": NOW - 3600, "exp": NOW - 3500}, E.TOKEN_EXPIRED),
    Order("a command given twice", {}, E.TOKEN_REPLAYED, before=lambda world, raw: world.command_raw(raw)),
    Order("a command of a revoked key", {}, before=lambda world, raw: world.command("revoke", kid=Kid(KID))),
    Order(
        "a command of a canary's key",
        {},
        E.FORBIDDEN,
        before=lambda world, raw: world.engine.node.on_config(canaries()),
    ),
    Order("an end of a call that is not here", {"cid": bytes(16)}, E.CALL_NOT_FOUND),
    Order("a mute of somebody who is not here", {"op": "mute", "sub": bytes(16)}, E.NOT_IN_CALL),
    Order(
        "a block of two who are not together",
        {"op": "block", "cid": GONE, "sub": bytes(16), "peer": b"\1" * 16},
        E.NOT_IN_CALL,
    ),
]


class Line(NamedTuple):
    """What is written to the command socket, and what the answer is called."""

    id: str
    data: bytes
    name: str


LINES = [
    Line("a line that is no base64", b"!!!!\n", "BAD_ENCODING"),
    Line("an empty line", b"\n", "TOKEN_INVALID"),
    Line("a line of base64 that is no command", base64.b64encode(bytes(100)) + b"\n", "TOKEN_INVALID"),
    Line("a line of 3000 letters", b"A" * 3000 + b"\n", "TOO_LARGE"),
    Line("3000 letters and no end of line", b"A" * 3000, "TOO_LARGE"),
    Line("a request of a browser", b"GET / HTTP/1.1\r\n\r\n", "BAD_ENCODING"),
]
