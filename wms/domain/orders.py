"""Orders: their states, what they are worth, and how stock is set aside for them.

    NEW -allocate-> ALLOCATED -release-> PICKING -complete-> PICKED -dispatch-> SHIPPED
      \\________________\\____________________\\_______________/
                                cancel, while nothing has been picked -> CANCELLED

`release` puts the order into a wave, `complete` happens with its last pick, `dispatch` with its shipment's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from wms.domain.states import Machine

Status = Literal["NEW", "ALLOCATED", "PICKING", "PICKED", "SHIPPED", "CANCELLED"]

ORDER = Machine(
    "order",
    {
        "NEW": {"allocate": "ALLOCATED", "cancel": "CANCELLED"},
        "ALLOCATED": {"release": "PICKING", "cancel": "CANCELLED"},
        "PICKING": {"complete": "PICKED", "cancel": "CANCELLED"},
        "PICKED": {"pack": "PICKED", "dispatch": "SHIPPED", "cancel": "CANCELLED"},
        "SHIPPED": {},
        "CANCELLED": {},
    },
)

MAX_LINES = 200
"""Lines of one order: what one person still picks in one go, and what one transaction reserves well within its time."""
MAX_TOTAL_VALUE = Decimal("999999999999.99")
"""What orders.total_value, numeric(14, 2), can hold."""


def total_value(lines: Iterable[tuple[int, Decimal]]) -> Decimal:
    """The worth of an order from its lines' (quantity, unit price), exact.

    Raises ValueError beyond MAX_TOTAL_VALUE.
    """
    total = sum((quantity * price for quantity, price in lines), Decimal("0.00"))
    if total > MAX_TOTAL_VALUE:
        raise ValueError(f"the order is worth {total}, allowed: up to {MAX_TOTAL_VALUE}")
    return total


@dataclass(frozen=True, slots=True)
class Want:
    """What a line of an order wants, in units."""

    line_number: int
    sku_id: int
    quantity: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Units of a balance that are set aside for a line."""

    line_number: int
    sku_id: int
    location_id: int
    quantity: int


@dataclass(frozen=True, slots=True)
class ShortLine:
    """A line whose SKU is short: `available` units are free in the warehouse, for all lines that want it."""

    line_number: int
    sku_id: int
    quantity: int
    available: int


class InsufficientStock(Exception):
    """The stock does not cover the order; `lines` are all those of each SKU that is short."""

    def __init__(self, lines: tuple[ShortLine, ...]) -> None:
        super().__init__(
            "; ".join(
                f"line {line.line_number} wants {line.quantity}, free: {line.available}" for line in lines
            )
        )
        self.lines = lines


def plan(wants: Sequence[Want], free: Mapping[tuple[int, int], int]) -> list[Allocation]:
    """What to set aside for an order: every line in full, or nothing.

    `free` maps (SKU id, location id) to the units that are neither reserved nor blocked there; it is not changed.
    Lines are served by their number. A line is taken from the smallest balance that has all of it, so that a picker
    goes to one place and large balances stay whole (best fit); when none has, the largest one is used up and the search
    goes on with the rest. At equal size the lowest location id comes first.

    Raises InsufficientStock. `allocate_order` in wms/migrations/0006_fulfilment.sql does the same.
    """
    left = {balance: units for balance, units in free.items() if units > 0}
    _check(wants, left)
    found = []
    for want in sorted(wants, key=lambda want: want.line_number):
        need = want.quantity
        while need > 0:
            location_id, units = _best(left, want.sku_id, need)
            take = min(units, need)
            left[want.sku_id, location_id] -= take
            need -= take
            found.append(Allocation(want.line_number, want.sku_id, location_id, take))
    return found


def _best(left: Mapping[tuple[int, int], int], sku_id: int, need: int) -> tuple[int, int]:
    """(location id, units) of the balance to take `need` units of a SKU from; some balance has a unit."""

    def rank(candidate: tuple[int, int]) -> tuple[bool, int, int]:
        location_id, units = candidate
        short = units < need
        return short, -units if short else units, location_id

    return min(
        ((location_id, units) for (sku, location_id), units in left.items() if sku == sku_id and units > 0),
        key=rank,
    )


def _check(wants: Sequence[Want], left: Mapping[tuple[int, int], int]) -> None:
    wanted: dict[int, int] = {}
    for want in wants:
        wanted[want.sku_id] = wanted.get(want.sku_id, 0) + want.quantity
    available = dict.fromkeys(wanted, 0)
    for (sku_id, _location), units in left.items():
        if sku_id in available:
            available[sku_id] += units
    short = tuple(
        ShortLine(want.line_number, want.sku_id, want.quantity, available[want.sku_id])
        for want in sorted(wants, key=lambda want: want.line_number)
        if available[want.sku_id] < wanted[want.sku_id]
    )
    if short:
        raise InsufficientStock(short)
