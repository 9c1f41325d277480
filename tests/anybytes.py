"""Hypothesis strategies for what a decoder may be fed: pure noise, and goldens with a few bytes wrong.

Noise alone seldom passes a first check; a damaged golden reaches the ones behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, goldens: Sequence[bytes]) -> bytes:
    """One of `goldens`, then up to four bytes changed, cut out or put in, then perhaps cut short."""
    data = bytearray(draw(st.sampled_from(goldens)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("change", "remove", "insert"))):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "remove":
                del data[at : at + 1]
            case _:
                data[at:at] = draw(st.binary(min_size=1, max_size=3))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def anything(goldens: Sequence[bytes] = (b"",), max_size: int = 1200) -> st.SearchStrategy[bytes]:
    """Any bytes at all, half of them near a golden."""
    return st.one_of(st.binary(max_size=max_size), damaged(goldens))
