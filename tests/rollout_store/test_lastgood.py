"""The last-known-good state as bytes and value: what is refused by which name, and when it is served."""

from __future__ import annotations

import random
from base64 import b64encode

import pytest

from relay.errors import LocalError
from relay.protocol.signed import kid_of, public_of, sign
from relay.rollout.lastgood import (
    DOMAIN,
    EARLY_S,
    LIFE_S,
    MOST_BYTES,
    Body,
    Floor,
    Kills,
    Offer,
    Refusal,
    RefusedError,
    Serving,
    accepted,
    admit,
    parse,
    read_floor,
    read_kills,
    seal,
    stand,
    write_floor,
    write_kills,
)

OLD, NEW, OTHER = (bytes([n]) * 32 for n in range(3))
KEYS = accepted([public_of(OLD), public_of(NEW)])
NOW = 1_800_000_000
OFFER = Offer("relay-0.4", "s1", always=("dogfood",), regions={"eu-1": 5, "us-1": 0.5})
BODY = Body(7, NOW, NOW + LIFE_S, OFFER, {"eu-1": {"relays": ["a", "b"]}})


def signed(text: bytes, seed: bytes = NEW, domain: bytes = DOMAIN) -> bytes:
    """Whatever the text is, under a good signature."""
    kid = kid_of(public_of(seed))
    return b"VRS1 %s %s\n%s" % (bytes(kid).hex().encode(), b64encode(sign(seed, domain + kid + text)), text)


def why(raw: bytes) -> Refusal:
    with pytest.raises(RefusedError) as error:
        parse(raw, KEYS)
    return error.value.why


def test_what_was_sealed_is_read_under_either_key_and_has_one_spelling() -> None:
    for seed in (OLD, NEW):
        state = parse(seal(BODY, seed), KEYS)
        assert state.body == BODY
        assert state.kid == kid_of(public_of(seed))
    text = seal(BODY, OLD).partition(b"\n")[2]
    assert text == (
        b'{"issued_at":1800000000,"not_after":1800604800,"rev":7,"rollout":{"always":["dogfood"],"groups":{},'
        b'"id":"relay-0.4","kind":"release","never":[],"on_kill":null,"regions":{"eu-1":5,"us-1":0.5},'
        b'"salt":"s1"},'
        b'"routes":{"eu-1":{"relays":["a","b"]}}}'
    )
    # Signed anew in a rotation, it is the same state.
    assert parse(seal(BODY, OLD), KEYS).floor == parse(seal(BODY, NEW), KEYS).floor


def test_a_state_of_an_operator_who_knows_no_kinds_is_of_a_release() -> None:
    times = b'"issued_at":1800000000,"not_after":1800604800'
    text = b'{%s,"rev":7,"rollout":{"id":"r1","salt":"s1"},"routes":{}}' % times
    offer = parse(signed(text), KEYS).body.rollout
    assert offer is not None
    assert (offer.kind, offer.on_kill) == ("release", None)


def test_each_thing_that_is_wrong_has_its_name() -> None:
    raw = seal(BODY, NEW)
    head, _, text = raw.partition(b"\n")
    assert why(seal(BODY, OTHER)) is Refusal.UNKNOWN_KEY
    assert why(raw.replace(b'"eu-1":5', b'"eu-1":6')) is Refusal.BAD_SIGNATURE
    assert why(signed(text, domain=b"vrl-cmd-v1\0")) is Refusal.BAD_SIGNATURE
    assert why(raw + b"\n") is Refusal.BAD_SIGNATURE
    assert why(head) is Refusal.MALFORMED
    assert why(b"") is Refusal.MALFORMED
    assert why(b"VRS2" + raw[4:]) is Refusal.MALFORMED
    assert why(raw.replace(head, head[:-4])) is Refusal.MALFORMED
    assert why(raw.replace(head, head.replace(head.split()[1], b"12"))) is Refusal.MALFORMED
    assert why(raw + b" " * MOST_BYTES) is Refusal.TOO_LARGE
    assert why(signed(text.replace(b",", b", ", 1))) is Refusal.NOT_CANONICAL
    assert why(signed(text.replace(b'"rev":7', b'"rev":7,"rev":7'))) is Refusal.NOT_CANONICAL
    assert why(signed(b"[" * 100_000)) is Refusal.BAD_BODY
    for wrong in (
        b"null",
        text.replace(b'"rev":7', b'"rev":0'),
        text.replace(b'"rev":7,', b""),
        text.replace(b'"rev":7', b'"rev":7,"revoked":1'),
        text.replace(b'"eu-1":5', b'"eu-1":101'),
        text.replace(b'"eu-1":5', b'"eu-1":-1'),
        text.replace(b'"salt":"s1"', b'"salt":"a|b"'),
        text.replace(b"1800604800", b"1800604801"),  # lives too long
        text.replace(b"1800604800", b"1800000000"),  # or never
    ):
        assert wrong != text
        assert why(signed(wrong)) is Refusal.BAD_BODY, wrong


