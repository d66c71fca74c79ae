"""A warehouse at a glance."""

from __future__ import annotations

from datetime import datetime

import msgspec

from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.problem import Problem
from wms.api.rules import Id
from wms.domain import orders
from wms.store import analytics


class SummaryParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which warehouse."""

    warehouse_id: Id


class HourOfMovements(msgspec.Struct, frozen=True):
    """Movements posted within the hour that begins at `hour` (UTC), and the units that they moved."""

    hour: datetime
    count: int
    units: int


class AnalyticsSummary(msgspec.Struct, frozen=True):
    """Orders by state, work in progress, the last 24 hours of movements (the present hour last), SKUs by ABC class."""

    orders: dict[str, int]
    picks_open: int
    receipts_open: int
    movements_per_hour: list[HourOfMovements]
    abc: dict[str, int]


async def summary(call: Call[SummaryParams, Nothing]) -> Reply:
    """The summary of one warehouse; states and classes without any are 0."""
    warehouse_id = call.params.warehouse_id
    text = await analytics.summary(call.services.database, call.tenant_id, warehouse_id)
    if text is None:
        raise Problem(404, "unknown-warehouse", f"there is no warehouse {warehouse_id}")
    found = msgspec.json.decode(text, type=AnalyticsSummary)
    return Reply(
        msgspec.structs.replace(
            found,
            orders=dict.fromkeys(orders.ORDER.moves, 0) | found.orders,
            abc=dict.fromkeys("ABC", 0) | found.abc,
        )
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/analytics/summary",
        name="getAnalyticsSummary",
        summary="A warehouse at a glance",
        handler=summary,
        params=SummaryParams,
        answers={200: Answer(AnalyticsSummary, "The figures of this moment.")},
        problems={404: "The tenant has no such warehouse."},
        permission="analytics:read",
    ),
)
