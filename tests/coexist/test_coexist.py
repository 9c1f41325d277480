"""Clients of two other QUIC stacks through the relay while everything changes at once: nobody loses anything.

On loopback every packet arrives, so each loss that a client or the relay counts is one it made up. The one
exception is counted: aioquic forgets a key phase at once, so what is on its way to it then is truly lost.
And what audio overtakes in the relay between number and socket may never be acknowledged (serve.py).

    RELAY_COEXIST_SECONDS=120      longer calls (5)
    RELAY_LANE_REQUIRED=1          a lane or a client that cannot be had fails, where it is skipped otherwise
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from coexist.build import NoCargoError, quinn_client
from coexist.party import Party
from coexist.scene import MAX_LAG, PAIRINGS, TRIES, Outcome, play, without_quinn
from load.daemon import imbalance, total

pytestmark = pytest.mark.timeout(900)  # the first run of a checkout builds the client on quinn
SECONDS = float(os.environ.get("RELAY_COEXIST_SECONDS", "5"))
REQUIRED = os.environ.get("RELAY_LANE_REQUIRED") == "1"
UPDATE_AFTER = 90  # packets under one key: a new phase every half second to two
LEAST_DELIVERED = 0.85  # while a path is proven, audio waits for 100 ms, then is dropped by name


def _missing(what: str) -> None:
    if REQUIRED:
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def program() -> Path | None:
    """The client on quinn, None without cargo."""
    try:
        return quinn_client()
    except NoCargoError:
        return None
    except subprocess.CalledProcessError as error:
        if REQUIRED:
            raise
        pytest.skip(f"the client on quinn does not build: {error}")


@pytest.fixture(scope="module", params=["python", "python-rekeyed", "native", "native-rekeyed"])
def outcome(request: pytest.FixtureRequest, program: Path | None) -> Outcome:
    """All pairings, on a daemon of their own; "rekeyed": the relay, too, begins key phases."""
    lane, _, rekeyed = request.param.partition("-")
    if lane == "native" and importlib.util.find_spec("relay._lane") is None:
        _missing("the native lane is not built")
    names = list(PAIRINGS) if program else without_quinn()
    return play(lane, SECONDS, names, program, UPDATE_AFTER if rekeyed else 0)


def _fair(outcome: Outcome) -> None:
    """Losses are not judged when the machine was starved in each try: late answers are losses by right."""
    if outcome.lag >= MAX_LAG:
        why = f"void: the machine was {outcome.lag * 1000:.0f} ms late in each of {TRIES} tries"
        (pytest.fail if os.environ.get("RELAY_COEXIST_STRICT") else pytest.skip)(why)


def _parties(outcome: Outcome) -> list[Party]:
    return [party for pair in outcome.parties.values() for party in pair]


@pytest.fixture(params=list(PAIRINGS))
def pair(request: pytest.FixtureRequest, outcome: Outcome) -> tuple[Party, Party]:
    if request.param not in outcome.parties:
        _missing("there is no cargo to build the client on quinn")
    return outcome.parties[request.param]


def test_no_connection_closes_and_the_relay_does_not_complain(outcome: Outcome) -> None:
    assert {
        party.client.name: party.client.closed for party in _parties(outcome) if party.client.closed
    } == {}
    assert outcome.complaints == []
    assert outcome.ticks > SECONDS


def test_no_client_counts_a_loss(pair: tuple[Party, Party], outcome: Outcome) -> None:
    _fair(outcome)
    counts = {party.client.name: party.counts for party in pair}
    assert {name: count.lost for name, count in counts.items()} == dict.fromkeys(counts, 0)
    assert {name: count.congestion_events for name, count in counts.items()} == dict.fromkeys(counts, 0)


def test_every_byte_of_the_control_streams_arrives_once_and_in_order(pair: tuple[Party, Party]) -> None:
    for party, other in (pair, pair[::-1]):
        assert party.complaints == []
        assert party.pings == party.pongs > 0
        assert party.blobs_heard == other.blobs
        assert len(other.blobs) > 0


def test_media_arrives_unchanged_and_once(pair: tuple[Party, Party]) -> None:
    for party, other in (pair, pair[::-1]):
        assert party.counts.wrong == party.counts.repeated == party.counts.unopened == 0
        assert party.counts.heard >= LEAST_DELIVERED * other.counts.sent


def test_no_media_is_missing_without_a_name(outcome: Outcome) -> None:
    """What was sent and not heard, the relay dropped by name or aioquic could no longer open."""
    _fair(outcome)
    counts = [party.counts for party in _parties(outcome)]
    missing = sum(count.sent - count.heard for count in counts)
    named = total(outcome.metrics, "relay_media_dropped_total") + total(
        outcome.metrics, "relay_media_dropped_out_total"
    )
    assert missing == named + sum(count.discarded_media for count in counts)


def test_the_relay_counts_no_loss_but_of_what_aioquic_could_no_longer_open(outcome: Outcome) -> None:
    _fair(outcome)
    discarded = {party.client.name: party.counts.discarded_packets for party in _parties(outcome)}  # by leg
    facts = Counter(outcome.facts)
    lost = facts["stack_lost"] - facts["stack_overtaken"] + facts["media_lost"]
    assert lost <= sum(discarded.values()), (outcome.lag, facts, discarded)


def test_the_relay_opens_every_packet_and_accounts_for_it(outcome: Outcome) -> None:
    _fair(outcome)
    assert outcome.facts.get("stack_unopened", 0) == 0
    dropped = {
        name: value
        for name, value in outcome.metrics.items()
        if name.startswith(("relay_udp_dropped_total", "relay_udp_kernel_dropped_total")) and value
    }
    assert dropped == {}
    assert total(outcome.metrics, "relay_udp_send_errors_total") == 0
    assert imbalance(outcome.metrics) == 0


def test_connection_ids_change_at_both_ends_and_paths_are_proven(outcome: Outcome) -> None:
    _fair(outcome)
    facts = {party.client.name: party.counts.facts for party in _parties(outcome)}
    for name, fact in facts.items():
        if "challenges" in fact:  # a client on quinn
            assert fact["responses"] == fact["challenges"] > 0, name
            assert fact["retired_ids"] > 0, name
            assert (fact["issued_ids"] == 0) == name.startswith("zero"), name


def test_the_relay_begins_key_phases_by_itself_as_often_as_it_must(outcome: Outcome) -> None:
    begun = outcome.facts.get("key_updates", 0)
    assert (begun >= len(_parties(outcome))) if outcome.update_after else begun == 0


def test_the_lane_asked_for_carries_the_calls(outcome: Outcome) -> None:
    assert outcome.metrics[f'relay_lane_info{{datapath="{outcome.lane}"}}'] == 1
