"""What one service process is measured on: databases behind their poolers, with sample data, and a Redis Cluster; and
what is started on them for a run. All of it is thrown away.

fsync is off and everything shares one machine: it is code that is compared, not disks, by ratios within one run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import Shape, pgbench, run_pgbench, wrk
from bench.rig import BenchError
from stacks.local.program import ROOT
from tests.support import redis
from tests.support.postgres import PASSWORDS, POOLER_PORT, POSTGRES_PORT, Database, database
from tests.support.service import PORT, Service, module, service
from wms.api.warming import JOBS
from wms.seed import TenantKey, read_keys

DATABASES = ("127.53.1.1", "127.53.1.2")
SERVICE, PEER = "127.53.1.3", "127.53.1.4"
REDIS = ("127.53.1.5", "127.53.1.6", "127.53.1.7")
UP_S = 20.0

# Orders of one line and one open task each, over balances with plenty; the ids of the tasks are one range.
_OPEN_TASKS = """
WITH plenty AS (
    SELECT row_number() OVER (ORDER BY sku_id, location_id) AS n, count(*) OVER () AS of, m.*
    FROM inventory_master m
    WHERE tenant_id = %(tenant)s AND warehouse_id = %(warehouse)s AND on_hand - reserved >= 1000
), numbers AS (
    SELECT i, nextval('orders_order_id_seq') AS order_id, nextval('reservations_reservation_id_seq') AS reservation_id,
        p.sku_id, p.location_id
    FROM generate_series(1, %(count)s) i JOIN plenty p ON p.n = i %% p.of + 1
), wave AS (
    INSERT INTO waves (tenant_id, warehouse_id) VALUES (%(tenant)s, %(warehouse)s) RETURNING wave_id
), made AS (
    INSERT INTO orders (tenant_id, warehouse_id, order_id, order_number, customer_id, status, total_value)
    SELECT %(tenant)s, %(warehouse)s, order_id, 'BENCH-' || order_id,
        (SELECT min(customer_id) FROM customers WHERE tenant_id = %(tenant)s), 'PICKING', 1 FROM numbers
), lines AS (
    INSERT INTO order_lines (tenant_id, warehouse_id, order_id, line_number, sku_id, quantity, unit_price, allocated)
    SELECT %(tenant)s, %(warehouse)s, order_id, 1, sku_id, 1, 1, 1 FROM numbers
), held AS (
    INSERT INTO reservations
        (tenant_id, warehouse_id, reservation_id, order_id, line_number, sku_id, location_id, quantity)
    SELECT %(tenant)s, %(warehouse)s, reservation_id, order_id, 1, sku_id, location_id, 1 FROM numbers
), balances AS (
    UPDATE inventory_master m SET reserved = m.reserved + x.units
    FROM (SELECT sku_id, location_id, count(*) AS units FROM numbers GROUP BY 1, 2) x
    WHERE m.tenant_id = %(tenant)s AND m.warehouse_id = %(warehouse)s AND m.sku_id = x.sku_id
        AND m.location_id = x.location_id
), tasks AS (
    INSERT INTO pick_tasks (tenant_id, warehouse_id, wave_id, reservation_id, order_id, line_number, sku_id,
        location_id, sequence, quantity)
    SELECT %(tenant)s, %(warehouse)s, wave_id, reservation_id, order_id, 1, sku_id, location_id, i, 1
    FROM numbers, wave ORDER BY i RETURNING task_id
)
SELECT min(task_id), max(task_id) FROM tasks
"""
_DEEP_ORDERS = """
INSERT INTO orders (tenant_id, warehouse_id, order_number, customer_id, status, total_value)
SELECT %(tenant)s, %(warehouse)s, 'DEEP-' || i,
    (SELECT min(customer_id) FROM customers WHERE tenant_id = %(tenant)s), 'NEW', 1
