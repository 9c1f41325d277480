"""What a copy takes, in memory and in a packet. Must never live here: how much of either one may have."""

from __future__ import annotations

from relay.protocol import media

ROOMS = (192, 448, media.MAX_SIZE)  # what a copy counts as: the buffers of the native lane
PACKET_OVERHEAD = 60  # short header, ACK frame and tag, upper bound for one of ours
DATAGRAM_OVERHEAD = 3  # frame type and two-byte length


def room_of(size: int) -> int:
    """What a copy of so many bytes takes: the buffer that holds it in the native lane."""
    return next((room for room in ROOMS if size <= room), size)
