"""Waves and picks: what is read from a replica, and the commands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from wms.store.database import Database, Statement

_WAVE = Statement("wave_lookup", "SELECT wave_lookup(%s, %s, %s)")
_PAGE = Statement(
    "picks_page",
    "SELECT task_id, wave_id, sequence, order_id, line_number, sku, sku_name, barcode, location, quantity, picked, "
    "status, updated_at FROM picks_page(%s, %s, %s, %s, %s, %s, %s)",
)

CREATE = Statement("create_wave", "SELECT outcome, answer FROM create_wave(%s, %s, %s, %s, %s::bigint[])")
"""Own arguments: warehouse id, order ids."""
CONFIRM = Statement("confirm_pick", "SELECT outcome, answer FROM confirm_pick(%s, %s, %s, %s, %s, %s)")
"""Own arguments: warehouse id, task id, quantity."""
CONFIRM_MANY = Statement(
    "confirm_picks",
    "SELECT outcome, answer FROM confirm_picks(%s, %s, %s, %s, %s::bigint[], %s::bigint[])",
)
"""Own arguments: warehouse id, task ids, their quantities."""


@dataclass(frozen=True, slots=True)
class Task:
    """A pick task with what a picker looks for; quantities in units."""

    task_id: int
    wave_id: int
    sequence: int
    order_id: int
    line_number: int
    sku: str
    sku_name: str
    barcode: str | None
    location: str
    quantity: int
    picked: int
    status: str
    updated_at: datetime


class UnknownOrder(msgspec.Struct, frozen=True):
    """What comes with the outcome `unknown_order` of a wave."""

    order_id: int


class RefusedTask(msgspec.Struct, frozen=True):
    """What comes with a refused pick: the task, its units (too_many) or its state (illegal_move)."""

    task_id: int
    quantity: int = 0
    state: str = ""


async def lookup(database: Database, tenant_id: int, warehouse_id: int, wave_id: int) -> str | None:
    """A wave with its tasks as JSON text, or None when the warehouse has none with this id. Raises Unavailable."""
    rows = await database.read(_WAVE, (tenant_id, warehouse_id, wave_id))
    found = rows[0][0]
    return None if found is None else str(found)


async def page(
    database: Database,
    tenant_id: int,
    warehouse_id: int,
    wave_id: int | None,
    status: str | None,
    after: tuple[int, int] | None,
    limit: int,
) -> list[Task]:
    """At most `limit` tasks of a wave, or of all open waves, by (wave id, sequence), after the key `after`.

    Raises Unavailable.
    """
    last = after or (None, None)
    rows = await database.read(_PAGE, (tenant_id, warehouse_id, wave_id, status, *last, limit))
    return [Task(*row) for row in rows]
