"""Faults that an operator makes: bad certificates and configurations, at a reload and at a start.

Each is a function of a scene: inject, look, heal. Must never live here: the kernel's part (faultkernel.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from lab.faultcall import try_call
from lab.faultnode import Node
from lab.faultscene import Scene, complaints
from quicpair import certificate
from relay.config import Config, TlsConfig, render

REFUSED: Final = "reload refused: "
WAIT_S: Final = 10.0


def refused(change: Callable[[Scene], str]) -> Callable[[Scene], Awaitable[None]]:
    """A reload of that configuration is refused, the old one stays; then a good reload is taken."""

    async def act(scene: Scene) -> None:
        node = scene.node
        since = node.lines
        text = change(scene)
        node.file.write_text(text)
        status, said = await asyncio.to_thread(node.check_config)
        scene.notes["check-config"] = {"exit": status, "lines": said}
        node.reload(signal.SIGHUP)
        was_told = await scene.until(lambda: any(_refusals(node, since)), WAIT_S)
        scene.expect("refused at the reload", int(was_told), "==", 1)
        scene.notes["line"] = next(iter(_refusals(node, since)), "")
        scene.expect("its line names a cure", int(scene.notes["line"].endswith(")")), "==", 1)
        await scene.expect_call("a new call meanwhile, by the old certificate", ca=node.rig.ca)
        await scene.hold(2.0, quick=0.5)
        node.write(node.config)
        node.reload(signal.SIGHUP)
        taken = await scene.until(lambda: any(_of(node, since, "reloaded")), WAIT_S)
        scene.expect("a good reload is taken afterwards", int(taken), "==", 1)

    return act


def _of(node: Node, since: int, start: str) -> list[str]:
    said = [str(line.get("message", "")) for line in node.said(since)]
    return [text for text in said if text.startswith(start)]


def _refusals(node: Node, since: int) -> list[str]:
    return _of(node, since, REFUSED)


def _with(config: Config, certificate: str, key: str) -> str:
    return render(dataclasses.replace(config, tls=TlsConfig(certificate, key)))


def wrong_key(scene: Scene) -> str:
    """A key that belongs to another certificate."""
    config = scene.node.config
    _, key = certificate(scene.node.folder, "other")
    return _with(config, config.tls.certificate, key)


def expired(scene: Scene) -> str:
    """A certificate that ended two days ago."""
    return _with(scene.node.config, *certificate(scene.node.folder, "old", -2.0))


def no_certificate(scene: Scene) -> str:
    """A file that holds none."""
    path = scene.node.folder / "none.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    return _with(scene.node.config, str(path), scene.node.config.tls.key)


def misspelt(scene: Scene) -> str:
    """A section that nobody knows."""
    return render(scene.node.config).replace("[limits]", "[limit]")


def torn(scene: Scene) -> str:
    """Half of the file: whoever wrote it was stopped."""
    text = render(scene.node.config)
    return text[: text.index('\nudp = ["') + 12]


async def expired_at_start(scene: Scene) -> None:
    """Another daemon is started with a certificate that has ended: it serves, says so, and is not ready."""
    folder = scene.node.folder / f"started-{scene.node.lines}"
    with await asyncio.to_thread(lambda: Node.make(folder, lane=scene.node.config.lane, days=-2.0)) as late:
        found, names = await asyncio.to_thread(_wait_answer, late)
        said = complaints(late.said())
        scene.notes["line"] = said[:1]
        scene.expect("lines of the one with an ended certificate", len(said), "==", 1)
        scene.expect("its line names the setting", sum("tls.certificate" in text for text in said), "==", 1)
        scene.expect("it is not ready", found, "==", 503)
        scene.expect("its finding", names.count("certificate"), "==", 1)
        became = await try_call(late.rig, ca=late.rig.ca)
        scene.notes["who verifies"] = became
        scene.expect("who does not verify is served", int(await try_call(late.rig) == ""), "==", 1)


def _wait_answer(node: Node) -> tuple[int, list[str]]:
    for _ in range(200):
        status, names = node.findings()
        if status:
            return status, names
    return 0, []
