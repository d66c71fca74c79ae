"""Orders from their first line to their delivery, over HTTP, against a real PostgreSQL behind a real PgBouncer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support import service as support
from tests.support.fulfilment import (
    NUMBERS,
    Connection,
    Tenant,
    balances,
    broken_invariants,
    location_id,
    new_order,
    order_body,
    product,
    released,
    rows,
    run,
    seed,
    status_of,
    value,
)
from tests.support.postgres import Database
from tests.support.service import Service, sent_by_requests
from wms.domain.orders import ORDER

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]
DATABASE_ADDRESS = "127.43.22.1"
SERVICE_ADDRESS = "127.43.22.2"


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    """The two servers with the schema in place."""
    with support.migrated(DATABASE_ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def owner(db: Database) -> Iterator[Connection]:
    """The owner of the schema, who sees every tenant."""
    with db.connect("wms_owner") as connection:
        yield connection


@pytest.fixture
def app(db: Database) -> Iterator[Connection]:
    """The service's own role, past the service."""
    with db.connect("wms_app") as connection:
        yield connection


@pytest.fixture(scope="module")
def tenants(db: Database, owner: Connection, tmp_path_factory: pytest.TempPathFactory) -> list[Tenant]:
    """Two tenants."""
    return seed(db, owner, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def mine(tenants: list[Tenant]) -> Tenant:
    return tenants[0]


@pytest.fixture(scope="module")
def service(
    db: Database, tenants: list[Tenant], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    support.without_jobs(db)
    with support.service(db, tmp_path_factory.mktemp("service"), SERVICE_ADDRESS, scheme="https") as made:
        yield made


# The life of an order


def test_an_order_lives_from_its_first_line_to_its_delivery(
    service: Service, owner: Connection, mine: Tenant
) -> None:
    a, b = product(owner, mine, A_1_1=10, A_1_9=3), product(owner, mine, A_1_5=4)
    taken = service.done("/api/v1/orders", mine, order_body(mine, **{a: 5, b: 2}))
    order, at = taken["id"], f"/api/v1/orders/{taken['id']}"
    assert (taken["status"], taken["total_value"], taken["priority"]) == ("NEW", "17.50", 5)
    assert taken["warehouse_id"] == mine.warehouse
    assert datetime.fromisoformat(taken["created_at"]).tzinfo == UTC
    assert taken["created_at"].endswith("Z")

    allocated = service.done(f"{at}/allocate", mine)
    assert allocated["status"] == "ALLOCATED"
    assert allocated["allocations"] == [
        {"line_number": 1, "sku": a, "location": "A-1-1", "quantity": 5},
        {"line_number": 2, "sku": b, "location": "A-1-5", "quantity": 2},
    ]
    assert balances(owner, a) == {"A-1-1": (10, 5), "A-1-9": (3, 0)}

    wave = service.done("/api/v1/waves", mine, {"order_ids": [order]})
    assert [(t["sequence"], t["location"], t["quantity"]) for t in wave["tasks"]] == [
        (1, "A-1-1", 5),
        (2, "A-1-5", 2),
    ]
    where = f"warehouse_id={mine.warehouse}"
    assert service.get(f"/api/v1/waves/{wave['id']}?{where}", mine).json() == wave
    listed = service.get(f"/api/v1/picks?{where}&wave_id={wave['id']}&status=OPEN", mine).json()
    assert listed["data"] == wave["tasks"]
    assert wave["tasks"][0] in service.get(f"/api/v1/picks?{where}", mine).json()["data"]
    assert service.get(f"{at}?{where}", mine).json()["status"] == "PICKING"

    first, second = (task["id"] for task in wave["tasks"])
    confirmed = service.done(f"/api/v1/picks/{first}/confirm", mine, {"quantity": 5})
    assert (confirmed["status"], confirmed["order_status"], confirmed["on_hand"]) == ("PICKED", "PICKING", 5)
    short = service.done(f"/api/v1/picks/{second}/confirm", mine, {"quantity": 1})
    assert (short["status"], short["picked"], short["order_status"]) == ("SHORT", 1, "PICKED")
    assert (balances(owner, a)["A-1-1"], balances(owner, b)) == ((5, 0), {"A-1-5": (3, 0)})
    assert service.get(f"/api/v1/waves/{wave['id']}?{where}", mine).json()["status"] == "DONE"

    body = {"order_id": order, "shipment_number": f"ENV-{order}", "carrier": "Correios"}
    shipment = service.done("/api/v1/shipments", mine, body)
    assert (shipment["status"], shipment["tracking_code"]) == ("PACKED", None)
    to = f"/api/v1/shipments/{shipment['id']}"
    sent = service.done(f"{to}/dispatch", mine, {"tracking_code": "BR123"})
    assert (sent["status"], sent["tracking_code"]) == ("DISPATCHED", "BR123")
    assert service.get(f"{at}?{where}", mine).json()["status"] == "SHIPPED"
    assert service.done(f"{to}/deliver", mine)["status"] == "DELIVERED"
    assert (
        service.get(f"/api/v1/shipments?{where}&status=DELIVERED", mine).json()["data"][0]["id"]
        == shipment["id"]
    )

    whole = service.get(f"{at}?{where}&include=order_lines,customer", mine).json()
    assert [(x["sku"], x["quantity"], x["picked"], x["allocated"]) for x in whole["order_lines"]] == [
        (a, 5, 5, 0),
        (b, 2, 1, 0),
    ]
    assert whole["customer"]["code"] == mine.customer
    statement = "SELECT type FROM outbox WHERE entity = 'order' AND identifier = %s ORDER BY event_id"
    assert [row[0] for row in rows(owner, statement, str(order))] == [
        f"order.{name}" for name in ("created", "allocated", "picking", "picked", "shipped")
    ]
    assert not broken_invariants(owner)


def test_refusals_name_what_is_wrong_and_change_nothing(
    service: Service, owner: Connection, mine: Tenant
) -> None:
    sku, other = product(owner, mine, A_1_1=3, A_1_2=2), product(owner, mine, A_1_3=9)
    body = order_body(mine, **{other: 1, sku: 6})
    order = service.done("/api/v1/orders", mine, body)["id"]
    at = f"/api/v1/orders/{order}"
    service.refused(409, "order-number-taken", "/api/v1/orders", mine, body)
    problem = service.refused(409, "insufficient-stock", f"{at}/allocate", mine, {})
    (error,) = problem["errors"]
    assert (error["field"], error["allowed"]) == ("order_lines[2]", "5 are free")
    assert sku in error["detail"]
    assert (balances(owner, sku)["A-1-1"], balances(owner, other)["A-1-3"]) == ((3, 0), (9, 0))

    problem = service.refused(409, "illegal-move", "/api/v1/waves", mine, {"order_ids": [order]})
    assert (
        problem["detail"]
        == f"order {order} is NEW: release needs ALLOCATED; allowed in NEW: allocate, cancel"
    )
    service.refused(422, "unprocessable", "/api/v1/waves", mine, {"order_ids": [order + 10_000]})
    service.refused(400, "invalid-request", "/api/v1/waves", mine, {"order_ids": [order, order]})
    service.refused(404, "unknown-order", f"/api/v1/orders/{order + 10_000}/allocate", mine, {})
    shipment = {"order_id": order, "shipment_number": "N", "carrier": "X"}
    service.refused(409, "illegal-move", "/api/v1/shipments", mine, shipment)
    service.refused(404, "unknown-shipment", "/api/v1/shipments/999999/deliver", mine, {})
    service.refused(404, "unknown-task", "/api/v1/picks/999999/confirm", mine, {"quantity": 1})
    assert service.done(f"{at}/cancel", mine)["status"] == "CANCELLED"
    problem = service.refused(409, "illegal-move", f"{at}/cancel", mine, {})
    assert problem["detail"].endswith("allowed in CANCELLED: nothing")

    for change, field in (
        ({"customer": "nobody"}, "customer"),
        ({"warehouse_id": 999_999}, "warehouse_id"),
        ({"lines": [{"sku": "nothing", "quantity": 1, "unit_price": "1"}]}, "lines[0].sku"),
        ({"lines": [{"sku": sku, "quantity": 10**6, "unit_price": "9999999.99"}]}, "lines"),
    ):
        wrong = order_body(mine, **{sku: 1}) | change
        problem = service.refused(422, "unprocessable", "/api/v1/orders", mine, wrong)
        assert problem["errors"][0]["field"] == field
    assert not broken_invariants(owner)


def test_a_blocked_balance_is_neither_allocated_nor_picked(
    service: Service, owner: Connection, app: Connection, mine: Tenant
) -> None:
    sku = product(owner, mine, A_1_1=5, A_1_2=5)
    place = location_id(owner, mine, "A-1-1")
    block = (
        "UPDATE inventory_master m SET status = 'BLOCKED' FROM skus s "
        "WHERE m.location_id = %s AND m.tenant_id = s.tenant_id AND m.sku_id = s.sku_id AND s.code = %s"
    )
    order, (task,) = released(app, mine, (sku, 4))
    assert task["location"] == "A-1-1"
    owner.execute(block.encode(), (place, sku))
    other = new_order(app, mine, (sku, 6))
    outcome, answer = run(app, "allocate_order", mine, other)
    assert (outcome, answer["lines"][0]["available"]) == ("insufficient", 5)
    target = f"/api/v1/picks/{task['id']}/confirm"
    service.refused(409, "balance-blocked", target, mine, {"quantity": 4})
    assert (status_of(owner, order), balances(owner, sku)["A-1-1"]) == ("PICKING", (5, 4))
    confirmed = service.done(target, mine, {"quantity": 0})
    assert (confirmed["status"], confirmed["transaction_id"], confirmed["order_status"]) == (
        "SHORT",
        None,
        "PICKED",
    )
    assert balances(owner, sku)["A-1-1"] == (5, 0)
    # Nothing of it was picked: there is nothing to pack, and it can be cancelled.
    shipment = {"order_id": order, "shipment_number": f"ENV-{order}", "carrier": "X"}
    service.refused(409, "nothing-picked", "/api/v1/shipments", mine, shipment)
    assert service.done(f"/api/v1/orders/{order}/cancel", mine)["status"] == "CANCELLED"
    assert not broken_invariants(owner)


def test_a_cancelled_order_gives_back_what_was_reserved_unless_something_was_picked(
    service: Service, owner: Connection, app: Connection, mine: Tenant
) -> None:
    sku = product(owner, mine, A_1_1=3, A_1_2=3)
    order, tasks = released(app, mine, (sku, 3), (sku, 2))
    assert sum(reserved for _, reserved in balances(owner, sku).values()) == 5
    stock = f"/api/v1/stock/{sku}"
    assert service.get(stock, mine).json()["available"] == 1
    cancelled = service.done(f"/api/v1/orders/{order}/cancel", mine)
    assert (cancelled["status"], sum(x["quantity"] for x in cancelled["released"])) == ("CANCELLED", 5)
    assert balances(owner, sku) == {"A-1-1": (3, 0), "A-1-2": (3, 0)}
    # Not what the cache had of it before.
    assert service.get(stock, mine).json()["available"] == 6
    target = f"/api/v1/picks/{tasks[0]['id']}/confirm"
    problem = service.refused(409, "illegal-move", target, mine, {"quantity": 1})
    assert "is CANCELLED" in problem["detail"]

    order, tasks = released(app, mine, (sku, 3), (sku, 2))
    service.done(f"/api/v1/picks/{tasks[0]['id']}/confirm", mine, {"quantity": 1})
    service.refused(409, "already-picked", f"/api/v1/orders/{order}/cancel", mine, {})
    assert status_of(owner, order) == "PICKING"
    assert not broken_invariants(owner)


def test_many_picks_are_confirmed_together_or_not_at_all(
    service: Service, owner: Connection, app: Connection, mine: Tenant
) -> None:
    skus = [product(owner, mine, A_1_1=5) for _ in range(3)]
    order, tasks = released(app, mine, *((sku, 2) for sku in skus))
    picks = [{"task_id": task["id"], "quantity": 2} for task in tasks]
    target = "/api/v1/picks/confirm"
    wrong = [*picks[:2], picks[2] | {"quantity": 3}]
    problem = service.refused(422, "unprocessable", target, mine, {"picks": wrong})
    assert problem["errors"][0] | {"detail": ""} == {
        "field": "picks[2].quantity",
        "in": "body",
        "detail": "",
        "allowed": "0 to 2",
    }
    problem = service.refused(
        422, "unprocessable", target, mine, {"picks": [*picks, {"task_id": 999_999, "quantity": 1}]}
    )
    assert problem["errors"][0]["field"] == "picks[3].task_id"
    service.refused(400, "invalid-request", target, mine, {"picks": picks + picks[:1]})
    assert all(balances(owner, sku)["A-1-1"] == (5, 2) for sku in skus)
    done = service.done(target, mine, {"picks": picks})
    assert [pick["status"] for pick in done["picks"]] == ["PICKED"] * 3
    assert status_of(owner, order) == "PICKED"
    assert all(balances(owner, sku)["A-1-1"] == (3, 0) for sku in skus)
    problem = service.refused(409, "illegal-move", target, mine, {"picks": picks})
    assert "is PICKED" in problem["detail"]
    assert not broken_invariants(owner)


def test_an_order_has_one_shipment_that_counts(
    service: Service, owner: Connection, app: Connection, mine: Tenant
) -> None:
    order, (task,) = released(app, mine, (product(owner, mine, A_1_1=1), 1))
    assert run(app, "confirm_pick", mine, task["id"], 1)[0] == "done"
    body = {"order_id": order, "shipment_number": f"ENV-{order}", "carrier": "X"}
    first = service.done("/api/v1/shipments", mine, body)
    again = body | {"shipment_number": f"ENV-{order}-2"}
    service.refused(409, "already-packed", "/api/v1/shipments", mine, again)
    service.done(f"/api/v1/shipments/{first['id']}/cancel", mine)
    service.refused(409, "shipment-number-taken", "/api/v1/shipments", mine, body)
    second = service.done("/api/v1/shipments", mine, again)
    dispatch = {"tracking_code": "T"}
    service.refused(409, "illegal-move", f"/api/v1/shipments/{first['id']}/dispatch", mine, dispatch)
    service.done(f"/api/v1/shipments/{second['id']}/dispatch", mine, dispatch)
    assert status_of(owner, order) == "SHIPPED"


# Once


def test_a_request_sent_many_times_at_once_is_done_once_and_answered_the_same(
    service: Service, owner: Connection, app: Connection, mine: Tenant
) -> None:
    sku = product(owner, mine, A_1_1=10)
    order, (task,) = released(app, mine, (sku, 4))
    target, body = f"/api/v1/picks/{task['id']}/confirm", {"quantity": 3}

    def send(_number: int) -> Any:
        return service.post(target, mine, body, key=f"once-{order}")

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(send, range(12)))
    assert {answer.status for answer in answers} <= {200, 409}
    # Those that met the first one at work may ask again.
    answers = [answer if answer.status == 200 else send(0) for answer in answers]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.data for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 11
    assert balances(owner, sku) == {"A-1-1": (7, 0)}
    other = service.post(target, mine, {"quantity": 2}, key=f"once-{order}")
    assert (other.status, other.json()["errors"][0]["field"]) == (422, "Idempotency-Key")


def test_every_command_gives_its_first_answer_again(
    service: Service, owner: Connection, mine: Tenant
) -> None:
    sku = product(owner, mine, A_1_1=9)

    def twice(target: str, body: dict[str, Any]) -> Any:
        key = f"twice-{next(NUMBERS)}"
        first, second = (service.post(target, mine, body, key=key) for _ in range(2))
        assert first.status == second.status in (200, 201), first.data
        assert first.data == second.data
        assert second.headers["idempotency-replayed"] == "true"
        return first.json()

    order = twice("/api/v1/orders", order_body(mine, **{sku: 2}))["id"]
    twice(f"/api/v1/orders/{order}/allocate", {})
    (task,) = twice("/api/v1/waves", {"order_ids": [order]})["tasks"]
    twice("/api/v1/picks/confirm", {"picks": [{"task_id": task["id"], "quantity": 2}]})
    body = {"order_id": order, "shipment_number": f"ENV-{order}", "carrier": "X"}
    shipment = twice("/api/v1/shipments", body)["id"]
    twice(f"/api/v1/shipments/{shipment}/dispatch", {"tracking_code": "T"})
    twice(f"/api/v1/shipments/{shipment}/deliver", {})
    other = service.done("/api/v1/orders", mine, order_body(mine, **{sku: 2}))["id"]
    twice(f"/api/v1/orders/{other}/cancel", {})
    assert balances(owner, sku) == {"A-1-1": (7, 0)}


# Tenants


def test_h2_a_tenant_reaches_no_order_task_or_shipment_of_another(
    service: Service, owner: Connection, app: Connection, tenants: list[Tenant]
) -> None:
    mine, other = tenants
    sku = product(owner, other, A_1_1=9)
    order, (task,) = released(app, other, (sku, 2))
    fresh = new_order(app, other, (sku, 1))
    wave = value(owner, "SELECT wave_id FROM pick_tasks WHERE task_id = %s", task["id"])
    assert run(app, "confirm_pick", other, task["id"], 2)[0] == "done"
    shipment = run(app, "create_shipment", other, order, f"ENV-{order}", "X")[1]["id"]
    before = (status_of(owner, order), status_of(owner, fresh), balances(owner, sku))

    for warehouse in (mine.warehouse, other.warehouse):
        where = {"warehouse_id": warehouse}
        for target, body, status in (
            (f"orders/{fresh}/allocate", {}, 404),
            (f"orders/{fresh}/cancel", {}, 404),
            (f"picks/{task['id']}/confirm", {"quantity": 1}, 404),
            ("picks/confirm", {"picks": [{"task_id": task["id"], "quantity": 1}]}, 422),
            ("waves", {"order_ids": [fresh]}, 422),
            ("shipments", {"order_id": order, "shipment_number": "N", "carrier": "X"}, 422),
            (f"shipments/{shipment}/dispatch", {"tracking_code": "T"}, 404),
            (f"shipments/{shipment}/deliver", {}, 404),
            (f"shipments/{shipment}/cancel", {}, 404),
        ):
            response = service.post(f"/api/v1/{target}", mine, body | where)
            assert response.status == status, (target, response.data)
        query = f"?warehouse_id={warehouse}"
        for target in (f"orders/{order}", f"waves/{wave}"):
            assert service.get(f"/api/v1/{target}{query}", mine).status == 404
    query = f"?warehouse_id={other.warehouse}"
    for target in ("orders", "picks", "shipments"):
        assert service.get(f"/api/v1/{target}{query}", mine).json()["data"] == []
    assert service.get(f"/api/v1/analytics/summary{query}", mine).status == 404
    codes = {item["code"] for item in service.get("/api/v1/customers", mine).json()["data"]}
    assert mine.customer in codes
    assert other.customer not in codes
    assert codes == {
        row[0] for row in rows(owner, "SELECT code FROM customers WHERE tenant_id = %s", mine.id)
    }
    taken = order_body(mine, **{sku: 1})
    service.refused(422, "unprocessable", "/api/v1/orders", mine, taken | {"customer": other.customer})
    service.refused(422, "unprocessable", "/api/v1/orders", mine, taken | {"warehouse_id": other.warehouse})
    service.refused(422, "unprocessable", "/api/v1/orders", mine, taken)
    assert (status_of(owner, order), status_of(owner, fresh), balances(owner, sku)) == before


# Lists


def test_a1_a2_orders_are_paged_newest_first_with_what_was_asked_for(
    service: Service, owner: Connection, app: Connection, mine: Tenant
) -> None:
    sku = product(owner, mine, A_1_1=9)
    made = [new_order(app, mine, (sku, 1), (sku, 2)) for _ in range(7)]
    run(app, "cancel_order", mine, made[3])
    base = f"/api/v1/orders?warehouse_id={mine.warehouse}"
    target, seen = f"{base}&limit=3&fields=id,status&include=customer", []
    for _ in range(2):
        found = service.get(target, mine).json()
        assert found["pagination"]["limit"] == 3
        assert all(set(item) == {"id", "status", "customer"} for item in found["data"])
        seen += [item["id"] for item in found["data"]]
        # A new one does not move the pages that follow.
        new_order(app, mine, (sku, 1))
        target = f"{base}&limit=3&fields=id,status&include=customer&cursor_after={found['pagination']['cursor_after']}"
    assert seen == made[::-1][:6]
    (cancelled, *_) = service.get(f"{base}&status=CANCELLED&include=order_lines", mine).json()["data"]
    assert (cancelled["id"], [x["quantity"] for x in cancelled["order_lines"]]) == (made[3], [1, 2])
    wrong = service.get(f"{base}&include=lines", mine)
    assert (wrong.status, wrong.json()["errors"][0]["allowed"]) == (400, "order_lines, customer")
    assert service.get(f"{base}&status=OPEN", mine).status == 400


def test_a1_picks_are_paged_as_they_are_walked(
    service: Service, owner: Connection, app: Connection, mine: Tenant
) -> None:
    for _ in range(2):
        released(app, mine, *((product(owner, mine, A_1_1=9), 1) for _ in range(3)))
    target, seen = f"/api/v1/picks?warehouse_id={mine.warehouse}&status=OPEN&limit=4", []
    cursor = ""
    while True:
        found = service.get(f"{target}{cursor}", mine).json()
        seen += [(item["wave_id"], item["sequence"]) for item in found["data"]]
        if not found["pagination"]["has_more"]:
            break
        cursor = f"&cursor_after={found['pagination']['cursor_after']}"
    statement = (
        "SELECT wave_id, sequence FROM pick_tasks WHERE tenant_id = %s AND status = 'OPEN' ORDER BY 1, 2"
    )
    assert seen == rows(owner, statement, mine.id)


def test_m4_the_summary_counts_what_is_there(service: Service, owner: Connection, mine: Tenant) -> None:
    found = service.get(f"/api/v1/analytics/summary?warehouse_id={mine.warehouse}", mine).json()
    statement = "SELECT status, count(*) FROM orders WHERE warehouse_id = %s GROUP BY 1"
    counted = dict(rows(owner, statement, mine.warehouse))
    assert found["orders"] == dict.fromkeys(ORDER.moves, 0) | counted
    assert found["picks_open"] == value(
        owner, "SELECT count(*) FROM pick_tasks WHERE warehouse_id = %s AND status = 'OPEN'", mine.warehouse
    )
    assert sum(found["abc"].values()) == value(
        owner, "SELECT count(*) FROM skus WHERE tenant_id = %s", mine.id
    )
    hours = found["movements_per_hour"]
    assert len(hours) == 24
    assert datetime.fromisoformat(hours[-1]["hour"]) == datetime.now(UTC).replace(
        minute=0, second=0, microsecond=0
    )
    assert sum(hour["count"] for hour in hours) == value(
        owner,
        "SELECT count(*) FROM inventory_transactions WHERE warehouse_id = %s AND created_at >= %s",
        mine.warehouse,
        hours[0]["hour"],
    )
    assert service.get("/api/v1/analytics/summary?warehouse_id=999999", mine).status == 404


# Cost


def test_d2_each_endpoint_runs_one_statement(
    service: Service, db: Database, owner: Connection, app: Connection, mine: Tenant
) -> None:
    sku = product(owner, mine, A_1_1=99)
    order = new_order(app, mine, (sku, 1))
    allocated = new_order(app, mine, (sku, 1))
    assert run(app, "allocate_order", mine, allocated)[0] == "done"
    doomed = new_order(app, mine, (sku, 1))
    _, single = released(app, mine, (sku, 1))
    _, bulk = released(app, mine, (sku, 1), (sku, 2), (sku, 3))
    shipped = []
    for _ in range(3):
        packed, (task,) = released(app, mine, (sku, 1))
        assert run(app, "confirm_pick", mine, task["id"], 1)[0] == "done"
        shipped.append(packed)
    first, second = (
        run(app, "create_shipment", mine, shipped[i], f"ENV-{shipped[i]}", "X")[1]["id"] for i in (0, 1)
    )
    wave = single[0]["wave_id"]
    at = f"?warehouse_id={mine.warehouse}"
    picks = [{"task_id": task["id"], "quantity": task["quantity"]} for task in bulk]
    reads = {
        "/api/v1/customers": "customers_page",
        f"/api/v1/orders{at}": "orders_page",
        f"/api/v1/orders{at}&status=NEW&include=order_lines,customer&fields=id": "orders_page",
        f"/api/v1/orders/{order}{at}&include=order_lines,customer": "order_lookup",
        f"/api/v1/waves/{wave}{at}": "wave_lookup",
        f"/api/v1/picks{at}": "picks_page",
        f"/api/v1/shipments{at}": "shipments_page",
        f"/api/v1/analytics/summary{at}": "analytics_summary",
    }
    writes: list[tuple[str, dict[str, Any], str]] = [
        ("orders", order_body(mine, **{sku: 1}), "create_order"),
        (f"orders/{order}/allocate", {}, "allocate_order"),
        (f"orders/{doomed}/cancel", {}, "cancel_order"),
        ("waves", {"order_ids": [allocated]}, "create_wave"),
        (f"picks/{single[0]['id']}/confirm", {"quantity": 1}, "confirm_pick"),
        ("picks/confirm", {"picks": picks}, "confirm_picks"),
        (
            "shipments",
            {"order_id": shipped[2], "shipment_number": f"ENV-{shipped[2]}", "carrier": "X"},
            "create_shipment",
        ),
        (f"shipments/{first}/dispatch", {"tracking_code": "T"}, "move_shipment"),
        (f"shipments/{first}/deliver", {}, "move_shipment"),
        (f"shipments/{second}/cancel", {}, "move_shipment"),
    ]
    # The credential is looked up once.
    service.get("/api/v1/customers", mine)
    with db.connect("postgres") as admin:

        def counted(call: Callable[[], Any]) -> list[tuple[str, int]]:
            admin.execute("SELECT pg_stat_statements_reset()")
            response = call()
            assert response.status in (200, 201), response.data
            return sent_by_requests(admin)

        for target, function in reads.items():
            ((query, calls),) = counted(lambda target=target: service.get(target, mine))  # type: ignore[misc]
            assert (f"{function}(" in query, calls) == (True, 1), (target, query)
        for target, body, function in writes:
            path = f"/api/v1/{target}"
            found = counted(lambda path=path, body=body: service.post(path, mine, body))  # type: ignore[misc]
            # Four or five statements, but one message: one round trip.
            others = [query for query, _ in found if f"{function}(" not in query]
            expected = ["BEGIN", "COMMIT", "SELECT pg_current_wal_flush_lsn()::text"]
            if function.endswith("_order"):
                # Written through: the transaction says who it is.
                marks = "SELECT pg_current_xact_id_if_assigned()::text, pg_current_wal_insert_lsn()::text"
                expected.append(marks)
            assert sorted(others) == sorted(expected), found
            assert {calls for _, calls in found} == {1}
            assert len(found) == len(expected) + 1
