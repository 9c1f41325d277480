"""The file by which commands of the whole fleet come to a daemon, in the order in which they count.

    "VRO1\\n", then a line for each command: seconds since 1970 when it was given, a space, base64 of it

`relay feed` writes it whole, so nothing but time and form is looked at here: whose a command is and what it
does is judged by the daemon alone. Must never live here: files, the clock, signatures.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from relay.errors import ErrorCode, PeerError
from relay.protocol import command, signed
from relay.protocol.ids import Jti, Kid

HEAD: Final = b"VRO1\n"
MOST: Final = 4_096
"""Commands in a file. At 300 s, the longest that one lives, some 12 a second without end."""
MOST_BYTES: Final = 6 * 1024 * 1024
_LINE: Final = re.compile(rb"([0-9]{1,12}\.[0-9]{3}) ([A-Za-z0-9+/]{1,1368}={0,2})")


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A command on its way; nobody has checked its signature yet."""

    raw: bytes = field(repr=False)
    at: float
    """When it was given, seconds since 1970."""
    kid: Kid
    id: Jti
    exp: int
    """No node obeys it later, seconds since 1970."""

    @property
    def line(self) -> bytes:
        """As it stands in the file, with its end."""
        return b"%.3f %s\n" % (self.at, base64.b64encode(self.raw))


def take(raw: bytes, at: float) -> Dispatched:
    """What can be said of a command by its form. PeerError(TOKEN_INVALID): it is none."""
    envelope = signed.split(command.MAGIC, raw)
    order = command.decode_command(envelope.body)
    return Dispatched(raw, at, envelope.kid, order.id, order.exp)


def from_text(text: bytes) -> bytes:
    """A command of one line of base64, as `relay command --print` has it. PeerError(BAD_ENCODING)."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise PeerError(ErrorCode.BAD_ENCODING, "not base64") from None


def read(line: bytes) -> Dispatched:
    """One line of the file, without its end. PeerError: it is none, BAD_ENCODING or TOKEN_INVALID."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise PeerError(ErrorCode.BAD_ENCODING, "not a line of commands")
    return take(from_text(found[2]), float(found[1]))


def lines(data: bytes) -> list[bytes]:
    """The lines of a whole file. PeerError(BAD_ENCODING): it is no such file, or cut off, or too large."""
    if len(data) > MOST_BYTES or not data.startswith(HEAD) or not data.endswith(b"\n"):
        raise PeerError(ErrorCode.BAD_ENCODING, "not a file of commands")
    found = data[len(HEAD) :].splitlines()
    if len(found) > MOST:
        raise PeerError(ErrorCode.BAD_ENCODING, f"more than {MOST} commands")
    return found


def write(entries: Iterable[Dispatched]) -> bytes:
    """The whole file."""
    return HEAD + b"".join(each.line for each in entries)
