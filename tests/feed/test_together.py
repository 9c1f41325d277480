"""Rounds that run beside each other: one that fails is heard of, and none goes on behind."""

from __future__ import annotations

import asyncio

import pytest

from relay.feed.together import together


async def test_all_run_until_stopped_and_none_goes_on() -> None:
    stop, left = asyncio.Event(), []

    async def rounds(name: str) -> None:
        try:
            stop.set()
            await asyncio.Event().wait()
        finally:
            left.append(name)

    await together([rounds("one"), rounds("two")], stop)
    assert sorted(left) == ["one", "two"]


async def test_what_one_raises_ends_all_and_is_raised() -> None:
    left = []

    async def fails() -> None:
        raise ValueError("no store")

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.append("ended")

    with pytest.raises(ValueError, match="no store"):
        await together([goes_on(), fails()], asyncio.Event())
    assert left == ["ended"]
