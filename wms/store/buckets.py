"""Token buckets in Redis: taking tokens is one script, so no two processes take the same one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from wms.domain.limits import Taken

Evaluate = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]
"""Runs a script with keys and arguments (wms/store/redis.py)."""

# KEYS[1] the bucket; ARGV: limit per minute, tokens wanted. Redis' own clock, so that the processes need not agree on
# the time. The key lives until the bucket is full: a missing bucket is a full one.
SCRIPT = """
local limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local rate = limit / 60000
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(kept[1]) or limit, tonumber(kept[2]) or now
tokens = math.min(limit, tokens + math.max(0, now - at) * rate)
local granted = math.min(wanted, math.floor(tokens + 1e-9))
tokens = math.max(0, tokens - granted)
local full = math.ceil((limit - tokens) / rate)
redis.call('HSET', KEYS[1], 'tokens', string.format('%.9f', tokens), 'at', string.format('%.0f', math.max(now, at)))
redis.call('PEXPIRE', KEYS[1], full + 1000)
local left = math.floor(tokens + 1e-9)
local next = 0
if left == 0 then next = math.ceil((1 - tokens) / rate) end
return {granted, left, next, full}
"""


class RedisBuckets:
    """The buckets that all processes share."""

    def __init__(self, evaluate: Evaluate, unavailable: type[Exception]) -> None:
        """`unavailable` is what `evaluate` raises, soon, while Redis is out of reach."""
        self._evaluate = evaluate
        self._unavailable = unavailable

    async def take(self, name: str, limit: int, wanted: int) -> Taken | None:
        """Take up to `wanted` tokens of the bucket `name`; None while Redis is out of reach."""
        try:
            granted, left, next_ms, full_ms = await self._evaluate(SCRIPT, [key(name)], [limit, wanted])
        except self._unavailable:
            return None
        return Taken(granted, left, next_ms / 1000, full_ms / 1000)


def key(name: str) -> str:
    """The key of a bucket: service:entity:identifier:version (row K2), the identifier being the hash tag."""
    return f"wms:ratelimit:{{{name}}}:1"
