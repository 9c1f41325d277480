"""Are the NATs what they are called? Asked of two tools that are not ours, and of a prober of ours.

    turnutils_natdiscovery (RFC 5780, coturn), stun (RFC 3489, stun-client)    both against coturn
    lab.probe    what they cannot tell: TCP, a proxy, loss beyond a rate, NAT64

Runs before the first call: a lab whose networks are wrong judges nothing. Must never live here: nft rules.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from lab.expected import NETWORKS
from lab.nats import VERIFIER, Site
from lab.topology import LabError, environment, python
from lab.world import World, answer

TOOL_S: Final = 40.0
READY_S: Final = 10.0
CONFIGURATION: Final = """listening-ip={0}
listening-ip={1}
listening-port=3478
alt-listening-port=3479
rfc5780
stun-only
no-auth
no-tls
no-dtls
no-cli
no-software-attribute
pidfile={folder}/turn.pid
userdb={folder}/turn.db
log-file={folder}/turn.log
simple-log
"""
_DISCOVERED: Final = re.compile(
    r"with (Endpoint Independent|Address Dependent|Address and Port Dependent) (Mapping|Filtering)!"
)
_WORDS: Final = {
    "Mapping": {"Endpoint Independent": "independent", "Address Dependent": "dependent"},
    "Filtering": {"Endpoint Independent": "any", "Address Dependent": "address"},
}
_STUN: Final = (  # what stun prints, in the words of expected.py
    ("Independent Mapping, Independent Filter", ("independent", "any")),
    ("Independent Mapping, Address Dependent Filter", ("independent", "address")),
    ("Independent Mapping, Port Dependent Filter", ("independent", "port")),
    ("Dependent Mapping", ("dependent", None)),
    ("Open", ("independent", "any")),
    ("Blocked", ("none", "none")),
)


def verify(world: World) -> list[dict[str, Any]]:
    """One finding per site: what each tool says, what was expected, whether all agree."""
    config = world.folder / "turn.conf"
    config.write_text(CONFIGURATION.format(*VERIFIER, folder=world.folder))
    world.net.spawn(world.verifier, ["turnserver", "-c", str(config)], log=world.folder / "turn.out")
    answer(world.net.spawn(world.verifier, [*python("lab.echo"), *VERIFIER]))
    _wait_for_coturn(world)
    with ThreadPoolExecutor(max_workers=6) as pool:
        return list(pool.map(lambda site: _verify(world, site), world.sites.values()))


def _wait_for_coturn(world: World) -> None:
    until = time.monotonic() + READY_S
    while True:
        listed = world.net.run(world.verifier, ["cat", "/proc/net/udp"])
        if listed.count(":0D96 ") + listed.count(":0D97 ") >= 4:  # both ports on both addresses
            return
        if time.monotonic() > until:
            raise LabError("coturn does not listen: " + (world.folder / "turn.out").read_text()[-500:])
        time.sleep(0.1)


def _verify(world: World, site: Site) -> dict[str, Any]:
    wanted = NETWORKS[site.kind]
    tools: dict[str, Any] = {}
    if not site.is_ipv6:  # neither tool can ask an IPv6 address that leads to an IPv4 server
        tools["stun"] = read_stun(_tool(world, site, ["stun", VERIFIER[0]]))
        if wanted.mapping != "none":  # it waits half a minute for each answer that does not come
            command = ["turnutils_natdiscovery", "-m", "-f", "-L", site.local, VERIFIER[0]]
            tools["natdiscovery"] = read_natdiscovery(_tool(world, site, command))
    orders = {
        "hosts": [site.reach(address).strip("[]") for address in VERIFIER],
        "proxy": site.proxy,
        "load": site.kind == "throttled",
    }
    tools["prober"] = json.loads(_tool(world, site, [*python("lab.probe"), json.dumps(orders)]))
    wrong = [*judge_tools(site.kind, tools), *judge_reach(site.kind, tools["prober"])]
    return {"kind": site.kind, "side": site.side, "ok": not wrong, "wrong": wrong, "tools": tools}


def _tool(world: World, site: Site, command: list[str]) -> str:
    """What it prints; its exit status is its verdict, not a failure."""
    path = f"--net={world.net.path(site.client)}"
    try:
        done = subprocess.run(
            ["nsenter", path, "--", *command],
            capture_output=True,
            text=True,
            timeout=TOOL_S,
            check=False,
            env=environment(),
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def read_stun(text: str) -> dict[str, Any]:
    """mapping, filtering, hairpin as `stun` found them; None where it does not say."""
    line = next((line for line in text.splitlines() if line.startswith("Primary:")), "")
    found: tuple[str | None, str | None] = next(
        (what for words, what in _STUN if words in line), (None, None)
    )
    return {
        "mapping": found[0],
        "filtering": found[1],
        "hairpin": "hairpin" in line and "no hairpin" not in line,
        "said": line.removeprefix("Primary:").strip(),
    }


def read_natdiscovery(text: str) -> dict[str, Any]:
    """mapping and filtering as turnutils_natdiscovery found them."""
    found: dict[str, Any] = {"mapping": None, "filtering": None}
    for how, what in _DISCOVERED.findall(text):
        found[what.lower()] = _WORDS[what].get(how, "dependent" if what == "Mapping" else "port")
    if "No NAT!" in text:
        found["mapping"] = "independent"
    return found


def judge_tools(kind: str, tools: dict[str, Any]) -> list[str]:
    """Where a tool contradicts the kind."""
    wanted = NETWORKS[kind]
    wrong = []
    for tool, found in tools.items():
        for what, right in (("mapping", wanted.mapping), ("filtering", wanted.filtering)):
            is_silent = found[what] is None and (tool, what, right) in _CANNOT_TELL
            if found[what] != right and not is_silent:
                wrong.append(f"{tool}: {what} {found[what]}, not {right}")
    if wanted.carrier and tools["stun"]["hairpin"] != wanted.hairpin:
        wrong.append(f"stun: hairpin {tools['stun']['hairpin']}, not {wanted.hairpin}")
    return wrong


_CANNOT_TELL: Final = {("stun", "filtering", "port")}  # behind a dependent mapping it does not look further


def judge_reach(kind: str, found: dict[str, Any]) -> list[str]:
    """Where the prober got through and should not have, or the other way."""
    leg = NETWORKS[kind].leg
    wanted = {
        "udp": {"443": leg == "quic-443", "7000": leg != "ws-443"},
        "tcp": {"443": kind != "proxy", "80": kind not in ("proxy", "only-443")},
        "proxy": True if kind == "proxy" else None,
    }
    wrong = [f"prober: {what} {found[what]}" for what, right in wanted.items() if found[what] != right]
    load = found["load"]  # 87 % of the greater one is beyond the limit; 2 % of that: 1.75 %, sigma 0.3 %
    if load is not None and (load["below"] > 0.005 or not 0.008 <= load["above"] <= 0.03):
        wrong.append(f"prober: loss {load}")
    return wrong