def test_a_file_cut_off_or_changed_anywhere_is_refused_and_never_more_than_that() -> None:
    raw = seal(BODY, NEW)
    chance = random.Random(1)
    for size in range(len(raw)):
        why(raw[:size])
    for _ in range(500):
        at = chance.randrange(len(raw))
        damaged = raw[:at] + bytes([raw[at] ^ 1 << chance.randrange(8)]) + raw[at + 1 :]
        assert why(damaged) in (Refusal.MALFORMED, Refusal.UNKNOWN_KEY, Refusal.BAD_SIGNATURE)


def test_a_lower_revision_and_other_words_under_the_same_one_are_refused() -> None:
    now = parse(seal(BODY, NEW), KEYS)
    floor = now.floor
    admit(now, None)
    admit(now, floor)
    admit(parse(seal(Body(8, NOW, NOW + 9, None), NEW), KEYS), floor)
    for body, expected in (
        (Body(6, NOW + 5, NOW + 10, OFFER), Refusal.LOWER_REV),
        (Body(7, NOW, NOW + LIFE_S, None), Refusal.OTHER_BYTES),
    ):
        with pytest.raises(RefusedError) as error:
            admit(parse(seal(body, NEW), KEYS), floor)
        assert error.value.why is expected


def test_in_doubt_everyone_gets_control() -> None:
    state = parse(seal(BODY, NEW), KEYS)
    none = Kills()
    for wall, kills, serving in (
        (NOW, none, Serving.STATE),
        (NOW - EARLY_S, none, Serving.STATE),
        (NOW - EARLY_S - 1, none, Serving.EARLY),
        (NOW + LIFE_S - 1, none, Serving.STATE),
        (NOW + LIFE_S, none, Serving.EXPIRED),
        (NOW, Kills(ids=frozenset({"relay-0.5"})), Serving.STATE),
        (NOW, Kills(ids=frozenset({"relay-0.4"})), Serving.KILLED),
        (NOW, Kills(everything=True), Serving.KILLED),
        (NOW + LIFE_S, Kills(everything=True), Serving.EXPIRED),
    ):
        standing = stand(state, wall, kills)
        assert standing.serving is serving
        assert standing.offer == (OFFER if serving is Serving.STATE else None)
        assert (standing.revision, standing.routes) == (7, BODY.routes)
        assert (standing.known, standing.is_killed) == (OFFER, kills.cover("relay-0.4"))
    assert stand(None, NOW, none).serving is Serving.NONE
    assert stand(None, NOW, none).offer is None
    assert stand(None, NOW, none).known is None
    closed = parse(seal(Body(8, NOW, NOW + 9, None), NEW), KEYS)
    assert stand(closed, NOW, Kills(ids=frozenset({"relay-0.4"}))).serving is Serving.STATE


def test_a_kill_file_that_is_not_understood_kills_everything() -> None:
    assert read_kills(None) == Kills()
    assert read_kills(b"relay-0.4 # drops\n\n r2\n") == Kills(ids=frozenset({"relay-0.4", "r2"}))
    for raw in (b"", b"\n", b"# why\n", b"\xff\xfe", b"*\n"):
        assert read_kills(raw).cover("anything"), raw
    assert read_kills(write_kills(["b", "a"])).ids == {"a", "b"}
    assert not read_kills(write_kills(["b", "a"])).cover("c")


def test_a_floor_comes_back_and_nothing_else_is_one() -> None:
    floor = Floor(7, "ab" * 32)
    assert read_floor(write_floor(floor)) == floor
    assert read_floor(None) is None
    for raw in (b"", b"7", b'["a",7]', b"[7]"):
        with pytest.raises(RefusedError) as error:
            read_floor(raw)
        assert error.value.why is Refusal.BAD_FLOOR


def test_nobody_seals_what_no_reader_would_take() -> None:
    nowhere = Offer("r", "s", kind="open", on_kill="move")  # calls that nobody may make have no other place
    for body in (
        Body(7, NOW, NOW + 1, nowhere),
        Body(7, NOW, NOW + LIFE_S + 1, None),
        Body(0, NOW, NOW + 1, None),
        Body(7, NOW, NOW + 1, Offer("r", "s", regions={"eu-1": 101})),
    ):
        with pytest.raises(LocalError):
            seal(body, NEW)
    with pytest.raises(LocalError):
        accepted([public_of(bytes([n]) * 32) for n in range(3)])
