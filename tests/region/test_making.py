"""The node list: its nodes by routes alone, how they are by what they announced lately."""

from typing import Any

from relay.protocol.signed import kid_of, public_of
from relay.region.making import Announcement, Heard, decode, encode, make, without_health
from relay.region.nodelist import NodeList, seal, verify
from relay.region.routes import parse

WALL = 1_800_000_000.7
ROUTES = parse(
    {
        "fra": {"relays": {"fra-2": {"urls": ["quic://b:443"]}, "fra-1": {"urls": ["quic://a:443"]}}},
        "ams": {"relays": {"ams-1": {"urls": ["quic://c:443"], "drain": True, "variant": "relay-0.4"}}},
        "sin": {"relays": {"sin-1": {"urls": ["quic://d:443"]}}, "drain": True},
    }
)


def heard(node: str, age_s: float = 0.0, **facts: Any) -> dict[str, Heard]:
    told = {"version": "0.1.0", "state": "ok", "score": 97, "stress": 25} | facts
    return {node: Heard(Announcement(node=node, **told), age_s)}


def made(**heard_of: Heard) -> NodeList:
    return make(ROUTES, heard_of, cluster="c", rev=3, wall=WALL, life_s=600)


def test_who_is_on_the_list_is_said_by_the_routes_alone() -> None:
    found = make(ROUTES, heard("mallory"), cluster="c", rev=3, wall=WALL, life_s=600)
    assert [node.id for node in found.nodes] == ["ams-1", "fra-1", "fra-2", "sin-1"]
    assert (found.cluster, found.rev, found.issued_at, found.not_after) == (
        "c", 3, 1_800_000_000, 1_800_000_600
    )  # fmt: skip
    assert {node.version for node in found.nodes} == {"unknown"}
    assert [node.health for node in found.nodes] == [None] * 4
    assert found.nodes[0].variant == "relay-0.4"


def test_how_a_node_is_comes_from_what_it_announced() -> None:
    one = next(node for node in made(**heard("fra-1", 12.4)).nodes if node.id == "fra-1")
    assert one.health is not None
    assert (one.health.state, one.health.score, one.health.stress, one.health.age_s) == ("ok", 97, 25, 12)
    assert (one.version, one.draining) == ("0.1.0", False)


def test_what_was_announced_over_90_seconds_ago_says_nothing() -> None:
    assert made(**heard("fra-1", 90.0)).nodes[1].health is not None
    old = made(**heard("fra-1", 90.1, draining=True)).nodes[1]
    assert (old.health, old.version, old.draining) == (None, "unknown", False)


def test_a_clock_that_is_ahead_makes_nothing_younger_than_now() -> None:
    health = made(**heard("fra-1", -5.0)).nodes[1].health
    assert health is not None
    assert health.age_s == 0


def test_marked_regions_marked_relays_and_leaving_nodes_drain() -> None:
    found = made(**heard("fra-2", draining=True))
    assert {node.id for node in found.nodes if node.draining} == {"ams-1", "sin-1", "fra-2"}


def test_what_is_made_is_what_readers_take() -> None:
    seed = bytes(32)
    found = made(**heard("fra-1"), **heard("fra-2", score=None))
    public = public_of(seed)
    assert verify(seal(found, seed), {kid_of(public): public}) == found


def test_clients_hear_nothing_of_health() -> None:
    found = made(**heard("fra-1"))
    bare = without_health(found)
    assert all(node.health is None for node in bare.nodes)
    assert (bare.rev, [node.id for node in bare.nodes]) == (found.rev, [node.id for node in found.nodes])


def test_an_announcement_is_read_again_and_anything_else_is_none() -> None:
    told = heard("fra-1")["fra-1"].told
    assert decode(encode(told)) == told
    assert decode(b"torn") is None
    assert decode(b'{"node":"fra-1","version":"1","state":"fine","stress":1}') is None


def test_rules_of_regions_stand_on_the_list_as_far_as_they_say_where_calls_may_go() -> None:
    seed = bytes(32)
    rules = {"may_leave_to": ["ams"], "keep_in": ["fra", "ams"], "keep_days": 30}
    own = {"may_leave_to": [], "keep_in": ["ams"], "keep_days": 7}
    routes = parse(
        {"fra": {"relays": {}, "rules": rules}, "ams": {"relays": {}, "rules": own}, "sin": {"relays": {}}}
    )
    found = make(routes, {}, cluster="c", rev=3, wall=WALL, life_s=600)
    assert found.may_leave_to == {"fra": ("ams",), "ams": ()}
    public = public_of(seed)
    raw = seal(found, seed)
    assert verify(raw, {kid_of(public): public}) == without_health(found) == found
    assert b'"may_leave_to":{"ams":[],"fra":["ams"]}' in raw
    assert b"may_leave_to" not in seal(made(), seed)
