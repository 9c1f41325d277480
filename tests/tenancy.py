"""A node with several issuers on simulated time, their people, their commands.

Must never live here: limits.
"""

from __future__ import annotations

from typing import Any

from pair import ISSUER, TICKET_KEY, Client, World, config
from relay.config import Config, IssuerConfig, TokenConfig
from relay.core import events as ev
from relay.core.relay import EngineKeys, issuers_of
from relay.errors import ErrorCode
from relay.protocol import command, control, signed, token
from relay.protocol.ids import CallId, Jti, Kid

ALICE, BERT = ISSUER, bytes(reversed(range(32)))
OTHER = bytes(range(100, 132))
LONE = bytes(range(200, 232))
KIDS = {seed: Kid(token.kid_of(signed.public_of(seed))) for seed in (ALICE, BERT, OTHER, LONE)}


def issuer(name: str, seed: bytes, **more: Any) -> IssuerConfig:
    return IssuerConfig(name, signed.public_of(seed).hex(), **more)


def settings(*issuers: IssuerConfig, **sections: Any) -> Config:
    return config(tokens=TokenConfig(issuers), **sections)


def world_of(*issuers: IssuerConfig, **sections: Any) -> World:
    """A node with these issuers."""
    world = World(settings(*issuers, **sections))
    reload(world, world.config)
    return world


def reload(world: World, changed: Config) -> None:
    world.config = changed
    world.feed(ev.ConfigChanged(changed, EngineKeys(issuers_of(changed), [TICKET_KEY])))


def person(world: World, seed: bytes, cid: CallId | None = None, **claims: Any) -> Client:
    """Somebody with a token of that issuer, who has not said hello."""
    return world.client(token.mint(world.call(cid).claims(**claims), seed))


def caller(world: World, seed: bytes, cid: CallId | None = None, **claims: Any) -> Client:
    """The same in a call."""
    return person(world, seed, cid, **claims).enter()


def code_of(client: Client) -> ErrorCode | None:
    """What the client was closed with when it tried to come in."""
    client.open()
    client.ask(control.Hello(tok=client.raw))
    if client.closed is None:
        client.ask(control.Join(c=client.cid))
    return client.closed


def order(world: World, seed: bytes, op: str, **fields: Any) -> ErrorCode:
    now = int(world.wall)
    whole = {"iat": now, "exp": now + 60, "id": Jti(world.random.randbytes(16))} | fields
    return world.command_raw(command.mint(command.Command(op=op, **whole), seed))


def refused(world: World, name: str) -> dict[str, int]:
    """What the issuer's limits refused, by reason."""
    (one,) = [each for each in world.engine.node.tenants.standings() if each.name == name]
    return {reason.value: count for reason, count in one.refused.items() if count}
