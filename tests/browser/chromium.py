"""Headless Chromium with pages of ours, what they tell and tell each other: an HTTP server and a process.

Must never live here: what a page should have told.
"""

from __future__ import annotations

import collections
import contextlib
import http.server
import json
import queue
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIGNAL = "/signal/"
POLL_S = 0.5  # that a page waits for a signal before it asks again
BINARY = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",
)


class Page:
    """Serves the files beside it, keeps what the page posts, and takes signals from page to page."""

    def __init__(self) -> None:
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()
        told = self.told
        signals: collections.defaultdict[str, queue.Queue[bytes]] = collections.defaultdict(queue.Queue)

        class Answers(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(HERE))

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path.startswith(SIGNAL):
                    signals[self.path].put(data)
                else:
                    told.put(json.loads(data))
                self.send_response(204)
                self.end_headers()

            def do_GET(self) -> None:
                if not self.path.startswith(SIGNAL):
                    super().do_GET()
                    return
                try:
                    data = signals[self.path].get(timeout=POLL_S)
                except queue.Empty:
                    self.send_response(204)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextlib.contextmanager
    def opened(
        self, facts: dict[str, Any], page: str = "page.html", flags: Sequence[str] = ()
    ) -> Iterator[None]:
        """The page in a browser with an empty profile, which is ended at the end."""
        assert BINARY is not None
        address = f"{self.origin}/{page}#{urllib.parse.quote(json.dumps(facts))}"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [
                BINARY,
                *FLAGS,
                *flags,
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                address,
            ]
            browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                yield
            finally:
                browser.terminate()
                browser.wait()
