"""The voice lab's own parts: which calls, over what network, how what was heard is lined up and judged."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from impair import NETS, Independent, Net
from lab import mixed, plot, speech, voice
from lab.cells import GRID, JUDGED, LEAD_S, QUICK, Cell, Job, Key, batches, error, finish, is_void
from lab.lastmile import LastMile, with_round_trip
from lab.schemes import SCHEMES, Deaf, bundle
from load import report
from relay.client.frames import KIND_BUNDLE, KIND_OPUS, MediaFrame, unbundle
from relay.protocol.messages import Rate

numpy = pytest.importorskip("numpy")


def cell(key: Key, *pesq: float, size: int = 1000, lost: float = 0.1, **oldest: float) -> Cell:
    return Cell(key, pesq, (), size, lost, (0.0,) * len(pesq), 0, 0, {"first_over": 0.0, **oldest})


# ---------------------------------------------------------------- which calls


def test_every_cell_is_of_a_known_network_and_scheme_and_has_its_plain_one_beside_it() -> None:
    for keys in (JUDGED, QUICK, GRID):
        assert {key.net for key in keys} <= set(NETS)
        assert {key.scheme for key in keys} <= set(SCHEMES)
        assert {key.base for key in keys} <= set(keys)
        assert len(keys) == len(set(keys))


def test_each_call_is_in_one_batch_with_all_schemes_of_its_clip_near_and_none_of_another_length() -> None:
    parts = batches(JUDGED, 3, at_once=8)
    assert sorted((job.clip, job.key) for part in parts for job in part) == sorted(
        (clip, key) for key in JUDGED for clip in range(3)
    )
    assert max(map(len, parts)) == 8
    assert all(len({job.key.lead_s for job in part}) == 1 for part in parts)
    assert [job.clip for job in parts[1]] == [0] * 8  # all schemes of the first clip


def test_a_batch_is_void_when_its_process_was_late_once_by_much_or_often() -> None:
    assert not is_void({"worst_s": 0.02, "late": 10, "looks": 1000})
    assert is_void({"worst_s": 0.04, "late": 1, "looks": 1000})
    assert is_void({"worst_s": 0.01, "late": 30, "looks": 1000})


def test_a_cell_sums_its_calls_and_counts_what_did_not_come_in_time() -> None:
    call = {
        "bytes": 500, "link_lost": 10, "link_sent": 100, "heard_lost": 6, "heard_late": 2, "sent": 82,
        "unsent": 2, "repeats": 5, "heard_recovered": 4, "first_age": 1.0, "first_over": 0.0,
        "repeat_age": 90.0, "repeat_over": 0.0, "hold": 130.0, "play_over": 0.0,
    }  # fmt: skip
    one = finish(Key("b10_60", 40, "repaired"), [call, {**call, "hold": 150.0}], [3.0, 4.0], [])
    base = cell(one.key.base, 2.0, 2.5, size=800)
    assert (one.bytes, one.lost, one.missed, one.mean) == (1000, 0.1, (0.1, 0.1), 3.5)
    told = one.as_dict(base)
    assert (told["hold"], told["bytes_ratio"], told["gain"], told["plcmos"]) == (150.0, 1.25, 1.25, None)
    assert "gain" not in base.as_dict(base)
    assert error([1.0]) == 0.0


# ---------------------------------------------------------------- speech


def test_clips_go_round_the_talkers() -> None:
    pieces = [[speech.Clip(name, Path(f"{name}-{n}.wav")) for n in range(2)] for name in "ab"]
    assert [clip.name for clip in speech.in_turns(pieces)] == ["a-0", "b-0", "a-1", "b-1"]


def test_pieces_have_one_length_and_silence_around_them() -> None:
    prompt = b"\1\1" * speech.RATE * 30
    pieces = list(speech.cut([prompt, prompt]))
    assert len(pieces) == 4
    assert {len(piece) for piece in pieces} == {2 * speech.RATE * speech.SECONDS}
    assert pieces[0][:6400] == pieces[0][-6400:] == bytes(6400)
    assert list(speech.cut([prompt[: 2 * speech.RATE]])) == []  # too short for one


def test_there_are_talkers_of_both_kinds_and_several_languages() -> None:
    assert {talker.is_male for talker in speech.TALKERS} == {True, False}
    assert len({talker.name for talker in speech.TALKERS}) >= 2
    with pytest.raises(SystemExit, match="32 clips"):
        speech.clips(33)


# ---------------------------------------------------------------- schemes


def test_a_bundle_is_what_the_receiver_takes_apart() -> None:
    frames = [MediaFrame(8 * n, KIND_OPUS, bytes((n,)) * 60) for n in range(3)]
    packed = bundle(frames[2], frames[:2])
    assert packed.kind == KIND_BUNDLE
    assert unbundle(packed) == frames
    assert bundle(frames[0], []) is frames[0]


def test_who_is_deaf_keeps_to_packets_of_20_ms() -> None:
    wishes = Deaf()
    wishes.on_rate(Rate(c=bytes(16), bps=12_000, pt=60, fec=0, red=0, dtx=False, ttl=5000), 0.0)
    assert (wishes.bitrate(24_000, 1.0), wishes.steps(1.0)) == (24_000, 1)


# ---------------------------------------------------------------- the last mile


def test_a_round_trip_is_half_on_each_way_beside_what_the_network_takes() -> None:
    assert with_round_trip(Net(delay=100, jitter=5), 40) == Net(delay=120, jitter=5)


async def test_the_last_mile_takes_its_time_and_then_loses_what_its_network_loses() -> None:
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[tuple[bytes, float]] = asyncio.Queue()

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            answers.put_nowait((data, time.monotonic()))

    relay, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    path = await LastMile(relay.get_extra_info("sockname"), 40, seed=1).open()
    client, _ = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", path.port))
    try:
        began = time.monotonic()
        client.sendto(b"one")
        data, at = await asyncio.wait_for(answers.get(), 5)
        assert (data, path.down.bytes, path.up.packets) == (b"one", 3, 1)
        assert at - began > 0.038
        assert began + 0.019 < path.down.entered[b"one"] <= at - 0.019
        path.spoil(Net(Independent(1.0)))
        client.sendto(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answers.get(), 0.06)
        assert path.up.link.lost == 1
    finally:
        client.close()
        relay.close()
        await path.close()


# ---------------------------------------------------------------- scores and bars


def test_what_was_heard_is_cut_to_where_it_was_said() -> None:
    scoring = pytest.importorskip("lab.scoring")
    said = numpy.random.default_rng(1).normal(size=1600).astype(numpy.float32)
    heard = numpy.concatenate([numpy.ones(300), numpy.zeros(200), said, numpy.zeros(10)])
    assert scoring.lag_of(said, heard, 300, 400) == 200
    cut, lag = scoring.aligned(said, heard, 300)
    assert lag == 200
    assert (cut == said).all()
    assert len(scoring.aligned(said, heard[:1000], 300)[0]) == len(said)  # filled up with silence


def test_silence_scores_least() -> None:
    pytest.importorskip("pesq")
    scoring = pytest.importorskip("lab.scoring")
    said = numpy.random.default_rng(1).normal(size=16_000).astype(numpy.float32) / 10
    assert scoring.pesq_of(said, numpy.zeros(16_000, numpy.float32)) == scoring.SILENT


def test_curves_are_drawn_by_kind_of_loss_from_the_clean_network_on() -> None:
    cells = [cell(Key(net, 40, "plain"), 3.0, lost=lost) for net, lost in
             (("iid10", 0.1), ("clean", 0.0), ("iid3", 0.03), ("b10_60", 0.1))]  # fmt: skip
    cells.append(cell(Key("b10_60", 150, "plain"), 3.0))
    single, bursty = (plot.curves(cells, is_bursty=kind) for kind in (False, True))
    assert [net for *_, net in single["plain"]] == ["clean", "iid3", "iid10"]
    assert [net for *_, net in bursty["plain"]] == ["clean", "b10_60"]


def good() -> dict[Key, Cell]:
    """A full run in which every bar just holds."""
    means = {
        ("clean", "plain"): 4.4, ("clean", "repaired"): 4.4,
        ("iid5", "plain"): 2.5, ("iid5", "repaired"): 4.2,
        ("b10_60", "plain"): 2.1, ("b10_60", "repaired"): 3.7, ("b10_60", "red"): 2.9,
        ("b10_60", "copies"): 3.2, ("b10_60", "followed"): 3.5,
    }  # fmt: skip
    return {key: cell(key, means[key.net, key.scheme]) for key in JUDGED}


def misses(cells: dict[Key, Cell]) -> list[str]:
    found = []

    def bar(name: str, value: float, operator: str, bound: float) -> None:
        if not (value <= bound if operator == "<=" else value >= bound):
            found.append(name)

    voice.judge(bar, cells)
    return found


def test_a_run_in_which_all_holds_misses_no_bar() -> None:
    assert misses(good()) == []


@pytest.mark.parametrize(
    ("net", "rtt_ms", "scheme", "change", "missed"),
    [
        ("b10_60", 40, "repaired", {"pesq": (3.59,)},
         ["b10_60_repaired_over_plain", "b10_60_repaired_over_red"]),
        ("b10_60", 40, "repaired", {"bytes": 1451}, ["b10_60_repaired_bytes"]),
        ("b10_60", 40, "red", {"pesq": (3.05,)}, ["b10_60_repaired_over_red"]),
        ("iid5", 40, "repaired", {"pesq": (4.05,)}, ["iid5_repaired_under_clean"]),
        ("b10_60", 150, "copies", {"pesq": (3.05,)}, ["b10_60_150ms_copies_over_plain"]),
        ("clean", 40, "repaired", {"bytes": 1006}, ["clean_extra_bytes"]),
        ("clean", 40, "repaired", {"pesq": (4.34,)}, ["clean_pesq_change"]),
    ],
)  # fmt: skip
def test_each_bar_can_be_missed(
    net: str, rtt_ms: int, scheme: str, change: dict[str, Any], missed: list[str]
) -> None:
    key, cells = Key(net, rtt_ms, scheme, 0.0 if net == "clean" else LEAD_S), good()
    cells[key] = replace(cells[key], **change)
    assert misses(cells) == missed


def test_jobs_tell_their_cell_and_clip() -> None:
    assert [str(Job(key, 3).key) for key in (JUDGED[0], JUDGED[-1])] == [
        "clean-40-plain-0", "b10_60-150-copies-4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("late", "runs", "voids", "kept"),
    [((0.04, 0.04, 0.04), 3, 2, 1), ((0.04, 0.01), 2, 1, 0), ((0.01,), 1, 0, 0)],
)
def test_a_batch_that_is_void_is_made_again_and_twice_at_most(
    monkeypatch: pytest.MonkeyPatch, late: tuple[float, ...], runs: int, voids: int, kept: int
) -> None:
    calls = voice.Calls({}, [], 1, Path())
    told = [{"lag": {"worst_s": worst, "late": 0, "looks": 9}, "calls": [worst]} for worst in late]
    left = iter(told)
    monkeypatch.setattr(calls, "_once", lambda jobs: next(left))
    assert calls.place([]) == [late[-1]]
    assert len(told) - len(list(left)) == runs
    assert (calls.voids, calls.kept_void) == (voids, kept)


# ---------------------------------------------------------------- mixed


def mixed_told(*, others: int = 100_000, missing: float = 0.0, spoilt: float = 0.02, asked: int = 1) -> Any:
    """What two calls came to; the first listener of the first one loses 15 of 100."""

    def one(size: int, missing: float, lost: int = 0) -> dict[str, Any]:
        return {"bytes": size, "lost_on_the_way": lost, "missing": missing, "late": 0.0}

    control = [one(100_000, 0.0)] * 3
    return {
        "mixed": {
            "listeners": [one(150_000, spoilt, 15), one(others, missing), one(others, 0.0)],
            "packets": 100,
            "asked": [(5.0, 24_000, 20)] * asked,
        },
        "control": {"listeners": control, "packets": 100, "asked": []},
        "lag": {"worst_s": 0.0, "late": 0, "looks": 100},
    }


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"others": 100_900}, []),
        ({"others": 101_100}, ["mixed_others_bytes_changed_by"]),
        ({"others": 98_000}, ["mixed_others_bytes_changed_by"]),
        ({"missing": 0.02}, ["mixed_others_more_missing"]),
        ({"spoilt": 0.1}, ["mixed_left_missing_of_what_was_lost"]),
        ({"asked": 2}, ["mixed_speaker_was_asked_for"]),
    ],
)
def test_others_of_a_mixed_call_may_notice_one_per_cent(changes: dict[str, Any], missed: list[str]) -> None:
    result = report.Report("voice", seed=1, quick=False)
    mixed.judge(result, mixed_told(**changes), quick=False)
    assert [bar["name"] for bar in result._bars if not bar["ok"]] == missed
