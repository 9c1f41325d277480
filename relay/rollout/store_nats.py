"""The store of many nodes: buckets of NATS JetStream, a hub's and a mirror at each leaf (ADR-8).

    hub    streams KV_rollout, KV_routes: the only ones that are written; KV_health sources all leaves'
    leaf   mirrors of the first two, which answer while the hub is away; KV_health is its own

Reads and watches ask the server that we are connected to; a write goes to the hub's JetStream domain through
the leaf's own connection, so without the hub it is refused at once. A watch asks again and again for the
newest number of the stream, and then for the messages: nothing at the server has to outlive an outage.
Values stand in an envelope with who, why and when. Must never live here: what a value means.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from relay.errors import ConfigError
from relay.rollout.store import (
    BUCKETS,
    ConflictError,
    Entry,
    StoreError,
    UnreachableError,
    check_key,
    check_put,
    known,
)

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

log = logging.getLogger(__name__)

POLL_S: Final = 0.25
"""Between two looks of a watch, seconds. A look is one small request to the server beside us."""
ANSWER_S: Final = 2.0
"""An answer that takes longer does not come."""
HUB: Final = "hub"
"""Name of the hub's JetStream domain."""
# Codes of nats-server (server/errors.json).
WRONG_SEQUENCE: Final = (10071, 10164)
NAME_IN_USE: Final = 10058


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    value: bytes
    ts: float
    who: str
    why: str


_DECODER: Final = msgspec.json.Decoder(_Envelope)


