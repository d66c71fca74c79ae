"""Shipments: the list, read from a replica, and the commands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from wms.store.database import Database, Statement

_PAGE = Statement(
    "shipments_page",
    "SELECT shipment_id, shipment_number, order_id, carrier, tracking_code, status, created_at, updated_at "
    "FROM shipments_page(%s, %s, %s, %s, %s)",
)

CREATE = Statement(
    "create_shipment", "SELECT outcome, answer FROM create_shipment(%s, %s, %s, %s, %s, %s, %s)"
)
"""Own arguments: warehouse id, order id, shipment number, carrier."""
MOVE = Statement("move_shipment", "SELECT outcome, answer FROM move_shipment(%s, %s, %s, %s, %s, %s, %s)")
"""Own arguments: warehouse id, shipment id, dispatch | deliver | cancel, tracking code or None."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """A shipment of an order."""

    shipment_id: int
    shipment_number: str
    order_id: int
    carrier: str
    tracking_code: str | None
    status: str
    created_at: datetime
    updated_at: datetime


class AlreadyPacked(msgspec.Struct, frozen=True):
    """What comes with the outcome `already_packed`: the shipment that the order has."""

    shipment_number: str


async def page(
    database: Database, tenant_id: int, warehouse_id: int, status: str | None, after: int | None, limit: int
) -> list[Shipment]:
    """At most `limit` shipments of a warehouse, newest first, below the id `after`, in one state or in any.

    Raises Unavailable.
    """
    rows = await database.read(_PAGE, (tenant_id, warehouse_id, status, after, limit))
    return [Shipment(*row) for row in rows]
