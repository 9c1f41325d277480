"""`relay rollout begin|advance|rollback|freeze|thaw|resume|kill|publish`: what changes a rollout.

    change, stored by compare-and-set --with --key--> signed state in the store --relay feed--> boxes

Must never live here: what may follow what (relay/rollout/steps.py).
"""

from __future__ import annotations

import argparse
import datetime
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from relay.commands.desk import add_by, add_config, date, who
from relay.commands.rollout_options import (
    VERDICTS,
    add_expect,
    add_id,
    add_key,
    add_region,
    add_source,
    add_traffic,
    config_of,
    keys_of,
    signer_of,
    source_of,
    steer,
    traffic_of,
)
from relay.commands.terminal import Printer, Subcommands, declare, read_text
from relay.errors import ConfigError, RelayError
from relay.rollout.course import Course, Helm, UnknownRolloutError
from relay.rollout.gate import Verdict, Why
from relay.rollout.inquiry import Look, look
from relay.rollout.lastgood import Body
from relay.rollout.pilot import told
from relay.rollout.plan import Document, parse_plan, places_of
from relay.rollout.publish import Signer, check_offer, check_room, check_rules, is_published, publish
from relay.rollout.steps import Change, Order, Phase, Standing, share_of

UNITS: Final = {"m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a change."""

    course: Course
    body: Body | None = None
    """What was signed; None: nothing was."""
    lack: str = ""
    """What is still to do, so that boxes know of it."""
    is_failed: bool = False
    """Whether it should have been signed and was not."""


def add(inner: Subcommands) -> None:
    """Declare them."""
    begin = declare(
        inner,
        "begin",
        run_begin,
        "begin a plan, or its next wave",
        "relay rollout begin rollout.toml --traffic eu-1=8 --why 'the first region' --key operator.key",
        epilog="a plan never changes once it has begun; each wave begins when the one before is closed\n"
        "regions need --traffic, their part of all calls, unless it was said before\n",
    )
    begin.add_argument("plan", metavar="FILE", help="the plan; - is standard input")
    advance = declare(
        inner,
        "advance",
        run_advance,
        "ask the gate, and go to the next step if it says promote",
        "relay rollout advance --rollout relay-0.4 --region eu-1 --from http://10.0.0.1:9464 --key op.key\n"
        "relay rollout advance --rollout open --region @dogfood --confirm --why 'we like it' --key op.key",
        epilog="any other verdict changes nothing\n" + VERDICTS,
    )
    back = declare(
        inner,
        "rollback",
        run_rollback,
        "give a region the control, and halt the others where they are",
        "relay rollout rollback --rollout relay-0.4 --region eu-1 --why 'calls break' --key operator.key",
        epilog="never refused for a freeze, nor because somebody changed the rollout meanwhile\n",
    )
    freeze = declare(
        inner,
        "freeze",
        run_freeze,
        "let nothing widen a rollout; rollbacks go on",
        "relay rollout freeze --rollout relay-0.4 --until 8h --why 'the final tonight'\n"
        "relay rollout freeze --rollout relay-0.4 --until 2027-01-02T08:00:00+00:00 --why holidays",
    )
    freeze.add_argument(
        "--until", metavar="TIME", help="thaws by itself: 90m, 8h, 2d, or a date with its zone (else: thaw)"
    )
    thaw = declare(
        inner, "thaw", run_thaw, "lift a freeze", "relay rollout thaw --rollout relay-0.4 --why 'it is over'"
    )
    resume = declare(
        inner,
        "resume",
        run_resume,
        "go on after a rollback, without the region that was taken back",
        "relay rollout resume --rollout relay-0.4 --why 'a broken switch in eu-2, not the release'",
    )
    push = declare(
        inner,
        "publish",
        run_publish,
        "sign what a rollout's steps give, and put it into the store for all boxes",
        "relay rollout publish --rollout relay-0.4 --key operator.key",
        epilog="again before the state ends: at least once a week\n",
    )
    kill = declare(
        inner,
        "kill",
        run_kill,
        "give everybody the control within seconds; take that back with --off",
        "relay rollout kill relay-0.4 --why 'calls break'\nrelay rollout kill relay-0.4 --off --why mended\n"
        "relay rollout kill relay-0.4 --for-good --why 'the codec is wrong' --key operator.key",
        epilog="needs no key: it only narrows\n",
    )
    kill.add_argument("rollout", metavar="ID", help="id of the rollout")
    way = kill.add_mutually_exclusive_group()
    way.add_argument("--off", action="store_true", help="take the kill back: what is signed counts again")
    way.add_argument("--for-good", action="store_true", help="end the rollout, too: nothing resumes it")
    for parser in (advance, back, freeze, thaw, resume, push):
        add_id(parser)
    for parser in (advance, back):
        add_region(parser)
    add_source(advance)
    advance.add_argument("--confirm", action="store_true", help="say yes where the plan wants a person to")
    for parser in (begin, advance):
        add_traffic(parser)
    for parser in (begin, advance, back, resume, kill):
        add_key(parser)
    for parser in (freeze, thaw):  # they change nobody's share
        parser.set_defaults(key=None)
    add_key(push, is_needed=True)
    for parser in (begin, advance, freeze, thaw, resume):
        add_expect(parser)
    for parser in (begin, advance, back, freeze, thaw, resume, kill, push):
        add_config(parser)
        add_by(parser, is_asked=parser not in (advance, push))


def run_begin(arguments: argparse.Namespace, printer: Printer) -> int:
    """The next wave of a plan."""
    plan = parse_plan(read_text(arguments.plan, "FILE"), arguments.plan)
    config = config_of(arguments)
    signer, traffic = signer_of(arguments, config), traffic_of(arguments)

    async def work(helm: Helm) -> Done:
        await check_room(helm, plan.rollout.id, keys_of(config))
        await check_rules(helm, await _next(helm, plan), keys_of(config))
        course = await helm.begin(plan, who(arguments), arguments.why, traffic, arguments.expect)
        return await _published(helm, course, signer, arguments)

    return steer(arguments, printer, work, lambda done: _show(printer, done, _wave(done.course)))


def run_advance(arguments: argparse.Namespace, printer: Printer) -> int:
    """What the gate says, and the step that follows."""
    config = config_of(arguments)
    signer, source, traffic = signer_of(arguments, config), source_of(arguments), traffic_of(arguments)

    async def work(helm: Helm) -> tuple[Look, Done | None]:
        found = await look(helm, arguments.rollout, arguments.region, source, who(arguments))
        answer = found.answer
        is_confirmed = arguments.confirm and {each.why for each in answer.reasons} == {Why.CONFIRM}
        if answer.verdict is not Verdict.PROMOTE and not is_confirmed:
            return found, None
        expect = answer.around.state_rev if arguments.expect is None else arguments.expect
        why = arguments.why or ("a person says yes" if is_confirmed else "as good as is asked")
        order = Order(
            Change.ADVANCE, who(arguments), why, expect, arguments.region, answer, is_confirmed=is_confirmed
        )
        await check_rules(helm, [arguments.region], keys_of(config))
        course = await helm.change(arguments.rollout, lambda _: order, traffic=traffic)
        return found, await _published(helm, course, signer, arguments)

    def show(result: tuple[Look, Done | None]) -> int:
        found, done = result
        if done is None:
            printer.result({"ok": False, **found.facts()}, f"nothing changes. {told(found)}")
            return found.answer.exit_status
        return _show(printer, done, _share(done.course, arguments.region), found.facts())

    return steer(arguments, printer, work, show)


def run_rollback(arguments: argparse.Namespace, printer: Printer) -> int:
    """Control for a region, whatever else holds."""

    def make(standing: Standing) -> Order:
        return Order(Change.ROLLBACK, who(arguments), arguments.why, standing.revision, arguments.region)

    return _change(arguments, printer, make, lambda course: _share(course, arguments.region))


def run_freeze(arguments: argparse.Namespace, printer: Printer) -> int:
    """No widening for a while."""
    until = None if arguments.until is None else _until(arguments.until, time.time())
    end = "somebody thaws it" if until is None else date(until)
    make = _plain(arguments, Change.FREEZE)
    return _change(arguments, printer, make, lambda _: f"frozen until {end}", frozen_until=until)


def run_thaw(arguments: argparse.Namespace, printer: Printer) -> int:
    """Widening again."""
    return _change(arguments, printer, _plain(arguments, Change.THAW), lambda _: "goes on")


def run_resume(arguments: argparse.Namespace, printer: Printer) -> int:
    """On without what was taken back."""
    return _change(arguments, printer, _plain(arguments, Change.RESUME), lambda _: "goes on")


def run_kill(arguments: argparse.Namespace, printer: Printer) -> int:
    """The switch first, since that is what boxes see within seconds; then the end, if it is one."""
    id, config = arguments.rollout, config_of(arguments)
    signer = signer_of(arguments, config)

    async def work(helm: Helm) -> Done | None:
        if arguments.off:
            await check_offer(helm, id, keys_of(config))
        await helm.kill(id, is_off=arguments.off, who=who(arguments), why=arguments.why)
        if not arguments.for_good:
            return None
        course = await helm.change(
            id, lambda standing: Order(Change.KILL, who(arguments), arguments.why, standing.revision)
        )
        return await _published(helm, course, signer, arguments)

    def show(done: Done | None) -> int:
        known = "is no longer killed" if arguments.off else "is killed: boxes see it within seconds"
        more = {"id": id, "killed": not arguments.off}
        if done is not None:
            return _show(printer, done, "killed for good: boxes see it within seconds", more)
        printer.result({"ok": True, **more}, f"{id} {known}")
        return 0

    return steer(arguments, printer, work, show)


def run_publish(arguments: argparse.Namespace, printer: Printer) -> int:
    """Sign and put what stands."""
    signer = signer_of(arguments, config_of(arguments))
    assert signer is not None  # argparse asks for it

    async def work(helm: Helm) -> Done:
        body = await publish(helm, arguments.rollout, signer, who(arguments), arguments.why)
        return Done(await helm.course(arguments.rollout), body)

    return steer(arguments, printer, work, lambda done: _show(printer, done, _wave(done.course)))


# ---------------------------------------------------------------- inside


def _change(
    arguments: argparse.Namespace,
    printer: Printer,
    make: Callable[[Standing], Order],
    text: Callable[[Course], str],
    frozen_until: float | None = None,
) -> int:
    signer = signer_of(arguments, config_of(arguments))

    async def work(helm: Helm) -> Done:
        course = await helm.change(arguments.rollout, make, frozen_until=frozen_until)
        return await _published(helm, course, signer, arguments)

    return steer(arguments, printer, work, lambda done: _show(printer, done, text(done.course)))


async def _next(helm: Helm, plan: Document) -> tuple[str, ...]:
    """Places that would begin now; none: nothing would."""
    try:
        wave = (await helm.course(plan.rollout.id)).standing.wave
    except UnknownRolloutError:
        wave = 0
    return places_of(plan.rollout.wave[wave]) if wave < len(plan.rollout.wave) else ()


def _plain(arguments: argparse.Namespace, change: Change) -> Callable[[Standing], Order]:
    def make(standing: Standing) -> Order:
        expect = standing.revision if arguments.expect is None else arguments.expect
        return Order(change, who(arguments), arguments.why, expect)

    return make


async def _published(
    helm: Helm, course: Course, signer: Signer | None, arguments: argparse.Namespace
) -> Done:
    """Sign it, too; a change that is stored stays so whatever becomes of that."""
    id = course.plan.rollout.id
    cure = f"relay rollout publish --rollout {id} --key FILE"
    try:
        if signer is not None:
            return Done(course, await publish(helm, id, signer, who(arguments)))
        is_same = await is_published(helm, id, keys_of(config_of(arguments)))
        return Done(course, lack="" if is_same else cure)
    except RelayError as error:
        return Done(course, lack=f"{error}; then: {cure}", is_failed=signer is not None)


def _show(printer: Printer, done: Done, text: str, more: dict[str, Any] | None = None) -> int:
    """What stands now."""
    course, body = done.course, done.body
    facts = {
        "ok": not done.is_failed,
        **(more or {}),
        **summary(course),
        "published": None if body is None else body.rev,
        "to_publish": done.lack,
    }
    lines = [f"{course.plan.rollout.id}: {text} (revision {course.standing.revision})"]
    if body is not None:
        lines.append(f"signed: the state is revision {body.rev}, until {date(body.not_after)}")
    if done.lack:
        lines.append(f"boxes do not know of it yet: {done.lack}")
    printer.result(facts, "\n".join(lines))
    return int(done.is_failed)


def summary(course: Course) -> dict[str, Any]:
    """A rollout's standing as JSON value, for machines and for `status`."""
    standing, plan = course.standing, course.plan
    return {
        "rollout": plan.rollout.id,
        "state_rev": standing.revision,
        "phase": standing.phase.value,
        "wave": standing.wave,
        "killed": course.is_killed or standing.phase is Phase.KILLED,
        "frozen_until": course.record.frozen_until,
        "places": {
            name: {
                "wave": place.wave,
                "step": place.step,
                "since": place.since,
                "spot": place.spot.value,
                "pct": share_of(plan, place),
            }
            for name, place in standing.places.items()
        },
    }


def _wave(course: Course) -> str:
    places = course.standing.places.items()
    told = ", ".join(f"{name} {share_of(course.plan, place):g} %" for name, place in places)
    return f"{course.standing.phase.value}, {told}"


def _share(course: Course, place: str) -> str:
    found = course.standing.places[place]
    share, phase = share_of(course.plan, found), course.standing.phase.value
    return f"{place} is {found.spot.value} at {share:g} %, the rollout {phase}"


def _until(told: str, now: float) -> float:
    """A time from now, or a date. ConfigError: neither, or over."""
    found = re.fullmatch(r"(\d{1,5})([mhd])", told)
    if found is not None:
        return now + int(found[1]) * UNITS[found[2]]
    cure = "write 90m, 8h, 2d, or 2027-01-02T08:00:00+00:00"
    try:
        when = datetime.datetime.fromisoformat(told)
    except ValueError:
        raise ConfigError("--until", f"{told} is no time", cure) from None
    if when.tzinfo is None:
        raise ConfigError("--until", f"{told} names no zone", cure)
    if when.timestamp() <= now:
        raise ConfigError("--until", f"{told} is over", cure)
    return when.timestamp()
