"""Warming (row K5): what is likely to be asked for is loaded before somebody asks, by the loaders of the handlers.

When: at the start of a process; configuration every hour; everything after the daily ABC classification; on demand by
`python -m wms.warm` or by a request that an operator leaves in Redis (`wmsctl cache warm`). Each run is one
process's, by a claim in the database (claim_job); an entry that is still good is only looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Literal

import msgspec

from wms.api import cached
from wms.api.operation import Services
from wms.store import events
from wms.store.database import Database, Unavailable
from wms.store.redis import RedisUnavailable

_logger = logging.getLogger("wms.warm")

What = Literal["configuration", "layouts", "skus", "all"]
TOP_SKUS = 1000
"""Row K5."""
RECENT_HOURS = 24
AT_ONCE = 4
"""Loads at a time: warming must leave the read pool to requests."""
ABC_DAYS = 90
HOUR_S, DAY_S = 3600, 24 * 3600
START_S = 5 * 60
"""Processes that start within the lifetime of operational entries warm once together."""
CLAIM_S = 600
SETTLE_S = 2.0
"""From a classification until its events have made their entries wrong: what is warmed before is lost again."""
CHECK_S = 30.0
LOOK_S = 1.0
JOBS = START, CONFIGURATION, CLASSIFICATION = ("cache.start", "cache.configuration", "stock.abc")
REQUEST = "wms:warm:{request}:1"
RESULT = "wms:warm:{request}-result:1"
RESULT_TTL_S = 300.0


class Warmed(msgspec.Struct, frozen=True):
    """How many entries were made sure of, and in which time."""

    instance: str
    what: str
    entries: int
    failed: int
    took_s: float


async def warm(services: Services, worker: Database, what: What) -> Warmed:
    """Make sure that the entries of `what` are in the cache; `worker` tells of which tenants they are.

    Raises Unavailable when not even the list can be read.
    """
    started = monotonic()
    work: list[Callable[[], Awaitable[object]]] = []
    if what != "skus":
        places = await events.warehouses(worker)
        tenants = sorted({tenant for tenant, _warehouse in places})
        if what in ("configuration", "all"):
            work += [lambda t=tenant: cached.configuration(services, t) for tenant in tenants]  # type: ignore[misc]
        if what in ("layouts", "all"):
            work += [lambda t=tenant: cached.warehouses(services, t) for tenant in tenants]  # type: ignore[misc]
            work += [
                lambda t=tenant, w=warehouse: cached.capacity(services, t, w)  # type: ignore[misc]
                for tenant, warehouse in places
                if warehouse is not None
            ]
    if what in ("skus", "all"):
        for tenant, code in await events.likely_skus(worker, RECENT_HOURS, TOP_SKUS):
            work.append(lambda t=tenant, c=code: cached.stock(services, t, c))  # type: ignore[misc]
            work.append(lambda t=tenant, c=code: cached.sku(services, t, c))  # type: ignore[misc]
    failed = await _all(work)
    return Warmed(
        services.settings.instance, what, len(work) - failed, failed, round(monotonic() - started, 3)
    )


async def _all(work: Iterable[Callable[[], Awaitable[object]]]) -> int:
    """Do everything, a few at a time; returns how many failed."""
    queue, failed = iter(work), 0

    async def worker() -> None:
        nonlocal failed
        for load in queue:
            try:
                await load()
            except Unavailable:
                failed += 1
                # The database is in trouble: it has no time for this.
                await asyncio.sleep(0.1)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return failed


class Schedule:
    """The jobs of one process, and when they are due for all processes together."""

    def __init__(self, services: Services, worker: Database) -> None:
        self._services = services
        self._worker = worker
        self._fresh = True

    async def check(self) -> None:
        """Do what is due. Raises Unavailable."""
        if self._fresh:
            await self._job(START, START_S, lambda: self._warm("all"))
            self._fresh = False
        await self._job(CONFIGURATION, HOUR_S, lambda: self._warm("configuration"))
        await self._job(CLASSIFICATION, DAY_S, self._classify)

    async def answer(self) -> None:
        """Do what an operator asked for, if no other process took it. Raises RedisUnavailable, Unavailable."""
        if not self._services.redis.available:
            return
        raw = await self._services.redis.take(REQUEST)
        if raw is None:
            return
        try:
            what = msgspec.convert(raw.decode(errors="replace"), What)
        except msgspec.ValidationError:
            _logger.warning("somebody asked to warm something unknown")
            return
        result = await self._warm(what)
        _logger.info("warmed %s on demand: %d entries in %.1f s", what, result.entries, result.took_s)
        await self._services.redis.set(RESULT, msgspec.json.encode(result), RESULT_TTL_S)

    async def _classify(self) -> None:
        changed = await events.classify_abc(self._worker, ABC_DAYS)
        _logger.info("ABC classes: %d SKUs changed", changed)
        await asyncio.sleep(SETTLE_S)
        await self._warm("skus")

    async def _warm(self, what: What) -> Warmed:
        return await warm(self._services, self._worker, what)

    async def _job(self, name: str, every_s: int, work: Callable[[], Awaitable[object]]) -> None:
        worker, instance = self._worker, self._services.settings.instance
        if not await events.claim_job(worker, name, instance, every_s, CLAIM_S):
            return
        started = monotonic()
        await work()
        await events.finish_job(worker, name, instance)
        _logger.info("%s done in %.1f s", name, monotonic() - started)


async def look_for_requests(schedule: Schedule) -> None:
    """One look; Redis being away is nobody's error here."""
    try:
        await schedule.answer()
    except RedisUnavailable:
        return
