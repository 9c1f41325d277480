"""Connection ids as this node issues them: readable by its cluster, each with a reset token of its own.

The last bit of an id is its generation's, even or odd, where a node has generations: by it the kernel tells
whose a packet is (steering.py). Must never live here: who owns an id.
"""

from __future__ import annotations

from relay.protocol.cid import NONCE_SIZE, CidCodec, reset_token
from relay.quic.connection import IssuedId

_NONCES = 1 << 8 * NONCE_SIZE


class ConnectionIds:
    """Issues ids from a counter that starts at a random place, so that none repeats in a process."""

    def __init__(self, codec: CidCodec, reset_key: bytes, start: int, generation: int | None = None) -> None:
        self._codec = codec
        self._reset_key = reset_key
        self._next = start % _NONCES
        self._generation = generation

    def issue(self) -> IssuedId:
        """A fresh id with its stateless reset token."""
        while True:
            # One nonce in 16 gives an id that would look like ChannelData, one in two another generation's.
            cid = self._codec.encode(self._next.to_bytes(NONCE_SIZE, "big"))
            self._next = (self._next + 1) % _NONCES
            if cid is not None and self._generation in (None, cid[-1] & 1):
                return IssuedId(cid, self.reset_token(cid))

    def reset_token(self, cid: bytes) -> bytes:
        """The reset token of any id of this cluster, 16 bytes."""
        return reset_token(self._reset_key, cid)
