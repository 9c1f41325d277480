"""A qlog of one leg: what aioquic says of its packets and recovery, with what may not be told left out.

    log_event(...), note(...)  -->  what waits  --take-->  records of JSON-SEQ (RFC 7464)

The schema is qlog 0.3 (draft-ietf-quic-qlog-main-schema-02), as aioquic and qvis have it; the first record
tells of the trace. Only events and fields that are listed here are written, so that nothing gets out by
itself that a later aioquic may say: no connection ids, no tokens, no addresses, no bytes of a frame, no
reason that a peer wrote.
Must never live here: files, private names of aioquic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aioquic.quic.logger import QuicLoggerTrace

EVENTS: Final = frozenset(
    {
        "recovery:metrics_updated",
        "recovery:packet_lost",
        "security:key_retired",
        "security:key_updated",
        "transport:datagrams_received",
        "transport:datagrams_sent",
        "transport:packet_dropped",
        "transport:packet_received",
        "transport:packet_sent",
    }
)
"""What of aioquic's is written."""
FIELDS: Final = frozenset(
    {
        # of events
        "bytes_in_flight",
        "congestion_window",
        "count",
        "frames",
        "header",
        "key_type",
        "latest_rtt",
        "length",
        "min_rtt",
        "packet_number",
        "packet_type",
        "payload_length",
        "raw",
        "rtt_variance",
        "smoothed_rtt",
        "ssthresh",
        "trigger",
        # of frames
        "ack_delay",
        "acked_ranges",
        "error_code",
        "error_space",
        "final_size",
        "fin",
        "frame_type",
        "limit",
        "maximum",
        "offset",
        "raw_error_code",
        "retire_prior_to",
        "sequence_number",
        "stream_id",
        "stream_type",
        "trigger_frame_type",
    }
)
"""What of their data is. Each is a number, a word of aioquic's own, or made of such."""
_RENAMED: Final = {
    "cwnd": "congestion_window",
    "type": "packet_type",
}  # aioquic's are those of earlier drafts
WAITING: Final = 1024  # events that nobody took yet
RECORD: Final = b"\x1e"


class Trace(QuicLoggerTrace):
    """What aioquic tells of one connection, and others of its leg."""

    def __init__(
        self, title: str, group: str, *, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        """`group`: what the traces of one call have in common. `clock`, `wall`: seconds."""
        super().__init__(is_client=False, odcid=b"")
        self._clock = clock
        self._began = clock()
        self._waiting: list[tuple[float, str, Mapping[str, Any]]] = []
        self._missed = 0
        self._head: bytes | None = _record(
            {
                "qlog_format": "JSON-SEQ",
                "qlog_version": "0.3",
                "title": title,
                "trace": {
                    "title": title,
                    "vantage_point": {"name": "relay", "type": "server"},
                    "common_fields": {
                        "group_id": group,
                        "protocol_type": ["QUIC"],
                        "reference_time": round(wall() * 1000, 3),
                        "time_format": "relative",
                    },
                },
            }
        )

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """aioquic tells something. Frames of a received packet it adds afterwards, so this keeps `data`."""
        name = f"{category}:{event}"
        if name in EVENTS:
            self._add(name, data)

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        """Something else of the leg, written as it is."""
        self._add(name, data)

    def _add(self, name: str, data: Mapping[str, Any]) -> None:
        if len(self._waiting) >= WAITING:
            self._missed += 1
            return
        self._waiting.append((self._clock(), name, data))

    def take(self) -> list[bytes]:
        """Records of what came since the last time; what was too much is told as `relay:missed`."""
        waiting, self._waiting = self._waiting, []
        if self._missed:
            waiting.append((self._clock(), "relay:missed", {"events": self._missed}))
            self._missed = 0
        found = [self._event(*each) for each in waiting]
        if self._head is not None:
            found.insert(0, self._head)
            self._head = None
        return found

    def last(self, why: str) -> bytes:
        """The record that ends a file: which limit, or what else."""
        return self._event(self._clock(), "relay:ended", {"why": why})

    def _event(self, at: float, name: str, data: Mapping[str, Any]) -> bytes:
        if name in EVENTS:
            data = cleaned(data)
        if name == "recovery:packet_lost":
            data = {"header": data}
        return _record({"time": round((at - self._began) * 1000, 3), "name": name, "data": data})


def cleaned(data: Any) -> Any:
    """The same without all that is not listed."""
    if isinstance(data, Mapping):
        named = ((_RENAMED.get(name, name), value) for name, value in data.items())
        return {name: cleaned(value) for name, value in named if name in FIELDS}
    if isinstance(data, list | tuple):
        return [cleaned(each) for each in data]
    return data


def _record(value: Mapping[str, Any]) -> bytes:
    return RECORD + msgspec.json.encode(value) + b"\n"
