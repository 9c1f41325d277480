"""What boxes get of a rollout: its standing as a signed state in the store.

    Standing --offer_of--> Offer --seal, compare-and-set--> the store's `state` --relay feed--> boxes

A change counts for boxes once it is published. The order of reading makes sure that the newest standing wins,
whoever publishes last: the state first, then the standing, then the write. Must never live here: what a
signed state means (lastgood.py), whose the key is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from relay.errors import LocalError
from relay.protocol.ids import Kid
from relay.region.routes import RoutesError, rules_of
from relay.region.routes import parse as parse_routes
from relay.rollout.course import ChangeRefusedError, Helm
from relay.rollout.keys import BUCKET, STATE
from relay.rollout.lastgood import LIFE_S, Body, Offer, RefusedError, parse, seal
from relay.rollout.plan import Document
from relay.rollout.steps import Phase, Refusal, Refused, Standing, shares
from relay.rollout.store import ConflictError, StoreError

TRIES: Final = 16


@dataclass(frozen=True, slots=True)
class Signer:
    """An operator's key, and what holds for what it signs."""

    seed: bytes
    keys: Mapping[Kid, bytes]
    """Public ones that boxes accept."""
    days: float = LIFE_S / 86_400


def offer_of(plan: Document, standing: Standing) -> Offer:
    """Who gets the candidate of a rollout that stands so. Of a killed one nobody."""
    now, rollout = shares(plan, standing), plan.rollout
    if standing.phase is Phase.KILLED:
        return Offer(rollout.id, rollout.salt, kind=rollout.kind)
    return Offer(
        rollout.id,
        rollout.salt,
        tuple(sorted(now.always)),
        tuple(sorted(now.never)),
        dict(now.groups),
        dict(now.regions),
        rollout.kind,
    )


async def published(helm: Helm, keys: Mapping[Kid, bytes]) -> Body | None:
    """The state in the store; None: there is none. StoreError: there is one that counts for nobody."""
    stored = await helm.store.get(BUCKET, STATE)
    return None if stored is None else _body(stored.value, keys)


async def is_published(helm: Helm, id: str, keys: Mapping[Kid, bytes]) -> bool:
    """Whether the signed state says what the rollout's standing does."""
    body, course = await published(helm, keys), await helm.course(id)
    return body is not None and body.rollout == offer_of(course.plan, course.standing)


async def check_room(helm: Helm, id: str, keys: Mapping[Kid, bytes]) -> None:
    """ChangeRefusedError while the signed state offers another rollout that is not over."""
    body = await published(helm, keys)
    if body is not None:
        await _check_room(helm, id, body)


async def check_offer(helm: Helm, id: str, keys: Mapping[Kid, bytes]) -> None:
    """ChangeRefusedError while the signed state offers something else of a rollout than its steps give."""
    body = await published(helm, keys)
    if body is None or body.rollout is None or body.rollout.id != id or id not in await helm.ids():
        return
    course = await helm.course(id)
    if body.rollout != offer_of(course.plan, course.standing):
        told = f"the signed state offers something else of {id} than its steps give"
        cure = f"first: relay rollout publish --rollout {id} --key FILE"
        raise ChangeRefusedError(Refused(Refusal.CONFLICT, told, cure))


async def check_rules(helm: Helm, places: Iterable[str], keys: Mapping[Kid, bytes]) -> None:
    """ChangeRefusedError unless the signed state says what holds for the calls of each of these regions.

    A group is everywhere, so all regions need rules for it.
    """
    body = await published(helm, keys)
    cure = "write `rules` into its routes (docs/state.md), then: relay state put --routes FILE --key FILE"
    try:
        routes = parse_routes(body.routes if body is not None else {})
    except RoutesError as error:
        told = f"the signed state does not say which rules hold: {error}"
        raise ChangeRefusedError(Refused(Refusal.RULES, told, cure)) from None
    for place in places:
        names = sorted(routes) if place.startswith("@") else [place]
        if not names:
            told = f"{place} is everywhere, and the signed state names no region"
            raise ChangeRefusedError(Refused(Refusal.RULES, told, cure))
        for region in names:
            if rules_of(routes, region) is None:
                told = f"{region} has no rules on where its calls may go and how long records are kept"
                raise ChangeRefusedError(Refused(Refusal.RULES, told, cure))


async def publish(helm: Helm, id: str, signer: Signer, who: str, why: str = "") -> Body:
    """Sign what stands and put it into the store; what was put.

    ChangeRefusedError: the state offers another rollout. StoreError, LocalError: no box would take it.
    """
    for _ in range(TRIES):
        stored = await helm.store.get(BUCKET, STATE)
        course = await helm.course(id)
        before = None if stored is None else _body(stored.value, signer.keys)
        if before is not None:
            await _check_room(helm, id, before)
        now = int(helm.wall())
        body = Body(
            1 if before is None else before.rev + 1,
            now,
            now + round(signer.days * 86_400),
            offer_of(course.plan, course.standing),
            {} if before is None else before.routes,
        )
        expect = 0 if stored is None else stored.revision
        words = why or f"{id}, revision {course.standing.revision}"
        try:
            await helm.store.put(BUCKET, STATE, seal(body, signer.seed), expect=expect, who=who, why=words)
        except ConflictError:
            continue
        except LocalError as error:
            raise StoreError(str(error)) from None
        return body
    raise ChangeRefusedError(Refused(Refusal.CONFLICT, "others write the state all the time", "try again"))


async def _check_room(helm: Helm, id: str, body: Body) -> None:
    other = body.rollout.id if body.rollout is not None else id
    if other == id or (other in await helm.ids() and (await helm.course(other)).is_over):
        return
    told = f"the signed state offers {other}, and has room for one rollout"
    cure = "let that one end, or take it out: `relay state put --rollout none`"
    raise ChangeRefusedError(Refused(Refusal.RIVAL, told, cure))


def _body(raw: bytes, keys: Mapping[Kid, bytes]) -> Body:
    try:
        return parse(raw, keys).body
    except RefusedError as error:
        told = f"the state in the store does not count: {error}"
        raise StoreError(f"{told} (`relay state put --rev` goes over it)") from None
