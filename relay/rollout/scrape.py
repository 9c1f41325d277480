"""Asks nodes' metrics endpoints, and a Prometheus, for what a gate wants to know of them.

    http://NODE:PORT/metrics --Prometheus' text--> Reading

What is summed over: transports, devices, reasons. Indicators are kept by class of clients, too. What counts
as a call's first audio late is what the histogram has above 1.5 s. Must never live here: what follows from a
reading (counts.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from relay.errors import ConfigError, RelayError
from relay.rollout.bucket import Variant
from relay.rollout.guardrails import LIMITS
from relay.rollout.readings import (
    BEGAN,
    CALLS,
    FIRST_AUDIO,
    WORST,
    Reading,
    bad,
    figure,
    of_class,
    valid,
)

TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
"""A node that takes longer is not there."""
PAGE: Final = "page"
"""Severity of alerts that wake somebody (config/prometheus/relay.rules.yml)."""
MOST_BYTES: Final = 16 * 1024 * 1024
INVITED: Final = "invited"
"""First step of the funnel, as relay.core.pulse names it."""
LATE_S: Final = 1.5
"""First audio after more than this is late."""
_COUNTED: Final = frozenset(each.name for each in LIMITS) - {FIRST_AUDIO}
_VARIANTS: Final = frozenset(variant.value for variant in Variant)


class _Alert(msgspec.Struct):
    state: str
    labels: dict[str, str]


class _Open(msgspec.Struct):
    alerts: list[_Alert]


class _Alerts(msgspec.Struct):
    data: _Open


class ScrapeError(RelayError):
    """A node did not say what it should."""


def read_metrics(text: str, node: str, at: float) -> Reading:
    """What a page of metrics says. ScrapeError: it is none, or not of a relay that counts by variants."""
    try:
        return _reading(text, node, at)
    except (ValueError, LookupError, OverflowError) as error:
        raise ScrapeError(f"{node}: what it says is no page of metrics: {error}") from None


def _reading(text: str, node: str, at: float) -> Reading:
    counts: dict[str, float] = {}
    health: set[str] = set()
    told: dict[str, float] = {}
    region: str | None = None
    version = ""
    for sample in _samples(text):
        for name, value in _figures(sample):
            counts[name] = counts.get(name, 0.0) + value
        if sample.name == "relay_info":
            region, version = sample.labels["region"], sample.labels["version"]
        elif sample.name == "relay_health_state" and sample.value == 1:
            health.add(sample.labels["state"])
        elif not sample.labels:
            told[sample.name] = sample.value
    # A box counts its own variant alone: which of the two that is, is its configuration.
    if region is None or not any(figure(variant, BEGAN) in counts for variant in Variant):
        raise ScrapeError(f"{node}: no relay that counts calls by variant answers there")
    return Reading(
        node=node,
        at=at,
        started=told["relay_start_time_seconds"],
        region=region,
        counts={name: round(value) for name, value in counts.items()},
        health=next((state for state in WORST if state in health), "unknown"),
        state_age_s=told.get("relay_state_age_seconds"),
        state_rev=round(told["relay_state_revision"]) if "relay_state_revision" in told else None,
        version=version,
    )


def check_url(url: str) -> str:
    """The same, with /metrics if it names no page. ConfigError: it is no address of a web page."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError("--from", f"{url} is no web address", "for example http://127.0.0.1:9464/metrics")
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/metrics"


async def scrape(
    urls: Sequence[str], wall: Callable[[], float] = time.time
) -> tuple[list[Reading], list[str]]:
    """Ask all of them at once: what those said that answered, and why the others did not."""

    async def ask(session: aiohttp.ClientSession, url: str) -> Reading | str:
        try:
            body = await _get(session, url)
            return await asyncio.to_thread(read_metrics, body.decode("utf-8", "replace"), url, wall())
        except ScrapeError as error:
            return str(error)

    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        found = await asyncio.gather(*(ask(session, url) for url in urls))
    readings = [each for each in found if isinstance(each, Reading)]
    return readings, [each for each in found if isinstance(each, str)]


async def open_pages(url: str) -> tuple[str, ...]:
    """Alerts of a Prometheus that page now; that it does not tell is one, too."""
    try:
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            body = await _get(session, f"{url.rstrip('/')}/api/v1/alerts")
        told = msgspec.json.decode(body, type=_Alerts)
    except (ScrapeError, msgspec.DecodeError) as error:
        return (f"nobody knows: {error}",)
    open_ = (each.labels for each in told.data.alerts if each.state == "firing")
    return tuple(sorted({each.get("alertname", "") for each in open_ if each.get("severity") == PAGE}))


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ScrapeError(f"{url}: it answers {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MOST_BYTES:
                    raise ScrapeError(f"{url}: more than {MOST_BYTES} bytes")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ScrapeError(f"{url}: {error or type(error).__name__}") from None
    return bytes(body)


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def _figures(sample: Sample) -> Iterator[tuple[str, float]]:
    """Which figures a sample adds to, and how much."""
    labels, value = sample.labels, sample.value
    if labels.get("variant") not in _VARIANTS:
        return
    variant = Variant(labels["variant"])
    match sample.name:
        case "relay_sli_events_total" if labels["sli"] in _COUNTED:
            yield from _by_class(figure(variant, valid(labels["sli"])), sample)
        case "relay_sli_bad_total" if labels["sli"] in _COUNTED:
            yield from _by_class(figure(variant, bad(labels["sli"])), sample)
        case "relay_calls_ended_total":
            yield figure(variant, CALLS), value
        case "relay_call_funnel_total" if labels["step"] == INVITED:
            yield figure(variant, BEGAN), value
        case "relay_first_audio_seconds_count":
            yield figure(variant, valid(FIRST_AUDIO)), value
            yield figure(variant, bad(FIRST_AUDIO)), value
        case "relay_first_audio_seconds_bucket" if float(labels["le"]) == LATE_S:
            yield figure(variant, bad(FIRST_AUDIO)), -value


def _by_class(name: str, sample: Sample) -> Iterator[tuple[str, float]]:
    """The figure of all, and that of its class; a node of the version before names none."""
    yield name, sample.value
    client = sample.labels.get("sdk", "")
    if client:
        yield of_class(name, client), sample.value
