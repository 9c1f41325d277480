"""All connections of the node: what the lane leaves for the loop goes to aioquic, 0.7 ms a turn.

    socket -> lane -> socket                       (audio: at once)
               `-> take -> aioquic -> handler      (the rest: known connections first, in bounded time)

Audio never waits behind handshakes. The plain lane is fed from here (`read`), the native one has threads of
its own. Must never live here: what a message or a datagram means.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    ProtocolNegotiated,
    QuicEvent,
    StreamDataReceived,
)
from aioquic.quic.logger import QuicLoggerTrace

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge import h3
from relay.edge.front import Admit, Answer, Front
from relay.edge.handler import Handler, TurnHandler
from relay.edge.keep import Keep
from relay.edge.lane import (
    MAX_UDP,
    AckShown,
    Admitted,
    Broken,
    ControlDatagram,
    Gap,
    Item,
    Known,
    Lane,
    RekeyWanted,
    Stun,
    ToClient,
    Unknown,
    Waiting,
)
from relay.edge.ledger import Ledger
from relay.edge.outbox import Outbox
from relay.edge.peer import Peer, PeerState
from relay.edge.rebirth import Revived
from relay.edge.timers import TURN_SECONDS, Loop, PeerTimers
from relay.edge.trunks import Trunks
from relay.errors import ErrorCode
from relay.protocol.address import Address
from relay.protocol.trunk_control import TrunkCode
from relay.quic.connection import IssuedId, RelayQuic
from relay.quic.space import PathState

log = logging.getLogger("relay.endpoint")

READ_BATCH = 32  # packets per socket and turn, so that timers and other sockets get theirs
READ_ERRORS = 2  # the first may be that of an earlier packet, which asking clears; the second stays
FAREWELL_S = 3.0  # for a web page on a busy machine to take its session's end: the connection's takes it
RETIRED_IDS = 4  # of a connection, kept for stragglers
TAKE_BATCH = 16  # things of the lane per look at the clock


class Endpoint(Ledger):
    """Connections by id and by leg. `attach` a handler before the first packet."""

    def __init__(
        self,
        loop: Loop,
        limits: LimitsConfig,
        configuration: QuicConfiguration,
        *,
        front: Front,
        issue: Callable[[], IssuedId],
        lane: Lane,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(lane)
        self._clock = clock
        self._wall = wall
        self._sockets: list[socket.socket] = []
        self._addresses = 1
        self.outbox = Outbox(loop, lane, clock, self._sockets)
        self.internal_errors = 0
        self.read_errors = 0
        self.handshakes_expired = 0
        self.media_lost = 0
        self.half_open = 0
        self.handshakes = 0
        self.configuration = configuration
        self._accepting = True
        self._loop = loop
        self._limits = limits
        self._front = front
        self._issue = issue
        self._by_id: dict[bytes, Peer] = {}
        self._by_leg: dict[int, Peer] = {}
        self._next_leg = 1
        self._items: deque[Item] = deque()  # taken from the lane and not dealt with yet
        self._working = False
        self._timers = PeerTimers(loop, clock, self._expire)
        self._dirty: dict[Peer, None] = {}
        self.origins: Collection[str] = ()
        """Web pages that may connect, as a browser spells their origins."""
        self.http_answered: Counter[str] = Counter()
        self._handler: Handler
        self._turn: TurnHandler | None = None
        self._probe_leg: int | None = None
        self._probe_path: PathState
        self._on_probe: Callable[[], None] = lambda: None
        self.on_waiting: Callable[[int], None] = lambda leg: None
        """Called when the lane has copies for a leg that is not on QUIC."""
        self.on_broken: Callable[[int], None] = lambda leg: None
        """Called when the lane met a bug of ours over a leg that is not on QUIC."""
        self.keep: Keep | None = None
        """Where what a crash must not take along is written."""
        self.revived: Revived | None = None
        """Legs of the process before, if it crashed."""
        self.trunks: Trunks | None = None
        """Whom we may dial, and who we are to who dials us; None: nobody."""

    def attach(self, handler: Handler) -> None:
        """Name who hears the facts."""
        self._handler = handler

    def attach_turn(self, turn: TurnHandler | None) -> None:
        """Name who answers STUN; None: it is dropped as malformed."""
        self._turn = turn
        self._tell_front()

    def revive(self, keep: Keep) -> Revived:
        """Carry on the legs of the process before; before the first packet."""
        revived = Revived(
            keep, self._lane, self.outbox.send, lambda leg: self._handler.lost(leg, 0), self._clock
        )
        revived.begin()
        self._next_leg = max(self._next_leg, *(leg + 1 for leg in revived.legs()), 1)
        self.revived = revived
        return revived

    def new_leg(self) -> int:
        """A number for a leg; none is used twice."""
        self._next_leg += 1
        return self._next_leg - 1

    def open_probe(self, heard: Callable[[], None]) -> bytes:
        """An id for packets that we send to ourselves; `heard` is called for each that the lane brought back.

        It is that of a connection whose keys nobody has, so that the lane hands its packets to the loop.
        """
        self._probe_leg = self.new_leg()
        self._probe_path = self._lane.open_path(self._probe_leg)
        self._on_probe = heard
        return self._issue_for(self._probe_leg).cid

    def send_probe(self, sock: int, packet: bytes, address: NetworkAddress) -> bool:
        """Send one of these; False when the kernel did not take it."""
        return self.outbox.send(sock, packet, address)

    def configure(self, limits: LimitsConfig, configuration: QuicConfiguration) -> None:
        """New limits and certificate for connections that come from now on."""
        self._limits = limits
        self.configuration = configuration
        self._front.configure(limits)
        self._tell_front()

    @property
    def accepting(self) -> bool:
        """Newcomers are let in."""
        return self._accepting

    @accepting.setter
    def accepting(self, yes: bool) -> None:
        self._accepting = yes
        self._tell_front()

    def _tell_front(self) -> None:
        self._lane.tell_front(
            accepting=self._accepting,
            half_open=self.half_open,
            is_full=len(self._by_leg) >= self._limits.legs,
            stun=self._turn is not None,
        )

    def __len__(self) -> int:
        return len(self._by_leg)

    def last_heard(self, leg: int) -> float | None:
        """When the leg last sent something authentic, monotonic seconds."""
        peer = self._by_leg.get(leg)
        return peer.quic.path.last_heard if peer is not None else None

    def leg_facts(self, leg: int) -> tuple[float, str] | None:
        """Round-trip time in seconds and cipher suite of a leg."""
        peer = self._by_leg.get(leg)
        return (peer.quic.rtt, peer.quic.suite) if peer is not None else None

    def trace(self, leg: int, log: QuicLoggerTrace | None) -> bool:
        """Let `log` hear of the leg's connection from now on (None: nobody); False: it has none here."""
        peer = self._by_leg.get(leg)
        if peer is None or peer.is_gone:
            return False
        peer.quic.trace(log)
        return True

    # ------------------------------------------------------------ in

    def attach_socket(self, sock: socket.socket) -> int:
        """A socket that packets come by and leave by; its number."""
        self._sockets.append(sock)
        self._addresses = len(self._sockets)
        return len(self._sockets) - 1

    def use_sockets(self, sockets: Sequence[socket.socket], addresses: int) -> None:
        """These, by number, from now on: round by round one of each address.

        A number that is gone stands for a socket of the same address.
        """
        self._addresses = addresses
        beyond = range(len(sockets), len(self._sockets))
        self._sockets[:] = [*sockets, *(sockets[number % addresses] for number in beyond)]

    def place_of(self, sock: int) -> int:
        """Number of the address that a socket stands for."""
        return sock % self._addresses

    def read(self, number: int, most: int = READ_BATCH) -> int | None:
        """Take up to `most` packets that wait in a socket, then send what became ready; how many it took.

        None: it cannot be read, and will say so again at once.
        """
        receive = self._sockets[number].recvfrom
        lane = self._lane
        clock = self._clock
        taken = errors = 0
        while taken < most and errors < READ_ERRORS:
            try:
                data, addr = receive(MAX_UDP + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                errors += 1
                continue
            taken += 1
            lane.receive(data, addr, number, clock())
        self.read_errors += errors
        self.flush()
        return taken if taken or errors < READ_ERRORS else None

    def receive(self, data: bytes, addr: NetworkAddress, number: int, now: float) -> None:
        """One UDP packet from the network, and what it makes ready."""
        self._lane.receive(data, addr, number, now)
        self.flush()

    def flush(self) -> None:
        """Send what became ready."""
        self.outbox.flush(self._clock())
        self.wake()

    def wake(self) -> None:
        """The lane may have something for the loop."""
        if not self._working and (self._items or self._fetch()):
            self._working = True
            self._loop.call_soon(self._work)

    def _fetch(self) -> bool:
        items = self._lane.take(TAKE_BATCH)
        self._items += items
        self._packets_held += sum(isinstance(item, Known | Unknown | Admitted | Stun) for item in items)
        return bool(items)

    def _work(self) -> None:
        """What the lane left for the loop, for a bounded time."""
        until = self._clock() + TURN_SECONDS
        while self._items or self._fetch():
            now = self._clock()
            if now >= until:
                break
            item = self._items.popleft()
            try:
                self._deal_with(item, now)
            except Exception as error:
                self._quarantine(self._peer_of(item), error)
        self._working = False
        self.flush()

    def _peer_of(self, item: Item) -> Peer | None:
        if isinstance(item, Unknown | Admitted | Stun | ToClient):
            return None
        return self._by_leg.get(item.leg)

    def _deal_with(self, item: Item, now: float) -> None:
        if isinstance(item, Unknown | Admitted):
            self._packets_held -= 1
            self._receive_unknown(item, now)
            return
        if isinstance(item, Stun | ToClient):
            self._deal_with_turn(item)
            return
        peer = self._by_leg.get(item.leg)
        if isinstance(item, Known):
            self._packets_held -= 1
            if item.leg == self._probe_leg:
                self._hear_probe()
            else:
                self._receive_slow(item.leg, peer, item.data, item.address, item.sock, now)
        elif isinstance(item, Waiting):
            self.on_waiting(item.leg)
        elif peer is not None and not peer.is_gone:
            self._deal_with_note(peer, item, now)
        elif isinstance(item, Broken):
            self.on_broken(item.leg)

    def _deal_with_note(
        self, peer: Peer, note: ControlDatagram | Gap | AckShown | RekeyWanted | Broken, now: float
    ) -> None:
        if isinstance(note, ControlDatagram):
            if peer.state is PeerState.OPEN:
                self._handler.datagram(peer.leg, note.payload)
        elif isinstance(note, Gap):
            self._handler.gap(*note)
        elif isinstance(note, AckShown):
            peer.quic.show_ack(note.ranges, note.delay, note.at)
            self._settle(peer, now)
        elif isinstance(note, RekeyWanted):
            if peer.quic.path.update_asked:  # else the peer was faster
                peer.quic.update_keys()
        else:
            self.internal_errors += 1
            self._forget(peer)

    def _deal_with_turn(self, item: Stun | ToClient) -> None:
        if isinstance(item, Stun):
            self._packets_held -= 1
            if self._turn is None:  # it was switched off a moment ago
                self._dropped[DropReason.MALFORMED] += 1
                return
            self._handled["stun"] += 1
            self._turn.stun(item.data, item.address, item.sock)
        elif self._turn is not None:
            self._turn.to_client(item.allocation, item.data)

    def _deliver(self, peer: Peer, payload: bytes, now: float) -> None:
        payload = peer.quic.bare(payload)
        if payload[:1] == b"\0":
            if peer.state is PeerState.OPEN:
                self._handler.datagram(peer.leg, payload)
        else:
            self._lane.deliver(peer.leg, payload, now)

    def _receive_slow(
        self, leg: int, peer: Peer | None, data: bytes, addr: NetworkAddress, sock: int, now: float
    ) -> None:
        if peer is None or peer.is_gone:
            is_revived = self.revived is not None and self.revived.slow(leg)
            self._dropped[DropReason.PEER_GONE if is_revived else DropReason.UNKNOWN_ID] += 1
            return
        self._handled["quic"] += 1
        path = peer.quic.path
        largest = path.largest
        try:
            peer.quic.receive_datagram(data, addr, now)
        finally:
            path.slow_done()
        if path.largest > largest and addr == peer.quic.get_peer_address():
            peer.quic.sock = sock  # answers leave where the peer's newest packets come
        self._settle(peer, now)
        if peer.state is PeerState.OPEN and peer.quic.is_moving_to(addr):
            self._carry_unproven(peer, len(data), now)
        self.outbox.note_ack(peer, now)

    def _hear_probe(self) -> None:
        self._handled["probe"] += 1
        self._probe_path.slow_done()
        self._on_probe()

    def _carry_unproven(self, peer: Peer, room: int, now: float) -> None:
        """The peer moved: until it has proven its new address it hears no more than came from there.

        The lane waits for the proof, which takes a round trip. RFC 9000 section 8.1 allows three times as
        much: the rest is for the proof itself, and for what one copy is larger.
        """
        copies = self._lane.drain(peer.leg, now, room)
        for copy in copies:
            peer.quic.send_unproven(copy)
        if copies:
            self._settle(peer, self._clock())  # not older than this: else they pass for lost too early

    def _receive_unknown(self, item: Unknown | Admitted, now: float) -> None:
        data, addr, sock = item[:3]
        verdict: Admit | Answer | DropReason | None = None
        if data[0] < 0x80:
            known = self._by_id.get(data[1:9])
            if known is None:
                verdict = self._front.judge_short(data, now)
        else:
            known = self._by_id.get(data[6 : 6 + data[5]])  # its first packet may have stood before it
            if known is None and isinstance(item, Admitted):
                verdict = self._still_admit(item)
            elif known is None:
                verdict = self._judge_long(data, addr, now)
        if known is not None:
            self._receive_slow(known.leg, known, data, addr, sock, now)
        elif isinstance(verdict, Admit):
            self._handled["initial"] += 1
            self._admit(verdict, data, addr, sock, now)
        elif isinstance(verdict, Answer):
            self._handled[verdict.kind] += 1
            self._answered[verdict.kind] += 1
            self.outbox.send(sock, verdict.data, addr)
        elif verdict is not None:
            self._dropped[verdict] += 1

    def _still_admit(self, item: Admitted) -> Admit | DropReason:
        """The lane's front judged by the numbers of a moment ago."""
        refused = self._refuse_newcomers()
        if refused is None and self.half_open >= self._limits.half_open:
            refused = DropReason.QUOTA
        return refused or Admit(item.original_destination, item.retry_source)

    def _refuse_newcomers(self) -> DropReason | None:
        if not self._accepting:
            return DropReason.DRAINING
        return DropReason.QUOTA if len(self._by_leg) >= self._limits.legs else None

    def _judge_long(self, data: bytes, addr: NetworkAddress, now: float) -> Admit | Answer | DropReason:
        refused = self._refuse_newcomers()
        if refused is not None:
            return refused
        return self._front.judge_long(data, Address.parse(addr), now, self._wall(), self.half_open)

    def _admit(self, verdict: Admit, data: bytes, addr: NetworkAddress, sock: int, now: float) -> None:
        leg = self.new_leg()
        quic = RelayQuic(
            configuration=self.configuration,
            original_destination_connection_id=verdict.original_destination,
            retry_source_connection_id=verdict.retry_source,
            path=self._lane.open_path(leg),
            issue=lambda: self._issue_for(leg),
            apart=self.trunks.apart if self.trunks is not None else None,
        )
        quic.sock = sock
        peer = Peer(leg, quic, addr, now + self._limits.handshake_s)
        self.half_open += 1
        first = verdict.retry_source or verdict.original_destination
        self._lane.own(leg, first)
        self._note_id(peer, first)
        self._enlist(peer)  # its deadline holds whatever its first packet does to us
        quic.receive_datagram(data, addr, now)
        self._settle(peer, now)

    def _enlist(self, peer: Peer) -> None:
        self._by_leg[peer.leg] = peer
        self._tell_front()
        self._note_id(peer, peer.quic.host_cid)
        self._arm(peer)

    def dial(self, node: str, *, second: bool = False) -> int | None:
        """Begin a trunk to a node that is configured; its leg. It leaves with `transmit_dirty`.

        `second`: by its second address.

        None: there is no such node, no way to it, or one is under way already.
        """
        trunks = self.trunks
        way = trunks.begin(node, self._sockets, second=second) if trunks is not None else None
        if trunks is None or way is None:
            return None
        leg = self.new_leg()
        path = self._lane.open_path(leg)
        now = self._clock()
        peer = trunks.dial(node, way, leg, path, lambda: self._issue_for(leg), now, second=second)
        self._enlist(peer)
        self._dirty[peer] = None
        return leg

    def _quarantine(self, peer: Peer | None, error: Exception) -> None:
        """Something raised that never should: count it, say so, and let go of the connection it came by."""
        self.internal_errors += 1
        self._dropped[DropReason.INTERNAL] += self.imbalance()  # 1 unless the packet was counted already
        log.error("internal error while handling a packet", exc_info=error)
        if peer is not None and not peer.is_gone:
            self._forget(peer)

    def _note_id(self, peer: Peer, cid: bytes) -> None:
        """The lane knows it since `_issue_for`."""
        peer.ids.add(cid)
        peer.kept = None
        self._by_id[cid] = peer

    # ------------------------------------------------------------ after aioquic did something

    def _settle(self, peer: Peer, now: float) -> None:
        """Drain events, transmit, drain again (transmitting issues ids), re-read the facts, arm the timer."""
        quic = peer.quic
        self._events(peer, now)
        if peer.is_gone:
            return
        quic.refresh()  # a new key phase is the packet path's before aioquic sends in it
        self.outbox.transmit(peer, now)
        self._events(peer, now)
        if peer.is_gone:
            return
        quic.refresh()
        if quic.is_closing:
            self._closing(peer)
        elif peer.state is PeerState.HALF_OPEN and quic.is_ready:
            self._open(peer)
        elif peer.state is PeerState.OPEN and quic.can_send_media:
            address = quic.get_peer_address()
            if address is not None and address != peer.address:
                peer.address = address
                self._handler.moved(peer.leg, Address.parse(address))
        if self.keep is not None and peer.state is PeerState.OPEN and not peer.is_trunk:
            self._note_kept(peer, self.keep)
        self._arm(peer)

    def _note_kept(self, peer: Peer, keep: Keep) -> None:
        """What the packet path has of this connection outlives a crash."""
        version = peer.quic.lent_version
        if peer.kept == version:
            return
        place = keep.take(peer.leg)
        if peer.kept is None and place is not None:
            peer.quic.path.keep(place)  # before the record stands: without it numbers would be used twice
        keep.heard(peer.leg, peer.quic.path.last_heard)
        keep.lend(peer.leg, peer.transport, peer.quic.lent(), list(peer.ids))
        peer.kept = version

    def _open(self, peer: Peer) -> None:
        peer.state = PeerState.OPEN
        self._end_half_open(peer)
        self.handshakes += 1
        peer.address = peer.quic.get_peer_address() or peer.address
        if peer.is_trunk:
            self._meet(peer)
            return
        address = Address.parse(peer.address)
        self._handler.opened(peer.leg, address, peer.takes_datagrams, peer.transport)

    def _meet(self, peer: Peer) -> None:
        """A trunk is there. Whom we dialed is who it should be; who dialed us proves itself to the engine."""
        if self.trunks is None or self.trunks.admits(peer):
            self._handler.trunk_opened(peer.leg, peer.key, peer.quic.largest_datagram)
        else:
            self.close(peer.leg, TrunkCode.PEER_UNKNOWN, "another key")

    def _end_half_open(self, peer: Peer) -> None:
        """Whom we dialed is no stranger, and in no stranger's way."""
        if not peer.node:
            self.half_open -= 1
        elif self.trunks is not None:
            self.trunks.done(peer.node, second=peer.second)
        self._tell_front()

    def _closing(self, peer: Peer) -> None:
        """The connection is over for everyone but the QUIC stack, which lingers for three timeouts."""
        if self.keep is not None:
            self.keep.forget(peer.leg)
        was = peer.state
        if was in (PeerState.OPEN, PeerState.HALF_OPEN):
            peer.state = PeerState.CLOSING
        if was is PeerState.HALF_OPEN:
            self._end_half_open(peer)
        if was is PeerState.OPEN or (was is PeerState.HALF_OPEN and peer.node):  # else nobody knows of it
            self._handler.lost(peer.leg, peer.close_code)

    def _events(self, peer: Peer, now: float) -> None:
        event = peer.quic.next_event()
        while event is not None:
            self._event(peer, event, now)
            if peer.is_gone:
                return
            event = peer.quic.next_event()

    def _event(self, peer: Peer, event: QuicEvent, now: float) -> None:
        if peer.http is not None and isinstance(event, h3.EVENTS):
            chunks = peer.http.handle(event)
            peer.control_stream = peer.http.control_stream
            for data, end in chunks:
                self._control(peer, data, end)
        elif isinstance(event, StreamDataReceived):
            if peer.control_stream is None and event.stream_id % 4 == 0:
                peer.control_stream = event.stream_id
            if event.stream_id == peer.control_stream:
                self._control(peer, event.data, event.end_stream)
        elif isinstance(event, ProtocolNegotiated):
            self._speaks(peer, event.alpn_protocol)
        elif isinstance(event, DatagramFrameReceived):
            self._deliver(peer, event.data, now)
        elif isinstance(event, ConnectionIdIssued):
            self._note_id(peer, event.connection_id)
        elif isinstance(event, ConnectionIdRetired):
            self._retire(peer, event.connection_id)
        elif isinstance(event, ConnectionTerminated):
            self._forget(peer)

    def _speaks(self, peer: Peer, protocol: str | None) -> None:
        if protocol == h3.ALPN:
            peer.http = h3.WebTransport(peer.quic, lambda: self.origins, self.http_answered)
        elif self.trunks is not None and protocol in self.trunks.apart:
            peer.is_trunk = True

    def _control(self, peer: Peer, data: bytes, end: bool) -> None:
        if peer.state is PeerState.HALF_OPEN and peer.quic.is_ready:
            self._open(peer)
        if peer.state is PeerState.OPEN:
            self._handler.stream(peer.leg, data, end)

    def _retire(self, peer: Peer, cid: bytes) -> None:
        """Packets under a retired id may be on their way; the last few ids are the connection's still."""
        peer.retired.append(cid)
        if len(peer.retired) > RETIRED_IDS:
            cid = peer.retired.popleft()
            peer.kept = None
            peer.ids.discard(cid)
            self._by_id.pop(cid, None)
            self._lane.disown(cid)

    def _issue_for(self, leg: int) -> IssuedId:
        """An id that is the leg's before the peer hears of it: its packets may be here before we look."""
        issued = self._issue()
        self._lane.own(leg, issued.cid)
        return issued

    def _forget(self, peer: Peer) -> None:
        """O(ids of this connection): nothing is scanned, and its memory goes at once."""
        self._closing(peer)
        peer.state = PeerState.GONE
        for cid in peer.ids:
            self._by_id.pop(cid, None)
        peer.ids.clear()
        self._by_leg.pop(peer.leg, None)
        self._tell_front()
        self._dirty.pop(peer, None)
        self.media_lost += peer.quic.path.media_lost
        self._lane.close_path(peer.leg)
        peer.quic.release()

    # ------------------------------------------------------------ out

    def send_stream(self, leg: int, data: bytes) -> None:
        """Write to the leg's control stream; it leaves with `transmit_dirty`."""
        peer = self._by_leg.get(leg)
        if peer is None or peer.state is not PeerState.OPEN or peer.control_stream is None:
            return
        if peer.quic.backlog(peer.control_stream) + len(data) > peer.most_backlog:
            self.close(leg, ErrorCode.OVERLOADED, "does not read")
            return
        try:
            peer.quic.send_stream_data(peer.control_stream, data)
        except (RuntimeError, ValueError):  # it said STOP_SENDING; its fault, never that of who made us write
            self.close(leg, ErrorCode.PROTOCOL_VIOLATION, "the control stream was stopped")
            return
        self._dirty[peer] = None

    def send_datagram(self, leg: int, data: bytes) -> None:
        """Send a control datagram now, if the leg can take one."""
        peer = self._by_leg.get(leg)
        now = self._clock()
        if peer is not None and peer.quic.path.room(now):
            self.outbox.seal(peer, [data], now)

    def carry(self, leg: int) -> None:
        """The leg is a trunk, and who is at its other end is known: more than a leg's may be under way."""
        peer = self._by_leg.get(leg)
        if peer is not None and peer.is_trunk and peer.state is PeerState.OPEN:
            peer.carry()
            self._dirty[peer] = None

    def acknowledged(self, leg: int) -> int:
        """The largest number of a packet of aioquic's to this leg that came; 0: none yet."""
        peer = self._by_leg.get(leg)
        return peer.quic.acknowledged if peer is not None and peer.state is PeerState.OPEN else 0

    def close(self, leg: int, code: int, reason: str) -> None:
        """Close a connection with an application code, after what was written before."""
        peer = self._by_leg.get(leg)
        if peer is None or peer.is_gone:
            return
        now = self._clock()
        self._dirty.pop(peer, None)
        try:
            peer.quic.refresh()  # as in `_settle`
            self.outbox.transmit(peer, now)
            if peer.http is not None and not peer.quic.is_closing:
                peer.http.close_session(code, reason)
                peer.deadline = now + FAREWELL_S
                self._closing(peer)
            else:
                peer.quic.close(error_code=code, reason_phrase=reason)
            self._settle(peer, now)
        except Exception as error:
            self._quarantine(peer, error)

    def transmit_dirty(self) -> None:
        """Send what was written since the last call."""
        while self._dirty:
            peer, _ = self._dirty.popitem()
            try:
                self._settle(peer, self._clock())
            except Exception as error:  # it costs this peer, not the one whose message made us write
                self._quarantine(peer, error)

    # ------------------------------------------------------------ timers

    def _arm(self, peer: Peer) -> None:
        due = peer.quic.get_timer()
        if peer.state is PeerState.HALF_OPEN or peer.is_parting:
            due = peer.deadline if due is None else min(due, peer.deadline)
        if due is not None:
            self._timers.arm(peer, due)

    def _expire(self, peer: Peer, now: float) -> None:
        try:
            self._on_due(peer, now)
        except Exception as error:
            self._quarantine(peer, error)

    def _on_due(self, peer: Peer, now: float) -> None:
        if peer.state is PeerState.HALF_OPEN and now >= peer.deadline:
            self.handshakes_expired += 1
            self._forget(peer)
            return
        if peer.http is not None and peer.is_parting and now >= peer.deadline:
            peer.http.close()
            self._settle(peer, now)
            return
        timer = peer.quic.get_timer()
        if timer is None or timer > now:
            self._arm(peer)
            return
        if peer.quic.is_over:
            self._forget(peer)
            return
        peer.quic.handle_timer(now)
        self._settle(peer, now)
