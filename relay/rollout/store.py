"""What a store of state is: keys in buckets, written by compare-and-set, with history and watch.

    put(expect=r) -> r'      only if r is still the newest revision of the key; 0: the key is not there
    watch()                  what stands, oldest revision first, then every change; outlives outages
    age()                    how long ago the store was last seen to be there, so how old what we know may be

Two back ends hold to it, by one suite of tests: store_sqlite.py on one machine, store_nats.py for many. Who
wrote and why stands with each value. Must never live here: a back end, what a value means.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from relay.errors import RelayError

MOST_VALUE: Final = 512 * 1024
"""Bytes of a value; with its envelope it fits into a message of NATS, 1 MiB."""
MOST_WORDS: Final = 400
"""Characters of `who` and of `why`."""
_KEY: Final = re.compile(r"[-/_=a-zA-Z0-9](?:[-/_=.a-zA-Z0-9]{0,198}[-/_=a-zA-Z0-9])?")


@dataclass(frozen=True, slots=True)
class Bucket:
    """How long a bucket keeps what is put there."""

    history: int
    """Newest revisions of a key that are kept; at most 64 (NATS)."""
    ttl_s: float | None = None
    """A value that was put longer ago is not there any more, seconds. None: it stays."""
    is_local: bool = False
    """Each edge writes its own; else the hub's is the only one that is written."""
    most: int | None = None
    """Keys that it holds at most; a new one above that is refused. None: no bound."""


BUCKETS: Final[Mapping[str, Bucket]] = MappingProxyType(
    {
        "rollout": Bucket(history=64),  # the signed state, steps, kill
        "routes": Bucket(history=64),  # region -> relays, weights, drain
        "health": Bucket(history=1, ttl_s=90.0, is_local=True),  # score, state, stress, version of a region
        "commands": Bucket(history=1, ttl_s=360.0, most=4_096),  # signed orders to all nodes
        "answers": Bucket(history=1, ttl_s=60.0, is_local=True),  # what came of them
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One revision of a key."""

    bucket: str
    key: str
    value: bytes
    revision: int
    """Greater than that of any older entry of the bucket."""
    ts: float
    """When it was put, by the writer's wall clock, seconds."""
    who: str
    why: str


class StoreError(RelayError):
    """The store did not do it."""


class ConflictError(StoreError):
    """Somebody wrote meanwhile: `actual` is the newest revision, 0 if the key is not there. Read it again."""

    def __init__(self, bucket: str, key: str, expected: int, actual: int) -> None:
        super().__init__(
            f"{bucket}/{key}: revision {actual} is the newest, not {expected} (read it again, then repeat)"
        )
        self.expected = expected
        self.actual = actual


class UnreachableError(StoreError):
    """The store, or who may write it, cannot be reached. `is_written` None: nobody knows whether it was."""

    def __init__(self, problem: str, *, is_written: bool | None = False) -> None:
        cure = "nothing was written" if is_written is False else "read the key again before you repeat it"
        super().__init__(f"{problem} ({cure})")
        self.is_written = is_written


class StateStore(Protocol):
    """Methods raise UnreachableError when the store is not there, and StoreError for what no store takes.

    `watch` waits instead until the store is back.
    """

    async def get(self, bucket: str, key: str) -> Entry | None:
        """The newest revision. None: the key is not there, or its time is over."""
        ...

    async def put(self, bucket: str, key: str, value: bytes, *, expect: int, who: str, why: str) -> int:
        """Write, if `expect` is the newest revision of the key (0: it is not there). Its own revision."""
        ...

    def watch(self, bucket: str, prefix: str = "") -> AsyncIterator[Entry]:
        """The newest revision of each key that begins so, then each change. It may leave out revisions that
        were followed by newer ones of the same key, and may repeat the newest after an outage."""
        ...

    async def history(self, bucket: str, key: str, limit: int = 64) -> list[Entry]:
        """The newest `limit` revisions that are kept, oldest first."""
        ...

    async def keys(self, bucket: str) -> list[str]:
        """Keys that are there, sorted."""
        ...

    def age(self) -> float:
        """Seconds since the store was last seen to be there; of a mirror: since it last heard of its origin.
        Infinity: never."""
        ...

    async def close(self) -> None:
        """Let go of it. Watches end."""
        ...


def known(bucket: str) -> Bucket:
    """The bucket's rules. StoreError: there is none of that name."""
    found = BUCKETS.get(bucket)
    if found is None:
        raise StoreError(f"bucket {bucket!r}: there is none (known: {', '.join(BUCKETS)})")
    return found


def check_key(key: str) -> None:
    """StoreError unless all back ends can hold it: 1 to 200 of a-z A-Z 0-9 - / _ = and dots inside."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise StoreError(f"key {key[:40]!r}: not 1 to 200 of a-z A-Z 0-9 - / _ = . (a dot only inside)")


def check_put(bucket: str, key: str, value: bytes, expect: int, who: str, why: str) -> None:
    """StoreError for what no back end takes."""
    known(bucket)
    check_key(key)
    if len(value) > MOST_VALUE:
        raise StoreError(f"{bucket}/{key}: a value of {len(value)} bytes (at most {MOST_VALUE})")
    if expect < 0:
        raise StoreError(f"{bucket}/{key}: expects revision {expect} (0: the key is not there)")
    for name, text in (("who", who), ("why", why)):
        if not text.strip() or len(text) > MOST_WORDS or not text.isprintable():
            raise StoreError(f"{name}: not one printable line of 1 to {MOST_WORDS} characters")
