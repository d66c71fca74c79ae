"""Receipts: goods that a supplier announced, and what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from wms.api import commands
from wms.api.movements import Quantity
from wms.api.operation import Answer, Call, Nothing, Operation, Reply, nothing_kept
from wms.api.pages import Page, PageParams, after, page
from wms.api.problem import Problem, wrong_field
from wms.api.rules import Code, Id, Name
from wms.business_metrics import BusinessMetrics
from wms.cache import keys
from wms.cache.cache import Effect
from wms.domain.receipts import MAX_LINES, RECEIPT, Status
from wms.store import receipts

LineNumber = Annotated[int, Meta(ge=1, le=MAX_LINES)]


class ReceiptsParams(PageParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters of the receipts."""

    warehouse_id: Id
    status: Status | None = None


class ReceiptParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One receipt."""

    receipt_id: Id
    warehouse_id: Id


class ReceiptPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One receipt; the body says in which warehouse."""

    receipt_id: Id


class ExpectedLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units of a SKU that are to come."""

    sku: Code
    expected: Quantity


class NewReceipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a supplier announces; its lines are numbered from 1."""

    warehouse_id: Id
    receipt_number: Code
    supplier: Name
    lines: Annotated[list[ExpectedLine], Meta(min_length=1, max_length=MAX_LINES)]


class ReceivedLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units of a line that came to a location."""

    line_number: LineNumber
    location: Code
    quantity: Quantity


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came; a line may come to several locations."""

    warehouse_id: Id
    lines: Annotated[list[ReceivedLine], Meta(min_length=1, max_length=MAX_LINES)]


class ReceiptWarehouse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it is."""

    warehouse_id: Id


class ReceiptItem(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt without its lines."""

    id: int
    warehouse_id: int
    receipt_number: str
    supplier: str
    status: Status
    created_at: datetime
    updated_at: datetime


class ReceiptLine(msgspec.Struct, frozen=True):
    """Units that were expected and that came, which may be more or fewer."""

    line_number: int
    sku: str
    expected: int
    received: int


class ReceiptAnswer(ReceiptItem, frozen=True, kw_only=True):
    """A receipt with its lines."""

    lines: list[ReceiptLine]


async def list_receipts(call: Call[ReceiptsParams, Nothing]) -> Reply:
    """A page of receipts, the newest first."""
    asked = call.params
    (last,) = after(call, tuple[int]) or (None,)
    found = await receipts.page(
        call.services.database, call.tenant_id, asked.warehouse_id, asked.status, last, asked.limit + 1
    )

    def shown(receipt: receipts.Receipt) -> ReceiptItem:
        return ReceiptItem(
            id=receipt.receipt_id,
            warehouse_id=asked.warehouse_id,
            receipt_number=receipt.receipt_number,
            supplier=receipt.supplier,
            status=msgspec.convert(receipt.status, Status),
            created_at=receipt.created_at.astimezone(UTC),
            updated_at=receipt.updated_at.astimezone(UTC),
        )

    return Reply(page(call, found, key=lambda receipt: (receipt.receipt_id,), item=shown))


async def one(call: Call[ReceiptParams, Nothing]) -> Reply:
    """One receipt with its lines."""
    asked = call.params
    found = await receipts.lookup(
        call.services.database, call.tenant_id, asked.warehouse_id, asked.receipt_id
    )
    if found is None:
        raise _unknown(asked.receipt_id, asked.warehouse_id)
    return Reply(msgspec.json.decode(found, type=ReceiptAnswer))


