"""The direct path of a call: addresses told, doors knocked at, a connection made, proven, watched, given up.

    begin --cand--> other side --punch--> knock --an answer--> QUIC --proof--> carry --dead--> begin later

It never stands alone: `Carrier` says when the relay carries too. Must never live here: what a media packet
holds, and the arithmetic of its parts (candidates.py, knock.py, pinned.py, health.py, carrier.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Network
from typing import Final, Literal

from relay.client import candidates as cand
from relay.client import nat64, pinned
from relay.client.carrier import Carrier, Way
from relay.client.errors import RefusedError, SessionError
from relay.client.health import Health
from relay.client.keyring import KeyRing
from relay.client.knock import Knocker, Packet
from relay.client.reports import Leg
from relay.client.transport import Transport
from relay.client.udp import UdpPort, has_ipv4, own_hosts
from relay.errors import ErrorCode, PeerError
from relay.protocol.address import Address
from relay.protocol.datagram import Ping, Pong, decode_datagram, encode_datagram
from relay.protocol.messages import Cand, Path, Punch

RETRY_S: Final = (2.0, 4.0, 8.0, 16.0, 30.0, 60.0)  # after a path that died or was not found
ROUNDS_S: Final = 5.0  # four rounds a second apart, and the way there
ALONE_S: Final = 0.080  # so is what comes while the direct path is silent: three packets of a voice missing
QUIET_S: Final = 0.5  # media by the relay is news after so long without: longer than a pause in its stream
_QUIC_LONG: Final = 0xC0
_QUIC_SHORT: Final = 0x40
_STEP_S: Final = 0.02  # how often a path in use is looked at
_U32: Final = 0xFFFF_FFFF
_NAMES: Final[dict[cand.Kind, Literal["host", "srflx"]]] = {cand.Kind.HOST: "host", cand.Kind.SRFLX: "srflx"}


class DirectPath:
    """One call's direct path to one peer. All methods belong to one event loop."""

    def __init__(
        self,
        call: bytes,
        own: int,
        peer: int,
        ring: KeyRing,
        leg: Leg,
        on_media: Callable[[bytes], None],
    ) -> None:
        self._call = call
        self._own = own
        self._peer = peer
        self._ring = ring
        self._leg = leg
        self._on_media = on_media
        self._loop = asyncio.get_running_loop()
        self._identity = pinned.make_identity() if own > peer else None
        self._carrier = Carrier()
        self._health = Health(2 * _STEP_S)
        self._generation = -1
        self._mine: tuple[cand.Candidate, ...] = ()
        self._secret = b""
        self._offer: cand.Offer | None = None
        self._translator: IPv6Network | None = None  # in front of us, if we have IPv6 alone
        self._heard_generation = -1
        self._knocker: Knocker | None = None
        self._port: UdpPort | None = None
        self._transport: Transport | None = None
        self._proof = b""
        self._said = False  # the relay knows that we are direct
        self._has_moved = False  # since we told where we are
        self._relayed_at = self._heard_at = float("-inf")
        self._followed = 0  # the newest ping when the other side moved
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_over = False
        self.is_denied = False
        """The relay passes no addresses between the two, or the path was closed for good."""

    # ------------------------------------------------------------ what the call asks

    @property
    def way(self) -> Way:
        """What carries media now."""
        return self._carrier.way

    @property
    def rtt(self) -> float | None:
        """Round trip of the direct path, seconds."""
        return self._health.rtt if self._carrier.by_direct else None

    def begin(self) -> None:
        """Tell the other side where we are, as far as we know now; when both accepted and hold keys."""
        if self._is_over or self.is_denied:
            return
        self._expect()
        found = self._ring.path_secret(self._peer)
        port = self._leg.port
        if found is None or port is None or port.is_closed:
            return
        epoch, self._secret = found
        if self._port is not None and self._port is not port:
            self._port.on_stranger = None
        self._port = port
        port.on_stranger = self._on_stranger
        self._find_translator()
        self._generation += 1
        self._has_moved = False
        hosts = own_hosts(self._leg.relay_host)
        self._mine = cand.gather(hosts, port.number, self._leg.seen_as)
        sealer = cand.Sealer(self._secret, self._call, self._own, self._peer)
        certificate = self._identity.der if self._identity else b""
        blob = sealer.seal(cand.Offer(certificate, self._mine), epoch, self._generation, os.urandom)
        kinds = tuple(_NAMES[one.kind] for one in self._mine)
        message = Cand(c=self._call, to=self._peer, gen=self._generation, b=blob, kinds=kinds, end=True)
        self._spawn(self._announce(message))

    def on_moving(self) -> None:
        """Our network is about to be another one, or is it already: the direct path may not bear that."""
        self._carrier.on_moved(self._health, self._loop.time())

    def on_network_change(self) -> None:
        """Our address or port changed: what the other side knows of us is old.

        A path that is up follows where it can, by itself; if it dies of it we begin anew without delay.
        """
        if self._carrier.by_direct:
            self._has_moved = True
            self.on_moving()
        elif self._generation >= 0 and not self._is_over:
            self._give_up(0.0)

    def on_relayed(self) -> None:
        """The other side's media came by the relay: it doubts the path, and may know more than we do.

        What it sends because we doubt is no reason to go on doubting: only what is new, or comes alone, is.
        """
        now = self._loop.time()
        is_news = now - self._relayed_at > QUIET_S or now - self._heard_at > ALONE_S
        self._relayed_at = now
        if is_news and self._carrier.way is Way.DIRECT:
            self._carrier.on_moved(self._health, now)

    def on_leg_change(self) -> None:
        """The relay carries on another leg, from another port: a path that is up stays on the port it has."""
        if not self._carrier.by_direct:
            self.on_network_change()

    def send(self, payload: bytes) -> bool:
        """Send a media datagram directly if the path carries; True if the relay need not carry it too."""
        now = self._loop.time()
        self._check(now)
        if not self._carrier.by_direct or self._transport is None:
            return False
        number = self._health.ping(now, busy=True)
        beside = b"" if number is None else encode_datagram(Ping(round(now * 1000) & _U32, number & _U32))
        self._transport.send(payload, beside)
        return not self._carrier.by_relay

    def close(self) -> None:
        """For good."""
        self._is_over = True
        self._drop()
        self._cancel_retry()
        for task in self._tasks:
            task.cancel()
        if self._port is not None:
            self._port.on_stranger = None

    # ------------------------------------------------------------ what the relay tells

    def on_cand(self, message: Cand) -> None:
        """The other side's addresses. PeerError, not fatal, if they were not sealed by it."""
        if message.p != self._peer or message.gen <= self._heard_generation or self._is_over:
            return
        found = self._ring.path_secret(self._peer, cand.epoch_of(message.b))
        if found is None:
            return
        offer = cand.Sealer(found[1], self._call, self._peer, self._own).open(message.b, message.gen)
        self._heard_generation = message.gen
        self._secret, self._offer = found[1], offer
        self._drop()
        self._expect()
        if self._generation < 0 or self._port is not self._leg.port:
            self.begin()  # what the other side knows of us, if anything, is a port that we left

    def on_punch(self, message: Punch) -> None:
        """Knock soon: the other side does so at the same time."""
        if message.p == self._peer and self._offer is not None and not self._is_over:
            self._loop.call_later(message.delay_ms / 1000, self._knock, self._heard_generation)

    # ------------------------------------------------------------ knocking

    def _knock(self, generation: int) -> None:
        # Also while a connection is under way: the other side may have begun anew, and takes it from nobody
        # whom it has not heard knock since.
        if self._is_over or generation != self._heard_generation or self._carrier.by_direct:
            return
        if self._knocker is None:
            assert self._offer is not None
            addresses = cand.usable(self._offer.candidates, self._mine)
            if self._translator is not None:
                addresses = nat64.reach(addresses, self._translator)
            self._knocker = Knocker(self._secret, self._own, self._peer, addresses, os.urandom)
        self._knocker.begin_round(self._loop.time())
        self._tick()

    def _on_stranger(self, data: bytes, source: Address) -> None:
        """Somebody that is no relay of ours: a knock, the first packet of a connection, or noise."""
        if self._is_over or not data:
            return
        if data[0] < _QUIC_SHORT:
            if self._knocker is not None:
                self._send(self._knocker.receive(data, source, self._loop.time()))
                self._connect()
        elif self._transport is not None:
            if self._transport.receive(data, source):  # the peer's NAT gave it another port
                self._followed = self._health.sent
                self.on_moving()
        elif data[0] >= _QUIC_LONG and self._knocker is not None and source in self._knocker.heard:
            quic = pinned.server(self._identity, data) if self._identity is not None else None
            if quic is not None:
                self._transport = Transport(quic, source, self, self._port)
                self._spawn(self._transport.accept(data))

    def _send(self, packets: list[Packet]) -> None:
        for packet in packets:
            if self._port is not None:
                self._port.send(packet.data, packet.address)

    def _connect(self) -> None:
        """An address answered: the side with the lower index opens the connection."""
        found = self._knocker.found if self._knocker is not None else None
        if found is None or self._identity is not None or self._transport is not None or self._offer is None:
            return
        try:
            quic = pinned.client(self._offer.certificate)
        except PeerError:
            return
        self._transport = Transport(quic, found, self, self._port, follows=True)
        self._spawn(self._open(self._transport, self._offer.certificate))

    async def _open(self, transport: Transport, certificate: bytes) -> None:
        await transport.open()
        transport.write(pinned.proof(self._secret, certificate))

    def _find_translator(self) -> None:
        """IPv6 alone, and yet the relay saw an IPv4 address: its prefix is known before the first round."""
        seen = self._leg.seen_as
        if seen is None or "." not in seen.host or has_ipv4():
            self._translator = None
        elif self._translator is None:
            self._translator = nat64.WELL_KNOWN
            self._spawn(self._discover())

    async def _discover(self) -> None:
        self._translator = await nat64.discover()

    async def _announce(self, message: Cand) -> None:
        try:
            await self._leg.request(message)
        except RefusedError as error:
            self.is_denied = error.code == ErrorCode.P2P_DENIED

    # ------------------------------------------------------------ what the transport tells

    def on_stream(self, data: bytes) -> None:
        """The proof, or its answer."""
        if self._transport is None or self._carrier.by_direct:
            return
        if self._identity is None:
            if data == pinned.PROVEN:
                self._up()
            return
        self._proof = (self._proof + data)[: pinned.PROOF_SIZE]
        if len(self._proof) < pinned.PROOF_SIZE:
            return
        if hmac.compare_digest(self._proof, pinned.proof(self._secret, self._identity.der)):
            self._transport.write(pinned.PROVEN)
            self._up()
        else:
            self._transport.close(ErrorCode.POP_FAILED)

    def on_datagram(self, data: bytes) -> None:
        """Media, a ping or its answer."""
        if not self._carrier.by_direct or self._transport is None or not data:
            return
        now = self._loop.time()
        self._heard_at = now
        if data[0]:
            self._on_media(data)
            return
        try:
            value = decode_datagram(data)
        except PeerError:
            return
        if isinstance(value, Ping):
            pong = Pong(value.ms, value.seq, round(now * 1000) & _U32)
            self._transport.send(encode_datagram(pong))
        elif isinstance(value, Pong):
            self._health.on_pong(value.seq, now)
            if value.seq > self._followed:
                self._transport.on_proven()

    def on_closed(self, code: int, reason: str) -> None:
        """The connection is over."""
        if self._transport is not None and self._transport.is_closed:
            self._lost()

    # ------------------------------------------------------------ carrying

    def _up(self) -> None:
        self._cancel_retry()
        self._health = Health(2 * _STEP_S)
        self._carrier.on_up(self._loop.time())
        self._tick()

    def _check(self, now: float) -> None:
        if self._transport is None or not self._carrier.by_direct:
            return
        self._carrier.check(self._health, now)
        if self._carrier.way is Way.RELAY:
            self._lost()
        elif self._carrier.way is Way.DIRECT and not self._said:
            self._said = True
            self._failures = 0
            self._report("direct")

    def _report(self, use: Literal["direct", "relay"]) -> None:
        now = self._loop.time()
        rtt, loss = self._health.rtt, self._health.loss(now)
        self._leg.tell(
            Path(
                c=self._call,
                p=self._peer,
                use=use,
                rtt=None if rtt is None else round(1000 * rtt, 1),
                loss=None if loss is None else round(100 * loss, 1),
            )
        )

    def _lost(self) -> None:
        """The direct path is dead: the relay carries, and after a while we try anew."""
        delay = 0.0 if self._has_moved else RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._give_up(delay)

    def _give_up(self, retry_s: float) -> None:
        self._drop()
        self._begin_in(retry_s)

    def _begin_in(self, seconds: float) -> None:
        self._cancel_retry()
        if not self._is_over and not self.is_denied:
            self._retry = self._loop.call_later(seconds, self.begin)

    def _expect(self) -> None:
        """Addresses were told: if nothing comes of them we try anew, less and less often."""
        self._begin_in(ROUNDS_S + RETRY_S[min(self._failures, len(RETRY_S) - 1)])
        self._failures += 1

    def _drop(self) -> None:
        """Close what is open; media goes by the relay from here on."""
        transport, self._transport = self._transport, None
        self._knocker, self._proof = None, b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._carrier.on_closed()
        if transport is not None:
            transport.close(ErrorCode.NO_ERROR)
        if self._said:
            self._said = False
            self._report("relay")

    # ------------------------------------------------------------ time

    def _tick(self) -> None:
        """Do what is due and come back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        if self._knocker is not None and not self._carrier.by_direct:
            self._send(self._knocker.due(now))
            at = self._knocker.next_deadline()
            if at is not None:
                self._timer = self._loop.call_at(at, self._tick)
        elif self._transport is not None and self._carrier.by_direct:
            self._check(now)
            if self._transport is None:
                return
            number = self._health.ping(now, busy=False)
            if number is not None:
                self._transport.send(encode_datagram(Ping(round(now * 1000) & _U32, number & _U32)))
            self._timer = self._loop.call_at(now + _STEP_S, self._tick)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(self._guard(work), name="direct path")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _guard(work: Coroutine[None, None, None]) -> None:
        """A path that cannot be made is no error: the relay carries."""
        with contextlib.suppress(SessionError):
            await work
