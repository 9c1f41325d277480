"""The control conversation, byte by byte: hello with and without proof, answers by id, what is ignored."""

from __future__ import annotations

import os

import pytest

from client.rig import Rig, public_of
from relay.client.errors import SessionError
from relay.client.link import Credentials, Link
from relay.client.rungs import ladder_of, parse_url
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.control import FrameReader, decode, encode
from relay.protocol.ids import CallId, Sub
from relay.protocol.messages import Bye, Challenge, Cli, Hello, Join, Limits, Message, Ok, Ping, Pong, Welcome
from relay.protocol.token import pop_verify

SEED = bytes(range(32))
CALL = bytes(range(16))
RIG = Rig("quic://localhost:1", "", os.urandom(32), 0, 0)
WELCOME = Welcome(
    sid=bytes(16), obs=("192.0.2.1", 5), ka=5, lim=Limits(up=64, dn=64, pps=120), node="n", now=1
)


def said(link: Link) -> list[tuple[int, Message | None]]:
    return [(frame.id, frame.body) for frame in map(decode, FrameReader().feed(link.take()))]


def test_without_a_key_the_hello_goes_first() -> None:
    link = Link(Credentials.of_token(RIG.token(CALL, 1)), Cli(sdk="py"))
    ((number, hello),) = said(link)
    assert number == 1
    assert isinstance(hello, Hello)
    assert hello.pop is None
    assert hello.cli.sdk == "py"
    assert link.take() == b""


def test_with_a_key_the_challenge_is_signed() -> None:
    link = Link(Credentials.of_token(RIG.token(CALL, 1, public_of(SEED)), SEED), Cli())
    assert [type(body) for _, body in said(link)] == [Ping]
    challenge = encode(Challenge(n=bytes(32), t=0), 1)
    for at in range(len(challenge)):
        assert link.feed(challenge[at : at + 1]) == []
    ((_, hello),) = said(link)
    assert isinstance(hello, Hello)
    assert hello.pop is not None
    assert pop_verify(public_of(SEED), bytes(32), Sub(b"\1" * 16), CallId(CALL), hello.pop)


def test_what_is_asked_before_the_challenge_follows_the_hello() -> None:
    link = Link(Credentials.of_token(RIG.token(CALL, 1, public_of(SEED)), SEED), Cli())
    number = link.request(Join(c=CALL))
    assert [type(body) for _, body in said(link)] == [Ping]
    assert link.feed(encode(Challenge(n=bytes(32), t=0), 1)) == []
    (_, hello), (asked, join) = said(link)
    assert isinstance(hello, Hello)
    assert (asked, join) == (number, Join(c=CALL))
    assert link.feed(encode(Challenge(n=bytes(32), t=0))) == []
    assert link.request(Join(c=CALL)) not in (0, number)


def test_a_seed_is_needed_when_the_token_names_a_key_and_dropped_when_not() -> None:
    with pytest.raises(SessionError) as caught:
        Credentials.of_token(RIG.token(CALL, 1, public_of(SEED)))
    assert caught.value.code == ErrorCode.POP_FAILED
    assert Credentials.of_token(RIG.token(CALL, 1), SEED).pop_seed is None
    assert "token" not in repr(Credentials.of_token(RIG.token(CALL, 1)))


def test_answers_come_back_with_the_id_of_their_question() -> None:
    link = Link(Credentials.of_token(RIG.token(CALL, 1)), Cli())
    link.take()
    number = link.request(Join(c=CALL))
    assert said(link) == [(number, Join(c=CALL))]
    assert link.feed(encode(Ok(), number)) == [(number, Ok())]
    assert link.feed(encode(WELCOME, 1)) == [(1, WELCOME)]
    assert link.welcome == WELCOME


def test_pings_are_answered_and_a_late_challenge_or_unknown_type_is_not() -> None:
    link = Link(Credentials.of_token(RIG.token(CALL, 1)), Cli())
    link.take()
    assert link.feed(encode(Ping(t=77))) == []
    assert said(link) == [(0, Pong(t=77))]
    assert link.feed(encode(Challenge(n=bytes(32), t=0))) == []
    assert link.feed(b"\0\5\x93\xcc\xfe\0\x80") == []
    assert link.take() == b""
    link.bye()
    assert said(link) == [(0, Bye(code=0))]


def test_a_relay_that_breaks_the_format_is_a_peer_error() -> None:
    link = Link(Credentials.of_token(RIG.token(CALL, 1)), Cli())
    with pytest.raises(PeerError):
        link.feed(b"\xff\xff")


@pytest.mark.parametrize("url", ["localhost:1", "https://a:1", "quic://", "quic://a:b", "quic://a:99999"])
def test_an_address_that_is_none_says_how_one_looks(url: str) -> None:
    with pytest.raises(LocalError, match="quic://host:port"):
        parse_url(url)


def test_addresses() -> None:
    assert parse_url("quic://relay.example") == ("quic", "relay.example", 443)
    assert parse_url("quic://[::1]:5000") == ("quic", "::1", 5000)
    assert parse_url("wss://relay.example") == ("ws", "relay.example", 443)
    assert parse_url("wss://[::1]:5000/vrl/1") == ("ws", "::1", 5000)


def test_an_address_alone_stands_for_all_ways_to_a_relay() -> None:
    quic, second, web = ("quic", "relay", 443), ("quic", "relay", 3478), ("ws", "relay", 443)
    assert ladder_of("quic://relay", None) == [quic, second, web]
    assert ladder_of("quic://relay", None, tcp=False) == [quic, second]
    assert ladder_of("quic://relay:443", None) == [quic]
    assert ladder_of("quic://relay", []) == [quic]
    assert ladder_of("wss://relay", None) == [web]
    assert ladder_of("wss://relay", ["quic://relay"]) == [web, quic]
    assert ladder_of("quic://relay", ["wss://relay"], tcp=False) == [quic, web]
