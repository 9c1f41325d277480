"""`relay serve` as a process: start, calls by the SDK, commands, reload, records, events, drain, sockets."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client import hearing
from load.daemon import Daemon, imbalance, total
from relay import client
from relay.client.rungs import parse_url
from relay.ops.commands import send
from relay.protocol import command
from relay.protocol.ids import CallId, Jti

SAMPLE = 320  # samples in 20 ms at 16 kHz


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon.start() as started:
        yield started


async def _open(daemon: Daemon, call: bytes) -> client.Session:
    manager = client.connect(
        f"quic://{daemon.server[0]}:{daemon.server[1]}",
        token=daemon.token(call),
        ca=str(daemon.folder / "cert.pem"),
        server_name="localhost",
    )
    session = await manager.__aenter__()
    setattr(session, "leave", lambda: manager.__aexit__(None, None, None))  # noqa: B010 - tests close by hand
    return session


async def _talk(daemon: Daemon, call: bytes, seconds: float) -> tuple[client.Call, client.Call]:
    sessions = [await _open(daemon, call) for _ in range(2)]
    calls = [await session.join() for session in sessions]
    for one in calls:
        await one.keys_agreed()
        await one.accept()
    for one in calls:
        await one.peer_accepted()
    await asyncio.gather(*(one.speak(client.ToneSource(440, seconds)) for one in calls))
    return calls[0], calls[1]


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for another process, bounded."""
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.02)
    pytest.fail(f"not within 20 s: {what}")


def daemon_lane(daemon: Daemon) -> str:
    return str(next(line["lane"] for line in daemon.log() if line.get("message") == "serving"))


def has_logged(daemon: Daemon, message: str) -> bool:
    return any(line.get("message") == message for line in daemon.log())


async def test_a_call_leaves_a_record_events_and_balanced_counters(daemon: Daemon) -> None:
    call = secrets.token_bytes(16)
    ann, _ = await _talk(daemon, call, 0.5)
    await asyncio.sleep(0.1)
    await ann.hangup()
    metrics = await asyncio.to_thread(daemon.metrics)
    assert total(metrics, "relay_media_received_total") == 50
    assert metrics['relay_calls_ended_total{reason="completed",transport="quic",variant="control"}'] == 1
    assert metrics['relay_call_setups_total{result="ok",transport="quic",variant="control"}'] == 1
    assert metrics['relay_first_audio_seconds_count{direction="caller",variant="control"}'] == 1
    assert total(metrics, "relay_residence_seconds_count") == 50
    assert metrics['relay_health_state{state="unknown",variant="control"}'] == 1
    assert metrics['relay_call_seconds_total{variant="control"}'] > 0.4
    assert imbalance(metrics) == 0

    def recorded() -> bool:
        with sqlite3.connect(daemon.folder / "records.sqlite") as database:
            return database.execute("SELECT call, outcome FROM calls").fetchall() == [
                (call.hex(), "completed")
            ]

    await asyncio.to_thread(until, recorded, "a record")
    events = daemon.folder / "events.jsonl"
    await asyncio.to_thread(until, lambda: "call.ended" in events.read_text(), "the end among the events")
    kinds = [json.loads(line)["kind"] for line in events.read_text().splitlines()]
    assert kinds[0] == "call.ringing"
    assert "call.answered" in kinds
    assert daemon.complaints() == []


async def test_a_call_has_one_reference_in_record_events_log_client_and_explain(daemon: Daemon) -> None:
    call = secrets.token_bytes(16)
    ann, _ = await _talk(daemon, call, 0.3)
    await ann.hangup()
    await asyncio.to_thread(until, lambda: has_logged(daemon, "call ended"), "a line of its end")
    (line,) = [one for one in daemon.log() if one.get("message") == "call ended"]
    assert line["call"] == ann.reference == call.hex()[:12]
    assert (line["outcome"], line["people"], line["transports"]) == ("completed", 2, ["quic"])
    records = daemon.folder / "records.sqlite"
    words = ["explain", ann.reference, "--file", str(records), "--json"]

    def explained() -> dict[str, Any]:
        run = subprocess.run(
            [sys.executable, "-m", "relay", *words], capture_output=True, text=True, check=False
        )
        return dict(json.loads(run.stdout))

    await asyncio.to_thread(until, lambda: explained()["ok"], "a record")
    (told,) = (await asyncio.to_thread(explained))["calls"]
    assert told["call"] == call.hex()
    kinds = [kind for _, kind, _ in told["participants"][0]["story"]]
    assert kinds[:3] == ["leg", "accepted", "heard"]
    events = (daemon.folder / "events.jsonl").read_text().splitlines()
    assert all(json.loads(each)["data"]["call"].startswith(ann.reference) for each in events)
    written = [json.dumps(one) for one in daemon.log() if one.get("message") != "serving"]
    assert not any(call.hex() in each or "127.0.0.1" in each for each in written)


