"""The native front beside its plain twin: the same verdicts, tokens that each takes from the other."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import Any

import pytest
from aioquic.quic.packet import encode_quic_retry

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.front import AddressTokens, Admit, Answer, Front
from relay.edge.ids import ConnectionIds
from relay.protocol.address import Address
from relay.protocol.cid import CidCodec
from relay.protocol.demux import QUIC_V1, QUIC_V2, parse_long

lane = pytest.importorskip("relay._lane", reason="the native lane is not built")

WALL = 1_800_000_000.0
SERVER_ID = b"\0\1\0"
RETRY_KEYS = [b"\3" * 32, b"\4" * 32]
CID_KEY, RESET_KEY = b"k" * 16, b"r" * 32
RECENT_LIFE, RECENT_PACKETS = 1.0, 8  # of budget.rs: an id let in is open to more of its handshake
AMPLE = {
    "initials_per_source_per_s": 1_000_000,
    "initials_per_source_burst": 1_000_000,
    "negotiations_per_source_per_s": 1_000_000,
}
LIMIT_NAMES = (
    "half_open",
    "retry_above_half_open",
    "retry_above_initials_per_s",
    "initials_per_source_per_s",
    "initials_per_source_burst",
    "negotiations_per_source_per_s",
    "negotiations_per_s",
    "resets_per_s",
    "address_token_s",
)
Verdict = Admit | Answer | DropReason


def native_front(limits: LimitsConfig) -> Any:
    values = {name: value for name, value in asdict(limits).items() if name in LIMIT_NAMES}
    keys = {"retry_keys": RETRY_KEYS, "cid_key": CID_KEY, "server_id": SERVER_ID, "reset_key": RESET_KEY}
    return lane.Front(**keys, **values)


class Both:
    """The two fronts, and what stands between the plain one and its packets: the endpoint's table of ids."""

    def __init__(self, limits: LimitsConfig, rng: random.Random) -> None:
        codec = CidCodec(CID_KEY, SERVER_ID)
        self.ids = ConnectionIds(codec, RESET_KEY, 7)
        self.plain = Front(
            limits,
            tokens=AddressTokens(RETRY_KEYS, limits.address_token_s, rng.randbytes),
            ids=codec,
            server_id=SERVER_ID,
            reset_token=self.ids.reset_token,
            draw=rng.randbytes,
        )
        self.native = native_front(limits)
        self.now = 100.0
        self._open: dict[tuple[bytes, Any], tuple[Verdict, float, list[int]]] = {}

    def ask_plain(
        self, data: bytes, address: Any, half_open: int, *, accepting: bool, legs_full: bool
    ) -> Verdict:
        if data[0] < 0x80:
            return self.plain.judge_short(data, self.now)
        key = (data[6 : 6 + data[5]], address)
        verdict, at, left = self._open.get(key, (DropReason.INTERNAL, -1e9, [0]))
        if self.now - at <= RECENT_LIFE:
            left[0] -= 1
            return verdict if left[0] >= 0 else DropReason.OVER_BUDGET
        if not accepting:
            return DropReason.DRAINING
        if legs_full:
            return DropReason.QUOTA
        verdict = self.plain.judge_long(data, Address.parse(address), self.now, WALL + self.now, half_open)
        if isinstance(verdict, Admit):
            self._open[key] = (verdict, self.now, [RECENT_PACKETS])
        return verdict

    def ask_native(
        self, data: bytes, address: Any, half_open: int, *, accepting: bool, legs_full: bool
    ) -> Verdict:
        self.native.set(accepting=accepting, half_open=half_open, legs_full=legs_full)
        return verdict_of(self.native.judge(data, address, self.now, WALL + self.now))


def verdict_of(result: tuple[Any, ...]) -> Verdict:
    kind, *rest = result
    if kind == "drop":
        return DropReason(rest[0])
    return Admit(*rest) if kind == "admit" else Answer(rest[1], rest[0])


