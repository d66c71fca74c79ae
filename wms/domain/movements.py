"""Stock movements: the four kinds, and the rule that no balance ever goes below zero.

A movement takes a quantity from a source location, puts it into a target location, or does both; its kind
says which. The database applies the same rule in one transaction (`post_movement`); `settle` states it in the
open, and the live tests hold the database to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["receipt", "issue", "adjustment", "transfer"]

MAX_QUANTITY = 1_000_000
"""Units in one movement: far above any pallet, far below what could overflow a balance."""


class InvalidMovement(ValueError):
    """A movement that no stock could make right; `field` is the wrong one, `allowed` what it may be."""

    def __init__(self, field: str, allowed: str) -> None:
        super().__init__(f"{field}: allowed: {allowed}")
        self.field = field
        self.allowed = allowed


class InsufficientStock(Exception):
    """The source holds less than the movement takes; both in units."""

    def __init__(self, location: str, on_hand: int, requested: int) -> None:
        super().__init__(f"{location} holds {on_hand} units, {requested} requested")
        self.location = location
        self.on_hand = on_hand
        self.requested = requested


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A change of stock of one SKU in one warehouse; SKU and locations by code, quantity in units."""

    kind: Kind
    warehouse_id: int
    sku: str
    source: str | None
    target: str | None
    quantity: int
    reference: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quantity <= MAX_QUANTITY:
            raise InvalidMovement("quantity", f"1 to {MAX_QUANTITY}")
        if self.source == self.target:
            raise InvalidMovement("to_location", "a location other than from_location")
        shape = (self.source is not None, self.target is not None)
        if shape not in _SHAPES[self.kind]:
            raise InvalidMovement("type", f"for {self.kind}: {_SHAPE_TEXT[self.kind]}")


_SHAPES: Mapping[Kind, frozenset[tuple[bool, bool]]] = {
    "receipt": frozenset({(False, True)}),
    "issue": frozenset({(True, False)}),
    "adjustment": frozenset({(True, False), (False, True)}),
    "transfer": frozenset({(True, True)}),
}
_SHAPE_TEXT: Mapping[Kind, str] = {
    "receipt": "a target only",
    "issue": "a source only",
    "adjustment": "a source or a target",
    "transfer": "a source and a target",
}


def adjustment(*, warehouse_id: int, sku: str, location: str, change: int, reference: str) -> Movement:
    """A correction of one balance by `change` units (signed, not zero).

    Raises InvalidMovement when change is zero or larger than MAX_QUANTITY either way.
    """
    if not 1 <= abs(change) <= MAX_QUANTITY:
        raise InvalidMovement("change", f"-{MAX_QUANTITY} to {MAX_QUANTITY}, not 0")
    return Movement(
        kind="adjustment",
        warehouse_id=warehouse_id,
        sku=sku,
        source=location if change < 0 else None,
        target=location if change > 0 else None,
        quantity=abs(change),
        reference=reference,
    )


def settle(balances: Mapping[str, int], movement: Movement) -> dict[str, int]:
    """The balances (location code → units on hand) after `movement`; a location without an entry holds none.

    Raises InsufficientStock when the source holds less than the quantity; `balances` itself is never changed.
    """
    after = dict(balances)
    if movement.source is not None:
        on_hand = after.get(movement.source, 0)
        if on_hand < movement.quantity:
            raise InsufficientStock(movement.source, on_hand, movement.quantity)
        after[movement.source] = on_hand - movement.quantity
    if movement.target is not None:
        after[movement.target] = after.get(movement.target, 0) + movement.quantity
    return after
