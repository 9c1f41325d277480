"""Legs that outlived the process before: the lane carries their audio on before anybody shakes hands again.

    keep -> lane   keys, ids, address; packet numbers begin behind all that may have been used
    engine         says who hears them, as ever: it was told of their calls (`core/remembering.py`)
    control        there is none: what comes for the QUIC stack is dropped by name; datagrams can be sent

Such a leg lives until its person is back by another, or until nothing was heard of it for too long: the
engine says so, as of any leg. Must never live here: what is kept (`edge/keep.py`), and what is said to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aioquic.quic.connection import NetworkAddress

from relay.edge.keep import Keep
from relay.edge.lane import Lane
from relay.quic.space import Lent, PathState

WINDOW: Final = 128  # packet numbers that a path remembers


class Revived:
    """The legs of the process before; a `handler.Carrier`."""

    def __init__(
        self,
        keep: Keep,
        lane: Lane,
        send: Callable[[int, bytes, NetworkAddress], bool],
        lost: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        """`send`: socket, packet, address. `lost`: this leg is over."""
        self._keep = keep
        self._lane = lane
        self._send = send
        self._lost = lost
        self._clock = clock
        self._paths: dict[int, tuple[PathState, Lent]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, leg: int) -> bool:
        return leg in self._paths

    def legs(self) -> dict[int, float]:
        """Their numbers, which are as they were, and when they were heard last."""
        return {leg: path.last_heard for leg, (path, _) in self._paths.items()}

    def begin(self) -> None:
        """Give the lane all legs that were kept. Before any other leg, and before the first packet."""
        for record, used, came in list(self._keep.legs()):
            self._revive(record.leg, record.lent, record.ids, used, came)

    def _revive(self, leg: int, lent: Lent, ids: Sequence[bytes], used: int, came: int) -> None:
        path = self._lane.open_path(leg)
        path.set_prefix(lent.prefix)
        path.set_keys(lent.suite, lent.phase, lent.recv, lent.send, lent.coming)
        path.reserve(0)
        path.settle(used)
        path.expected = came
        for number in range(max(came - WINDOW, 0), came):
            path.add(number)  # whatever is older came, too
        path.subtract(came)  # and needs no acknowledgement from us
        path.confirmed = True
        path.last_heard = self._keep.heard_at(leg)  # no news since then
        path.set_facts(
            active=True,
            host_cid=lent.host_cid,
            peer_cid=lent.peer_cid,
            address=tuple(lent.address),
            sock=lent.sock,
            peer_acks=lent.peer_acks,
        )
        place = self._keep.place(leg)
        assert place is not None  # it was read there
        path.keep(place)
        for cid in ids:
            self._lane.own(leg, cid)
        self._paths[leg] = (path, lent)

    def slow(self, leg: int) -> bool:
        """A packet for a QUIC stack that is gone; False: the leg is none of these."""
        known = self._paths.get(leg)
        if known is None:
            return False
        known[0].slow_done()
        return True

    # ------------------------------------------------------------ handler.Carrier

    def send_stream(self, leg: int, data: bytes) -> None:
        """There is no stream any more: what must be known is said again on the leg to come."""

    def send_datagram(self, leg: int, data: bytes) -> None:
        """As the endpoint's."""
        known = self._paths.get(leg)
        now = self._clock()
        if known is not None and known[0].room(now):
            path, lent = known
            packet = path.seal([data], now)
            if packet:
                self._send(lent.sock, packet, tuple(lent.address))

    def close(self, leg: int, code: int, reason: str) -> None:
        """It is over, without a word: there is no QUIC stack that could say it."""
        if self._paths.pop(leg, None) is not None:
            self._keep.forget(leg)
            self._lane.close_path(leg)
            self._lost(leg)

    def last_heard(self, leg: int) -> float | None:
        """When the leg last sent something authentic, monotonic seconds."""
        known = self._paths.get(leg)
        return None if known is None else known[0].last_heard
