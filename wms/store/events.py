"""What the relay, the periodic jobs and the warming ask of the database. Raises Unavailable, all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from wms.store.database import Database, Row, Statement

_TURN = Statement("relay_turn", "SELECT leads, lsn, events FROM relay_turn(%s, %s, %s, %s)")
_FORGET = Statement("forget_events", "SELECT forget_events(%s, %s)")
_CLAIM = Statement("claim_job", "SELECT claim_job(%s, %s, %s, %s)")
_FINISH = Statement("finish_job", "SELECT finish_job(%s, %s)")
_CLASSIFY = Statement("classify_abc", "SELECT classify_abc(%s)")
_WAREHOUSES = Statement("warm_warehouses", "SELECT tenant_id, warehouse_id FROM warm_warehouses()")
_SKUS = Statement("warm_skus", "SELECT tenant_id, code FROM warm_skus(%s, %s)")

FORGET_BATCH = 5_000


class Event(msgspec.Struct, frozen=True):
    """A committed event; `occurred_at` in seconds of the Unix clock, when its transaction began."""

    sequence: int
    tenant_id: int
    type: str
    entity: str
    identifier: str
    payload: dict[str, Any]
    occurred_at: float
    xid: int = 0
    """Its transaction; 0 from a release that did not tell."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a relay found: whether it leads, the events to publish next, an LSN not before any of their commits."""

    leading: bool
    lsn: str
    events: list[Event]


async def relay_turn(database: Database, holder: str, lease_s: float, after: int, limit: int) -> Turn:
    """One turn of the relay (wms/migrations/0008_events.sql)."""
    row, _commit = await database.write(_TURN, (holder, round(lease_s * 1000), after, limit), final=_any)
    leading, lsn, events = row
    return Turn(bool(leading), lsn or "", msgspec.json.decode(events or "[]", type=list[Event]))


async def forget(database: Database, keep_s: int) -> int:
    """Delete a batch of events published longer ago than `keep_s`; returns how many."""
    row, _commit = await database.write(_FORGET, (keep_s, FORGET_BATCH), final=_any)
    return int(row[0])


async def claim_job(database: Database, name: str, holder: str, every_s: int, claim_s: int) -> bool:
    """Whether this process shall do the job now."""
    row, _commit = await database.write(_CLAIM, (name, holder, every_s, claim_s), final=_any)
    return bool(row[0])


async def finish_job(database: Database, name: str, holder: str) -> bool:
    """Note that it is done; False when the claim was lost."""
    row, _commit = await database.write(_FINISH, (name, holder), final=_any)
    return bool(row[0])


async def classify_abc(database: Database, days: int) -> int:
    """Set the ABC class of every SKU from what was issued in the last `days`; returns how many changed."""
    row, _commit = await database.write(_CLASSIFY, (days,), final=_any)
    return int(row[0])


async def warehouses(database: Database) -> list[tuple[int, int | None]]:
    """(tenant, warehouse) of all; a tenant without any has None."""
    return [(row[0], row[1]) for row in await database.read(_WAREHOUSES, ())]


async def likely_skus(database: Database, hours: int, limit: int) -> list[tuple[int, str]]:
    """(tenant, SKU code): class A first, then by their movements in the last `hours`."""
    return [(row[0], row[1]) for row in await database.read(_SKUS, (hours, limit))]


def _any(_row: Row, _attempt: int) -> bool:
    return True
