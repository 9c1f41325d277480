"""What a call measured, in one frozen value. Must never live here: how it is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class CallStats:
    """Counters since the call began, in packets unless said. `lost` and `late` are what the ear missed."""

    rtt_ms: float | None
    """Smoothed round trip to the relay and back; None before the first answer."""
    sent: int
    """Media datagrams handed to the network."""
    unsent: int
    """Media dropped before the network: waited over 60 ms."""
    repeated: int
    """Media datagrams that went to the relay again, since it did not get them."""
    received: int
    """Media packets that opened, each once."""
    lost: int
    """Packets whose counter is missing between the first and the newest."""
    late: int
    """Came after their turn to be played."""
    concealed: int
    """Steps of 20 ms that the decoder invented."""
    recovered: int
    """First copy was a repeat: lost on the way, saved by the relay."""
    duplicates: int
    unopened: int
    """Forged, damaged, or sealed with a key we do not have."""
    jitter_target_ms: float
    """Delay the jitter buffer aims at."""

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)
