"""Metrics of packets: UDP, TCP, media, repair, TURN. Names and labels; the counts are the parts' own.

Must never live here: metrics of calls and of the node itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from relay.core.reasons import DropReason
from relay.ops.families import REASONS, by_reason, counters, labelled
from relay.ops.snapshot import (
    MediaCounters,
    PacketCounters,
    RelayCounters,
    RepairCounters,
    Snapshot,
    TcpCounters,
    TurnCounters,
)

HTTP3_STATUSES: Final = ("200", "400", "403", "404", "405", "429", "501")
WEB_STATUSES: Final = ("101", "400", "403", "404", "426", "503")
STREAM_KINDS: Final = ("media", "datagram", "control")


def packets(now: PacketCounters) -> Iterator[Metric]:
    """UDP packets and the lane that reads them."""
    yield CounterMetricFamily("relay_udp_received", "UDP packets read.", value=now.received)
    yield CounterMetricFamily(
        "relay_lane_turns", "Turns of the native lane's threads, a batch of packets each.", value=now.turns
    )
    yield GaugeMetricFamily(
        "relay_lane_threads", "The native lane's threads that run; one per lane.", value=now.threads
    )
    yield CounterMetricFamily(
        "relay_lane_panics", "Bugs of ours that the native lane survived.", value=now.panics
    )
    yield CounterMetricFamily(
        "relay_lane_strays", "Packets that came by another lane than their leg's before.", value=now.strays
    )
    yield CounterMetricFamily(
        "relay_lane_notes_lost",
        "Control datagrams beyond what may wait for the loop, of a leg or in all.",
        value=now.notes_lost,
    )
    yield CounterMetricFamily("relay_udp_sent", "UDP packets written.", value=now.sent)
    yield CounterMetricFamily(
        "relay_udp_send_errors", "UDP packets the kernel refused.", value=now.send_errors
    )
    yield CounterMetricFamily(
        "relay_udp_read_errors",
        "Reads of UDP sockets that the kernel refused; one that goes on is a socket that hears nobody.",
        value=now.read_errors,
    )
    yield CounterMetricFamily(
        "relay_udp_kernel_dropped", "UDP packets the kernel dropped before us.", value=now.kernel_dropped
    )
    yield GaugeMetricFamily("relay_udp_waiting", "UDP packets waiting for their turn.", value=now.waiting)
    yield counters("relay_udp_handled", "UDP packets handled, by kind.", "kind", now.handled)
    yield counters("relay_udp_answered", "Answers that leave no state, by kind.", "kind", now.answered)
    yield counters(
        "relay_udp_dropped", "UDP packets dropped, by reason.", "reason", by_reason(now.dropped), REASONS
    )
    yield GaugeMetricFamily("relay_half_open", "Handshakes in progress.", value=now.half_open)
    yield CounterMetricFamily("relay_handshakes", "QUIC handshakes finished.", value=now.handshakes)
    yield CounterMetricFamily(
        "relay_handshakes_expired", "QUIC handshakes that took too long.", value=now.handshakes_expired
    )
    yield counters(
        "relay_http3_answered", "HTTP/3 requests, by status.", "status", now.http_answered, HTTP3_STATUSES
    )


def tcp(now: TcpCounters) -> Iterator[Metric]:
    """Legs on TCP."""
    yield GaugeMetricFamily("relay_tcp_connections", "TCP connections of clients.", value=now.connections)
    yield GaugeMetricFamily("relay_tcp_half_open", "Of these, nobody's leg yet.", value=now.half_open)
    yield CounterMetricFamily("relay_tcp_accepted", "TCP connections let in.", value=now.accepted)
    yield counters(
        "relay_tcp_refused", "TCP connections closed before TLS.", "reason", by_reason(now.refused), REASONS
    )
    yield CounterMetricFamily(
        "relay_tcp_failed", "TLS handshakes and requests that failed or took too long.", value=now.failed
    )
    yield counters("relay_web_answered", "HTTP requests, by status.", "status", now.answered, WEB_STATUSES)
    yield CounterMetricFamily("relay_stream_received", "Messages of legs on TCP.", value=now.received)
    yield counters("relay_stream_handled", "These taken, by kind.", "kind", now.handled, STREAM_KINDS)
    yield counters(
        "relay_stream_dropped", "These refused, by reason.", "reason", by_reason(now.dropped), REASONS
    )
    yield CounterMetricFamily("relay_stream_sent", "Messages to legs on TCP.", value=now.sent)
    yield CounterMetricFamily(
        "relay_stream_unsent", "Control datagrams for which there was no room.", value=now.unsent
    )


def media(now: MediaCounters) -> Iterator[Metric]:
    """Media datagrams."""
    yield CounterMetricFamily("relay_media_received", "Media datagrams in.", value=now.media_in)
    yield CounterMetricFamily("relay_media_accepted", "Media datagrams accepted.", value=now.accepted)
    yield CounterMetricFamily("relay_media_copies", "Copies made for listeners.", value=now.copies)
    yield CounterMetricFamily("relay_media_sent", "Copies sent.", value=now.sent)
    yield GaugeMetricFamily("relay_media_queued", "Copies waiting.", value=now.queued)
    yield counters(
        "relay_media_dropped", "Media datagrams not accepted.", "reason", by_reason(now.dropped), REASONS
    )
    yield counters(
        "relay_media_dropped_out", "Copies not sent.", "reason", by_reason(now.dropped_out), REASONS
    )


def repairs(now: RepairCounters) -> Iterator[Metric]:
    """Copies kept to be repeated."""
    yield CounterMetricFamily("relay_repair_kept", "Copies kept until acknowledged.", value=now.kept)
    yield GaugeMetricFamily("relay_repair_holding", "Copies kept now.", value=now.holding)
    settled = {"acked": now.acked, "late": now.late, "ended": now.ended}
    yield counters("relay_repair_settled", "Copies kept no longer, by what became of them.", "fate", settled)
    forms = {"beside": now.beside, "distant": now.distant, "alone": now.alone, "asked": now.asked}
    yield counters("relay_repair_repeats", "Repeats sent, by form.", "form", forms)
    yield CounterMetricFamily("relay_repair_bytes", "Bytes of repeats.", value=now.bytes)
    yield CounterMetricFamily(
        "relay_repair_refused", "Repeats beyond the listener's rights.", value=now.refused
    )


def relays(now: RelayCounters) -> Iterator[Metric]:
    """What goes through TURN's relayed addresses."""
    ways = {"up": now.up, "down": now.down}
    for name, text in (
        ("taken", "Packets of TURN's clients (up) and of their peers (down)."),
        ("passed", "Those that went on."),
        ("bytes", "Bytes of their payloads."),
    ):
        values = {label: getattr(way, name) for label, way in ways.items()}
        yield counters(f"relay_turn_{name}", text, "direction", values)
    waiting = now.up.waiting + now.down.waiting
    yield GaugeMetricFamily("relay_turn_waiting", "Packets waiting for a client's stream.", value=waiting)
    dropped = {
        reason: now.up.dropped.get(reason, 0) + now.down.dropped.get(reason, 0) for reason in DropReason
    }
    yield counters(
        "relay_turn_dropped",
        "Packets that went no further, by reason.",
        "reason",
        by_reason(dropped),
        REASONS,
    )


