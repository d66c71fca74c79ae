"""Row M1: what the warehouse does is counted once, when it was committed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support.asgi import request
from tests.unit.wms.test_service_api import POST, Harness
from wms import metrics
from wms.api.app import OPERATIONS

PICK = {
    "id": 1, "sku": "S", "status": "SHORT", "quantity": 5, "picked": 3, "order_id": 9, "order_status": "PICKED",
    "transaction_id": 4, "on_hand": 1,
}  # fmt: skip


def line(api: Harness, name: str) -> float:
    """The value of one series."""
    for found in api.services.metrics.render().decode().splitlines():
        if found.startswith(name + " "):
            return float(found.rsplit(" ", 1)[1])
    raise AssertionError(f"there is no {name}")


def confirm(api: Harness, *picks: dict[str, object], outcome: str = "done") -> None:
    api.database.row = (outcome, msgspec.json.encode({"picks": list(picks)}).decode())
    body = {"warehouse_id": 1, "picks": [{"task_id": 1, "quantity": 3}]}
    request(api.app, "POST", "/api/v1/picks/confirm", headers=POST, chunks=(msgspec.json.encode(body),))


def test_m1_picks_are_counted_by_what_was_committed() -> None:
    api = Harness()
    assert line(api, 'wms_picks_total{result="short"}') == 0
    confirm(api, PICK, PICK | {"status": "PICKED", "picked": 5})
    assert line(api, 'wms_picks_total{result="short"}') == line(api, 'wms_picks_total{result="picked"}') == 1
    assert line(api, "wms_picked_units_total") == 8
    # Two tasks, one order.
    assert line(api, 'wms_orders_total{event="picked"}') == 1


@pytest.mark.parametrize("outcome", ["replayed", "blocked"])
def test_m1_what_was_done_before_or_refused_counts_nothing(outcome: str) -> None:
    api = Harness()
    confirm(api, PICK, outcome=outcome)
    assert line(api, 'wms_picks_total{result="short"}') == line(api, "wms_picked_units_total") == 0


def test_m1_every_change_of_an_order_a_pick_a_receipt_or_a_shipment_is_counted() -> None:
    resources = ("orders", "waves", "picks", "receipts", "shipments")
    changing = [o for o in OPERATIONS if o.changes is not None and o.path.split("/")[3] in resources]
    assert changing and not [o.name for o in changing if o.counts is None]


def test_m1_the_metrics_are_documented_by_name() -> None:
    """Fails until `python -m wms.metrics` was run."""
    page = (Path(__file__).resolve().parents[3] / "docs/metrics.md").read_text()
    assert page == metrics.page()
    for name in ("wms_orders_total", "wms_picks_total", "wms_receipts_total", "wms_shipments_total"):
        assert f"| `{name}` | counter |" in page
