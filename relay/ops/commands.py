"""The Unix socket that takes signed commands: one line of base64 in, one line of JSON out.

    echo $(relay command end --call ... --print) | socat - UNIX:/run/relay/commands.sock
    echo '{"qlog": "101112131415", "on": true}' | socat - UNIX:/run/relay/commands.sock

Mode 0600 keeps other users out; the signature, checked by the engine, says who may. A wish for a qlog, one
line of JSON, needs none: it touches no call, and who may open the socket may read the file as well.
Must never live here: what a command means.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from relay.errors import ConfigError, ErrorCode, LocalError

MAX_LINE: Final = 2048  # a command has at most 1024 bytes, 1368 characters of base64
MAX_CONNECTIONS: Final = 32
IDLE: Final = 30.0  # seconds a connection may be silent
ANSWER: Final = 5.0  # seconds to wait for the engine, which answers at once

Done = Callable[[ErrorCode, str], None]
Submit = Callable[[bytes, Done], None]
"""Give a raw command to the engine; `Done` is called with its outcome."""
Answer = tuple[ErrorCode, str, Mapping[str, Any]]
"""Code, text for people, and what else stands in the line."""


class QlogWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trace a call that runs, or no longer."""

    qlog: str
    """The first digits of its id."""
    on: bool = True


_WISH: Final = msgspec.json.Decoder(QlogWish)


class CommandServer:
    """One listener; commands of one connection are answered in order."""

    def __init__(self, submit: Submit, trace: Callable[[QlogWish], Answer]) -> None:
        self.taken = 0
        """Lines answered since the start."""
        self._submit = submit
        self._trace = trace
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._path = ""

    async def start(self, where: str | socket.socket) -> None:
        """Listen on a path, or on an inherited socket. ConfigError when the path cannot be had."""
        sock = where if isinstance(where, socket.socket) else bind(where)
        self._path = where if isinstance(where, str) else ""
        sock.setblocking(False)
        self._server = await asyncio.start_unix_server(self._accept, sock=sock, limit=MAX_LINE)

    async def close(self) -> None:
        """Stop listening, drop connections, remove the path."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        await asyncio.sleep(0)  # connections that were just accepted begin, and end themselves
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._server is None or len(self._tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the other side went away, was silent for too long, or we are closing
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    line = await reader.readline()
            except ValueError:  # longer than the stream's limit
                await self._say(writer, ErrorCode.TOO_LARGE, "a command is one line of base64", {})
                return
            if not line:
                return
            await self._say(writer, *await self._one(line))

    async def _one(self, line: bytes) -> Answer:
        self.taken += 1
        if line.startswith(b"{"):  # never base64
            try:
                return self._trace(_WISH.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                return ErrorCode.BAD_ENCODING, f"not a wish for a qlog: {error}", {}
        try:
            raw = base64.b64decode(line.strip(), validate=True)
        except ValueError:
            return ErrorCode.BAD_ENCODING, "not base64", {}
        answer: asyncio.Future[tuple[ErrorCode, str]] = asyncio.get_running_loop().create_future()

        def done(code: ErrorCode, text: str) -> None:
            if not answer.done():
                answer.set_result((code, text))

        self._submit(raw, done)
        try:
            async with asyncio.timeout(ANSWER):
                return *await answer, {}
        except TimeoutError:
            return ErrorCode.INTERNAL, "no answer", {}

    @staticmethod
    async def _say(writer: asyncio.StreamWriter, code: ErrorCode, text: str, more: Mapping[str, Any]) -> None:
        answer = {
            "ok": code is ErrorCode.NO_ERROR,
            "code": int(code),
            "name": code.name,
            "message": text,
            **more,
        }
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()


def bind(path: str) -> socket.socket:
    """A listening socket at `path`, mode 0600 from its first moment. A dead one of before is replaced."""
    key = "listen.command_socket"
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            if _is_alive(path):
                raise ConfigError(key, f"{path} is in use", "stop the other daemon or name another path")
            os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(path)
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        why = error.strerror or str(error)
        raise ConfigError(
            key, f"cannot listen on {path}: {why}", "name a path in a writable folder"
        ) from None
    finally:
        os.umask(before)
    return sock


def _is_alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def send(path: str, raw: bytes, timeout: float = 10.0) -> dict[str, object]:
    """Hand one command to a daemon and wait for its answer. OSError when there is none to hand it to."""
    return _ask(path, base64.b64encode(raw), timeout)


def wish(path: str, what: QlogWish, timeout: float = 10.0) -> dict[str, object]:
    """The same for a wish."""
    return _ask(path, msgspec.json.encode(what), timeout)


def _ask(path: str, line: bytes, timeout: float) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        sock.sendall(line + b"\n")
        with sock.makefile("rb") as answers:
            line = answers.readline(65_536)
    if not line:
        raise ConnectionResetError("the daemon closed the socket without an answer")
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise LocalError("the daemon's answer is no object")
    return answer
