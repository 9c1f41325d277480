"""Connection ids as this node issues them: readable by its cluster, each with a reset token of its own.

Must never live here: who owns an id.
"""

from __future__ import annotations

from relay.protocol.cid import NONCE_SIZE, CidCodec, reset_token
from relay.quic.connection import IssuedId

_NONCES = 1 << 8 * NONCE_SIZE


class ConnectionIds:
    """Issues ids from a counter that starts at a random place, so that none repeats in a process."""

    def __init__(self, codec: CidCodec, reset_key: bytes, start: int) -> None:
        self._codec = codec
        self._reset_key = reset_key
        self._next = start % _NONCES

    def issue(self) -> IssuedId:
        """A fresh id with its stateless reset token."""
        cid = None
        while cid is None:  # one nonce in 16 gives an id that would look like ChannelData
            cid = self._codec.encode(self._next.to_bytes(NONCE_SIZE, "big"))
            self._next = (self._next + 1) % _NONCES
        return IssuedId(cid, self.reset_token(cid))

    def reset_token(self, cid: bytes) -> bytes:
        """The reset token of any id of this cluster, 16 bytes."""
        return reset_token(self._reset_key, cid)
