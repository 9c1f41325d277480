"""Three regions with two relays each and a store between them, and their calls on good and bad days.

    hub: nats-server, `relay nodes sign`, the operator's desk
    |--5 ms-- internet --0, 20, 40 ms-- eu, us, ap: a leaf each, two relays, a feed beside each, people

Real programs in network namespaces without a way out; people are sessions of the SDK, but for the many short
calls that a gate counts (fleetload.py). Stages: calls and crash (fleetcalls.py), trunk (fleettrunk.py), hub,
drain and kill (fleetstate.py), promote, hold and rollback (fleetgate.py). Must never live here: a stage.
"""

from __future__ import annotations

import traceback
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Final

from lab import fleetcalls, fleetgate, fleetstate, fleettrunk
from lab.fleetground import HUB, PROGRAM, REGIONS
from lab.fleetnode import until
from lab.fleetnodes import Fleet
from lab.topology import limit_time, refuse_unless_possible
from load import report

Stage = Callable[[Fleet, report.Report, Namespace], None]
Counted = Callable[[fleetgate.Trial, report.Report, Namespace], None]

STAGES: Final[Mapping[str, Stage]] = {
    "calls": fleetcalls.calls,
    "trunk": fleettrunk.trunk,
    "hub": fleetstate.hub,
    "drain": fleetstate.drain,
    "kill": fleetstate.kill,
    "crash": fleetcalls.crash,
}
COUNTED: Final[Mapping[str, Counted]] = {
    "promote": fleetgate.promote,
    "hold": fleetgate.hold,
    "rollback": fleetgate.rollback,
}
QUICK: Final = ("calls", "trunk", "hub", "kill")
BALANCE_S: Final = 10.0


def lack() -> str:
    """What this machine does not have; "": nothing."""
    if PROGRAM is None:
        return "nats-server is missing: ./scripts/lab installs it on Debian"
    if find_spec("nats") is None:
        return "nats-py is missing: pip install 'vrelay[fleet]'"
    return ""


def run(out: report.Report, arguments: Namespace, stages: tuple[str, ...]) -> None:
    """Build the fleet, hold these stages, take it down."""
    report.say(f"six relays in three regions: {', '.join(stages)} ...")
    with Fleet.build(arguments.seed) as fleet:
        for name in stages:
            if name in STAGES:
                _hold(name, out, partial(STAGES[name], fleet, out, arguments))
        counted = [name for name in stages if name in COUNTED]
        if counted:
            trial = fleetgate.Trial(fleet, arguments.seed)
            try:
                for name in counted:
                    _hold(name, out, partial(COUNTED[name], trial, out, arguments))
            finally:
                trial.close()
        _judge_books(fleet, out)
    out.bar("namespaces_left_behind", len(fleet.ground.net.leftovers()), "==", 0)
    out.detail(one_way_ms={place.name: round(1000 * place.delay_s) for place in (HUB, *REGIONS)})


def _hold(name: str, out: report.Report, stage: Callable[[], None]) -> None:
    """One stage; a fault of the lab's own is told, and the others go on."""
    report.say(f"{name} ...")
    try:
        stage()
    except Exception:
        report.say(traceback.format_exc())
        out.bar(f"{name}_ran", 0, "==", 1)


def _judge_books(fleet: Fleet, out: report.Report) -> None:
    """With nobody there: packets are in balance, and nothing was said in anger."""

    def unbalanced() -> int:
        return sum(node.figure("relay_imbalance") != 0 for node in fleet.nodes)

    until(lambda: not unbalanced(), BALANCE_S)
    out.bar("nodes_out_of_balance", unbalanced(), "==", 0)
    errors = {f"{node.id} {what}": node.complaints(what) for node in fleet.nodes for what in node.processes}
    out.detail(errors={who: lines[-5:] for who, lines in errors.items() if lines})


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("fleet", __doc__)
    parser.prog = "lab fleet"
    parser.add_argument(
        "--only", choices=(*STAGES, *COUNTED), action="append", help="this stage alone; may be repeated"
    )
    parser.add_argument("--calls", type=int, metavar="N", help=f"of crash ({fleetcalls.CRASH_CALLS})")
    arguments = parser.parse_args()
    stages = tuple(arguments.only or (QUICK if arguments.quick else (*STAGES, *COUNTED)))
    if arguments.quick and set(stages) & set(COUNTED):
        parser.error(f"{', '.join(COUNTED)} count calls for minutes: there is no short form")
    if arguments.calls is not None and arguments.calls < 1:
        parser.error("--calls: at least one")
    refuse_unless_possible()
    if (missing := lack()) != "":
        parser.error(missing)
    limit_time()
    out = report.Report("fleet", seed=arguments.seed, quick=arguments.quick)
    run(out, arguments, stages)
    return out.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
