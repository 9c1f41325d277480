"""The golden vectors: bytes that every implementation of `vrl/1`, in any language, must agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"


def load(name: str) -> dict[str, Any]:
    """Return the vectors of `tests/vectors/NAME.json`."""
    with (VECTORS / f"{name}.json").open(encoding="utf-8") as file:
        vectors: dict[str, Any] = json.load(file)
    assert vectors["source"]
    return vectors
