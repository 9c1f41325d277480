"""A TURN engine on simulated time, a model of the lane it orders about, and clients that speak STUN to it.

    rig = Rig()
    ann = rig.client()
    assert ann.allocate().cls is Class.SUCCESS
    ann.permit("8.8.8.8"); rig.check()

The lane's model obeys what it is told and holds nothing else, so that it can be compared with the engine's
own table at any moment. Must never live here: sockets, the real clock.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

from relay.config import Config
from relay.config_turn import RelayAddress, StunConfig, TurnConfig
from relay.core import turn_events as te
from relay.core.company import Company, OpenCompany
from relay.core.credentials import TurnKeys, Via, mint
from relay.core.relays import HERE
from relay.core.turn import Turn
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.stun import Attribute, Class, Message
from relay.protocol.turn import Method

WALL = 1_700_000_000.0
SECRET = b"a secret of a back end"
KEYS = TurnKeys.of([bytes(32)], [SECRET])
V4, V6 = "9.9.9.9", "2600:9::9"  # where we relay; documentation addresses are forbidden peers
ADDRESSES = (RelayAddress(bind="10.0.0.9", advertise=V4), RelayAddress(bind=V6))


def config(open_binding: bool = False, **changes: Any) -> Config:
    """TURN in open policy, both families, a 1:1 NAT in front of IPv4."""
    fields: dict[str, Any] = {"enabled": True, "policy": "open", "addresses": ADDRESSES, "secret_file": "/x"}
    return Config(turn=TurnConfig(**fields | changes), stun=StunConfig(open_binding=open_binding))


class Rig:
    """One engine with everything around it."""

    def __init__(
        self, settings: Config | None = None, company: Company | None = None, keys: TurnKeys = KEYS
    ) -> None:
        self.config = settings or config()
        self.keys = keys
        self.company = company or OpenCompany(self.config.turn)
        self.engine = Turn(self.config, keys, self.company)
        self.now = 0.0
        self.wall = WALL
        self.opens = True
        """Whether relay sockets come at once."""
        self.outputs: list[te.TurnOutput] = []
        self.answers: dict[Via, list[bytes]] = {}
        self.relays: dict[int, te.OpenRelay] = {}
        self.permits: dict[tuple[int, bytes], float] = {}
        self.channels: dict[tuple[int, int], tuple[Address, float]] = {}
        self._port = 50_000
        self._clients = 0

    # ------------------------------------------------------------ the driver

    def feed(self, event: te.TurnInput) -> None:
        """One input, all outputs, as the rule says."""
        self.engine.handle(event, self.now, self.wall)
        opened = []
        while (output := self.engine.poll()) is not None:
            self.outputs.append(output)
            if isinstance(output, te.OpenRelay) and self.opens:
                opened.append(output)
            self._obey(output)
        for order in opened:
            self.open(order.allocation)

    def open(self, number: int) -> None:
        """The relay socket of an allocation comes."""
        if number in self.relays:
            self._port += 1
            host = ADDRESSES[self.relays[number].family == 6].bind
            self.feed(te.RelayOpened(number, Address(host, self._port)))

    def _obey(self, output: te.TurnOutput) -> None:
        match output:
            case te.Answer(via, data):
                self.answers.setdefault(via, []).append(data)
            case te.OpenRelay(number):
                assert number not in self.relays, "a number twice"
                self.relays[number] = output
            case te.CloseRelay(number):
                del self.relays[number]
                self.permits = {key: until for key, until in self.permits.items() if key[0] != number}
                self.channels = {key: value for key, value in self.channels.items() if key[0] != number}
            case te.Permit(number, ip, until):
                assert number in self.relays
                assert until > self.now
                self.permits[number, ip] = until
            case te.Forbid(number, ip):
                del self.permits[number, ip]
            case te.BindChannel(number, channel, peer, until):
                assert number in self.relays
                assert until > self.now
                self.channels[number, channel] = (peer, until)
            case te.Unbind(number, channel):
                del self.channels[number, channel]

    def run(self, seconds: float) -> None:
        """Let time pass, deadline by deadline."""
        end = self.now + seconds
        while (due := self.engine.next_deadline()) is not None and due <= end:
            self._move_to(due)
            self.feed(te.Tick())
        self._move_to(end)

    def _move_to(self, at: float) -> None:
        self.wall += max(0.0, at - self.now)
        self.now = max(self.now, at)

    def client(self, **fields: Any) -> TurnClient:
        """Somebody at an address of his own."""
        self._clients += 1
        fields.setdefault("client", Address(f"7.7.{self._clients >> 8}.{self._clients & 255}", 7000))
        return TurnClient(self, **fields)

    # ------------------------------------------------------------ what always holds

    def check(self) -> None:
        """Charges equal allocations, and the lane holds what the engine believes it does, no more."""
        table = self.engine.relays
        held = Counter(each.owner for each in table.by_number.values())
        assert table.node_quota.held(HERE) == len(table.by_number) == len(table.by_via)
        assert {owner: table.user_quota.held(owner) for owner in held} == held
        assert table.user_quota.total() == len(table.by_number)
        assert set(self.relays) == set(table.by_number)
        assert len(table.deadlines) == len(table.by_number)
        assert {each.relayed for each in table.by_number.values() if each.is_live} == set(table._by_relayed)
        assert +table._on_ip == Counter(each.packed for each in table._by_relayed)
        in_calls = {each.number for each in table.by_number.values() if each.owner.call is not None}
        assert {number for each in table._by_call.values() for number in each} == in_calls
        assert all(table._by_call.values())
        pending = {each.number for each in table.by_number.values() if not each.is_live}
        assert set(self.engine._requests._pending) == pending
        told = {
            (each.number, ip): permission.told
            for each in table.by_number.values()
            for ip, permission in each.permissions.items()
            if permission.told is not None
        }
        assert told == self.permits
        bound = {
            (each.number, number): (channel.peer, channel.told)
            for each in table.by_number.values()
            for number, channel in each.channels.items()
            if channel.told is not None
        }
        assert bound == self.channels
        for (number, ip), until in self.permits.items():
            allocation = table.by_number[number]
            assert until <= allocation.until
            assert table.may_send(allocation, table.reach(allocation), ip)
        for (number, _), (peer, until) in self.channels.items():
            assert until <= table.by_number[number].until
            allocation = table.by_number[number]
            assert table.may_send(allocation, table.reach(allocation), peer.packed, peer.port)


class TurnClient:
    """One 5-tuple, and what its user knows."""

    def __init__(
        self,
        rig: Rig,
        client: Address,
        transport: str = "udp",
        user: str | None = None,
        password: str | None = None,
        id: str = "ann",
        ttl: int = 600,
        local: int = 1,
    ) -> None:
        self.rig = rig
        self.via = Via(transport, client, local)
        self.user, self.password = mint(id, int(rig.wall) + ttl, rig.keys.rest[0])
        if user is not None:
            self.user = user
        if password is not None:
            self.password = password
        self.realm, self.nonce = b"", b""
        self.algorithm: int | None = None
        self.wants_sha256 = False
        self.fingerprint = False
        self._transaction = 0
        self.sent = b""

    def next_transaction(self) -> bytes:
        self._transaction += 1
        where = f"{self.via.client.host}{self.via.client.port}{self.via.local}".encode()
        return stun.user_hash(where, b"")[:4] + self._transaction.to_bytes(8, "big")

    def send(self, data: bytes) -> Message | None:
        """Raw bytes; the newest answer."""
        self.sent = data
        before = len(self.rig.answers.get(self.via, []))
        self.rig.feed(te.ClientPacket(self.via, data))
        answers = self.rig.answers.get(self.via, [])[before:]
        assert len(answers) <= 1, "one request, one answer"
        return stun.parse(answers[0]) if answers else None

    def bare(self, method: int, *attributes: Attribute, cls: Class = Class.REQUEST) -> Message | None:
        """Without credentials."""
        return self.send(
            stun.build(method, cls, self.next_transaction(), attributes, fingerprint=self.fingerprint)
        )

    def written(
        self, method: int, attributes: Iterable[Attribute], transaction: bytes | None = None
    ) -> bytes:
        """A request with credentials."""
        said = [*attributes, Attribute(stun.USERNAME, self.user.encode())]
        said += [Attribute(stun.REALM, self.realm), Attribute(stun.NONCE, self.nonce)]
        if self.algorithm is not None:
            offer = stun.encode_algorithms((stun.SHA256, stun.MD5))
            chosen = stun.encode_algorithms((self.algorithm,))
            said += [Attribute(stun.PASSWORD_ALGORITHMS, offer), Attribute(stun.PASSWORD_ALGORITHM, chosen)]
        return stun.build(
            method, Class.REQUEST, transaction or self.next_transaction(), said,
            key=self.key, sha256=self.algorithm is not None, fingerprint=self.fingerprint,
        )  # fmt: skip

    @property
    def key(self) -> bytes:
        words = self.user.encode(), self.realm, self.password.encode()
        return stun.long_term_key(*words, self.algorithm or stun.MD5)

    def learn(self, answer: Message | None) -> bool:
        """Take realm and nonce out of a challenge."""
        if answer is None or answer.cls is not Class.ERROR or code_of(answer) not in (401, 438):
            return False
        realm, nonce = answer.get(stun.REALM), answer.get(stun.NONCE)
        assert realm is not None
        assert nonce is not None
        self.realm, self.nonce = realm, nonce
        if self.wants_sha256 and stun.split_features(nonce)[0] & stun.FEATURE_ALGORITHMS:
            self.algorithm = stun.SHA256
        return True

    def challenged(self) -> TurnClient:
        """Ask once without credentials."""
        assert self.learn(self.bare(Method.ALLOCATE, turn.transport()))
        return self

    def request(self, method: int, *attributes: Attribute) -> Message | None:
        """With credentials; asks for a challenge first if it has none, and follows one stale nonce."""
        if not self.nonce:
            self.challenged()
        answer = self.send(self.written(method, attributes))
        if answer is not None and code_of(answer) == 438:
            self.learn(answer)
            answer = self.send(self.written(method, attributes))
        if answer is not None and code_of(answer) not in (400, 401, 438):
            assert stun.integrity_holds(answer, self.key), "an answer nobody signed"
            assert (stun.MESSAGE_INTEGRITY_SHA256 in answer.guards) == (self.algorithm is not None)
        return answer

    # ------------------------------------------------------------ what people do

    def allocate(self, *attributes: Attribute) -> Any:
        return self.request(Method.ALLOCATE, turn.transport(), *attributes)

    def refresh(self, seconds: int = 600) -> Any:
        return self.request(Method.REFRESH, turn.lifetime(seconds))

    def peer(self, host: str, port: int = 9) -> Attribute:
        """An XOR-PEER-ADDRESS; IPv4 looks alike in every transaction, IPv6 needs the next one's id."""
        where = f"{self.via.client.host}{self.via.client.port}{self.via.local}".encode()
        transaction = stun.user_hash(where, b"")[:4] + (self._transaction + 1).to_bytes(8, "big")
        return turn.xor_address(turn.XOR_PEER_ADDRESS, Address(host, port), transaction)

    def permit(self, *hosts: str) -> Any:
        return self.request(Method.CREATE_PERMISSION, *(self.peer(host) for host in hosts))

    def bind(self, channel: int, host: str, port: int = 9) -> Any:
        return self.request(Method.CHANNEL_BIND, turn.channel_number(channel), self.peer(host, port))

    @property
    def number(self) -> int:
        """Of its allocation."""
        return self.rig.engine.relays.by_via[self.via].number

    @property
    def relayed(self) -> Address:
        found = self.rig.engine.relays.by_via[self.via].relayed
        assert found is not None
        return found


def code_of(message: Message | None) -> int:
    """The error code of an answer, 0 of a success, -1 of silence."""
    if message is None:
        return -1
    value = message.get(stun.ERROR_CODE)
    return 0 if value is None else stun.decode_error(value)


def changed(settings: Config, **changes: Any) -> Config:
    """The same with some settings of TURN changed."""
    return dataclasses.replace(settings, turn=dataclasses.replace(settings.turn, **changes))
