"""Credentials that ended before their time: sessions signed out, put out or copied, and revoked API keys.

A token is verified without asking anybody and a key is believed for a while, so each process asks every POLL_S what has
ended, and refuses it from then on. It asks a replica within the lag limit: a credential is good for nothing POLL_S and
that limit after its end. While the database cannot be asked, a key is good for as long as it is believed
(WMS_API_KEY_TTL_S) and a token until it expires.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from wms.domain.roles import Principal
from wms.domain.tokens import LEEWAY_S, LIFETIME_S
from wms.store.database import Database, Statement
from wms.store.keys import ApiKeys

_ENDED = Statement("ended_credentials", "SELECT kind, tenant_id, id FROM ended_credentials(%s)")

POLL_S = 2.0
OVERLAP_S = 60.0
"""What ended is dated by the begin of its transaction, and seen after its commit and its replay: longer than both."""
REMEMBERED_S = LIFETIME_S + LEEWAY_S + OVERLAP_S
"""No token of a session is good so long after the session's end."""


class Ended:
    """The sessions that have ended, as far as this process has heard."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until: dict[tuple[int, int], float] = {}
        """(tenant, session) → when it may be forgotten, the earliest first."""
        self._heard = float("-inf")

    def has(self, principal: Principal) -> bool:
        """Whether the session of its token has ended."""
        return (principal.tenant_id, principal.session_id) in self._until

    async def hear(self, worker: Database, keys: ApiKeys) -> None:
        """Ask what has ended since the last time, at the start of all that can still matter; `keys` forgets those
        revoked. Raises Unavailable.
        """
        now = self._clock()
        since_s = min(now - self._heard + OVERLAP_S, REMEMBERED_S + OVERLAP_S)
        for kind, tenant_id, number in await worker.read(_ENDED, (since_s,)):
            if kind == "key":
                keys.forget(tenant_id, number)
            else:
                self._until.setdefault((tenant_id, number), now + REMEMBERED_S)
        self._heard = now
        for session, until in list(self._until.items()):
            if until > now:
                break
            del self._until[session]
