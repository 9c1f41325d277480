# Sourced by the other scripts: makes .venv with everything that demo, tests and benches need, once per change
# of pyproject.toml. Needs CPython >= 3.11 with venv, a C compiler for the PESQ package, and a package index.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=
say() { printf '%s\n' "$*" >&2; }

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
        rm -rf .venv
        "$python" -m venv .venv || { say "python3 -m venv failed: install the python3-venv package"; exit 2; }
        .venv/bin/python -m pip install -q -e '.[audio,test]' >&2 || { say "pip install failed, see above"; exit 2; }
        printf '%s' "$want" > .venv/.stamp
    fi
    export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
}
