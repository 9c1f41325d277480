"""What came on a route since it was counted last: the lines of a hop report (docs/protocol.md, section 14).

    missing   not there when counted, nor when counted before; or 128 behind the newest
    late      was told as missing, and came

The twin of relay/lane/src/hop.rs. A packet pays nothing for it: all is found in what a flow counts anyway.
Must never live here: delays, and when anybody counts.
"""

from __future__ import annotations

from typing import Final

from relay.core.events import RouteCount
from relay.edge.flow import Flow

_U16: Final = 0xFFFF
_NO_KEY: Final = -1


class Told:
    """Where a route stood when it was counted last."""

    __slots__ = ("_came", "_gone", "_kid", "_newest")

    def __init__(self) -> None:
        self._came = self._gone = 0
        self._kid = self._newest = _NO_KEY

    def count(self, route: int, flow: Flow) -> RouteCount | None:
        """Count again; None: nothing came, and nothing more is known to be missing."""
        newest = flow.newest
        if newest is None:
            return None
        kid, seen = newest
        gone = flow.lost - seen.open_above(self._newest if kid == self._kid else -1)
        came, missing = flow.accepted - self._came, gone - self._gone
        self._came, self._gone, self._kid, self._newest = flow.accepted, gone, kid, seen.highest
        if not came and not missing:
            return None
        late = max(0, -missing)
        return RouteCount(route, seen.highest, min(came, _U16), min(max(0, missing), _U16), min(late, _U16))
