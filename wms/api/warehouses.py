"""Warehouses, and how full they are."""

from __future__ import annotations

import msgspec

from wms.api import cached
from wms.api.conditional import CachePolicy
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem
from wms.api.rules import Id
from wms.domain.inventory import utilisation
from wms.store import skus


class WarehousePath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One warehouse."""

    warehouse_id: Id


class WarehouseItem(msgspec.Struct, frozen=True):
    """A warehouse of the tenant."""

    id: int
    code: str
    name: str


class Capacity(msgspec.Struct, frozen=True):
    """How full a warehouse is, in units.

    `capacity` is that of the measured locations, null when none is; `on_hand` is what is in all locations;
    `utilisation` is the share of `capacity` that is taken in the measured locations, above 1 when overfull.
    """

    warehouse_id: int
    code: str
    capacity: int | None
    on_hand: int
    utilisation: float | None
    locations: int


async def list_warehouses(call: Call[PageParams, Nothing]) -> Reply:
    """A page of warehouses by code."""
    (last,) = after(call, tuple[str]) or (None,)
    limit = call.params.limit + 1
    found = (
        (await cached.warehouses(call.services, call.tenant_id))[:limit]
        if last is None
        else await skus.warehouses(call.services.database, call.tenant_id, last, limit)
    )
    return Reply(
        page(
            call, found, key=lambda w: (w.code,), item=lambda w: WarehouseItem(w.warehouse_id, w.code, w.name)
        )
    )


async def capacity(call: Call[WarehousePath, Nothing]) -> Reply:
    """How full a warehouse is."""
    warehouse_id = call.params.warehouse_id
    held = await cached.capacity(call.services, call.tenant_id, warehouse_id)
    found = held.value
    if found is None:
        raise Problem(404, "unknown-warehouse", f"there is no warehouse {warehouse_id}")
    return Reply(
        Capacity(
            warehouse_id,
            found.code,
            found.capacity,
            found.on_hand,
            utilisation(found.capacity, found.measured),
            found.locations,
        ),
        made_of=held,
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/warehouses",
        name="listWarehouses",
        summary="Warehouses, by code",
        handler=list_warehouses,
        params=PageParams,
        answers={200: Answer(Page[WarehouseItem], "The warehouses, by code.")},
        permission="stock:read",
        cache=CachePolicy(surrogate_s=300, keys=("warehouse",)),
    ),
    Operation(
        method="GET",
        path="/api/v1/warehouses/{warehouse_id}/capacity",
        name="getWarehouseCapacity",
        summary="How full a warehouse is",
        handler=capacity,
        params=WarehousePath,
        answers={200: Answer(Capacity, "Its capacity and what is there.")},
        problems={404: "The tenant has no such warehouse."},
        permission="stock:read",
        cache=CachePolicy(surrogate_s=300, keys=("warehouse:{warehouse_id}",)),
    ),
)
