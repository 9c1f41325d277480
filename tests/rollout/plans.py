"""Plans that tests share. Must never live here: a test."""

from __future__ import annotations

from relay.rollout.plan import Document, parse_plan

RELEASE = """
[rollout]
id = "relay-0.4"
salt = "s1"
candidate = "0.4.0"
control = "0.3.2"
groups = { always = ["dogfood"], never = ["emergency"] }
failover = [["eu-2", "us-1"]]
[[rollout.wave]]
regions = ["eu-1"]
steps = [1, 5, 25, 100]
bake = "1h"
final_bake = "12h"
[[rollout.wave]]
regions = ["eu-2", "ap-1"]
steps = [10, 50, 100]
bake = "2h"
[[rollout.wave]]
regions = ["us-1"]
steps = [50, 100]
bake = "2h"
[[rollout.guardrail]]
name = "poor_call"
delta = 0.02
[gate]
alpha = 0.01
beta = 0.05
max_calls = 16000
"""

OPEN = """
[rollout]
id = "open"
salt = "s1"
kind = "open"
[[rollout.wave]]
group = "dogfood"
steps = [100]
bake = "1d"
min_calls = 50
confirm = true
[[rollout.wave]]
regions = ["eu-1"]
steps = [10, 100]
bake = "1h"
"""


def release() -> Document:
    """A release in three waves."""
    return parse_plan(RELEASE, "plan.toml")


def opening() -> Document:
    """The plan of kind open, with a wave for a group."""
    return parse_plan(OPEN, "plan.toml")
