"""A client with a signed node list: which lists count, which node a call has, and real daemons behind it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from client.rig import CLUSTER, Rig, daemon, free_port, public_of
from client.test_direct_calls import until
from relay.client import CallState
from relay.client.errors import RefusedError, SessionError
from relay.client.nodes import NodeBook, NodesError, NoNode, usable
from relay.errors import ErrorCode
from relay.protocol.ids import CallId
from relay.region.nodelist import ListError, Node, NodeList, Refusal, seal
from relay.rollout.lastgood_file import OsFiles, replace

SEED, OTHER = bytes(32), b"\1" * 32
NOW = 1_800_000_000
WAIT_S = 20.0


def node(id: str, region: str = "near", url: str = "", **more: object) -> Node:
    facts = {"id": id, "region": region, "urls": (url or f"quic://{id}.example:443",), "version": "1"}
    return msgspec.convert(facts | more, Node)


def listed(*nodes: Node, rev: int = 1, issued: float = NOW, **more: object) -> NodeList:
    made = NodeList(
        v=1, cluster=CLUSTER, rev=rev, issued_at=int(issued), not_after=int(issued) + 600, nodes=nodes
    )
    return msgspec.structs.replace(made, **more)


def book(*nodes: Node, **more: object) -> NodeBook:
    found = NodeBook([public_of(SEED)], CLUSTER, lambda: NOW + 1.0)
    assert found.take(seal(listed(*nodes, **more), SEED))  # type: ignore[arg-type]  # settings by name
    return found


def ids(found: NodeBook, call: CallId, **more: object) -> list[str]:
    return [each.id for each in found.order(call, **more)]  # type: ignore[arg-type]  # settings by name


def calls(count: int) -> Iterator[CallId]:
    return (CallId(bytes([number]) * 16) for number in range(count))


CALL = CallId(bytes(range(16)))


# ---------------------------------------------------------------- which lists count


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (seal(listed(node("a"), rev=2), OTHER), Refusal.UNKNOWN_KEY),
        (seal(listed(node("a"), rev=2), SEED).replace(b"quic://a", b"quic://b"), Refusal.BAD_SIGNATURE),
        (seal(listed(node("a"), rev=2, issued=NOW - 900), SEED), Refusal.EXPIRED),
        (seal(listed(node("a"), rev=2, issued=NOW + 7200), SEED), Refusal.TOO_EARLY),
        (seal(listed(node("a"), rev=2, cluster="other"), SEED), Refusal.OTHER_CLUSTER),
        (seal(listed(node("b"), rev=1), SEED), Refusal.CONTRADICTS),
        (b"<html>", Refusal.MALFORMED),
    ],
)
def test_a_list_that_does_not_count_is_refused_and_what_was_there_stays(raw: bytes, why: Refusal) -> None:
    found = book(node("a"))
    with pytest.raises(ListError) as error:
        found.take(raw)
    assert error.value.reason is why
    assert ids(found, CALL) == ["a"]


def test_a_newer_list_replaces_the_one_before() -> None:
    found = book(node("a"))
    assert not found.take(seal(listed(node("a")), SEED))
    assert found.take(seal(listed(node("b"), rev=2), SEED))
    assert ids(found, CALL) == ["b"]


# ---------------------------------------------------------------- which node


def test_all_people_of_a_call_find_one_order_in_the_region_that_is_named() -> None:
    nodes = [node("a"), node("b"), node("c"), node("d"), node("e", "far")]
    one, other = book(*nodes), book(*reversed(nodes))
    found = [ids(one, call, region="near") for call in calls(40)]
    assert found == [ids(other, call, region="near") for call in calls(40)]
    assert {order[0] for order in found} == {"a", "b", "c", "d"}
    assert all(len(order) == 3 for order in found)


def test_the_nearest_region_is_for_who_begins_a_call() -> None:
    found = book(node("a"), node("e", "far"))
    assert ids(found, CALL, measured={"near": 0.08, "far": 0.02}) == ["e", "a"]
    assert ids(found, CALL, measured={"near": 0.02, "far": 0.08}) == ["a", "e"]
    assert ids(found, CALL, measured={"near": 0.02}, region="far") == ["e", "a"]


def test_the_node_that_the_product_names_comes_first_and_its_region_next() -> None:
    found = book(node("a"), node("b"), node("e", "far"), node("f", "far"))
    for call in calls(8):
        order = ids(found, call, node="e", region="near", measured={"near": 0.01})
        assert order[:2] == ["e", "f"]
    assert ids(book(node("a", draining=True), node("b")), CALL, node="a") == ["a", "b"]  # it may be in a call


def test_rules_of_a_region_hold_for_clients_too() -> None:
    found = book(node("a"), node("e", "far"), may_leave_to={"near": (), "far": ("near",)})
    assert ids(found, CALL, region="near") == ["a"]
    assert ids(found, CALL, node="a") == ["a"]
    assert ids(found, CALL, region="far") == ["e", "a"]


def test_where_there_is_no_node_it_is_said_why() -> None:
    empty = NodeBook([public_of(SEED)], CLUSTER)
    for found, words, why in (
        (empty, {}, NoNode.NO_LIST),
        (book(node("a")), {"node": "z"}, NoNode.UNKNOWN_NODE),
        (book(node("a")), {"variant": "candidate"}, NoNode.NONE_FITS),
        (book(node("a", draining=True)), {}, NoNode.NONE_FITS),
    ):
        with pytest.raises(NodesError) as error:
            found.order(CALL, **words)
        assert error.value.reason is why


def test_addresses_for_web_pages_are_none_for_this_client() -> None:
    urls = ("https://a.example/vrl/1", "quic://a.example:443", "tls://a.example:443")
    assert usable(node("a", urls=urls)) == ["quic://a.example:443", "tls://a.example:443"]
    assert usable(node("a", urls=urls), tcp=False) == ["quic://a.example:443"]


# ---------------------------------------------------------------- with daemons


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[tuple[Rig, Rig]]:
    """Two nodes of a cluster; the first hands a list out that stands in the file `nodes`."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    more = f'[nodes]\nfile = "{tmp_path}/nodes"\nkeys = ["{public_of(SEED).hex()}"]\n'
    with daemon(tmp_path / "b", id="b") as b, daemon(tmp_path / "a", id="a", more=more, beside=b) as a:
        yield a, b


