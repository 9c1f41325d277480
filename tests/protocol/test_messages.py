"""The message table: numbers, names, and reprs that may be logged."""

import msgspec
import pytest

from golden import load
from relay.protocol import messages
from relay.protocol.messages import MESSAGES

# The table of docs/protocol.md: number, then the keys in wire order.
TABLE = {
    0x01: "Challenge n t",
    0x02: "Hello v tok resume stand pop caps leg cli",
    0x03: "Welcome v sid obs dg ka ack lim node now",
    0x04: "Ok",
    0x05: "Err code msg fatal retry_ms data",
    0x06: "Ping t",
    0x07: "Pong t",
    0x08: "TokenUpdate tok",
    0x09: "Bye code reason",
    0x0A: "Ticket rt ttl ht",
    0x10: "Join c want",
    0x11: "Accept c suites",
    0x12: "Decline c why",
    0x13: "Joined c p up roster gate rly rt standby",
    0x14: "Gate c open ep fl",
    0x15: "Peer c p ev sub why",
    0x16: "Hangup c why",
    0x17: "Ended c why code data",
    0x18: "Rejoin c rt last",
    0x19: "Mod c p op",
    0x1B: "Block c p on",
    0x20: "Mute c p on hard",
    0x23: "Rate c bps pt fec red dtx ttl",
    0x24: "Rr c s",
    0x25: "LegStats rtt up_loss dn_loss dn_drop q_ms est_up est_dn mp",
    0x27: "Feedback c stars",
    0x28: "Report c p reason",
    0x30: "Cand c to gen b kinds acl end p",
    0x31: "Obs ip port seq",
    0x32: "Punch c p round delay_ms",
    0x33: "Path c p use rtt loss",
    0x34: "Turn urls user password ttl",
    0x38: "E2e c to k b p",
    0x40: "Drain in_ms by_ms to ht stb",
    0x41: "Moved c ok",
    0x42: "Carry c way",
}


def test_numbers_names_and_keys_are_those_of_the_table():
    found = {n: " ".join((cls.__name__, *cls.__struct_fields__)) for n, cls in MESSAGES.items()}
    assert found == TABLE


def test_each_message_has_a_golden_frame():
    assert {row["name"] for row in load("control")["frames"]} == {cls.__name__ for cls in MESSAGES.values()}


def test_a_message_cannot_be_changed():
    with pytest.raises(AttributeError):
        messages.Ping(t=1).t = 2


def test_the_version_is_written_even_where_it_is_the_default():
    assert b"\xa1v" in msgspec.msgpack.encode(messages.Hello())
    lim = messages.Limits(up=1, dn=1, pps=1)
    welcome = messages.Welcome(sid=bytes(16), obs=("::1", 1), ka=5, lim=lim, node="n", now=0)
    assert b"\xa1v\x01" in msgspec.msgpack.encode(welcome)


def test_a_repr_shows_numbers_and_closed_words_but_no_id_token_or_address():
    hello = messages.Hello(tok=b"secret", cli=messages.Cli(os="linux"))
    assert "tok=<6 bytes>" in repr(hello)
    assert "os='linux'" in repr(hello)
    assert "resume=None" in repr(hello)
    assert repr(messages.Obs(ip="192.0.2.1", port=7, seq=1)) == "Obs(ip=…, port=7, seq=1)"
    assert repr(messages.Ended(c=b"c" * 16, why="missed")).startswith("Ended(c=<16 bytes>, why='missed'")
    entry = messages.RosterEntry(p=0, sub=b"s" * 16, st="joined")
    joined = messages.Joined(c=b"c" * 16, p=0, up=1, roster=(entry,))
    assert "sss" not in repr(joined) + repr(entry)
