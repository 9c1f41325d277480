"""Hostile words of a node that was let in: what it says of voices, and of people who are at its end.

    Part     control messages of a guest, of a half -> what ends the trunk, or None: figures within bounds
    Report   control datagrams of another node      -> drop reason, or None: figures of that trunk alone

A node is trusted to be who it is, and to speak of its own legs; with all that it may say it changes no gate,
no other's figures, and nothing without a bound. Must never live here: voices on routes (table_edge.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol import trunk, trunk_messages
from relay.protocol.trunk import HOP_REPORT, MAX_REPORTS, MAX_ROUTE, MIN_ROUTE, HopReport, RouteReport

E, D = ErrorCode, DropReason
MOST: Final = 2**53 - 1
U16, U32 = 0xFFFF, 0xFFFF_FFFF


class Half(NamedTuple):
    """Of whom a guest speaks: the number of its half, who is at it, and who talks with them at the home."""

    number: int
    own: int
    other: int
    foreign: int
    """The number of a half that another guest has."""


class Part(NamedTuple):
    """A guest says this of its half, word by word; the last ends the trunk by `code`, None: it stays."""

    id: str
    words: Callable[[Half], list[bytes]]
    code: ErrorCode | None = None
    every_s: float = 2.0
    """Between two of them."""


def said(body: Any, id: int = 0, number: int = trunk_messages.Part.TYPE) -> bytes:
    """A frame, whatever it holds."""
    frame = msgspec.msgpack.encode([number, id, body])
    return len(frame).to_bytes(2, "big") + frame


def part(half: int, *heard: dict[str, Any], **fields: Any) -> bytes:
    """What a guest says of a half."""
    return said({"half": half, "sum": {"sent": 0, "came": 0, "drops": {}, "quality": heard} | fields})


def heard(p: int, packets: Any = 100, **fields: Any) -> dict[str, Any]:
    """How its person heard one speaker."""
    return {"p": p, "packets": packets, "loss": 0.0, "delay_ms": 80.0, "gaps": 0} | fields


def _worst(half: Half) -> dict[str, Any]:
    return heard(half.other, MOST, loss=100.0, delay_ms=3_600_000.0, gaps=MOST, silence_ms=U32, pt=255)


def _bad(id: str, body: Callable[[Half], bytes]) -> Part:
    return Part(id, lambda half: [part(half.number), body(half)], E.BAD_ENCODING)


PARTS = [
    _bad("a part of no half", lambda half: said({"sum": {"sent": 0, "came": 0, "drops": {}, "quality": []}})),
    _bad("a part without its sum", lambda half: said({"half": half.number})),
    _bad("a part of a half above all numbers", lambda _: part(U16 + 1)),
    _bad("a part that is a list", lambda half: said([half.number])),
    _bad("fewer packets than none", lambda half: part(half.number, sent=-1)),
    _bad("more packets than a number holds", lambda half: part(half.number, came=MOST + 1)),
    _bad("half a packet", lambda half: part(half.number, sent=0.5)),
    _bad("a first packet before the half began", lambda half: part(half.number, first_ms=-1)),
    _bad("a round trip of more than an hour", lambda half: part(half.number, rtt_ms=3_600_001.0)),
    _bad("a round trip that is no number", lambda half: part(half.number, rtt_ms=float("nan"))),
    _bad("a speaker above all places", lambda half: part(half.number, heard(32))),
    _bad("less lost than nothing", lambda half: part(half.number, heard(half.other, loss=-0.1))),
    _bad("a loss that is no number", lambda half: part(half.number, heard(half.other, loss=float("nan")))),
    _bad("a delay without end", lambda half: part(half.number, heard(half.other, delay_ms=float("inf")))),
    _bad("a quality above the best", lambda half: part(half.number, heard(half.other, mos=5.1))),
    _bad("a packet longer than any", lambda half: part(half.number, heard(half.other, pt=256))),
    _bad("more speakers than a call holds", lambda half: part(half.number, *map(heard, [*range(32), 0]))),
    _bad("a speaker twice", lambda half: part(half.number, heard(half.other), heard(half.other, 200))),
    _bad(
        "more reasons of drops than there are",
        lambda half: part(half.number, drops={f"reason{i}": 1 for i in range(65)}),
    ),
    _bad("a reason of drops without end", lambda half: part(half.number, drops={"x" * 33: 1})),
    Part("a part of a half that nobody has", lambda half: [part(777, sent=MOST, came=MOST)]),
    Part(
        "a part of another guest's half",
        lambda half: [part(half.foreign, heard(half.other, 500, loss=1.0), sent=MOST)],
    ),
    Part(
        "how its person hears somebody who is in no call",
        lambda half: [part(half.number, *(heard(p, 500, loss=1.0) for p in range(2, 32)))],
    ),
    Part("how its person hears themselves", lambda half: [part(half.number, heard(half.own, 500, loss=1.0))]),
    Part(
        "sums as great as there are", lambda half: [part(half.number, _worst(half), sent=MOST, first_ms=U32)]
    ),
    Part(
        "sums that fall and rise again",
        lambda half: [
            part(half.number, each, sent=sent)
            for each, sent in ((_worst(half), MOST), (heard(half.other, 0), 0)) * 3
        ],
    ),
    Part("a thousand parts at once", lambda half: [part(half.number, _worst(half))] * 1000, every_s=0.0),
    Part("drops by reasons of its own", lambda half: [part(half.number, drops={"": MOST, "{}\n": MOST})]),
    Part(
        "keys that nobody knows",
        lambda half: [part(half.number, heard(half.other, call="x" * 99), sent=1, mute=True, gate=U32)],
    ),
]


class Report(NamedTuple):
    """Another node tells this of our voices; `reason`: why the last is dropped, None: it only counts there.

    `came`: datagrams that were told in what counted.
    """

    id: str
    data: list[bytes]
    reason: DropReason | None
    came: int = 0


LINE = RouteReport(MIN_ROUTE, 9, 48, 2, 1, 31)


def report(*lines: RouteReport, seq: int = 0) -> bytes:
    """A whole one."""
    return trunk.encode(HopReport(seq, 0, lines or (LINE,)))


def raw(count: int, *routes: int) -> bytes:
    """One that says `count` lines, and has these."""
    head = bytes((0, HOP_REPORT)) + struct.pack(">HIB", 0, 0, count)
    return head + b"".join(struct.pack(">HIHHHH", route, 9, 48, 2, 1, 31) for route in routes)


_GREATEST = tuple(
    RouteReport(route, U32, U16, U16, U16, U16 - 1) for route in range(MIN_ROUTE, MIN_ROUTE + MAX_REPORTS)
)

REPORTS = [
    Report("a hop report of no bytes", [bytes((0, HOP_REPORT))], D.MALFORMED),
    Report("a hop report of no route", [raw(0)], D.MALFORMED),
    Report("a hop report of fewer routes than it says", [raw(2, MIN_ROUTE)], D.MALFORMED),
    Report("a hop report of more routes than it says", [raw(1, MIN_ROUTE, MIN_ROUTE + 1)], D.MALFORMED),
    Report("a hop report cut short", [report()[:-1]], D.MALFORMED),
    Report("a hop report with a tail", [report() + b"\0"], D.MALFORMED),
    Report(
        "a hop report of more routes than a packet holds",
        [raw(MAX_REPORTS + 1, *range(MIN_ROUTE, MIN_ROUTE + MAX_REPORTS + 1))],
        D.MALFORMED,
    ),
    Report("a hop report that names a route twice", [raw(2, MIN_ROUTE, MIN_ROUTE)], D.MALFORMED),
    Report("a hop report of a leg's flow", [raw(1, MIN_ROUTE - 1)], D.MALFORMED),
    Report("a hop report of a route above all numbers", [raw(1, MAX_ROUTE + 1)], D.MALFORMED),
    Report("a control datagram of no type", [b"\0"], D.MALFORMED),
    Report("a leg report on a trunk", [b"\x00\x03" + bytes(7)], None),
    Report("a control datagram that nobody knows", [b"\x00\x7f" + bytes(40)], None),
    Report("the same hop report again", [report(seq=5)] * 50, None, came=48),
    Report("a hop report that a newer one overtook", [report(seq=5), report(seq=4)], None, came=48),
    Report(
        "a hop report of routes that nobody gave", [report(LINE._replace(route=MAX_ROUTE))], None, came=48
    ),
    Report("as much as a hop report can say", [report(*_GREATEST)], None, came=U16 * MAX_REPORTS),
    Report(
        "as much as hop reports can say, again and again",
        [report(*_GREATEST, seq=seq) for seq in range(200)],
        None,
        came=200 * U16 * MAX_REPORTS,
    ),
]
