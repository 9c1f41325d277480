"""The settings of qlogs: which calls are traced, and how much of it is kept.

Must never live here: rules that span several keys (relay/config_rules.py), behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta


@dataclass(frozen=True, slots=True)
class QlogConfig:
    """What the QUIC stack does in flagged calls (`relay qlog`): without keys, tokens, ids, addresses."""

    path: str = "/var/lib/relay/qlog"
    """Folder of the files, one for each leg of a flagged call. "": no call can be flagged."""
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of calls that are flagged from their begin, 0 to 1; the same ones on all nodes. 0: only those
    that `relay qlog` names. A call that is not flagged costs nothing."""
    calls: Annotated[int, Meta(ge=1, le=256)] = 8
    """Calls that are flagged at once. One more is refused, or, of the share, left out. Each leg of one costs
    some 30 us of the event loop a second, and holds 1024 events at most while the disk does not answer."""
    seconds: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    """A call is traced for so long, seconds."""
    file_bytes: Annotated[int, Meta(ge=65_536, le=1_073_741_824)] = 4_194_304
    """A file ends at this size, bytes; the rest of its leg is not traced. Ten minutes take some
    0.5 MB."""
    folder_bytes: Annotated[int, Meta(ge=65_536, le=1_099_511_627_776)] = 268_435_456
    """All files together, bytes: the oldest are erased when a new one begins, and each hour."""
    days: Annotated[float, Meta(gt=0, le=3_650)] = 7.0
    """Older files are erased then, days."""
