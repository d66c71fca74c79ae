"""Stock, read from a replica."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wms.store.database import Database, Statement

LOOKUP = Statement(
    "stock_lookup", "SELECT location, on_hand, reserved, updated_at FROM stock_lookup(%s, %s, %s)"
)
_TOTALS = Statement(
    "stock_totals",
    "SELECT name, warehouse_id, warehouse, on_hand, reserved, locations FROM stock_totals(%s, %s)",
)


@dataclass(frozen=True, slots=True)
class Balance:
    """Units of a SKU at one location; `reserved` of them are promised to orders."""

    location: str
    on_hand: int
    reserved: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class WarehouseTotal:
    """Units of a SKU in one warehouse, over `locations` locations."""

    warehouse_id: int
    warehouse: str
    on_hand: int
    reserved: int
    locations: int


@dataclass(frozen=True, slots=True)
class SkuTotals:
    """A SKU and its stock per warehouse; warehouses without a balance are left out."""

    name: str
    warehouses: tuple[WarehouseTotal, ...]


async def lookup(database: Database, tenant_id: int, warehouse_id: int, sku: str) -> list[Balance]:
    """The active balances of `sku` in one warehouse; empty when either does not exist. Raises Unavailable."""
    rows = await database.read(LOOKUP, (tenant_id, warehouse_id, sku))
    return [Balance(*row) for row in rows]


async def totals(database: Database, tenant_id: int, sku: str) -> SkuTotals | None:
    """The stock of `sku` per warehouse, or None when the tenant has no such SKU. Raises Unavailable."""
    rows = await database.read(_TOTALS, (tenant_id, sku))
    if not rows:
        return None
    return SkuTotals(rows[0][0], tuple(WarehouseTotal(*row[1:]) for row in rows if row[1] is not None))
