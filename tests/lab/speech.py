"""Real speech of several talkers for the voice lab: pieces of 8 s of Debian's prompts, in .cache/talkers.

    clips(24) -> [Clip(talker="en", path=...), ...]       one talker after the other, in turns

16 kHz, recorded for Asterisk and once coded in G.722; voices and licences stand beside the pieces. SystemExit
with a sentence where they cannot be had. Must never live here: codecs of calls, scores.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from load import report
from relay.client.audio import SAMPLE_SIZE, read_pcm, write_wav

RATE: Final = 16_000
SECONDS: Final = 8
PIECES: Final = 8  # of each talker
_EACH: Final = 2  # of a prompt, so that no talker is heard with one text alone
CACHE: Final = Path(__file__).parents[2] / ".cache" / "talkers"
_BYTES: Final = SECONDS * RATE * SAMPLE_SIZE
_PAUSE: Final = bytes(RATE // 5 * SAMPLE_SIZE)  # a clip begins and ends in silence, as its scores want
_PROMPTS: Final = ("demo-instruct", "priv-callee-options", "demo-congrats", "conf-adminmenu-18")


@dataclass(frozen=True)
class Talker:
    """One voice."""

    name: str
    package: str
    who: str
    """As the package's copyright file has it."""
    is_male: bool


TALKERS: Final = (
    Talker("en", "asterisk-core-sounds-en-g722", "Allison Smith, English; CC-BY-SA-3.0", is_male=False),
    Talker("it", "asterisk-core-sounds-it-g722", "Carlo Flora, Italian; CC-BY-SA-3.0", is_male=True),
    Talker("fr", "asterisk-core-sounds-fr-g722", "June Wallack, French; CC-BY-SA-3.0", is_male=False),
    Talker("ru", "asterisk-core-sounds-ru-g722", "ivrvoice.ru, Russian; CC-BY-3.0", is_male=False),
)


@dataclass(frozen=True)
class Clip:
    """Eight seconds of somebody."""

    talker: str
    path: Path

    @property
    def name(self) -> str:
        """Such as "en-3"."""
        return self.path.stem


def in_turns(pieces: list[list[Clip]]) -> list[Clip]:
    """One of each talker, then the next of each, so that any number of them is balanced."""
    return [clip for turn in zip_longest(*pieces) for clip in turn if clip is not None]


def cut(prompts: list[bytes]) -> Iterator[bytes]:
    """Two pieces of each prompt, of the right length with silence around them."""
    body = _BYTES - 2 * len(_PAUSE)
    for pcm in prompts:
        for start in range(0, len(pcm) - body + 1, body)[:_EACH]:
            yield _PAUSE + pcm[start : start + body] + _PAUSE


def clips(count: int) -> list[Clip]:
    """That many different ones, made at the first call. SystemExit if that cannot be."""
    if count > PIECES * len(TALKERS):
        raise SystemExit(f"there are {PIECES * len(TALKERS)} clips of speech, not {count}")
    return in_turns([_of(talker) for talker in TALKERS])[:count]


def _of(talker: Talker) -> list[Clip]:
    paths = [CACHE / f"{talker.name}-{number}.wav" for number in range(PIECES)]
    if not all(path.exists() for path in paths):
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="relay-speech-") as folder:
            found = _fetch(talker, Path(folder))
            prompts = [read_pcm(found[prompt], RATE) for prompt in _PROMPTS]
        for path, pcm in zip(paths, cut(prompts), strict=False):
            write_wav(path, pcm, RATE)
        (CACHE / f"{talker.name}.txt").write_text(
            f"Voice: {talker.who}\nSource: Debian package {talker.package}\n"
            f"Changed: cut into pieces of {SECONDS} s, decoded from G.722 to 16 kHz PCM\n"
        )
    return [Clip(talker.name, path) for path in paths]


def _fetch(talker: Talker, folder: Path) -> dict[str, Path]:
    """The prompts of a package by name; it is unpacked, not installed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SystemExit(f"no speech: this is no Debian system; see {__file__} for what {CACHE} should hold")
    report.say(f"fetching real speech ({talker.package}, 10 MB, once) ...")
    folder.chmod(0o755)
    fetch = ["apt-get", "download", "-q", talker.package]
    done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
        done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, check=False)
    packages = list(folder.glob("*.deb"))
    if not packages:
        raise SystemExit(f"no speech: apt-get download {talker.package} failed: {done.stderr.strip()[-300:]}")
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(folder / "x")], check=True)
    return {path.stem: path for path in folder.rglob("*.g722")}
