"""A request as the server hands it over (ASGI), and the answer as a whole before anything of it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

UNMATCHED = "unmatched"


class Exchange:
    """One request on its way, and what is learnt of it for its measurement, its log line and its answer's headers."""

    __slots__ = ("headers", "limit", "method", "path", "receive", "route", "scope", "tenant_id")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.route = UNMATCHED
        """The template of the path, once it is known."""
        self.tenant_id: int | None = None
        self.limit: Headers = ()
        """What the answer says of the rate limit."""


class Outgoing(msgspec.Struct, frozen=True):
    """An answer with all headers but those of its request."""

    status: int
    headers: Headers
    content: bytes = b""


def outgoing(status: int, content: bytes, media_type: bytes, headers: Headers) -> Outgoing:
    """An answer with a body, described."""
    described = ((b"content-type", media_type), (b"content-length", b"%d" % len(content)))
    return Outgoing(status, described + headers, content)
