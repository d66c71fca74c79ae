"""Orders for live tests: stock to order, commands called as the service calls them, and what must hold of the rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.support import service
from tests.support.postgres import Database

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = count(1)
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Tenant(service.Tenant):
    """A tenant of the sample data with a customer."""

    customer: str


def seed(db: Database, owner: Connection, folder: Path) -> list[Tenant]:
    """Two tenants with sample data, a customer and an API key; `folder` gets the keys."""
    found = []
    for tenant in service.seeded(db, folder, "--skus", "20"):
        code = f"C-T{tenant.id}"
        owner.execute(
            "INSERT INTO customers (tenant_id, code, name, city) VALUES (%s, %s, 'Oficina Sol', 'Recife')",
            (tenant.id, code),
        )
        found.append(Tenant(tenant.id, tenant.key, tenant.warehouse, code))
    return found


def rows(connection: Connection, statement: str, *parameters: object) -> list[Any]:
    return connection.execute(statement.encode(), parameters or None).fetchall()


def value(connection: Connection, statement: str, *parameters: object) -> Any:
    return rows(connection, statement, *parameters)[0][0]


def location_id(owner: Connection, tenant: Tenant, code: str) -> int:
    statement = "SELECT location_id FROM locations WHERE tenant_id = %s AND warehouse_id = %s AND code = %s"
    return int(value(owner, statement, tenant.id, tenant.warehouse, code))


def product(owner: Connection, tenant: Tenant, **units: int) -> str:
    """A new SKU with these balances, by location (A_1_2 stands for A-1-2), and their receipts in the ledger."""
    code = f"F-{next(NUMBERS)}"
    sku_id = value(
        owner,
        "INSERT INTO skus (tenant_id, code, name) VALUES (%s, %s, 'Junta') RETURNING sku_id",
        tenant.id,
        code,
    )
    for place, quantity in units.items():
        keys = (tenant.id, tenant.warehouse, sku_id, location_id(owner, tenant, place.replace("_", "-")))
        owner.execute(
            "INSERT INTO inventory_master (tenant_id, warehouse_id, sku_id, location_id, on_hand) "
            "VALUES (%s, %s, %s, %s, %s)",
            (*keys, quantity),
        )
        owner.execute(
            "INSERT INTO inventory_transactions "
            "(tenant_id, warehouse_id, sku_id, kind, to_location_id, quantity) "
            "VALUES (%s, %s, %s, 'receipt', %s, %s)",
            (*keys, quantity),
        )
    return code


def balances(owner: Connection, sku: str) -> dict[str, tuple[int, int]]:
    """Location → (on hand, reserved)."""
    statement = (
        "SELECT l.code, m.on_hand, m.reserved FROM inventory_master m "
        "JOIN skus s USING (tenant_id, sku_id) JOIN locations l USING (tenant_id, warehouse_id, location_id) "
        "WHERE s.code = %s"
    )
    return {code: (on_hand, reserved) for code, on_hand, reserved in rows(owner, statement, sku)}


def order_body(tenant: Tenant, **quantities: int) -> dict[str, Any]:
    """A new order; of a SKU F-7 stands F_7."""
    return {
        "order_number": f"PED-{next(NUMBERS)}",
        "customer": tenant.customer,
        "lines": [
            {"sku": sku.replace("_", "-"), "quantity": quantity, "unit_price": "2.50"}
            for sku, quantity in quantities.items()
        ],
    }


def run(connection: Connection, function: str, tenant: Tenant, *arguments: object, key: str = "") -> Any:
    """Call a command of the database as the service does; (outcome, answer)."""
    name = key or f"sql-{next(NUMBERS)}"
    parameters = (tenant.id, name, sha256(repr(arguments).encode()).digest(), tenant.warehouse, *arguments)
    places = ", ".join(["%s"] * len(parameters))
    ((outcome, answer),) = rows(connection, f"SELECT outcome, answer FROM {function}({places})", *parameters)
    return outcome, json.loads(answer) if answer else None


def new_order(connection: Connection, tenant: Tenant, *lines: tuple[str, int]) -> int:
    """An order, taken."""
    skus, quantities = [sku for sku, _ in lines], [quantity for _, quantity in lines]
    prices = [1] * len(lines)
    name = f"PED-{next(NUMBERS)}"
    outcome, answer = run(
        connection, "create_order", tenant, name, tenant.customer, 5, skus, quantities, prices
    )
    assert outcome == "done", outcome
    return int(answer["id"])


def released(connection: Connection, tenant: Tenant, *lines: tuple[str, int]) -> tuple[int, list[Any]]:
    """An order in a wave of its own: its id and its tasks."""
    order = new_order(connection, tenant, *lines)
    assert run(connection, "allocate_order", tenant, order)[0] == "done"
    outcome, wave = run(connection, "create_wave", tenant, [order])
    assert outcome == "done"
    return order, wave["tasks"]


def status_of(owner: Connection, order: int) -> str:
    return str(value(owner, "SELECT status FROM orders WHERE order_id = %s", order))


def broken_invariants(owner: Connection) -> list[Any]:
    """Rows that contradict each other; none, ever."""
    return rows(
        owner,
        """
        SELECT 'balance', m.sku_id, m.location_id, m.on_hand, m.reserved, r.units FROM inventory_master m
        LEFT JOIN (
            SELECT tenant_id, warehouse_id, sku_id, location_id, sum(quantity) AS units FROM reservations
            WHERE status = 'OPEN' GROUP BY 1, 2, 3, 4
        ) r USING (tenant_id, warehouse_id, sku_id, location_id)
        WHERE m.on_hand < 0 OR m.reserved > m.on_hand OR m.reserved <> coalesce(r.units, 0)
        UNION ALL
        SELECT 'line', l.order_id, l.line_number, l.quantity, l.allocated, l.picked FROM order_lines l
        WHERE l.picked + l.allocated > l.quantity OR l.allocated <> (
                SELECT coalesce(sum(r.quantity), 0) FROM reservations r
                WHERE (r.tenant_id, r.warehouse_id, r.order_id, r.line_number)
                    = (l.tenant_id, l.warehouse_id, l.order_id, l.line_number) AND r.status = 'OPEN')
            OR l.picked <> (
                SELECT coalesce(sum(t.picked), 0) FROM pick_tasks t
                WHERE (t.tenant_id, t.warehouse_id, t.order_id, t.line_number)
                    = (l.tenant_id, l.warehouse_id, l.order_id, l.line_number))
        UNION ALL
        SELECT 'ledger of order', o.order_id, 0, coalesce(l.picked, 0), coalesce(t.issued, 0), 0 FROM orders o
        LEFT JOIN (SELECT order_id, sum(picked) AS picked FROM order_lines GROUP BY 1) l USING (order_id)
        LEFT JOIN (
            SELECT tenant_id, reference, sum(quantity) AS issued FROM inventory_transactions
            WHERE kind = 'issue' GROUP BY 1, 2
        ) t ON t.tenant_id = o.tenant_id AND t.reference = o.order_number
        WHERE coalesce(l.picked, 0) <> coalesce(t.issued, 0)
        UNION ALL
        SELECT 'ledger', m.sku_id, m.location_id, m.on_hand, coalesce(f.units, 0), 0 FROM inventory_master m
        LEFT JOIN (
            SELECT sku_id, location_id, sum(units) AS units FROM (
                SELECT sku_id, to_location_id AS location_id, quantity AS units FROM inventory_transactions
                UNION ALL
                SELECT sku_id, from_location_id, -quantity FROM inventory_transactions
            ) x GROUP BY 1, 2
        ) f USING (sku_id, location_id)
        WHERE m.on_hand <> coalesce(f.units, 0)
        UNION ALL
        SELECT 'order ' || o.status, o.order_id, 0, 0, 0, 0 FROM orders o
        WHERE (o.status IN ('PICKED', 'SHIPPED', 'CANCELLED', 'NEW')) AND EXISTS (
                SELECT FROM reservations r WHERE r.order_id = o.order_id AND r.status = 'OPEN')
            OR o.status = 'PICKING' AND NOT EXISTS (
                SELECT FROM pick_tasks t WHERE t.order_id = o.order_id AND t.status = 'OPEN')
        UNION ALL
        SELECT 'wave ' || w.status, w.wave_id, 0, 0, 0, 0 FROM waves w
        WHERE (w.status = 'OPEN') <> EXISTS (
            SELECT FROM pick_tasks t WHERE t.wave_id = w.wave_id AND t.status = 'OPEN')
        """,
    )
