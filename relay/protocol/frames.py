"""The few QUIC frames that the packet path reads and writes itself (RFC 9000 section 19, RFC 9221 section 4).

    00 PADDING   01 PING   02 ACK   30 DATAGRAM to the end   31 DATAGRAM with length

A payload with any other frame is not for the packet path: `parse` says None and the whole packet goes to
the QUIC stack. Must never live here: packet numbers of ours, time, or what an acknowledgement means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PADDING = 0x00
PING = 0x01
ACK = 0x02
DATAGRAM = 0x30
DATAGRAM_LENGTH = 0x31
MAX_RANGES = 64  # more ranges than a receiver of ours keeps are no honest acknowledgement


class Ack(NamedTuple):
    """Acknowledged packet numbers, newest range first, half-open; `delay` as encoded by the peer."""

    ranges: tuple[tuple[int, int], ...]
    delay: int


class Payload(NamedTuple):
    """What a packet for the packet path carries. `eliciting`: it wants to be acknowledged."""

    datagrams: list[bytes]
    ack: Ack | None
    eliciting: bool


class _MalformedError(Exception):
    """The frame ends early or counts below zero."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at `at` and the offset behind it (RFC 9000 section 16)."""
    try:
        first = data[at]
    except IndexError:
        raise _MalformedError from None
    if first < 0x40:
        return first, at + 1
    size = 1 << (first >> 6)
    end = at + size
    if end > len(data):
        raise _MalformedError
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end


def _ack(data: bytes, at: int, most: int = MAX_RANGES) -> tuple[Ack, int]:
    largest, at = _varint(data, at)
    delay, at = _varint(data, at)
    more, at = _varint(data, at)
    first, at = _varint(data, at)
    low = largest - first
    if low < 0 or more >= most:
        raise _MalformedError
    ranges = [(low, largest + 1)]
    for _ in range(more):
        gap, at = _varint(data, at)
        length, at = _varint(data, at)
        high = low - gap - 2
        low = high - length
        if low < 0:
            raise _MalformedError
        ranges.append((low, high + 1))
    return Ack(tuple(ranges), delay), at


def parse_ack(data: bytes, most: int = MAX_RANGES) -> Ack | None:
    """An ACK frame's body (behind its type byte); None when malformed, or of more than `most` ranges."""
    try:
        return _ack(data, 0, most)[0]
    except _MalformedError:
        return None


def parse(data: bytes) -> Payload | None:
    """The frames of a 1-RTT payload, or None when it holds anything but the five of this module."""
    datagrams: list[bytes] = []
    ack: Ack | None = None
    eliciting = False
    at = 0
    end = len(data)
    if not end:
        return None
    try:
        while at < end:
            kind = data[at]
            at += 1
            if kind == DATAGRAM_LENGTH:
                size, at = _varint(data, at)
                if at + size > end:
                    return None
                datagrams.append(data[at : at + size])
                at += size
                eliciting = True
            elif kind == ACK:
                if ack is not None:
                    return None  # two in one packet: legal, rare, and the QUIC stack's business
                ack, at = _ack(data, at)
            elif kind == PADDING:
                at = end - len(data[at:].lstrip(b"\0"))
            elif kind == PING:
                eliciting = True
            elif kind == DATAGRAM:
                datagrams.append(data[at:])
                at = end
                eliciting = True
            else:
                return None
    except _MalformedError:
        return None
    return Payload(datagrams, ack, eliciting)


def _encode_varint(value: int) -> bytes:
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def encode_ack(ranges: Sequence[tuple[int, int]], delay: int, most: int = 16) -> bytes:
    """An ACK frame for received numbers (ascending, half-open), the newest `most` ranges of them."""
    low, stop = ranges[-1]
    kept = ranges[-most:]
    parts = [
        b"\x02",
        _encode_varint(stop - 1),
        _encode_varint(delay),
        _encode_varint(len(kept) - 1),
        _encode_varint(stop - 1 - low),
    ]
    for start, stop in reversed(kept[:-1]):
        parts.append(_encode_varint(low - stop - 1))
        parts.append(_encode_varint(stop - start - 1))
        low = start
    return b"".join(parts)


def encode_datagram(payload: bytes) -> bytes:
    """A DATAGRAM frame with its length, so that others may follow it in the packet."""
    return b"\x31" + _encode_varint(len(payload)) + payload
