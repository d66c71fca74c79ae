"""A service that does what a test tells it, at the addresses of a platform's services and with their certificates. It
remembers what it was asked.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Asked:
    """A request that arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Given:
    """An answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    delay_s: float = 0


class Origin:
    """`credentials`: Authorization → (tenant, scope); `answers`: path without query → what is answered there, given
    the tenant ("" without a known credential) and the number of requests to that path so far.
    """

    def __init__(self) -> None:
        self.credentials: dict[str, tuple[str, str]] = {}
        self.generation = "0"
        self.session = "max-age=3, stale-while-revalidate=2, stale-if-error=300"
        self.answers: dict[str, Callable[[str, int], Given]] = {}
        self.asked: list[Asked] = []
        self.down = False
        self._lock = threading.Lock()

    def count(self, path: str) -> int:
        """How many requests for `path`, its query aside, have arrived."""
        return sum(1 for each in self.asked if each.path.partition("?")[0] == path)

    def answer(self, asked: Asked) -> Given:
        path = asked.path.partition("?")[0]
        with self._lock:
            number = self.count(path)
            self.asked.append(asked)
        known = self.credentials.get(asked.headers.get("authorization", ""))
        if self.down:
            return Given(503, {"cache-control": "no-store", "retry-after": "1"}, b'{"status":503}')
        if path == "/internal/session":
            if known is None:
                return Given(401, {"cache-control": "no-store"})
            tenant, scope = known
            headers = {"x-wms-tenant": tenant, "x-wms-scope": scope, "x-wms-generation": self.generation}
            return Given(204, {"cache-control": self.session, **headers}, b"")
        if path not in self.answers:
            return Given(404, {"cache-control": "no-store"}, b'{"status":404}')
        return self.answers[path](known[0] if known else "", number)


@contextmanager
def serving(origin: Origin, places: dict[tuple[str, int], Path]) -> Iterator[None]:
    """`origin` at every (address, port), each with its certificate and key in one PEM file."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            lowered = {name.lower(): value for name, value in self.headers.items()}
            given = origin.answer(Asked(self.command, self.path, lowered))
            time.sleep(given.delay_s)
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            if given.status != 204:
                self.send_header("content-length", str(len(given.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(given.body)

        do_GET = do_HEAD = do_POST = do_PUT = _do

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: pytest shows what matters."""

    servers: list[ThreadingHTTPServer] = []
    try:
        for (address, port), certificate in places.items():
            server = ThreadingHTTPServer((address, port), Handler)
            server.daemon_threads = True
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            servers.append(server)
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