class NatsStore:
    """A StateStore on a connection of its own, which comes back by itself. Make it by `connect`."""

    def __init__(
        self, client: Client, wall: Callable[[], float], clock: Callable[[], float], poll_s: float
    ) -> None:
        self._client = client
        self._wall = wall
        self._clock = clock
        self._poll_s = poll_s
        self._seen = float("-inf")
        self._closed = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._complaint = ""

    @classmethod
    async def connect(
        cls,
        servers: Sequence[str],
        *,
        credentials: str = "",
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
    ) -> NatsStore:
        """Begin to connect; returns at once. ConfigError: nats-py is not installed, or an address is none."""
        try:
            import nats.aio.client
        except ImportError:
            cure = "install the extra `fleet`: pip install 'vrelay[fleet]'"
            raise ConfigError("state.backend", "nats-py is not installed", cure) from None
        client = nats.aio.client.Client()
        store = cls(client, wall, clock, poll_s)
        options: dict[str, Any] = {"user_credentials": credentials} if credentials else {}
        store._connecting = asyncio.create_task(store._connect(list(servers), options))
        return store

    async def _connect(self, servers: list[str], options: dict[str, Any]) -> None:
        """Until it is connected once; then the library reconnects."""
        from nats.errors import Error

        while not self._closed.is_set():
            try:
                await self._client.connect(
                    servers,
                    name="relay",
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    connect_timeout=2,
                    reconnect_time_wait=1,
                    max_reconnect_attempts=-1,
                    ping_interval=5,
                    **options,
                )
                return
            except (Error, OSError, TimeoutError) as error:
                self._complain(error)
                await asyncio.sleep(self._poll_s)

    async def _on_error(self, error: Exception) -> None:
        self._complain(error)

    async def _on_disconnect(self) -> None:
        self._complain(UnreachableError("no connection to NATS"))

    def _complain(self, error: Exception) -> None:
        """Once for each thing that is wrong; none of it needs anybody here."""
        told = str(error) or type(error).__name__
        if told != self._complaint and not self._closed.is_set():
            log.warning("the store of state cannot be had, and is waited for: %s", told)
        self._complaint = told

    # ------------------------------------------------------------ the protocol

    async def get(self, bucket: str, key: str) -> Entry | None:
        """As StateStore."""
        known(bucket)
        check_key(key)
        found = await self._message(bucket, {"last_by_subj": _subject(bucket, key)})
        await self._confirm(bucket)
        entry = _entry(found) if found is not None else None
        return entry if entry is not None and self._lives(entry) else None

    async def put(self, bucket: str, key: str, value: bytes, *, expect: int, who: str, why: str) -> int:
        """As StateStore."""
        check_put(bucket, key, value, expect, who, why)
        envelope = msgspec.json.encode(_Envelope(value, self._wall(), who, why))
        revision = await self._publish(bucket, key, envelope, expect)
        if revision is None and expect == 0:
            # What was deleted, or is too old, still stands there with a number of its own.
            found = await self._message(bucket, {"last_by_subj": _subject(bucket, key)})
            standing = _entry(found) if found is not None else None
            if found is not None and (standing is None or not self._lives(standing)):
                revision = await self._publish(bucket, key, envelope, _sequence(found))
        if revision is None:
            newest = await self.get(bucket, key)
            raise ConflictError(bucket, key, expect, newest.revision if newest is not None else 0)
        self._seen = self._clock()
        return revision

    async def watch(self, bucket: str, prefix: str = "") -> AsyncIterator[Entry]:
        """As StateStore."""
        known(bucket)
        last = 0
        while not self._closed.is_set():
            try:
                newest = await self._confirm(bucket)
                if newest < last:  # another stream of that name: its numbers are its own
                    last = 0
                found = await self._changed(bucket, last + 1, prefix) if newest > last else []
            except StoreError as error:
                self._complain(error)
            else:
                self._complaint = ""
                last = newest
                for entry in found:
                    if entry.key.startswith(prefix) and self._lives(entry):
                        yield entry
                        last = max(last, entry.revision)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), self._poll_s)

    async def history(self, bucket: str, key: str, limit: int = 64) -> list[Entry]:
        """As StateStore."""
        known(bucket)
        check_key(key)
        found = await self._scan(bucket, 1, _subject(bucket, key))
        return [entry for entry in found if self._lives(entry)][-limit:]

    async def keys(self, bucket: str) -> list[str]:
        """As StateStore."""
        known(bucket)
        await self._confirm(bucket)
        newest: dict[str, Entry | None] = {}
        async for message in self._messages(bucket, 1, f"$KV.{bucket}.>"):
            newest[_key(message)] = _entry(message)
        return sorted(key for key, entry in newest.items() if entry is not None and self._lives(entry))

    def age(self) -> float:
        """As StateStore."""
        return self._clock() - self._seen

    async def close(self) -> None:
        """As StateStore."""
        self._closed.set()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        await self._client.close()

    # ------------------------------------------------------------ streams

    async def make_hub(self, leaves: Sequence[str] = ()) -> None:
        """Make the buckets, or give them these rules. `leaves`: domains whose health is gathered."""
        for bucket, kept in BUCKETS.items():
            rules = _rules(bucket) | {"subjects": [f"$KV.{bucket}.>"], "max_msgs": kept.most or -1}
            if kept.is_local and leaves:
                rules["sources"] = [_from(bucket, domain) for domain in leaves]
            await self._make(rules)

    async def make_leaf(self, hub: str = HUB) -> None:
        """Make mirrors of the hub's buckets (its JetStream domain), and the buckets of our own."""
        for bucket, kept in BUCKETS.items():
            if kept.is_local:
                await self._make(_rules(bucket) | {"subjects": [f"$KV.{bucket}.>"]})
            else:
                await self._make(_rules(bucket) | {"mirror": _from(bucket, hub), "mirror_direct": True})

    async def _make(self, rules: dict[str, Any]) -> None:
        name = rules["name"]
        answer = await self._ask(f"STREAM.CREATE.{name}", rules)
        if answer.get("error", {}).get("err_code") == NAME_IN_USE:
            answer = await self._ask(f"STREAM.UPDATE.{name}", rules)
        if "error" in answer:
            raise StoreError(f"stream {name}: {answer['error'].get('description', 'refused')}")

    # ------------------------------------------------------------ inside

    async def _request(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> Msg:
        """The answer of JetStream. UnreachableError without one."""
        from nats import errors

        if self._closed.is_set():
            raise UnreachableError("the store was closed")
        if self._connecting is not None and not self._connecting.done():
            await asyncio.wait({self._connecting}, timeout=ANSWER_S)  # it may be on its way
        if not self._client.is_connected:
            raise UnreachableError("no connection to NATS")
        try:
            return await self._client.request(subject, body, timeout=ANSWER_S, headers=headers)
        except errors.NoRespondersError:
            raise UnreachableError("nobody answers for this bucket: no hub, or no such stream") from None
        except errors.Error as error:
            raise UnreachableError(f"NATS: {type(error).__name__}", is_written=None) from None

    async def _ask(self, what: str, body: Any = None) -> dict[str, Any]:
        payload = b"" if body is None else msgspec.json.encode(body)
        found: dict[str, Any] = msgspec.json.decode((await self._request(f"$JS.API.{what}", payload)).data)
        return found

    async def _publish(self, bucket: str, key: str, body: bytes, expect: int) -> int | None:
        """The revision; None when another one is the newest."""
        info = await self._info(bucket)
        # Nobody but the hub stores what is mirrored; `$KV.>` itself does not pass between domains.
        origin = info["config"]["mirror"]["external"]["api"] + "." if "mirror" in info else ""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expect)}
        answer = msgspec.json.decode(
            (await self._request(origin + _subject(bucket, key), body, headers)).data
        )
        error = answer.get("error")
        if error is None:
            return int(answer["seq"])
        if error.get("err_code") in WRONG_SEQUENCE:
            return None
        raise StoreError(f"{bucket}/{key}: {error.get('description', 'refused')}")

    async def _message(self, bucket: str, which: dict[str, Any]) -> Msg | None:
        """One message of the bucket's stream, as the server that we are connected to has it."""
        answer = await self._request(f"$JS.API.DIRECT.GET.KV_{bucket}", msgspec.json.encode(which))
        status = (answer.headers or {}).get("Status")
        if status is not None and status != "404":
            raise StoreError(f"{bucket}: NATS answers {status}")
        return answer if status is None else None

    async def _info(self, bucket: str) -> dict[str, Any]:
        info = await self._ask(f"STREAM.INFO.KV_{bucket}")
        if "error" in info:
            raise UnreachableError(f"bucket {bucket}: {info['error'].get('description', 'refused')}")
        return info

    async def _confirm(self, bucket: str) -> int:
        """Number of the newest message. Notes how long ago the bucket's origin was heard of."""
        info = await self._info(bucket)
        silent_ns = info["mirror"]["active"] if "mirror" in info else 0
        if silent_ns >= 0:  # below: never heard of
            self._seen = max(self._seen, self._clock() - silent_ns / 1e9)
        return int(info["state"]["last_seq"])

    async def _messages(self, bucket: str, first: int, subject: str) -> AsyncIterator[Msg]:
        while (message := await self._message(bucket, {"seq": first, "next_by_subj": subject})) is not None:
            yield message
            first = _sequence(message) + 1

    async def _scan(self, bucket: str, first: int, subject: str) -> list[Entry]:
        found = [_entry(message) async for message in self._messages(bucket, first, subject)]
        return [entry for entry in found if entry is not None]

    async def _changed(self, bucket: str, first: int, prefix: str) -> list[Entry]:
        """The newest revision of each key that has one from this number on, and perhaps begins so.

        A prefix that ends with a dot is told to the server: others' answers are not read for one command.
        """
        subject = _subject(bucket, f"{prefix}>" if prefix.endswith(".") else ">")
        newest = {entry.key: entry for entry in await self._scan(bucket, first, subject)}
        return sorted(newest.values(), key=lambda entry: entry.revision)

    def _lives(self, entry: Entry) -> bool:
        ttl = known(entry.bucket).ttl_s
        return ttl is None or self._wall() - entry.ts < ttl


