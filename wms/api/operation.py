"""One operation of the API: what is declared is what is decoded, what is described, and what is measured."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from wms.api import conditional, fields, limits
from wms.api.asgi import Exchange, Outgoing, Receive, outgoing
from wms.api.authentication import authenticate, forbidden
from wms.api.conditional import NO_STORE, REVALIDATE, CachePolicy
from wms.api.kept import Answered, Kept
from wms.api.problem import Problem, wrong_field
from wms.api.selection import Selectable
from wms.business_metrics import BusinessMetrics
from wms.cache.cache import Cache, Effect
from wms.cache.entry import lsn_of
from wms.cache.near import Held, Near
from wms.cache_metrics import CacheMetrics
from wms.domain.roles import NOBODY, Principal
from wms.domain.tokens import Tokens
from wms.events.generations import Generations
from wms.metrics import Metrics
from wms.readiness import Check
from wms.settings import RedisSettings, Settings
from wms.store.database import Commit, Database, heard_lsn, wanted_lsn
from wms.store.ended import Ended
from wms.store.keys import ApiKeys
from wms.store.limits import Limiter
from wms.store.redis import Redis

P = TypeVar("P", bound=msgspec.Struct)
B = TypeVar("B")

_encode = msgspec.json.Encoder().encode
JSON = b"application/json"
MIN_LSN = b"wms-min-lsn"
GENERATION = b"wms-generation"
"""Of the gateway alone, which takes a client's away: what it asks for is to show the tenant's changes up to there."""
_LSN = re.compile(rb"[0-9A-F]{1,8}/[0-9A-F]{1,8}")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters, or no body."""


def no_redis() -> Redis:
    """A Redis that is never there."""
    return Redis(RedisSettings(), CacheMetrics(CollectorRegistry()))


def no_cache() -> Cache:
    """A cache that keeps nothing: every read is a load."""
    return Cache(no_redis(), CacheMetrics(CollectorRegistry()), Near(0))


@dataclass(slots=True)
class Services:
    """What handlers work with."""

    settings: Settings
    database: Database
    keys: ApiKeys
    metrics: Metrics
    checks: dict[str, Check]
    tokens: Tokens = field(default_factory=Tokens)
    ended: Ended = field(default_factory=Ended)
    limiter: Limiter = field(default_factory=Limiter)
    redis: Redis = field(default_factory=no_redis)
    cache: Cache = field(default_factory=no_cache)
    kept: Kept = field(default_factory=lambda: Kept(0))
    generations: Generations = field(default_factory=Generations)
    """Of each tenant the LSN that what the gateway keeps of it must not be older than."""
    draining: bool = False


class Call(msgspec.Struct, Generic[P, B], frozen=True):
    """One decoded request; `principal` is NOBODY where no credential is asked for."""

    services: Services
    principal: Principal
    params: P
    body: B
    headers: Mapping[bytes, bytes]
    operation: str = ""
    """Its name."""
    method: str = ""
    path: str = ""
    """As it was asked for, not its template."""

    @property
    def tenant_id(self) -> int:
        """The tenant of the credential; 0 without one."""
        return self.principal.tenant_id


class Reply(msgspec.Struct, frozen=True):
    """One answer; `content` is encoded as JSON unless it is bytes."""

    content: Any
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    media_type: bytes = JSON
    made_of: Held[Any] | None = None
    """What the cache holds, when the answer depends on nothing else but tenant, roles, path and query."""
    commit: Commit | None = None
    """Of a change of a tenant's data."""
    repeated: bool = False
    """Whether the change had been made before, by an earlier request with the same key."""


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
    counted: bool = True
    """Whether requests count on a rate limit."""
    permission: str = ""
    """What the principal must be allowed (wms/domain/roles.py); empty: any credential will do."""
    cache: CachePolicy | None = None
    own_caching: bool = False
    """The handler says by itself what caches may do; else what has no policy is no-store."""
    selection: Selectable | None = None
    changes: Callable[[Call[P, B], Any], Iterable[Effect]] | None = None
    """Of an operation that changes a tenant's data: what that does to the entries of the cache, by the request and the
    content of its answer. It holds before the answer is sent; a test compares every read after every change."""
    counts: Callable[[BusinessMetrics, Any], None] | None = None
    """Counts the change, by the content of its answer."""


def nothing_kept(_call: Call[Any, Any], _content: Any) -> Iterable[Effect]:
    """For `changes`: what it changes is not in the cache."""
    return ()


