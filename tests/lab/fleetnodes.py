"""A fleet: two relays in each of three regions, a feed beside each, and the desk of who operates them.

    desk, at the hub --signed routes, offers, kills--> hub --> leaf of a region --> relay feed --> relay serve
                                                        ^-------- how nodes are -------'

All are the programs as shipped, told by files only. The second node of the last region is a box of
candidates, all others are the control's. Must never live here: networks (fleetground.py), people, judgement.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from lab.fleetdesk import Desk
from lab.fleetground import HUB, NATS_PORT, NODES, REGIONS, Ground, Place
from lab.fleetnode import METRICS_PORT, FleetNode, Variant, until
from lab.topology import LabError
from quicpair import certificate
from relay.config import (
    ClusterConfig,
    Config,
    DrainConfig,
    EventsConfig,
    HealthConfig,
    IssuerConfig,
    LimitsConfig,
    ListenConfig,
    NodeConfig,
    RecordsConfig,
    TlsConfig,
    TokenConfig,
    render,
)
from relay.config_feed import FeedConfig
from relay.config_nodes import NodesConfig
from relay.config_state import StateConfig
from relay.config_trunks import TrunkNode, TrunksConfig
from relay.protocol import token, trunk_proof
from relay.protocol.ids import CallId, Jti, Sub
from relay.protocol.keys import write_key
from relay.protocol.signed import kid_of, public_of
from relay.region.directory import Directory
from relay.region.nodelist import Keeper

CLUSTER: Final = "relay"
ISSUER: Final = "lab"
CANARY: Final = "canary"
START_S: Final = 30.0
TOKEN_S: Final = 300
# Everybody of a region calls from one address.
LIMITS: Final = LimitsConfig(
    half_open=10_000,
    retry_above_half_open=10_000,
    retry_above_initials_per_s=10_000,
    initials_per_source_per_s=10_000,
    initials_per_source_burst=10_000,
)


class Fleet:
    """All of it."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.seed, self.canary_seed = secrets.token_bytes(32), secrets.token_bytes(32)
        self.operator_seed, self.hub_seed = secrets.token_bytes(32), secrets.token_bytes(32)
        self.ca, self._tls_key = certificate(ground.folder)
        self._cluster_key = self._write(ground.folder / "cluster.key", secrets.token_bytes(32))
        last = REGIONS[-1]
        self.nodes = [
            FleetNode(
                f"{place.name}-{number}",
                place,
                number,
                "candidate" if (place, number) == (last, NODES) else "control",
                ground,
                ground.folder / f"{place.name}-{number}",
            )
            for place in REGIONS
            for number in range(1, NODES + 1)
        ]
        self._trunk_seeds = {node.id: secrets.token_bytes(32) for node in self.nodes}
        self.desk = Desk(ground, self.nodes)

    @classmethod
    @contextlib.contextmanager
    def build(cls, seed: int) -> Iterator[Fleet]:
        """Ground, stores, daemons and feeds; all know each other when it is there. LabError: they do not."""
        with Ground.build(seed) as ground:
            fleet = cls(ground)
            try:
                fleet._write_files()
                for node in fleet.nodes:
                    node.start("serve")
                fleet._prepare_stores()
                fleet._begin()
                yield fleet
            finally:  # at once: nobody is to be drained
                for node in fleet.nodes:
                    for what in node.processes:
                        node.kill(what)

    # ------------------------------------------------------------ who is where

    @property
    def operator_key(self) -> str:
        """By which boxes know a signed state: public, hexadecimal."""
        return public_of(self.operator_seed).hex()

    @property
    def hub_key(self) -> str:
        """By which they know a node list."""
        return public_of(self.hub_seed).hex()

    def of(self, place: str, variant: Variant = "control") -> list[FleetNode]:
        """Of a region."""
        return [node for node in self.nodes if node.place.name == place and node.variant == variant]

    @property
    def candidate(self) -> FleetNode:
        """The box of candidates."""
        return next(node for node in self.nodes if node.variant == "candidate")

    def token(self, call: bytes, device: bytes, home: str | None = None) -> str:
        """For one more person in the call, an accepted contact, an adult; `device` is the seed of its key.

        `home`: the node that decides about the call, wherever its people are.
        """
        now = int(time.time())
        claims = token.Claims(
            iss=ISSUER,
            aud=CLUSTER,
            sub=Sub(secrets.token_bytes(16)),
            cid=CallId(call),
            iat=now,
            nbf=now,
            exp=now + TOKEN_S,
            jti=Jti(secrets.token_bytes(16)),
            lim=(512, 512, 300, 2),
            age=token.AGE_ADULT,
            ctc=1,
            cnf=public_of(device),
            home=home,
        )
        return token.to_text(token.mint(claims, self.seed))

    # ------------------------------------------------------------ what it knows

    def until_all(
        self, wanted: Mapping[str, float], within: float, nodes: Sequence[FleetNode] | None = None
    ) -> float | None:
        """Seconds until these samples stand so, or higher if revisions, at all nodes; None: not in time."""

        def stands(node: FleetNode) -> bool:
            found = node.metrics()
            return all(
                found.get(name, -1.0) >= value if name.endswith("_revision") else found.get(name) == value
                for name, value in wanted.items()
            )

        waiting = list(nodes or self.nodes)

        def none_waits() -> bool:
            waiting[:] = [node for node in waiting if not stands(node)]
            return not waiting

        return until(none_waits, within)

    def directory(self) -> Directory:
        """What a product in the first region knows of all nodes."""
        keeper = Keeper(CLUSTER, {kid_of(public_of(self.hub_seed)): public_of(self.hub_seed)})
        keeper.on_document((self.nodes[0].folder / "nodes").read_bytes(), time.time())
        assert keeper.list is not None  # it was just taken
        found = Directory()
        found.on_list(keeper.list, time.monotonic(), time.time())
        return found

    def revisions(self) -> list[float | None]:
        """Of the state that each node goes by."""
        return [node.figure("relay_state_revision") for node in self.nodes]

    # ------------------------------------------------------------ how it begins

    def _write(self, path: Path, key: bytes) -> str:
        path.write_text(write_key(key))
        path.chmod(0o600)
        return str(path)

    def _write_files(self) -> None:
        desk = self.desk.folder
        desk.mkdir()
        self._write(desk / "operator.key", self.operator_seed)
        self._write(desk / "hub.key", self.hub_seed)
        self._write(desk / "canary.key", self.canary_seed)
        config = Config(state=self._state(desk, HUB, "control"), nodes=self._nodes(desk))
        (desk / "relay.toml").write_text(render(config))
        for place, node in enumerate(self.nodes):
            node.folder.mkdir()
            (node.folder / "relay.toml").write_text(render(self._config(node, place + 1)))

    def _state(self, folder: Path, place: Place, variant: Variant) -> StateConfig:
        return StateConfig(
            file=str(folder / "lastgood"),
            keys=(self.operator_key,),
            floor_file=str(folder / "floor"),
            kill_file=str(folder / "kill"),
            without="all",
            variant=variant,
            backend="nats",
            servers=(f"nats://{place.server}:{NATS_PORT}",),
        )

    def _nodes(self, folder: Path, announce: tuple[str, ...] = ()) -> NodesConfig:
        return NodesConfig(
            file=str(folder / "nodes"),
            keys=(self.hub_key,),
            standbys=True,
            commands=str(folder / "commands"),
            announce=announce,
        )

    def _trunks(self, node: FleetNode) -> TrunksConfig:
        """Each node may meet each other one."""
        known = tuple(
            TrunkNode(
                other.id,
                f"{other.address}:443",
                (trunk_proof.pin_of(public_of(self._trunk_seeds[other.id])).hex(),),
            )
            for other in self.nodes
        )
        return TrunksConfig(self._write(node.folder / "trunk.key", self._trunk_seeds[node.id]), known)

    def _config(self, node: FleetNode, number: int) -> Config:
        address, folder = node.address, node.folder
        return Config(
            node=NodeConfig(id=node.id, cluster=CLUSTER, region=node.place.name, server_id=number),
            listen=ListenConfig(
                udp=(f"{address}:443",),
                web=(f"{address}:443",),
                metrics=f"{address}:{METRICS_PORT}",
                command_socket=str(folder / "commands.sock"),
            ),
            tls=TlsConfig(self.ca, self._tls_key),
            cluster=ClusterConfig(self._cluster_key),
            tokens=TokenConfig(
                (
                    IssuerConfig(ISSUER, public_of(self.seed).hex()),
                    IssuerConfig(CANARY, public_of(self.canary_seed).hex(), canary=True),
                )
            ),
            limits=LIMITS,
            records=RecordsConfig(""),
            events=EventsConfig("off"),
            drain=DrainConfig(grace_s=0, smear_s=1.0, deadline_s=60),
            health=HealthConfig(canary_file=str(folder / "canary.json")),
            state=self._state(folder, node.place, node.variant),
            nodes=self._nodes(folder, (node.metrics_url,)),
            trunks=self._trunks(node),
            feed=FeedConfig(store=str(folder / "feed.sqlite"), metrics=""),
        )

    def _prepare_stores(self) -> None:
        leaves = [word for place in REGIONS for word in ("--leaf", place.name)]
        self.desk.relay("state", "prepare", "--hub", *leaves)
        nodes = [self.of(place.name)[0] for place in REGIONS]
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(self._prepare_leaf, nodes))

    def _prepare_leaf(self, node: FleetNode) -> None:
        self.desk.relay("state", "prepare", "--leaf", HUB.name, at=node)

    def _begin(self) -> None:
        rev = self.desk.put_routes("the fleet begins")
        self._start_signing()
        for node in self.nodes:
            node.start("feed")
        known = {"relay_state_revision": float(rev), "relay_nodes_listed": float(len(self.nodes))}
        if self.until_all(known, START_S) is None:
            told = [(node.id, node.metrics().get("relay_state_revision")) for node in self.nodes]
            first = self.nodes[0]
            logs = "".join((first.folder / f"{what}.log").read_text()[-1500:] for what in first.processes)
            raise LabError(f"the nodes do not know each other: {told}\n{logs}")

    def _start_signing(self) -> None:
        """The hub makes node lists, as a service would."""
        desk = self.desk.folder
        words = ["nodes", "sign", "--key", str(desk / "hub.key"), "--every", "10"]
        command = [sys.executable, "-m", "relay", *words, "--config", str(desk / "relay.toml")]
        namespace = self.ground.namespaces[HUB.name]
        self.ground.net.spawn(namespace, command, desk / "sign.log")
