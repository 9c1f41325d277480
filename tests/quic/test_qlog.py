"""Traces: what they hold, what can never get into one, and what happens when nobody takes it."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import QuicStreamFrame

from quicpair import CLIENT, QuicPair
from relay.quic import qlog
from relay.quic.qlog import RECORD, Trace

SECRET = b"\xa5\x5a" * 8
PLAIN: dict[str, Any] = {  # by the names of arguments of aioquic's encoders
    "connection_id": SECRET,
    "data": SECRET,
    "delay": 0.025,
    "error_code": 1,
    "final_size": 9,
    "frame": QuicStreamFrame(data=SECRET, offset=7),
    "frame_type": 6,
    "is_unidirectional": True,
    "length": 5,
    "limit": 4,
    "maximum": 3,
    "ranges": [range(1, 3)],
    "reason_phrase": SECRET.hex(),
    "retire_prior_to": 2,
    "sequence_number": 8,
    "stateless_reset_token": SECRET,
    "stream_id": 0,
    "token": SECRET,
}
ENCODERS = sorted(
    name for name in dir(QuicLoggerTrace) if name.startswith("encode_") and name.endswith("_frame")
)


class Clock:
    """Seconds that the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trace(clock: Clock) -> Trace:
    return Trace("call 101112131415", "101112131415", clock=clock, wall=lambda: 1795239355.5)


def parsed(records: list[bytes]) -> list[dict[str, Any]]:
    """As a reader of JSON-SEQ does: a record begins with RS and ends with a line's end."""
    text = b"".join(records)
    assert text.startswith(RECORD)
    parts = text.split(RECORD)[1:]
    assert all(part.endswith(b"\n") for part in parts)
    return [json.loads(part) for part in parts]


def test_the_first_record_says_what_it_is_and_the_others_count_milliseconds_from_there(
    trace: Trace, clock: Clock
) -> None:
    clock.now += 1.5
    trace.log_event(category="recovery", event="packet_lost", data={"type": "1RTT", "packet_number": 7})
    head, event = parsed(trace.take())
    assert (head["qlog_format"], head["qlog_version"]) == ("JSON-SEQ", "0.3")
    assert head["trace"]["vantage_point"]["type"] == "server"
    assert head["trace"]["common_fields"] == {
        "group_id": "101112131415",
        "protocol_type": ["QUIC"],
        "reference_time": 1795239355500.0,
        "time_format": "relative",
    }
    assert event == {
        "time": 1500.0,
        "name": "recovery:packet_lost",
        "data": {"header": {"packet_type": "1RTT", "packet_number": 7}},
    }
    trace.note("relay:lane", {"up_forwarded": 3})
    (event,) = parsed(trace.take())
    assert event["data"] == {"up_forwarded": 3}
    assert trace.take() == []


def test_frames_that_are_added_after_the_packet_was_told_are_there(trace: Trace) -> None:
    frames: list[dict[str, Any]] = []
    trace.log_event(category="transport", event="packet_received", data={"frames": frames})
    frames.append({"frame_type": "ping"})
    assert parsed(trace.take())[1]["data"] == {"frames": [{"frame_type": "ping"}]}


@pytest.mark.parametrize("name", ENCODERS)
def test_no_frame_that_aioquic_can_tell_of_brings_bytes_of_anybody_into_a_trace(
    trace: Trace, name: str
) -> None:
    encode = getattr(trace, name)
    if name.startswith("encode_http3"):
        found = encode(
            5,
            *([[(b"authorization", SECRET.hex().encode())]] if "data" not in name else []),
            *([1, 2] if "push" in name else [2]),
        )
    else:
        found = encode(**{one: PLAIN[one] for one in inspect.signature(encode).parameters})
    trace.log_event(category="transport", event="packet_sent", data={"frames": [found]})
    (frame,) = parsed(trace.take())[1]["data"]["frames"]
    assert SECRET.hex() not in json.dumps(frame)
    if not name.startswith("encode_http3"):
        assert frame["frame_type"] == found["frame_type"]


@pytest.mark.parametrize(
    ("category", "event"),
    [
        ("transport", "parameters_set"),
        ("http", "frame_parsed"),
        ("transport", "alpn_information"),
        ("new", "one"),
    ],
)
def test_an_event_that_is_not_listed_is_left_out(trace: Trace, category: str, event: str) -> None:
    trace.log_event(category=category, event=event, data={"length": 3})
    assert len(trace.take()) == 1  # the head alone


def test_what_is_too_much_is_counted_and_told(trace: Trace) -> None:
    for number in range(qlog.WAITING + 5):
        trace.note("relay:lane", {"up_forwarded": number})
    told = parsed(trace.take())
    assert len(told) == qlog.WAITING + 2
    assert told[-1]["name"] == "relay:missed"
    assert told[-1]["data"] == {"events": 5}
    trace.note("relay:lane", {})
    assert len(trace.take()) == 1


def test_the_last_record_names_what_ended_it(trace: Trace) -> None:
    (event,) = parsed([trace.last("qlog.seconds")])
    assert (event["name"], event["data"]) == ("relay:ended", {"why": "qlog.seconds"})


def test_a_real_connection_is_told_of_without_its_ids_keys_and_addresses(trace: Trace) -> None:
    pair = QuicPair()
    server = pair.connected()
    server.trace(trace)
    pair.client.request_key_update()
    pair.client.send_stream_data(0, b"a letter that nobody else may read")
    pair.run(0.5)
    pair.client.change_connection_id()
    pair.client.send_ping(1)
    pair.run(0.5)
    pair.client.close(error_code=3, reason_phrase="why it went away")
    pair.run(0.5)
    told = parsed(trace.take())
    frames = {frame["frame_type"] for event in told[1:] for frame in event["data"].get("frames", [])}
    assert {"stream", "retire_connection_id", "new_connection_id", "connection_close"} <= frames
    assert {"transport:packet_sent", "transport:packet_received", "recovery:metrics_updated"} <= {
        event["name"] for event in told[1:]
    }
    text = json.dumps(told)
    ids = [*server.host_ids, pair.client.host_cid, *(each.cid for each in pair.client._peer_cid_available)]
    assert all(len(cid) >= 8 and cid.hex() not in text for cid in ids)
    for word in (CLIENT[0], "letter", "why it went", "token", "secret", "cid"):
        assert word not in text, word
