"""The ratios that issue 4 asks of one service process: each part measured beside what it is compared with.

    python bench/aims.py [--seconds 5] [--connections 16] [--part NAME …] [--twin-python PATH] [--output FILE]

PostgreSQL, PgBouncer, sample data and service are as in bench/service.py, on the same machine: only ratios of one run
compare. A part whose endpoint does not exist, or whose other side is not installed, is in the result as skipped, with
the reason. The twin needs fastapi, sqlalchemy[asyncio], psycopg and uvicorn[standard] in the Python of --twin-python.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import service as base  # noqa: E402
from tests.support import redis  # noqa: E402
from tests.support.postgres import PASSWORDS, POOLER_PORT, Database, database  # noqa: E402
from wms.seed import TenantKey, read_keys  # noqa: E402

DATABASE_ADDRESS, PEER_ADDRESS = "127.43.27.11", "127.43.27.12"
REDIS_ADDRESSES = ("127.43.27.13", "127.43.27.14", "127.43.27.15")
URL = f"http://{base.SERVICE_ADDRESS}:8000"
SKUS = 500
PAGES = 10_000
PAGE = 5
"""Rows of a page of the depth test: so that 10,000 pages are 50,000 orders."""
PICKS_PER_S = 4000
"""Tasks that are there for each second of a run of confirmations."""

# The near cache keeps nothing: every read goes to Redis, or without one to the database.
NO_NEAR = (
    "-c",
    "import runpy; from wms.cache.near import Near; Near.__init__.__defaults__ = (0,); "
    "runpy.run_module('wms.serve', run_name='__main__')",
)
TWIN_NEEDS = ("fastapi", "sqlalchemy", "greenlet", "psycopg", "uvicorn", "uvloop", "httptools")

LUA_STOCK = """
math.randomseed(7)
request = function()
  return wrk.format("GET", string.format("/api/v1/stock?warehouse_id={warehouse}&sku=SKU-%06d", math.random({skus})))
end
"""
LUA_ORDER = """
math.randomseed(7)
request = function()
  return wrk.format("GET", "/api/v1/orders/" .. math.random({low}, {high}) .. "?warehouse_id={warehouse}{include}")
end
"""
LUA_PICK = """
local task = {first} - 1
wrk.headers["Content-Type"] = "application/json"
request = function()
  task = task + 1
  wrk.headers["Idempotency-Key"] = "bench-" .. task
  return wrk.format("POST", "/api/v1/picks/" .. task .. "/confirm", nil, '{{"warehouse_id":{warehouse},"quantity":1}}')
end
"""
# pgbench sends what \\; joins as one message, as the service does.
PGBENCH_PICK = """BEGIN \\; SELECT outcome, answer FROM (SELECT nextval('bench_tasks') AS task) t, LATERAL
    confirm_pick({tenant}, 'pgbench-' || task, sha256('x'), {warehouse}, task, 1) \\; COMMIT \\;
    SELECT pg_current_wal_flush_lsn()::text;
"""
# Orders of one line and one open task each, over balances with plenty; the ids of the tasks are one range.
OPEN_TASKS = """
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


class Skip(Exception):
    """Why a part cannot be measured here."""


