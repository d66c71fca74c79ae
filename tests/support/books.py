"""What must be in the database after a Load: the state before it, and what was acknowledged; nothing else.

`expected` is pure. Compared with `found`, row by row, it shows what was lost, what is there twice, and what is half
there; `broken_invariants` (tests/support/fulfilment.py) shows what contradicts itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tests.support.fulfilment import Connection, rows
from tests.support.workload import Change

Place = tuple[int, int, str, str]
"""(tenant, warehouse, SKU, location)"""


@dataclass
class Books:
    """The state of some tenants, and all rows of one run."""

    balances: dict[Place, tuple[int, int]] = field(default_factory=dict)
    """Place → (on hand, reserved), without empty ones."""
    ledger: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """(tenant, SKU, kind, from, to, quantity, reference) → rows"""
    receipts: dict[str, Any] = field(default_factory=dict)
    """Number → (id, status, {line: (SKU, expected, received)})"""
    orders: dict[str, Any] = field(default_factory=dict)
    """Number → (id, status, {line: (SKU, quantity, allocated, picked)})"""
    tasks: dict[int, Any] = field(default_factory=dict)
    """Id → (order's id, SKU, location, quantity, picked, status)"""
    waves: dict[int, str] = field(default_factory=dict)
    """Id → status"""
    shipments: dict[str, Any] = field(default_factory=dict)
    """Number → (id, order's id, status, tracking code)"""
    keys: set[str] = field(default_factory=set)
    """Idempotency keys that are used up."""
    events: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """(tenant, type, identifier) → events in the outbox"""


def differences(expected: Books, found: Books) -> list[str]:
    """Every row that is missing, too much or another; empty when the books agree."""
    wrong = []
    for each in fields(Books):
        want, have = getattr(expected, each.name), getattr(found, each.name)
        if want == have:
            continue
        if isinstance(want, set):
            wrong += [f"{each.name}: lost {key}" for key in sorted(want - have)]
            wrong += [f"{each.name}: nobody asked for {key}" for key in sorted(have - want)]
            continue
        for key in sorted({*want, *have}, key=str):
            if want.get(key) != have.get(key):
                wrong.append(f"{each.name} {key}: acknowledged {want.get(key)}, found {have.get(key)}")
    return wrong


def expected(before: Books, changes: Iterable[Change]) -> Books:
    """What `changes`, those that were done, make of `before`."""
    made = Books(balances=dict(before.balances))
    clerk = _Clerk(made)
    for change in changes:
        if change.done:
            made.keys.add(change.key)
            getattr(clerk, change.kind.replace(".", "_"))(change, change.body, change.answer)
    made.balances = {place: units for place, units in made.balances.items() if units != (0, 0)}
    return made


class _Clerk:
    """Enters one change at a time; a method for each kind."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._numbers: dict[int, str] = {}
        """Order → number."""
        self._receipts: dict[int, str] = {}
        self._shipments: dict[int, str] = {}
        self._held: dict[int, list[tuple[int, str, str, int]]] = defaultdict(list)
        """Order → what is reserved for it: line, SKU, location, units."""
        self._wave: dict[int, tuple[int, int]] = {}
        """Task → wave, line."""

    def receipt_create(self, change: Change, body: Any, answer: Any) -> None:
        number = body["receipt_number"]
        self._receipts[answer["id"]] = number
        lines = {n: (line["sku"], line["expected"], 0) for n, line in enumerate(body["lines"], 1)}
        self._books.receipts[number] = (answer["id"], "EXPECTED", lines)
        self._tell(change, "receipt.created", answer["id"])

    def receipt_receive(self, change: Change, body: Any, answer: Any) -> None:
        number = self._receipts[answer["id"]]
        _, _, lines = self._books.receipts[number]
        for part in body["lines"]:
            sku, wanted, came = lines[part["line_number"]]
            lines[part["line_number"]] = (sku, wanted, came + part["quantity"])
            self._move(change, "receipt", sku, "", part["location"], part["quantity"], number)
        self._books.receipts[number] = (answer["id"], "RECEIVING", lines)
        self._tell(change, "receipt.receiving", answer["id"])

    def receipt_close(self, change: Change, body: Any, answer: Any) -> None:
        number = self._receipts[answer["id"]]
        self._books.receipts[number] = (answer["id"], "RECEIVED", self._books.receipts[number][2])
        self._tell(change, "receipt.received", answer["id"])

    def movement(self, change: Change, body: Any, answer: Any) -> None:
        if body["type"] == "transfer":
            source, target, units = body["from_location"], body["to_location"], body["quantity"]
        else:
            source, target = ("", body["location"]) if body["change"] > 0 else (body["location"], "")
            units = abs(body["change"])
        self._move(change, body["type"], body["sku"], source, target, units, body["reference"])

    def order_create(self, change: Change, body: Any, answer: Any) -> None:
        self._numbers[answer["id"]] = body["order_number"]
        lines = {n: (line["sku"], line["quantity"], 0, 0) for n, line in enumerate(body["lines"], 1)}
        self._books.orders[body["order_number"]] = (answer["id"], "NEW", lines)
        self._tell(change, "order.created", answer["id"])

    def order_allocate(self, change: Change, body: Any, answer: Any) -> None:
        order = answer["id"]
        for each in answer["allocations"]:
            self._held[order].append((each["line_number"], each["sku"], each["location"], each["quantity"]))
            self._reserve(change, each["sku"], each["location"], each["quantity"])
            self._line(order, each["line_number"], each["quantity"], 0)
        self._order(change, order, "ALLOCATED")
        for sku in {line[0] for line in self._books.orders[self._numbers[order]][2].values()}:
            self._tell(change, "stock.reserved", sku)

    def order_cancel(self, change: Change, body: Any, answer: Any) -> None:
        order = answer["id"]
        for line, sku, location, units in self._held.pop(order, []):
            self._reserve(change, sku, location, -units)
            self._line(order, line, -units, 0)
        self._order(change, order, "CANCELLED")
        for sku in {line[0] for line in self._books.orders[self._numbers[order]][2].values()}:
            self._tell(change, "stock.released", sku)

    def wave_create(self, change: Change, body: Any, answer: Any) -> None:
        self._books.waves[answer["id"]] = "OPEN"
        for task in answer["tasks"]:
            self._wave[task["id"]] = (answer["id"], task["line_number"])
            self._books.tasks[task["id"]] = (
                task["order_id"], task["sku"], task["location"], task["quantity"], 0, "OPEN",
            )  # fmt: skip
        for order in body["order_ids"]:
            self._order(change, order, "PICKING")

    def pick_confirm(self, change: Change, body: Any, answer: Any) -> None:
        self._pick(change, answer, body["quantity"])

    def picks_confirm(self, change: Change, body: Any, answer: Any) -> None:
        asked = {pick["task_id"]: pick["quantity"] for pick in body["picks"]}
        for pick in answer["picks"]:
            self._pick(change, pick, asked.pop(pick["id"]))
        assert not asked, f"the answer leaves tasks out: {answer}"

    def _pick(self, change: Change, answer: Any, picked: int) -> None:
        task = answer["id"]
        order, sku, location, quantity, _, _ = self._books.tasks[task]
        wave, line = self._wave[task]
        self._books.tasks[task] = (
            order, sku, location, quantity, picked, "PICKED" if picked == quantity else "SHORT",
        )  # fmt: skip
        self._reserve(change, sku, location, -quantity)
        self._line(order, line, -quantity, picked)
        if picked:
            self._move(change, "issue", sku, location, "", picked, self._numbers[order])
        else:
            self._tell(change, "stock.released", sku)
        if all(t[5] != "OPEN" for t in self._books.tasks.values() if t[0] == order):
            self._held.pop(order, None)
            self._order(change, order, "PICKED")
        others = [self._books.tasks[t][5] for t, (w, _) in self._wave.items() if w == wave]
        if "OPEN" not in others:
            self._books.waves[wave] = "DONE"

    def shipment_create(self, change: Change, body: Any, answer: Any) -> None:
        self._shipments[answer["id"]] = body["shipment_number"]
        self._books.shipments[body["shipment_number"]] = (answer["id"], body["order_id"], "PACKED", None)
        self._tell(change, "shipment.packed", answer["id"])

    def shipment_dispatch(self, change: Change, body: Any, answer: Any) -> None:
        number = self._shipments[answer["id"]]
        _, order, _, _ = self._books.shipments[number]
        self._books.shipments[number] = (answer["id"], order, "DISPATCHED", body["tracking_code"])
        self._order(change, order, "SHIPPED")
        self._tell(change, "shipment.dispatched", answer["id"])

    # Parts

    def _move(
        self, change: Change, kind: str, sku: str, source: str, target: str, units: int, reference: str
    ) -> None:
        for location, sign in ((source, -1), (target, 1)):
            if location:
                place = (change.tenant, change.warehouse, sku, location)
                on_hand, reserved = self._books.balances.get(place, (0, 0))
                self._books.balances[place] = (on_hand + sign * units, reserved)
        self._books.ledger[change.tenant, sku, kind, source, target, units, reference] += 1
        self._tell(change, "stock.moved", sku)

    def _reserve(self, change: Change, sku: str, location: str, units: int) -> None:
        place = (change.tenant, change.warehouse, sku, location)
        on_hand, reserved = self._books.balances.get(place, (0, 0))
        self._books.balances[place] = (on_hand, reserved + units)

    def _line(self, order: int, line: int, allocated: int, picked: int) -> None:
        lines = self._books.orders[self._numbers[order]][2]
        sku, quantity, was_allocated, was_picked = lines[line]
        lines[line] = (sku, quantity, was_allocated + allocated, was_picked + picked)

    def _order(self, change: Change, order: int, status: str) -> None:
        number = self._numbers[order]
        self._books.orders[number] = (order, status, self._books.orders[number][2])
        self._tell(change, f"order.{status.lower()}", order)

    def _tell(self, change: Change, event: str, identifier: object) -> None:
        self._books.events[change.tenant, event, str(identifier)] += 1


def balances(connection: Connection, tenants: Sequence[int]) -> dict[Place, tuple[int, int]]:
    """Every balance of these tenants that is not empty."""
    found = rows(
        connection,
        "SELECT m.tenant_id, m.warehouse_id, s.code, l.code, m.on_hand, m.reserved FROM inventory_master m "
        "JOIN skus s USING (tenant_id, sku_id) JOIN locations l USING (tenant_id, warehouse_id, location_id) "
        "WHERE m.tenant_id = ANY (%s) AND (m.on_hand, m.reserved) <> (0, 0)",
        list(tenants),
    )
    return {(tenant, house, sku, place): (units, held) for tenant, house, sku, place, units, held in found}


def found(connection: Connection, tenants: Sequence[int], run: str, last_event: int) -> Books:
    """What is there of the run `run`, whose names all begin with that, and the events after `last_event`."""
    like = f"{run}-%"

    def of_run(statement: str) -> list[Any]:
        return rows(connection, statement, like)

    lines: dict[int, dict[int, Any]] = defaultdict(dict)
    for order, line, sku, quantity, allocated, picked in of_run(
        "SELECT l.order_id, l.line_number, s.code, l.quantity, l.allocated, l.picked FROM order_lines l "
        "JOIN orders o USING (tenant_id, warehouse_id, order_id) JOIN skus s ON s.sku_id = l.sku_id "
        "WHERE o.order_number LIKE %s"
    ):
        lines[order][line] = (sku, quantity, allocated, picked)
    came: dict[int, dict[int, Any]] = defaultdict(dict)
    for receipt, line, sku, wanted, received in of_run(
        "SELECT l.receipt_id, l.line_number, s.code, l.expected, l.received FROM receipt_lines l "
        "JOIN receipts r USING (tenant_id, warehouse_id, receipt_id) JOIN skus s ON s.sku_id = l.sku_id "
        "WHERE r.receipt_number LIKE %s"
    ):
        came[receipt][line] = (sku, wanted, received)
    return Books(
        balances=balances(connection, tenants),
        ledger=Counter(
            {
                tuple(row[:-1]): row[-1]
                for row in of_run(
                    "SELECT t.tenant_id, s.code, t.kind, coalesce(f.code, ''), coalesce(g.code, ''), t.quantity, "
                    "t.reference, count(*) FROM inventory_transactions t JOIN skus s USING (tenant_id, sku_id) "
                    "LEFT JOIN locations f ON f.location_id = t.from_location_id "
                    "LEFT JOIN locations g ON g.location_id = t.to_location_id "
                    "WHERE t.reference LIKE %s GROUP BY 1, 2, 3, 4, 5, 6, 7"
                )
            }
        ),
        receipts={
            number: (receipt, status, came[receipt])
            for receipt, number, status in of_run(
                "SELECT receipt_id, receipt_number, status FROM receipts WHERE receipt_number LIKE %s"
            )
        },
        orders={
            number: (order, status, lines[order])
            for order, number, status in of_run(
                "SELECT order_id, order_number, status FROM orders WHERE order_number LIKE %s"
            )
        },
        tasks={
            task: rest
            for task, *others in of_run(
                "SELECT t.task_id, t.order_id, s.code, l.code, t.quantity, t.picked, t.status FROM pick_tasks t "
                "JOIN orders o USING (tenant_id, warehouse_id, order_id) JOIN skus s ON s.sku_id = t.sku_id "
                "JOIN locations l ON l.location_id = t.location_id WHERE o.order_number LIKE %s"
            )
            for rest in [tuple(others)]
        },
        waves=dict(
            of_run(
                "SELECT DISTINCT w.wave_id, w.status FROM waves w "
                "JOIN pick_tasks t USING (tenant_id, warehouse_id, wave_id) "
                "JOIN orders o USING (tenant_id, warehouse_id, order_id) WHERE o.order_number LIKE %s"
            )
        ),
        shipments={
            number: (shipment, order, status, tracking)
            for shipment, number, order, status, tracking in of_run(
                "SELECT shipment_id, shipment_number, order_id, status, tracking_code FROM shipments "
                "WHERE shipment_number LIKE %s"
            )
        },
        keys={key for (key,) in of_run("SELECT key FROM idempotency_keys WHERE key LIKE %s")},
        events=Counter(
            {
                (tenant, event, identifier): number
                for tenant, event, identifier, number in rows(
                    connection,
                    "SELECT tenant_id, type, identifier, count(*) FROM outbox "
                    "WHERE event_id > %s AND tenant_id = ANY (%s) AND type <> 'sku.classified' GROUP BY 1, 2, 3",
                    last_event,
                    list(tenants),
                )
            }
        ),
    )


def movements_told_once(connection: Connection, run: str) -> list[Any]:
    """Rows of the ledger that have no event of their own, or more than one."""
    return rows(
        connection,
        "SELECT t.transaction_id, count(o.event_id) FROM inventory_transactions t "
        "LEFT JOIN outbox o ON o.type = 'stock.moved' AND (o.payload ->> 'transaction_id')::bigint = t.transaction_id "
        "WHERE t.reference LIKE %s GROUP BY 1 HAVING count(o.event_id) <> 1",
        f"{run}-%",
    )