class Traffic:
    """Packets of all sorts, and tokens that came back with Retries, in one seeded order."""

    def __init__(self, rng: random.Random, addresses: list[Any], ids: ConnectionIds) -> None:
        self.rng = rng
        self.addresses = addresses
        self.tokens: list[tuple[bytes, bytes, Any]] = []
        self._own = [ids.issue().cid for _ in range(40)]

    def packet(self) -> tuple[bytes, Any]:
        rng = self.rng
        address = rng.choice(self.addresses)
        if rng.random() < 0.15:
            cid = rng.choice(self._own) if rng.random() < 0.5 else rng.randbytes(8)
            return b"\x41" + cid + rng.randbytes(rng.choice((0, 20, 33, 34, 100, 1100))), address
        if self.tokens and rng.random() < 0.4:
            token, dcid, address = rng.choice(self.tokens[-200:])
            if rng.random() < 0.2:
                address = rng.choice(self.addresses)
            if rng.random() < 0.1:
                token = self._spoil(token)
        else:
            token = rng.choice((b"", b"", b"", b"RA", b"RA" + rng.randbytes(60), rng.randbytes(30)))
            dcid = rng.randbytes(rng.choice((8, 8, 8, 8, 7, 18, 20, 21)))
        data = self._initial(token, dcid)
        return (self._spoil(data) if rng.random() < 0.15 else data), address

    def _initial(self, token: bytes, dcid: bytes) -> bytes:
        rng = self.rng
        version = rng.choice((QUIC_V1,) * 8 + (QUIC_V2,) * 4 + (0x1A2A3A4A, 0))
        kind = (0, 1)[version == QUIC_V2] if rng.random() < 0.9 else rng.randrange(4)
        scid = rng.randbytes(rng.choice((0, 8, 20)))
        head = bytes((0xC0 | kind << 4,)) + version.to_bytes(4, "big")
        head += bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
        head += (0x4000 | len(token)).to_bytes(2, "big") + token
        rest = rng.choice((1200, 1200, 1200, 1252, 1199)) - len(head) - 2
        return head + (0x4000 | rest).to_bytes(2, "big") + bytes(rest)

    def _spoil(self, data: bytes) -> bytes:
        """One byte of the first hundred changed, or the end cut off: still long enough to be judged."""
        spoiled = bytearray(data)
        at = self.rng.randrange(1, min(len(data), 100))
        spoiled[at] ^= 1 << self.rng.randrange(8)
        return bytes(spoiled[: max(7, self.rng.randrange(len(data)))] if self.rng.random() < 0.2 else spoiled)

    def keep(self, verdict: Verdict, address: Any) -> None:
        if isinstance(verdict, Answer) and verdict.kind == "retry":
            retry = parse_long(verdict.data)
            self.tokens.append((retry.token, retry.scid, address))


def check_equal(question: bytes, address: Any, plain: Verdict, native: Verdict, wall: float) -> None:
    if not isinstance(plain, Answer) or not isinstance(native, Answer):
        assert native == plain
        return
    assert (native.kind, len(native.data)) == (plain.kind, len(plain.data))
    if native.kind == "stateless_reset":
        assert native.data[-16:] == plain.data[-16:]
    elif native.kind == "version_negotiation":
        assert native.data[1:] == plain.data[1:]  # the first byte has noise
    else:
        asked, retry = parse_long(question), parse_long(native.data)
        assert native.data == encode_quic_retry(
            version=asked.version,
            source_cid=retry.scid,
            destination_cid=asked.scid,
            original_destination_cid=asked.dcid,
            retry_token=retry.token,
        )
        checker = AddressTokens(RETRY_KEYS, 10.0, random.Random(1).randbytes)
        assert checker.check(retry.token, Address.parse(address), retry.scid, wall) == asked.dcid


def compare(
    limits: LimitsConfig, addresses: list[Any], seed: int, count: int
) -> tuple[set[object], dict[str, int]]:
    """Put generated packets to both; the verdicts that came up."""
    rng = random.Random(seed)
    both = Both(limits, rng)
    traffic = Traffic(rng, addresses, both.ids)
    seen: set[object] = set()
    counts = {"from_native": 0, "from_plain": 0}
    for _ in range(count):
        both.now += rng.choice((0.0001, 0.001, 0.005, 0.03))
        data, address = traffic.packet()
        half_open = rng.choice((0, 0, 0, 63, 64, 511, 512))
        state = {"accepting": rng.random() < 0.97, "legs_full": rng.random() < 0.03}
        plain = both.ask_plain(data, address, half_open, **state)
        native = both.ask_native(data, address, half_open, **state)
        check_equal(data, address, plain, native, WALL + both.now)
        seen.add(native if isinstance(native, DropReason) else getattr(native, "kind", type(native)))
        if isinstance(native, Admit) and native.retry_source is not None:
            seen.add("proven")
        if isinstance(native, Answer) and native.kind == "retry":
            came_by = rng.choice(("native", "plain"))
            traffic.keep(native if came_by == "native" else plain, address)
            counts[f"from_{came_by}"] += 1
    return seen, counts