def _subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def _rules(bucket: str) -> dict[str, Any]:
    """A stream as ADR-8 wants it of a bucket."""
    kept = BUCKETS[bucket]
    return {
        "name": f"KV_{bucket}",
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": 1,
        "max_msgs_per_subject": kept.history,
        "max_age": int((kept.ttl_s or 0) * 1e9),
        "duplicate_window": int(min(kept.ttl_s or 120.0, 120.0) * 1e9),
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }


def _from(bucket: str, domain: str) -> dict[str, Any]:
    """A stream of that name in another JetStream domain."""
    return {"name": f"KV_{bucket}", "external": {"api": f"$JS.{domain}.API", "deliver": ""}}


def _sequence(message: Msg) -> int:
    return int((message.headers or {})["Nats-Sequence"])


def _key(message: Msg) -> str:
    return (message.headers or {})["Nats-Subject"].split(".", 2)[2]


def _entry(message: Msg) -> Entry | None:
    """What a message says; None: that its key was deleted. What others put there has no `who`."""
    headers = message.headers or {}
    if headers.get("KV-Operation") in ("DEL", "PURGE"):
        return None
    bucket = headers["Nats-Subject"].split(".", 2)[1]
    try:
        said = _DECODER.decode(message.data)
    except (msgspec.DecodeError, msgspec.ValidationError):
        ts = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
        said = _Envelope(message.data, ts, "", "")
    return Entry(bucket, _key(message), said.value, _sequence(message), said.ts, said.who, said.why)
