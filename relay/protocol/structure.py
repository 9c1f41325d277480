"""The shape of msgpack that arrives from outside, checked before any value is built.

A general decoder accepts nesting without end, the same key twice (and two decoders then disagree about which
one counts), and extension types. Tokens and control messages allow none of that, so the bytes are walked once
without building anything; only then does the typed decoder see them.

Must never live here: what the keys mean.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from relay.errors import ErrorCode, PeerError

T = TypeVar("T")

MAX_DEPTH: Final = 8  # containers inside each other, the outermost included
MAX_KEYS: Final = 256  # of one map: a receiver report of a full group has more than that in all its maps

_REFUSED: Final = 0
_LENGTH: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bin and str, by width of length
_COUNT: Final = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}  # array and map, by width of count


def _fixed_sizes() -> tuple[int, ...]:
    """Size in bytes of every value whose first byte alone tells it; `_REFUSED` for the others."""
    sizes = [_REFUSED] * 256
    for first in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        sizes[first] = 1
    for first in range(0xA0, 0xC0):
        sizes[first] = 1 + (first & 0x1F)
    for first, size in {0xCC: 2, 0xD0: 2, 0xCD: 3, 0xD1: 3, 0xCA: 5, 0xCE: 5, 0xD2: 5}.items():
        sizes[first] = size
    for first in (0xCB, 0xCF, 0xD3):
        sizes[first] = 9
    return tuple(sizes)


_FIXED: Final = _fixed_sizes()


def _bad(why: str) -> PeerError:
    return PeerError(ErrorCode.BAD_ENCODING, f"msgpack: {why}")


def check(data: bytes, *, max_depth: int = MAX_DEPTH, max_keys: int = MAX_KEYS) -> None:
    """Accept exactly one msgpack value without extension types, in which no map repeats a key.

    Map keys are text or integers. PeerError(BAD_ENCODING) for anything else, for more than `max_depth`
    containers inside each other, and for a map with more than `max_keys` keys. The work is linear in `data`.
    """
    outer: list[tuple[int, set[bytes | int] | None]] = []
    wanted = 1  # values still to come in the container at hand
    keys: set[bytes | int] | None = None  # those seen, if the container is a map
    at = 0
    while True:
        while wanted == 0:
            if not outer:
                if at != len(data):
                    raise _bad("bytes left over")
                return
            wanted, keys = outer.pop()
        wanted -= 1
        if keys is not None:
            at = _key(data, at, keys)
        first = data[at] if at < len(data) else _end()
        container = _container(data, at, first)
        if container is None:
            at = _scalar_end(data, at, first)
            continue
        outer.append((wanted, keys))
        if len(outer) > max_depth:
            raise _bad("nested too deeply")
        wanted, is_map, at = container
        if is_map and wanted > max_keys:
            raise _bad("too many keys")
        keys = set() if is_map else None


def decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    """Return the typed value of bytes that passed `check`; PeerError(BAD_ENCODING) if they do not fit.

    The message names the field that does not, and quotes nothing of what came.
    """
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        _, found, path = str(error).rpartition(" - at ")
        raise _bad(f"{path} does not fit" if found else "does not fit") from error
    except UnicodeDecodeError as error:  # msgspec lets this one through as it is
        raise _bad("text is not UTF-8") from error


def _end() -> int:
    raise _bad("cut short")


def _container(data: bytes, at: int, first: int) -> tuple[int, bool, int] | None:
    """Return (members, is a map, offset of the first member) if a container begins at `at`."""
    if 0x80 <= first <= 0x9F:
        return first & 0x0F, first < 0x90, at + 1
    width = _COUNT.get(first)
    if width is None:
        return None
    start = at + 1 + width
    if start > len(data):
        raise _bad("cut short")
    return int.from_bytes(data[at + 1 : start], "big"), first >= 0xDE, start


def _scalar_end(data: bytes, at: int, first: int) -> int:
    """Return the offset behind the scalar that begins at `at`."""
    size = _FIXED[first]
    if size == _REFUSED:
        width = _LENGTH.get(first)
        if width is None:
            raise _bad("extension or unused type")
        size = 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "big")
    # A length that is itself cut short reads as a smaller number, but its own bytes already pass the end.
    if at + size > len(data):
        raise _bad("cut short")
    return at + size


def _key(data: bytes, at: int, keys: set[bytes | int]) -> int:
    """Read the key at `at` into `keys`; return the offset behind it."""
    first = data[at] if at < len(data) else _end()
    end = _scalar_end(data, at, first)
    key: bytes | int
    if 0xA0 <= first <= 0xBF:
        key = data[at + 1 : end]
    elif first in (0xD9, 0xDA, 0xDB):
        key = data[at + 1 + _LENGTH[first] : end]
    elif first < 0x80:
        key = first
    elif 0xCC <= first <= 0xCF:
        key = int.from_bytes(data[at + 1 : end], "big")
    elif first >= 0xE0 or 0xD0 <= first <= 0xD3:
        key = int.from_bytes(data[at + 1 : end] or data[at:end], "big", signed=True)
    else:
        raise _bad("a key is neither text nor an integer")
    if key in keys:
        raise _bad("a key appears twice")
    keys.add(key)
    return end
