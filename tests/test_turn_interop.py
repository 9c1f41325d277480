"""TURN as other programs speak it: coturn, pion, aioice and aiortc, through `relay serve` on loopback.

coturn's uclient draws channel numbers from all that RFC 5766 had, 4000-7FFF; RFC 8656 left 4000-4FFF, and the
rest is refused (400). So it is run until it draws such numbers, two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aioice as ice
import pytest
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)

from lanes import LANES
from load.daemon import TURN_SECRET, Daemon
from relay.config import LimitsConfig
from relay.config_turn import RelayAddress, TurnConfig
from relay.core.credentials import mint

RELAYED, PEER = "127.0.0.3", "127.0.0.2"
COUNT = 20
PION = Path(__file__).parent / "pion"
DRAWS = 400  # of 20 ms, (15/16) ** 400 of all runs fail by chance: 6 in 10^12
TURN = TurnConfig(
    enabled=True,
    policy="open",
    addresses=(RelayAddress(bind=RELAYED),),
    secret_file="written by the daemon's folder",
    tcp=("127.0.0.1:0",),
    tls=("127.0.0.1:0",),
    credential_s=86_400,
    allocations_per_user=8,
    unproven_per_source_per_s=1000,  # all clients here are one source
    lab_allow_private_peers=True,
)
TRANSPORTS: dict[str, list[str]] = {"udp": [], "tcp": ["-t"], "tls": ["-t", "-S"], "web": ["-t", "-S"]}
TLS = ("tls", "web")  # the second on the port of WebSocket

needs_coturn = pytest.mark.skipif(
    shutil.which("turnutils_uclient") is None, reason="no turnutils_uclient here (Debian: coturn)"
)


@pytest.fixture(scope="module", params=LANES)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    limits = LimitsConfig(tcp_handshakes_per_s=10_000)  # draws are many
    with Daemon.start(limits, lane=request.param, turn=TURN, web=("127.0.0.1:0",)) as started:
        yield started
        assert started.complaints() == []


@pytest.fixture(scope="module")
def peer() -> Iterator[int]:
    """The port of coturn's own echo."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((PEER, 0))
        port = int(probe.getsockname()[1])
    echo = subprocess.Popen(
        ["turnutils_peer", "-L", PEER, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _hear(port)
        yield port
    finally:
        echo.terminate()
        echo.wait()


def _hear(port: int) -> None:
    """Wait until that echo answers: what comes before it listens is lost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((PEER, port))
        asking.settimeout(1)
        for _ in range(200):
            with contextlib.suppress(OSError):
                asking.send(b"there?")
                asking.recv(100)
                return
            time.sleep(0.05)
    pytest.fail("coturn's echo does not answer")


def port_of(daemon: Daemon, transport: str) -> int:
    return dict(zip(TRANSPORTS, (daemon.server[1], *daemon.turn_ports, *daemon.web_ports), strict=True))[
        transport
    ]


def uclient(daemon: Daemon, transport: str, user: str, *flags: str) -> str:
    """What coturn's client prints."""
    name, password = mint(user, int(time.time()) + 3600, TURN_SECRET.encode())
    command = ["turnutils_uclient", "-v", "-X", "-c", "-n", str(COUNT), "-z", "5", *TRANSPORTS[transport]]
    command += ["-p", str(port_of(daemon, transport)), "-u", name, "-w", password, *flags, "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    return done.stdout + done.stderr


def until_it_draws_a_channel(daemon: Daemon, transport: str, user: str, *flags: str) -> str:
    """The same, for as long as its channel numbers are none."""
    said = ""
    for draw in range(DRAWS):
        said = uclient(daemon, transport, f"{user}-{draw}", *flags)
        if "channel bind: error 400" not in said:
            break
    return said


MODES: dict[str, tuple[Callable[..., str], list[str], int]] = {
    "indications": (uclient, ["-s", "-e", PEER, "-r", "{port}"], COUNT),
    "channels": (until_it_draws_a_channel, ["-e", PEER, "-r", "{port}"], COUNT),
    "each other": (uclient, ["-s", "-y", "-m", "2"], 2 * COUNT),
}
RUNS = [(mode, transport) for mode in MODES for transport in TRANSPORTS]


@pytest.fixture(scope="module")
def said(daemon: Daemon, peer: int) -> dict[tuple[str, str], str]:
    """What uclient prints in each mode and over each transport, all of them at once: they mostly wait."""

    def one(run: tuple[str, str]) -> str:
        mode, transport = run
        ask, flags, _ = MODES[mode]
        user = f"{mode.partition(' ')[0]}-{transport}"
        return ask(daemon, transport, user, *(flag.format(port=peer) for flag in flags))

    with ThreadPoolExecutor(len(RUNS)) as pool:
        return dict(zip(RUNS, pool.map(one, RUNS), strict=True))


@needs_coturn
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("mode", MODES)
def test_all_that_uclient_sends_comes_back(
    said: dict[tuple[str, str], str], mode: str, transport: str
) -> None:
    count = MODES[mode][2]
    heard = said[mode, transport]
    assert re.search(rf"tot_send_msgs={count}, tot_recv_msgs={count}\b", heard), heard[-2000:]


@needs_coturn
def test_the_stun_client_of_coturn_gets_no_answer_while_strangers_get_none(daemon: Daemon) -> None:
    command = ["turnutils_stunclient", "-p", str(daemon.server[1]), "127.0.0.1"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=0.5, check=False)


@pytest.fixture(scope="session")
def pion() -> Path:
    """A client of pion's, built with the modules that go.sum names."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no go here, which builds pion's client")
    if subprocess.run([go, "mod", "download"], cwd=PION, capture_output=True, check=False).returncode:
        pytest.skip("pion's modules cannot be had here")
    program = Path(__file__).parents[1] / ".cache" / "pion"
    program.parent.mkdir(exist_ok=True)
    subprocess.run([go, "build", "-o", str(program), "."], cwd=PION, check=True)
    return program


@pytest.mark.timeout(300)  # the first time it is built
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_all_that_pions_client_sends_comes_back(
    daemon: Daemon, echo: tuple[str, int], pion: Path, transport: str
) -> None:
    name, password = mint(f"pion-{transport}", int(time.time()) + 3600, TURN_SECRET.encode())
    host = "localhost" if transport in TLS else "127.0.0.1"
    command = [
        str(pion),
        "tls" if transport in TLS else transport,
        f"{host}:{port_of(daemon, transport)}",
        f"{echo[0]}:{echo[1]}",
        name,
        password,
    ]
    command += [str(COUNT), str(daemon.folder / "cert.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout == f"{COUNT} came back\n", done.stderr[-2000:]


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A peer of ours that answers with what it heard."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((PEER, 0))

        def answer() -> None:
            while (heard := sock.recvfrom(2048))[0]:
                sock.sendto(*heard)

        thread = threading.Thread(target=answer)
        thread.start()
        yield sock.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", sock.getsockname())
        thread.join()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_two_ice_agents_that_may_only_relay_hear_each_other(
    daemon: Daemon, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(daemon.folder / "cert.pem"))
    agents = []
    for name, controlling in (("one", True), ("two", False)):
        user, password = mint(f"{name}-{transport}", int(time.time()) + 3600, TURN_SECRET.encode())
        agents.append(
            ice.Connection(
                ice_controlling=controlling,
                components=1,
                turn_server=("localhost" if transport in TLS else "127.0.0.1", port_of(daemon, transport)),
                turn_username=user,
                turn_password=password,
                turn_transport="udp" if transport == "udp" else "tcp",
                turn_ssl=transport in TLS,
                transport_policy=ice.TransportPolicy.RELAY,
            )
        )
    one, two = agents
    try:
        await asyncio.gather(one.gather_candidates(), two.gather_candidates())
        assert {each.type for each in one.local_candidates} == {"relay"}
        for mine, theirs in ((one, two), (two, one)):
            for candidate in theirs.local_candidates:
                await mine.add_remote_candidate(candidate)
            await mine.add_remote_candidate(None)
            mine.remote_username, mine.remote_password = theirs.local_username, theirs.local_password
        await asyncio.wait_for(asyncio.gather(one.connect(), two.connect()), 20)
        for number in range(COUNT):
            await one.send(b"ping %d" % number)
            assert await asyncio.wait_for(two.recv(), 5) == b"ping %d" % number
            await two.send(b"pong %d" % number)
            assert await asyncio.wait_for(one.recv(), 5) == b"pong %d" % number
    finally:
        await asyncio.gather(one.close(), two.close())


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_two_webrtc_peers_told_of_relayed_candidates_only_hear_each_other(
    daemon: Daemon, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(daemon.folder / "cert.pem"))
    one, two = (webrtc_peer(daemon, transport, name) for name in ("one", "two"))
    heard: asyncio.Queue[str] = asyncio.Queue()
    channel = one.createDataChannel("talk")
    channel.on("open", lambda: channel.send("hello"))
    channel.on("message", heard.put_nowait)

    def answer(theirs: RTCDataChannel) -> None:
        theirs.on("message", lambda text: theirs.send(f"{text} yourself"))

    two.on("datachannel", answer)
    try:
        await one.setLocalDescription(await one.createOffer())
        await two.setRemoteDescription(relayed_only(one.localDescription))
        await two.setLocalDescription(await two.createAnswer())
        await one.setRemoteDescription(relayed_only(two.localDescription))
        assert await asyncio.wait_for(heard.get(), 20) == "hello yourself"
    finally:
        await asyncio.gather(one.close(), two.close())


def webrtc_peer(daemon: Daemon, transport: str, name: str) -> RTCPeerConnection:
    user, password = mint(f"webrtc-{name}-{transport}", int(time.time()) + 3600, TURN_SECRET.encode())
    host, scheme = ("localhost", "turns") if transport in TLS else ("127.0.0.1", "turn")
    carrier = "udp" if transport == "udp" else "tcp"
    url = f"{scheme}:{host}:{port_of(daemon, transport)}?transport={carrier}"
    return RTCPeerConnection(RTCConfiguration([RTCIceServer(url, user, password)]))


def relayed_only(description: RTCSessionDescription) -> RTCSessionDescription:
    """Without candidates of other kinds: aiortc has no policy of its own for that."""
    lines = description.sdp.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("a=candidate:") or " typ relay" in line]
    assert len(kept) < len(lines)
    assert any(" typ relay" in line for line in kept)
    return RTCSessionDescription("".join(kept), description.type)
