"""Movements: every change of stock is one of them, and one row of the ledger."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from wms.api.operation import Answer, Call, Nothing, Operation, Reply
from wms.api.problem import Problem, wrong_field
from wms.api.stock import Code, Id
from wms.domain.movements import MAX_QUANTITY, InsufficientStock, InvalidMovement, Kind, Movement, adjustment
from wms.store import movements

Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY, description="Units.")]
Change = Annotated[int, Meta(ge=-MAX_QUANTITY, le=MAX_QUANTITY, description="Units, signed, not 0.")]
Reference = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]

KEY_RULE = "1 to 128 characters out of A-Z a-z 0-9 . _ : -"
_KEY = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


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


def idempotency_key(headers: Mapping[bytes, bytes]) -> str:
    """The request's Idempotency-Key. Raises Problem 400 when it is missing or malformed."""
    key = headers.get(b"idempotency-key")
    if key is None:
        raise wrong_field("Idempotency-Key", "header", "missing", KEY_RULE)
    if not _KEY.fullmatch(key):
        raise wrong_field("Idempotency-Key", "header", "malformed", KEY_RULE)
    return key.decode()


async def post(call: Call[Nothing, MovementRequest]) -> Reply:
    """Post one movement, once per idempotency key."""
    key = idempotency_key(call.headers)
    asked = call.body
    # Of the decoded request, so that white space and the order of fields make no other request of it.
    request_hash = hashlib.sha256(
        b"POST /api/v1/movements\n" + msgspec.json.encode(asked, order="sorted")
    ).digest()
    outcome: str = "failed"
    try:
        movement = to_movement(asked)
        posted = await movements.post(call.services.database, call.tenant_id, key, request_hash, movement)
        outcome = "replayed" if posted.replayed else "posted"
    except InvalidMovement as error:
        outcome = "invalid"
        raise wrong_field(error.field, "body", "not possible for this movement", error.allowed) from error
    except InsufficientStock as error:
        outcome = "insufficient_stock"
        raise Problem(409, "insufficient-stock", str(error)) from error
    except movements.Refused as error:
        outcome = error.cause
        raise _refusal(error.cause, asked) from error
    finally:
        call.services.metrics.movements.labels(asked.__struct_config__.tag, outcome).inc()

    receipt = posted.receipt
    sides = ((movement.source, receipt.from_on_hand), (movement.target, receipt.to_on_hand))
    answer = MovementAnswer(
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
    headers = [(b"wms-commit-lsn", posted.commit_lsn.encode())]
    if posted.replayed:
        headers.append((b"idempotency-replayed", b"true"))
    return Reply(answer, 201, tuple(headers))


def _refusal(cause: movements.Cause, asked: MovementRequest) -> Problem:
    match cause:
        case "in_flight":
            text = "a request with this Idempotency-Key is still at work; ask again"
            return Problem(409, "request-in-flight", text, headers={"retry-after": "1"})
        case "key_reused":
            allowed = "the request first sent with this key, or another key"
            return wrong_field("Idempotency-Key", "header", "used for another request", allowed, status=422)
        case "blocked":
            return Problem(409, "balance-blocked", "a balance of this movement is blocked")
        case "unknown_warehouse":
            return wrong_field(
                "warehouse_id", "body", "no such warehouse", "a warehouse of the tenant", status=422
            )
        case "unknown_sku":
            return wrong_field("sku", "body", "no such SKU", "a SKU of the tenant", status=422)
        case "unknown_from" | "unknown_to":
            field = "from_location" if cause == "unknown_from" else "to_location"
            if isinstance(asked, AdjustmentRequest):
                field = "location"
            return wrong_field(field, "body", "no such location", "a location of the warehouse", status=422)


OPERATIONS = (
    Operation(
        method="POST",
        path="/api/v1/movements",
        name="postMovement",
        summary="Receive, issue, adjust or transfer stock",
        description=(
            "One transaction: the balances and one row of the ledger, or nothing. A balance never goes below "
            "zero. Sent again with the same Idempotency-Key within 24 hours, the first answer is given again "
            "and nothing moves twice; a refused movement does not use its key up."
        ),
        handler=post,
        params=Nothing,
        body=MovementRequest,
        header_params={"Idempotency-Key": f"Required: {KEY_RULE}."},
        answers={201: Answer(MovementAnswer, "Posted, now or by an earlier request with this key.")},
        problems={
            409: "Not enough stock, a blocked balance, or a request with this key is still at work.",
            422: "An unknown warehouse, SKU or location, or a key that was used for another request.",
        },
    ),
)
