"""Puts engine, lane, endpoint and driver together. Daemon, tests and benches build the same node by this.

Must never live here: files, sockets, signals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aioquic.quic.configuration import QuicConfiguration

from relay.config import Config
from relay.core.company import OpenCompany
from relay.core.credentials import TurnKeys
from relay.core.events import ConfigChanged, DrainRequested, EngineKeys
from relay.core.relay import Relay
from relay.core.turn import Turn
from relay.core.turn_events import Draining, TurnChanged
from relay.edge import lane as lanes
from relay.edge.doors import Doors, Watcher, own_addresses
from relay.edge.driver import Driver, Sinks
from relay.edge.endpoint import Endpoint
from relay.edge.front import AddressTokens, Front
from relay.edge.ids import ConnectionIds
from relay.edge.keep import Keep
from relay.edge.lane import FrontKeys, Lane
from relay.edge.streams import Streams
from relay.edge.timers import Loop
from relay.edge.trunks import Trunks, identity_of, pins_of
from relay.edge.turn import TurnDriver
from relay.protocol.cid import SERVER_ID_SIZE, CidCodec
from relay.protocol.ids import Kid
from relay.protocol.keys import ClusterKey
from relay.protocol.token import kid_of


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The secrets of a node: cluster keys, newest first (1 or 2), and issuers' public keys by key id."""

    cluster: Sequence[ClusterKey] = field(repr=False)
    issuers: Mapping[Kid, bytes]
    shared: Sequence[bytes] = field(default=(), repr=False)
    """Secrets that a back end mints TURN credentials with, newest first; none in strict policy."""
    trunk: bytes | None = field(default=None, repr=False)
    """The seed of the Ed25519 key by which other nodes know this one; None: no trunks."""

    @classmethod
    def of(
        cls,
        cluster: Sequence[ClusterKey],
        config: Config,
        shared: Sequence[bytes] = (),
        trunk: bytes | None = None,
    ) -> NodeKeys:
        """With the issuers that the configuration names."""
        publics = [bytes.fromhex(issuer.public_key) for issuer in config.tokens.issuers]
        return cls(cluster, {kid_of(public): public for public in publics}, shared, trunk)

    def engine(self) -> EngineKeys:
        """What the engine may know of them."""
        tickets = [key.derive("ticket") for key in self.cluster]
        return EngineKeys(self.issuers, tickets, self.turn().rest)

    def turn(self) -> TurnKeys:
        """What the TURN engine may know."""
        return TurnKeys.of([key.derive("turn") for key in self.cluster], self.shared)


class Node:
    """One relay without its sockets. `receive` and `read` of `endpoint` are its way in."""

    def __init__(
        self,
        config: Config,
        keys: NodeKeys,
        quic: QuicConfiguration,
        loop: Loop,
        sinks: Sinks,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[int], bytes] = os.urandom,
        watcher: Watcher | None = None,
        generation: int | None = None,
    ) -> None:
        """`watcher` reads relay sockets where the lane has no threads that do; `generation`: see ids.py."""
        self.config = config
        self.lane: Lane = lanes.choose(config)
        server_id = config.node.server_id.to_bytes(SERVER_ID_SIZE - 1, "big") + b"\0"  # worker 0
        secrets = FrontKeys(
            retry=[key.derive("retry") for key in keys.cluster],
            cid=keys.cluster[0].derive("cid"),
            reset=keys.cluster[0].derive("reset"),
            server_id=server_id,
        )
        self.lane.use_front(secrets, config.limits)
        codec = CidCodec(secrets.cid, server_id)
        ids = ConnectionIds(codec, secrets.reset, int.from_bytes(draw(4), "big"), generation)
        front = Front(
            config.limits,
            tokens=AddressTokens(secrets.retry, config.limits.address_token_s, draw),
            ids=codec,
            server_id=server_id,
            reset_token=ids.reset_token,
            draw=draw,
        )
        own = None if keys.trunk is None else identity_of(config, keys.trunk, draw(8))
        self.engine = Relay(config, keys.engine(), draw, trunks=own, pins=pins_of(config.trunks))
        self.endpoint = Endpoint(
            loop,
            config.limits,
            quic,
            front=front,
            issue=ids.issue,
            lane=self.lane,
            clock=clock,
            wall=wall,
        )
        if keys.trunk is not None:
            self.endpoint.trunks = Trunks.of(config.trunks, config.node.id, keys.trunk)
        self.streams = Streams(
            loop,
            config.limits,
            self.lane,
            number=self.endpoint.new_leg,
            flush=self.endpoint.flush,
            clock=clock,
        )
        self.endpoint.on_waiting = self.streams.pump
        self.endpoint.on_broken = self.streams.broken
        self.endpoint.origins = frozenset(config.listen.web_origins)
        self.driver = Driver(loop, self.engine, self.endpoint, self.lane, sinks, clock=clock, wall=wall)
        self.endpoint.attach(self.driver)
        self.streams.attach(self.driver)
        self._open_company = OpenCompany(config.turn)
        company = self._open_company if config.turn.policy == "open" else self.engine.guests
        self.turn = TurnDriver(
            loop,
            Turn(config, keys.turn(), company, own_addresses()),
            self.endpoint,
            self.lane,
            Doors(
                config.turn,
                self.endpoint,
                self.lane,
                None if self.lane.name == "native" else watcher,
                clock=clock,
                draw=draw,
            ),
            clock=clock,
            wall=wall,
        )
        self.driver.on_company = self.turn.feed
        self._attach_turn(config)
        self._sends_on = False

    def _attach_turn(self, config: Config) -> None:
        serves = config.turn.enabled or config.stun.open_binding
        self.endpoint.attach_turn(self.turn if serves else None)

    def remember(self, keep: Keep) -> None:
        """From now on write there what a crash must not take along; before the first packet."""
        self.lane.use_marks(keep.fd, keep.count)
        self.endpoint.keep = keep
        self.engine.remember()

    def drain(self) -> None:
        """The node leaves: no new calls and no new allocations from now on."""
        self.driver.feed(DrainRequested())
        self.turn.feed(Draining())

    def send_newcomers_on(self) -> None:
        """Another generation takes newcomers: the few that still come here are sent to it by a Retry.

        One in 512 chose an id that the kernel takes for one of ours; that of a Retry is none.
        """
        self._sends_on = True
        self._limit(self.config, self.endpoint.configuration)

    def _limit(self, config: Config, quic: QuicConfiguration) -> None:
        limits = replace(config.limits, retry_above_half_open=0) if self._sends_on else config.limits
        self.endpoint.configure(limits, quic)
        self.lane.limit_front(limits)

    def configure(self, config: Config, keys: NodeKeys, quic: QuicConfiguration) -> None:
        """A reload: new limits, policy, issuers and certificate; running calls are untouched."""
        self.config = config
        self._limit(config, quic)
        self.endpoint.origins = frozenset(config.listen.web_origins)
        self.streams.configure(config.limits)
        self.driver.feed(ConfigChanged(config, keys.engine()))
        self._open_company.config = config.turn
        self.turn.feed(TurnChanged(config, keys.turn()))
        self._attach_turn(config)
