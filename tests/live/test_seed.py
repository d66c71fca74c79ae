"""Sample data with a history in a real PostgreSQL: every invariant holds, twice is once, killed half-way is mended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database, database

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]
ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.43.27.1"
SMALL = ("--scale", "small")
EXTENDED = ("--scale", "small", "--tenants", "3", "--orders", "1500")

# Each finds what must not be there.
VIOLATIONS = {
    "H2: the ledger sums to the balances": """
        WITH ledger AS (
            SELECT tenant_id, warehouse_id, sku_id, location_id, sum(units) AS units FROM (
                SELECT tenant_id, warehouse_id, sku_id, to_location_id, quantity FROM inventory_transactions
                WHERE to_location_id IS NOT NULL
                UNION ALL
                SELECT tenant_id, warehouse_id, sku_id, from_location_id, -quantity FROM inventory_transactions
                WHERE from_location_id IS NOT NULL
            ) x (tenant_id, warehouse_id, sku_id, location_id, units) GROUP BY 1, 2, 3, 4)
        SELECT * FROM ledger l FULL JOIN inventory_master m USING (tenant_id, warehouse_id, sku_id, location_id)
        WHERE l.units IS DISTINCT FROM m.on_hand""",
    "the ledger is never below zero at any time": """
        SELECT * FROM (
            SELECT sum(units) OVER (
                PARTITION BY tenant_id, warehouse_id, sku_id, location_id ORDER BY created_at, units DESC) AS running
            FROM (
                SELECT tenant_id, warehouse_id, sku_id, to_location_id, quantity, created_at
                FROM inventory_transactions
                WHERE to_location_id IS NOT NULL AND reference IS DISTINCT FROM 'opening stock'
                UNION ALL
                SELECT tenant_id, warehouse_id, sku_id, from_location_id, -quantity, created_at
                FROM inventory_transactions WHERE from_location_id IS NOT NULL
            ) x (tenant_id, warehouse_id, sku_id, location_id, units, created_at)) y
        WHERE running < 0""",
    "reserved is what open reservations add up to, and not above on_hand": """
        SELECT m.* FROM inventory_master m
        LEFT JOIN (SELECT tenant_id, warehouse_id, sku_id, location_id, sum(quantity) AS units FROM reservations
            WHERE status = 'OPEN' GROUP BY 1, 2, 3, 4) r USING (tenant_id, warehouse_id, sku_id, location_id)
        WHERE m.reserved <> coalesce(r.units, 0) OR m.reserved > m.on_hand""",
    "a line's allocated and picked are its reservations and tasks": """
        SELECT l.* FROM order_lines l
        LEFT JOIN (SELECT tenant_id, warehouse_id, order_id, line_number,
            coalesce(sum(quantity) FILTER (WHERE status = 'OPEN'), 0) AS open,
            coalesce(sum(quantity) FILTER (WHERE status = 'PICKED'), 0) AS picked
            FROM reservations GROUP BY 1, 2, 3, 4) r USING (tenant_id, warehouse_id, order_id, line_number)
        LEFT JOIN (SELECT tenant_id, warehouse_id, order_id, line_number, sum(picked) AS picked
            FROM pick_tasks GROUP BY 1, 2, 3, 4) t USING (tenant_id, warehouse_id, order_id, line_number)
        WHERE l.allocated <> coalesce(r.open, 0) OR l.picked <> coalesce(r.picked, 0)
            OR l.picked <> coalesce(t.picked, 0) OR l.allocated + l.picked > l.quantity""",
    "an order's state is that of its lines": """
        SELECT o.order_id, o.status FROM orders o
        JOIN order_lines l USING (tenant_id, warehouse_id, order_id)
        GROUP BY o.tenant_id, o.warehouse_id, o.order_id, o.status, o.total_value
        HAVING NOT CASE o.status
                WHEN 'NEW' THEN sum(allocated + picked) = 0
                WHEN 'ALLOCATED' THEN sum(allocated) = sum(quantity)
                WHEN 'PICKING' THEN sum(allocated) > 0
                WHEN 'CANCELLED' THEN sum(allocated + picked) = 0
                ELSE sum(allocated) = 0 AND sum(picked) > 0 END
            OR o.total_value <> sum(l.quantity * l.unit_price)""",
    "every order has lines": """
        SELECT * FROM orders o WHERE NOT EXISTS (SELECT FROM order_lines l
            WHERE (l.tenant_id, l.warehouse_id, l.order_id) = (o.tenant_id, o.warehouse_id, o.order_id))""",
    "a task's state is that of its reservation, its order and its wave": """
        SELECT t.*, r.status, o.status, w.status FROM pick_tasks t
        JOIN reservations r USING (tenant_id, warehouse_id, reservation_id)
        JOIN orders o ON (o.tenant_id, o.warehouse_id, o.order_id) = (t.tenant_id, t.warehouse_id, t.order_id)
        JOIN waves w ON (w.tenant_id, w.warehouse_id, w.wave_id) = (t.tenant_id, t.warehouse_id, t.wave_id)
        WHERE NOT CASE t.status
                WHEN 'OPEN' THEN r.status = 'OPEN' AND r.quantity = t.quantity AND t.picked = 0
                    AND o.status = 'PICKING' AND w.status = 'OPEN'
                WHEN 'CANCELLED' THEN r.status = 'RELEASED' AND t.picked = 0 AND o.status = 'CANCELLED'
                WHEN 'SHORT' THEN r.status = 'PICKED' AND r.quantity = t.picked AND t.picked < t.quantity
                ELSE r.status = 'PICKED' AND r.quantity = t.quantity AND t.picked = t.quantity END
            OR (r.order_id, r.line_number, r.sku_id, r.location_id)
                <> (t.order_id, t.line_number, t.sku_id, t.location_id)""",
    "an open wave has an open task": """
        SELECT * FROM waves w WHERE status = 'OPEN' AND NOT EXISTS (SELECT FROM pick_tasks t
            WHERE (t.tenant_id, t.warehouse_id, t.wave_id) = (w.tenant_id, w.warehouse_id, w.wave_id)
            AND t.status = 'OPEN')""",
    "tasks are in walking order": """
        SELECT * FROM (
            SELECT t.*, row_number() OVER (PARTITION BY tenant_id, warehouse_id, wave_id
                ORDER BY aisle COLLATE "C", CASE WHEN turn % 2 = 1 THEN position ELSE -position END, level, sequence
            ) AS place
            FROM (
                SELECT t.*, l.aisle, l.position, l.level, dense_rank() OVER (
                    PARTITION BY t.tenant_id, t.warehouse_id, t.wave_id ORDER BY l.aisle COLLATE "C") AS turn
                FROM pick_tasks t JOIN locations l USING (tenant_id, warehouse_id, location_id)) t) x
        WHERE sequence <> place""",
    "a shipped order has one shipment that left, another none that did": """
        SELECT o.order_id, o.status FROM orders o LEFT JOIN shipments s
            ON (s.tenant_id, s.warehouse_id, s.order_id) = (o.tenant_id, o.warehouse_id, o.order_id)
        GROUP BY o.tenant_id, o.warehouse_id, o.order_id
        HAVING count(*) FILTER (WHERE s.status IN ('DISPATCHED', 'DELIVERED')) <> (o.status = 'SHIPPED')::integer
            OR count(s.status) > 0 AND o.status NOT IN ('PICKED', 'SHIPPED')
            OR bool_or((s.tracking_code IS NOT NULL) <> (s.status IN ('DISPATCHED', 'DELIVERED')))""",
    "what was picked of an order is what the ledger issued for it": """
        SELECT o.order_number FROM orders o
        JOIN order_lines l USING (tenant_id, warehouse_id, order_id)
        LEFT JOIN (SELECT tenant_id, warehouse_id, reference, sku_id, sum(quantity) AS units
            FROM inventory_transactions WHERE kind = 'issue' GROUP BY 1, 2, 3, 4) t
            ON (t.tenant_id, t.warehouse_id, t.reference, t.sku_id)
            = (o.tenant_id, o.warehouse_id, o.order_number, l.sku_id)
        WHERE l.picked <> coalesce(t.units, 0)""",
    "what was received is what the ledger has of it": """
        SELECT r.receipt_number, r.status FROM receipts r
        JOIN receipt_lines l USING (tenant_id, warehouse_id, receipt_id)
        LEFT JOIN (SELECT tenant_id, warehouse_id, reference, sku_id, sum(quantity) AS units
            FROM inventory_transactions WHERE kind = 'receipt' GROUP BY 1, 2, 3, 4) t
            ON (t.tenant_id, t.warehouse_id, t.reference, t.sku_id)
            = (r.tenant_id, r.warehouse_id, r.receipt_number, l.sku_id)
        WHERE l.received <> coalesce(t.units, 0)
            OR (r.status IN ('EXPECTED', 'CANCELLED') AND l.received > 0) OR (r.status = 'RECEIVED' AND l.received = 0)
        """,
    "nothing happens after now, or before it began": """
        SELECT order_id FROM orders WHERE created_at > updated_at OR updated_at > now()
        UNION ALL SELECT shipment_id FROM shipments WHERE created_at > updated_at OR updated_at > now()
        UNION ALL SELECT transaction_id FROM inventory_transactions WHERE created_at > now()
        UNION ALL SELECT task_id FROM pick_tasks WHERE updated_at > now()""",
    "every SKU and location has what it needs": """
        SELECT code FROM skus WHERE barcode IS NULL OR weight_g IS NULL OR image IS NULL
        UNION ALL SELECT code FROM locations WHERE capacity IS NULL""",
}
STATES = {
    "orders": {"NEW", "ALLOCATED", "PICKING", "PICKED", "SHIPPED", "CANCELLED"},
    "reservations": {"OPEN", "PICKED", "RELEASED"},
    "waves": {"OPEN", "DONE"},
    "pick_tasks": {"OPEN", "PICKED", "SHORT", "CANCELLED"},
    "receipts": {"EXPECTED", "RECEIVING", "RECEIVED", "CANCELLED"},
    "shipments": {"PACKED", "DISPATCHED", "DELIVERED", "CANCELLED"},
}
TABLES = (*STATES, "tenants", "skus", "customers", "order_lines", "receipt_lines", "inventory_master",
          "inventory_transactions")  # fmt: skip


def start(db: Database, *arguments: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | db.environment()
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


def run(db: Database, *arguments: str) -> str:
    """Run `python -m …` to its end; what it said."""
    process = start(db, *arguments)
    said = process.communicate(timeout=50)[1]
    assert process.returncode == 0, said
    return said


def counts(owner: psycopg.Connection[Any]) -> dict[str, int]:
    query = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in TABLES)
    return dict(owner.execute(query.encode()).fetchall())


def violations(owner: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    found = {name: owner.execute(query.encode()).fetchmany(3) for name, query in VIOLATIONS.items()}
    return {name: rows for name, rows in found.items() if rows}


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    with database(ADDRESS) as made:
        run(made, "wms.migrations", "up")
        yield made


@pytest.fixture(scope="module")
def owner(db: Database) -> Iterator[psycopg.Connection[Any]]:
    with db.connect("wms_owner") as connection:
        yield connection


def test_a_scale_fills_every_table_in_every_state_and_holds_the_invariants_and_a_second_run_adds_nothing(
    db: Database, owner: psycopg.Connection[Any]
) -> None:
    # Over sample data that has no history, as an earlier release loaded it.
    run(db, "wms.seed")
    assert counts(owner)["orders"] == 0
    said = run(db, "wms.seed", *SMALL)
    assert "stock transactions" in said
    assert not violations(owner)
    for table, wanted in STATES.items():
        found = owner.execute(f"SELECT DISTINCT status FROM {table}".encode()).fetchall()
        assert {row[0] for row in found} == wanted, table
    before = counts(owner)
    assert before["orders"] == 2 * 2 * 500
    said = run(db, "wms.seed", *SMALL)
    assert counts(owner) == before
    assert "0 rows in" in said


def test_d4_a_history_is_in_the_monthly_partitions_of_its_time(owner: psycopg.Connection[Any]) -> None:
    months = owner.execute(
        "SELECT DISTINCT tableoid::regclass::text, to_char(created_at AT TIME ZONE 'UTC', 'YYYY_MM') "
        "FROM inventory_transactions"
    ).fetchall()
    assert len(months) >= 3
    assert all(name == f"inventory_transactions_{month}" for name, month in months)


def test_a_load_that_is_killed_half_way_is_completed_by_the_next(
    db: Database, owner: psycopg.Connection[Any]
) -> None:
    before = counts(owner)
    process = start(db, "wms.seed", *EXTENDED)
    deadline = time.monotonic() + 30
    # The new tenant's first warehouse is being written, or its second one.
    while counts(owner)["tenants"] == before["tenants"]:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert counts(owner)["orders"] < before["orders"] + 2 * 1500
    run(db, "wms.seed", *EXTENDED)
    # A history that is there is not made longer: only the third tenant's is new.
    assert counts(owner)["orders"] == before["orders"] + 2 * 1500
    assert not violations(owner)
    after = counts(owner)
    run(db, "wms.seed", *EXTENDED)
    assert counts(owner) == after


def test_a_role_under_row_level_security_is_refused(db: Database) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        **db.environment(),
        "WMS_OWNER_USER": "wms_app",
        "WMS_OWNER_PASSWORD": db.environment()["WMS_DB_PASSWORD"],
    }
    done = subprocess.run(
        [sys.executable, "-m", "wms.seed"], env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "row-level security" in done.stderr