class Endpoint:
    """An operation at work."""

    def __init__(self, operation: Operation[Any, Any], services: Services) -> None:
        self.method, self.path = operation.method, operation.path
        self._operation = operation
        self._services = services
        self._policy = operation.cache or (None if operation.public else REVALIDATE)
        if operation.method != "GET":
            self._policy = None

    async def answer(self, exchange: Exchange, path_params: Mapping[str, str]) -> Outgoing:
        """The whole answer to one request. Raises Problem, Unavailable."""
        operation, services, headers = self._operation, self._services, exchange.headers
        exchange.route = operation.path
        principal = await self._admit(exchange)
        query: bytes = exchange.scope["query_string"]
        asked = (principal.tenant_id, principal.roles, exchange.path, query)
        if self._policy is not None and MIN_LSN not in headers and GENERATION not in headers:
            kept = services.kept.get(asked)
            if kept is not None:
                answered, made_of = kept
                services.cache.again(made_of)
                return answered.to(headers)
        params = fields.query(query, path_params, operation.params)
        body: Any = None
        if operation.body is not Nothing:
            body = fields.body(await self._body(exchange), operation.body)
        call = Call(
            services, principal, params, body, headers, operation.name, operation.method, exchange.path
        )
        reply = await _handle(operation, call)
        if reply.commit is not None:
            reply = await _settle(operation, call, reply, reply.commit)
        content = reply.content if isinstance(reply.content, bytes) else _encode(reply.content)
        if self._policy is None or reply.status != 200:
            headers_out = reply.headers if operation.own_caching else NO_STORE + reply.headers
            return outgoing(reply.status, content, reply.media_type, headers_out)
        tag = conditional.etag(content)
        caching = ((b"etag", tag), *self._policy.headers(principal.tenant_id, params), *reply.headers)
        answered = Answered(outgoing(200, content, reply.media_type, caching), caching, tag)
        if reply.made_of is not None:
            services.kept.put(asked, answered, reply.made_of)
        return answered.to(headers)

    async def _body(self, exchange: Exchange) -> bytes:
        settings = self._services.settings
        media_type = exchange.headers.get(b"content-type", b"").partition(b";")[0]
        if media_type.strip().lower() != JSON:
            raise Problem(415, "unsupported-media-type", "allowed Content-Type: application/json")
        return await read_body(
            exchange.headers, exchange.receive, settings.max_body_bytes, settings.body_timeout_s
        )

    async def _admit(self, exchange: Exchange) -> Principal:
        """Who asks, once it is counted and allowed. Raises Problem 401, 403, 429, Unavailable."""
        operation, services = self._operation, self._services
        if operation.public:
            if operation.counted:
                await count_stranger(exchange, services)
            return NOBODY
        try:
            principal = await authenticate(exchange.headers, services.keys, services.tokens, services.ended)
        except Problem as problem:
            services.metrics.refused_credentials.labels(problem.errors[0].detail).inc()
            if operation.counted:
                await count_stranger(exchange, services)
            raise
        exchange.tenant_id = principal.tenant_id
        if operation.counted:
            await count(exchange, services, *limits.bucket_of(principal, services.settings))
        if operation.permission and not principal.may(operation.permission):
            raise forbidden(principal, operation.permission)
        return principal


async def count_stranger(exchange: Exchange, services: Services) -> None:
    """Count a request without a good credential on the bucket of its address. Raises Problem 429."""
    await count(exchange, services, *limits.bucket_of_stranger(exchange.scope, services.settings))


async def count(exchange: Exchange, services: Services, bucket: str, limit: int) -> None:
    """Count a request on a bucket, and note what its answer says of it. Raises Problem 429."""
    if not limit:
        return
    decision = await services.limiter.take(bucket, limit)
    exchange.limit = limits.headers_of(decision)
    if not decision.allowed:
        services.metrics.rate_limited.labels(bucket.partition("-")[0]).inc()
        raise limits.too_many(decision)


async def _handle(operation: Operation[Any, Any], call: Call[Any, Any]) -> Reply:
    """Run the handler; what it reads is not older than the request's WMS-Min-LSN, nor than its generation.

    Raises Problem 400 for a malformed WMS-Min-LSN, 503 when the handler does not end in time.
    """
    lsn, generation = call.headers.get(MIN_LSN), call.headers.get(GENERATION)
    if lsn is not None and not _LSN.fullmatch(lsn):
        raise wrong_field("WMS-Min-LSN", "header", "malformed", "the WMS-Commit-LSN of an earlier answer")
    if generation is not None and not _LSN.fullmatch(generation):
        raise wrong_field("WMS-Generation", "header", "malformed", "none: it is the gateway's")
    token = wanted_lsn.set(lsn.decode() if lsn is not None else None)
    heard = heard_lsn.set(generation.decode() if generation is not None else None)
    try:
        async with asyncio.timeout(call.services.settings.request_timeout_s):
            return await operation.handler(call)
    except TimeoutError:
        raise Problem(
            503, "unavailable", "the answer was not ready in time", headers={"retry-after": "1"}
        ) from None
    finally:
        wanted_lsn.reset(token)
        heard_lsn.reset(heard)


async def _settle(
    operation: Operation[Any, Any], call: Call[Any, Any], reply: Reply, commit: Commit
) -> Reply:
    """After a change, before its answer: no cache of this process, of Redis or of the gateway gives the state before it
    to whoever asks with the answer's WMS-Commit-LSN, nor this process to anybody.
    """
    if operation.changes is None:
        raise RuntimeError(f"{operation.name} does not say what it changes")
    services = call.services
    if await services.cache.apply(operation.changes(call, reply.content), commit):
        # What the gateway asks for under this generation may come from Redis: only now it has nothing older. Else the
        # event raises it, once the relay has seen to that.
        services.generations.rise(call.tenant_id, lsn_of(commit.lsn))
    headers = ((b"wms-commit-lsn", commit.lsn.encode()), *reply.headers)
    if reply.repeated:
        return msgspec.structs.replace(reply, headers=((b"idempotency-replayed", b"true"), *headers))
    if operation.counts is not None:
        operation.counts(services.metrics.business, reply.content)
    return msgspec.structs.replace(reply, headers=headers)


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
