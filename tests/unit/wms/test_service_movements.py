"""The rule of movements: no balance below zero, nothing lost, nothing made up."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from wms.domain.movements import (
    MAX_QUANTITY,
    InsufficientStock,
    InvalidMovement,
    Movement,
    adjustment,
    settle,
)

RECEIPT = Movement(kind="receipt", warehouse_id=1, sku="S", source=None, target="A", quantity=5)
ISSUE = replace(RECEIPT, kind="issue", source="A", target=None)
TRANSFER = replace(RECEIPT, kind="transfer", source="A", target="B")


def test_a_receipt_adds_an_issue_takes_a_transfer_moves() -> None:
    assert settle({}, RECEIPT) == {"A": 5}
    assert settle({"A": 7}, ISSUE) == {"A": 2}
    assert settle({"A": 7, "B": 1}, TRANSFER) == {"A": 2, "B": 6}


@pytest.mark.parametrize("movement", [ISSUE, TRANSFER])
@pytest.mark.parametrize("on_hand", [0, 4])
def test_a_source_never_goes_below_zero(movement: Movement, on_hand: int) -> None:
    before = {"A": on_hand}
    with pytest.raises(InsufficientStock) as caught:
        settle(before, movement)
    assert (caught.value.on_hand, caught.value.requested) == (on_hand, 5)
    assert before == {"A": on_hand}


def test_the_last_unit_can_go() -> None:
    assert settle({"A": 5}, ISSUE) == {"A": 0}


def test_any_history_keeps_the_sum_of_what_came_less_what_went() -> None:
    random, balances, expected = Random(1), dict[str, int](), 0
    for _ in range(2000):
        movement = replace(random.choice((RECEIPT, ISSUE, TRANSFER)), quantity=random.randint(1, 9))
        try:
            balances = settle(balances, movement)
        except InsufficientStock:
            continue
        expected += {"receipt": 1, "issue": -1}.get(movement.kind, 0) * movement.quantity
        assert all(units >= 0 for units in balances.values())
        assert sum(balances.values()) == expected


def test_an_adjustment_has_a_direction() -> None:
    up = adjustment(warehouse_id=1, sku="S", location="A", change=3, reference="found")
    down = adjustment(warehouse_id=1, sku="S", location="A", change=-3, reference="broken")
    assert (up.source, up.target, up.quantity) == (None, "A", 3)
    assert (down.source, down.target, down.quantity) == ("A", None, 3)


@pytest.mark.parametrize("change", [0, MAX_QUANTITY + 1, -MAX_QUANTITY - 1])
def test_an_adjustment_of_nothing_or_too_much_is_invalid(change: int) -> None:
    with pytest.raises(InvalidMovement) as caught:
        adjustment(warehouse_id=1, sku="S", location="A", change=change, reference="x")
    assert caught.value.field == "change"
    assert "not 0" in caught.value.allowed


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": -1}, "quantity"),
        ({"quantity": MAX_QUANTITY + 1}, "quantity"),
        ({"source": "B", "target": "B", "kind": "transfer"}, "to_location"),
        ({"source": "B"}, "type"),
        ({"kind": "issue"}, "type"),
        ({"kind": "transfer"}, "type"),
    ],
)
def test_what_no_stock_could_make_right_is_invalid(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidMovement) as caught:
        replace(RECEIPT, **changes)  # type: ignore[arg-type]
    assert caught.value.field == field
