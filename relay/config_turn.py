"""The settings of STUN and TURN, a branch of the tree in relay/config.py.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Port = Annotated[int, Meta(ge=1024, le=65_535)]
Realm = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9]{4}$", description="exactly 4 of a-z 0-9, so that a refusal stays at 56 bytes"),
]


@dataclass(frozen=True, slots=True)
class StunConfig:
    """Address discovery for strangers (RFC 8489)."""

    open_binding: bool = False
    """Whether a bare Binding request of a stranger is answered. The answer is up to 2.2 times as long as what
    was asked, so forged sources make this node write to others, within the budgets of turn.unproven_*."""


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """An address that allocations are made on; at most one of each family."""

    bind: str = ""
    """IPv4 or IPv6 address of this machine, without a port."""
    advertise: str = ""
    """The address by which others reach it, where a 1:1 NAT stands in front; "": the same."""


@dataclass(frozen=True, slots=True)
class TurnConfig:
    """TURN for WebRTC and other ICE stacks (RFC 8656). Off by default: it lets clients send to others."""

    enabled: bool = False
    """Whether TURN is served. It needs sockets of its own, so the unit's private network has to go
    (systemd/relay-turn.conf)."""
    policy: Literal["strict", "open"] = "strict"
    """strict: credentials for one person in one call, peers announced by another accepted one of that call.
    open: credentials minted elsewhere with a shared secret, any peer on the public internet."""
    realm: Realm = "vrl1"
    """What credentials are bound to; the same on all nodes that share them."""
    addresses: tuple[RelayAddress, ...] = ()
    """Where relayed packets leave and arrive. TURN needs at least one."""
    tcp: tuple[str, ...] = ("[::]:3478",)
    """Addresses for clients on TCP, [v6]:port or v4:port; [::] takes IPv4 too. UDP is served where listen.udp
    says."""
    tls: tuple[str, ...] = ("[::]:5349",)
    """The same for clients on TLS, with the certificate of [tls]."""
    on_web: bool = True
    """Whether clients on TLS are served where listen.web says as well: 443/TCP passes where little
    else does. They count in limits.tcp_connections there, and in turn.streams everywhere."""
    streams: Count = 1_000
    """Clients on TCP and TLS. Each may hold up to 128 KiB of frames and answers, the kernel about as much."""
    streams_per_source: Count = 64
    """The same from one source (an IPv4 address, an IPv6 /64). Lower hurts shared addresses."""
    first_port: Port = 49_152
    """Relayed addresses have ports from here."""
    last_port: Port = 65_535
    """To here. Each allocation takes one of each address."""
    urls: tuple[str, ...] = ()
    """What clients of calls are told (turn:host:port?transport=udp, turns:host:port?transport=tcp)."""
    alternate: str = ""
    """address:port of another node's TURN, told (error 300) to who asks for an allocation while this one
    drains; "": refused (508)."""
    allocations: Count = 1_000
    """Allocations on this node. Each is a socket, and about 2 KiB of the engine."""
    allocations_per_user: Annotated[int, Meta(ge=1, le=64)] = 2
    """Allocations of one participant, or in open policy of one user name. Browsers make one for each URL and
    network interface."""
    permissions: Annotated[int, Meta(ge=1, le=1_024)] = 32
    """Permissions of an allocation."""
    channels: Annotated[int, Meta(ge=1, le=1_024)] = 32
    """Channels of an allocation, those whose number rests included."""
    longest_s: Annotated[int, Meta(ge=600, le=3_600)] = 3_600
    """Greatest lifetime that a refresh grants, seconds; the least is 600."""
    credential_s: Annotated[int, Meta(ge=60, le=86_400)] = 600
    """Credentials that end later than this from now are refused, seconds; ours live as long. Running
    allocations outlive them. Longer: a stolen one is useful for longer."""
    nonce_s: Annotated[int, Meta(ge=60, le=3_600)] = 600
    """Life of a nonce, seconds."""
    unproven_per_source_per_s: Annotated[int, Meta(ge=1, le=1_000)] = 10
    """Answers per second to one source (an IPv4 address, an IPv6 /64) that has proven nothing."""
    unproven_per_s: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    """The same in all."""
    kbps: Annotated[int, Meta(ge=8, le=1_000_000)] = 2_048
    """Kilobits per second of an allocation, each way, in open policy; in strict the token says it."""
    pps: Annotated[int, Meta(ge=10, le=1_000_000)] = 500
    """Packets per second of an allocation, each way, in open policy; in strict the token says it."""
    secret_file: str = ""
    """File with the secret that a back end mints credentials with in open policy: one line, at least 16
    characters, mode 0600."""
    previous_secret_file: str = ""
    """The secret before a rotation; "": none."""
    lab_allow_private_peers: bool = False
    """For laboratories only: private, loopback and documentation addresses may be peers. Whoever sets this on
    a node with a network behind it opens that network to its clients."""
