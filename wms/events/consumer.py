"""The consumer: every process hears of every event, and forgets what it makes wrong.

It begins at the end of the stream, with nothing to forget. Sequences are contiguous, so it sees what it missed: a jump
(entries trimmed while it was away) or a stream that ends before the last one seen (Redis lost entries; the relay will
publish the same ones again) makes it drop all copies when it cannot be healed by waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from time import monotonic

from wms.cache import keys
from wms.cache.cache import Cache
from wms.cache_metrics import CacheMetrics
from wms.events.generations import Generations
from wms.events.stream import STREAM, Delivery, delivery, lsn_in, number, pause_s
from wms.store.redis import Redis, RedisUnavailable

_logger = logging.getLogger("wms.events")
BATCH = 500
AWAY_S = 0.25
LOOK_S = 5.0
"""How often an idle consumer compares itself with the end of the stream."""


class Consumer:
    """One process's consumer; `listen` adds others who want to hear of events (they must not block or raise)."""

    def __init__(
        self,
        redis: Redis,
        cache: Cache,
        metrics: CacheMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._cache = cache
        self._metrics = metrics
        self._clock = clock
        self.generations = Generations()
        self._last = -1
        self._looked = 0.0
        self._behind = False
        self._listeners: list[Callable[[Delivery], None]] = [self.generations.take]
        self._task: asyncio.Task[None] | None = None

    def listen(self, listener: Callable[[Delivery], None]) -> None:
        """Call `listener` with each event from now on."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin, if there is a Redis to hear of."""
        if self._redis.configured:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def step(self) -> int:
        """Hear what is new; returns how many events. Raises RedisUnavailable."""
        if self._last < 0:
            self._begin_at(*await self._redis.xlast(STREAM))
        entries = await self._redis.xread(STREAM, f"{self._last}-0", BATCH)
        if not entries and self._clock() - self._looked > LOOK_S:
            await self._compare()
        for entry_id, fields in entries:
            sequence = number(entry_id)
            if sequence != self._last + 1:
                _logger.warning("events %d to %d were missed", self._last + 1, sequence - 1)
                self._missed()
                self.generations.begin(lsn_in(fields))
            self._last = sequence
            found = delivery(fields)
            if found is not None:
                self._take(found)
        self._metrics.sequence.set(self._last)
        if len(entries) < BATCH:
            self.generations.read()
        return len(entries)

    def _take(self, found: Delivery) -> None:
        event = found.event
        self._metrics.latency.observe(max(0.0, self._clock() - event.occurred_at))
        wrong = keys.changed_by(event.tenant_id, event.type, event.entity, event.identifier, event.payload)
        self._cache.forget(map(str, wrong), found.lsn, "event", event.xid)
        for listener in self._listeners:
            listener(found)

    async def _compare(self) -> None:
        """A stream that ends before what was seen gets its entries again within moments; else it is another one."""
        self._looked = self._clock()
        entry_id, fields = await self._redis.xlast(STREAM)
        end = number(entry_id)
        if end >= self._last:
            self._behind = False
        elif not self._behind:
            self._behind = True
        else:
            _logger.warning("the stream ends at %d, before %d: beginning anew", end, self._last)
            self._missed()
            self._begin_at(entry_id, fields)

    def _begin_at(self, entry_id: str, fields: dict[bytes, bytes]) -> None:
        self._last, self._looked, self._behind = number(entry_id), self._clock(), False
        self.generations.begin(lsn_in(fields))

    def _missed(self) -> None:
        self._metrics.gaps.inc()
        self._cache.forget_all()

    async def _run(self) -> None:
        busy_at = 0.0
        while True:
            try:
                heard = await self.step()
                if heard:
                    busy_at = monotonic()
                await asyncio.sleep(0 if heard == BATCH else pause_s(monotonic() - busy_at))
            except RedisUnavailable:
                await asyncio.sleep(AWAY_S)
            except Exception:
                _logger.exception("the consumer failed; it goes on")
                await asyncio.sleep(AWAY_S)
