"""Packets of unknown connections: who is admitted, who proves the address first, what is answered at all."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.front import AddressTokens, Admit, Answer, Front, RateGauge, SourceBuckets
from relay.edge.ids import ConnectionIds
from relay.protocol.address import Address
from relay.protocol.cid import FIRST_BYTE, CidCodec
from relay.protocol.demux import QUIC_V1, LongType, parse_long

SOURCE = Address("192.0.2.7", 5000)
OTHER = Address("192.0.2.8", 5000)
DCID, SCID = b"destined", b"source"
WALL = 1_800_000_000.0
SERVER_ID = b"\0\1\0"


def initial(
    *, version: int = QUIC_V1, dcid: bytes = DCID, token: bytes = b"", kind: int = 0, size: int = 1200
) -> bytes:
    head = bytes((0xC0 | kind << 4,)) + version.to_bytes(4, "big")
    head += bytes((len(dcid),)) + dcid + bytes((len(SCID),)) + SCID
    if kind == 0:
        head += (0x4000 | len(token)).to_bytes(2, "big") + token
    rest = size - len(head) - 2
    return head + (0x4000 | rest).to_bytes(2, "big") + bytes(rest)


class Bench:
    """A front with a clock that tests move."""

    def __init__(self, limits: LimitsConfig | None = None) -> None:
        rng = random.Random(1)
        self.limits = limits or LimitsConfig()
        self.draw = rng.randbytes
        self.tokens = AddressTokens([bytes(32), b"\1" * 32], self.limits.address_token_s, rng.randbytes)
        codec = CidCodec(b"k" * 16, SERVER_ID)
        self.ids = ConnectionIds(codec, b"r" * 32, 7)
        self.front = Front(
            self.limits,
            tokens=self.tokens,
            ids=codec,
            server_id=SERVER_ID,
            reset_token=self.ids.reset_token,
            draw=lambda size: self.draw(size),
        )
        self.now = 100.0

    def judge(self, data: bytes, source: Address = SOURCE, half_open: int = 0) -> object:
        return self.front.judge_long(data, source, self.now, WALL + self.now, half_open)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_first_packet_is_admitted_when_nothing_is_busy(bench: Bench) -> None:
    assert bench.judge(initial()) == Admit(DCID, None)


def test_version_2_is_spoken_too(bench: Bench) -> None:
    data = bytearray(initial(version=0x6B3343CF))
    data[0] = 0xC0 | 1 << 4  # Initial is type 1 in version 2
    assert isinstance(bench.judge(bytes(data)), Admit)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (initial(size=1199), DropReason.MALFORMED),
        (initial(dcid=b"seven77"), DropReason.MALFORMED),
        (initial(dcid=bytes(21)), DropReason.MALFORMED),
        (initial(kind=2), DropReason.UNKNOWN_ID),
        (initial(kind=1), DropReason.UNKNOWN_ID),
        (initial(version=0), DropReason.BAD_VERSION),
        (b"\xc0" + bytes(1199), DropReason.BAD_VERSION),
        (b"\x80" + initial()[1:], DropReason.MALFORMED),
    ],
)
def test_what_is_no_first_packet_is_dropped_by_name(bench: Bench, data: bytes, reason: DropReason) -> None:
    assert bench.judge(data) is reason


def retry_of(bench: Bench, half_open: int = 64) -> tuple[bytes, bytes]:
    """Token and new destination id out of a Retry."""
    answer = bench.judge(initial(), half_open=half_open)
    assert isinstance(answer, Answer)
    assert answer.kind == "retry"
    header = parse_long(answer.data)
    assert header.type is LongType.RETRY
    assert header.dcid == SCID
    return header.token, header.scid


def test_the_id_of_a_retry_never_looks_like_one_that_a_node_issued(bench: Bench) -> None:
    drawn = bench.draw
    for first in (FIRST_BYTE, FIRST_BYTE + 1):
        bench.draw = lambda size, first=first: bytes((first,)) + drawn(size - 1)
        assert (retry_of(bench)[1][0] == first) is (first != FIRST_BYTE)


def test_a_busy_node_asks_for_proof_with_an_answer_smaller_than_the_question(bench: Bench) -> None:
    answer = bench.judge(initial(), half_open=64)
    assert isinstance(answer, Answer)
    assert len(answer.data) < 200


def test_many_first_packets_a_second_turn_on_retry(bench: Bench) -> None:
    verdicts = [bench.judge(initial(), Address(f"192.0.2.{n}", 1)) for n in range(150)]
    assert sum(isinstance(verdict, Admit) for verdict in verdicts) == 100


def test_a_returned_token_proves_the_address_once(bench: Bench) -> None:
    token, destination = retry_of(bench)
    again = initial(token=token, dcid=destination)
    assert bench.judge(again, half_open=64) == Admit(DCID, destination)
    assert bench.judge(again, half_open=64) is DropReason.UNPROVEN


def test_a_token_of_another_source_proves_nothing(bench: Bench) -> None:
    token, destination = retry_of(bench)
    assert bench.judge(initial(token=token, dcid=destination), OTHER) is DropReason.UNPROVEN


def test_a_token_for_another_destination_id_proves_nothing(bench: Bench) -> None:
    token, _ = retry_of(bench)
    assert bench.judge(initial(token=token)) is DropReason.UNPROVEN


def test_an_old_token_proves_nothing(bench: Bench) -> None:
    token, destination = retry_of(bench)
    bench.now += 10.1
    assert bench.judge(initial(token=token, dcid=destination)) is DropReason.UNPROVEN


def test_a_forged_token_proves_nothing(bench: Bench) -> None:
    token, destination = retry_of(bench)
    forged = token[:-1] + bytes((token[-1] ^ 1,))
    assert bench.judge(initial(token=forged, dcid=destination)) is DropReason.UNPROVEN
    assert bench.judge(initial(token=b"RA", dcid=destination)) is DropReason.UNPROVEN


def test_a_token_of_somebody_else_counts_as_none(bench: Bench) -> None:
    assert isinstance(bench.judge(initial(token=b"from another service")), Admit)


def test_the_key_before_a_rotation_still_counts(bench: Bench) -> None:
    before = AddressTokens([b"\1" * 32], 10.0, random.Random(3).randbytes)
    token = before.mint(SOURCE, DCID, b"retrycid", WALL + bench.now)
    assert bench.judge(initial(token=token, dcid=b"retrycid")) == Admit(DCID, b"retrycid")


def test_at_the_cap_even_a_proven_address_waits(bench: Bench) -> None:
    token, destination = retry_of(bench)
    again = initial(token=token, dcid=destination)
    assert bench.judge(again, half_open=512) is DropReason.QUOTA
    assert bench.judge(again, half_open=511) == Admit(DCID, destination)  # its token is as good as before


def test_one_source_has_a_budget_of_its_own() -> None:
    bench = Bench(replace(LimitsConfig(), initials_per_source_burst=5))
    verdicts = [bench.judge(initial()) for _ in range(8)]
    assert verdicts[4:] == [Admit(DCID, None)] + [DropReason.OVER_BUDGET] * 3
    assert isinstance(bench.judge(initial(), OTHER), Admit)
    bench.now += 1.0
    assert isinstance(bench.judge(initial()), Admit)


def test_an_unknown_version_is_answered_within_the_budget_and_never_larger(bench: Bench) -> None:
    question = initial(version=0x1A2A3A4A)
    answers = [bench.judge(question) for _ in range(12)]
    assert isinstance(answers[0], Answer)
    assert answers[0].kind == "version_negotiation"
    assert len(answers[0].data) < len(question)
    assert answers[10:] == [DropReason.OVER_BUDGET] * 2


def test_version_negotiation_has_a_budget_in_all() -> None:
    bench = Bench(replace(LimitsConfig(), negotiations_per_s=3))
    question = initial(version=0x1A2A3A4A)
    verdicts = [bench.judge(question, Address(f"198.51.100.{n}", 1)) for n in range(5)]
    assert verdicts[3:] == [DropReason.OVER_BUDGET] * 2


def test_a_packet_for_an_id_of_a_former_process_is_reset_with_less_than_it_brought(bench: Bench) -> None:
    issued = bench.ids.issue()
    trigger = b"\x41" + issued.cid + bytes(60)
    answer = bench.front.judge_short(trigger, bench.now)
    assert isinstance(answer, Answer)
    assert answer.data[-16:] == issued.reset_token
    assert 21 <= len(answer.data) < len(trigger)


def test_resets_are_few_and_never_for_foreign_ids_or_short_packets(bench: Bench) -> None:
    trigger = b"\x41" + bench.ids.issue().cid + bytes(60)
    foreign = ConnectionIds(CidCodec(b"k" * 16, b"\0\2\0"), b"r" * 32, 7).issue().cid
    assert bench.front.judge_short(b"\x41" + foreign + bytes(60), bench.now) is DropReason.UNKNOWN_ID
    assert bench.front.judge_short(trigger[:42], bench.now) is DropReason.UNKNOWN_ID
    assert bench.front.judge_short(b"\x41" + bytes(70), bench.now) is DropReason.UNKNOWN_ID
    assert isinstance(bench.front.judge_short(trigger, bench.now), Answer)
    assert bench.front.judge_short(trigger, bench.now + 0.01) is DropReason.UNKNOWN_ID
    assert isinstance(bench.front.judge_short(trigger, bench.now + 0.021), Answer)


def test_a_reset_never_answers_a_reset_for_ever(bench: Bench) -> None:
    data: bytes = b"\x41" + bench.ids.issue().cid + bytes(60)
    for _ in range(100):
        bench.now += 1.0
        answer = bench.front.judge_short(data, bench.now)
        if isinstance(answer, DropReason):
            return
        data = answer.data[:1] + bench.ids.issue().cid + answer.data[9:]
    pytest.fail("two nodes would answer each other without end")


def test_source_buckets_do_not_grow() -> None:
    buckets = SourceBuckets(10, 10, b"salt")
    for number in range(20_000):
        buckets.take(number.to_bytes(4, "big"), number / 1000)
    assert len(buckets._level) == 4096


def test_the_gauge_counts_the_last_second() -> None:
    gauge = RateGauge()
    assert [gauge.add(10.0), gauge.add(10.2), gauge.add(10.6), gauge.add(11.1), gauge.add(15.0)] == [
        1,
        2,
        3,
        2,
        1,
    ]


def test_issued_ids_are_readable_by_the_cluster_and_never_look_like_channel_data(bench: Bench) -> None:
    seen = {bench.ids.issue().cid for _ in range(2000)}
    assert len(seen) == 2000
    assert all(cid[1] >= 0x10 for cid in seen)
