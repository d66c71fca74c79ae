"""How long entries live (row K4), and when they are loaded anew before they end. Pure."""

from __future__ import annotations

import math

IMMUTABLE_S = 24 * 3600.0
CONFIGURATION_S = 3600.0
USER_S = 30 * 60.0
OPERATIONAL_S = 5 * 60.0

LIFETIMES = {
    "inventory:sku": OPERATIONAL_S,
    "inventory:stock": OPERATIONAL_S,
    "inventory:location": OPERATIONAL_S,
    "warehouse:capacity": OPERATIONAL_S,
    "warehouse:layout": CONFIGURATION_S,
    "order": OPERATIONAL_S,
    "configuration:entries": CONFIGURATION_S,
    "user:permissions": USER_S,
}
"""Seconds by kind of key. A layout changes as rarely as a configuration."""

NEGATIVE_S = 30.0
"""How long "there is none" is believed: it shields the database from a client that asks on and on."""

NEAR_S = 2.0
"""How long a process believes its own copy: the bound of staleness while events do not arrive."""

TOMBSTONE_S = 60.0
"""How long an invalidated key remembers the write that a replica must have replayed before it may fill it again. A
replica that is further behind has left the read pool long before (row D3: 1000 ms)."""

JITTER = 0.1
BETA = 1.0
"""Of XFetch: 1 is optimal in theory; greater refreshes earlier."""


def lifetime_s(kind: str, there: bool, random: float) -> float:
    """Seconds an entry of `kind` lives; shortened by up to a tenth by `random` (0 to 1), so that what was loaded
    together does not end together. Raises KeyError for a kind that nobody gave a lifetime.
    """
    full = LIFETIMES[kind]
    return (full if there else min(full, NEGATIVE_S)) * (1.0 - JITTER * random)


def early(now: float, expires: float, took_s: float, random: float) -> bool:
    """Whether an entry that ends at `expires` and took `took_s` to load is to be loaded anew now.

    XFetch: now - took · β · ln(random) ≥ expires. Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache
    Stampede Prevention, PVLDB 8(8), 2015. Of many readers about one does it, shortly before the end.
    """
    return now - took_s * BETA * math.log(max(random, 1e-12)) >= expires
