"""Picks: the tasks of waves, and what pickers found."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wms.api import commands
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.orders import illegal_move
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem, wrong_field
from wms.api.rules import Id
from wms.api.waves import PickTask
from wms.business_metrics import BusinessMetrics
from wms.cache import keys
from wms.cache.cache import Effect
from wms.domain import orders
from wms.domain.movements import MAX_QUANTITY
from wms.domain.picking import MAX_PICKS, TASK, Status
from wms.store import waves

Picked = Annotated[
    int, Meta(ge=0, le=MAX_QUANTITY, description="Units; fewer than the task's is a short pick.")
]


class PicksParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters of the tasks; without a wave, those of all open waves."""

    warehouse_id: Id
    wave_id: Id | None = None
    status: Status | None = None


class TaskPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task."""

    task_id: Id


class ConfirmRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was taken for one task."""

    warehouse_id: Id
    quantity: Picked


class PickRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task and what was taken for it."""

    task_id: Id
    quantity: Picked


class ConfirmManyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was taken for several tasks, each given once."""

    warehouse_id: Id
    picks: Annotated[list[PickRequest], Meta(min_length=1, max_length=MAX_PICKS)]


class ConfirmedPick(msgspec.Struct, frozen=True):
    """A task that is done, its order's state, and what is left at the location.

    `transaction_id` is the row of the ledger, null when nothing was taken.
    """

    id: int
    sku: str
    status: Status
    quantity: int
    picked: int
    order_id: int
    order_status: orders.Status
    transaction_id: int | None
    on_hand: int


class ConfirmedPicks(msgspec.Struct, frozen=True):
    """The tasks that are done."""

    picks: list[ConfirmedPick]


async def list_picks(call: Call[PicksParams, Nothing]) -> Reply:
    """A page of tasks as they are walked."""
    asked = call.params
    found = await waves.page(
        call.services.database,
        call.tenant_id,
        asked.warehouse_id,
        asked.wave_id,
        asked.status,
        after(call, tuple[int, int]),
        asked.limit + 1,
    )
    return Reply(page(call, found, key=lambda task: (task.wave_id, task.sequence), item=_shown))


def _shown(task: waves.Task) -> PickTask:
    return PickTask(
        task.task_id,
        task.wave_id,
        task.sequence,
        task.order_id,
        task.line_number,
        task.sku,
        task.sku_name,
        task.barcode,
        task.location,
        task.quantity,
        task.picked,
        msgspec.convert(task.status, Status),
        task.updated_at.astimezone(UTC),
    )


def _refused(answer: bytes | None) -> waves.RefusedTask:
    return msgspec.json.decode(answer or b"", type=waves.RefusedTask)


def _illegal(answer: bytes | None) -> Problem:
    task = _refused(answer)
    return illegal_move(TASK, "confirm", task.task_id, task.state)


def _blocked(answer: bytes | None) -> Problem:
    text = f"the balance of task {_refused(answer).task_id} is blocked: unblock it, or confirm 0 units"
    return Problem(409, "balance-blocked", text)


def _too_many(answer: bytes | None, field: str) -> Problem:
    task = _refused(answer)
    detail = f"more than task {task.task_id} asks for"
    return wrong_field(field, "body", detail, f"0 to {task.quantity}", status=422)


async def confirm(call: Call[TaskPath, ConfirmRequest]) -> Reply:
    """Confirm one pick."""
    task_id, asked = call.params.task_id, call.body

    def unknown(_answer: bytes | None) -> Problem:
        return Problem(404, "unknown-task", f"there is no task {task_id} in warehouse {asked.warehouse_id}")

    return await commands.execute(
        call,
        waves.CONFIRM,
        (asked.warehouse_id, task_id, asked.quantity),
        ConfirmedPick,
        {
            "unknown_task": unknown,
            "illegal_move": _illegal,
            "blocked": _blocked,
            "too_many": lambda answer: _too_many(answer, "quantity"),
        },
        status=200,
    )


