"""MOVED in answer to `hello` or `join`: where we go, where that ends, and real daemons that say it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from client.hearing import until
from client.rig import Rig, daemon, free_port, public_of
from client.test_nodes import SEED, listed, node
from relay.client import RefusedError, SessionError, ToneSource, connect
from relay.client.leg import RelayLeg
from relay.client.redirect import MAX_HOPS, Redirects
from relay.client.rungs import Destination
from relay.errors import ErrorCode
from relay.protocol.messages import Join, Message
from relay.region.nodelist import seal

pytestmark = pytest.mark.timeout(120)  # a busy machine is waited for
FIRST = Destination("quic", "a.example", 443)


def moved(*to: object, **data: object) -> RefusedError:
    return RefusedError(ErrorCode.MOVED, "", data={"node": "b", "to": list(to)} | data)


# ---------------------------------------------------------------- which are gone to


def test_addresses_are_gone_to_as_they_are_named_but_for_those_we_cannot_use() -> None:
    said = moved(
        "https://b.example/vrl/1", "quic://b.example", 7, "wss://b.example/vrl/1", "quic://a.example:443"
    )
    there = Destination("quic", "b.example", 443)
    assert Redirects(tcp=True).follow(said, FIRST) == (there, Destination("ws", "b.example", 443))
    assert Redirects(tcp=False).follow(said, FIRST) == (there,)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (moved(), "does not know where"),
        (RefusedError(ErrorCode.MOVED, ""), "does not know where"),
        (moved(to="quic://b.example"), "does not know where"),
        (moved("https://b.example/vrl/1"), "no address that this client speaks"),
        (moved("wss://b.example/vrl/1", "tls://b.example:443"), "`net` 2"),
        (moved("quic://a.example:443"), "circle"),
    ],
)
def test_where_there_is_nowhere_to_go_it_is_said_what_to_do(said: RefusedError, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        Redirects(tcp=False).follow(said, FIRST)
    assert (caught.value.code, caught.value.data) == (ErrorCode.MOVED, said.data)
    assert "example" not in str(caught.value)  # no address in what may be logged


def test_we_are_sent_on_a_few_times_and_no_further() -> None:
    way, at = Redirects(tcp=True), FIRST
    for hop in range(MAX_HOPS):
        (at,) = way.follow(moved(f"quic://b{hop}.example"), at)
    with pytest.raises(RefusedError, match="more than 3 times"):
        way.follow(moved("quic://c.example"), at)
    with pytest.raises(RefusedError, match="more than 3 times"):
        way.again(moved("quic://c.example"))


def test_a_node_that_was_only_known_is_gone_to_and_one_that_was_asked_is_not() -> None:
    way = Redirects(tcp=True)
    known, home = (Destination("quic", f"{name}.example", 443) for name in "bc")
    assert way.follow(moved("quic://b.example", "quic://c.example"), FIRST) == (known, home)
    assert way.follow(moved("quic://b.example", "quic://c.example"), home) == (known,)  # c answered first
    with pytest.raises(RefusedError, match="circle"):
        way.follow(moved("quic://a.example", "quic://c.example"), known)


# ---------------------------------------------------------------- with daemons


def start(
    stack: ExitStack, tmp_path: Path, ids: str, knows: Mapping[str, Mapping[str, str]]
) -> dict[str, Rig]:
    """Nodes of one cluster; each of `knows` has a list of its own: by id whose address it names."""
    ports = {id: free_port(socket.SOCK_DGRAM) for id in ids}
    found: dict[str, Rig] = {}
    for id, port in ports.items():
        folder = tmp_path / id
        folder.mkdir()
        more = ""
        if id in knows:
            rows = [node(name, url=f"quic://127.0.0.1:{ports[at]}") for name, at in knows[id].items()]
            (folder / "nodes").write_bytes(seal(listed(*rows, issued=time.time()), SEED))
            more = f'[nodes]\nfile = "{folder}/nodes"\nkeys = ["{public_of(SEED).hex()}"]\n'
        beside = next(iter(found.values()), None)
        found[id] = stack.enter_context(daemon(folder, id=id, port=port, more=more, beside=beside))
    return found


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, Rig]]:
    """`a` knows where `b` is; of `c` each of the two says that it is the other one."""
    with ExitStack() as stack:
        yield start(stack, tmp_path, "ab", {"a": {"b": "b", "c": "b"}, "b": {"c": "a"}})


def port_of(rig: Rig) -> int:
    return int(rig.url.rpartition(":")[2])


async def knows(rig: Rig, home: str) -> None:
    """Wait until the node tells where that one is: it looks at its list once a second."""
    while True:
        try:
            async with connect(rig.url, token=rig.token(os.urandom(16), 9, home=home), insecure=True):
                return
        except RefusedError as error:
            if error.data.get("to"):
                return
        await asyncio.sleep(0.1)


async def test_who_comes_to_another_node_than_the_calls_home_is_sent_there_and_talks(
    nodes: dict[str, Rig],
) -> None:
    a, b = nodes.values()
    await knows(a, "b")
    call, seed = os.urandom(16), os.urandom(32)
    trust: dict[str, Any] = {"insecure": True, "direct": False}
    sent = connect(a.url, token=a.token(call, 0, public_of(seed), home="b"), pop_seed=seed, **trust)
    straight = connect(b.url, token=a.token(call, 1, home="b"), **trust)
    async with sent as one, straight as two:
        assert one.rung is not None
        assert (one.rung.port, one.moves, one.error) == (port_of(b), 0, None)
        assert one.welcome is not None
        assert one.welcome.node == "b"
        calls = [await one.join(), await two.join()]
        for each in calls:
            await each.accept()
        for each in calls:
            await each.peer_accepted()
        await calls[0].speak(ToneSource(440, 0.5))
        await until(lambda: calls[1].stats().received > 10, 20)
        await one.rejoin()  # the way back leads there, too
        assert one.rung.port == port_of(b)
        await calls[0].hangup()
    assert (a.metric("relay_call_setups_total"), a.metric("relay_imbalance")) == (0, 0)


async def test_who_is_sent_trusts_the_next_node_no_less_carefully(nodes: dict[str, Rig]) -> None:
    a, b = nodes.values()
    await knows(a, "b")
    admitted = b.metric("relay_legs_admitted_total")
    assert admitted > 0  # who asked for the way
    token = a.token(os.urandom(16), 0, home="b")
    with pytest.raises(SessionError, match="`ca`"):
        async with connect(a.url, token=token, ca=a.ca, server_name="localhost"):
            pytest.fail("another certificate than the pinned one")
    assert b.metric("relay_legs_admitted_total") == admitted
    async with connect(
        b.url, token=token, insecure=True
    ) as session:  # nor was the token shown to it, or spent
        await session.join()


async def test_nodes_that_send_to_each_other_are_left_at_once(nodes: dict[str, Rig]) -> None:
    a, b = nodes.values()
    await knows(a, "c")
    await knows(b, "c")
    with pytest.raises(RefusedError, match="circle") as caught:
        async with connect(a.url, token=a.token(os.urandom(16), 0, home="c"), insecure=True):
            pytest.fail("let in")
    assert (caught.value.code, caught.value.data["node"]) == (ErrorCode.MOVED, "c")


async def test_a_node_that_does_not_know_the_home_says_who_it_is(nodes: dict[str, Rig]) -> None:
    a, b = nodes.values()
    with pytest.raises(RefusedError, match="NodeBook") as caught:
        async with connect(b.url, token=a.token(os.urandom(16), 0, home="z"), insecure=True):
            pytest.fail("let in")
    assert (caught.value.code, caught.value.data["node"]) == (ErrorCode.MOVED, "z")


async def test_a_guest_may_say_so_at_the_join_only(
    nodes: dict[str, Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nodes.values()
    honest = RelayLeg.request

    async def request(leg: RelayLeg, message: Message) -> Message:
        if isinstance(message, Join) and leg.to.port == port_of(a):
            raise moved(b.url)  # as a guest does whom its home told so
        return await honest(leg, message)

    monkeypatch.setattr(RelayLeg, "request", request)
    async with connect(a.url, token=a.token(os.urandom(16), 0), insecure=True) as session:
        assert session.rung is not None
        assert session.rung.port == port_of(a)
        call = await session.join()
        assert session.rung.port == port_of(b)
        assert session.error is None
        await call.hangup()


async def test_where_the_answer_was_lost_and_the_end_came_the_node_is_asked_again(
    nodes: dict[str, Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nodes.values()
    await knows(a, "b")
    honest, lost = RelayLeg.hello, []

    async def hello(leg: RelayLeg, *more: Any, **named: Any) -> None:
        try:
            await honest(leg, *more, **named)
        except RefusedError as error:
            if lost:
                raise
            lost.append(leg.to.port)
            raise SessionError(error.code, "") from None  # the network dropped the packet with the answer

    monkeypatch.setattr(RelayLeg, "hello", hello)
    async with connect(a.url, token=a.token(os.urandom(16), 0, home="b"), insecure=True) as session:
        assert session.rung is not None
        assert (lost, session.rung.port) == ([port_of(a)], port_of(b))
        await session.join()
