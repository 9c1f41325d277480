"""Where a node sends us that does not serve the call itself: MOVED in answer to `hello` or `join`.

    hello {tok} --> err MOVED {to} --> the same token at the first of `to` that answers --> hello {tok} ...
                         |- no address for us, a circle, one time too often: RefusedError that says so

The token was not spent by it. Must never live here: connections (climb.py), what is said there (session.py),
the way to another node in mid-call (following.py, refuge.py).
"""

from __future__ import annotations

from typing import Final

from relay.client.errors import RefusedError
from relay.client.rungs import Destination, destinations
from relay.errors import ErrorCode

MAX_HOPS: Final = 3
"""A guest, the home, and one list of nodes that was old."""
_AT_HOME: Final = "connect to the node in this error's `data`, or place the call by a node list (NodeBook)"


class Redirects:
    """One session's, from `connect` until it is in its call."""

    def __init__(self, *, tcp: bool) -> None:
        """`tcp`: whether the token allows legs on TCP."""
        self._been: set[Destination] = set()
        self._tcp = tcp
        self.hops = 0
        """How often we were sent on."""

    def follow(self, refusal: RefusedError, at: Destination) -> tuple[Destination, ...]:
        """Where to go now, best first; `at`: who says so. RefusedError with the same code and data where that
        is nowhere."""
        self._hop(refusal)
        self._been.add(at)
        named = refusal.data.get("to")
        urls = [url for url in named if isinstance(url, str)] if isinstance(named, list | tuple) else []
        if not urls:
            raise self._end(refusal, f"the node does not know where the call's home is: {_AT_HOME}")
        known = destinations(urls)
        found = tuple(to for to in known if self._tcp or to.transport == "quic")
        if known and not found:
            raise self._end(
                refusal, "the call's home is to be reached on TCP only: that needs a token with `net` 2"
            )
        if not found:
            raise self._end(refusal, f"the call's home has no address that this client speaks: {_AT_HOME}")
        new = tuple(to for to in found if to not in self._been)
        if not new:
            raise self._end(
                refusal, "the nodes send us round in a circle: the token's `home`, or their lists, are wrong"
            )
        return new

    def again(self, refusal: RefusedError) -> None:
        """The packet that named the way was lost: the same place is asked once more. RefusedError."""
        self._hop(refusal)

    def _hop(self, refusal: RefusedError) -> None:
        if self.hops == MAX_HOPS:
            raise self._end(refusal, f"sent on more than {MAX_HOPS} times: {_AT_HOME}")
        self.hops += 1

    @staticmethod
    def _end(refusal: RefusedError, what: str) -> RefusedError:
        return RefusedError(ErrorCode.MOVED, what, data=refusal.data)
