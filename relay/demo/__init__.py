"""The demo: a daemon and two people in three processes, one encrypted call, and what each of them counted.

    director.run(...)   throw-away keys, `relay serve`, two people, the report
    stage.py            keys, certificate, configuration and tokens of a node that lives for one demo
    person.py           one of the two: orders as lines on stdin, answers as JSON lines on stdout
    check.py            what must be true afterwards

What it shows: audio sent before both accepted goes nowhere; both hear each other well; what the SDKs counted
is what /metrics says; no media key is in the daemon's memory.

Must never live here: anything the product needs.
"""

from relay.demo.director import find_speech, run
from relay.demo.stage import DemoError

__all__ = ["DemoError", "find_speech", "run"]
