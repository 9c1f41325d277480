# Sourced by the other scripts: makes .venv with everything that demo, tests and benches need, once per change
# of pyproject.toml, and builds the native lane into it, once per change of the crate. Needs CPython >= 3.11 with
# venv, a C compiler for the PESQ package and the lane, and a package index. Without cargo the Python lane serves.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=
# One folder for all that cargo makes, and one interpreter for it to ask: else it builds the same things again.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/.cache/cargo} PYO3_PYTHON="$PWD/.venv/bin/python"
say() { printf '%s\n' "$*" >&2; }

# has_cargo: true where cargo answers.
has_cargo() { cargo --version >/dev/null 2>&1; }

relay_setup() {
    local want have python
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        say "relay needs CPython 3.11 or newer; found: $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11"
        exit 2
    }
    want=$("$python" -c 'import hashlib,sys; print(hashlib.sha256(open("pyproject.toml","rb").read() + sys.version.encode()).hexdigest())')
    have=$(cat .venv/.stamp 2>/dev/null || true)
    if [ "$want" != "$have" ]; then
        say "setting up .venv (about a minute, once) ..."
        rm -rf .venv relay/_lane*.so
        "$python" -m venv .venv || { say "python3 -m venv failed: install the python3-venv package"; exit 2; }
        has_cargo && say "with it the native lane, from Rust (half a minute more) ..."
        .venv/bin/python -m pip install -q -e '.[audio,fleet,test]' >&2 || { say "pip install failed, see above"; exit 2; }
        printf '%s' "$want" > .venv/.stamp
        if lane_works; then lane_sources > .venv/.lane; fi
    fi
    export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
    lane_setup
}

# lane_sources: one line that changes with the crate.
lane_sources() {
    .venv/bin/python - <<'END'
import hashlib, pathlib
crate = pathlib.Path("relay/lane")
seen = hashlib.sha256()
for path in sorted([*crate.glob("Cargo.*"), *crate.glob("src/**/*.rs"), *crate.glob("*.rs")]):
    seen.update(b"\0%s\0" % str(path).encode() + path.read_bytes())
print(seen.hexdigest())
END
}

lane_works() { .venv/bin/python -c 'import relay._lane' 2>/dev/null; }

# lane_setup: an extension that fits the sources, or none at all, and one line that says which lane that gives.
lane_setup() {
    local log=.cache/lane.log
    [ "$(lane_sources)" = "$(cat .venv/.lane 2>/dev/null)" ] && lane_works && return
    rm -f relay/_lane*.so .venv/.lane
    if ! has_cargo; then
        say "no cargo here: the Python lane is used, at some twenty times the CPU per packet"
        return
    fi
    say "building the native lane from Rust (release; the first time half a minute, then only what changed) ..."
    mkdir -p .cache
    .venv/bin/python -m pip install -v --no-deps --no-build-isolation -e . > "$log" 2>&1 || true
    if lane_works; then
        lane_sources > .venv/.lane
    else
        grep -E '^ *error' "$log" | sort -u | head -n 5 >&2 || true
        .venv/bin/python -c 'import relay._lane' 2>&1 | tail -n 1 >&2 || true
        say "no working native lane came of it (see $log): the Python lane is used"
    fi
}
