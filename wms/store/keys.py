"""API keys: who is asking, and the forgetting of old idempotency keys."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from wms.domain.roles import Principal
from wms.store.database import Database, Statement

KEY_PREFIX = "wms_"
_PRINCIPAL = Statement(
    "principal_of_api_key",
    "SELECT tenant_id, api_key_id, role, tier FROM principal_of_api_key(%s)",
)
_FORGET = Statement("forget_idempotency_keys", "SELECT forget_idempotency_keys(%s)")

UNKNOWN_TTL_S = 2.0
"""How long an unknown key stays unknown: long enough to shield the database, short enough for a new key."""
CACHED_KEYS = 10_000
FORGET_BATCH = 2_000


class ApiKeys:
    """The principal behind an API key, believed for `ttl_s` seconds; only hashes are kept in memory."""

    def __init__(self, database: Database, ttl_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._database = database
        self._ttl_s = ttl_s
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Principal | None, float]] = OrderedDict()

    async def principal_of(self, key: str) -> Principal | None:
        """Who this key is of, or None. Raises Unavailable when it must be asked for and cannot."""
        digest = hash_of(key)
        found = self._known.get(digest)
        now = self._clock()
        if found is not None and found[1] > now:
            return found[0]
        rows = await self._database.read(_PRINCIPAL, (digest,))
        principal: Principal | None = None
        if rows:
            tenant_id, api_key_id, role, tier = rows[0]
            principal = Principal(tenant_id, f"key:{api_key_id}", frozenset((role,)), tier)
        ttl_s = self._ttl_s if principal else min(self._ttl_s, UNKNOWN_TTL_S)
        self._known[digest] = (principal, now + ttl_s)
        self._known.move_to_end(digest)
        if len(self._known) > CACHED_KEYS:
            self._known.popitem(last=False)
        return principal

    def forget(self, tenant_id: int, api_key_id: int) -> None:
        """Believe nothing of this key any more: the next time it is looked up."""
        subject = f"key:{api_key_id}"
        for digest, (principal, _until) in list(self._known.items()):
            if principal is not None and (principal.tenant_id, principal.subject) == (tenant_id, subject):
                del self._known[digest]


def new_key() -> str:
    """256 random bits, so that a plain SHA-256 of it is safe to keep."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> bytes:
    """SHA-256 of a key, 32 bytes. Keys are long and random, so a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).digest()


async def forget_idempotency_keys(database: Database) -> int:
    """Delete a batch of idempotency keys older than 24 h; returns how many. Raises Unavailable."""
    row, _commit = await database.write(_FORGET, (FORGET_BATCH,), final=lambda _row, _attempt: True)
    return int(row[0])
