"""A page in Chromium, over WebTransport, in a call with the SDK, behind a NAT that forgets; either lane."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from browser.chromium import BINARY, Page
from browser.rebinder import Rebinder
from client.rig import Rig, daemon
from lanes import LANES
from relay.client import Call, connect
from relay.errors import ErrorCode

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no chromium here (Debian package chromium)"),
    pytest.mark.timeout(120),
]
PACKETS = 200  # of 20 ms each way
REBIND_S = 1.5


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    served = Page()
    yield served
    served.close()


@pytest.fixture(params=LANES)
def rig(request: pytest.FixtureRequest, page: Page, tmp_path: Path) -> Iterator[Rig]:
    with daemon(tmp_path, lane=request.param, origin=page.origin) as running:
        yield running


def fingerprint(path: str) -> str:
    return x509.load_pem_x509_certificate(Path(path).read_bytes()).fingerprint(hashes.SHA256()).hex()


def port_of(rig: Rig) -> int:
    return int(rig.url.rpartition(":")[2])


def facts(rig: Rig, port: int, call: bytes) -> dict[str, Any]:
    return {
        "url": f"https://127.0.0.1:{port}/vrl/1",
        "hash": fingerprint(rig.ca),
        "token": rig.token(call, 2).hex(),
        "call": call.hex(),
        "count": PACKETS,
        "linger": 500,
    }


async def told(page: Page, what: str) -> dict[str, Any]:
    """The next thing that the page tells, which must be this."""
    news = await asyncio.to_thread(page.told.get, timeout=40)
    assert news["what"] == what, news
    return news


async def talk(call: Call) -> float:
    """A sealed message every 20 ms; how late the latest was, ms: this process was not let run."""
    loop = asyncio.get_running_loop()
    start, late = loop.time(), 0.0
    for number in range(PACKETS):
        await asyncio.sleep(start + number * 0.02 - loop.time())
        late = max(late, loop.time() - start - number * 0.02)
        assert call.send_app(b"sdk %d" % number)
    return 1000 * late


async def test_a_page_and_the_sdk_hear_each_other_across_a_port_rebinding(rig: Rig, page: Page) -> None:
    call_id = os.urandom(16)
    nat = Rebinder(("127.0.0.1", port_of(rig)))
    heard: list[bytes] = []
    try:
        async with connect(
            rig.url, token=rig.token(call_id, 1), ca=rig.ca, server_name="localhost"
        ) as session:
            call = await session.join()
            call.on_app = heard.append
            with page.opened(facts(rig, nat.port, call_id)):
                ready = await told(page, "ready")
                assert ready["largest"] >= 1024
                keys = await told(page, "keys")
                assert keys["sas"] == await call.keys_agreed()
                await call.accept()
                await call.peer_accepted()
                await told(page, "open")
                assert rig.metric('relay_transports{transport="wt"}') == 1
                asyncio.get_running_loop().call_later(REBIND_S, nat.rebind)
                late = await talk(call)
                said = await told(page, "talked")
                assert await call.ended() == "completed"
                await told(page, "ended")
            stats = call.stats()
    finally:
        nat.close()
    assert (said["sent"], said["unopened"], stats.unopened) == (PACKETS, 0, 0)
    assert said["moved"] == 1
    # Nothing reaches the page between the NAT's change and its next packet, and those are 20 ms apart.
    assert said["heard"] >= PACKETS - 10
    assert said["newest"] == PACKETS - 1
    assert said["gap"] <= 200 + late, said  # less what the page itself did not run
    assert len(heard) >= PACKETS - 5
    assert heard[-1] == b"page %d" % (PACKETS - 1)
    assert rig.metric("relay_imbalance") == 0


async def test_a_page_of_another_origin_is_refused(page: Page, tmp_path: Path) -> None:
    with daemon(tmp_path) as strict:
        with page.opened(facts(strict, port_of(strict), os.urandom(16))):
            news = [await asyncio.to_thread(page.told.get, timeout=40) for _ in range(2)]
        assert {each["what"] for each in news} == {"failed", "lost"}
        assert strict.metric('relay_http3_answered_total{status="403"}') == 1
        assert strict.metric("relay_legs_opened_total") == 0


async def test_a_page_learns_the_code_with_which_its_session_was_closed(page: Page, tmp_path: Path) -> None:
    with daemon(tmp_path, origin=page.origin) as rig:
        wrong = facts(rig, port_of(rig), os.urandom(16)) | {"token": "00" * 200}
        with page.opened(wrong):
            await told(page, "ready")
            news = await asyncio.to_thread(page.told.get, timeout=40)
            while news["what"] in ("refused", "failed"):  # its streams end with the session, read or not
                news = await asyncio.to_thread(page.told.get, timeout=40)
            assert (news["what"], news["code"]) == ("closed", ErrorCode.TOKEN_INVALID)