FROM generate_series(1, %(count)s) i
"""


@dataclass(frozen=True)
class Store:
    """A database with one tenant's sample data: `skus` of them, SKU-000001 and on, in one warehouse."""

    db: Database
    tenant: TenantKey
    skus: int

    @property
    def warehouse(self) -> int:
        return self.tenant.warehouses[0]

    @property
    def authorization(self) -> str:
        return f"Bearer {self.tenant.api_key}"

    def orders(self) -> tuple[int, int]:
        """First and last id of 500 orders of the sample data."""
        with self.db.connect("wms_owner") as connection:
            row = connection.execute(
                "SELECT min(order_id) FROM orders WHERE tenant_id = %s AND warehouse_id = %s",
                (self.tenant.tenant_id, self.warehouse),
            ).fetchone()
        assert row is not None
        return row[0], row[0] + 499

    def keep_quiet(self) -> None:
        """Have the service's periodic jobs not begin during a run: they count as done until tomorrow."""
        with self.db.connect("wms_owner") as connection:
            connection.execute(
                "INSERT INTO periodic_jobs (name, holder, claimed_until, done_at) "
                "SELECT unnest(%s::text[]), 'bench', now(), now() + interval '1 day'",
                (list(JOBS),),
            )

    def forget_events(self) -> None:
        """Leave nothing to be relayed of earlier runs: pgbench's picks tell of themselves, and nobody hears them."""
        with self.db.connect("wms_owner") as connection:
            connection.execute(b"TRUNCATE outbox")

    def open_tasks(self, count: int) -> int:
        """Make pick tasks of one unit each; the first of their ids, which are one range. Raises BenchError."""
        row = self._change(_OPEN_TASKS, count)
        if row[1] - row[0] + 1 != count:
            raise BenchError("the ids of the tasks are not one range: somebody else writes")
        return int(row[0])

    def deep_orders(self, count: int) -> None:
        """Add `count` orders."""
        self._change(_DEEP_ORDERS, count)

    def _change(self, statement: str, count: int) -> Any:
        values = {"tenant": self.tenant.tenant_id, "warehouse": self.warehouse, "count": count}
        with self.db.connect("wms_owner") as connection:
            cursor = connection.execute(statement.encode(), values)
            row = cursor.fetchone() if cursor.description else None
            connection.execute(
                b"VACUUM ANALYZE orders, order_lines, reservations, pick_tasks, inventory_master"
            )
        return row

    def pgbench(self, shape: Shape, *arguments: str, direct: bool = False) -> dict[str, float]:
        """A run as the service's role, through the pooler or past it. Raises BenchError."""
        port = POSTGRES_PORT if direct else POOLER_PORT
        return pgbench(shape, self._client("wms_app", port), *arguments)

    def accounts(self) -> None:
        """Make pgbench's own tables, 100,000 accounts, for `pgbench -S`. Raises BenchError."""
        run_pgbench(["-i", "-q"], self._client("wms_owner", POSTGRES_PORT), 60)
        with self.db.connect("wms_owner") as connection:
            connection.execute(b"GRANT SELECT ON pgbench_accounts, pgbench_branches TO wms_app")

    def _client(self, role: str, port: int) -> dict[str, str]:
        return {
            "PGHOST": self.db.address,
            "PGPORT": str(port),
            "PGUSER": role,
            "PGPASSWORD": PASSWORDS[role],
            "PGDATABASE": "wms",
            "PGSSLMODE": "verify-ca",
            "PGSSLROOTCERT": str(self.db.home / "ca.crt"),
        }


@dataclass(frozen=True)
class Bed:
    """A store, one with `10 times the SKUs`, a Redis Cluster, and a folder for scripts and logs."""

    store: Store
    large: Store
    redis: redis.Cluster
    folder: Path
    shape: Shape

    @property
    def pools(self) -> dict[str, str]:
        """As many connections to the pooler as pgbench has: else what is measured is the waiting for one."""
        return dict.fromkeys(("WMS_DB_READ_POOL", "WMS_DB_WRITE_POOL"), str(self.shape.connections))

    @contextmanager
    def service(self, store: Store, *, near: bool = False, redis: bool = False) -> Iterator[Service]:
        """One process of the service: with its near cache or without, with Redis or without."""
        variables = {
            # As the platform has it: the gateway keeps the access log.
            "WMS_ACCESS_LOG": "errors",
            # Counted as every request is, and never refused.
            **dict.fromkeys(("WMS_RATE_AUTHENTICATED", "WMS_RATE_PREMIUM"), "1000000000"),
            **self.pools,
            **({} if near else {"WMS_CACHE_NEAR_ENTRIES": "0"}),
            **(self.redis.environment() if redis else {}),
        }
        store.forget_events()
        with service(store.db, self.folder, SERVICE, **variables) as made:
            yield made

    @contextmanager
    def peer(self, *arguments: str, **variables: str) -> Iterator[int]:
        """`python -m` something else that answers HTTP on PEER; its process id. Raises BenchError with its log."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "WMS_BIND_ADDRESS": PEER}
        environment |= self.store.db.environment() | self.pools | variables
        log = self.folder / "peer.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments], env=environment, cwd=self.folder, stdout=file, stderr=file
            )
        try:
            deadline = time.monotonic() + UP_S
            while not _answers(url(PEER)):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise BenchError(f"{arguments[0]} does not answer:\n{log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def wrk(self, pid: int, address: str, store: Store, script: str) -> dict[str, float]:
        """A run of a Lua script, as the store's tenant. Raises BenchError."""
        path = self.folder / "run.lua"
        path.write_text(script)
        return wrk(self.shape, pid, url(address), path, store.authorization)


def url(address: str) -> str:
    """Where a process answers."""
    return f"http://{address}:{PORT}"


@contextmanager
def made(shape: Shape, skus: int) -> Iterator[Bed]:
    """A bed whose second store has ten times the SKUs. Raises BenchError, TimeoutError, AssertionError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wms-bench-")))
        stores = []
        for address, size in zip(DATABASES, (skus, 10 * skus), strict=True):
            db = stack.enter_context(database(address))
            keys = folder / f"keys-{size}.json"
            module(db, "wms.migrations", "up")
            sizes = ("--tenants", "1", "--warehouses", "1", "--skus", str(size))
            module(db, "wms.seed", "--scale", "small", *sizes, "--keys-out", str(keys))
            stores.append(Store(db, read_keys(keys)[0], size))
            stores[-1].keep_quiet()
        stores[0].accounts()
        cluster = stack.enter_context(redis.cluster(*REDIS))
        yield Bed(stores[0], stores[1], cluster, folder, shape)


def _answers(target: str) -> bool:
    """Whether somebody answers there, whatever."""
    try:
        urllib.request.urlopen(target, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
