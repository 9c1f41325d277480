"""One try: a signed POST over HTTP, and what came of it.

Redirects are not followed, and nothing is read of an answer's body. Addresses are not judged: who may write
the configuration may name any machine. Must never live here: when to try, what a failure means.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from relay import __version__
from relay.config_feed import WebhookConfig
from relay.feed.answers import Answer, judge, retry_after
from relay.feed.signing import headers

COMMON: Final = {"Content-Type": "application/json", "User-Agent": f"relay-feed/{__version__}"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try ended."""

    answer: Answer
    told: str
    """For people; no address and no path in it."""
    asked_s: float | None = None
    """Seconds that the endpoint asks to wait."""


class Poster:
    """The connection to one endpoint, kept open between letters."""

    def __init__(self, webhook: WebhookConfig, secrets: Sequence[bytes]) -> None:
        self._webhook = webhook
        self._secrets = secrets
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=ssl.create_default_context()),
            timeout=aiohttp.ClientTimeout(total=webhook.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def post(self, id: str, body: bytes, now: float) -> Outcome:
        """Send it; `now` is Unix time."""
        signed = headers(id, int(now), body, self._secrets)
        request = self._session.post(
            self._webhook.url, data=body, headers={**COMMON, **signed}, allow_redirects=False
        )
        try:
            async with request as response:
                asked = retry_after(response.headers.get("Retry-After", ""), now)
                answer = judge(response.status)
                return Outcome(answer, f"{answer.value}: HTTP {response.status}", asked)
        except TimeoutError:
            return Outcome(Answer.TIMEOUT, f"timeout: no answer in {self._webhook.timeout_s:g} s")
        except (
            aiohttp.ClientError,
            OSError,
            ValueError,
        ) as error:  # ValueError: what no HTTP client can read
            return Outcome(Answer.UNREACHABLE, f"unreachable: {_word(error)}")

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()
        await asyncio.sleep(0)  # the transport closes on the loop's next turn


def _word(error: Exception) -> str:
    """What is wrong, without the address."""
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"certificate: {inner.verify_message}"
    if isinstance(inner, socket.gaierror) and inner.strerror:
        return inner.strerror
    if isinstance(inner, OSError) and inner.errno and not isinstance(inner, ssl.SSLError):
        return os.strerror(inner.errno)  # asyncio writes the address into its own text
    return type(error).__name__
