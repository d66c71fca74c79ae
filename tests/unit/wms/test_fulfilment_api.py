"""Orders, waves, picks and shipments over HTTP without a database: what is asked of it, how its outcomes are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from tests.support.asgi import Response, request
from tests.unit.wms.test_service_api import POST, Harness, the_error

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORDER: dict[str, Any] = {
    "warehouse_id": 1,
    "order_number": "PED-1",
    "customer": "C-1",
    "lines": [{"sku": "S-1", "quantity": 2, "unit_price": "2.50"}],
}
DOCUMENT: dict[str, Any] = {
    "id": 5,
    "order_number": "PED-1",
    "warehouse_id": 1,
    "status": "NEW",
    "priority": 5,
    "total_value": "5.00",
    "customer_id": 3,
    "created_at": "2026-01-02T03:04:05.000000Z",
    "updated_at": "2026-01-02T03:04:05.000000Z",
}
PICK: dict[str, Any] = {
    "id": 4,
    "sku": "S-1",
    "status": "PICKED",
    "quantity": 2,
    "picked": 2,
    "order_id": 5,
    "order_status": "PICKED",
    "transaction_id": 9,
    "on_hand": 1,
}


@pytest.fixture
def api() -> Harness:
    return Harness()


def post(api: Harness, target: str, body: dict[str, Any], outcome: str = "", answer: Any = None) -> Response:
    """A POST whose command ends with `outcome` and the JSON of `answer`."""
    api.database.row = (outcome, None if answer is None else msgspec.json.encode(answer).decode())
    return request(api.app, "POST", f"/api/v1/{target}", headers=POST, chunks=(msgspec.json.encode(body),))


def problem(response: Response, status: int, kind: str) -> Any:
    assert (response.status, response.json["type"]) == (status, f"urn:wms:problem:{kind}"), response.body
    return response.json


def test_an_order_is_asked_for_by_columns_and_answered_as_stored(api: Harness) -> None:
    response = post(api, "orders", ORDER, "done", DOCUMENT)
    assert response.status == 201
    assert response.json == DOCUMENT | {
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
    }
    assert response.headers["wms-commit-lsn"] == "0/16B3748"
    ((name, parameters),) = api.database.asked
    assert name == "create_order"
    tenant, key, _hash, *rest = parameters
    assert (tenant, key) == (7, "k1")
    assert rest == [1, "PED-1", "C-1", 5, ["S-1"], [2], ["2.50"]]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lines": []}, "lines"),
        ({"lines": [{"sku": "S-1", "quantity": 0, "unit_price": "1"}]}, "lines[0].quantity"),
        ({"lines": [{"sku": "S-1", "quantity": 1, "unit_price": 1.5}]}, "lines[0].unit_price"),
        ({"lines": [{"sku": "S-1", "quantity": 1, "unit_price": "1.005"}]}, "lines[0].unit_price"),
        ({"lines": [{"sku": "S-1", "quantity": 1, "unit_price": "-1"}]}, "lines[0].unit_price"),
        ({"lines": [{"sku": "S-1", "quantity": 1, "unit_price": "1"}] * 201}, "lines"),
        ({"priority": 0}, "priority"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_malformed_order_never_reaches_the_database(
    api: Harness, change: dict[str, Any], field: str
) -> None:
    assert the_error(post(api, "orders", ORDER | change))["field"] == field
    assert api.database.asked == []


def test_an_order_beyond_what_can_be_stored_is_told_so(api: Harness) -> None:
    lines = [{"sku": "S-1", "quantity": 1_000_000, "unit_price": "9999999.99"}]
    assert the_error(post(api, "orders", ORDER | {"lines": lines}), 422)["field"] == "lines"
    assert api.database.asked == []


def test_each_unknown_sku_of_an_order_is_named(api: Harness) -> None:
    line = ORDER["lines"][0]
    body = ORDER | {"lines": [line, line | {"sku": "X"}, line | {"sku": "Y"}, line | {"sku": "X"}]}
    response = post(api, "orders", body, "unknown_sku", {"skus": ["X", "Y"]})
    assert response.status == 422
    assert [error["field"] for error in response.json["errors"]] == [f"lines[{n}].sku" for n in (1, 2, 3)]


WAREHOUSE = {"warehouse_id": 1}
SHIPMENT = {"warehouse_id": 1, "order_id": 5, "shipment_number": "ENV-1", "carrier": "Correios"}
TWO = {"warehouse_id": 1, "picks": [{"task_id": 3, "quantity": 1}, {"task_id": 4, "quantity": 3}]}


@pytest.mark.parametrize(
    ("target", "body", "outcome", "answer", "status", "kind", "text"),
    [
        ("orders", ORDER, "number_taken", None, 409, "order-number-taken", "PED-1"),
        ("orders", ORDER, "unknown_customer", None, 422, "unprocessable", "customer"),
        ("orders/5/allocate", WAREHOUSE, "unknown_order", None, 404, "unknown-order", "order 5"),
        (
            "orders/5/allocate",
            WAREHOUSE,
            "illegal_move",
            {"state": "PICKED"},
            409,
            "illegal-move",
            "order 5 is PICKED: allocate needs NEW; allowed in PICKED: pack, dispatch, cancel",
        ),
        (
            "orders/5/allocate",
            WAREHOUSE,
            "insufficient",
            {"lines": [{"line_number": 2, "sku": "S-1", "quantity": 9, "available": 4}]},
            409,
            "insufficient-stock",
            "line 2",
        ),
        ("orders/5/cancel", WAREHOUSE, "already_picked", {"units": 4}, 409, "already-picked", "4 units"),
        (
            "waves",
            WAREHOUSE | {"order_ids": [5, 6]},
            "illegal_move",
            {"order_id": 6, "state": "NEW"},
            409,
            "illegal-move",
            "order 6 is NEW: release needs ALLOCATED",
        ),
        (
            "waves",
            WAREHOUSE | {"order_ids": [5, 6]},
            "unknown_order",
            {"order_id": 6, "state": None},
            422,
            "unprocessable",
            "no such order: 6",
        ),
        (
            "picks/4/confirm",
            WAREHOUSE | {"quantity": 1},
            "illegal_move",
            {"task_id": 4, "state": "SHORT"},
            409,
            "illegal-move",
            "task 4 is SHORT: confirm needs OPEN; allowed in SHORT: nothing",
        ),
        (
            "picks/4/confirm",
            WAREHOUSE | {"quantity": 1},
            "unknown_task",
            {"task_id": 4},
            404,
            "unknown-task",
            "4",
        ),
        (
            "picks/4/confirm",
            WAREHOUSE | {"quantity": 1},
            "blocked",
            {"task_id": 4},
            409,
            "balance-blocked",
            "4",
        ),
        (
            "picks/4/confirm",
            WAREHOUSE | {"quantity": 3},
            "too_many",
            {"task_id": 4, "quantity": 2},
            422,
            "unprocessable",
            "quantity",
        ),
        (
            "picks/confirm",
            TWO,
            "too_many",
            {"task_id": 4, "quantity": 2},
            422,
            "unprocessable",
            "picks[1].quantity: more than task 4",
        ),
        ("picks/confirm", TWO, "unknown_task", {"task_id": 3}, 422, "unprocessable", "picks[0].task_id"),
        ("shipments", SHIPMENT, "illegal_move", {"state": "NEW"}, 409, "illegal-move", "pack needs PICKED"),
        (
            "shipments",
            SHIPMENT,
            "already_packed",
            {"shipment_number": "E"},
            409,
            "already-packed",
            "shipment E",
        ),
        ("shipments", SHIPMENT, "nothing_picked", None, 409, "nothing-picked", "order 5"),
        ("shipments", SHIPMENT, "number_taken", None, 409, "shipment-number-taken", "ENV-1"),
        ("shipments", SHIPMENT, "unknown_order", None, 422, "unprocessable", "order_id"),
        (
            "shipments/8/deliver",
            WAREHOUSE,
            "illegal_move",
            {"state": "PACKED"},
            409,
            "illegal-move",
            "shipment 8 is PACKED: deliver needs DISPATCHED; allowed in PACKED: dispatch, cancel",
        ),
        ("shipments/8/cancel", WAREHOUSE, "unknown_shipment", None, 404, "unknown-shipment", "shipment 8"),
        ("orders/5/cancel", WAREHOUSE, "in_flight", None, 409, "request-in-flight", "again"),
    ],
)
def test_a_refusal_is_told_in_words(
    api: Harness,
    target: str,
    body: dict[str, Any],
    outcome: str,
    answer: Any,
    status: int,
    kind: str,
    text: str,
) -> None:
    assert text in problem(post(api, target, body, outcome, answer), status, kind)["detail"]


def test_a_repeated_order_or_task_is_refused_before_the_database(api: Harness) -> None:
    assert the_error(post(api, "waves", {"warehouse_id": 1, "order_ids": [5, 5]}))["field"] == "order_ids"
    picks = [{"task_id": 4, "quantity": 1}, {"task_id": 4, "quantity": 2}]
    assert the_error(post(api, "picks/confirm", {"warehouse_id": 1, "picks": picks}))["field"] == "picks"
    assert api.database.asked == []


def test_picks_are_confirmed_by_columns(api: Harness) -> None:
    response = post(api, "picks/confirm", TWO, "done", {"picks": [PICK]})
    assert (response.status, response.json) == (200, {"picks": [PICK]})
    ((name, parameters),) = api.database.asked
    assert (name, list(parameters)[3:]) == ("confirm_picks", [1, [3, 4], [1, 3]])
    response = post(api, "picks/4/confirm", {"warehouse_id": 1, "quantity": 2}, "replayed", PICK)
    assert (response.json, response.headers["idempotency-replayed"]) == (PICK, "true")


def test_a_dispatch_carries_its_tracking_code_and_the_others_none(api: Harness) -> None:
    document = {
        "id": 8,
        "shipment_number": "ENV-1",
        "warehouse_id": 1,
        "order_id": 5,
        "carrier": "Correios",
        "tracking_code": None,
        "status": "CANCELLED",
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
    }
    assert post(api, "shipments/8/cancel", WAREHOUSE, "done", document).json == document
    post(api, "shipments/8/dispatch", WAREHOUSE | {"tracking_code": "BR1"}, "done", document)
    assert [list(parameters)[3:] for _, parameters in api.database.asked] == [
        [1, 8, "cancel", None],
        [1, 8, "dispatch", "BR1"],
    ]
    assert the_error(post(api, "shipments/8/dispatch", WAREHOUSE))["field"] == "tracking_code"
    assert (
        the_error(post(api, "shipments/8/deliver", WAREHOUSE | {"tracking_code": "X"}))["field"]
        == "tracking_code"
    )


def row(number: int, lines: str | None = None, customer: str | None = None) -> tuple[Any, ...]:
    local = NOW.astimezone(timezone(timedelta(hours=-3)))
    return (number, f"PED-{number}", "NEW", 5, "5.00", 3, local, local, lines, customer)


def test_a1_a2_orders_come_in_pages_with_the_fields_that_were_asked_for(api: Harness) -> None:
    customer = '{"id": 3, "code": "C-1", "name": "Sol", "city": null}'
    api.database.rows = [row(9, customer=customer), row(8, customer=customer), row(7, customer=customer)]
    base = "/api/v1/orders?warehouse_id=1&limit=2&fields=id,created_at&include=customer"
    found = api.get(base).json
    assert found["data"][0] == {
        "id": 9,
        "created_at": "2026-01-02T03:04:05Z",
        "customer": {"id": 3, "code": "C-1", "name": "Sol", "city": None},
    }
    assert [item["id"] for item in found["data"]] == [9, 8]
    assert found["pagination"] | {"cursor_after": ""} == {"cursor_after": "", "has_more": True, "limit": 2}
    api.database.rows = [row(7)]
    cursor = found["pagination"]["cursor_after"]
    found = api.get(f"/api/v1/orders?warehouse_id=1&limit=5&cursor_after={cursor}").json
    assert found["pagination"] == {"cursor_after": None, "has_more": False, "limit": 5}
    assert "customer" not in found["data"][0]
    assert "order_lines" not in found["data"][0]
    assert [list(parameters) for _, parameters in api.database.asked] == [
        [7, 1, None, None, 3, False, True],
        [7, 1, None, 8, 6, False, False],
    ]
    other = api.get(f"/api/v1/orders?warehouse_id=1&status=NEW&cursor_after={cursor}")
    assert the_error(other)["field"] == "cursor_after"


def test_one_order_is_there_or_unknown(api: Harness) -> None:
    api.database.rows = []
    problem(api.get("/api/v1/orders/5?warehouse_id=1"), 404, "unknown-order")
    lines = (
        '[{"line_number": 1, "sku": "S", "quantity": 2, "unit_price": "2.50", "allocated": 0, "picked": 0}]'
    )
    api.database.rows = [row(5, lines)]
    found = api.get("/api/v1/orders/5?warehouse_id=1&include=order_lines&fields=status").json
    assert found == {"status": "NEW", "order_lines": msgspec.json.decode(lines)}


def test_what_is_not_there_is_unknown(api: Harness) -> None:
    api.database.rows = [(None,)]
    problem(api.get("/api/v1/waves/5?warehouse_id=1"), 404, "unknown-wave")
    problem(api.get("/api/v1/analytics/summary?warehouse_id=1"), 404, "unknown-warehouse")


def test_the_summary_says_nought_where_there_is_nothing(api: Harness) -> None:
    api.database.rows = [
        (
            '{"orders": {"NEW": 2}, "picks_open": 1, "receipts_open": 0, "movements_per_hour": [], "abc": {"B": 4}}',
        )
    ]
    found = api.get("/api/v1/analytics/summary?warehouse_id=1").json
    assert found["orders"] == {
        "NEW": 2, "ALLOCATED": 0, "PICKING": 0, "PICKED": 0, "SHIPPED": 0, "CANCELLED": 0,
    }  # fmt: skip
    assert found["abc"] == {"A": 0, "B": 4, "C": 0}


def test_the_lists_take_their_filters_and_name_what_is_allowed(api: Harness) -> None:
    for target, allowed in (
        ("orders?warehouse_id=1&status=OPEN", "NEW"),
        ("picks?warehouse_id=1&status=NEW", "SHORT"),
        ("shipments?warehouse_id=1&status=NEW", "DISPATCHED"),
        ("customers?limit=201", "1 to 200"),
    ):
        assert allowed in the_error(api.get(f"/api/v1/{target}"))["allowed"]
    for target in ("picks?warehouse_id=1&wave_id=3", "shipments?warehouse_id=1", "customers"):
        found = api.get(f"/api/v1/{target}")
        assert found.json == {
            "data": [],
            "pagination": {"cursor_after": None, "has_more": False, "limit": 50},
        }
    assert [list(parameters) for _, parameters in api.database.asked] == [
        [7, 1, 3, None, None, None, 51],
        [7, 1, None, None, 51],
        [7, None, 51],
    ]
