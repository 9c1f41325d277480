"""What a daemon does not need is not imported until it is used, and is whole then."""

from __future__ import annotations

import subprocess
import sys


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_daemon_starts_without_what_only_clients_need() -> None:
    script = (
        "from relay.quic.later import put_off; put_off()\n"
        "import relay.daemon, sys; print('service_identity.cryptography' in sys.modules)"
    )
    assert python(script) == "False"


def test_what_was_put_off_is_the_package_itself_once_it_is_used() -> None:
    script = (
        "from relay.quic.later import put_off; put_off()\n"
        "from aioquic import tls\n"
        "named = tls.service_identity.cryptography.verify_certificate_hostname\n"
        "import service_identity.cryptography as real\n"
        "print(named is real.verify_certificate_hostname)"
    )
    assert python(script) == "True"


def test_what_is_imported_already_stays() -> None:
    script = (
        "import service_identity\n"
        "from relay.quic.later import put_off; put_off()\n"
        "import sys; print(sys.modules['service_identity'] is service_identity)"
    )
    assert python(script) == "True"
