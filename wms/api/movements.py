"""Movements: every change of stock is one of them, and one row of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from wms.api import commands
from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem, wrong_field
from wms.api.rules import LINE, Code, Id
from wms.cache import keys
from wms.cache.cache import Effect
from wms.domain.movements import MAX_QUANTITY, InsufficientStock, InvalidMovement, Kind, Movement, adjustment
from wms.store import movements

Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY, description="Units.")]
Change = Annotated[int, Meta(ge=-MAX_QUANTITY, le=MAX_QUANTITY, description="Units, signed, not 0.")]
Reference = Annotated[str, Meta(min_length=1, max_length=200, pattern=LINE)]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    warehouse_id: Id
    sku: Code


class ReceiptRequest(_Request, frozen=True, tag="receipt", kw_only=True):
    """Units come in from outside."""

    to_location: Code
    quantity: Quantity
    reference: Reference | None = None


class IssueRequest(_Request, frozen=True, tag="issue", kw_only=True):
    """Units leave."""

    from_location: Code
    quantity: Quantity
    reference: Reference | None = None


class AdjustmentRequest(_Request, frozen=True, tag="adjustment", kw_only=True):
    """A balance is corrected; the reference says why."""

    location: Code
    change: Change
    reference: Reference


class TransferRequest(_Request, frozen=True, tag="transfer", kw_only=True):
    """Units go from one location of the warehouse to another."""

    from_location: Code
    to_location: Code
    quantity: Quantity
    reference: Reference | None = None


MovementRequest = ReceiptRequest | IssueRequest | AdjustmentRequest | TransferRequest


class LocationBalance(msgspec.Struct, frozen=True):
    """Units at a location right after the movement."""

    location: str
    on_hand: int


class MovementAnswer(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """A posted movement; `quantity` is what moved, `balances` those that it changed."""

    id: int
    kind: Kind
    warehouse_id: int
    sku: str
    quantity: int
    reference: str | None
    posted_at: datetime
    balances: list[LocationBalance]


class MovementsParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters of the ledger."""

    warehouse_id: Id
    sku: Code | None = None


