"""The application: its operations, and the tasks that run beside them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Any

import msgspec

from wms import VERSION
from wms.api import (
    accounts,
    analytics,
    api_keys,
    configuration,
    customers,
    health,
    locations,
    movements,
    openapi,
    orders,
    picks,
    receipts,
    session,
    shipments,
    skus,
    stock,
    tokens,
    warehouses,
    warming,
    waves,
)
from wms.api.asgi import ASGIApp
from wms.api.conditional import CachePolicy
from wms.api.envelope import Envelope
from wms.api.kept import Kept
from wms.api.operation import Answer, Call, Endpoint, Nothing, Operation, Reply, Services
from wms.api.routing import Routes
from wms.cache.cache import Cache
from wms.cache.near import Near
from wms.domain.tokens import Tokens
from wms.events.consumer import Consumer
from wms.events.relay import Relay
from wms.events.relay import forget as forget_events
from wms.log import FLUSH_INTERVAL_S, RequestLog
from wms.metrics import Metrics
from wms.migrations import files
from wms.readiness import UNSEEN, Check, schema_check
from wms.settings import Settings
from wms.store.accounts import FORGET_BATCH as SESSION_BATCH
from wms.store.accounts import forget_sessions
from wms.store.buckets import RedisBuckets
from wms.store.database import Database, Role, Unavailable
from wms.store.ended import POLL_S
from wms.store.keys import FORGET_BATCH, ApiKeys, forget_idempotency_keys
from wms.store.limits import Limiter
from wms.store.redis import Redis, RedisUnavailable

_logger = logging.getLogger("wms")
FORGET_INTERVAL_S = 600.0
PROBE_TIMEOUT_S = 1.0


async def describe(_call: Call[Nothing, Nothing]) -> Reply:
    """This description."""
    return Reply(_description())


@cache
def _description() -> bytes:
    return msgspec.json.encode(openapi.document(OPERATIONS))


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    *stock.OPERATIONS,
    *movements.OPERATIONS,
    *skus.OPERATIONS,
    *receipts.OPERATIONS,
    *warehouses.OPERATIONS,
    *locations.OPERATIONS,
    *picks.OPERATIONS,
    *orders.OPERATIONS,
    *waves.OPERATIONS,
    *shipments.OPERATIONS,
    *customers.OPERATIONS,
    *analytics.OPERATIONS,
    *tokens.OPERATIONS,
    *accounts.OPERATIONS,
    *api_keys.OPERATIONS,
    *configuration.OPERATIONS,
    *health.OPERATIONS,
    Operation(
        method="GET",
        path="/api/v1/openapi.json",
        name="getDescription",
        summary="This description",
        handler=describe,
        params=Nothing,
        answers={200: Answer(dict[str, Any], "OpenAPI 3.1.")},
        public=True,
        cache=CachePolicy(browser_s=300, surrogate_s=300, keys=("description",)),
    ),
)


def routes(operations: Iterable[Operation[Any, Any]], services: Services) -> Routes[Endpoint]:
    """The operations at work."""
    return Routes(Endpoint(operation, services) for operation in operations)


class Application:
    """Everything of one process but its server: start, serve through `asgi`, drain, stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        metrics = Metrics(VERSION, settings.instance, settings.zone)
        database = Database(settings, metrics, settings.app)
        # No handler gets it: what it may call sees all tenants.
        self.worker = Database(settings, metrics, settings.worker, "worker_")
        metrics.watch_pools(lambda: database.stats() | self.worker.stats())
        redis = Redis(settings.redis, metrics.cache)
        cache = Cache(redis, metrics.cache, Near(settings.near_entries))
        self.services = Services(
            settings=settings,
            database=database,
            keys=ApiKeys(database, settings.api_key_ttl_s),
            metrics=metrics,
            checks={"database_write": UNSEEN, "database_read": UNSEEN},
            tokens=Tokens(settings.jwt_keys),
            limiter=Limiter(
                RedisBuckets(redis.eval, RedisUnavailable).take if redis.configured else None,
                processes=settings.rate_processes,
                on_local=metrics.rate_limited_locally.inc,
            ),
            redis=redis,
            cache=cache,
            kept=Kept(settings.near_entries),
        )
        if redis.configured:
            self.services.checks["redis"] = UNSEEN
        self._relay = Relay(self.worker, redis, cache, metrics.cache, settings.instance)
        self._consumer = Consumer(redis, cache, metrics.cache)
        self.services.generations = self._consumer.generations
        self._schedule = warming.Schedule(self.services, self.worker)
        self._log = RequestLog(settings.access_log, settings.instance)
        # What the gateway asks is no part of the description: nobody else can.
        known = routes((*OPERATIONS, *session.OPERATIONS), self.services)
        self._envelope = Envelope(known, self.services, self._log)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def asgi(self) -> ASGIApp:
        """What a server calls; it expects no lifespan messages."""
        return self._envelope

    async def start(self) -> None:
        """Begin connecting and probing; the database may be away."""
        await self.connect()
        self._relay.start()
        self._consumer.start()
        self._tasks = [
            asyncio.create_task(self._forever(self._probe("write"), self._settings.probe_interval_s)),
            asyncio.create_task(self._forever(self._probe("read"), self._settings.probe_interval_s)),
            asyncio.create_task(self._forever(self._forget, FORGET_INTERVAL_S)),
            asyncio.create_task(self._forever(self._flush, FLUSH_INTERVAL_S)),
            asyncio.create_task(self._forever(self._hear, POLL_S)),
            asyncio.create_task(self._forever(self._schedule.check, warming.CHECK_S)),
        ]
        if self.services.redis.configured:
            self._tasks += [
                asyncio.create_task(self._forever(self._probe_redis, self._settings.probe_interval_s)),
                asyncio.create_task(self._forever(self._answer, warming.LOOK_S)),
            ]

    async def connect(self) -> None:
        """Begin connecting; the servers may be away."""
        await asyncio.gather(self.services.database.open(), self.worker.open())
        self.services.redis.start()

    async def disconnect(self) -> None:
        """Close all connections."""
        await self.services.redis.close()
        await asyncio.gather(self.services.database.close(), self.worker.close())

    def drain(self) -> None:
        """From now on readiness says 503 and kept connections are closed with their next answer."""
        self.services.draining = True

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no request is being answered; False when some still are after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._envelope.in_flight:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End the tasks, close the pools, write the last log lines."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._relay.close()
        await self._consumer.close()
        await self.disconnect()
        self._log.flush()

    async def _forever(self, step: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while True:
            try:
                await step()
            except Unavailable as error:
                _logger.warning("background task: %s", error)
            except Exception:
                # A background task that ended would go unnoticed until it is missed.
                _logger.exception("background task failed; it goes on")
            # Jitter: the processes of a platform start together and should not ask together for ever.
            await asyncio.sleep(interval_s * (0.9 + 0.2 * random.random()))

    def _probe(self, role: Role) -> Callable[[], Awaitable[None]]:
        name = f"database_{role}"
        services = self.services

        async def probe() -> None:
            try:
                check = schema_check(await services.database.probe(role, PROBE_TIMEOUT_S), files.latest())
            except Unavailable as error:
                check = Check(False, str(error))
            if check.ok != services.checks[name].ok:
                _logger.warning("%s: %s", name, check.detail or "ok")
            services.checks[name] = check
            services.metrics.database_up.labels(role).set(check.ok)

        return probe

    async def _probe_redis(self) -> None:
        """Redis away: degraded, and never more than that."""
        services = self.services
        ok = services.redis.healthy
        if ok != services.checks["redis"].ok:
            _logger.warning("redis: %s", "ok" if ok else "away")
        services.checks["redis"] = Check(ok, "" if ok else "does not answer, or a part of it")

    async def _answer(self) -> None:
        await warming.look_for_requests(self._schedule)

    async def _forget(self) -> None:
        while await forget_idempotency_keys(self.worker) == FORGET_BATCH:
            await asyncio.sleep(0.1)
        while await forget_sessions(self.worker) == SESSION_BATCH:
            await asyncio.sleep(0.1)
        await forget_events(self.worker)

    async def _hear(self) -> None:
        await self.services.ended.hear(self.worker, self.services.keys)

    async def _flush(self) -> None:
        self._log.flush()
