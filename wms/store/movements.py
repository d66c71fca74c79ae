"""Movements: the command that posts one, and the ledger, read from a replica."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from wms.domain.movements import Movement
from wms.store.database import Database, Statement

POST = Statement(
    "post_movement", "SELECT outcome, answer FROM post_movement(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
"""A command (wms/store/commands.py); its own arguments are those of `arguments`."""

_PAGE = Statement(
    "movements_page",
    "SELECT transaction_id, created_at, kind, sku, from_location, to_location, quantity, reference "
    "FROM movements_page(%s, %s, %s, %s, %s)",
)


class Receipt(msgspec.Struct, frozen=True):
    """What was stored with the idempotency key: the ledger row's id and the balances after it, in units."""

    id: int
    posted_at: datetime
    from_on_hand: int | None
    to_on_hand: int | None


class Shortage(msgspec.Struct, frozen=True):
    """What comes with the outcome `insufficient`: the units that are there."""

    on_hand: int


def arguments(movement: Movement) -> tuple[object, ...]:
    """What POST takes after tenant, key and hash."""
    return (
        movement.warehouse_id,
        movement.sku,
        movement.kind,
        movement.source,
        movement.target,
        movement.quantity,
        movement.reference,
    )


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A posted movement; SKU and locations by code, quantity in units."""

    transaction_id: int
    created_at: datetime
    kind: str
    sku: str
    source: str | None
    target: str | None
    quantity: int
    reference: str | None


async def page(
    database: Database, tenant_id: int, warehouse_id: int, sku: str | None, after: int | None, limit: int
) -> list[LedgerRow]:
    """At most `limit` movements of a warehouse, of one SKU or all, the last posted first, below the id `after`.

    Raises Unavailable.
    """
    rows = await database.read(_PAGE, (tenant_id, warehouse_id, sku, after, limit))
    return [LedgerRow(*row) for row in rows]
