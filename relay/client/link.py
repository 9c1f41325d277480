"""The control conversation of one leg: bytes in, messages out, answers carry the id of their question.

    without a key in the token:   hello -> welcome
    with one (`cnf`):             ping -> challenge -> hello with proof -> welcome

Must never live here: sockets, clocks, futures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from relay.client.errors import SessionError
from relay.errors import ErrorCode
from relay.protocol import token as capability
from relay.protocol.control import FrameReader, decode, encode
from relay.protocol.ids import CallId, Sub
from relay.protocol.messages import (
    Bye,
    Caps,
    Challenge,
    Cli,
    Hello,
    Message,
    Ping,
    Pong,
    Welcome,
)

TransportName = Literal["quic", "ws", "tls"]


def _caps(nack: bool) -> Caps:
    return Caps(dg=1024, suites=(5, 4), dred=False, red=False, dtx=False, nack=nack, lr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What opens the door: a token, or an earlier leg's ticket; `pop_seed` proves the key named in either."""

    sub: Sub
    call: CallId
    token: bytes | None = field(default=None, repr=False)
    ticket: bytes | None = field(default=None, repr=False)
    pop_seed: bytes | None = field(default=None, repr=False)
    tcp: bool = True
    """Whether the token says that legs on TCP are allowed."""

    @classmethod
    def of_token(cls, token: bytes, pop_seed: bytes | None = None) -> Credentials:
        """Read sub and call from a token. It is not verified: that is the relay's business."""
        claims = capability.decode_claims(capability.parse(token).body)
        if claims.cnf is not None and pop_seed is None:
            raise SessionError(ErrorCode.POP_FAILED, "the token names a key: give its seed as pop_seed")
        seed = pop_seed if claims.cnf else None
        tcp = bool(claims.net & capability.NET_TCP_LEGS)
        return cls(claims.sub, claims.cid, token=token, pop_seed=seed, tcp=tcp)


class Link:
    """One leg's control stream. Write what `take` returns; `feed` what arrives."""

    def __init__(
        self,
        credentials: Credentials,
        client: Cli,
        transport: TransportName = "quic",
        *,
        nacks: bool = False,
        stands: bool = False,
    ) -> None:
        """`stands`: the hello says that the leg waits until it is needed."""
        self._nacks = nacks
        self._stands = stands
        self.welcome: Welcome | None = None
        self._transport: Final = transport
        self._credentials = credentials
        self._client = client
        self._reader = FrameReader()
        self._out = bytearray()
        self._behind_hello = bytearray()
        self._is_hello_said = credentials.pop_seed is None
        self._last_id = 0
        self._internal: Final[dict[type[Message], Callable[[Message], None]]] = {
            Challenge: self._on_challenge,
            Welcome: self._on_welcome,
            Ping: self._on_ping,
        }
        if credentials.pop_seed is None:
            self._say(self._hello(None))
        else:
            self._say(Ping(t=0))

    def take(self) -> bytes:
        """Bytes for the stream."""
        data, self._out = bytes(self._out), bytearray()
        return data

    def request(self, message: Message) -> int:
        """Queue a message that wants an answer; its id comes back with the answer. It follows the hello."""
        return self._say(message)

    def tell(self, message: Message) -> None:
        """Queue a message that wants none."""
        self._out += encode(message)

    def bye(self) -> None:
        """Say that the leg ends on purpose."""
        self.tell(Bye(code=ErrorCode.NO_ERROR))

    def feed(self, data: bytes) -> list[tuple[int, Message]]:
        """Take bytes of the stream: (id, message) for all that is not the link's own business.

        Raises PeerError if the relay does not keep to the wire format.
        """
        news: list[tuple[int, Message]] = []
        for raw in self._reader.feed(data):
            frame = decode(raw)
            if frame.body is None:
                continue  # a type that a newer relay knows
            handler = self._internal.get(type(frame.body))
            if handler is not None:
                handler(frame.body)
            if handler is None or isinstance(frame.body, Welcome):
                news.append((frame.id, frame.body))
        return news

    # ------------------------------------------------------------ inside

    def _say(self, message: Message) -> int:
        self._last_id += 1
        is_first = self._is_hello_said or isinstance(message, Hello | Ping)
        out = self._out if is_first else self._behind_hello
        out += encode(message, self._last_id)
        return self._last_id

    def _hello(self, nonce: bytes | None) -> Hello:
        own = self._credentials
        proof = None
        if own.pop_seed is not None and nonce is not None:
            proof = capability.pop_sign(own.pop_seed, nonce, own.sub, own.call)
        return Hello(
            tok=own.token,
            resume=own.ticket,
            stand=self._stands,
            pop=proof,
            caps=_caps(self._nacks),
            leg=self._transport,
            cli=self._client,
        )

    def _on_challenge(self, message: Message) -> None:
        assert isinstance(message, Challenge)
        if self.welcome is None and self._credentials.pop_seed is not None:
            self._say(self._hello(message.n))
            self._is_hello_said = True
            self._out += self._behind_hello
            self._behind_hello.clear()

    def _on_welcome(self, message: Message) -> None:
        assert isinstance(message, Welcome)
        self.welcome = message

    def _on_ping(self, message: Message) -> None:
        assert isinstance(message, Ping)
        self.tell(Pong(t=message.t))
