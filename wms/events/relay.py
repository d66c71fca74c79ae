"""The relay: publishes the outbox, in order, each event once.

Every process runs one; a lease row in the database lets one of them work. What comes next is asked of the stream, not
remembered: the events after its last id. So it does not matter where a relay died or what Redis lost in a failover,
the next turn goes on there. Before an event is published, the entries it makes wrong are buried in Redis: who drops
its own copy because of the event finds no older one there.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

import msgspec

from wms.cache import keys
from wms.cache.cache import Cache
from wms.cache.entry import lsn_of
from wms.cache_metrics import CacheMetrics
from wms.events.stream import MAXLEN, PUBLISH, STREAM, number, pause_s
from wms.store import events
from wms.store.database import Database, Unavailable
from wms.store.redis import Redis, RedisUnavailable

_logger = logging.getLogger("wms.events")

LEASE_S = 3.0
STANDBY_S = 1.0
AWAY_S = 0.5
BATCH = 200
KEEP_S = 15 * 60
FORGET_INTERVAL_S = 30.0


class Relay:
    """One process's relay, named `holder`."""

    def __init__(
        self, database: Database, redis: Redis, cache: Cache, metrics: CacheMetrics, holder: str
    ) -> None:
        self._database = database
        self._redis = redis
        self._cache = cache
        self._metrics = metrics
        self._holder = holder
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if there is a Redis to publish to."""
        if self._redis.configured:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End; the lease runs out by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def turn(self) -> tuple[bool, int]:
        """(whether this process leads, events published). Raises RedisUnavailable, Unavailable."""
        # Before the lease: a process that does not reach Redis must not keep the others from it.
        entry_id, _ = await self._redis.xlast(STREAM)
        last = number(entry_id)
        found = await events.relay_turn(self._database, self._holder, LEASE_S, last, BATCH)
        if found.events:
            await self._publish(found)
        return found.leading, len(found.events)

    async def _publish(self, turn: events.Turn) -> None:
        lsn = lsn_of(turn.lsn)
        wrong = {
            key: event.xid
            for event in turn.events
            for key in keys.changed_by(
                event.tenant_id, event.type, event.entity, event.identifier, event.payload
            )
        }
        await self._cache.bury(wrong, lsn)
        entries: list[str | int | bytes] = [MAXLEN]
        for event in turn.events:
            entries += (f"{event.sequence}-0", lsn, msgspec.json.encode(event))
        added = await self._redis.eval(PUBLISH, [STREAM], entries)
        self._metrics.published.inc(int(added))

    async def _run(self) -> None:
        trouble, busy_at = "", 0.0
        while True:
            try:
                leading, published = await self.turn()
                if published:
                    busy_at = monotonic()
                # A full batch has more behind it.
                wait_s = (
                    0.0 if published == BATCH else pause_s(monotonic() - busy_at) if leading else STANDBY_S
                )
                self._metrics.relaying.set(leading)
                if trouble:
                    _logger.warning("the relay goes on")
                trouble = ""
            except (RedisUnavailable, Unavailable) as error:
                wait_s = AWAY_S
                self._metrics.relaying.set(0)
                if not trouble:
                    _logger.warning("the relay waits: %s", error)
                trouble = str(error)
            except Exception:
                wait_s = AWAY_S
                _logger.exception("the relay failed; it goes on")
            await asyncio.sleep(wait_s)


async def forget(database: Database) -> None:
    """Delete the events that no stream can still need. Raises Unavailable."""
    while await events.forget(database, KEEP_S) == events.FORGET_BATCH:
        await asyncio.sleep(0.1)
