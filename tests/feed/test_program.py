"""`relay feed` as a process, between the daemon's own writer of events and real HTTP endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from feed.program import KINDS, SECRET, Feed
from feed.receiver import WAIT_S, Letter, Receiver
from quicpair import certificate
from relay.cli import DONE, main
from relay.core.events import CallEvent
from relay.feed.signing import format_secret


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[Feed]:
    one = Feed(tmp_path)
    try:
        yield one
    finally:
        if one.process is not None:
            await one.end(signal.SIGKILL)
        if one.writer is not None:
            await asyncio.to_thread(one.writer.close)


@contextlib.asynccontextmanager
async def receiving(answer: Any = lambda letter, times: 200, **more: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver(SECRET, answer)
    await receiver.start(**more)
    try:
        yield receiver
    finally:
        await receiver.stop()


def calls(letters: list[Letter]) -> list[str]:
    return [letter.event["data"]["call"] for letter in letters]


async def until(holds: Callable[[], bool]) -> None:
    """For what tells nobody when it changes: a file, a counter."""
    for _ in range(int(WAIT_S / 0.05)):
        with contextlib.suppress(OSError):  # it does not answer yet
            if await asyncio.to_thread(holds):
                return
        await asyncio.sleep(0.05)
    pytest.fail(f"not within {WAIT_S:g} s")


async def test_events_arrive_signed_in_order_and_once_though_some_need_a_second_try(feed: Feed) -> None:
    async with receiving(
        lambda letter, times: 500 if times == 1 and letter.event["seq"] % 5 == 0 else 204
    ) as there:
        feed.configure({"url": there.url})
        await feed.start()
        told = feed.tell(20)
        await there.until(lambda: len(there.taken) == 20)
        assert calls(there.taken) == told
        assert len(there.got) == 24
        assert there.forged == 0
        for letter in there.got:
            assert letter.id == letter.event["id"]
            assert sum(each.body == letter.body for each in there.got) == 1 + (letter.event["seq"] % 5 == 0)
        assert await asyncio.to_thread(feed.daemon().flush)
        await until(lambda: feed.metric("relay_feed_delivered_total") == 20)
        assert feed.metric("relay_feed_failed_total") == 4
        assert feed.metric("relay_feed_waiting") == 0
        assert feed.metric("relay_feed_events_total") == 20
        assert feed.metric("relay_feed_daemons") == 1
        assert await feed.end() == 0
        assert "a letter" not in feed.log()


async def test_an_endpoint_that_hangs_holds_up_no_other_and_gets_all_in_the_end(feed: Feed) -> None:
    released = asyncio.Event()

    async def hang(letter: Letter, times: int) -> int:
        await released.wait()
        return 200

    async with receiving(hang) as slow, receiving() as fast:
        feed.configure({"url": slow.url, "timeout_s": 0.5}, {"url": fast.url})
        await feed.start()
        told = feed.tell(9)
        await fast.until(lambda: len(fast.taken) == 9)
        await slow.until(lambda: len(slow.got) >= 2)  # the time is over, and it was tried again
        assert slow.taken == []
        released.set()
        await slow.until(lambda: len(set(slow.ids)) == 9)
        assert list(dict.fromkeys(calls(slow.taken))) == told == calls(fast.taken)
        assert [row["last_error"] for row in (await feed.run("status"))["endpoints"]] == [
            "timeout: no answer in 0.5 s", ""
        ]  # fmt: skip


async def test_an_endpoint_that_dies_gets_everything_when_it_comes_back(feed: Feed) -> None:
    async with receiving() as there:
        feed.configure({"url": there.url}, retry_most_s=0.5)
        await feed.start()
        told = feed.tell(3)
        await there.until(lambda: len(there.taken) == 3)
        await there.stop()
        told += feed.tell(5, first=3)
        await until(lambda: feed.metric("relay_feed_failed_total") >= 2)
        assert feed.metric("relay_feed_waiting") == 5
        assert feed.metric("relay_feed_oldest_seconds") > 0
        await there.start()
        await there.until(lambda: len(there.taken) == 8)
        assert calls(there.taken) == told


async def test_a_long_outage_is_a_line_for_its_begin_its_dead_letters_and_its_end(feed: Feed) -> None:
    async with receiving() as there:
        feed.configure({"url": there.url}, retry_most_s=0.1, attempts=2)
        await there.stop()
        await feed.start()
        told = feed.tell(5)
        await until(lambda: feed.metric("relay_feed_dead_total") == 5)
        await until(lambda: "given up" in feed.log())
        assert feed.metric("relay_feed_failed_total") == 10
        assert [each["why"] for each in (await feed.run("list"))["letters"]] == ["attempts"] * 5
        await there.start()
        assert (await feed.run("replay", "--all"))["replayed"] == 5
        await there.until(lambda: len(there.taken) == 5)
        assert calls(there.taken) == told
        await until(lambda: "takes letters again" in feed.log())
        lines = [json.loads(line) for line in feed.log().splitlines()]
        said = [
            line["message"].split(",")[0].split(" (")[0] for line in lines if line.get("endpoint") == "e0"
        ]
        assert sorted(said) == [
            "an endpoint does not take letters",
            "an endpoint takes letters again",
            "letters were given up and are dead letters now",
        ]
        assert "unreachable: Connection refused" in feed.log()
        assert str(there.port) not in feed.log()


async def test_410_closes_an_endpoint_until_it_is_asked_again(feed: Feed) -> None:
    gone = True
    async with receiving(lambda letter, times: 410 if gone else 200) as there:
        feed.configure({"url": there.url})
        await feed.start()
        told = feed.tell(1)
        await there.until(lambda: len(there.got) == 1)
        await until(lambda: feed.metric("relay_feed_closed") == 1)
        told += feed.tell(2, first=1)
        await until(lambda: feed.metric("relay_feed_dead_total") == 3)
        assert len(there.got) == 1
        assert "the endpoint answered 410" in feed.log()
        letters = (await feed.run("list"))["letters"]
        assert [(each["why"], each["kinds"]) for each in letters] == [("gone", kind) for kind in KINDS]
        await feed.end()
        await feed.start()  # it is remembered
        await until(lambda: feed.log().count("the endpoint answered 410") == 2)
        gone = False
        assert (await feed.run("replay", "--endpoint", "e0"))["replayed"] == 3
        await there.until(lambda: len(there.taken) == 3)
        assert calls(there.taken) == told
        assert there.ids == [each["id"] for each in letters]


async def test_429_is_left_alone_for_as_long_as_it_asks(feed: Feed) -> None:
    async with receiving(
        lambda letter, times: web.Response(status=429, headers={"Retry-After": "2"}) if times == 1 else 200
    ) as there:
        feed.configure({"url": there.url})
        await feed.start()
        feed.tell(1)
        await there.until(lambda: len(there.taken) == 1)
        first, second = there.got
        assert 1.9 < second.at - first.at < 10
        assert second.timestamp > first.timestamp  # each try has its own time, and a signature for it


async def test_what_is_refused_is_a_dead_letter_at_once_that_can_be_replayed_or_dropped(feed: Feed) -> None:
    wrong = True
    async with receiving(lambda letter, times: 404 if wrong and letter.event["seq"] < 3 else 200) as there:
        feed.configure({"url": there.url})
        await feed.start()
        told = feed.tell(3)
        await there.until(lambda: len(there.taken) == 1)
        assert calls(there.got) == told
        letters = (await feed.run("list"))["letters"]
        assert [(each["why"], each["attempts"]) for each in letters] == [("refused", 1)] * 2
        assert (await feed.run("drop", "--id", letters[0]["id"]))["dropped"] == 1
        wrong = False
        assert (await feed.run("replay", "--all"))["replayed"] == 1
        await there.until(lambda: len(there.taken) == 2)
        assert there.ids[1] == letters[1]["id"] == there.got[1].id
        assert (await feed.run("list"))["letters"] == []
        assert feed.log().count("letters were given up") == 1  # the next line not before ten minutes


async def test_a_redirect_is_not_followed(feed: Feed) -> None:
    async with receiving() as elsewhere:
        moved = web.Response  # made anew each time: a response is sent once

        async with receiving(
            lambda letter, times: moved(status=307, headers={"Location": elsewhere.url}) if times < 3 else 200
        ) as there:
            feed.configure({"url": there.url})
            await feed.start()
            feed.tell(1)
            await there.until(lambda: len(there.taken) == 1)
            assert len(there.got) == 3
            assert elsewhere.got == []
            assert elsewhere.forged == 0


async def test_a_feed_that_is_killed_in_mid_delivery_loses_nothing_and_repeats_the_same_id(
    feed: Feed,
) -> None:
    held = asyncio.Event()

    async def hold(letter: Letter, times: int) -> int:
        if letter.event["seq"] == 4 and not held.is_set():
            held.set()
            await asyncio.Event().wait()
        return 200

    async with receiving(hold) as there:
        feed.configure({"url": there.url})
        await feed.start()
        told = feed.tell(6)
        await asyncio.wait_for(held.wait(), WAIT_S)
        assert await feed.end(signal.SIGKILL) == -signal.SIGKILL
        told += feed.tell(4, first=6)  # the daemon keeps them meanwhile
        await feed.start()
        await there.until(lambda: len(there.taken) == 10)
        assert calls(there.taken) == told
        [first, second] = [letter for letter in there.got if letter.event["seq"] == 4]
        assert (first.id, first.body) == (second.id, second.body)
        assert len({letter.id for letter in there.got}) == 10
        assert await asyncio.to_thread(feed.daemon().flush)


async def test_sigterm_lets_the_letter_under_way_arrive_and_says_so_to_the_manager(
    feed: Feed, tmp_path: Path
) -> None:
    began, released = asyncio.Event(), asyncio.Event()

    async def slow(letter: Letter, times: int) -> int:
        began.set()
        await released.wait()
        return 200

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        async with receiving(slow) as there:
            feed.configure({"url": there.url})
            await feed.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000")
            heard = await asyncio.to_thread(manager.recv, 4096)
            while heard.startswith(b"WATCHDOG"):
                heard = await asyncio.to_thread(manager.recv, 4096)
            assert heard == b"READY=1\nSTATUS=delivers to 1 endpoints"
            assert await asyncio.to_thread(manager.recv, 4096) == b"WATCHDOG=1"
            assert await asyncio.to_thread(manager.recv, 4096) == b"WATCHDOG=1"
            feed.tell(2)
            await began.wait()
            assert feed.process is not None
            feed.process.send_signal(signal.SIGTERM)
            while heard != b"STOPPING=1":
                heard = await asyncio.to_thread(manager.recv, 4096)
            released.set()
            assert await asyncio.wait_for(feed.process.wait(), WAIT_S) == 0
            assert len(there.taken) == 1
            [row] = (await feed.run("status"))["endpoints"]
            assert row["waiting"] == 1  # the second: nothing new was begun, and nothing settled comes again


async def test_batches_filters_and_two_secrets(feed: Feed) -> None:
    (feed.folder / "old").write_text(format_secret(b"\1" * 32))
    async with receiving() as listed, receiving() as some:
        feed.configure(
            {"url": listed.url, "batch": 50, "previous_secret_file": str(feed.folder / "old")},
            {"url": some.url, "events": ["call.ended"]},
        )
        told = feed.tell(60)  # before it runs: they come together
        await feed.start()
        await listed.until(lambda: sum(len(json.loads(letter.body)) for letter in listed.taken) == 60)
        together = [event for letter in listed.taken for event in json.loads(letter.body)]
        assert [event["data"]["call"] for event in together] == told
        assert max(len(json.loads(letter.body)) for letter in listed.taken) == 50
        assert all(letter.signatures == 2 for letter in listed.taken)
        await some.until(lambda: len(some.taken) == 20)
        assert calls(some.taken) == told[2::3]


async def test_https_needs_a_certificate_that_somebody_trusted_signed(feed: Feed) -> None:
    chain, key = certificate(feed.folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    async with receiving(tls=context) as there:
        feed.configure({"url": f"https://localhost:{there.port}/hook"})
        await feed.start(SSL_CERT_FILE=os.devnull)
        feed.tell(1)
        await until(lambda: "unreachable" in feed.log())
        assert "certificate" in feed.log()
        assert str(there.port) not in feed.log()
        await feed.end()
        await feed.start(SSL_CERT_FILE=str(chain))
        await there.until(lambda: len(there.taken) == 1)


async def test_each_issuers_endpoint_gets_the_events_of_its_calls_alone(feed: Feed) -> None:
    async with receiving() as shop, receiving() as club, receiving() as operator:
        feed.configure(
            {"url": shop.url, "issuers": ["shop"]},
            {"url": club.url, "issuers": ["club"]},
            {"url": operator.url},
        )
        keys = {"shop": "ab" * 32, "club": "cd" * 32}
        rows = (f'[[tokens.issuers]]\nname = "{name}"\npublic_key = "{key}"\n' for name, key in keys.items())
        feed.config.write_text(feed.config.read_text() + "".join(rows))
        await feed.start()
        issuers = ("shop", "club", "", "shop", "club", "club")
        for number, issuer in enumerate(issuers):
            event = CallEvent("call.ended", 1000.0, {"call": f"{number:032x}"}, issuer=issuer)
            feed.daemon().event(event)
        await operator.until(lambda: len(operator.taken) == len(issuers))
        await shop.until(lambda: len(shop.taken) == 2)
        await club.until(lambda: len(club.taken) == 3)
        assert calls(shop.taken) == [f"{number:032x}" for number in (0, 3)]
        assert calls(club.taken) == [f"{number:032x}" for number in (1, 4, 5)]


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="no systemd here")
async def test_a_socket_that_systemd_hands_over_is_used_and_stays(feed: Feed) -> None:
    path = feed.folder / "events.sock"
    async with receiving() as there:
        feed.configure({"url": there.url})
        feed.config.write_text(feed.config.read_text().replace('"socket"', '"file"'))
        command = [
            "systemd-socket-activate",
            f"--listen={path}",
            "--fdname=events",
            sys.executable,
            "-m",
            "relay",
        ]
        await feed.start(*command, "feed", "--config", str(feed.config))
        told = feed.tell(3)
        await there.until(lambda: len(there.taken) == 3)
        assert calls(there.taken) == told
        assert "no daemon hands events over" in feed.log()
        assert await feed.end() == 0
        assert path.is_socket()


@pytest.mark.parametrize(
    ("endpoint", "change", "key"),
    [
        ({}, ("[events]", "[events]\nqueue = 5"), "feed.webhooks[0].url"),
        ({"url": "http://127.0.0.1:9/"}, ('sink = "socket"', 'sink = "file"'), "events.sink"),
        ({"url": "http://127.0.0.1:9/", "secret_file": "/nowhere"}, ("", ""), "feed.webhooks[0].secret_file"),
        ({"url": "http://127.0.0.1:9/", "secret_file": __file__}, ("", ""), "feed.webhooks[0].secret_file"),
        ({"url": "http://127.0.0.1:9/"}, ('feed.sqlite"', 'no/such/folder"'), "feed.store"),
        ({"url": "http://127.0.0.1:9/"}, ('events.sock"', 'no/such/folder"'), "events.path"),
    ],
)  # fmt: skip
def test_a_feed_that_cannot_work_ends_with_the_key_and_the_cure(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    endpoint: dict[str, Any],
    change: tuple[str, str],
    key: str,
) -> None:
    feed = Feed(tmp_path)
    feed.configure(endpoint)
    feed.config.write_text(feed.config.read_text().replace(*change))
    assert main(["feed", "--config", str(feed.config), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["key"] == key


def test_a_feed_without_endpoints_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feed = Feed(tmp_path)
    feed.configure()
    assert main(["feed", "--config", str(feed.config)]) == 2
    assert "feed.webhooks: is empty" in capsys.readouterr().err
    assert main(["check-config", str(feed.config)]) == DONE
