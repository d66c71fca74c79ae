"""Generations: what the gateway keeps of a tenant is kept under the tenant's last change, so that a change leaves it
behind (docs/adr/0021).

A generation is an LSN that is not before the tenant's last change of which this process has heard. Processes may give
different ones for a while: each is right, because what is fetched for one is read from a server that has replayed it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from wms.events.stream import Delivery

STALE_S = 2.0
"""A process that has not read the stream for so long may have missed a change, and gives no generation."""


class Generations:
    """One process's; a consumer feeds it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._floor = 0
        self._of: dict[int, int] = {}
        self._read_at = float("-inf")

    def begin(self, lsn: int) -> None:
        """What happened before `lsn` is not known one by one: no tenant's generation is below it."""
        self._floor = max(self._floor, lsn)
        # What was raised beyond it stays: a generation that was left behind must not come back.
        self._of = {tenant: known for tenant, known in self._of.items() if known > self._floor}

    def take(self, found: Delivery) -> None:
        """A tenant's data changed, as an event tells."""
        self.rise(found.event.tenant_id, found.lsn)

    def rise(self, tenant_id: int, lsn: int) -> None:
        """A tenant's data changed, not after `lsn`; the events come in no order with what this process does itself."""
        self._of[tenant_id] = max(lsn, self._floor, self._of.get(tenant_id, 0))

    def read(self) -> None:
        """The stream was read to its end just now."""
        self._read_at = self._clock()

    def of(self, tenant_id: int) -> str | None:
        """The tenant's generation as PostgreSQL writes an LSN; None when a change may have been missed."""
        if self._clock() - self._read_at > STALE_S:
            return None
        lsn = self._of.get(tenant_id, self._floor)
        return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
