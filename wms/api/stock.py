"""Stock: how much of a SKU is where. Read from replicas, so up to the replication lag old."""

from __future__ import annotations

from datetime import datetime

import msgspec

from wms.api import cached
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.problem import Problem
from wms.api.rules import Code, Id


class LookupParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filters of the stock collection."""

    warehouse_id: Id
    sku: Code


class SkuParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One SKU by its code."""

    sku: Code


class Balance(msgspec.Struct, frozen=True):
    """Units at one location: `available` is what is on hand and not reserved for an order."""

    warehouse_id: int
    sku: str
    location: str
    on_hand: int
    reserved: int
    available: int
    updated_at: datetime


class BalanceList(msgspec.Struct, frozen=True):
    """Balances, by location."""

    data: list[Balance]


class WarehouseStock(msgspec.Struct, frozen=True):
    """Units in one warehouse, over all its locations."""

    warehouse_id: int
    warehouse: str
    on_hand: int
    reserved: int
    available: int
    locations: int


class SkuStock(msgspec.Struct, frozen=True):
    """A SKU and its units, in all and per warehouse."""

    sku: str
    name: str
    on_hand: int
    reserved: int
    available: int
    warehouses: list[WarehouseStock]


async def lookup(call: Call[LookupParams, Nothing]) -> Reply:
    """Balances of one SKU in one warehouse."""
    asked = call.params
    found = await cached.stock_in(call.services, call.tenant_id, asked.warehouse_id, asked.sku)
    return Reply(
        BalanceList(
            [
                Balance(
                    asked.warehouse_id,
                    asked.sku,
                    b.location,
                    b.on_hand,
                    b.reserved,
                    b.on_hand - b.reserved,
                    b.updated_at,
                )
                for b in found.value
            ]
        ),
        made_of=found,
    )


async def of_sku(call: Call[SkuParams, Nothing]) -> Reply:
    """One SKU over all warehouses."""
    sku = call.params.sku
    held = await cached.stock(call.services, call.tenant_id, sku)
    found = held.value
    if found is None:
        raise Problem(404, "unknown-sku", f"there is no SKU {sku}")
    warehouses = [
        WarehouseStock(
            w.warehouse_id, w.warehouse, w.on_hand, w.reserved, w.on_hand - w.reserved, w.locations
        )
        for w in found.warehouses
    ]
    on_hand, reserved = (sum(w.on_hand for w in warehouses), sum(w.reserved for w in warehouses))
    return Reply(SkuStock(sku, found.name, on_hand, reserved, on_hand - reserved, warehouses), made_of=held)


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/stock",
        name="listStock",
        summary="Stock of a SKU in a warehouse, by location",
        description="Active balances only; of a SKU or warehouse that does not exist there are none.",
        handler=lookup,
        params=LookupParams,
        answers={200: Answer(BalanceList, "The balances, by location.")},
        permission="stock:read",
    ),
    Operation(
        method="GET",
        path="/api/v1/stock/{sku}",
        name="getStockOfSku",
        summary="Stock of a SKU over all warehouses",
        handler=of_sku,
        params=SkuParams,
        answers={200: Answer(SkuStock, "The SKU and its totals; warehouses without a balance are left out.")},
        problems={404: "The tenant has no such SKU."},
        permission="stock:read",
    ),
)
