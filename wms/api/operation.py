"""One operation of the API: what is declared is what is decoded, what is described, and what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from wms.api import fields
from wms.api.problem import Problem, wrong_field
from wms.metrics import Metrics
from wms.readiness import Check
from wms.settings import Settings
from wms.store.database import Database
from wms.store.keys import ApiKeys

P = TypeVar("P", bound=msgspec.Struct)
B = TypeVar("B")

_encode = msgspec.json.Encoder().encode
JSON = b"application/json"


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters, or no body."""


@dataclass(slots=True)
class Services:
    """What handlers work with."""

    settings: Settings
    database: Database
    keys: ApiKeys
    metrics: Metrics
    checks: dict[str, Check]
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Call(Generic[P, B]):
    """One decoded request; `tenant_id` is 0 where no credential is asked for."""

    services: Services
    tenant_id: int
    params: P
    body: B
    headers: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; `content` is encoded as JSON unless it is bytes."""

    content: Any
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    media_type: bytes = JSON


@dataclass(frozen=True, slots=True)
class Answer:
    """A declared answer: the type of its content and when it is given."""

    kind: Any
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[P, B]):
    """A route. `path` is the whole template; fields of `params` named in it come from there, others from the
    query.

    `answers` maps statuses to what they carry; `problems` those that carry a problem, beyond the ones every
    operation may give.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Callable[[Call[P, B]], Awaitable[Reply]]
    params: type[P]
    answers: Mapping[int, Answer]
    body: Any = Nothing
    problems: Mapping[int, str] = field(default_factory=dict)
    header_params: Mapping[str, str] = field(default_factory=dict)
    public: bool = False
    description: str = ""


class Endpoint:
    """An operation as an ASGI application."""

    def __init__(self, operation: Operation[Any, Any], services: Services) -> None:
        self._operation = operation
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, services = self._operation, self._services
        scope["wms.route"] = operation.path
        headers = dict(scope["headers"])
        tenant_id = 0
        if not operation.public:
            tenant_id = await _authenticate(headers, services.keys)
            scope["wms.tenant"] = tenant_id
        params = fields.query(scope["query_string"], scope["path_params"], operation.params)
        body: Any = None
        if operation.body is not Nothing:
            if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != JSON:
                raise Problem(415, "unsupported-media-type", "allowed Content-Type: application/json")
            raw = await read_body(
                headers, receive, services.settings.max_body_bytes, services.settings.body_timeout_s
            )
            body = fields.body(raw, operation.body)
        reply = await operation.handler(Call(services, tenant_id, params, body, headers))
        content = reply.content if isinstance(reply.content, bytes) else _encode(reply.content)
        await send_answer(send, reply.status, content, reply.media_type, reply.headers)


async def _authenticate(headers: Mapping[bytes, bytes], keys: ApiKeys) -> int:
    """The tenant of the request's API key. Raises Problem 401."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    challenge = {"www-authenticate": 'Bearer realm="wms"'}
    if scheme.lower() != b"bearer" or not key:
        raise Problem(401, "unauthenticated", "send Authorization: Bearer <API key>", headers=challenge)
    tenant_id = await keys.tenant_of(key.strip().decode("latin-1")) if len(key) <= 256 else None
    if tenant_id is None:
        raise Problem(401, "unauthenticated", "this API key is unknown or revoked", headers=challenge)
    return tenant_id


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The whole body, at most `limit` bytes and within `timeout_s`.

    Raises Problem 400 (bad length, connection lost), 408 (too slow), 413 (too large).
    """
    too_large = Problem(413, "body-too-large", f"allowed: {limit} bytes")
    length = headers.get(b"content-length")
    if length is not None:
        if not length.isdigit():
            raise wrong_field("Content-Length", "header", "not a number", "a decimal number")
        if len(length) > 12 or int(length) > limit:
            raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "incomplete-body", "the connection ended within the body")
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Problem(408, "body-too-slow", f"the body did not arrive within {timeout_s:g} s") from None


async def send_answer(
    send: Send, status: int, content: bytes, media_type: bytes, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    """Send a whole answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type),
                (b"content-length", b"%d" % len(content)),
                (b"cache-control", b"no-store"),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": content})