async def confirm_many(call: Call[Nothing, ConfirmManyRequest]) -> Reply:
    """Confirm several picks, all or none."""
    asked = call.body
    place = {pick.task_id: index for index, pick in enumerate(asked.picks)}
    if len(place) < len(asked.picks):
        raise wrong_field("picks", "body", "a task more than once", "each task once")

    def field(answer: bytes | None, name: str) -> str:
        return f"picks[{place[_refused(answer).task_id]}].{name}"

    def unknown(answer: bytes | None) -> Problem:
        detail = f"no such task: {_refused(answer).task_id}"
        return wrong_field(field(answer, "task_id"), "body", detail, "tasks of the warehouse", status=422)

    return await commands.execute(
        call,
        waves.CONFIRM_MANY,
        (
            asked.warehouse_id,
            [pick.task_id for pick in asked.picks],
            [pick.quantity for pick in asked.picks],
        ),
        ConfirmedPicks,
        {
            "unknown_task": unknown,
            "illegal_move": _illegal,
            "blocked": _blocked,
            "too_many": lambda answer: _too_many(answer, field(answer, "quantity")),
        },
        status=200,
    )


def _changes(call: Call[Any, Any], confirmed: ConfirmedPick | ConfirmedPicks) -> Iterable[Effect]:
    """The stock of the SKUs is wrong, and the orders that are complete now."""
    tenant_id, warehouse_id = call.tenant_id, call.body.warehouse_id
    picks = confirmed.picks if isinstance(confirmed, ConfirmedPicks) else [confirmed]
    done = {pick.order_id for pick in picks if pick.order_status == "PICKED"}
    return [
        *keys.stocks(tenant_id, warehouse_id, (pick.sku for pick in picks)),
        *(keys.order(tenant_id, warehouse_id, order_id) for order_id in done),
    ]


def _count(metrics: BusinessMetrics, confirmed: ConfirmedPick | ConfirmedPicks) -> None:
    picks = confirmed.picks if isinstance(confirmed, ConfirmedPicks) else [confirmed]
    for pick in picks:
        metrics.picks.labels(pick.status.lower()).inc()
        metrics.picked_units.inc(pick.picked)
    metrics.orders.labels("picked").inc(
        len({pick.order_id for pick in picks if pick.order_status == "PICKED"})
    )


_CONFLICTS = "A task that is not OPEN, a blocked balance, or a request with this key is still at work."

OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/picks",
        name="listPicks",
        summary="Pick tasks in walking order",
        description="Those of one wave, or without wave_id those of all open waves, wave by wave.",
        handler=list_picks,
        params=PicksParams,
        answers={200: Answer(Page[PickTask], "The tasks, as they are walked.")},
        permission="picking:read",
    ),
    Operation(
        method="POST",
        path="/api/v1/picks/{task_id}/confirm",
        name="confirmPick",
        summary="Confirm what was picked for a task",
        description=(
            "One transaction: the task, the balance and its row of the ledger, the order line, and the order when it "
            "was its last task. Fewer units than the task's are a short pick: the rest of the reservation is released. "
            f"{commands.ONCE}"
        ),
        handler=confirm,
        params=TaskPath,
        body=ConfirmRequest,
        header_params=commands.KEY_HEADER,
        answers={200: Answer(ConfirmedPick, "Confirmed, now or by an earlier request with this key.")},
        problems={
            404: "The warehouse has no such task.",
            409: _CONFLICTS,
            422: "More units than the task's, or a key that was used for another request.",
        },
        permission="picking:write",
        changes=_changes,
        counts=_count,
    ),
    Operation(
        method="POST",
        path="/api/v1/picks/confirm",
        name="confirmPicks",
        summary="Confirm what was picked for several tasks, all or none",
        description=f"As confirmPick for each of them, in one transaction. {commands.ONCE}",
        handler=confirm_many,
        params=Nothing,
        body=ConfirmManyRequest,
        header_params=commands.KEY_HEADER,
        answers={200: Answer(ConfirmedPicks, "Confirmed, now or by an earlier request with this key.")},
        problems={
            409: _CONFLICTS,
            422: "An unknown task, more units than a task's, or a key that was used for another request.",
        },
        permission="picking:write",
        changes=_changes,
        counts=_count,
    ),
)
