"""The token bucket (row A3). Pure: no clock, no I/O.

A bucket of `limit` tokens fills up within a minute; a request takes one. So `limit` requests may come at once, and
`limit` a minute can go on for ever. The script in wms/store/limits.py does the same in Redis.
"""

from __future__ import annotations

import math

import msgspec

PERIOD_S = 60.0


class Bucket(msgspec.Struct, frozen=True):
    """`tokens` at the time `at`, seconds of any clock."""

    tokens: float
    at: float


class Taken(msgspec.Struct, frozen=True):
    """What a bucket gave: `granted` tokens, of which `left` whole ones are still in it; seconds until there is another
    one and until it is full.
    """

    granted: int
    left: int
    next_s: float
    full_s: float


class Decision(msgspec.Struct, frozen=True):
    """Whether a request may go on, and what the client is told; seconds rounded up."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: int = 0


def take(bucket: Bucket, limit: float, now: float, wanted: int = 1) -> tuple[Bucket, Taken]:
    """Take up to `wanted` tokens at the time `now`; `limit` > 0 is per minute. A clock that goes back adds nothing."""
    rate = limit / PERIOD_S
    tokens = min(limit, bucket.tokens + max(0.0, now - bucket.at) * rate)
    # A token is there a billionth early: sums of fractions fall short of whole numbers.
    granted = min(wanted, math.floor(tokens + 1e-9))
    rest = max(0.0, tokens - granted)
    left = math.floor(rest + 1e-9)
    next_s = 0.0 if left else (1 - rest) / rate
    return Bucket(rest, max(now, bucket.at)), Taken(granted, left, next_s, (limit - rest) / rate)


def lease(limit: int) -> int:
    """How many tokens a process takes at once: a hundredth of a minute's, so that one of a hundred requests asks Redis.

    Within any minute the processes together let through at most processes x lease requests more than the bucket alone
    would: those leased in an earlier one. A client may be refused while other processes hold as many.
    """
    return max(1, limit // 100)
