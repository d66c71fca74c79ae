"""Orders: taken, listed, allocated, cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wms.api import cached, commands
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, SelectPageParams, after, page
from wms.api.problem import FieldError, Problem, wrong_field
from wms.api.rules import Code, Id
from wms.api.selection import Selectable, SelectParams
from wms.business_metrics import BusinessMetrics
from wms.cache import keys
from wms.cache.cache import Effect, Put
from wms.domain.movements import MAX_QUANTITY
from wms.domain.orders import MAX_LINES, ORDER, Status, total_value
from wms.domain.states import Machine
from wms.store import orders

Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY, description="Units.")]
Price = Annotated[
    str,
    Meta(pattern=r"^[0-9]{1,7}(\.[0-9]{1,2})?$(?!\n)", description="Of one unit, decimal, such as 12.50."),
]
Priority = Annotated[int, Meta(ge=1, le=9, description="1 is the most urgent.")]


class OrdersParams(SelectPageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters of the orders, and what of them is asked for."""

    warehouse_id: Id
    status: Status | None = None


class OrderParams(SelectParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One order."""

    order_id: Id
    warehouse_id: Id


class OrderPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One order, to be changed."""

    order_id: Id


class Warehouse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it is."""

    warehouse_id: Id


class OrderLineRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is ordered, and at which price."""

    sku: Code
    quantity: Quantity
    unit_price: Price


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new order; its lines are numbered from 1 as they come."""

    warehouse_id: Id
    order_number: Code
    customer: Annotated[Code, Meta(description="The customer's code.")]
    priority: Priority = 5
    lines: Annotated[list[OrderLineRequest], Meta(min_length=1, max_length=MAX_LINES)]


class OrderLine(msgspec.Struct, frozen=True):
    """A line of an order: `allocated` units are reserved and not yet picked."""

    line_number: int
    sku: str
    quantity: int
    unit_price: str
    allocated: int
    picked: int


class OrderCustomer(msgspec.Struct, frozen=True):
    """The customer of an order."""

    id: int
    code: str
    name: str
    city: str | None


class Order(msgspec.Struct, frozen=True):
    """An order; its lines and its customer are there when `include` asks for them."""

    id: int
    order_number: str
    warehouse_id: int
    status: Status
    priority: int
    total_value: str
    customer_id: int
    created_at: datetime
    updated_at: datetime
    order_lines: list[OrderLine] | UnsetType = UNSET
    customer: OrderCustomer | UnsetType = UNSET


class Allocation(msgspec.Struct, frozen=True):
    """Units at a location that are set aside for a line."""

    line_number: int
    sku: str
    location: str
    quantity: int


class AllocatedOrder(msgspec.Struct, frozen=True):
    """An order and what was set aside for it."""

    id: int
    order_number: str
    warehouse_id: int
    status: Status
    priority: int
    total_value: str
    customer_id: int
    created_at: datetime
    updated_at: datetime
    allocations: list[Allocation]


class CancelledOrder(msgspec.Struct, frozen=True):
    """An order and what had been set aside for it."""

    id: int
    order_number: str
    warehouse_id: int
    status: Status
    priority: int
    total_value: str
    customer_id: int
    created_at: datetime
    updated_at: datetime
    released: list[Allocation]


ORDERS = Selectable(Order, includes=("order_lines", "customer"))


def illegal_move(machine: Machine, action: str, identifier: object, state: str) -> Problem:
    """409: the state that was found, the one that the move needs, and what is allowed now."""
    return Problem(409, "illegal-move", machine.refusal(state, action, identifier))


def _shown(order: orders.Order, warehouse_id: int) -> Order:
    return Order(
        order.order_id,
        order.order_number,
        warehouse_id,
        msgspec.convert(order.status, Status),
        order.priority,
        order.total_value,
        order.customer_id,
        order.created_at.astimezone(UTC),
        order.updated_at.astimezone(UTC),
        UNSET if order.order_lines is None else msgspec.json.decode(order.order_lines, type=list[OrderLine]),
        UNSET if order.customer is None else msgspec.json.decode(order.customer, type=OrderCustomer),
    )


async def list_orders(call: Call[OrdersParams, Nothing]) -> Reply:
    """A page of orders, newest first."""
    asked = call.params
    chosen = ORDERS.chosen(asked)
    (last,) = after(call, tuple[int]) or (None,)
    found = await orders.page(
        call.services.database,
        call.tenant_id,
        asked.warehouse_id,
        asked.status,
        last,
        asked.limit + 1,
        chosen.include,
    )
    return Reply(
        page(
            call,
            found,
            key=lambda order: (order.order_id,),
            item=lambda order: chosen.of(_shown(order, asked.warehouse_id)),
        )
    )


async def get_order(call: Call[OrderParams, Nothing]) -> Reply:
    """One order."""
    asked = call.params
    chosen = ORDERS.chosen(asked)
    found = await (
        orders.lookup(
            call.services.database, call.tenant_id, asked.warehouse_id, asked.order_id, chosen.include
        )
        if chosen.include
        else cached.order(call.services, call.tenant_id, asked.warehouse_id, asked.order_id)
    )
    if found is None:
        raise _unknown(asked.order_id, asked.warehouse_id)
    return Reply(chosen.of(_shown(found, asked.warehouse_id)))


def _unknown(order_id: int, warehouse_id: int) -> Problem:
    return Problem(404, "unknown-order", f"there is no order {order_id} in warehouse {warehouse_id}")


async def create(call: Call[Nothing, OrderRequest]) -> Reply:
    """Take an order, once per idempotency key."""
    asked = call.body
    try:
        total_value((line.quantity, Decimal(line.unit_price)) for line in asked.lines)
    except ValueError as error:
        allowed = "quantities and prices that a total_value of 12 digits before the point can hold"
        raise wrong_field("lines", "body", str(error), allowed, status=422) from error
    arguments = (
        asked.warehouse_id,
        asked.order_number,
        asked.customer,
        asked.priority,
        [line.sku for line in asked.lines],
        [line.quantity for line in asked.lines],
        [line.unit_price for line in asked.lines],
    )

    def unknown_skus(answer: bytes | None) -> Problem:
        missing = set(msgspec.json.decode(answer or b"", type=orders.UnknownSkus).skus)
        errors = tuple(
            FieldError(
                field=f"lines[{index}].sku",
                location="body",
                detail=f"no such SKU: {line.sku}",
                allowed="a SKU of the tenant",
            )
            for index, line in enumerate(asked.lines)
            if line.sku in missing
        )
        return Problem(422, "unprocessable", f"no such SKU: {', '.join(sorted(missing))}", errors=errors)

    taken = f"there is another order {asked.order_number}"
    return await commands.execute(
        call,
        orders.CREATE,
        arguments,
        Order,
        {
            "unknown_warehouse": _unprocessable("warehouse_id", "warehouse", "a warehouse of the tenant"),
            "unknown_customer": _unprocessable("customer", "customer", "the code of a customer"),
            "unknown_sku": unknown_skus,
            "number_taken": lambda _answer: Problem(409, "order-number-taken", taken),
        },
    )


def _unprocessable(field: str, what: str, allowed: str) -> Callable[[bytes | None], Problem]:
    return lambda _answer: wrong_field(field, "body", f"no such {what}", allowed, status=422)


def _refusals(call: Call[OrderPath, Warehouse], action: str) -> commands.Refusals:
    order_id = call.params.order_id

    def illegal(answer: bytes | None) -> Problem:
        state = msgspec.json.decode(answer or b"", type=orders.IllegalMove).state
        return illegal_move(ORDER, action, order_id, state)

    def insufficient(answer: bytes | None) -> Problem:
        short = msgspec.json.decode(answer or b"", type=orders.Shortage).lines
        errors = tuple(
            FieldError(
                field=f"order_lines[{line.line_number}]",
                location="order",
                detail=f"{line.quantity} units of {line.sku} wanted",
                allowed=f"{line.available} are free",
            )
            for line in short
        )
        numbers = ", ".join(str(line.line_number) for line in short)
        text = f"order {order_id}: not enough free stock for line {numbers}; nothing was reserved"
        return Problem(409, "insufficient-stock", text, errors=errors)

    def already_picked(answer: bytes | None) -> Problem:
        units = msgspec.json.decode(answer or b"", type=orders.AlreadyPicked).units
        text = (
            f"order {order_id}: {units} units have left the stock for it; confirm its open picks with 0 units and "
            "ship what was picked"
        )
        return Problem(409, "already-picked", text)

    return {
        "unknown_order": lambda _answer: _unknown(order_id, call.body.warehouse_id),
        "illegal_move": illegal,
        "insufficient": insufficient,
        "already_picked": already_picked,
    }


async def allocate(call: Call[OrderPath, Warehouse]) -> Reply:
    """Reserve stock for all lines of an order, or for none."""
    arguments = (call.body.warehouse_id, call.params.order_id)
    return await commands.execute(
        call, orders.ALLOCATE, arguments, AllocatedOrder, _refusals(call, "allocate"), status=200
    )


async def cancel(call: Call[OrderPath, Warehouse]) -> Reply:
    """Cancel an order and release what is reserved for it."""
    arguments = (call.body.warehouse_id, call.params.order_id)
    return await commands.execute(
        call, orders.CANCEL, arguments, CancelledOrder, _refusals(call, "cancel"), status=200
    )


def _changes(call: Call[Any, Any], order: Order | AllocatedOrder | CancelledOrder) -> Iterable[Effect]:
    """Write-through of the order; the stock of the SKUs whose reservations changed is wrong."""
    touched: list[Allocation] = []
    if isinstance(order, AllocatedOrder):
        touched = order.allocations
    elif isinstance(order, CancelledOrder):
        touched = order.released
    kept = orders.Order(
        order.id,
        order.order_number,
        order.status,
        order.priority,
        order.total_value,
        order.customer_id,
        order.created_at,
        order.updated_at,
        None,
        None,
    )
    return [
        Put(keys.order(call.tenant_id, order.warehouse_id, order.id), kept),
        *keys.stocks(call.tenant_id, order.warehouse_id, (each.sku for each in touched)),
    ]


def _counted(event: str) -> Callable[[BusinessMetrics, object], None]:
    return lambda metrics, _order: metrics.orders.labels(event).inc()


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/orders",
        name="listOrders",
        summary="Orders of a warehouse, newest first",
        description="In the order of their ids, the highest first; of a warehouse that does not exist there are none.",
        handler=list_orders,
        params=OrdersParams,
        answers={200: Answer(Page[Order], "The orders, newest first.")},
        permission="orders:read",
        selection=ORDERS,
    ),
    Operation(
        method="POST",
        path="/api/v1/orders",
        name="createOrder",
        summary="Take an order",
        description=commands.ONCE,
        handler=create,
        params=Nothing,
        body=OrderRequest,
        header_params=commands.KEY_HEADER,
        answers={201: Answer(Order, "Taken, now or by an earlier request with this key.")},
        problems={
            409: "There is an order with this number, or a request with this key is still at work.",
            422: "An unknown warehouse, customer or SKU, or a key that was used for another request.",
        },
        permission="orders:write",
        changes=_changes,
        counts=_counted("created"),
    ),
    Operation(
        method="GET",
        path="/api/v1/orders/{order_id}",
        name="getOrder",
        summary="One order",
        handler=get_order,
        params=OrderParams,
        answers={200: Answer(Order, "The order.")},
        problems={404: "The warehouse has no such order."},
        permission="orders:read",
        selection=ORDERS,
    ),
    Operation(
        method="POST",
        path="/api/v1/orders/{order_id}/allocate",
        name="allocateOrder",
        summary="Reserve stock for an order",
        description=(
            "All of its lines or none. A line is taken from the smallest balance that has all of it, else from the "
            f"largest ones. {commands.ONCE}"
        ),
        handler=allocate,
        params=OrderPath,
        body=Warehouse,
        header_params=commands.KEY_HEADER,
        answers={200: Answer(AllocatedOrder, "Allocated, now or by an earlier request with this key.")},
        problems={
            404: "The warehouse has no such order.",
            409: "Not enough free stock, an order that is not NEW, or a request with this key is still at work.",
            422: "A key that was used for another request.",
        },
        permission="orders:write",
        changes=_changes,
        counts=_counted("allocated"),
    ),
    Operation(
        method="POST",
        path="/api/v1/orders/{order_id}/cancel",
        name="cancelOrder",
        summary="Cancel an order",
        description=(
            "While nothing of it has been picked: its reservations are released and its open picks cancelled. "
            f"{commands.ONCE}"
        ),
        handler=cancel,
        params=OrderPath,
        body=Warehouse,
        header_params=commands.KEY_HEADER,
        answers={200: Answer(CancelledOrder, "Cancelled, now or by an earlier request with this key.")},
        problems={
            404: "The warehouse has no such order.",
            409: "Something was picked, the order is SHIPPED or CANCELLED, or a request with this key is at work.",
            422: "A key that was used for another request.",
        },
        permission="orders:write",
        changes=_changes,
        counts=_counted("cancelled"),
    ),
)
