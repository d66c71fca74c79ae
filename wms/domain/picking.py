"""Picking: the states of a task, what a confirmed quantity makes of it, and the walk through the warehouse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from wms.domain.states import Machine

Status = Literal["OPEN", "PICKED", "SHORT", "CANCELLED"]
WaveStatus = Literal["OPEN", "DONE"]

TASK = Machine(
    "task",
    {
        # Which of PICKED and SHORT it becomes is the quantity's affair: settle().
        "OPEN": {"confirm": "PICKED", "cancel": "CANCELLED"},
        "PICKED": {},
        "SHORT": {},
        "CANCELLED": {},
    },
)

MAX_ORDERS = 50
"""Orders of one wave: a cart has no room for more, and the tasks of all of them travel in one answer."""
MAX_PICKS = 200
"""Picks confirmed by one request, which is one transaction."""


class TooMany(ValueError):
    """More units than the task asks for."""

    def __init__(self, quantity: int, asked: int) -> None:
        super().__init__(f"the task is for {quantity} units, {asked} confirmed")
        self.quantity = quantity


@dataclass(frozen=True, slots=True)
class Settled:
    """What a confirmation makes of an open task, in units: `released` were reserved and are free again."""

    status: Status
    issued: int
    released: int


def settle(quantity: int, confirmed: int) -> Settled:
    """The outcome of confirming `confirmed` units of an open task for `quantity`; fewer is a short pick.

    Raises TooMany, and ValueError below zero.
    """
    if confirmed < 0:
        raise ValueError(f"{confirmed} units confirmed")
    if confirmed > quantity:
        raise TooMany(quantity, confirmed)
    return Settled("PICKED" if confirmed == quantity else "SHORT", confirmed, quantity - confirmed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Where a reservation is to be picked."""

    aisle: str
    position: int
    level: int
    location_id: int
    order_id: int
    line_number: int
    reservation_id: int


def walk(stops: Iterable[Stop]) -> list[Stop]:
    """The stops in walking order.

    Aisle by aisle, by name (code points, whatever the language); a serpentine: positions upwards in the first aisle
    that is visited, downwards in the next one, so that nobody walks back through an aisle; at a position from the
    lowest level up. What is at one place is in the order of location, order, line and reservation.

    `create_wave` in wms/migrations/0006_fulfilment.sql numbers its tasks in the same order.
    """
    found = list(stops)
    turn = {aisle: index for index, aisle in enumerate(sorted({stop.aisle for stop in found}))}

    def place(stop: Stop) -> tuple[int, ...]:
        index = turn[stop.aisle]
        position = stop.position if index % 2 == 0 else -stop.position
        return (
            index,
            position,
            stop.level,
            stop.location_id,
            stop.order_id,
            stop.line_number,
            stop.reservation_id,
        )

    return sorted(found, key=place)