class LedgerRow(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """A posted movement; what came from outside has no `from_location`, what left no `to_location`."""

    id: int
    kind: Kind
    warehouse_id: int
    sku: str
    from_location: str | None
    to_location: str | None
    quantity: int
    reference: str | None
    posted_at: datetime


def to_movement(asked: MovementRequest) -> Movement:
    """The domain's movement. Raises InvalidMovement."""
    if isinstance(asked, AdjustmentRequest):
        return adjustment(
            warehouse_id=asked.warehouse_id,
            sku=asked.sku,
            location=asked.location,
            change=asked.change,
            reference=asked.reference,
        )
    kind: Kind = "transfer"
    if isinstance(asked, ReceiptRequest):
        kind = "receipt"
    elif isinstance(asked, IssueRequest):
        kind = "issue"
    return Movement(
        kind=kind,
        warehouse_id=asked.warehouse_id,
        sku=asked.sku,
        source=None if isinstance(asked, ReceiptRequest) else asked.from_location,
        target=None if isinstance(asked, IssueRequest) else asked.to_location,
        quantity=asked.quantity,
        reference=asked.reference,
    )


async def post(call: Call[Nothing, MovementRequest]) -> Reply:
    """Post one movement, once per idempotency key."""
    asked = call.body
    outcome = "failed"
    try:
        movement = to_movement(asked)
        found = await commands.run(call, movements.POST, movements.arguments(movement))
        outcome = found.name
    except InvalidMovement as error:
        outcome = "invalid"
        raise wrong_field(error.field, "body", "not possible for this movement", error.allowed) from error
    finally:
        call.services.metrics.movements.labels(asked.__struct_config__.tag, outcome).inc()
    reply = commands.reply(found, movements.Receipt, _refusals(asked, movement))
    return msgspec.structs.replace(reply, content=_answer(movement, reply.content))


def _changes(call: Call[Nothing, MovementRequest], moved: MovementAnswer) -> Iterable[Effect]:
    return keys.stocks(call.tenant_id, moved.warehouse_id, (moved.sku,))


def _answer(movement: Movement, receipt: movements.Receipt) -> MovementAnswer:
    sides = ((movement.source, receipt.from_on_hand), (movement.target, receipt.to_on_hand))
    return MovementAnswer(
        receipt.id,
        movement.kind,
        movement.warehouse_id,
        movement.sku,
        movement.quantity,
        movement.reference,
        receipt.posted_at.astimezone(UTC),
        [
            LocationBalance(code, on_hand)
            for code, on_hand in sides
            if code is not None and on_hand is not None
        ],
    )


def _refusals(asked: MovementRequest, movement: Movement) -> commands.Refusals:
    def insufficient(answer: bytes | None) -> Problem:
        there = msgspec.json.decode(answer or b"", type=movements.Shortage).on_hand
        shortage = InsufficientStock(movement.source or "", there, movement.quantity)
        return Problem(409, "insufficient-stock", str(shortage))

    def unknown(field: str, what: str, allowed: str) -> Callable[[bytes | None], Problem]:
        return lambda _answer: wrong_field(field, "body", f"no such {what}", allowed, status=422)

    source, target = "from_location", "to_location"
    if isinstance(asked, AdjustmentRequest):
        source = target = "location"
    return {
        "insufficient": insufficient,
        "blocked": lambda _answer: Problem(409, "balance-blocked", "a balance of this movement is blocked"),
        "unknown_warehouse": unknown("warehouse_id", "warehouse", "a warehouse of the tenant"),
        "unknown_sku": unknown("sku", "SKU", "a SKU of the tenant"),
        "unknown_from": unknown(source, "location", "a location of the warehouse"),
        "unknown_to": unknown(target, "location", "a location of the warehouse"),
    }


async def list_movements(call: Call[MovementsParams, Nothing]) -> Reply:
    """A page of the ledger, the last posted first."""
    asked = call.params
    (last,) = after(call, tuple[int]) or (None,)
    found = await movements.page(
        call.services.database, call.tenant_id, asked.warehouse_id, asked.sku, last, asked.limit + 1
    )

    def shown(row: movements.LedgerRow) -> LedgerRow:
        return LedgerRow(
            row.transaction_id,
            msgspec.convert(row.kind, Kind),
            asked.warehouse_id,
            row.sku,
            row.source,
            row.target,
            row.quantity,
            row.reference,
            row.created_at.astimezone(UTC),
        )

    return Reply(page(call, found, key=lambda row: (row.transaction_id,), item=shown))


OPERATIONS = (
    Operation(
        method="GET",
        path="/api/v1/movements",
        name="listMovements",
        summary="The ledger of a warehouse, of one SKU or all, the last posted first",
        description="Of a warehouse or SKU that does not exist there are none.",
        handler=list_movements,
        params=MovementsParams,
        answers={200: Answer(Page[LedgerRow], "The movements, the last posted first.")},
        permission="stock:read",
    ),
    Operation(
        method="POST",
        path="/api/v1/movements",
        name="postMovement",
        summary="Receive, issue, adjust or transfer stock",
        description=(
            "One transaction: the balances and one row of the ledger, or nothing. A balance never goes below "
            f"zero. {commands.ONCE}"
        ),
        handler=post,
        params=Nothing,
        body=MovementRequest,
        header_params=commands.KEY_HEADER,
        answers={201: Answer(MovementAnswer, "Posted, now or by an earlier request with this key.")},
        problems={
            409: "Not enough stock, a blocked balance, or a request with this key is still at work.",
            422: "An unknown warehouse, SKU or location, or a key that was used for another request.",
        },
        permission="stock:write",
        changes=_changes,
    ),
)
