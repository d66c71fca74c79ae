"""Posting a movement: one statement, one transaction, one round trip to the primary."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from wms.domain.movements import InsufficientStock, Movement
from wms.store.database import Database, Row, Statement

_POST = Statement(
    "post_movement", "SELECT outcome, answer FROM post_movement(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)

Cause = Literal[
    "unknown_warehouse", "unknown_sku", "unknown_from", "unknown_to", "blocked", "key_reused", "in_flight"
]


class Refused(Exception):
    """The database refused the movement, and nothing changed."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause: Cause = cause


class Receipt(msgspec.Struct, frozen=True):
    """What was stored with the idempotency key: the ledger row's id and the balances after it, in units."""

    id: int
    posted_at: datetime
    from_on_hand: int | None
    to_on_hand: int | None


@dataclass(frozen=True, slots=True)
class Posted:
    """A posted movement; `replayed` when an earlier request with the same key posted it."""

    receipt: Receipt
    replayed: bool
    commit_lsn: str
    """A replica that has replayed up to here shows the movement."""


class _Shortage(msgspec.Struct):
    on_hand: int


def _final(row: Row, attempt: int) -> bool:
    """A repeated attempt that finds its key in flight has met its own first one: only that one's end is an
    answer.
    """
    return not (row[0] == "in_flight" and attempt > 0)


async def post(
    database: Database, tenant_id: int, key: str, request_hash: bytes, movement: Movement
) -> Posted:
    """Post `movement` once, however often it is sent with this idempotency key.

    Raises InsufficientStock, Refused, Unavailable.
    """
    (outcome, answer), lsn = await database.write(
        _POST,
        (
            tenant_id,
            key,
            request_hash,
            movement.warehouse_id,
            movement.sku,
            movement.kind,
            movement.source,
            movement.target,
            movement.quantity,
            movement.reference,
        ),
        final=_final,
    )
    if outcome in ("posted", "replayed"):
        return Posted(msgspec.json.decode(answer, type=Receipt), outcome == "replayed", lsn)
    if outcome == "insufficient":
        shortage = msgspec.json.decode(answer, type=_Shortage)
        raise InsufficientStock(movement.source or "", shortage.on_hand, movement.quantity)
    raise Refused(outcome)
