"""Writes sample data by COPY: a transaction for what a tenant is made of, then one for the history of each warehouse.

A load that was killed leaves whole transactions behind, and the next one goes on from there. A warehouse that has its
first order has its history: larger numbers add tenants, warehouses, SKUs and balances, but do not lengthen a history.
Nothing here waits for the service, or makes it wait longer than an update of the balances at the end of a history.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import Connection, Cursor, sql

from wms.seed import generate
from wms.seed.generate import CITIES, HISTORY_DAYS, Size, location, location_count
from wms.seed.history import COLUMNS, DAYS_PER_MONTH, History, Rows, Site
from wms.seed.progress import Progress, say

LOCK_KEY = 0x776D73_02
"""Advisory lock of whoever loads sample data ("wms", 2): a second one waits, and then finds what is there."""

TABLES = ("tenants", "warehouses", "skus", "locations", "customers", "inventory_master", *COLUMNS)

# The limits of the service's own statements (row O2) are none for a load.
_BEGIN = """
SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '120s', true),
    pg_advisory_xact_lock(%s)
"""
_STAGE = """
CREATE TEMPORARY TABLE stage_skus
    (code text, name text, barcode text, unit text, weight_g integer, abc_class text, image text) ON COMMIT DROP;
CREATE TEMPORARY TABLE stage_locations
    (warehouse text, code text, aisle text, level integer, position integer, capacity bigint) ON COMMIT DROP;
CREATE TEMPORARY TABLE stage_customers (code text, name text, city text) ON COMMIT DROP;
CREATE TEMPORARY TABLE stage_balances
    (warehouse text, sku text, location text, on_hand bigint, received_at timestamptz) ON COMMIT DROP;
"""
# Rows from before these columns existed get them now.
_MERGE_SKUS = """
INSERT INTO skus AS k (tenant_id, code, name, barcode, unit, weight_g, abc_class, image)
SELECT %(tenant)s, code, name, barcode, unit, weight_g, abc_class, image FROM stage_skus
ON CONFLICT (tenant_id, code) DO UPDATE
    SET barcode = excluded.barcode, unit = excluded.unit, weight_g = excluded.weight_g,
        abc_class = excluded.abc_class, image = excluded.image
    WHERE k.barcode IS NULL AND k.image IS NULL
"""
_MERGE_LOCATIONS = """
INSERT INTO locations AS k (tenant_id, warehouse_id, code, aisle, level, position, capacity)
SELECT w.tenant_id, w.warehouse_id, s.code, s.aisle, s.level, s.position, s.capacity
FROM stage_locations s JOIN warehouses w ON w.tenant_id = %(tenant)s AND w.code = s.warehouse
ON CONFLICT (tenant_id, warehouse_id, code) DO UPDATE SET capacity = excluded.capacity WHERE k.capacity IS NULL
"""
_MERGE_CUSTOMERS = """
INSERT INTO customers (tenant_id, code, name, city) SELECT %(tenant)s, code, name, city FROM stage_customers
ON CONFLICT DO NOTHING
"""
# Only a balance that this run created gets a receipt: the rest has a history already.
_MERGE_BALANCES = """
WITH staged AS (
    SELECT k.tenant_id, w.warehouse_id, k.sku_id, l.location_id, s.on_hand, s.received_at
    FROM stage_balances s
    JOIN warehouses w ON w.tenant_id = %(tenant)s AND w.code = s.warehouse
    JOIN skus k ON k.tenant_id = w.tenant_id AND k.code = s.sku
    JOIN locations l ON l.tenant_id = w.tenant_id AND l.warehouse_id = w.warehouse_id AND l.code = s.location
), made AS (
    INSERT INTO inventory_master (tenant_id, warehouse_id, sku_id, location_id, on_hand, updated_at)
    SELECT tenant_id, warehouse_id, sku_id, location_id, on_hand, received_at FROM staged
    ON CONFLICT DO NOTHING
    RETURNING tenant_id, warehouse_id, sku_id, location_id, on_hand, updated_at
)
INSERT INTO inventory_transactions
    (tenant_id, warehouse_id, sku_id, kind, to_location_id, quantity, created_at, reference)
