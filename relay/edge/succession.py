"""How one generation of the daemon follows the other on the same addresses: a Unix socket between the two.

    new: take ----------------> old       who are you, and which sockets are there?
         <------- generation, sockets
         (opens what it needs, reads its own sockets: nothing comes yet)
         release -------------> old       give up what only one can have: metrics, commands, listening
         <------- a ticket per call, released, with the nodes to which it has trunks
         (steers newcomers to itself; READY)
         go ------------------> old       asks its people to move, and leaves when they have
         <------- tickets of calls that changed, figures once a second, then the end

    operator: drain, status --> whoever is in service

A process that dies between `release` and `go` costs nothing: the old one takes back what it gave. If it dies
later, the old one leaves, but listens for another that takes over, since the sockets are with it. Messages
are JSON, tickets begin with a zero byte; SOCK_SEQPACKET keeps them apart. Must never live here: what a ticket
says, what leaving means, sockets for packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from relay.edge.generation import KEY
from relay.errors import ConfigError

log = logging.getLogger("relay.succession")
VERSION: Final = 1
LARGEST: Final = 64 * 1024
MOST_DESCRIPTORS: Final = 253  # of one message, the kernel's limit
ANSWER_S: Final = 10.0
FIGURES_S: Final = 1.0
AT_ONCE: Final = 32  # tickets between two turns of the loop
HELD: Final = 100_000  # messages that wait for a peer that does not read
MAX_PEERS: Final = 8

Message = dict[str, Any]


class Channel:
    """One connection: whole messages both ways, on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_message: Callable[[Channel, Message | bytes], None],
        on_end: Callable[[Channel], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._is_writing = False
        self.is_open = True
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    def say(self, message: Message | bytes, sockets: Iterable[socket.socket] = ()) -> None:
        """Send a message, later if the peer does not read; with descriptors."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        if not self.is_open or len(self._waiting) >= HELD:
            return
        self._waiting.append((data, [sock.fileno() for sock in sockets]))
        self._write()

    def close(self) -> None:
        """No more of it; what was said before is with the kernel."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._sock.fileno())
            self._watch(False)
            self._sock.close()

    def _write(self) -> None:
        while self._waiting and self.is_open:
            data, descriptors = self._waiting[0]
            try:
                socket.send_fds(self._sock, [data], descriptors)
            except BlockingIOError:
                self._watch(True)
                return
            except OSError:
                self._end()
                return
            self._waiting.popleft()
        if self.is_open:
            self._watch(False)

    def _watch(self, on: bool) -> None:
        if on is not self._is_writing:
            self._is_writing = on
            if on:
                self._loop.add_writer(self._sock.fileno(), self._write)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            try:
                data = self._sock.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            self._on_message(self, data[1:] if data[0] == 0 else _parsed(data))
            if not self.is_open:
                return

    def _end(self) -> None:
        self.close()
        self._on_end(self)


def _parsed(data: bytes) -> Message:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------- the one in service


class House(Protocol):
    """What the daemon does for its successor."""

    @property
    def generation(self) -> int:
        """0 even, 1 odd."""

    def handed(self) -> Iterable[tuple[str, socket.socket]]:
        """Kind and socket of all that the next one listens on, too."""

    async def release(self) -> None:
        """Give up what only one process can have."""

    async def reclaim(self) -> None:
        """Nobody came: take it back."""

    def tickets(self) -> Iterable[bytes]:
        """One of each call."""

    def trunks(self) -> Sequence[str]:
        """The nodes that are to know the next one, too."""

    def succeeded(self) -> None:
        """The next one is in service: leave."""

    def leave(self) -> None:
        """An operator asks for it."""

    def figures(self) -> Message:
        """State, legs, calls, allocations, as of now."""


class Incumbent:
    """Listens for a successor, and for operators."""

    def __init__(self, loop: asyncio.AbstractEventLoop, house: House) -> None:
        self._loop = loop
        self._house = house
        self._sock: socket.socket | None = None
        self._path = ""
        self._peers: set[Channel] = set()
        self._watchers: set[Channel] = set()
        self._heir: Channel | None = None
        self._has_gone = False
        self._released = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def has_heir(self) -> bool:
        """Whether another generation took over."""
        return self._has_gone

    def listen(self, path: str) -> None:
        """From now on; a dead socket of before is replaced. ConfigError when it cannot be had."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o177)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # whoever lives holds the slot, and has told us so
            sock.bind(path)
            sock.listen(MAX_PEERS)
        except OSError as error:
            sock.close()
            why = error.strerror or str(error)
            raise ConfigError(
                KEY, f"cannot listen on {path}: {why}", "name a path in a writable folder"
            ) from None
        finally:
            os.umask(before)
        sock.setblocking(False)
        self._sock, self._path = sock, path
        self._loop.add_reader(sock.fileno(), self._accept)

    def tell(self, ticket: bytes) -> None:
        """A call changed: the successor hears of it, if there is one."""
        if self._heir is not None and self._released:
            self._heir.say(b"\0" + ticket)

    @property
    def wants_news(self) -> bool:
        """Whether anybody would hear."""
        return self._heir is not None and self._released

    def close(self) -> None:
        """No more peers."""
        self._is_closed = True
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for channel in list(self._peers):
            channel.say(self._house.figures())
            channel.close()

    # ------------------------------------------------------------ inside

    def _accept(self) -> None:
        assert self._sock is not None
        with contextlib.suppress(BlockingIOError):
            peer, _ = self._sock.accept()
            if len(self._peers) >= MAX_PEERS:
                peer.close()
                return
            self._peers.add(Channel(self._loop, peer, self._on_message, self._on_end))

    def _on_message(self, channel: Channel, message: Message | bytes) -> None:
        op = message.get("op") if isinstance(message, dict) else None
        if op in ("status", "drain"):
            if op == "drain":
                self._house.leave()
            channel.say(self._house.figures())
            self._watchers.add(channel)
            self._tick()
        elif op == "take" and self._heir is None:
            self._heir = channel
            rows = list(self._house.handed())[:MOST_DESCRIPTORS]
            kinds = [kind for kind, _ in rows]
            answer = {"ok": True, "v": VERSION, "generation": self._house.generation, "kinds": kinds}
            channel.say(answer, [sock for _, sock in rows])
        elif op == "release" and channel is self._heir:
            self._spawn(self._release(channel))
        elif op == "go" and channel is self._heir and self._released:
            self._go(channel)
        else:
            channel.say({"ok": False, "why": "another generation is taking over already"})

    async def _release(self, channel: Channel) -> None:
        await self._house.release()
        self._released = True
        for number, ticket in enumerate(self._house.tickets()):
            channel.say(b"\0" + ticket)
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        channel.say({"released": True, "trunks": list(self._house.trunks())})
        if not channel.is_open:  # it died meanwhile
            self._on_end(channel)

    def _go(self, channel: Channel) -> None:
        self._has_gone = True
        self._stop_listening()
        channel.say({"gone": True})
        self._watchers.add(channel)
        self._house.succeeded()
        self._tick()

    def _on_end(self, channel: Channel) -> None:
        self._peers.discard(channel)
        self._watchers.discard(channel)
        if channel is self._heir:
            self._heir = None
            was_released, self._released = self._released, False
            if self._is_closed:
                pass
            elif self._has_gone:
                log.warning("the generation that took over has gone: another may come while we leave")
                self.listen(self._path)  # the sockets are with us
            elif was_released:
                log.warning("the next generation went before it was in service: we go on")
                self._spawn(self._house.reclaim())

    def _tick(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        figures = self._house.figures()
        for channel in list(self._watchers):
            channel.say(figures)
        self._timer = self._loop.call_later(FIGURES_S, self._tick) if self._watchers else None

    def _stop_listening(self) -> None:
        if self._sock is None:
            return
        sock, self._sock = self._sock, None
        self._loop.remove_reader(sock.fileno())
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, name="succession")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


# ---------------------------------------------------------------- the one that comes


class Predecessor:
    """The generation in service, as the one that comes sees it."""

    def __init__(self, sock: socket.socket, answer: Mapping[str, Any], sockets: list[socket.socket]) -> None:
        self._sock = sock
        self.generation = int(answer["generation"])
        self.sockets: dict[str, list[socket.socket]] = {}
        """What it listens on, by kind."""
        for kind, one in zip(answer["kinds"], sockets, strict=True):
            self.sockets.setdefault(str(kind), []).append(one)
        self.trunks: tuple[str, ...] = ()
        """Nodes to which it had trunks when it let go."""
        self.figures: Message = {}
        """What it said of itself last."""
        self.on_ticket: Callable[[bytes], None] = lambda ticket: None
        self.on_figures: Callable[[], None] = lambda: None
        self._channel: Channel | None = None
        self._said: asyncio.Queue[str] = asyncio.Queue()

    @classmethod
    def find(cls, path: str) -> Predecessor | None:
        """Whoever is in service at `path`; None if nobody is. ConfigError if it will not be followed.

        Blocks for as long as that one takes to answer: nothing runs here yet.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            return None
        try:
            sock.send(json.dumps({"op": "take", "v": VERSION}).encode())
            data, descriptors, _, _ = socket.recv_fds(sock, LARGEST, MOST_DESCRIPTORS)
        except OSError as error:
            sock.close()
            raise ConfigError(KEY, f"{path}: {error}", "look after the daemon that listens there") from None
        answer = _parsed(data)
        found = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if not answer.get("ok") or answer.get("v") != VERSION or len(answer.get("kinds", ())) != len(found):
            sock.close()
            why = str(answer.get("why") or "the daemon in service speaks another version")
            raise ConfigError(KEY, why, "wait until it has left, or stop it")
        return cls(sock, answer, found)

    def attend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear it from now on."""
        self._channel = Channel(loop, self._sock, self._on_message, self._on_end)

    async def release(self) -> None:
        """Have it give up what only one can have, and tell of its calls. ConfigError if it does not."""
        await self._ask("release", "released")

    async def go(self) -> None:
        """We are in service."""
        await self._ask("go", "gone")

    def close(self) -> None:
        """Hear it no more."""
        if self._channel is not None:
            self._channel.close()
        else:
            self._sock.close()

    async def _ask(self, op: str, wanted: str) -> None:
        assert self._channel is not None
        self._channel.say({"op": op})
        try:
            async with asyncio.timeout(ANSWER_S):
                said = await self._said.get()
        except TimeoutError:
            said = "silent"
        if said != wanted:
            raise ConfigError(KEY, f"the daemon in service does not {op} ({said})", "look at its log")

    def _on_message(self, channel: Channel, message: Message | bytes) -> None:
        if isinstance(message, bytes):
            self.on_ticket(message)
        elif "state" in message:
            self.figures = message
            self.on_figures()
        else:
            self.trunks = tuple(map(str, message.get("trunks", self.trunks)))
            self._said.put_nowait(next(iter(message), ""))

    def _on_end(self, channel: Channel) -> None:
        self._said.put_nowait("gone away")
        self.figures = {}
        self.on_figures()