async def test_a_signed_command_ends_a_call_within_100_ms(daemon: Daemon) -> None:
    took = []
    for _ in range(3):
        call = secrets.token_bytes(16)
        ann, _ = await _talk(daemon, call, 0.1)
        now = int(time.time())
        order = command.Command(
            op="end", cid=CallId(call), id=Jti(secrets.token_bytes(16)), iat=now, exp=now + 60
        )
        raw = command.mint(order, daemon.seed)
        begun = time.monotonic()
        answer = await asyncio.to_thread(send, str(daemon.folder / "commands.sock"), raw)
        await ann.ended()
        took.append(time.monotonic() - begun)
        assert answer["ok"]
        again = await asyncio.to_thread(send, str(daemon.folder / "commands.sock"), raw)
        assert not again["ok"]
    assert min(took) < 0.1  # a daemon is slow each time, a machine with other work now and then


async def test_a_reload_takes_what_may_change_and_running_calls_go_on(daemon: Daemon) -> None:
    ann, ben = await _talk(daemon, secrets.token_bytes(16), 0.1)
    path = daemon.folder / "relay.toml"
    text = path.read_text()
    path.write_text(text.replace("ring_s = 45.0", "ring_s = 30.0"))
    os.kill(daemon.pid, signal.SIGHUP)
    await asyncio.to_thread(
        until, lambda: any(x["message"] == "reloaded" for x in daemon.log()), "the reload"
    )
    before = ben.stats().received
    await ann.speak(client.ToneSource(440, 0.2))
    await hearing.until(lambda: ben.stats().received >= before + 10)
    assert ben.stats().received == before + 10


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("ring_s = 45.0", 'ring_s = "soon"', "limits.ring_s"),
        ("ring_s = 45.0", "rings = 45.0", "limits.rings"),
        ("queue_frames = 5", "queue_frames = 6", "limits.queue_frames"),
        ("cert.pem", "none.pem", "tls"),
    ],
)
def test_a_bad_reload_keeps_the_old_configuration_and_names_the_key(
    daemon: Daemon, old: str, new: str, key: str
) -> None:
    path = daemon.folder / "relay.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.kill(daemon.pid, signal.SIGHUP)

    def refused() -> bool:
        return any("reload refused" in x["message"] and key in x["message"] for x in daemon.complaints())

    until(refused, "the refusal")
    path.write_text(text)
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: has_logged(daemon, "reloaded"), "the good reload")