def live(*nodes: Node) -> NodeBook:
    found = NodeBook([public_of(SEED)], CLUSTER)
    assert found.take(seal(listed(*nodes, issued=time.time()), SEED))
    return found


async def meet(rigs: tuple[Rig, Rig], found: NodeBook, call: bytes, **where: str) -> list[int]:
    """Two people who talk; the ports that they came to."""
    async with AsyncExitStack() as stack:
        people = []
        for who in range(2):
            token = rigs[0].token(call, who)
            session = await stack.enter_async_context(found.connect(token=token, insecure=True, **where))
            people.append((session, await session.join()))
        for _, talk in people:
            await talk.accept()
        for _, talk in people:
            await talk.peer_accepted()
        await until(lambda: all(talk.state is CallState.OPEN for _, talk in people), WAIT_S)
        ports = [session.rung.port for session, _ in people if session.rung is not None]
        await people[0][1].hangup()
    return ports


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.timeout(180)
async def test_two_people_meet_at_the_node_that_the_list_has_for_their_call(rigs: tuple[Rig, Rig]) -> None:
    a, b = rigs
    ports = {"a": port_of(a.url), "b": port_of(b.url)}
    found = live(node("a", url=a.url), node("b", url=b.url))
    drawn = [os.urandom(16) for _ in range(64)]
    by_home: Mapping[str, bytes] = {found.order(CallId(call), region="near")[0].id: call for call in drawn}
    assert set(by_home) == {"a", "b"}
    for home, call in by_home.items():
        assert await meet(rigs, found, call, region="near") == [ports[home]] * 2
    assert await meet(rigs, found, os.urandom(16), node="b") == [ports["b"]] * 2


@pytest.mark.timeout(180)
async def test_a_node_that_is_gone_is_passed_over_by_both_for_the_same_one(rigs: tuple[Rig, Rig]) -> None:
    gone = f"quic://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    found = live(node("a", url=gone), node("b", url=rigs[1].url))
    assert await meet(rigs, found, os.urandom(16), node="a") == [port_of(rigs[1].url)] * 2


@pytest.mark.timeout(180)
async def test_a_list_is_fetched_from_a_node_and_the_nearest_region_that_answers_is_taken(
    rigs: tuple[Rig, Rig], tmp_path: Path
) -> None:
    a, b = rigs
    found = NodeBook([public_of(SEED)], CLUSTER)
    url = f"http://127.0.0.1:{a.metrics_port}"
    with pytest.raises(NodesError) as error:
        await found.fetch(url)
    assert error.value.reason is NoNode.NO_ANSWER
    assert "503" in str(error.value)
    gone = f"quic://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    raw = seal(listed(node("z", "gone", gone), node("b", "far", b.url), issued=time.time()), SEED)
    replace(OsFiles(), str(tmp_path / "nodes"), raw)
    await until(lambda: a.metric("relay_nodes_revision") == 1, WAIT_S)
    assert await found.fetch(url)
    assert not await found.fetch(f"{url}/v1/nodes")
    assert set(await found.measure(try_s=5.0)) == {"far"}
    assert await meet(rigs, found, os.urandom(16)) == [port_of(b.url)] * 2
    with pytest.raises(NodesError):
        await found.fetch(f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}")


@pytest.mark.timeout(180)
async def test_who_is_refused_is_refused_and_not_sent_on(rigs: tuple[Rig, Rig]) -> None:
    found = live(node("a", url=rigs[0].url), node("b", url=rigs[1].url))
    token = rigs[0].token(os.urandom(16), 0, at=time.time() - 900)
    with pytest.raises((RefusedError, SessionError)) as error:
        async with found.connect(token=token, region="near", insecure=True):
            pytest.fail("let in")
    assert error.value.code == ErrorCode.TOKEN_EXPIRED
    with pytest.raises(NodesError) as none:
        async with live(node("a", url="https://a.example/vrl/1")).connect(token=token, node="a"):
            pytest.fail("let in")
    assert none.value.reason is NoNode.NONE_FITS
