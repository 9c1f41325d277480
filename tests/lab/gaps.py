"""Silence in somebody's ear: the arrivals of audio around a change, and the longest interval between two.

Must never live here: changes, bars.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise


def longest_gap(arrivals: Sequence[float], begin: float, end: float) -> float:
    """The longest interval between two arrivals that touches begin..end, seconds.

    `arrivals` ascend. An interval that begins before the change counts whole: that is what the ear hears.
    Where nothing more arrives the silence lasts until `end`; where nothing ever did, all of begin..end.
    """
    first = max(0, bisect_left(arrivals, begin) - 1)
    last = bisect_right(arrivals, end)
    around = [*arrivals[first : last + 1]]
    if not around or around[0] > begin:
        around.insert(0, begin)
    if around[-1] < end:
        around.append(end)
    return max(later - earlier for earlier, later in pairwise(around))
