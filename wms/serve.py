"""`python -m wms.serve`: one process, one event loop, one port, configured by environment variables
(wms.settings).

SIGTERM or SIGINT drains: readiness says 503 for WMS_DRAIN_MS while everything is still answered, then no more
connections are accepted and the last answers are waited for, at most WMS_SHUTDOWN_MS. Exit code 0 after that,
1 when the port cannot be had or the server fails, 2 on wrong settings.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys

import uvloop

from wms import log
from wms.api.app import Application
from wms.server import Server, granian_server
from wms.settings import Settings, SettingsError, load

_logger = logging.getLogger("wms")


def main() -> int:
    """Serve until told to stop; returns the exit code."""
    try:
        settings = load(os.environ)
    except SettingsError as error:
        print(f"wms.serve: wrong settings:\n{error}", file=sys.stderr)
        return 2
    log.configure(settings.log_level)
    try:
        _claim(settings.bind_address, settings.bind_port)
    except OSError as error:
        place = f"{settings.bind_address}:{settings.bind_port}"
        print(
            f"wms.serve: cannot listen on {place}: {error.strerror}; "
            "change WMS_BIND_ADDRESS or WMS_BIND_PORT, or stop what holds it",
            file=sys.stderr,
        )
        return 1
    return uvloop.run(serve(settings, granian_server(settings)))


async def serve(settings: Settings, server: Server) -> int:
    """Run the application under `server` until a signal; returns the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    application = Application(settings)
    await application.start()
    # What exists now lives as long as the process: no collection need look at it again.
    gc.collect()
    gc.freeze()
    serving = asyncio.create_task(server.serve(application.asgi))
    stopping = asyncio.create_task(stop.wait())
    _logger.info("%s serves on %s:%d", settings.instance, settings.bind_address, settings.bind_port)
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        _logger.error("the server ended by itself", exc_info=serving.exception())
        stopping.cancel()
        await application.stop()
        return 1
    _logger.info("draining for %g s", settings.drain_s)
    application.drain()
    await asyncio.wait((serving,), timeout=settings.drain_s)
    server.stop()
    if not await application.idle(settings.shutdown_s):
        _logger.warning("some requests are cut off after %g s", settings.shutdown_s)
    await asyncio.wait((serving,), timeout=1.0)
    await application.stop()
    _logger.info("stopped")
    return 0


def _claim(address: str, port: int) -> None:
    """Raises OSError when somebody listens there already: the server shares ports (SO_REUSEPORT) and would
    not tell.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        probe.listen(1)


if __name__ == "__main__":
    sys.exit(main())
