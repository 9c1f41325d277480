"""Two pages in two Chromiums whose WebRTC may only relay, through our TURN over UDP, TCP and TLS."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from browser.chromium import BINARY, Page
from load.daemon import TURN_SECRET, Daemon
from relay.config_turn import RelayAddress, TurnConfig
from relay.core.credentials import mint

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no chromium here (Debian package chromium)"),
    pytest.mark.timeout(120),
]
COUNT = 50
# Chromium takes no TLS server without a name, nor a certificate that nobody signed; both only in this test.
FLAGS = ("--ignore-certificate-errors", "--disable-features=WebRtcHideLocalIpsWithMdns")
URLS = {
    "udp": "turn:127.0.0.1:{}?transport=udp",
    "tcp": "turn:127.0.0.1:{}?transport=tcp",
    "tls": "turns:localhost:{}?transport=tcp",
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    served = Page()
    yield served
    served.close()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    turn = TurnConfig(
        enabled=True,
        policy="open",
        addresses=(RelayAddress(bind="127.0.0.3"),),
        secret_file="written by the daemon's folder",
        tcp=("127.0.0.1:0",),
        tls=("[::]:0",),  # localhost is ::1 first
        credential_s=86_400,
        allocations_per_user=16,
        lab_allow_private_peers=True,
    )
    with Daemon.start(turn=turn) as started:
        yield started
        assert started.complaints() == []


def facts(daemon: Daemon, transport: str, run: str, offers: bool) -> dict[str, Any]:
    ports = dict(zip(URLS, (daemon.server[1], *daemon.turn_ports), strict=True))
    user, password = mint(f"{run}-{offers}", int(time.time()) + 3600, TURN_SECRET.encode())
    return {
        "name": f"{run}-{offers}",
        "other": f"{run}-{not offers}",
        "offers": offers,
        "server": URLS[transport].format(ports[transport]),
        "user": user,
        "pass": password,
        "count": COUNT,
    }


@pytest.mark.parametrize("transport", URLS)
def test_two_pages_that_may_only_relay_hear_each_other(
    daemon: Daemon, page: Page, transport: str, request: pytest.FixtureRequest
) -> None:
    run = str(abs(hash(request.node.name)))
    with contextlib.ExitStack() as browsers:
        for offers in (True, False):
            browsers.enter_context(page.opened(facts(daemon, transport, run, offers), "ice.html", FLAGS))
        told: dict[str, Any] = {"what": "trouble"}
        troubles = []
        while told["what"] == "trouble":
            told = page.told.get(timeout=40)
            troubles.append(told)
    wanted = {"what": "heard", "heard": COUNT, "local": "relay", "remote": "relay", "protocol": transport}
    assert wanted.items() <= told.items(), troubles
