"""One call: accept, talk, mute, hang up; keys and media inside. Made by `Session.join`.

    await call.accept() -> await call.peer_accepted() -> await call.talk(source, sink) -> await call.hangup()

Must never live here: QUIC, sockets, the codec's and the jitter buffer's inner life.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.client.carrier import Way
from relay.client.direct import DirectPath
from relay.client.errors import CallEndedError, KeyAgreementError, RefusedError
from relay.client.frames import KIND_APP, MediaFrame, seal
from relay.client.keyring import KeyRing
from relay.client.life import CallState, Over, Parted, PeerAccepted, Reunited, WeAccepted, after
from relay.client.reception import Reception
from relay.client.reports import Leg, Reporter
from relay.client.sources import AudioSink, AudioSource
from relay.client.stats import CallStats
from relay.client.voice import Listener, OpusDecoder, OpusEncoder, Speaker
from relay.client.wishes import Wishes
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.datagram import Datagram
from relay.protocol.ids import reference
from relay.protocol.media import PP_SPEECH
from relay.protocol.messages import (
    Accept,
    Block,
    Cand,
    Decline,
    E2e,
    Ended,
    Feedback,
    Gate,
    Hangup,
    Joined,
    LegStats,
    Message,
    Mute,
    Peer,
    Punch,
    Rate,
    Report,
)

SUITES: Final = (5, 4)
DOUBT_S: Final = 1.0  # nothing is heard of one who is back: the keys may be lost there
MAX_APP: Final = 900  # with headers and tag within the 1024 bytes of a media datagram


class Call:
    """One call as this participant lives it. All methods belong to one event loop."""

    def __init__(
        self,
        leg: Leg,
        joined: Joined,
        identity: Ed25519PrivateKey,
        *,
        direct: bool = True,
        nack: bool = False,
    ) -> None:
        self._leg = leg
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._id = joined.c
        self._index = joined.p
        self._up = joined.up
        self._state = CallState.RINGING
        self._changed = asyncio.Event()
        self._ring = KeyRing(joined.c, joined.p, identity, os.urandom)
        self._reception = Reception(self._ring, self._on_app)
        self._peer: int | None = None
        self._doubts: dict[int, asyncio.TimerHandle] = {}
        self._is_closed = False
        self._hides = joined.rly or not direct
        self._direct: DirectPath | None = None
        self._announced: object = None
        self._muted = False
        self._hard_muted = False
        self._sent = 0
        self._why: tuple[str, int | None] | None = None
        self._bitrate = 24_000
        self._wishes = Wishes()
        self._nacks = nack
        self.on_app: Callable[[bytes], None] | None = None
        """Called with what the other side gave to `send_app`."""
        self.leg_stats: LegStats | None = None
        """The relay's newest view of this leg."""
        self.gate_open = 0
        """Bit i: participant i is heard by us."""
        self._reporter = Reporter(joined.c, leg, self._reception, lambda: self._was_open)
        self._housekeeper = self._loop.create_task(self._reporter.run(), name="call housekeeping")
        self.on_joined(joined)

    # ------------------------------------------------------------ what the application asks

    @property
    def reference(self) -> str:
        """What the relay's logs call this call, and `relay explain` takes: the first digits of its id."""
        return reference(self.id)

    @property
    def id(self) -> bytes:
        """The call's 16-byte id."""
        return self._id

    @property
    def index(self) -> int:
        """Our participant index."""
        return self._index

    @property
    def peer(self) -> int | None:
        """The other's participant index, None before anybody came."""
        return self._peer

    @property
    def state(self) -> CallState:
        """Where the call stands."""
        return self._state

    @property
    def why(self) -> str | None:
        """How the call ended (completed, declined, missed, ...), None while it lives."""
        return self._why[0] if self._why else None

    @property
    def is_muted(self) -> bool:
        """True if we muted ourselves or a moderator did."""
        return self._muted or self._hard_muted

    @property
    def sas(self) -> str | None:
        """Six digits that both people read to each other; None before the keys are agreed.

        Equal on both sides means: nobody, the relay included, stands between.
        """
        keys = self._ring.keys(self._peer) if self._peer is not None else None
        return keys.sas if keys else None

    @property
    def peer_identity(self) -> bytes | None:
        """The other's Ed25519 identity key (32 bytes), for applications that pin it."""
        keys = self._ring.keys(self._peer) if self._peer is not None else None
        return keys.peer_identity if keys else None

    @property
    def way(self) -> Way:
        """What carries our media: the relay, the direct path, or both while that is not certain."""
        return self._direct.way if self._direct is not None else Way.RELAY

    @property
    def bitrate(self) -> int:
        """Opus bits per second of what we send, less while the relay asks for less. May change any time."""
        return self._bitrate

    @bitrate.setter
    def bitrate(self, value: int) -> None:
        self._bitrate = value

    def base_keys(self) -> list[bytes]:
        """The secret media keys, for a test that searches other processes for them. Handle accordingly."""
        return self._ring.base_keys()

    async def accept(self) -> None:
        """Say yes. From the moment both did, the relay carries media."""
        await self._ask(Accept(c=self._id, suites=SUITES))
        if self._state is not CallState.ENDED:
            self._move(WeAccepted)
        self._announce()

    async def decline(self, why: Literal["busy", "declined", "permission"] = "declined") -> None:
        """Say no."""
        await self._ask(Decline(c=self._id, why=why))

    async def hangup(self) -> None:
        """End the call. The relay closes the gate before it answers. Does nothing to a call that is over."""
        if self._state is CallState.ENDED or self._leg.error is not None:
            return
        try:
            await self._ask(Hangup(c=self._id))
        except CallEndedError:
            pass
        except RefusedError as error:
            if error.code != ErrorCode.CALL_ENDED:  # both hung up at once: then it is over all the same
                raise
        self._end("completed" if self._was_open else "cancelled", None)

    async def mute(self, on: bool) -> None:
        """Stop being heard, or be heard again. On return the relay forwards nothing any more."""
        self._muted = on  # first here: not even an encrypted packet leaves
        await self._ask(Mute(c=self._id, on=on))

    async def block(self, on: bool = True) -> None:
        """Never hear the other again in this call; ends a 1:1."""
        await self._ask(Block(c=self._id, p=self._require_peer(), on=on))

    async def report(self, reason: str) -> None:
        """Report the other to the product's moderators, with a word of its list."""
        await self._ask(Report(c=self._id, p=self._require_peer(), reason=reason))

    async def rate(self, stars: int) -> None:
        """What the person thought of the call, 1 to 5."""
        await self._ask(Feedback(c=self._id, stars=stars))

    def send_app(self, data: bytes) -> bool:
        """A short message to the other side, sealed like speech; may be lost like speech. False: not sent.

        It goes as media (F kind 2), because a blob in `e2e` would need a seal of its own.
        """
        peer = self._require_peer()
        if len(data) > MAX_APP:
            raise LocalError(f"an application message has at most {MAX_APP} bytes")
        if self._state is not CallState.OPEN or self.is_muted:
            return False
        frame = MediaFrame(0, KIND_APP, data)
        payload = seal(self._ring, peer, self._up, frame, onset=False, pp=PP_SPEECH)
        if payload is None:
            return False
        self._send(payload)
        return True

    def rekey(self) -> None:
        """Begin the next key epoch; media goes on meanwhile."""
        self._send_blobs(self._require_peer(), self._ring.rekey(self._require_peer()))

    async def keys_agreed(self) -> str:
        """Wait for the end-to-end keys; the short authentication string."""
        await self._until(lambda: self.sas is not None)
        return self.sas or ""

    async def peer_accepted(self) -> None:
        """Wait until both accepted and the keys are agreed: from here on one hears the other."""
        await self._until(lambda: self._state in (CallState.OPEN, CallState.AWAY) and self.sas is not None)

    async def ended(self) -> str:
        """Wait for the end of the call; how it ended. SessionError if our leg is lost before."""
        with contextlib.suppress(CallEndedError):
            await self._until(lambda: self._why is not None)
        return self.why or "failed"

    async def talk(
        self, source: AudioSource, sink: AudioSink, *, linger_s: float = 1.0, eager: bool = False
    ) -> None:
        """Speak until the source is over, and listen until the other has been silent for `linger_s` as well.

        `eager` sends before both accepted: the relay drops that, and counts it. It is there to be tested.
        """
        listening = self._loop.create_task(self.listen(sink), name="call listening")
        try:
            await self.speak(source, eager=eager)
            quiet_since = self._loop.time()
            while self._state is not CallState.ENDED and not listening.done():
                heard = max((self._heard_at(), quiet_since))
                left = heard + linger_s - self._loop.time()
                if left <= 0:
                    break
                await self._sleep(left)
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            sink.close()

    async def speak(
        self, source: AudioSource, *, eager: bool = False, encoder: OpusEncoder | None = None
    ) -> None:
        """Send what the source gives, paced by the clock, until it or the call is over.

        `encoder`: the application's own, in place of the one of the extra `audio`.
        """
        speaker = Speaker(source, self._ring, self._begun, encoder)
        async for frame in speaker.frames():
            if self._state is CallState.ENDED:
                return
            now = self._loop.time()
            speaker.bitrate = self._wishes.bitrate(self._bitrate, now)
            speaker.steps = self._wishes.steps(now)
            may = (eager or self._state in (CallState.OPEN, CallState.AWAY)) and not self.is_muted
            payload = speaker.seal(frame, self._peer, self._up) if may and self._can_send() else None
            if payload is None:
                speaker.pause()
                continue
            self._send(payload)

    async def listen(self, sink: AudioSink, *, decoder: OpusDecoder | None = None) -> None:
        """Play what comes into the sink, 20 ms each 20 ms, until the call is over.

        `decoder`: the application's own, as the encoder of `speak`.
        """
        listener = Listener(sink, decoder)
        await listener.run(self._pull, lambda: self._state is CallState.ENDED)

    def stats(self) -> CallStats:
        """What was measured so far."""
        heard = self._reception.heard(self._peer if self._peer is not None else self._index)
        return CallStats(
            rtt_ms=None if self._reporter.rtt is None else round(self._reporter.rtt * 1000, 2),
            sent=self._sent - self._leg.media_unsent,
            unsent=self._leg.media_unsent,
            repeated=self._leg.media_repeated,
            received=heard.received,
            lost=heard.lost,
            late=heard.jitter.stats.late,
            concealed=heard.jitter.stats.concealed,
            recovered=heard.recovered,
            duplicates=heard.duplicates,
            unopened=heard.unopened + heard.no_key + self._reception.malformed,
            jitter_target_ms=round(heard.jitter.target_ms, 1),
        )

    # ------------------------------------------------------------ what the session tells

    def newest(self) -> dict[int, int]:
        """Newest counter heard per participant, for `rejoin`."""
        return self._reception.newest()

    def on_joined(self, joined: Joined) -> None:
        """We are in (again): our uplink flow and who is there. Too late for a call that has ended."""
        if self._state is CallState.ENDED:
            return
        self._up = joined.up
        self.gate_open = joined.gate
        for entry in joined.roster:
            self._hides = self._hides or entry.rly
            self._meet_again(entry.p)
            if entry.st == "accepted":
                self._move(PeerAccepted)
        if self._state is CallState.AWAY:
            self._move(Reunited)

    def on_message(self, message: Message, leg: int = 0) -> None:
        """A message of the relay that answers no question of ours; `leg` tells whose flows it speaks of."""
        match message:
            case Gate():
                self.gate_open = message.open
                self._reception.on_gate(message.fl, self._loop.time(), leg)
            case Peer():
                self._on_peer(message)
            case E2e():
                self._on_e2e(message)
            case Mute():
                self._on_mute(message)
            case Ended():
                self._end(message.why, message.code)
            case LegStats() | Rate():
                self._on_network(message)
            case Cand():
                if self._direct is not None:
                    with contextlib.suppress(PeerError):  # the relay, or somebody else, made it up
                        self._direct.on_cand(message)
            case Punch():
                if self._direct is not None:
                    self._direct.on_punch(message)
            case _:
                pass  # a message that this version has no use for
        self._wake()

    def on_message_aside(self, message: Message, leg: int) -> None:
        """A message of a node that we come from or go to: who is there, and heard, the one in use says."""
        if isinstance(message, Gate):
            self._reception.on_gate(message.fl, self._loop.time(), leg)
        elif not isinstance(message, Peer) or message.ev == "join":
            self.on_message(message, leg)

    def on_media(self, payload: bytes, leg: int = 0) -> None:
        """A media datagram on one of our legs."""
        if self._direct is not None:
            self._direct.on_relayed()
        now = self._loop.time()
        self._reception.on_media(payload, now, leg)
        if self._nacks and self._reporter.rtt is not None:
            nack = self._reception.ask(leg, payload[0], now, self._reporter.rtt)
            if nack is not None:
                self._leg.send_control(nack)

    def hear_on(self, leg: int) -> None:
        """This leg brings us media: what is reported is reported there."""
        self._reception.ear = leg

    def forget_leg(self, leg: int) -> None:
        """A leg is gone, and its flows with it."""
        self._reception.forget_leg(leg)

    def on_direct_media(self, payload: bytes) -> None:
        """A media datagram by the direct path: heard if the relay would let it be."""
        if self._peer is not None and self.gate_open >> self._peer & 1:
            self._reception.on_media(payload, self._loop.time(), direct_from=self._peer)

    def on_moving(self) -> None:
        """Our network is becoming another one."""
        if self._direct is not None:
            self._direct.on_moving()

    def on_network_change(self) -> None:
        """The relay sees us elsewhere."""
        if self._direct is not None:
            self._direct.on_network_change()

    def on_leg_change(self) -> None:
        """The relay carries us on another leg."""
        if self._direct is not None:
            self._direct.on_leg_change()

    def on_control(self, datagram: Datagram | None) -> None:
        """A control datagram."""
        self._reporter.on_control(datagram)

    def on_leg_lost(self) -> None:
        """Our leg is gone; `Session.rejoin` may bring it back."""
        if self._state is not CallState.ENDED:
            self._move(Parted)
        self._wake()

    async def close(self) -> None:
        """Stop all that runs for this call."""
        self._end_direct()
        self._housekeeper.cancel()
        self._is_closed = True
        for timer in self._doubts.values():
            timer.cancel()
        self._doubts.clear()
        with contextlib.suppress(asyncio.CancelledError):
            await self._housekeeper
        self._wake()

    # ------------------------------------------------------------ inside

    @property
    def _was_open(self) -> bool:
        return self._state in (CallState.OPEN, CallState.AWAY)

    def _can_send(self) -> bool:
        return self._leg.error is None or self.way is not Way.RELAY

    def _send(self, payload: bytes) -> None:
        """One media datagram, by the relay, directly, or both."""
        self._sent += 1
        if self._direct is None or not self._direct.send(payload):
            self._leg.send_media(payload)

    def _go_direct(self) -> None:
        """Both accepted, the keys are there, nobody hides: look for a way past the relay."""
        if self._hides or self._direct is not None or self._state is not CallState.OPEN:
            return
        if self._peer is not None and self._ring.path_secret(self._peer) is not None:
            self._direct = DirectPath(
                self._id, self._index, self._peer, self._ring, self._leg, self.on_direct_media
            )
            self._direct.begin()

    def _end_direct(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None

    def _on_peer(self, message: Peer) -> None:
        if message.ev == "join":
            self._meet(message.p)
        elif message.ev == "back":
            self._meet_again(message.p)
        if message.p != self._peer or self._state is CallState.ENDED:
            return
        if message.ev == "accept":
            self._move(PeerAccepted)
        elif message.ev == "away":
            self._move(Parted)
        elif message.ev == "back":
            self._move(Reunited)

    def _on_e2e(self, message: E2e) -> None:
        if message.p is None or message.k != 0:
            return  # only key agreement is ours to read: nothing else in these blobs proves who wrote it
        # A lie is no reason to stop: the run it belonged to has failed and says so by having no keys.
        with contextlib.suppress(PeerError):
            self._send_blobs(message.p, self._ring.on_blob(message.p, message.b))
        self._announce()
        self._go_direct()

    def _on_mute(self, message: Mute) -> None:
        if message.p == self._index:
            self._hard_muted = message.on and message.hard

    def _on_network(self, message: LegStats | Rate) -> None:
        """What the relay knows of the networks, ours and those of who hears us."""
        if isinstance(message, Rate):
            self._wishes.on_rate(message, self._loop.time())
            return
        self.leg_stats = message
        if self._peer is not None:  # 0: as we like
            self._reception.heard(self._peer).jitter.require(message.mp)

    def _on_app(self, peer: int, data: bytes) -> None:
        if self.on_app is not None:
            self.on_app(data)

    def _meet(self, peer: int) -> None:
        if self._peer is None:
            self._peer = peer
        self._send_blobs(peer, self._ring.meet(peer))

    def _meet_again(self, peer: int) -> None:
        """One with whom we have keys is spoken to only if nothing is heard of them: theirs may be lost.

        When a node ends, all its people meet again at another one at the same time.
        """
        before = self._doubts.pop(peer, None)
        if before is not None:
            before.cancel()
        if self._ring.best(peer) is None:
            self._meet(peer)
        elif not self._is_closed:
            self._doubts[peer] = self._loop.call_later(DOUBT_S, self._doubt, peer, self._loop.time())

    def _doubt(self, peer: int, since: float) -> None:
        del self._doubts[peer]
        late = since + DOUBT_S / 2  # until then what was said before may yet come
        if self._state is not CallState.ENDED and self._reception.heard(peer).newest_at <= late:
            self._meet(peer)

    def _announce(self) -> None:
        """Once we accepted and hold keys: tell the other side that it is this device that took the call."""
        if self._peer is None or self._state not in (CallState.WAITING, CallState.OPEN, CallState.AWAY):
            return
        run = self._ring.best(self._peer)
        if run is not None and run is not self._announced:
            self._announced = run
            self._send_blobs(self._peer, self._ring.choose(self._peer))

    def _send_blobs(self, peer: int, blobs: Iterable[bytes]) -> None:
        for blob in blobs:
            self._leg.tell(E2e(c=self._id, to=peer, k=0, b=blob))

    def _pull(self) -> object:
        if self._peer is None:
            return None
        return self._reception.heard(self._peer).jitter.pull(self._loop.time())

    def _heard_at(self) -> float:
        return 0.0 if self._peer is None else self._reception.heard(self._peer).newest_at

    def _move(self, event: type[WeAccepted | PeerAccepted | Parted | Reunited | Over]) -> None:
        self._state = after(self._state, event)
        self._go_direct()
        self._wake()

    def _end(self, why: str, code: int | None) -> None:
        if self._why is None:
            self._why = (why, code)
            self._move(Over)
            self._end_direct()
            self._housekeeper.cancel()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            if self._why is not None:
                raise CallEndedError(*self._why)
            if self._leg.error is not None:
                raise self._leg.error
            if self._peer is not None and self._ring.has_failed(self._peer):
                raise KeyAgreementError("the other side could not prove its keys")
            await self._changed.wait()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or less if something happens to the call."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _ask(self, message: Message) -> None:
        if self._why is not None:
            raise CallEndedError(*self._why)
        await self._leg.request(message)

    def _require_peer(self) -> int:
        if self._peer is None:
            raise LocalError("there is nobody else in the call")
        return self._peer
