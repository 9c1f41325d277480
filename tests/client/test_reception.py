"""The receiving side without a network: flows that are told late, replays, forgeries, and the reports."""

from __future__ import annotations

from client.test_agreement import agreed
from relay.client.frames import KIND_APP, KIND_BUNDLE, KIND_OPUS, MediaFrame, seal
from relay.client.keyring import KeyRing
from relay.client.reception import HELD_PACKETS, HELD_S, Arrivals, Reception
from relay.protocol.media import PP_SPEECH, with_flow

OPUS = bytes((9 << 3,)) + b"sound"  # SILK wideband, 20 ms, one frame
FLOW = 9


def packets(ring: KeyRing, count: int, kind: int = KIND_OPUS, body: bytes = OPUS) -> list[bytes]:
    made = []
    for n in range(count):
        payload = seal(ring, 1, FLOW, MediaFrame(n * 8, kind, body), onset=n == 0, pp=PP_SPEECH)
        assert payload is not None
        made.append(payload)
    return made


def pair() -> tuple[KeyRing, Reception]:
    rings = agreed()
    return rings[0], Reception(rings[1])


def test_packets_before_the_gate_are_held_for_a_moment_and_then_heard() -> None:
    sender, reception = pair()
    sent = packets(sender, 3)
    reception.on_media(sent[0], 0.0)
    reception.on_media(sent[1], 0.0 + HELD_S)
    reception.on_gate({0: FLOW}, HELD_S + 0.001)
    reception.on_media(sent[2], HELD_S + 0.002)
    heard = reception.heard(0)
    assert (heard.received, heard.lost, reception.unknown) == (2, 0, 1)


def test_no_more_than_ten_packets_of_an_unknown_flow_are_held() -> None:
    sender, reception = pair()
    for payload in packets(sender, HELD_PACKETS + 5):
        reception.on_media(payload, 0.0)
    reception.on_gate({0: FLOW}, 0.0)
    assert (reception.heard(0).received, reception.unknown) == (HELD_PACKETS, 5)


def test_each_packet_counts_once_whichever_copy_comes_first() -> None:
    sender, reception = pair()
    reception.on_gate({0: FLOW}, 0.0)
    first, second = packets(sender, 2)
    for payload in (first, first, with_flow(second, FLOW, repeat=True), second):
        reception.on_media(payload, 0.0)
    heard = reception.heard(0)
    assert (heard.received, heard.duplicates, heard.recovered) == (2, 2, 1)


def test_whatever_is_wrong_is_counted_and_the_rest_goes_on() -> None:
    sender, reception = pair()
    reception.on_gate({0: FLOW}, 0.0)
    good, other = packets(sender, 2)
    bent = good[:-1] + bytes([good[-1] ^ 1])
    strange = good[:2] + bytes([good[2] | 0x70]) + good[3:]
    for payload in (b"", b"\1" * 10, bent, strange, good, *packets(sender, 1, body=b""), other):
        reception.on_media(payload, 0.0)
    heard = reception.heard(0)
    assert (reception.malformed, heard.unopened, heard.no_key, heard.received) == (2, 2, 1, 3)


def test_loss_is_what_the_counters_miss() -> None:
    sender, reception = pair()
    reception.on_gate({0: FLOW}, 0.0)
    for n, payload in enumerate(packets(sender, 100)):
        if n not in (3, 50, 51):
            reception.on_media(payload, n * 0.020)
    assert reception.heard(0).lost == 3
    assert reception.newest() == {0: 99}
    (entry,) = reception.receiver_report()
    assert (entry.p, entry.hi, entry.n, entry.lost) == (0, 99, 97, 3)


def test_the_leg_report_shows_the_newest_64_and_comes_only_with_news() -> None:
    sender, reception = pair()
    assert reception.flow_reports(0.0) == ()
    assert reception.receiver_report() == ()
    reception.on_gate({0: FLOW}, 0.0)
    for n, payload in enumerate(packets(sender, 80)):
        if n != 70:
            reception.on_media(payload, n * 0.020)
    (report,) = reception.flow_reports(79 * 0.020 + 0.004)
    assert (report.flow, report.base, report.newest, report.age_ms) == (FLOW, 16, 79, 4)
    assert report.missing() == [70]
    assert (report.delay_min, report.delay_p95) == (0, 0)
    assert reception.flow_reports(2.0) == ()


def test_a_young_stream_reports_from_zero() -> None:
    arrivals = Arrivals(2, 2)
    for ctr in (2, 5, 3):
        arrivals.mark(ctr)
    assert arrivals.report_map() == (0, 0b101100)
    assert arrivals.lost == 1


def test_bundles_become_frames_and_application_messages_go_to_the_application() -> None:
    rings = agreed()
    got: list[tuple[int, bytes]] = []
    reception = Reception(rings[1], lambda peer, data: got.append((peer, data)))
    reception.on_gate({0: FLOW}, 0.0)
    bundle = bytes((1, 8, len(OPUS))) + OPUS + OPUS
    later = MediaFrame(80, KIND_BUNDLE, bundle)
    payload = seal(rings[0], 1, FLOW, later, onset=False, pp=PP_SPEECH)
    assert payload is not None
    reception.on_media(payload, 0.0)
    (message,) = packets(rings[0], 1, KIND_APP, b"typing")
    reception.on_media(message, 0.0)
    assert got == [(0, b"typing")]
    jitter = reception.heard(0).jitter
    assert [jitter.pull(0.060), jitter.pull(0.080)] == [OPUS, OPUS]


def test_nothing_is_sealed_without_a_key() -> None:

    lonely = agreed()[0]
    assert seal(lonely, 7, FLOW, MediaFrame(0, KIND_OPUS, OPUS), onset=True, pp=PP_SPEECH) is None


def test_reports_are_calm_while_all_comes_in_time_and_once() -> None:
    sender, reception = pair()
    reception.on_gate({0: FLOW}, 0.0)
    sent = packets(sender, 60)

    def calm(*numbers: int, late: float = 0.0) -> bool:
        for n in numbers:
            reception.on_media(sent[n], n * 0.02 + late)
        return reception.is_calm(reception.flow_reports(2.0))

    assert calm(*range(10))
    assert calm()  # nothing came, nothing is told
    assert not calm(11)
    assert calm(10)  # it came after all
    reception.on_media(with_flow(sent[12], FLOW, repeat=True), 0.24)
    assert not calm(13)
    assert calm(14)
    assert not calm(*range(15, 60), late=0.1)
