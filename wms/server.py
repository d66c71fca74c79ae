"""The HTTP server behind a small interface, so that another can take its place."""

from __future__ import annotations

from typing import Protocol

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from wms.api.asgi import ASGIApp
from wms.settings import Settings

BACKLOG = 1024
_HEADER_TIMEOUT_MS = 10_000
_HEAD_AND_BODY_BUFFER = 128 * 1024


class Server(Protocol):
    """Serves one ASGI application in the running event loop."""

    async def serve(self, app: ASGIApp) -> None:
        """Accept connections until `stop`; raises what keeps it from that."""

    def stop(self) -> None:
        """Accept no more, and let `serve` return."""


class _GranianServer:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: Granian | None = None

    async def serve(self, app: ASGIApp) -> None:
        settings = self._settings
        self._server = Granian(
            app,
            address=settings.bind_address,
            port=settings.bind_port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=BACKLOG,
            # Concurrent requests; the rest waits in the socket.
            backpressure=BACKLOG,
            http1_settings=HTTP1Settings(
                header_read_timeout=_HEADER_TIMEOUT_MS, max_buffer_size=_HEAD_AND_BODY_BUFFER
            ),
            runtime_threads=1,
            runtime_blocking_threads=1,
            log_enabled=False,
            ssl_cert=settings.tls_cert,
            ssl_key=settings.tls_key,
            ssl_protocol_min=SSLProtocols.tls12,
        )
        await self._server.serve()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()  # type: ignore[no-untyped-call]


def granian_server(settings: Settings) -> Server:
    """Granian in this process and loop: no second process, so half the memory of its own runner."""
    return _GranianServer(settings)
