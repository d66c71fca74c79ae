"""SKUs, warehouses and locations, read from a replica."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wms.store.database import Database, Statement

_COLUMNS = "code, name, barcode, unit, weight_g, abc_class, image, updated_at"
_PAGE = Statement("skus_page", f"SELECT {_COLUMNS} FROM skus_page(%s, %s, %s, %s, %s)")
_LOOKUP = Statement("sku_lookup", f"SELECT {_COLUMNS} FROM sku_lookup(%s, %s)")
_WAREHOUSES = Statement("warehouses_page", "SELECT warehouse_id, code, name FROM warehouses_page(%s, %s, %s)")
_CAPACITY = Statement(
    "warehouse_capacity",
    "SELECT code, locations, capacity, on_hand, measured FROM warehouse_capacity(%s, %s)",
)
_LOCATIONS = Statement(
    "locations_page", "SELECT code, aisle, level, position, capacity FROM locations_page(%s, %s, %s, %s)"
)


@dataclass(frozen=True, slots=True)
class Sku:
    """What is known of a SKU; `weight_g` in grams per unit, `image` the name of its picture."""

    code: str
    name: str
    barcode: str | None
    unit: str
    weight_g: int | None
    abc_class: str
    image: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Warehouse:
    """A warehouse of the tenant."""

    warehouse_id: int
    code: str
    name: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """Units that fit and that are there: `capacity` of the measured locations, None when none is; `on_hand` in all
    locations, `measured` in the measured ones.
    """

    code: str
    locations: int
    capacity: int | None
    on_hand: int
    measured: int


@dataclass(frozen=True, slots=True)
class Location:
    """A place on a shelf; `capacity` in units, None where nobody has measured it."""

    code: str
    aisle: str
    level: int
    position: int
    capacity: int | None


async def page(
    database: Database,
    tenant_id: int,
    query: str | None,
    abc_class: str | None,
    after: str | None,
    limit: int,
) -> list[Sku]:
    """At most `limit` SKUs by code, after the code `after`, of one class or any, that `query` finds in their names.

    Raises Unavailable.
    """
    rows = await database.read(_PAGE, (tenant_id, query, abc_class, after, limit))
    return [Sku(*row) for row in rows]


async def lookup(database: Database, tenant_id: int, sku: str) -> Sku | None:
    """A SKU by its code. Raises Unavailable."""
    rows = await database.read(_LOOKUP, (tenant_id, sku))
    return Sku(*rows[0]) if rows else None


async def warehouses(database: Database, tenant_id: int, after: str | None, limit: int) -> list[Warehouse]:
    """At most `limit` warehouses by code, after the code `after`. Raises Unavailable."""
    return [Warehouse(*row) for row in await database.read(_WAREHOUSES, (tenant_id, after, limit))]


async def capacity(database: Database, tenant_id: int, warehouse_id: int) -> Capacity | None:
    """How full a warehouse is; None when there is none. Raises Unavailable."""
    rows = await database.read(_CAPACITY, (tenant_id, warehouse_id))
    return Capacity(*rows[0]) if rows else None


async def locations(
    database: Database, tenant_id: int, warehouse_id: int, after: str | None, limit: int
) -> list[Location]:
    """At most `limit` locations of a warehouse by code, after the code `after`. Raises Unavailable."""
    rows = await database.read(_LOCATIONS, (tenant_id, warehouse_id, after, limit))
    return [Location(*row) for row in rows]
