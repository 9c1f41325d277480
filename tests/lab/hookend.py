"""An end of webhooks in the box: verifies each signature, and writes down what came.

    python3 hookend.py PORT SECRET_FILE OUT

A line of JSON for each request, synced before it is answered. A file for the interpreter of the box, which
has nothing of ours: standard library only, so it knows nothing of the code that signs. Must never live here:
judgements.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

OLDEST_S = 300.0


def is_signed(secret: bytes, headers: dict[str, str], body: bytes) -> bool:
    """As the Standard Webhooks specification has it."""
    identity, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signed = b".".join((identity.encode(), stamp.encode(), body))
    mine = "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    is_fresh = stamp.isdigit() and abs(time.time() - int(stamp)) <= OLDEST_S
    return is_fresh and mine in headers.get("webhook-signature", "").split(" ")


class Handler(BaseHTTPRequestHandler):
    """One request."""

    secret = b""
    out = -1

    def do_POST(self) -> None:
        """A letter."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        is_right = is_signed(self.secret, headers, body)
        event = json.loads(body) if is_right else {}
        told = {"id": headers.get("webhook-id"), "signed": is_right, "event": event}
        os.write(self.out, json.dumps(told).encode() + b"\n")
        os.fsync(self.out)
        self.send_response(204 if is_right else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the file tells."""


def main(port: int, secret_file: str, out: str) -> None:
    """Serve until it is ended."""
    Handler.secret = base64.b64decode(Path(secret_file).read_text().strip().removeprefix("whsec_"))
    Handler.out = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
