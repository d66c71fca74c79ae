"""The least that the service's server can do: `python -m bench.hello ADDRESS`, one process, one fixed answer."""

from __future__ import annotations

import sys
from typing import Any

import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

PORT = 8000
_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
_BODY = {"type": "http.response.body", "body": b'{"status":"hello"}'}


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer everything."""
    await send(_START)
    await send(_BODY)


if __name__ == "__main__":
    uvloop.run(Server(hello, address=sys.argv[1], port=PORT, interface=Interfaces.ASGINL).serve())