SELECT tenant_id, warehouse_id, sku_id, 'receipt', location_id, on_hand, updated_at, 'opening stock'
FROM made ORDER BY updated_at
"""
# Balances are locked in the order that the service locks them in.
_ADD_TO_BALANCES = """
WITH locked AS (
    SELECT m.sku_id, m.location_id, s.on_hand, s.reserved
    FROM inventory_master m JOIN stage_changes s ON m.sku_id = s.sku_id AND m.location_id = s.location_id
    WHERE m.tenant_id = %(tenant)s AND m.warehouse_id = %(warehouse)s
    ORDER BY m.sku_id, m.location_id FOR NO KEY UPDATE OF m
)
UPDATE inventory_master m
SET on_hand = m.on_hand + c.on_hand, reserved = m.reserved + c.reserved, updated_at = now()
FROM locked c
WHERE m.tenant_id = %(tenant)s AND m.warehouse_id = %(warehouse)s AND m.sku_id = c.sku_id
    AND m.location_id = c.location_id
"""


class LoadError(Exception):
    """The data cannot be loaded as this role or into this state; the text says why."""


def load(connection: Connection[Any], size: Size) -> dict[int, str]:
    """Load everything; returns tenant id → name. The connection is in autocommit. Progress goes to stderr.

    Raises psycopg.Error and LoadError; the transactions before it stay, and the next run goes on from there.
    """
    # The owner of the tables is not subject to their row-level security, which COPY into them requires.
    if _one(connection, "SELECT row_security_active('inventory_master')", ()):
        raise LoadError("this role is subject to row-level security; use the schema's owner (WMS_OWNER_USER)")
    until = datetime.now(UTC)
    days = max(HISTORY_DAYS, size.months * DAYS_PER_MONTH if size.orders else 0)
    first = (until - timedelta(days=days)).date()
    months = (until.year - first.year) * 12 + until.month - first.month + 2
    connection.execute("SELECT ensure_transaction_partitions(%s::date, %s)", (first, months))
    progress = Progress(size.tenants * size.warehouses * size.orders)
    loaded = {}
    for tenant in range(1, size.tenants + 1):
        started, name = time.monotonic(), f"tenant-{tenant:03d}"
        with connection.transaction():
            connection.execute(_BEGIN, (LOCK_KEY,))
            connection.execute("INSERT INTO tenants (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
            tenant_id = _one(connection, "SELECT tenant_id FROM tenants WHERE name = %s", (name,))
            rows, balances = _load_tenant(connection, size, tenant, tenant_id, until)
        loaded[tenant_id] = name
        progress.add(rows, balances)
        seconds = time.monotonic() - started
        say(f"{name}: {balances} new balances with their receipts, {seconds:.1f} s ({tenant}/{size.tenants})")
        if size.orders:
            # The plans of what follows are made from these.
            connection.execute("ANALYZE customers, inventory_master")
            for warehouse in range(size.warehouses):
                _load_history(connection, size, tenant, tenant_id, warehouse, until, progress)
    progress.end()
    return loaded


def _load_tenant(
    connection: Connection[Any], size: Size, tenant: int, tenant_id: int, until: datetime
) -> tuple[int, int]:
    """Returns how many rows were written, and how many of them are opening balances."""
    codes = [warehouse_code(number) for number in range(size.warehouses)]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO warehouses (tenant_id, code, name) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [(tenant_id, code, f"CD {CITIES[i % len(CITIES)]}") for i, code in enumerate(codes)],
        )
        cursor.execute(_STAGE)
        _copy(cursor, "stage_skus", generate.skus(size, tenant))
        _copy(cursor, "stage_locations", _locations(size, codes))
        _copy(cursor, "stage_customers", generate.customers(size, tenant))
        _copy(
            cursor,
            "stage_balances",
            (
                (code, *row)
                for i, code in enumerate(codes)
                for row in generate.balances(size, tenant, i, until)
            ),
        )
        cursor.execute("ANALYZE stage_skus; ANALYZE stage_locations; ANALYZE stage_balances")
        rows = 0
        for statement in (_MERGE_SKUS, _MERGE_LOCATIONS, _MERGE_CUSTOMERS):
            cursor.execute(statement, {"tenant": tenant_id})
            rows += cursor.rowcount
        # New tables look empty to the planner, and the join below would be made row by row.
        cursor.execute("ANALYZE warehouses, skus, locations")
        cursor.execute(_MERGE_BALANCES, {"tenant": tenant_id})
        rows += cursor.rowcount
        # A balance and its receipt are two rows, of which the last statement counts one.
        return rows + cursor.rowcount, cursor.rowcount


def _load_history(
    connection: Connection[Any],
    size: Size,
    tenant: int,
    tenant_id: int,
    warehouse: int,
    until: datetime,
    progress: Progress,
) -> None:
    code = warehouse_code(warehouse)
    what = f"tenant-{tenant:03d} {code}"
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_BEGIN, (LOCK_KEY,))
        if _one(
            connection,
            "SELECT EXISTS (SELECT FROM orders WHERE tenant_id = %s AND order_number = %s)",
            (tenant_id, f"{code}-0000001"),
        ):
            progress.skip(size.orders)
            return
        warehouse_id, site = _site(connection, size, tenant_id, code)
        history = History(size, tenant, warehouse, site, until, DatabaseIds(connection))
        prefix = f"{tenant_id}\t{warehouse_id}\t"
        for rows in history.run():
            _write(cursor, prefix, rows)
            progress.add(len(rows), len(rows.lines["inventory_transactions"]))
            progress.work(what, rows.orders)
        cursor.execute(
            "CREATE TEMPORARY TABLE stage_changes "
            "(sku_id bigint, location_id bigint, on_hand bigint, reserved bigint) ON COMMIT DROP"
        )
        _copy(cursor, "stage_changes", history.touched())
        cursor.execute("ANALYZE stage_changes")
        wanted = _one(connection, "SELECT count(*) FROM stage_changes", ())
        cursor.execute(_ADD_TO_BALANCES, {"tenant": tenant_id, "warehouse": warehouse_id})
        if cursor.rowcount != wanted:
            raise LoadError(
                f"{what}: {wanted} balances have a history, {cursor.rowcount} exist; nothing was kept"
            )


def _write(cursor: Cursor[Any], prefix: str, rows: Rows) -> None:
    for table, columns in COLUMNS.items():
        if lines := rows.lines[table]:
            statement = f"COPY {table} (tenant_id, warehouse_id, {columns}) FROM STDIN"
            with cursor.copy(statement.encode()) as copy:
                for first in range(0, len(lines), 5000):
                    copy.write(prefix + prefix.join(lines[first : first + 5000]))


def _site(connection: Connection[Any], size: Size, tenant_id: int, code: str) -> tuple[int, Site]:
    """The ids of a warehouse and of what is in it. Raises LoadError when something was removed meanwhile."""
    warehouse_id = _one(
        connection,
        "SELECT warehouse_id FROM warehouses WHERE tenant_id = %s AND code = %s",
        (tenant_id, code),
    )
    skus = dict(
        connection.execute("SELECT code, sku_id FROM skus WHERE tenant_id = %s", (tenant_id,)).fetchall()
    )
    locations = dict(
        connection.execute(
            "SELECT code, location_id FROM locations WHERE tenant_id = %s AND warehouse_id = %s",
            (tenant_id, warehouse_id),
        ).fetchall()
    )
    customers = connection.execute(
        "SELECT customer_id FROM customers WHERE tenant_id = %s AND code LIKE 'CUST-%%' ORDER BY code COLLATE \"C\"",
        (tenant_id,),
    ).fetchall()
    try:
        return warehouse_id, Site(
            code=code,
            sku_ids=array("q", [skus[generate.sku_code(n)] for n in range(1, size.skus + 1)]),
            location_ids=array("q", [locations[location(n)[0]] for n in range(location_count(size))]),
            customer_ids=array("q", [row[0] for row in customers]),
        )
    except KeyError as error:
        raise LoadError(f"{code}: {error} is not there any more; run it again") from error


class DatabaseIds:
    """Ids from the tables' own sequences, a thousand at a time: what others insert meanwhile gets others."""

    _COLUMNS = {  # noqa: RUF012
        "orders": "order_id",
        "reservations": "reservation_id",
        "waves": "wave_id",
        "pick_tasks": "task_id",
        "receipts": "receipt_id",
    }

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self._ready: dict[str, Iterator[int]] = {table: iter(()) for table in self._COLUMNS}

    def __call__(self, table: str) -> int:
        found = next(self._ready[table], None)
        if found is None:
            rows = self._connection.execute(
                "SELECT nextval(pg_get_serial_sequence(%s, %s)) FROM generate_series(1, 1000)",
                (table, self._COLUMNS[table]),
            ).fetchall()
            self._ready[table] = iter([row[0] for row in rows])
            found = next(self._ready[table])
        return found


def warehouse_code(number: int) -> str:
    """The code of the warehouse 0, 1, …"""
    return f"wh{number + 1:03d}"


def _locations(size: Size, codes: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    for code in codes:
        for number in range(location_count(size)):
            place = location(number)
            yield code, *place, generate.capacity(place[2])


def _copy(cursor: Cursor[Any], table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as copy:
        for row in rows:
            copy.write_row(row)


def _one(connection: Connection[Any], statement: str, parameters: tuple[Any, ...]) -> Any:
    row = connection.execute(statement.encode(), parameters).fetchone()
    return row[0] if row else None
