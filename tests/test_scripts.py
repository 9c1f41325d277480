"""What stands in scripts/ says what it does, and refuses what it does not know."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / name), *words], capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize("name", ["install", "release", "lab", "bench", "sim", "rollout"])
def test_help_names_each_option_that_the_script_takes(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert f"./scripts/{name}" in done.stdout
    options = {
        "install": ("--wheels", "--turn", "--no-start", "--remove", "--purge"),
        "release": ("--once", "--lock"),
        "sim": ("--quick", "--json", "--seed", "--only"),
        "rollout": ("--rollout", "--region", "--from", "--key", "--wait", "--timeout", "--dry-run", "--json"),
    }
    assert all(option in done.stdout for option in options.get(name, ()))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--nonsense",), "no such option: --nonsense"),
        (("--purge",), "--purge goes with --remove"),
        (("--wheels",), "--wheels needs a folder"),
    ],
)
def test_an_installation_that_was_asked_for_wrongly_does_nothing(words: tuple[str, ...], why: str) -> None:
    done = run("install", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"install: {why} (see --help)\n"


@pytest.mark.parametrize("name", ["bench", "lab", "sim"])
def test_what_a_script_does_not_know_it_refuses_with_a_list_of_what_there_is(name: str) -> None:
    done = run(name, "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "named nonsense; there are" in done.stderr


def test_each_simulation_that_help_names_is_there() -> None:
    lines = run("sim", "--help").stdout.splitlines()
    listed = [line.split()[1] for line in lines if "./scripts/sim " in line]
    modules = {path.stem for path in (SCRIPTS.parent / "tests/sim").glob("*.py")}
    assert "gate" in listed
    assert set(listed) <= modules


def test_each_locked_dependency_has_a_hash_and_each_of_ours_is_locked() -> None:
    import tomllib

    lines = (SCRIPTS.parent / "requirements.lock").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))]
    ours = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {each.partition(">=")[0] for each in ours} <= set(names)
    for at, line in enumerate(lines):
        if "==" in line and not line.startswith((" ", "#")):
            assert lines[at + 1].strip().startswith("--hash=sha256:")
