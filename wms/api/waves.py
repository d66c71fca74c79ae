"""Waves: allocated orders that are picked together, in one walk."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from wms.api import commands
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.orders import illegal_move
from wms.api.problem import Problem, wrong_field
from wms.api.rules import Id
from wms.business_metrics import BusinessMetrics
from wms.cache import keys
from wms.cache.cache import Effect
from wms.domain.orders import ORDER
from wms.domain.picking import MAX_ORDERS, Status, WaveStatus
from wms.store import orders, waves


class WaveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The orders of a new wave, each once."""

    warehouse_id: Id
    order_ids: Annotated[list[Id], Meta(min_length=1, max_length=MAX_ORDERS)]


class WaveParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One wave."""

    wave_id: Id
    warehouse_id: Id


class PickTask(msgspec.Struct, frozen=True):
    """Take `quantity` units of a SKU from a location; `sequence` is its place in the walk, from 1."""

    id: int
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
    status: Status
    updated_at: datetime


class Wave(msgspec.Struct, frozen=True):
    """A wave and its tasks in walking order."""

    id: int
    warehouse_id: int
    status: WaveStatus
    created_at: datetime
    tasks: list[PickTask]


async def create(call: Call[Nothing, WaveRequest]) -> Reply:
    """Release orders to be picked."""
    asked = call.body
    if len(set(asked.order_ids)) < len(asked.order_ids):
        raise wrong_field("order_ids", "body", "an order more than once", "each order once")

    def unknown(answer: bytes | None) -> Problem:
        order_id = msgspec.json.decode(answer or b"", type=waves.UnknownOrder).order_id
        return wrong_field(
            "order_ids", "body", f"no such order: {order_id}", "orders of the warehouse", status=422
        )

    def illegal(answer: bytes | None) -> Problem:
        found = msgspec.json.decode(answer or b"", type=orders.IllegalMove)
        return illegal_move(ORDER, "release", found.order_id, found.state)

    return await commands.execute(
        call,
        waves.CREATE,
        (asked.warehouse_id, asked.order_ids),
        Wave,
        {"unknown_order": unknown, "illegal_move": illegal},
    )


def _changes(call: Call[Nothing, WaveRequest], _wave: Wave) -> Iterable[Effect]:
    """The orders are PICKING now."""
    return [keys.order(call.tenant_id, call.body.warehouse_id, order_id) for order_id in call.body.order_ids]


def _count(metrics: BusinessMetrics, wave: Wave) -> None:
    metrics.orders.labels("picking").inc(len({task.order_id for task in wave.tasks}))


async def get_wave(call: Call[WaveParams, Nothing]) -> Reply:
    """One wave with its tasks."""
    asked = call.params
    found = await waves.lookup(call.services.database, call.tenant_id, asked.warehouse_id, asked.wave_id)
    if found is None:
        raise Problem(
            404, "unknown-wave", f"there is no wave {asked.wave_id} in warehouse {asked.warehouse_id}"
        )
    return Reply(msgspec.json.decode(found, type=Wave))


OPERATIONS = (
    Operation(
        method="POST",
        path="/api/v1/waves",
        name="createWave",
        summary="Release allocated orders to be picked in one walk",
        description=(
            "Aisle by aisle, up through the positions of the first one and down through those of the next. "
            f"{commands.ONCE}"
        ),
        handler=create,
        params=Nothing,
        body=WaveRequest,
        header_params=commands.KEY_HEADER,
        answers={201: Answer(Wave, "Released, now or by an earlier request with this key.")},
        problems={
            409: "An order that is not ALLOCATED, or a request with this key is still at work.",
            422: "An unknown order, or a key that was used for another request.",
        },
        permission="picking:write",
        changes=_changes,
        counts=_count,
    ),
    Operation(
        method="GET",
        path="/api/v1/waves/{wave_id}",
        name="getWave",
        summary="One wave with its tasks in walking order",
        handler=get_wave,
        params=WaveParams,
        answers={200: Answer(Wave, "The wave.")},
        problems={404: "The warehouse has no such wave."},
        permission="picking:read",
    ),
)
