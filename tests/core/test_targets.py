"""Where a call's people are sent: one node for all of them, named once, while it is as good as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pair import CLUSTER, WALL, World, config
from relay.config import DrainConfig
from relay.config_nodes import NodesConfig
from relay.core import targets as core_targets
from relay.core.call import Call
from relay.core.events import Directed
from relay.core.targets import Targets
from relay.protocol import control
from relay.protocol.ids import CallId
from relay.region.nodelist import Node, NodeList

TO = ("quic://by-hand.example:443",)
FAR = {"local": 0.0, "far": 2.0, "farther": 2.0}


def listed(*names: str, draining: tuple[str, ...] = ()) -> Directed:
    """Nodes by name, `region/id` or an id of region "local"."""
    nodes = []
    for name in names:
        region, _, id = name.rpartition("/")
        urls = (f"quic://{id}.example:443",)
        nodes.append(Node(id=id, region=region or "local", urls=urls, version="1", draining=id in draining))
    made = NodeList(
        v=1, cluster=CLUSTER, rev=1, issued_at=int(WALL), not_after=int(WALL) + 99, nodes=tuple(nodes)
    )
    return Directed(made, FAR, False)


class Stage:
    def __init__(self) -> None:
        self.world = World(config(drain=DrainConfig(to=TO), nodes=NodesConfig(standbys=True)))
        self.targets = Targets(self.world.engine.node)
        self.ann, self.bob = self.world.talking()
        self.call = self.of(self.ann.cid)

    def of(self, cid: CallId) -> Call:
        return self.world.engine.node.calls[cid]

    def to(self) -> str:
        """The node's id, of its one address."""
        (url,) = self.targets.of(self.call)
        return url.removeprefix("quic://").partition(".")[0]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_what_the_operator_wrote_counts_where_no_list_says_more(stage: Stage) -> None:
    assert stage.targets.of(stage.call) == TO
    stage.targets.on_directed(listed("relay-8", "relay-9"))  # a list without this node
    assert stage.targets.of(stage.call) == TO
    stage.targets.on_directed(listed("relay-1", "relay-2"))
    assert stage.to() == "relay-2"
    stage.targets.on_directed(Directed(None, {}, False))
    assert stage.targets.of(stage.call) == TO


def test_this_region_comes_first_and_others_share_what_it_cannot_take(stage: Stage) -> None:
    stage.targets.on_directed(listed("relay-1", "relay-2", "far/far-1"))
    assert stage.to() == "relay-2"
    away = Targets(stage.world.engine.node)
    away.on_directed(listed("relay-1", "far/far-1", "farther/farther-1"))
    calls = [stage.of(stage.world.talking()[0].cid) for _ in range(20)]
    assert {away.of(call) for call in calls} == {
        ("quic://far-1.example:443",), ("quic://farther-1.example:443",)
    }  # fmt: skip


def test_a_call_that_is_asked_again_hears_the_same_node(stage: Stage) -> None:
    stage.targets.on_directed(listed("relay-1", "relay-2", "relay-3"))
    assert len({stage.to() for _ in range(300)}) == 1  # though each call that is placed weighs


@pytest.mark.parametrize("how", ["it drains", "it is gone"])
def test_a_node_that_became_worse_is_left_for_another(stage: Stage, how: str) -> None:
    stage.targets.on_directed(listed("relay-1", "relay-2", "relay-3"))
    first = stage.to()
    [other] = {"relay-2", "relay-3"} - {first}
    if how == "it drains":
        stage.targets.on_directed(listed("relay-1", "relay-2", "relay-3", draining=(first,)))
    else:
        stage.targets.on_directed(listed("relay-1", other))
    assert stage.to() == other


def test_who_follows_somebody_hears_of_no_other_node(stage: Stage) -> None:
    stage.targets.on_directed(listed("relay-1", "relay-2", "relay-3"))
    first = stage.to()
    stage.ann.ask(control.Moved(c=stage.ann.cid, ok=True))
    stage.targets.on_directed(listed("relay-1", "relay-2", "relay-3", draining=(first,)))
    assert stage.to() == first


def test_where_no_node_is_left_the_last_word_stands(stage: Stage) -> None:
    stage.targets.on_directed(listed("relay-1"))
    assert stage.targets.of(stage.call) == TO
    stage.targets.on_directed(listed("relay-1", "relay-2"))
    assert stage.to() == "relay-2"
    stage.targets.on_directed(listed("relay-1"))
    assert stage.to() == "relay-2"


