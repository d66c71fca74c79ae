"""tests/support/books.py, on which the fault tests rely, tells what is lost, doubled or half done."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.support.books import Books, differences, expected
from tests.support.workload import Change

BEFORE = Books(balances={(1, 7, "SKU-000001", "A-1-1"): (100, 4)})
LINE = {"sku": "SKU-000001", "quantity": 3, "unit_price": "1.00"}
HELD = {"line_number": 1, "sku": "SKU-000001", "location": "A-1-1", "quantity": 3}
TASK = {"id": 90, "order_id": 5, "line_number": 1, "sku": "SKU-000001", "location": "A-1-1", "quantity": 3}


def change(kind: str, answer: dict[str, Any], **body: Any) -> Change:
    return Change(1, 7, kind, "", body, f"key-{kind}", status=200, answer=answer)


CHANGES = [
    change("order.create", {"id": 5}, order_number="O-1", lines=[LINE]),
    change("order.allocate", {"id": 5, "allocations": [HELD]}),
    change("wave.create", {"id": 8, "tasks": [TASK]}, order_ids=[5]),
    change("pick.confirm", {"id": 90}, quantity=2),
    change("shipment.create", {"id": 6}, shipment_number="S-1", order_id=5),
    change("shipment.dispatch", {"id": 6}, tracking_code="T-1"),
]


def test_a_short_pick_from_its_order_to_its_shipment() -> None:
    made = expected(BEFORE, CHANGES)
    assert made.balances == {(1, 7, "SKU-000001", "A-1-1"): (98, 4)}
    assert made.orders == {"O-1": (5, "SHIPPED", {1: ("SKU-000001", 3, 0, 2)})}
    assert made.tasks == {90: (5, "SKU-000001", "A-1-1", 3, 2, "SHORT")}
    assert made.waves == {8: "DONE"} and made.shipments == {"S-1": (6, 5, "DISPATCHED", "T-1")}
    assert made.ledger == {(1, "SKU-000001", "issue", "A-1-1", "", 2, "O-1"): 1}
    assert made.events[1, "stock.moved", "SKU-000001"] == made.events[1, "order.shipped", "5"] == 1
    assert BEFORE.balances == {(1, 7, "SKU-000001", "A-1-1"): (100, 4)}


@pytest.mark.parametrize("lost", range(1, len(CHANGES) + 1))
def test_each_change_that_is_lost_is_seen(lost: int) -> None:
    there = expected(BEFORE, CHANGES[: len(CHANGES) - lost])
    wrong = differences(expected(BEFORE, CHANGES), there)
    assert any(text.startswith("keys: lost key-shipment.dispatch") for text in wrong)
    assert any(text.startswith("orders O-1: acknowledged") for text in wrong)


def test_what_is_doubled_half_done_or_nobodys_is_seen() -> None:
    good = expected(BEFORE, CHANGES)
    assert differences(good, deepcopy(good)) == []
    doubled, half, strange = deepcopy(good), deepcopy(good), deepcopy(good)
    doubled.ledger[1, "SKU-000001", "issue", "A-1-1", "", 2, "O-1"] += 1
    assert differences(good, doubled) == [
        "ledger (1, 'SKU-000001', 'issue', 'A-1-1', '', 2, 'O-1'): acknowledged 1, found 2"
    ]
    half.balances[1, 7, "SKU-000001", "A-1-1"] = (98, 7)
    assert [text.split(":")[0] for text in differences(good, half)] == [
        "balances (1, 7, 'SKU-000001', 'A-1-1')"
    ]
    strange.keys.add("key-nobody")
    strange.receipts["R-1"] = (1, "EXPECTED", {})
    assert differences(good, strange) == [
        "receipts R-1: acknowledged None, found (1, 'EXPECTED', {})",
        "keys: nobody asked for key-nobody",
    ]


def test_what_was_refused_or_is_unknown_leaves_no_trace() -> None:
    refused, unknown = deepcopy(CHANGES[0]), deepcopy(CHANGES[0])
    refused.status, unknown.status = 409, 0
    assert expected(BEFORE, [refused, unknown]) == BEFORE