def test_a_terminated_daemon_drains_and_exits_with_0(daemon: Daemon) -> None:
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[limits]", "[limit]", "limit"),
        ("cluster.key", "none.key", "cluster.key_file"),
        ("key.pem", "none.pem", "tls"),
        ("127.0.0.1:0", "192.0.2.1:9", "listen.udp"),
    ],
)
def test_a_daemon_that_cannot_start_says_why_in_one_line_and_exits_with_2(
    daemon: Daemon, old: str, new: str, key: str
) -> None:
    path = daemon.folder / "bad.toml"
    path.write_text((daemon.folder / "relay.toml").read_text().replace(old, new))
    ended = subprocess.run(
        [sys.executable, "-m", "relay", "serve", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 2
    assert key in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_sockets_handed_over_by_the_service_manager_are_served(daemon: Daemon) -> None:
    public = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    web = socket.socket()
    metrics = socket.socket()
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with public, web, metrics, notified:
        public.bind(("127.0.0.1", 0))
        web.bind(("127.0.0.1", 0))
        web.listen()
        metrics.bind(("127.0.0.1", 0))
        metrics.listen()
        note = str(daemon.folder / "notify")
        notified.bind(note)
        notified.settimeout(15)
        config = daemon.folder / "handed.toml"
        config.write_text(
            (daemon.folder / "relay.toml")
            .read_text()
            .replace("commands.sock", "handed.sock")
            .replace("records.sqlite", "handed.sqlite")
            .replace("events.", "handed-events.")
        )
        script = (
            "import fcntl,os,sys;os.environ['LISTEN_PID']=str(os.getpid());"
            "found=[fcntl.fcntl(int(each),fcntl.F_DUPFD,30) for each in sys.argv[2:]];"
            "[os.dup2(each,3+place) for place,each in enumerate(found)];"
            "os.execv(sys.executable,[sys.executable,'-m','relay','serve','--config',sys.argv[1]])"
        )
        handed = [sock.fileno() for sock in (public, web, metrics)]
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(config), *map(str, handed)],
            pass_fds=handed,
            env={
                **os.environ,
                "LISTEN_FDS": "3",
                "LISTEN_FDNAMES": "public:public:metrics",
                "NOTIFY_SOCKET": note,
            },
            stderr=subprocess.DEVNULL,
        )
        try:
            while not notified.recv(200).startswith(b"READY=1"):
                pass
            with socket.create_connection(metrics.getsockname(), timeout=5) as asked:
                asked.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                assert b"200 OK" in asked.recv(200)
            context = ssl.create_default_context(cafile=str(daemon.folder / "cert.pem"))
            with (
                socket.create_connection(web.getsockname(), timeout=5) as asked,
                context.wrap_socket(asked, server_hostname="localhost") as inside,
            ):
                inside.sendall(b"GET /vrl/2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert inside.recv(200).startswith(b"HTTP/1.1 404 ")
        finally:
            for _ in range(2):
                process.terminate()
            assert process.wait(15) == 0


def test_the_manager_hears_of_life_reloads_and_refusals(daemon: Daemon) -> None:
    note = str(daemon.folder / "notify")
    config = daemon.folder / "watched.toml"
    config.write_text(
        (daemon.folder / "relay.toml")
        .read_text()
        .replace("commands.sock", "watched.sock")
        .replace("records.sqlite", "watched.sqlite")
        .replace("events.", "watched-events.")
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(note)
        notified.settimeout(15)

        def heard(wanted: str) -> str:
            """The next note that begins like this; those before are passed over."""
            while not (told := notified.recv(1000).decode()).startswith(wanted):
                pass
            return told

        process = subprocess.Popen(
            [sys.executable, "-m", "relay", "serve", "--config", str(config)],
            env={**os.environ, "NOTIFY_SOCKET": note, "WATCHDOG_USEC": "20000000"},
            stderr=subprocess.DEVNULL,
        )
        try:
            heard("READY=1")
            assert heard("STATUS=") == f"STATUS=running; 0 calls, 0 legs; packet path {daemon_lane(daemon)}"
            heard("FDSTORE=1\nFDNAME=kept-udp-0")
            heard("WATCHDOG=1")
            heard("WATCHDOG=1")
            text = config.read_text()
            config.write_text(text.replace("ring_s = 45.0", "rings = 45.0"))
            before = time.monotonic_ns() // 1000
            process.send_signal(signal.SIGHUP)
            at = int(heard("RELOADING=1\nMONOTONIC_USEC=").rpartition("=")[2])
            assert before <= at <= time.monotonic_ns() // 1000
            heard("READY=1")
            assert "; last reload refused: limits.rings: unknown key" in heard("STATUS=")
            config.write_text(text)
            process.send_signal(signal.SIGHUP)
            heard("RELOADING=1")
            heard("READY=1")
            assert "refused" not in heard("STATUS=")
        finally:
            for _ in range(2):
                process.terminate()
            heard("STOPPING=1")
            assert process.wait(15) == 0


def test_the_demo_finds_speech_or_says_what_is_missing(tmp_path: Path) -> None:
    from relay.demo import DemoError, find_speech

    with pytest.raises(DemoError, match="scripts/speech"):
        find_speech(tmp_path)


@pytest.mark.parametrize("transport", ["quic", "ws", "tls"])
def test_the_two_of_the_demo_connect_by_the_transport_that_was_asked_for(
    tmp_path: Path, transport: str
) -> None:
    from relay.demo.stage import Stage

    stage = Stage(tmp_path, udp_port=1, web_port=2)
    assert parse_url(stage.url(transport)).transport == transport