async def create(call: Call[Nothing, NewReceipt]) -> Reply:
    """Announce a receipt."""
    asked = call.body
    taken = f"there is another receipt {asked.receipt_number}"

    def unknown_sku(answer: bytes | None) -> Problem:
        codes = msgspec.json.decode(answer or b"", type=receipts.UnknownSkus).skus
        return wrong_field(
            "lines.sku", "body", f"no such SKU: {_some(codes)}", "SKUs of the tenant", status=422
        )

    return await commands.execute(
        call,
        receipts.CREATE,
        (asked.warehouse_id, asked.receipt_number, asked.supplier, _json(asked.lines)),
        ReceiptAnswer,
        {
            "unknown_warehouse": lambda _answer: wrong_field(
                "warehouse_id", "body", "no such warehouse", "a warehouse of the tenant", status=422
            ),
            "unknown_sku": unknown_sku,
            "number_taken": lambda _answer: Problem(409, "receipt-number-taken", taken),
        },
    )


async def receive(call: Call[ReceiptPath, Delivery]) -> Reply:
    """Book what came: all of it, or nothing."""
    asked, receipt_id = call.body, call.params.receipt_id
    twice = [
        place
        for place, times in Counter((line.line_number, line.location) for line in asked.lines).items()
        if times > 1
    ]
    if twice:
        # Almost always a scan that was sent twice; units that did come twice are one sum.
        raise wrong_field(
            "lines",
            "body",
            f"line {twice[0][0]} at {twice[0][1]} is given more than once",
            "once, with its sum",
        )

    def unknown_line(answer: bytes | None) -> Problem:
        numbers = msgspec.json.decode(answer or b"", type=receipts.UnknownLines).line_numbers
        text = f"no such line: {_some(numbers)}"
        return wrong_field("lines.line_number", "body", text, "lines of the receipt", status=422)

    def unknown_location(answer: bytes | None) -> Problem:
        codes = msgspec.json.decode(answer or b"", type=receipts.UnknownLocations).locations
        text = f"no such location: {_some(codes)}"
        return wrong_field("lines.location", "body", text, "locations of the warehouse", status=422)

    def blocked(answer: bytes | None) -> Problem:
        balances = msgspec.json.decode(answer or b"", type=receipts.Blocked).balances
        return Problem(409, "balance-blocked", f"blocked: {_some(balances)}")

    return await commands.execute(
        call,
        receipts.RECEIVE,
        (asked.warehouse_id, receipt_id, _json(asked.lines)),
        ReceiptAnswer,
        {
            **_refusals(receipt_id, asked.warehouse_id, "receive"),
            "unknown_line": unknown_line,
            "unknown_location": unknown_location,
            "blocked": blocked,
        },
        status=200,
    )


def _changes(call: Call[ReceiptPath, Delivery], receipt: ReceiptAnswer) -> Iterable[Effect]:
    """The stock of what came is wrong; receipts themselves are not kept."""
    came = {line.line_number for line in call.body.lines}
    codes = (line.sku for line in receipt.lines if line.line_number in came)
    return keys.stocks(call.tenant_id, receipt.warehouse_id, codes)


async def close(call: Call[ReceiptPath, ReceiptWarehouse]) -> Reply:
    """Say that nothing more will come."""
    return await _end(call, "close")


async def cancel(call: Call[ReceiptPath, ReceiptWarehouse]) -> Reply:
    """Call a receipt off of which nothing has come."""
    return await _end(call, "cancel")


async def _end(call: Call[ReceiptPath, ReceiptWarehouse], action: str) -> Reply:
    receipt_id, warehouse_id = call.params.receipt_id, call.body.warehouse_id
    return await commands.execute(
        call,
        receipts.END,
        (warehouse_id, receipt_id, action),
        ReceiptAnswer,
        _refusals(receipt_id, warehouse_id, action),
        status=200,
    )


def _counted(event: str) -> Callable[[BusinessMetrics, object], None]:
    return lambda metrics, _receipt: metrics.receipts.labels(event).inc()


def _unknown(receipt_id: int, warehouse_id: int) -> Problem:
    return Problem(404, "unknown-receipt", f"there is no receipt {receipt_id} in warehouse {warehouse_id}")