@dataclass
class Part:
    """A ratio and what it is to be: `least` or `most`; None where the issue asks for the figure only."""

    name: str
    ratio: float | None = None
    least: float | None = None
    most: float | None = None
    skipped: str = ""
    values: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None when nothing was measured, or nothing is asked."""
        if self.ratio is None or (self.least is None and self.most is None):
            return None
        return (self.least is None or self.ratio >= self.least) and (
            self.most is None or self.ratio <= self.most
        )


class Bench:
    """The rig, and what was measured in it so far, by name of the run."""

    def __init__(self, db: Database, tenant: TenantKey, folder: Path, options: argparse.Namespace) -> None:
        self.db, self.tenant, self.folder, self.options = db, tenant, folder, options
        self.shape = (options.seconds, options.connections)
        self.warehouse = tenant.warehouses[0]
        self.runs: list[base.Measured] = []
        self._known: dict[str, float] = {}
        self._paths: set[str] = set()
        self.values: dict[str, Any] = {"tenant": tenant.tenant_id, "warehouse": self.warehouse, "skus": SKUS}

    def once(self, name: str, run: Callable[[str], base.Measured]) -> float:
        """The rate of a run, which is made when it is asked for first. Raises RuntimeError when requests failed."""
        if name not in self._known:
            made = run(name)
            self.runs.append(made)
            if made.errors:
                raise RuntimeError(f"{name}: {made.errors} of the answers were errors")
            self._known[name] = made.rate
        return self._known[name]

    def need(self, path: str) -> None:
        """Raises Skip unless the service has this path."""
        if not self._paths:
            with base.service(self.db, self.folder):
                self._paths = set(self.get("/api/v1/openapi.json")["paths"])
        if path not in self._paths:
            raise Skip(f"the service has no {path}")

    def get(self, target: str) -> Any:
        """The JSON of a GET with the tenant's key."""
        request = urllib.request.Request(
            URL + target, headers={"Authorization": f"Bearer {self.tenant.api_key}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wrk(self, name: str, pid: int, lua: str, url: str = URL, **values: Any) -> base.Measured:
        """One run of wrk with a script, as the tenant."""
        script = self.folder / "run.lua"
        script.write_text(lua.format(**self.values | values))
        authorization = ["-H", f"Authorization: Bearer {self.tenant.api_key}"]
        return base.wrk(name, pid, *self.shape, "-s", str(script), *authorization, url)

    def pgbench(self, name: str, text: str, mode: str = "extended") -> base.Measured:
        """One run of pgbench through the pooler."""
        script = self.folder / "run.sql"
        script.write_text(text.format(**self.values))
        return base.pgbench(name, self.db, POOLER_PORT, mode, script, *self.shape)

    def tasks(self) -> int:
        """First of enough open tasks for a run."""
        count = self.options.seconds * PICKS_PER_S
        with self.db.connect("wms_owner") as connection:
            values = {"tenant": self.tenant.tenant_id, "warehouse": self.warehouse, "count": count}
            row = connection.execute(OPEN_TASKS.encode(), values).fetchone()
            assert row is not None
            if row[1] - row[0] + 1 != count:
                raise RuntimeError("the tasks' ids are not one range: somebody else writes")
            connection.execute(b"ANALYZE orders, order_lines, reservations, pick_tasks")
        return int(row[0])


def hello(bench: Bench) -> float:
    """Requests a second of the bare server."""

    def run(name: str) -> base.Measured:
        with peer(bench, [sys.executable, "-m", "bench.hello", PEER_ADDRESS], {}) as process:
            return base.wrk(name, process.pid, *bench.shape, f"http://{PEER_ADDRESS}:8000/")

    return bench.once("hello", run)


def near(bench: Bench) -> Part:
    """A GET out of the process's own cache, to hello."""
    part = Part("near cache to hello", least=0.6)
    bench.need("/api/v1/stock")

    def run(name: str) -> base.Measured:
        with base.service(bench.db, bench.folder) as process:
            for number in range(1, SKUS + 1):
                bench.get(f"/api/v1/stock?warehouse_id={bench.warehouse}&sku=SKU-{number:06d}")
            return bench.wrk(name, process.pid, LUA_STOCK)

    part.ratio = bench.once("GET stock, near cache", run) / hello(bench)
    return part


def from_redis(bench: Bench) -> Part:
    """A GET out of Redis, to hello."""
    part = Part("Redis to hello", least=0.2)
    bench.need("/api/v1/stock")

    def run(name: str) -> base.Measured:
        with (
            redis.cluster(*REDIS_ADDRESSES) as made,
            base.service(bench.db, bench.folder, NO_NEAR, **made.environment()) as process,
        ):
            for number in range(1, SKUS + 1):
                bench.get(f"/api/v1/stock?warehouse_id={bench.warehouse}&sku=SKU-{number:06d}")
            return bench.wrk(name, process.pid, LUA_STOCK)

    part.ratio = bench.once("GET stock, Redis", run) / hello(bench)
    return part


def uncached_stock(bench: Bench) -> float:
    """Requests a second of a stock lookup that no cache answers."""
    bench.need("/api/v1/stock")

    def run(name: str) -> base.Measured:
        with base.service(bench.db, bench.folder, NO_NEAR) as process:
            return bench.wrk(name, process.pid, LUA_STOCK)

    return bench.once("GET stock, uncached", run)


def uncached(bench: Bench) -> Part:
    """A GET out of the database, to pgbench with the same statement through the same pooler, and to a select by key."""
    part = Part("uncached GET to pgbench", least=0.3)
    part.ratio = uncached_stock(bench) / bench.once(
        "pgbench stock", lambda name: bench.pgbench(name, base.STOCK_SQL)
    )
    # Like pgbench -S, but on schema_migrations (a few rows, all in memory): not its table of 100,000 accounts.
    single = "\\set id random(1, 2)\nSELECT number FROM schema_migrations WHERE number = :id;\n"
    part.values["to_select_only"] = uncached_stock(bench) / bench.once(
        "pgbench select by key", lambda name: bench.pgbench(name, single)
    )
    return part


def confirm_rate(bench: Bench) -> float:
    """Confirmed picks a second."""
    bench.need("/api/v1/picks/{task_id}/confirm")

    def run(name: str) -> base.Measured:
        first = bench.tasks()
        with base.service(bench.db, bench.folder) as process:
            return bench.wrk(name, process.pid, LUA_PICK, first=first)

    return bench.once("POST confirm pick", run)


def confirm(bench: Bench) -> Part:
    """Confirmed picks, to the same transaction by pgbench."""
    part = Part("confirm pick to pgbench", least=0.4)

    def run(name: str) -> base.Measured:
        first = bench.tasks()
        with bench.db.connect("wms_owner") as connection:
            connection.execute(b"DROP SEQUENCE IF EXISTS bench_tasks")
            connection.execute(f"CREATE SEQUENCE bench_tasks START {first}".encode())
            connection.execute(b"GRANT USAGE ON SEQUENCE bench_tasks TO wms_app")
        return bench.pgbench(name, PGBENCH_PICK, "simple")

    part.ratio = confirm_rate(bench) / bench.once("pgbench confirm pick", run)
    return part


def orders_range(bench: Bench) -> dict[str, Any]:
    """Ids of orders of the sample data that are there."""
    with bench.db.connect("wms_owner") as connection:
        row = connection.execute(
            "SELECT min(order_id), min(order_id) + 499 FROM orders WHERE tenant_id = %s AND warehouse_id = %s",
            (bench.tenant.tenant_id, bench.warehouse),
        ).fetchone()
    assert row is not None
    return {"low": row[0], "high": row[1]}


def twin(bench: Bench) -> Part:
    """Three endpoints to those of the twin; the ratio is the least of the three."""
    part = Part("three endpoints to the twin", least=3.0)
    bench.need("/api/v1/orders/{order_id}")
    bench.need("/api/v1/picks/{task_id}/confirm")
    python = bench.options.twin_python
    missing = subprocess.run(
        [python, "-c", f"import {', '.join(TWIN_NEEDS)}"], capture_output=True, text=True, timeout=60
    )
    if missing.returncode:
        raise Skip(f"{python} lacks a package of the twin: {missing.stderr.strip().splitlines()[-1]}")
    values = orders_range(bench)

    def ours(name: str) -> base.Measured:
        with base.service(bench.db, bench.folder, NO_NEAR) as process:
            return bench.wrk(name, process.pid, LUA_ORDER, include="&include=order_lines", **values)

    rates = {
        "stock": uncached_stock(bench),
        "order": bench.once("GET order with lines, uncached", ours),
        "confirm pick": confirm_rate(bench),
    }
    query = urllib.parse.urlencode({"sslmode": "verify-ca", "sslrootcert": str(bench.db.home / "ca.crt")})
    environment = {
        "TWIN_DATABASE": f"postgresql+psycopg://wms_app:{PASSWORDS['wms_app']}@{bench.db.address}:{POOLER_PORT}"
        f"/wms?{query}",
        "TWIN_TENANT": str(bench.tenant.tenant_id),
    }
    command = [
        *(python, "-m", "uvicorn", "bench.twin.app:app", "--host", PEER_ADDRESS, "--port", "8000"),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]
    first = bench.tasks()
    with peer(bench, command, environment) as process:
        scripts: dict[str, tuple[str, dict[str, Any]]] = {
            "stock": (LUA_STOCK, {}),
            "order": (LUA_ORDER, {**values, "include": ""}),
            "confirm pick": (LUA_PICK, {"first": first}),
        }
        for name, (lua, more) in scripts.items():
            rate = bench.once(
                f"twin {name}",
                lambda run, lua=lua, more=more: bench.wrk(  # type: ignore[misc]
                    run, process.pid, lua, f"http://{PEER_ADDRESS}:8000", **more
                ),
            )
            part.values[name] = rates[name] / rate
    part.ratio = min(part.values.values())
    return part


def depth(bench: Bench) -> Part:
    """Time of page 10,000 of the orders, to that of page 1: medians of 50 requests each."""
    part = Part(f"page {PAGES} to page 1", most=1.2)
    bench.need("/api/v1/orders")
    with bench.db.connect("wms_owner") as connection:
        connection.execute(
            b"INSERT INTO orders (tenant_id, warehouse_id, order_number, customer_id, status, total_value) "
            b"SELECT %s, %s, 'DEEP-' || i, (SELECT min(customer_id) FROM customers WHERE tenant_id = %s), 'NEW', 1 "
            b"FROM generate_series(1, %s) i",
            (bench.tenant.tenant_id, bench.warehouse, bench.tenant.tenant_id, PAGES * PAGE + 200),
        )
        connection.execute(b"VACUUM ANALYZE orders")
    first = f"/api/v1/orders?warehouse_id={bench.warehouse}&limit={PAGE}"
    with base.service(bench.db, bench.folder, NO_NEAR, WMS_CURSOR_KEY="k" * 32):
        deep, at = first, 1
        # 200 rows a page on the way there: the last step leaves the same cursor as 10,000 small pages would.
        while at < PAGES:
            rows = min(200, (PAGES - at) * PAGE)
            cursor = deep.partition("&cursor_after=")[2]
            target = f"/api/v1/orders?warehouse_id={bench.warehouse}&limit={rows}"
            answer = bench.get(target + (f"&cursor_after={cursor}" if cursor else ""))
            at += rows // PAGE
            deep = f"{first}&cursor_after={answer['pagination']['cursor_after']}"
        times: dict[str, list[float]] = {first: [], deep: []}
        for _ in range(50):
            for target, found in times.items():
                begin = time.perf_counter()
                bench.get(target)
                found.append(time.perf_counter() - begin)
    middle = {target: sorted(found)[25] for target, found in times.items()}
    part.values = {"page_1_ms": middle[first] * 1000, "deep_ms": middle[deep] * 1000}
    part.ratio = middle[deep] / middle[first]
    return part


def scale(bench: Bench) -> Part:
    """Time of an uncached stock lookup with ten times the SKUs, to that before: by rate, inverted."""
    part = Part("10 times the SKUs", most=1.1)
    before = uncached_stock(bench)
    seed(bench.db, bench.folder, "--skus", str(10 * SKUS))

    def run(name: str) -> base.Measured:
        with base.service(bench.db, bench.folder, NO_NEAR) as process:
            return bench.wrk(name, process.pid, LUA_STOCK, skus=10 * SKUS)

    part.ratio = before / bench.once("GET stock, uncached, 10 times the SKUs", run)
    return part


def memory(bench: Bench) -> Part:
    """Resident MiB of a worker: at the start, and after a load; their ratio tells whether it grows."""
    part = Part("memory of a worker, loaded to idle")
    bench.need("/api/v1/stock")
    with base.service(bench.db, bench.folder) as process:
        idle = base.rss_mib(process.pid)
        bench.wrk("memory", process.pid, LUA_STOCK)
        loaded = base.rss_mib(process.pid)
    part.values, part.ratio = {"idle_mib": idle, "loaded_mib": loaded}, loaded / idle
    return part


PARTS: dict[str, Callable[[Bench], Part]] = {
    "near": near,
    "redis": from_redis,
    "uncached": uncached,
    "confirm": confirm,
    "twin": twin,
    "memory": memory,
    "depth": depth,
    # Last: it makes the data larger.
    "scale": scale,
}


@contextmanager
def peer(bench: Bench, command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """What the service is compared with, listening on PEER_ADDRESS. Raises TimeoutError with its log."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    log = bench.folder / "peer.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{PEER_ADDRESS}:8000/", timeout=2).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise TimeoutError(log.read_text()[-3000:]) from error
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def seed(db: Database, folder: Path, *arguments: str) -> TenantKey:
    """Schema and sample data; the first tenant."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | db.environment()
    keys = folder / "keys.json"
    sizes = ("--scale", "small", "--tenants", "1", "--warehouses", "1", *arguments, "--keys-out", str(keys))
    for command in (("wms.migrations", "up"), ("wms.seed", *sizes)):
        done = subprocess.run(
            [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr[-2000:]}")
    return read_keys(keys)[0]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All parts that were asked for; the document that is written."""
    started = datetime.now(UTC)
    parts = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wms-bench-")))
        db = stack.enter_context(database(DATABASE_ADDRESS))
        bench = Bench(db, seed(db, folder), folder, options)
        for name in options.part or PARTS:
            try:
                part = PARTS[name](bench)
            except Skip as reason:
                part = Part(name, skipped=str(reason))
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                part = Part(name, skipped=f"failed: {error}")
            parts.append(part)
            print(line(part), flush=True)
    kind: Literal["aims"] = "aims"
    return {
        "benchmark": kind,
        "started_at": started.isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[2],
        "parameters": {"seconds": options.seconds, "connections": options.connections, "skus": SKUS},
        "runs": [asdict(run) for run in bench.runs],
        "parts": [asdict(part) | {"met": part.met} for part in parts],
    }


def line(part: Part) -> str:
    """A part for people."""
    if part.ratio is None:
        return f"{part.name:<36} skipped: {part.skipped}"
    aim = (
        f"at least {part.least:g}"
        if part.least is not None
        else f"at most {part.most:g}"
        if part.most
        else ""
    )
    verdict = {True: "met", False: "NOT MET", None: ""}[part.met]
    more = ", ".join(f"{name} {value:.3g}" for name, value in part.values.items())
    return f"{part.name:<36} {part.ratio:>8.3f}  {aim:<14} {verdict:<8} {more}"


def main() -> int:
    """Measure, write, print; 1 when a part could not be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, choices=range(1, 61), metavar="1-60")
    parser.add_argument("--connections", type=int, default=16, choices=range(1, 257), metavar="1-256")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be repeated")
    parser.add_argument("--twin-python", default=sys.executable, metavar="PATH", help="Python of the twin")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/aims.json")
    options = parser.parse_args()
    document = measure(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(part["skipped"] for part in document["parts"]) else 0


if __name__ == "__main__":
    sys.exit(main())
