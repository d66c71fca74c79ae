"""Shipments: what was picked of an order, packed and sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wms.api import commands
from wms.api.operation import Answer, Call, Nothing, Operation, Reply, nothing_kept
from wms.api.orders import Warehouse, illegal_move
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem, wrong_field
from wms.api.rules import LINE, Code, Id
from wms.business_metrics import BusinessMetrics
from wms.cache import keys
from wms.cache.cache import Effect
from wms.domain.orders import ORDER
from wms.domain.shipments import SHIPMENT, Status
from wms.store import orders, shipments

Carrier = Annotated[str, Meta(min_length=1, max_length=100, pattern=LINE)]


class ShipmentsParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters of the shipments."""

    warehouse_id: Id
    status: Status | None = None


class ShipmentPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shipment."""

    shipment_id: Id


class ShipmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new shipment of an order."""

    warehouse_id: Id
    order_id: Id
    shipment_number: Code
    carrier: Carrier


class DispatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it is, and how the carrier calls it."""

    warehouse_id: Id
    tracking_code: Code


class Shipment(msgspec.Struct, frozen=True):
    """A shipment of an order."""

    id: int
    shipment_number: str
    warehouse_id: int
    order_id: int
    carrier: str
    tracking_code: str | None
    status: Status
    created_at: datetime
    updated_at: datetime


async def list_shipments(call: Call[ShipmentsParams, Nothing]) -> Reply:
    """A page of shipments, newest first."""
    asked = call.params
    (last,) = after(call, tuple[int]) or (None,)
    found = await shipments.page(
        call.services.database, call.tenant_id, asked.warehouse_id, asked.status, last, asked.limit + 1
    )
    return Reply(
        page(
            call,
            found,
            key=lambda shipment: (shipment.shipment_id,),
            item=lambda shipment: Shipment(
                shipment.shipment_id,
                shipment.shipment_number,
                asked.warehouse_id,
                shipment.order_id,
                shipment.carrier,
                shipment.tracking_code,
                msgspec.convert(shipment.status, Status),
                shipment.created_at.astimezone(UTC),
                shipment.updated_at.astimezone(UTC),
            ),
        )
    )


async def create(call: Call[Nothing, ShipmentRequest]) -> Reply:
    """Pack what was picked of an order."""
    asked = call.body
    order_id = asked.order_id

    def illegal(answer: bytes | None) -> Problem:
        state = msgspec.json.decode(answer or b"", type=orders.IllegalMove).state
        return illegal_move(ORDER, "pack", order_id, state)

    def already_packed(answer: bytes | None) -> Problem:
        other = msgspec.json.decode(answer or b"", type=shipments.AlreadyPacked).shipment_number
        return Problem(
            409, "already-packed", f"order {order_id} is in shipment {other}: cancel that one first"
        )

    nothing = f"order {order_id}: nothing was picked for it; cancel it"
    taken = f"there is another shipment {asked.shipment_number}"
    return await commands.execute(
        call,
        shipments.CREATE,
        (asked.warehouse_id, order_id, asked.shipment_number, asked.carrier),
        Shipment,
        {
            "unknown_order": lambda _answer: wrong_field(
                "order_id", "body", "no such order", "an order of the warehouse", status=422
            ),
            "illegal_move": illegal,
            "already_packed": already_packed,
            "nothing_picked": lambda _answer: Problem(409, "nothing-picked", nothing),
            "number_taken": lambda _answer: Problem(409, "shipment-number-taken", taken),
        },
    )


async def _move(call: Call[ShipmentPath, Warehouse | DispatchRequest], action: str) -> Reply:
    shipment_id, asked = call.params.shipment_id, call.body

    def illegal(answer: bytes | None) -> Problem:
        state = msgspec.json.decode(answer or b"", type=orders.IllegalMove).state
        return illegal_move(SHIPMENT, action, shipment_id, state)

    unknown = f"there is no shipment {shipment_id} in warehouse {asked.warehouse_id}"
    tracking = asked.tracking_code if isinstance(asked, DispatchRequest) else None
    return await commands.execute(
        call,
        shipments.MOVE,
        (asked.warehouse_id, shipment_id, action, tracking),
        Shipment,
        {
            "unknown_shipment": lambda _answer: Problem(404, "unknown-shipment", unknown),
            "illegal_move": illegal,
        },
        status=200,
    )


async def dispatch(call: Call[ShipmentPath, Warehouse | DispatchRequest]) -> Reply:
    """Hand a shipment to its carrier; its order is SHIPPED."""
    return await _move(call, "dispatch")


async def deliver(call: Call[ShipmentPath, Warehouse | DispatchRequest]) -> Reply:
    """A shipment has arrived."""
    return await _move(call, "deliver")


async def cancel(call: Call[ShipmentPath, Warehouse | DispatchRequest]) -> Reply:
    """Unpack a shipment; its order may be packed again."""
    return await _move(call, "cancel")


def _changes(call: Call[Any, Any], shipment: Shipment) -> Iterable[Effect]:
    """A shipment on its way has made its order SHIPPED; its other moves change nothing that is kept."""
    return [keys.order(call.tenant_id, shipment.warehouse_id, shipment.order_id)]


def _counted(event: str) -> Callable[[BusinessMetrics, Any], None]:
    def count(metrics: BusinessMetrics, _shipment: Any) -> None:
        metrics.shipments.labels(event).inc()
        if event == "dispatched":
            metrics.orders.labels("shipped").inc()

    return count


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="GET",
        path="/api/v1/shipments",
        name="listShipments",
        summary="Shipments of a warehouse, newest first",
        handler=list_shipments,
        params=ShipmentsParams,
        answers={200: Answer(Page[Shipment], "The shipments, newest first.")},
        permission="shipping:read",
    ),
    Operation(
        method="POST",
        path="/api/v1/shipments",
        name="createShipment",
        summary="Pack what was picked of an order",
        description=f"An order has at most one shipment that is not cancelled. {commands.ONCE}",
        handler=create,
        params=Nothing,
        body=ShipmentRequest,
        header_params=commands.KEY_HEADER,
        answers={201: Answer(Shipment, "Packed, now or by an earlier request with this key.")},
        problems={
            409: (
                "An order that is not PICKED, of which nothing was picked, or that is packed already; a number that "
                "another shipment has; or a request with this key is still at work."
            ),
            422: "An unknown order, or a key that was used for another request.",
        },
        permission="shipping:write",
        changes=nothing_kept,
        counts=_counted("packed"),
    ),
    *(
        Operation(
            method="POST",
            path=f"/api/v1/shipments/{{shipment_id}}/{action}",
            name=f"{action}Shipment",
            summary=summary,
            description=commands.ONCE,
            handler=handler,
            params=ShipmentPath,
            body=body,
            header_params=commands.KEY_HEADER,
            answers={200: Answer(Shipment, "Done, now or by an earlier request with this key.")},
            problems={
                404: "The warehouse has no such shipment.",
                409: "The shipment's state does not have this move, or a request with this key is still at work.",
                422: "A key that was used for another request.",
            },
            permission="shipping:write",
            changes=_changes if action == "dispatch" else nothing_kept,
            counts=_counted(event),
        )
        for action, event, summary, handler, body in (
            (
                "dispatch",
                "dispatched",
                "Hand a shipment to its carrier; its order is SHIPPED",
                dispatch,
                DispatchRequest,
            ),
            ("deliver", "delivered", "A shipment has arrived", deliver, Warehouse),
            ("cancel", "cancelled", "Unpack a shipment; its order may be packed again", cancel, Warehouse),
        )
    ),
)
