"""The messages of trunks: numbers, names, and which are answered."""

import pytest

from golden import load
from relay.protocol import messages
from relay.protocol import trunk_messages as t

# The table of docs/protocol.md, section 14: number, then the keys in wire order.
TABLE = {
    0x60: "Greet v node cluster region version variants boot dg routes now key pop path joins at",
    0x61: "Halves of more seq",
    0x62: "Beat seq halves ok",
    0x68: "Attach c tok rt n pop leg caps rtt term",
    0x69: "Attached c half p term variant joined lim standby",
    0x6A: "Say half m up",
    0x6B: "Gate half open ep at",
    0x6C: "Grant half to",
    0x6D: "Pull c p term route",
    0x6E: "Stop route out",
    0x6F: "HalfState half st code",
    0x70: "Close half why code sum up",
    0x71: "Ask c p bps pt ttl",
    0x72: "Part half sum",
    0x73: "Mirror c term ht over",
    0x74: "Shift c to term",
    0x75: "Taken c term node",
}
NOBODY = {"c": bytes(16), "n": bytes(32), "leg": "quic", "caps": messages.Caps(), "rtt": 0.0}
WHO = {
    "v": (1,),
    "node": "a",
    "cluster": "c",
    "region": "r",
    "version": "1",
    "variants": ("control",),
    "boot": bytes(8),
    "dg": 1200,
    "routes": 1,
    "now": 0,
}


def test_numbers_names_and_keys_are_those_of_the_table():
    found = {n: " ".join((cls.__name__, *cls.__struct_fields__)) for n, cls in t.OWN.items()}
    assert found == TABLE


def test_no_number_means_two_things():
    assert set(t.OWN).isdisjoint(messages.MESSAGES)
    assert set(t.SHARED.items()) <= set(messages.MESSAGES.items())


def test_each_message_has_a_golden_frame():
    told = {row["name"] for row in load("trunk")["frames"]}
    assert told == {cls.__name__ for cls in (t.OWN | t.SHARED).values()}


def test_what_is_answered_has_an_id_in_the_goldens_and_nothing_else_of_trunks_has():
    for row in load("trunk")["frames"]:
        if row["type"] in t.OWN:
            assert bool(row["id"]) is (t.OWN[row["type"]] in t.ANSWERED)


@pytest.mark.parametrize(
    "make",
    [
        lambda: t.Greet(**WHO, key=bytes(32)),
        lambda: t.Greet(**WHO, pop=bytes(64)),
        lambda: t.Attach(**NOBODY),
        lambda: t.Gate(half=1, open=2, ep=1, at={0: "a"}),
        lambda: t.Sum(sent=0, came=0, drops={}, quality=(t.Heard(p=1, packets=1), t.Heard(p=1, packets=2))),
        lambda: t.Mirror(c=bytes(16), term=1),
        lambda: t.Mirror(c=bytes(16), term=1, ht=b"", over=True),
    ],
)
def test_half_a_value_cannot_be_made(make):
    with pytest.raises(ValueError, match=r"\w"):
        make()


def test_a_whole_value_can():
    t.Greet(**WHO)
    t.Attach(**NOBODY, tok=b"t")
    t.Attach(**NOBODY, rt=b"t")
    t.Gate(half=1, open=2, ep=1, at={1: "a"})
    t.Sum(sent=0, came=0, drops={}, quality=(t.Heard(p=1, packets=1), t.Heard(p=2, packets=1)))
    t.Mirror(c=bytes(16), term=1, ht=b"")
    t.Mirror(c=bytes(16), term=1, over=True)


def test_what_may_be_logged_shows_no_key_and_no_person():
    greet = t.Greet(**WHO, key=bytes(32), pop=bytes(64))
    attach = t.Attach(**NOBODY, tok=b"secret", pop=bytes(64))
    assert "node='a'" in repr(greet)
    assert "secret" not in repr(attach)
    assert "x00" not in repr(greet) + repr(attach)


@pytest.mark.parametrize("half", [{"joins": bytes(32)}, {"at": 0}])
def test_who_joins_a_trunk_says_with_which_message(half):
    with pytest.raises(ValueError, match="with which message"):
        t.Greet(**WHO, **half)
    assert t.Greet(**WHO, path=2, joins=bytes(32), at=0).path == 2
