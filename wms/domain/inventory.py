"""What a balance may do: units come in, are promised to orders, and leave; never below zero, never what is promised.

The database does the same under a lock (move_stock in wms/migrations/0005_inventory.sql); this is the rule in the open,
and the live tests hold the database to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


class Insufficient(Exception):
    """Fewer units are free than are wanted."""

    def __init__(self, free: int, wanted: int) -> None:
        super().__init__(f"{free} units are free, {wanted} wanted")
        self.free = free
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class Balance:
    """Units of a SKU at a location; `reserved` of those on hand are promised to orders."""

    on_hand: int = 0
    reserved: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.reserved <= self.on_hand:
            raise ValueError(
                f"reserved {self.reserved}, on hand {self.on_hand}: allowed: 0 <= reserved <= on hand"
            )

    @property
    def free(self) -> int:
        """Units that may be moved, issued or reserved."""
        return self.on_hand - self.reserved

    def put(self, quantity: int) -> Balance:
        """More units."""
        return replace(self, on_hand=self.on_hand + quantity)

    def take(self, quantity: int, release: int = 0) -> Balance:
        """Fewer units, of the free ones and of `release` reserved ones, whose reservation ends whether all of them are
        taken or not.

        Raises Insufficient; ValueError when `release` is more than is reserved.
        """
        if quantity > self.free + release:
            raise Insufficient(self.free + release, quantity)
        return Balance(self.on_hand - quantity, self.reserved - release)

    def reserve(self, quantity: int) -> Balance:
        """Promise free units. Raises Insufficient."""
        if quantity > self.free:
            raise Insufficient(self.free, quantity)
        return replace(self, reserved=self.reserved + quantity)

    def release(self, quantity: int) -> Balance:
        """End a promise. Raises ValueError when there is less of it."""
        return replace(self, reserved=self.reserved - quantity)


def utilisation(capacity: int | None, units: int) -> float | None:
    """The share of `capacity` that `units` take, to four places: above 1 when overfull, None where nothing has been
    measured.
    """
    return None if not capacity else round(units / capacity, 4)
