"""The least that the service's server can do, with the service's settings: one process, one fixed answer.

WMS_BIND_ADDRESS=… python -m bench.hello
"""

from __future__ import annotations

import os
from typing import Any

import uvloop

from wms.server import granian_server
from wms.settings import load

_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
_BODY = {"type": "http.response.body", "body": b'{"status":"hello"}'}


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything."""
    await send(_START)
    await send(_BODY)


if __name__ == "__main__":
    uvloop.run(granian_server(load(os.environ)).serve(hello))