def turn(now: TurnCounters) -> Iterator[Metric]:
    """TURN beside its data."""
    yield GaugeMetricFamily("relay_turn_allocations", "Live TURN allocations.", value=now.allocations)
    yield GaugeMetricFamily("relay_turn_streams", "TURN's clients on TCP and TLS.", value=now.streams)
    yield CounterMetricFamily("relay_turn_streams_accepted", "Connections taken.", value=now.accepted)
    yield CounterMetricFamily(
        "relay_turn_streams_failed", "Connections whose handshake failed or took too long.", value=now.failed
    )
    yield CounterMetricFamily(
        "relay_turn_streams_unused", "Connections closed because nothing was asked for.", value=now.unused
    )
    yield counters(
        "relay_turn_streams_refused",
        "Connections closed at once, by reason.",
        "reason",
        by_reason(now.refused),
        REASONS,
    )
    yield counters(
        "relay_turn_streams_dropped",
        "Frames of clients on streams that were not taken, and pieces for them, by reason.",
        "reason",
        by_reason(now.dropped),
        REASONS,
    )


def together(now: Snapshot) -> Iterator[Metric]:
    """All of the node's drops and media in one family each, for rules and graphs over everything."""
    lost: Counter[tuple[str, str]] = Counter()
    ways = (now.relays.up.dropped, now.relays.down.dropped) if now.relays is not None else ()
    for inward in (now.packets.dropped, now.media.dropped, now.tcp.dropped, *ways):
        lost.update({("in", reason.value): count for reason, count in inward.items()})
    lost.update({("out", reason.value): count for reason, count in now.media.dropped_out.items()})
    known = {
        (direction, reason): lost[direction, reason] for direction in ("in", "out") for reason in REASONS
    }
    yield labelled("relay_dropped", "Whatever went no further.", ("direction", "reason"), known)
    repairs = now.repairs
    repeats = repairs.beside + repairs.distant + repairs.alone + repairs.asked if repairs is not None else 0
    counted: dict[tuple[str, str], float] = {
        ("in", "primary"): now.media.media_in,
        ("out", "copy"): now.media.sent,
        ("out", "repeat"): repeats,
        ("in", "control"): now.tcp.handled.get("control", 0) + now.packets.handled.get("quic", 0),
    }
    yield labelled(
        "relay_packets",
        "Media datagrams by kind, and packets with anything else.",
        ("direction", "kind"),
        counted,
    )
