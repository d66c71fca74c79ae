"""Rate limits over all processes: tokens leased from shared buckets in small batches.

A request costs no round trip while its process holds tokens of the bucket. When they are used up, one call leases the
next batch (wms.domain.limits.lease says how many and what that costs in precision); requests that come meanwhile wait
for that call. A bucket that is empty is not asked again before it has a token.

Without Redis, each process keeps a bucket of its own with its share of the limit (limit / processes): the gateways
spread requests evenly, so the sum stays about the limit. It is never open. It begins with the process's share of what
was last known to be left.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

from wms.domain.limits import Bucket, Decision, Taken, lease, take

HELD_BUCKETS = 20_000
"""Most buckets a process remembers; the least recently used is forgotten, its leased tokens with it."""

Shared = Callable[[str, int, int], Awaitable[Taken | None]]
"""(name, limit, tokens wanted) → what the bucket that all processes share gave; None while it is out of reach."""


@dataclass(slots=True)
class _Held:
    """What this process knows of a bucket: tokens leased, tokens left in Redis at the last look; times by its clock."""

    tokens: int = 0
    left: int = -1
    full_at: float = 0.0
    blocked_until: float = 0.0
    local: Bucket | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limiter:
    """Decides for every request of this process, one of `processes`."""

    def __init__(
        self,
        shared: Shared | None = None,
        processes: int = 1,
        clock: Callable[[], float] = monotonic,
        on_local: Callable[[], None] = lambda: None,
    ) -> None:
        self._shared = shared
        self._processes = processes
        self._clock = clock
        self._on_local = on_local
        self._held: OrderedDict[str, _Held] = OrderedDict()

    async def take(self, name: str, limit: int) -> Decision:
        """Take one token of the bucket `name` with `limit` > 0 tokens a minute; never raises for a Redis that is away.

        `name` stays within A-Z a-z 0-9 . _ -: it becomes a part of a key.
        """
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = _Held()
            if len(self._held) > HELD_BUCKETS:
                self._held.popitem(last=False)
        else:
            self._held.move_to_end(name)
        while True:
            now = self._clock()
            if held.tokens > 0:
                held.tokens -= 1
                remaining = held.tokens + max(0, held.left)
                return Decision(True, limit, remaining, max(0, math.ceil(held.full_at - now)))
            if now < held.blocked_until:
                return Decision(
                    False,
                    limit,
                    0,
                    max(1, math.ceil(held.full_at - now)),
                    max(1, math.ceil(held.blocked_until - now)),
                )
            async with held.lock:
                # Whoever waited here finds what the one before has leased.
                if held.tokens == 0 and self._clock() >= held.blocked_until:
                    await self._lease(held, name, limit)

    async def _lease(self, held: _Held, name: str, limit: int) -> None:
        """Afterwards `held` has tokens or is blocked."""
        taken = await self._shared(name, limit, lease(limit)) if self._shared is not None else None
        if taken is not None:
            held.left, held.local = taken.left, None
        if taken is None:
            taken = self._take_locally(held, limit)
        now = self._clock()
        held.tokens = taken.granted
        held.full_at = now + taken.full_s
        if not taken.granted:
            # At least a millisecond: a block that is over at once would be asked about without end.
            held.blocked_until = now + max(taken.next_s, 0.001)

    def _take_locally(self, held: _Held, limit: int) -> Taken:
        self._on_local()
        now = self._clock()
        # Less than one token would never be enough for a request.
        share = max(1.0, limit / self._processes)
        if held.local is None:
            start = share if held.left < 0 else min(share, held.left / self._processes)
            held.local = Bucket(start, now)
        held.local, taken = take(held.local, share, now)
        held.left = taken.left
        return taken
