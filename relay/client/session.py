"""One participant's place at a relay, whichever leg it stands on, and the way back to it when one breaks.

    async with connect(url, token=...) as session:
        call = await session.join()

A move is made before the old leg is broken: open, hello with the ticket, `rejoin`, both carry, `moved`; or
`carry`, and each of the two carries one way. Must never live here: what a call does with its messages, when
to move (ladder.py), which leg carries what (footing.py), which MOVED is followed (redirect.py), a leg's own
business (leg.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from weakref import WeakSet

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.client.ahead import Ahead
from relay.client.call import Call
from relay.client.climb import Climber, open_first
from relay.client.errors import RefusedError, SessionError
from relay.client.following import Follower
from relay.client.footing import Footing
from relay.client.health import OTHER, Direction
from relay.client.leg import RelayLeg
from relay.client.life import CallState
from relay.client.link import Credentials, TransportName
from relay.client.redirect import Redirects
from relay.client.refuge import Refuge
from relay.client.rungs import Destination, ladder_of, parse_url
from relay.client.standby import Standby
from relay.client.transport import LegTransport, Trust
from relay.client.udp import UdpPort
from relay.client.warm import Warm
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.address import Address
from relay.protocol.datagram import Datagram, LegReport, Nack, NewestWins, decode_datagram, encode_datagram
from relay.protocol.messages import (
    Bye,
    Carry,
    Cli,
    Drain,
    Ended,
    Join,
    Joined,
    Message,
    Moved,
    Obs,
    Rejoin,
    Ticket,
    Welcome,
)

SWITCH_S: Final = 0.4  # both legs carry for so long after a move: two slow round trips
CLOSING_S: Final = 1.0  # the relay closes a leg that was let go; if its word is lost, we do
RECOVER_S: Final = 90.0  # a ticket is good for so long
DEFAULT_CLIENT: Final = Cli(sdk="py", app="relay-cli", os="linux", dev="desktop")
_BROKEN: Final = frozenset({ErrorCode.GENERAL, ErrorCode.IDLE_TIMEOUT})  # the network's word, not the relay's
OWN_MOVE_S: Final = 10.0  # the relay lets the old leg go 3 s after a move, and we wait 5 s for its answer
FreshToken = Callable[[], Awaitable[bytes]]


class Session:
    """A place that was admitted. Made by `connect`; implements what `Call` needs of it."""

    def __init__(
        self,
        rungs: Sequence[Destination],
        credentials: Credentials,
        trust: Trust,
        identity: bytes,
        client: Cli,
        *,
        direct: bool = True,
        repair: bool = True,
        nack: bool = False,
        fresh_token: FreshToken | None = None,
        proxy: str | None = None,
        warm_standby: bool = True,
    ) -> None:
        self._rungs = tuple(rungs)
        self._proxy = proxy
        self._credentials = credentials
        self._redirects = Redirects(tcp=credentials.tcp)
        self._trust = trust
        self._identity = Ed25519PrivateKey.from_private_bytes(identity)
        self._client = client
        self._direct = direct
        self._repairs = repair
        self._nacks = nack
        self._fresh_token = fresh_token
        self._loop = asyncio.get_running_loop()
        self._footing = Footing()
        self._keeps: Direction | None = None  # the way for which the leg in use stays, at the next move
        self._left: list[RelayLeg] = []
        self._legs_made = 0
        self._alive: WeakSet[RelayLeg] = WeakSet()  # all legs, those under trial too
        self._climber: Climber | None = None
        self._follower = Follower(self, trust)
        self._refuge = Refuge(self, trust)
        self._standby = Standby(self, self._refuge, Warm(self, trust) if warm_standby else None)
        self._recovery: asyncio.TimerHandle | None = None
        self._error: SessionError | None = None
        self._ticket: bytes | None = None
        self._asked_at: float | None = None  # when we last asked for our place on another leg
        self._observed: dict[int, tuple[str, int]] = {}
        self.moves = 0
        """How often the session moved to another leg."""
        self.malformed = 0  # control datagrams that could not be read
        self.call: Call | None = None
        self.drain: Drain | None = None
        """Set while the relay asks us to move; the session does so by itself if it may (`pop_seed`,
        `fresh_token`)."""

    # ------------------------------------------------------------ what the application asks

    @property
    def welcome(self) -> Welcome | None:
        """What the relay said at the door: node, limits, observed address."""
        return self._main.link.welcome if self._main is not None and self._main.link is not None else None

    @property
    def observed(self) -> tuple[str, int] | None:
        """Our address as the relay sees it."""
        return self._observed.get(self._main.number) if self._main is not None else None

    @property
    def error(self) -> SessionError | None:
        """Why the session is gone; None while it lives, or moves by itself to another leg."""
        return self._error

    @property
    def rung(self) -> Destination | None:
        """Where we stand: transport, host and port of the leg in use."""
        return self._main.to if self._main is not None else None

    @property
    def up(self) -> Destination | None:
        """Where what we say goes: another rung than `down` while only one way of a rung is bad."""
        leg = self._footing.carrier("up")
        return leg.to if leg is not None else None

    @property
    def down(self) -> Destination | None:
        """Where what we hear comes from."""
        leg = self._footing.carrier("down")
        return leg.to if leg is not None else None

    @property
    def transport(self) -> TransportName:
        """How we are connected: quic or ws."""
        return (self.rung or self._rungs[0]).transport

    @property
    def local_port(self) -> int:
        """The UDP or TCP port we send from."""
        transport = self._main.transport if self._main is not None else None
        return transport.local_port if transport is not None else 0

    @property
    def port(self) -> UdpPort | None:
        """The UDP port that the relay knows us by, None on a leg without one."""
        quic = self._main.quic if self._main is not None else None
        return quic.port if quic is not None else None

    @property
    def seen_as(self) -> Address | None:
        """How the relay sees that port; None if it said something else."""
        try:
            return Address.told(*self.observed) if self.observed else None
        except PeerError:
            return None

    @property
    def relay_host(self) -> str:
        """The relay's address as text, empty while there is none."""
        quic = self._main.quic if self._main is not None else None
        return quic.peer.host if quic is not None else ""

    @property
    def media_unsent(self) -> int:
        """Media dropped before the network, all legs of this session together."""
        return self._footing.unsent

    @property
    def media_repeated(self) -> int:
        """Media that went again, since a relay did not get it, all legs of this session together."""
        return self._footing.repeated

    async def join(self) -> Call:
        """Enter the call that the token names.

        SessionError, RefusedError. A node that is not the call's home may send us there, as at `connect`.
        """
        while True:
            try:
                await self.request(Join(c=self._credentials.call))
                break
            except (RefusedError, SessionError) as error:
                if self.call is not None:
                    raise
                self._follow(error)
                await self.open()
        if self.call is None:
            raise SessionError(
                ErrorCode.PROTOCOL_VIOLATION, "the relay answered the join with something else"
            )
        return self.call

    async def rebind(self) -> int:
        """Move to a new local UDP port within the connection, as a phone does that changes networks.

        TCP cannot move: from there it comes back over a new connection, on whichever rung answers first.
        SessionError if none does; the session goes on looking by itself. LocalError where it may not do
        that, for want of `pop_seed` and `fresh_token`: `rejoin` with a token instead. Returns the new port.
        """
        leg = self._leg_in_use()
        if self.call is not None:
            self.call.on_moving()
        if leg.quic is None and self._climber is not None:
            await self.rejoin()
            return self.local_port
        assert leg.transport is not None
        return await leg.transport.rebind()

    async def rejoin(self, url: str | None = None, token: bytes | None = None) -> None:
        """Take our place in the call again over a new connection, with the ticket of the old one.

        A ticket is no credential by itself: it needs the key that the token named (`pop_seed`), else a fresh
        token of the same call.
        """
        if self.call is None or self._ticket is None:
            raise LocalError("there is no call to come back to, or no ticket for it")
        if self.call.state is CallState.ENDED:
            raise LocalError("the call is over")
        if url is not None:
            self._rungs = (parse_url(url),)
        leg = await open_first(self.make_leg, len(self._rungs), self._trust)
        try:
            await self.move_to(leg, token)
        except BaseException:
            leg.close("could not move")
            raise

    async def close(self) -> None:
        """Leave: the relay is told, all tasks end."""
        if self.call is not None:
            await self.call.close()
        await self._standby.close()
        await self._follower.close()
        if self._climber is not None:
            await self._climber.close()
        self._cancel_recovery()
        if self._main is not None and self._main.error is None:
            self._main.tell(Bye(code=ErrorCode.NO_ERROR))
        await asyncio.gather(*(leg.end() for leg in list(self._alive)))
        await asyncio.sleep(0)  # sockets close in the next turn of the loop

    async def open(self) -> None:
        """Race the rungs and be admitted, here or where we are sent to. SessionError, RefusedError."""
        while True:
            leg = await self._open_first()
            self._footing.step(leg)
            self._error = None
            try:
                await leg.hello(self._credentials, self._client, nacks=self._nacks)
                return
            except (RefusedError, SessionError) as error:
                self._follow(error)

    # ------------------------------------------------------------ what the call asks

    async def request(self, message: Message) -> Message:
        """Send a message and wait for its answer."""
        if self._error is not None:
            raise self._error
        self._follower.note(message)
        self._refuge.note(message)
        return await self._leg_in_use().request(message)

    def tell(self, message: Message) -> None:
        """Send a message that wants no answer."""
        if self._main is not None:
            self._main.tell(message)

    def send_media(self, payload: bytes) -> None:
        """Send a media datagram, on both legs in the middle of a move."""
        for leg in (*self._footing.mouths, *self._ahead):
            leg.send_media(payload)

    def send_control(self, datagram: Datagram) -> None:
        """Send a control datagram; what tells of flows by the leg that they are on."""
        leg = self._footing.ear if isinstance(datagram, LegReport) else self._main
        if leg is not None:
            leg.send(encode_datagram(datagram))

    # ------------------------------------------------------------ what the legs tell

    def on_message(self, leg: RelayLeg, number: int, message: Message) -> None:
        """A message of the relay."""
        if isinstance(message, Joined | Ticket):
            self._standby.note(leg, message)
        match message:
            case _ if leg in self._ahead and Ahead.takes(message):
                if leg is self._follower.leg:
                    self._follower.on_message(message)
                else:
                    self._refuge.on_message(leg, message)
            case Welcome():
                self._observed[leg.number] = message.obs
                if leg.transport is not None:
                    self._on_welcome(leg.transport, message)
            case Joined():
                self._on_joined(leg, message)
            case Ticket():
                self._ticket = message.rt if leg is self._main else self._ticket
            case Obs():
                self._observed[leg.number] = (message.ip, message.port)
                if leg is self._main and self.call is not None:
                    self.call.on_network_change()
            case Drain():
                self._on_drain(leg, message)
            case Bye() if leg.transport is not None:
                leg.transport.close(message.code, message.reason)
            case _:
                self._on_call_message(leg, message)

    def on_leg_datagram(self, leg: RelayLeg, data: bytes) -> None:
        """A datagram: first byte 0 is ours to read, the rest is media."""
        if self.call is None or not data:
            return
        if data[0]:
            self.call.on_media(data, leg.number)
            return
        try:
            control = decode_datagram(data)
        except PeerError:
            self.malformed += 1
            return
        if isinstance(control, NewestWins) and isinstance(control.body, Drain):
            if leg is self._main and self._climber is not None:
                self._climber.renew()  # a node that crashed has nothing but datagrams to say it by
            return
        if isinstance(control, Nack) and leg.transport is not None:
            leg.transport.resend(control)
        self.call.on_control(control)

    def on_leg_closed(self, leg: RelayLeg, error: SessionError) -> None:
        """A connection is over. Another leg may carry on, or be found."""
        self._observed.pop(leg.number, None)
        self._follower.on_closed(leg)
        self._refuge.on_closed(leg)
        was_main = leg is self._main
        if was_main:
            self._follower.look()  # with nothing left here, what is ahead is where we are
        self._footing.on_closed(leg)
        if was_main:
            if self._main is not leg:
                self._on_footing()
            elif (
                self._climber is not None
                and self._is_in_call
                and (self._is_broken(error) or self._follower.is_busy or self._refuge.is_busy)
            ):
                self._recovery = self._recovery or self._loop.call_later(RECOVER_S, self._lose, error)
            else:
                self._error = error
            if self.call is not None and self._main is leg:
                self.call.on_leg_lost()
        else:
            self._on_footing()
        if leg in self._left:
            self._left.remove(leg)
        if self.call is not None:
            self.call.forget_leg(leg.number)

    # ------------------------------------------------------------ what the ladder asks

    @property
    def main(self) -> RelayLeg | None:
        """The leg in use."""
        return self._main

    @property
    def second(self) -> tuple[RelayLeg, Direction] | None:
        """Of two legs that carry one way each the one that is not main, and its way."""
        beside, way = self._footing.beside, self._footing.way
        return None if beside is None or way is None else (beside, way)

    @property
    def is_talking(self) -> bool:
        """Whether both accepted, nobody has hung up, and the place is not lost: nobody fights for it."""
        is_open = self.call is not None and self.call.state in (CallState.OPEN, CallState.AWAY)
        return is_open and self._error is None and not self._follower.is_busy

    @property
    def is_over(self) -> bool:
        """Whether the call is."""
        return self.call is not None and self.call.state is CallState.ENDED

    @property
    def has_standby(self) -> bool:
        """Whether another node takes the call up by itself when this one is gone."""
        return self._may_move and self._standby.is_ready

    @property
    def has_warm_standby(self) -> bool:
        """Whether a connection to it is open already."""
        return self._standby.is_warm

    @property
    def is_sheltered(self) -> bool:
        """Whether a leg at another node may be all that is needed when this one is silent."""
        return self._standby.is_sheltered

    @property
    def is_repaired(self) -> bool:
        """Whether the relay makes good what is lost on the leg in use: then it asks us to wait for that."""
        stats = None if self.call is None else self.call.leg_stats
        return stats is not None and stats.mp > 0

    def announce_move(self) -> None:
        """We send from another address: the relay hears of it at once, not with the next thing we say."""
        if self.call is not None:
            self.call.on_moving()
        for leg in self._footing.legs:
            if leg.quic is not None:
                leg.quic.announce_move()

    def make_leg(self, rung: int) -> RelayLeg:
        """A leg that is not open."""
        return self.make_leg_to(self._rungs[rung], rung)

    async def move_to(
        self, leg: RelayLeg, token: bytes | None = None, *, keep: Direction | None = None
    ) -> None:
        """Make this the leg in use: both carry for a moment, then the old one is let go, or keeps one way."""
        ticket = self._follower.ticket or self._ticket
        assert ticket is not None
        self._keeps = keep
        try:
            await self.take_place(leg, ticket, token)
        finally:
            self._keeps = None
        if keep is not None:
            await self._divide(leg, keep)

    async def unite(self, leg: RelayLeg) -> None:
        """Of two legs that carry one way each this one carries all; the other one is let go. SessionError."""
        self._footing.unsettle()
        was_main = leg is self._main
        await leg.request(Carry(c=self._credentials.call, way="both"))
        if leg not in self._footing.legs:
            return  # the other one died meanwhile, or this one did
        old = self._footing.unite(leg)
        self._on_footing()
        if old is not None:
            self._loop.call_later(SWITCH_S, self._let_go, old)
        if not was_main:
            self._on_switched()

    async def _divide(self, leg: RelayLeg, keep: Direction) -> None:
        """Share the ways out between the leg we came to and the one we left; else that one goes."""
        old = self._footing.beside
        if leg is not self._main or old is None:
            return
        try:
            await leg.request(Carry(c=self._credentials.call, way=OTHER[keep]))
        except (RefusedError, SessionError):  # a relay that knows no `carry`, or one of the two died
            self._let_go(old)
            return
        if leg is self._main and old is self._footing.beside:
            self._footing.divide(keep)
            self._on_footing()
            self._loop.call_later(SWITCH_S, self._footing.settle)

    # ------------------------------------------------------------ what the follower asks

    @property
    def rungs(self) -> Sequence[Destination]:
        """The ways to the node in use, best first."""
        return self._rungs

    @property
    def peer(self) -> int | None:
        """The other's index, None before anybody came."""
        return self.call.peer if self.call is not None else None

    def make_leg_to(self, to: Destination, rung: int) -> RelayLeg:
        """A leg that is not open, to wherever."""
        self._legs_made += 1
        leg = RelayLeg(self._legs_made, rung, to, self, self._proxy)
        self._alive.add(leg)
        return leg

    def hear_aside(self, message: Message, leg: RelayLeg) -> None:
        """What a node that is not the one in use says of the call, and what holds all the same."""
        if self.call is not None:
            self.call.on_message_aside(message, leg.number)

    def go_over(
        self, leg: RelayLeg, joined: Joined, ticket: bytes | None, rungs: Sequence[Destination]
    ) -> None:
        """From now on this is the leg in use, and these are the rungs; none: those there were."""
        assert self.call is not None  # there is a place to come from
        if rungs:
            self._rungs = tuple(rungs)
            if self._climber is not None:
                self._climber.begin_anew(len(rungs), leg.rung)
        self.drain = None
        self._ticket = ticket or self._ticket
        if self._main is not None:
            self._main.is_behind = True
        self._switch_to(leg)
        self.call.on_joined(joined)

    async def take_place(self, leg: RelayLeg, ticket: bytes, token: bytes | None = None) -> None:
        """Hello and rejoin on this leg, by this ticket."""
        if token is None and self._credentials.pop_seed is None and self._fresh_token is not None:
            token = await self._fresh_token()
        credentials = replace(self._credentials, ticket=ticket, token=token)
        # In one breath, a round trip less until we are there; who refuses the hello reads no further.
        await asyncio.gather(
            leg.hello(credentials, self._client, nacks=self._nacks), self.return_to(leg, ticket)
        )

    async def stand_by(self, leg: RelayLeg, ticket: bytes) -> None:
        """Hello with this ticket, and wait there until the node in use is silent."""
        credentials = replace(self._credentials, ticket=ticket, token=None)
        await leg.hello(credentials, self._client, nacks=self._nacks, stands=True)

    async def return_to(self, leg: RelayLeg, ticket: bytes) -> None:
        """Rejoin on a leg that said hello, by this ticket."""
        last = self.call.newest() if self.call is not None else {}
        self._asked_at = self._loop.time()
        await leg.request(Rejoin(c=self._credentials.call, rt=ticket, last=last))

    # ------------------------------------------------------------ inside

    async def _open_first(self) -> RelayLeg:
        """A leg on the first rung that answers. SessionError."""
        try:
            return await open_first(self.make_leg, len(self._rungs), self._trust)
        except SessionError as error:
            if not self._redirects.hops:
                raise
            what = "at the node that MOVED named, which the same `ca` and `server_name` have to trust"
            raise SessionError(error.code, f"{what}: {error}") from None

    def _follow(self, error: RefusedError | SessionError) -> None:
        """From now on the rungs are those that MOVED names; other errors are raised, and one too many."""
        if error.code != ErrorCode.MOVED:
            raise error
        assert self._main is not None  # who answered
        if isinstance(error, RefusedError):
            self._rungs = self._redirects.follow(error, self._main.to)
        else:  # the leg's end came, the answer before it did not
            self._redirects.again(RefusedError(ErrorCode.MOVED, ""))
        self._main.close("sent on")

    @property
    def _ahead(self) -> list[RelayLeg]:
        """Legs at other nodes, where we are not yet."""
        following = self._follower.leg
        return self._refuge.legs if following is None else [following, *self._refuge.legs]

    @property
    def _main(self) -> RelayLeg | None:
        return self._footing.main

    @property
    def _may_move(self) -> bool:
        """A ticket is no credential by itself."""
        return self._credentials.pop_seed is not None or self._fresh_token is not None

    @property
    def _is_in_call(self) -> bool:
        return self.call is not None and self.call.state is not CallState.ENDED

    def _is_broken(self, error: SessionError) -> bool:
        """Whether a leg that closed so may be replaced.

        MOVED says that we sit on another leg. If we asked for that ourselves, and yet this leg was in use,
        the other one died before its answer came, and the relay has not noticed.
        """
        asked_lately = self._asked_at is not None and self._loop.time() - self._asked_at < OWN_MOVE_S
        return error.code in _BROKEN or (error.code == ErrorCode.MOVED and asked_lately)

    def _on_welcome(self, transport: LegTransport, welcome: Welcome) -> None:
        if welcome.ack is not None:
            transport.hold_acks(welcome.ack / 1000)
        if self._repairs:
            transport.repair(1000 * welcome.lim.up, welcome.lim.pps, by_name=self._nacks)

    def _on_call_message(self, leg: RelayLeg, message: Message) -> None:
        is_behind = leg.is_behind and leg is not self._main
        over_here = isinstance(message, Ended) and message.code == ErrorCode.DRAIN_TIMEOUT
        if self.call is None or (over_here and self._ahead):
            return  # over here, not where we are going
        if not is_behind:
            self.call.on_message(message, leg.number)
        elif not isinstance(message, Ended):
            self.call.on_message_aside(message, leg.number)

    def _on_drain(self, leg: RelayLeg, message: Drain) -> None:
        self.drain = message
        if leg is self._main and self._may_move:
            if message.ht is not None and self._refuge.is_busy:
                self._refuge.call_off()  # it speaks
            self._follower.on_drain(message)

    def _on_joined(self, leg: RelayLeg, message: Joined) -> None:
        self._ticket = message.rt or self._ticket
        leg.up = message.up
        if leg is not self._main:
            self._switch_to(leg)
        if self.call is None:
            self.call = Call(self, message, self._identity, direct=self._direct, nack=self._nacks)
            self._on_footing()
            if self._may_move:
                self._climber = Climber(self, len(self._rungs), self._trust)
                self._standby.start()
        else:
            self.call.on_joined(message)

    def _switch_to(self, leg: RelayLeg) -> None:
        """From here on both legs carry; the old one for a moment."""
        self._error = None
        self._cancel_recovery()
        if self._footing.beside is not None:
            self._let_go(self._footing.beside)
        old = self._footing.step(leg)
        self._on_footing()
        if old is not None and self._keeps is None:
            self._loop.call_later(SWITCH_S, self._let_go, old)
        self._on_switched()

    def _on_switched(self) -> None:
        self.moves += 1
        if self.call is not None:
            self.call.on_leg_change()

    def _on_footing(self) -> None:
        """Other legs carry: reports go where the media comes from."""
        if self.call is not None and self._footing.ear is not None:
            self.call.hear_on(self._footing.ear.number)

    def _let_go(self, old: RelayLeg) -> None:
        if self._footing.beside is old:
            self._footing.leave()
            self._on_footing()
            old.tell(Moved(c=self._credentials.call, ok=True))
            self._left.append(old)
            self._loop.call_later(CLOSING_S, old.close)

    def _lose(self, error: SessionError) -> None:
        """Nobody can come back with the ticket any more."""
        self._error = error
        if self.call is not None:
            self.call.on_leg_lost()

    def _cancel_recovery(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            self._recovery = None

    def _leg_in_use(self) -> RelayLeg:
        if self._main is None:
            raise LocalError("the session is not open")
        return self._main


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: bytes,
    pop_seed: bytes | None = None,
    identity: bytes | None = None,
    ca: str | Path | None = None,
    insecure: bool = False,
    server_name: str | None = None,
    client: Cli = DEFAULT_CLIENT,
    direct: bool = True,
    repair: bool = True,
    nack: bool = False,
    fallbacks: Sequence[str] | None = None,
    fresh_token: FreshToken | None = None,
    proxy: str | None = None,
    warm_standby: bool = True,
) -> AsyncIterator[Session]:
    """Open a leg to the relay at `url` with a capability token; close it on leaving the block.

    `pop_seed` is the Ed25519 seed (32 bytes) whose public key the token names as `cnf`. `identity` is the
    seed of the key that signs the end-to-end agreement (a fresh one if absent). `ca` is a PEM file of the CA,
    or of the relay's own certificate to pin exactly that one; `insecure` checks nothing. `direct=False` never
    tells the other side an address of ours; the relay tells none either unless both tokens allow it.
    `repair=False` sends nothing again that the relay does not get. `nack` is what a client does that sees no
    acknowledgements, as a web page: it asks by name for what it misses, and sends again what the relay names.
    `fallbacks` are further addresses of the relay, best first, to which the session moves by itself when this
    one is bad; with `pop_seed`, or with `fresh_token`, which gets a token of the same call. `proxy` is
    the HTTP proxy for wss addresses, "http://[user:password@]host:port"; else HTTPS_PROXY and NO_PROXY count.
    `warm_standby=False` opens no second connection, to the node that takes the call up when this one is
    silent: then a handshake stands between that and audio from there.

    Where the call's home is another node (`home` in the token), a relay may answer MOVED: the session goes
    there with the same token and the same trust, three times at most.

    Raises SessionError if the relay cannot be reached or trusted, RefusedError if it does not admit us; its
    code is MOVED where there is no way on.
    """
    credentials = Credentials.of_token(token, pop_seed)
    session = Session(
        ladder_of(url, fallbacks, tcp=credentials.tcp),
        credentials,
        Trust(ca, insecure, server_name),
        identity or os.urandom(32),
        client,
        direct=direct,
        repair=repair,
        nack=nack,
        fresh_token=fresh_token,
        proxy=proxy,
        warm_standby=warm_standby,
    )
    try:
        await session.open()
        yield session
    finally:
        await session.close()
