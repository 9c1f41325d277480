"""The key agreement: two honest sides agree, every lie is found, a run is bound before it sees the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.client.agreement import MAX_RUNS, Blob, Kind, Progress, decode
from relay.client.keyring import OLD_KEY_S, KeyRing
from relay.errors import PeerError
from relay.protocol.media import kid_of

CALL = bytes(range(16))


def draw_from(seed: str) -> Callable[[int], bytes]:
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_128(f"{seed} {count}".encode()).digest(size)

    return draw


def ring(index: int, seed: str = "", call: bytes = CALL) -> KeyRing:
    draw = draw_from(f"{index}{seed}")
    return KeyRing(call, index, Ed25519PrivateKey.from_private_bytes(draw(32)), draw)


def carry(rings: dict[int, KeyRing], pending: list[tuple[int, bytes]]) -> list[Blob]:
    """Deliver (sender, blob) pairs and their answers in order; the blobs that travelled."""
    seen = []
    while pending:
        sender, raw = pending.pop(0)
        seen.append(decode(raw))
        receiver = 1 - sender
        pending += [(receiver, answer) for answer in rings[receiver].on_blob(sender, raw)]
    return seen


def agreed() -> dict[int, KeyRing]:
    rings = {0: ring(0), 1: ring(1)}
    assert rings[0].meet(1) == []
    carry(rings, [(1, blob) for blob in rings[1].meet(0)])
    return rings


def test_two_honest_sides_agree_on_keys_and_on_the_short_string() -> None:
    rings = {0: ring(0), 1: ring(1)}
    blobs = carry(rings, [(1, blob) for blob in rings[1].meet(0)])
    assert [blob.kind.name for blob in blobs] == ["HELLO", "COMMIT", "OFFER", "REVEAL", "CONFIRM", "CONFIRM"]
    a, b = rings[0].keys(1), rings[1].keys(0)
    assert a is not None
    assert b is not None
    assert a.sas == b.sas
    assert len(a.sas) == 6
    assert a.sas.isdigit()
    assert a.send_base_key == b.receive_base_key
    assert a.receive_base_key == b.send_base_key
    assert a.send_base_key != a.receive_base_key
    assert a.peer_identity != b.peer_identity
    assert "base_key" not in repr(a)


def test_media_sealed_by_one_opens_at_the_other_and_not_at_itself() -> None:
    rings = agreed()
    sealer = rings[0].sealer(1)
    assert sealer is not None
    sealed = sealer.seal(b"aad", b"voice")
    assert rings[1].open(0, sealer.kid, 0, b"aad", sealed, 0.0) == b"voice"
    assert rings[1].open(0, sealer.kid, 0, b"aad", sealed, 0.0) is None
    with pytest.raises(PeerError, match="no key"):
        rings[0].open(1, sealer.kid, 0, b"aad", sealed, 0.0)


@pytest.mark.parametrize("kind", [Kind.COMMIT, Kind.OFFER, Kind.REVEAL, Kind.CONFIRM])
@pytest.mark.parametrize("sender", [0, 1])
def test_a_message_that_was_lost_with_its_node_comes_again_when_they_meet_again(
    kind: Kind, sender: int
) -> None:
    rings, lost = {0: ring(0), 1: ring(1)}, 0
    pending = [(1, blob) for blob in rings[1].meet(0)]
    while pending:
        who, raw = pending.pop(0)
        if (decode(raw).kind, who, lost) == (kind, sender, 0):
            lost = 1
            continue
        pending += [(1 - who, answer) for answer in rings[1 - who].on_blob(who, raw)]
    carry(rings, [(1, blob) for blob in rings[1].meet(0)])
    assert rings[0].keys(1) is not None
    assert rings[1].keys(0) is not None


@pytest.mark.parametrize("kind", [Kind.COMMIT, Kind.OFFER, Kind.REVEAL, Kind.CONFIRM])
@pytest.mark.parametrize("at", [0, 33, -1])
def test_a_changed_byte_in_any_message_never_ends_in_agreement(kind: Kind, at: int) -> None:
    rings = {0: ring(0), 1: ring(1)}
    pending = [(1, blob) for blob in rings[1].meet(0)]
    refused = 0
    while pending:
        sender, raw = pending.pop(0)
        blob = decode(raw)
        if blob.kind is kind:
            body = bytearray(blob.body)
            body[at % len(body)] ^= 1
            raw = blob._replace(body=bytes(body)).encode()
        try:
            pending += [(1 - sender, answer) for answer in rings[1 - sender].on_blob(sender, raw)]
        except PeerError:
            refused += 1
    assert refused >= 1
    assert rings[0].keys(1) is None or rings[1].keys(0) is None
    assert rings[0].has_failed(1) or rings[1].has_failed(0)


def test_the_responder_keeps_to_the_first_commitment() -> None:
    committer, responder = ring(0), ring(1)
    (hello,) = responder.meet(0)
    (commit,) = committer.on_blob(1, hello)
    (offer,) = responder.on_blob(0, commit)
    other = decode(commit)._replace(body=bytes(32)).encode()
    assert responder.on_blob(0, other) == []
    assert responder.on_blob(0, commit) == [offer]
    assert committer.on_blob(1, hello) == [commit]


def test_a_relay_in_the_middle_gives_the_two_people_different_strings() -> None:
    honest = {0: ring(0), 1: ring(1)}
    middle = {0: ring(0, "evil"), 1: ring(1, "evil")}
    carry({0: honest[0], 1: middle[1]}, [(1, blob) for blob in middle[1].meet(0)])
    carry({0: middle[0], 1: honest[1]}, [(1, blob) for blob in honest[1].meet(0)])
    left, right = honest[0].keys(1), honest[1].keys(0)
    assert left is not None
    assert right is not None
    assert left.sas != right.sas


def test_a_call_takes_a_bounded_number_of_runs() -> None:
    committer = ring(0)
    for n in range(MAX_RUNS):
        assert len(committer.on_blob(1, Blob(Kind.HELLO, 0, bytes([n] * 8), bytes(8), b"").encode())) == 1
    with pytest.raises(PeerError, match="too many"):
        committer.on_blob(1, Blob(Kind.HELLO, 0, b"straw...", bytes(8), b"").encode())


def test_of_two_ringing_devices_the_one_that_took_the_call_is_sealed_for() -> None:
    caller, phone, tablet = ring(0), ring(1, "phone"), ring(1, "tablet")
    for device in (phone, tablet):
        carry({0: caller, 1: device}, [(1, blob) for blob in device.meet(0)])
    assert caller.sealer(1) is None
    for blob in phone.choose(0):
        caller.on_blob(1, blob)
    sealer = caller.sealer(1)
    assert sealer is not None
    sealed = sealer.seal(b"", b"for the phone")
    assert phone.open(0, sealer.kid, 0, b"", sealed, 0.0) == b"for the phone"
    with pytest.raises(PeerError):
        tablet.open(0, sealer.kid, 0, b"", sealed, 0.0)
    tablet_sealer = tablet.sealer(0)
    assert tablet_sealer is not None
    assert caller.open(1, tablet_sealer.kid, 0, b"", tablet_sealer.seal(b"", b"x"), 0.0) == b"x"


def test_a_forged_choice_changes_nothing() -> None:
    rings = agreed()
    (blob,) = rings[1].choose(0)
    forged = decode(blob)._replace(body=bytes(32)).encode()
    assert rings[0].on_blob(1, forged) == []
    run = rings[0].best(1)
    assert run is not None
    assert not run.chosen
    assert run.progress is Progress.DONE


@pytest.mark.parametrize("starter", [0, 1])
def test_a_rekey_changes_keys_and_keeps_the_compared_string(starter: int) -> None:
    rings = agreed()
    before = rings[0].keys(1)
    old = rings[0].sealer(1)
    assert before is not None
    assert old is not None
    late = old.seal(b"", b"late")
    carry(rings, [(starter, blob) for blob in rings[starter].rekey(1 - starter)])
    after = rings[0].keys(1)
    assert after is not None
    assert (after.epoch, after.sas) == (1, before.sas)
    assert after.send_base_key != before.send_base_key
    new = rings[0].sealer(1)
    assert new is not None
    assert (new.kid, new.next_ctr) == (kid_of(0, 1, group=False), 0)
    assert rings[1].open(0, new.kid, 0, b"", new.seal(b"", b"new"), 100.0) == b"new"
    assert rings[1].open(0, old.kid, 0, b"", late, 100.0) == b"late"
    with pytest.raises(PeerError, match="no key"):
        rings[1].open(0, old.kid, 1, b"", old.seal(b"", b"too late"), 100.0 + OLD_KEY_S)


def test_a_peer_that_restarts_in_the_call_gets_keys_and_the_counter_goes_on() -> None:
    caller, before, after = ring(0), ring(1, "before"), ring(1, "after")
    carry({0: caller, 1: before}, [(1, blob) for blob in before.meet(0)])
    sealer = caller.sealer(1)
    assert sealer is not None
    sealer.seal(b"", b"one")
    carry({0: caller, 1: after}, [(1, blob) for blob in after.meet(0)])
    for blob in after.choose(0):
        caller.on_blob(1, blob)
    again = caller.sealer(1)
    assert again is not None
    assert again is not sealer
    assert (again.kid, again.next_ctr) == (sealer.kid, 1)
    assert after.open(0, again.kid, 1, b"", again.seal(b"", b"two"), 0.0) == b"two"


@pytest.mark.parametrize("raw", [b"", b"\1" * 18, b"\2" + bytes(30), b"\1\x09" + bytes(30)])
def test_garbage_is_a_peer_error(raw: bytes) -> None:
    with pytest.raises(PeerError):
        ring(0).on_blob(1, raw)


def test_what_is_meant_for_another_device_or_a_lost_run_is_ignored() -> None:
    committer, responder = ring(0), ring(1)
    stranger = Blob(Kind.OFFER, 0, bytes(8), b"somebody", b"")
    assert committer.on_blob(1, stranger.encode()) == []
    assert committer.on_blob(1, stranger._replace(target=bytes(8)).encode()) == []
    assert committer.on_blob(1, Blob(Kind.HELLO, 3, bytes(8), bytes(8), b"").encode()) == []
    assert responder.rekey(0) == []
    assert responder.sealer(0) is None


def test_every_base_key_can_be_listed_for_a_memory_search() -> None:
    rings = agreed()
    assert sorted(rings[0].base_keys()) == sorted(rings[1].base_keys())
    assert len(rings[0].base_keys()) == 2