def test_names_of_calls_that_are_gone_are_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_targets, "_SLACK", 2)
    stage.targets.on_directed(listed("relay-1", "relay-2"))
    for _ in range(20):
        ann, _ = stage.world.talking()
        stage.targets.of(stage.of(ann.cid))
        ann.hangup()
        stage.world.run(10.0, alive=(stage.ann, stage.bob))
    assert len(stage.targets._named) <= 12
    assert stage.to() == "relay-2"


def test_who_would_take_a_call_up_is_said_once_whatever_lists_say_later(stage: Stage) -> None:
    assert stage.targets.standbys(stage.call) == ()
    stage.targets.on_directed(listed("relay-8", "relay-9"))
    assert stage.targets.standbys(stage.call) == ()  # this node is not on it
    stage.targets.on_directed(listed("relay-1", "relay-2", "relay-3", "far/far-1"))
    named = [found.id for found in stage.targets.standbys(stage.call)]
    assert sorted(named) == ["relay-2", "relay-3"]
    stage.targets.on_directed(listed("relay-1", "far/far-1"))
    assert [found.id for found in stage.targets.standbys(stage.call)] == named
    stage.targets.on_directed(Directed(None, {}, False))
    assert [found.id for found in stage.targets.standbys(stage.call)] == named


def test_standbys_are_named_only_where_that_is_switched_on(stage: Stage) -> None:
    node = stage.world.engine.node
    stage.targets.on_directed(listed("relay-1", "relay-2"))
    assert node.has_spares
    node.config = config()
    stage.targets.on_config()
    assert not node.has_spares
    assert stage.targets.standbys(stage.call) == ()


# ---------------------------------------------------------------- rules of regions


def ruled(event: Directed, *regions: str) -> Directed:
    return replace(event, within=frozenset(regions))


def test_nobody_is_sent_where_the_rules_of_this_region_forbid(stage: Stage) -> None:
    stage.targets.on_directed(ruled(listed("relay-1", "far/far-1", "farther/farther-1"), "local", "farther"))
    calls = [stage.of(stage.world.talking()[0].cid) for _ in range(20)]
    assert {stage.targets.of(call) for call in calls} == {("quic://farther-1.example:443",)}
    assert {found.id for call in calls for found in stage.targets.standbys(call)} == {"farther-1"}


def test_who_was_named_before_new_rules_is_taken_back(stage: Stage) -> None:
    event = listed("relay-1", "far/far-1", "farther/farther-1")
    stage.targets.on_directed(event)
    named, spares = stage.to(), stage.targets.standbys(stage.call)
    assert len(spares) == 2
    stage.ann.ask(control.Moved(c=stage.ann.cid, ok=True))  # she follows
    other = "farther" if named.startswith("far-") else "far"
    stage.targets.on_directed(ruled(event, "local", other))
    assert stage.to() == f"{other}-1"
    assert [found.id for found in stage.targets.standbys(stage.call)] == [f"{other}-1"]
    stage.targets.on_directed(ruled(event, "local", "far", "farther"))
    assert stage.to() == f"{other}-1"


def test_what_the_operator_wrote_is_not_said_where_it_is_known_to_be_forbidden(stage: Stage) -> None:
    stage.targets.on_directed(ruled(listed("relay-1"), "local"))
    assert stage.targets.of(stage.call) == TO  # nobody knows where that is
    stage.targets.on_directed(ruled(listed("relay-1", "far/by-hand"), "local"))
    assert stage.targets.of(stage.call) == ()
    stage.targets.on_directed(ruled(listed("relay-1", "far/by-hand"), "local", "far"))
    assert stage.targets.of(stage.call) == TO


def test_another_node_is_reached_as_the_list_says(stage: Stage) -> None:
    assert stage.targets.urls_of("relay-2") == ()
    stage.targets.on_directed(listed("relay-1", "relay-2"))
    assert stage.targets.urls_of("relay-2") == ("quic://relay-2.example:443",)


def test_people_of_another_nodes_call_go_there_or_to_any_node(stage: Stage) -> None:
    visit, cid = stage.targets.of_visit, stage.call.cid
    assert visit(cid, "relay-2") == TO
    stage.targets.on_directed(listed("relay-1", "relay-2", "relay-3"))
    assert visit(cid, "relay-2") == ("quic://relay-2.example:443",)
    (url,) = visit(cid, "relay-9")
    assert url in ("quic://relay-2.example:443", "quic://relay-3.example:443")
    stage.targets.on_directed(listed("relay-1"))
    assert visit(cid, "relay-9") == TO