def _refusals(receipt_id: int, warehouse_id: int, action: str) -> commands.Refusals:
    def illegal(answer: bytes | None) -> Problem:
        state = msgspec.json.decode(answer or b"", type=receipts.IllegalMove).state
        return Problem(409, "illegal-move", RECEIPT.refusal(state, action, receipt_id))

    return {"unknown_receipt": lambda _answer: _unknown(receipt_id, warehouse_id), "illegal_move": illegal}


def _json(lines: list[ExpectedLine] | list[ReceivedLine]) -> str:
    return msgspec.json.encode(lines).decode()


def _some(names: list[str] | list[int]) -> str:
    """The first ones: a problem is to be read."""
    return ", ".join(str(name) for name in names[:10]) + (
        f" and {len(names) - 10} more" if names[10:] else ""
    )


OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="GET",
        path="/api/v1/receipts",
        name="listReceipts",
        summary="Receipts of a warehouse, the newest first",
        description="Of a warehouse that does not exist there are none.",
        handler=list_receipts,
        params=ReceiptsParams,
        answers={200: Answer(Page[ReceiptItem], "The receipts, without their lines.")},
        permission="receiving:read",
    ),
    Operation(
        method="POST",
        path="/api/v1/receipts",
        name="createReceipt",
        summary="Announce a receipt",
        description=commands.ONCE,
        handler=create,
        params=Nothing,
        body=NewReceipt,
        header_params=commands.KEY_HEADER,
        answers={201: Answer(ReceiptAnswer, "Announced, now or by an earlier request with this key.")},
        problems={
            409: "A number that another receipt has, or a request with this key is still at work.",
            422: "An unknown warehouse or SKU, or a key that was used for another request.",
        },
        permission="receiving:write",
        changes=nothing_kept,
        counts=_counted("created"),
    ),
    Operation(
        method="GET",
        path="/api/v1/receipts/{receipt_id}",
        name="getReceipt",
        summary="One receipt with its lines",
        handler=one,
        params=ReceiptParams,
        answers={200: Answer(ReceiptAnswer, "The receipt.")},
        problems={404: "The warehouse has no such receipt."},
        permission="receiving:read",
    ),
    Operation(
        method="POST",
        path="/api/v1/receipts/{receipt_id}/lines",
        name="receiveLines",
        summary="Book what came",
        description=(
            "One transaction: all lines, each with a row of the ledger, or nothing. More or fewer units may come than "
            f"were expected, and in several deliveries. {commands.ONCE}"
        ),
        handler=receive,
        params=ReceiptPath,
        body=Delivery,
        header_params=commands.KEY_HEADER,
        answers={200: Answer(ReceiptAnswer, "Booked, now or by an earlier request with this key.")},
        problems={
            404: "The warehouse has no such receipt.",
            409: (
                "The receipt is closed or cancelled, a balance is blocked, or a request with this key is still at "
                "work."
            ),
            422: "An unknown line or location, or a key that was used for another request.",
        },
        permission="receiving:write",
        changes=_changes,
        counts=_counted("received"),
    ),
    *(
        Operation(
            method="POST",
            path=f"/api/v1/receipts/{{receipt_id}}/{action}",
            name=f"{action}Receipt",
            summary=summary,
            description=commands.ONCE,
            handler=handler,
            params=ReceiptPath,
            body=ReceiptWarehouse,
            header_params=commands.KEY_HEADER,
            answers={200: Answer(ReceiptAnswer, "Done, now or by an earlier request with this key.")},
            problems={
                404: "The warehouse has no such receipt.",
                409: "The receipt's state does not have this move, or a request with this key is still at work.",
                422: "A key that was used for another request.",
            },
            permission="receiving:write",
            changes=nothing_kept,
            counts=_counted(event),
        )
        for action, event, summary, handler in (
            ("close", "closed", "Say that nothing more will come", close),
            ("cancel", "cancelled", "Call a receipt off of which nothing has come", cancel),
        )
    ),
)
