"""Which socket of an address gets a packet: a program for the kernel, by connection id.

    sockets of an address, as they were bound     lane 0 even, lane 0 odd, lane 1 even, lane 1 odd ...
    without generations                           lane 0, lane 1 ...

A connection id names its lane (four bytes of it) and, by the last bit, the generation of the daemon that
issued it: the bit is chosen when it is issued (ids.py). So while two generations stand on the same addresses,
each reads sockets of its own and gets the packets of its own connections; newcomers, whose ids are their own
choice, and STUN go where `newcomers` and `turn` say. What a TURN client says goes to one lane, by its port.

The program is classic BPF (SO_ATTACH_REUSEPORT_CBPF), which needs no privilege. To attach another is one
step: each packet meets the one or the other. Must never live here: which generation is which.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass
from typing import Final

from relay.errors import LocalError
from relay.protocol.cid import CID_SIZE, FIRST_BYTE, MIN_BYTE_1

SO_ATTACH_REUSEPORT_CBPF: Final = 51
_NET: Final = 0x1_0000_0000 - 0x10_0000  # SKF_NET_OFF: the header before UDP's

_LD_B, _LD_H, _LD_W, _LD_LEN, _LD_MEM = 0x30, 0x28, 0x20, 0x80, 0x60
_ST, _TAX, _ADD_X = 0x02, 0x07, 0x0C
_MUL, _MOD, _RSH, _AND, _ADD = 0x24, 0x94, 0x74, 0x54, 0x04
_JA, _JEQ, _JGE = 0x05, 0x15, 0x35
_RET_K, _RET_A = 0x06, 0x16
_GOLDEN: Final = 0x9E37_79B1  # systems give out even ports or odd ones

_LEAST: Final = 4  # ChannelData without data
_SHORT_ID: Final = 1  # where the destination id begins
_LONG_ID: Final = 6


@dataclass(frozen=True, slots=True)
class Plan:
    """Where packets go. `newcomers` None: one generation's sockets stand there, and no others."""

    lanes: int
    newcomers: int | None = None
    """0 or 1: the generation, even or odd, that takes new connections."""
    is_split: bool = False
    """Two generations live: ids go to the one that issued them."""
    turn: int | None = None
    """The generation that takes STUN and TURN's data; None: as newcomers."""


class _Program:
    """Instructions with names to jump to."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, str, str, int]] = []
        self._names: dict[str, int] = {}

    def name(self, name: str) -> None:
        """What follows is called so."""
        self._names[name] = len(self._steps)

    def do(self, code: int, k: int = 0) -> None:
        """One instruction."""
        self._steps.append((code, "", "", k))

    def jump(self, code: int, k: int, yes: str, no: str = "") -> None:
        """Go to `yes` or `no`; an empty name is the next instruction."""
        self._steps.append((code, yes, no, k))

    def goto(self, name: str) -> None:
        """Go there."""
        self._steps.append((_JA, name, "", 0))

    def bytes(self) -> bytes:
        """As the kernel wants it: struct sock_filter each."""
        out = []
        for at, (code, yes, no, k) in enumerate(self._steps):
            over = [self._names[name] - at - 1 if name else 0 for name in (yes, no)]
            if code == _JA:
                over, k = [0, 0], over[0]
            out.append(struct.pack("=HBBI", code, *over, k))
        return b"".join(out)


def program(plan: Plan) -> bytes:
    """The instructions that carry out a plan. LocalError for one without lanes."""
    if plan.lanes < 1:
        raise LocalError("an address has a lane at least")
    stride = 1 if plan.newcomers is None else 2
    here = plan.newcomers or 0
    turn = here if plan.turn is None else plan.turn
    code = _Program()
    code.do(_LD_LEN)
    code.jump(_JGE, _LEAST, "", "odd size")
    code.do(_LD_B, 0)
    code.jump(_JGE, 0x80, "long")
    code.jump(_JGE, 0x50, "short")
    code.jump(_JGE, 0x40, "", "turn")
    code.do(_LD_B, 2)
    code.jump(_JGE, MIN_BYTE_1, "short")  # an id of ours: its second byte is never less

    code.name("turn")
    code.do(_LD_B, _NET)
    code.jump(_JGE, 0x60, "", "v4")
    code.do(_LD_H, _NET + 40)  # behind IPv6's header: the source port
    code.goto("port")
    code.name("v4")
    code.do(_LD_H, _NET + 20)
    code.name("port")
    code.do(_MUL, _GOLDEN)
    code.do(_RSH, 16)
    _lane(code, plan.lanes, stride, turn)

    code.name("short")
    code.do(_LD_LEN)
    code.jump(_JGE, _SHORT_ID + CID_SIZE, "", "odd size")
    _known(code, plan, stride, here, _SHORT_ID)

    code.name("long")
    code.do(_LD_LEN)
    code.jump(_JGE, _LONG_ID + CID_SIZE, "", "odd size")
    if plan.is_split:
        code.do(_LD_B, _LONG_ID - 1)
        code.jump(_JEQ, CID_SIZE, "", "newcomer")
        code.do(_LD_B, _LONG_ID)
        code.jump(_JEQ, FIRST_BYTE, "", "newcomer")
        _known(code, plan, stride, here, _LONG_ID)
    code.name("newcomer")
    code.do(_LD_W, _LONG_ID)
    _lane(code, plan.lanes, stride, here)

    code.name("odd size")
    code.do(_RET_K, here)
    return code.bytes()


def _lane(code: _Program, lanes: int, stride: int, generation: int) -> None:
    """What was loaded says the lane."""
    code.do(_MOD, lanes)
    code.do(_MUL, stride)
    code.do(_ADD, generation)
    code.do(_RET_A)


def _known(code: _Program, plan: Plan, stride: int, here: int, at: int) -> None:
    """An id of ours, or what looks like one, says lane and generation."""
    code.do(_LD_W, at)
    if not plan.is_split:
        _lane(code, plan.lanes, stride, here)
        return
    code.do(_MOD, plan.lanes)
    code.do(_MUL, stride)
    code.do(_ST, 0)
    code.do(_LD_B, at + CID_SIZE - 1)
    code.do(_AND, 1)
    code.do(_TAX)
    code.do(_LD_MEM, 0)
    code.do(_ADD_X)
    code.do(_RET_A)


def steer(sock: socket.socket, plan: Plan) -> None:
    """Have the kernel follow the plan from now on; `sock` is any of the address. OSError if it will not."""
    steps = program(plan)
    held = ctypes.create_string_buffer(steps, len(steps))
    pointer = struct.pack("@HP", len(steps) // 8, ctypes.addressof(held))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, pointer)
