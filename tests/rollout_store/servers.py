"""Real nats-servers on loopback, a hub and a leaf, each with a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from client.rig import free_port
from relay.rollout.store_nats import NatsStore

BESIDE = Path(__file__).parents[2] / ".cache/nats/usr/sbin/nats-server"
"""Where scripts/test puts it."""
PROGRAM = str(BESIDE) if BESIDE.exists() else shutil.which("nats-server", path=f"{os.defpath}:/usr/sbin")
needs_nats = pytest.mark.skipif(
    PROGRAM is None or find_spec("nats") is None,
    reason="no nats-server here, or no nats-py (scripts/test has both)",
)
START_S = 20.0


class Server:
    """One nats-server; `name` is its JetStream domain."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.port, self.leaf_port = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
        self.process: asyncio.subprocess.Process | None = None
        self._remote = ""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def leads_to(self, hub: Server) -> None:
        """This one is a leaf of the hub."""
        self._remote = f'reconnect: 1, remotes: [{{ url: "nats://127.0.0.1:{hub.leaf_port}" }}]'

    async def start(self) -> None:
        """Until it takes connections."""
        assert PROGRAM is not None
        leafnodes = self._remote or f"listen: 127.0.0.1:{self.leaf_port}"
        config = self.folder / "nats.conf"
        config.write_text(
            f"server_name: {self.name}\nlisten: 127.0.0.1:{self.port}\n"
            f'jetstream {{ store_dir: "{self.folder}/store", domain: {self.name}, '
            "max_memory_store: 16M, max_file_store: 64M }\n"
            f"leafnodes {{ {leafnodes} }}\n"
        )
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                PROGRAM, "-c", str(config), stdout=log, stderr=log
            )
        for _ in range(int(START_S / 0.02)):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self.process.returncode is None, (self.folder / "log").read_text()
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
        pytest.fail(f"{self.name} does not listen")

    async def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await asyncio.wait_for(self.process.wait(), START_S)
        self.process = None

    async def store(self, **more: float) -> NatsStore:
        """A store that is connected to this server."""
        found = await NatsStore.connect([self.url], **more)  # type: ignore[arg-type]
        assert found._connecting is not None
        await asyncio.wait_for(asyncio.shield(found._connecting), START_S)
        return found