@pytest.mark.parametrize("seed", range(6))
def test_from_many_sources_both_judge_every_packet_alike(seed: int) -> None:
    addresses: list[Any] = [(f"192.0.2.{n}", 1000 + n) for n in range(40)]
    addresses += [(f"2001:db8:{n:x}::{n:x}:0:1", 2000 + n, 0, 0) for n in range(40)]
    addresses += [(f"::ffff:198.51.100.{n}", 3000 + n, 0, 0) for n in range(40)]
    addresses += [("2001:db8::1:0:0:1", 9, 0, 0), ("2001:0:0:1::1", 9, 0, 0), ("::1:2:3", 65_535, 0, 0)]
    seen, counts = compare(replace(LimitsConfig(), **AMPLE), addresses, seed, 4000)
    expected = {"malformed", "bad_version", "unknown_id", "unproven", "quota", "draining"}
    assert seen >= {DropReason(name) for name in expected}
    assert seen >= {"proven", "retry", "version_negotiation", "stateless_reset", Admit}
    assert min(counts.values()) > 100


@pytest.mark.parametrize("seed", range(2))
def test_from_one_source_both_run_out_of_budget_at_the_same_packet(seed: int) -> None:
    limits = replace(LimitsConfig(), initials_per_source_per_s=20, initials_per_source_burst=30)
    seen, _ = compare(limits, [("192.0.2.7", 5000)], 100 + seed, 3000)
    assert DropReason.OVER_BUDGET in seen


@pytest.mark.parametrize(
    "spelling", [("192.0.2.7", 5000), ("::ffff:192.0.2.7", 5000, 0, 0), ("2001:db8::a:0:0:1", 1, 0, 0)]
)
def test_a_token_of_either_is_taken_by_the_other_once(spelling: Any) -> None:
    limits = LimitsConfig()
    both = Both(limits, random.Random(5))
    traffic = Traffic(random.Random(6), [spelling], both.ids)
    ask = b"\xc0\0\0\0\1\x08destined\x04here\0\x40\x40" + bytes(1200 - 22)
    calm = {"accepting": True, "legs_full": False}
    from_plain = both.ask_plain(ask, spelling, 64, **calm)
    from_native = both.ask_native(ask, spelling, 64, **calm)
    for verdict in (from_plain, from_native):
        traffic.keep(verdict, spelling)
    assert len(traffic.tokens) == 2
    for token, cid, _ in traffic.tokens:
        head = b"\xc0\0\0\0\1\x08" + cid + b"\x04here" + (0x4000 | len(token)).to_bytes(2, "big") + token
        again = head + b"\x40\x40" + bytes(1200 - len(head) - 2)
        for judge in (both.ask_plain, both.ask_native):
            assert judge(again, spelling, 64, **calm) == Admit(b"destined", cid)
        both.now += RECENT_LIFE + 0.1
        for judge in (both.ask_plain, both.ask_native):
            assert judge(again, spelling, 64, **calm) is DropReason.UNPROVEN


def test_a_front_says_which_setting_it_misses_or_cannot_use() -> None:
    values = {name: value for name, value in asdict(LimitsConfig()).items() if name in LIMIT_NAMES}
    keys = {"retry_keys": RETRY_KEYS, "cid_key": CID_KEY, "server_id": SERVER_ID, "reset_key": RESET_KEY}
    good = keys | values
    for name in good:
        with pytest.raises(ValueError, match=name):
            lane.Front(**{key: value for key, value in good.items() if key != name})
    for bad in ({"server_id": b"\0\1"}, {"half_open": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            lane.Front(**(good | bad))
    for bad in ({"cid_key": b"k"}, {"retry_keys": [b"k"]}, {"retry_keys": []}):
        with pytest.raises(ValueError, match="key"):
            lane.Front(**(good | bad))
