"""Receipts: what is read from a replica, and the commands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from wms.store.database import Database, Statement

_PAGE = Statement(
    "receipts_page",
    "SELECT receipt_id, receipt_number, supplier, status, created_at, updated_at "
    "FROM receipts_page(%s, %s, %s, %s, %s)",
)
_LOOKUP = Statement("receipt_lookup", "SELECT receipt_lookup(%s, %s, %s)")

CREATE = Statement(
    "create_receipt", "SELECT outcome, answer FROM create_receipt(%s, %s, %s, %s, %s, %s, %s::jsonb)"
)
"""Own arguments: warehouse id, receipt number, supplier, JSON of the lines [{sku, expected}]."""
RECEIVE = Statement(
    "receive_lines", "SELECT outcome, answer FROM receive_lines(%s, %s, %s, %s, %s, %s::jsonb)"
)
"""Own arguments: warehouse id, receipt id, JSON of what came [{line_number, location, quantity}]."""
END = Statement("end_receipt", "SELECT outcome, answer FROM end_receipt(%s, %s, %s, %s, %s, %s)")
"""Own arguments: warehouse id, receipt id, close | cancel."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt without its lines."""

    receipt_id: int
    receipt_number: str
    supplier: str
    status: str
    created_at: datetime
    updated_at: datetime


class IllegalMove(msgspec.Struct, frozen=True):
    """What comes with the outcome `illegal_move`."""

    state: str


class UnknownSkus(msgspec.Struct, frozen=True):
    """What comes with the outcome `unknown_sku`: the codes."""

    skus: list[str]


class UnknownLines(msgspec.Struct, frozen=True):
    """What comes with the outcome `unknown_line`: the numbers."""

    line_numbers: list[int]


class UnknownLocations(msgspec.Struct, frozen=True):
    """What comes with the outcome `unknown_location`: the codes."""

    locations: list[str]


class Blocked(msgspec.Struct, frozen=True):
    """What comes with the outcome `blocked`: "<sku> at <location>" of each."""

    balances: list[str]


async def page(
    database: Database, tenant_id: int, warehouse_id: int, status: str | None, after: int | None, limit: int
) -> list[Receipt]:
    """At most `limit` receipts of a warehouse, the newest first, below the id `after`, in one state or in any.

    Raises Unavailable.
    """
    rows = await database.read(_PAGE, (tenant_id, warehouse_id, status, after, limit))
    return [Receipt(*row) for row in rows]


async def lookup(database: Database, tenant_id: int, warehouse_id: int, receipt_id: int) -> str | None:
    """A receipt with its lines, as JSON; None when the warehouse has none with this id. Raises Unavailable."""
    rows = await database.read(_LOOKUP, (tenant_id, warehouse_id, receipt_id))
    return rows[0][0] if rows else None
