"""Customers and orders: what is read from a replica, and the commands that change an order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from wms.store.database import Database, Row, Statement

_CUSTOMERS = Statement(
    "customers_page", "SELECT customer_id, code, name, city, created_at FROM customers_page(%s, %s, %s)"
)
_COLUMNS = (
    "order_id, order_number, status, priority, total_value, customer_id, created_at, updated_at, "
    "order_lines, customer"
)
_PAGE = Statement("orders_page", f"SELECT {_COLUMNS} FROM orders_page(%s, %s, %s, %s, %s, %s, %s)")
_LOOKUP = Statement("order_lookup", f"SELECT {_COLUMNS} FROM order_lookup(%s, %s, %s, %s, %s)")

CREATE = Statement(
    "create_order",
    "SELECT outcome, answer FROM create_order("
    "%s, %s, %s, %s, %s, %s, %s, %s::text[], %s::bigint[], %s::text[]::numeric[])",
    marked=True,
)
"""Own arguments: warehouse id, order number, customer code, priority, and of the lines SKU codes, quantities, unit
prices as decimal text."""
ALLOCATE = Statement(
    "allocate_order", "SELECT outcome, answer FROM allocate_order(%s, %s, %s, %s, %s)", marked=True
)
"""Own arguments: warehouse id, order id."""
CANCEL = Statement(
    "cancel_order", "SELECT outcome, answer FROM cancel_order(%s, %s, %s, %s, %s)", marked=True
)
"""Own arguments: warehouse id, order id."""


@dataclass(frozen=True, slots=True)
class Customer:
    """Who orders."""

    customer_id: int
    code: str
    name: str
    city: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Order:
    """An order; `order_lines` and `customer` are JSON, None unless asked for."""

    order_id: int
    order_number: str
    status: str
    priority: int
    total_value: str
    customer_id: int
    created_at: datetime
    updated_at: datetime
    order_lines: str | None
    customer: str | None


class IllegalMove(msgspec.Struct, frozen=True):
    """What comes with the outcome `illegal_move`; `order_id` or `task_id` says whose state, when there are several."""

    state: str
    order_id: int = 0
    task_id: int = 0


class UnknownSkus(msgspec.Struct, frozen=True):
    """What comes with the outcome `unknown_sku`: the codes."""

    skus: list[str]


class ShortLine(msgspec.Struct, frozen=True):
    """A line that wants more than is free: `available` units of its SKU in the warehouse, for all lines."""

    line_number: int
    sku: str
    quantity: int
    available: int


class Shortage(msgspec.Struct, frozen=True):
    """What comes with the outcome `insufficient`."""

    lines: list[ShortLine]


class AlreadyPicked(msgspec.Struct, frozen=True):
    """What comes with the outcome `already_picked`: the units that have left the stock."""

    units: int


async def customers(database: Database, tenant_id: int, after: str | None, limit: int) -> list[Customer]:
    """At most `limit` customers by code, after the code `after`. Raises Unavailable."""
    return [Customer(*row) for row in await database.read(_CUSTOMERS, (tenant_id, after, limit))]


async def page(
    database: Database,
    tenant_id: int,
    warehouse_id: int,
    status: str | None,
    after: int | None,
    limit: int,
    include: frozenset[str],
) -> list[Order]:
    """At most `limit` orders of a warehouse, newest first, below the id `after`, in one state or in any.

    One statement whatever is included ("order_lines", "customer"). Raises Unavailable.
    """
    parameters = (tenant_id, warehouse_id, status, after, limit, *_wanted(include))
    return [_order(row) for row in await database.read(_PAGE, parameters)]


async def lookup(
    database: Database, tenant_id: int, warehouse_id: int, order_id: int, include: frozenset[str]
) -> Order | None:
    """One order, or None when the warehouse has none with this id. Raises Unavailable."""
    rows = await database.read(_LOOKUP, (tenant_id, warehouse_id, order_id, *_wanted(include)))
    return _order(rows[0]) if rows else None


def _wanted(include: frozenset[str]) -> tuple[bool, bool]:
    return "order_lines" in include, "customer" in include


def _order(row: Row) -> Order:
    return Order(*row)
