"""A PostgreSQL with the service's schema, an S3 gateway, and wmsctl with a context for the two: enough of a platform
for everything that `wmsctl partitions` does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg

from tests.support import builders
from tests.support.postgres import PASSWORDS, POSTGRES_PORT, Database
from tests.support.store import ACCESS_KEY, BUCKET, PORT, SECRET_KEY, Store
from wmsctl import inventory as inv
from wmsctl import main

ROOT = Path(__file__).resolve().parents[2]
LEDGER = inv.PartitionedTable(
    table="inventory_transactions", interval="month", premake=6, online_months=13, archive=True, keep_days=7,
    archive_months=1200, carry="carry_forward",
)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return f"exit {self.code}\n{self.out}{self.err}"


class Site:
    """wmsctl with its own configuration and state in `folder`, and the servers it speaks to."""

    def __init__(self, folder: Path, db: Database, store: Store | None = None) -> None:
        self.folder, self.db, self.store = folder, db, store
        self.tables: tuple[inv.PartitionedTable, ...] = (LEDGER,)
        self.environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "LANG": "C.UTF-8",
            "WMSCTL_CONFIG": str(folder / "config"), "WMSCTL_STATE": str(folder / "state"),
        }  # fmt: skip
        bundle = (db.home / "ca.crt").read_text()
        secrets = {
            "postgres/partitions": PASSWORDS["wms_partitions"],
            "postgres/ops": PASSWORDS["wms_ops"],
            "postgres/superuser": PASSWORDS["postgres"],
        }
        if store:
            bundle += (store.home / "ca.crt").read_text()
            secrets |= {"s3/access_key": ACCESS_KEY, "s3/secret_key": SECRET_KEY}
        (folder / "ca.crt").write_text(bundle)
        path = folder / "secrets.json"
        path.touch(0o600)
        path.write_text(json.dumps(secrets))
        self.migrate()
        self.declare(LEDGER)

    @property
    def inventory(self) -> inv.Inventory:
        """What wmsctl is told."""
        member = inv.Member(node="pg-1", address=self.db.address, port=POSTGRES_PORT, api_port=8008)
        store = self.store and inv.ObjectStore(
            endpoint=inv.Endpoint(node="storage-1", address=self.store.address, port=PORT, tls=True),
            bucket=BUCKET,
            access_key="s3/access_key",
            secret_key="s3/secret_key",
        )
        base = builders.inventory()
        postgres = {**{name: getattr(base.postgres, name) for name in base.postgres.__struct_fields__}}
        return builders.inventory(
            ca=str(self.folder / "ca.crt"),
            secrets=f"file:{self.folder / 'secrets.json'}",
            postgres=inv.Postgres(**{**postgres, "members": (member,)}),
            store=store,
            partitions=inv.Partitions(
                login=inv.Login(user="wms_partitions", secret="postgres/partitions"),
                owner="wms_owner",
                tables=self.tables,
                prefix="partitions",
            ),
        )

    def declare(self, *tables: inv.PartitionedTable) -> None:
        """Declare these tables from now on."""
        self.tables = tables
        path = self.folder / "config" / "contexts" / "local.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(inv.encode(self.inventory))
        (self.folder / "config" / "current").write_text("local\n")

    def migrate(self) -> None:
        """The service's schema, and that of operations."""
        done = subprocess.run(
            [sys.executable, "-m", "wms.migrations", "up"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **self.db.environment()},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.operations()

    def operations(self) -> None:
        """Run stacks/sql/ops.sql, as a platform does, any number of times."""
        with self.db.connect("postgres") as connection:
            connection.execute((ROOT / "stacks/sql/ops.sql").read_text().encode())

    # wmsctl

    def cli(self, *arguments: str) -> Ran:
        """Run a command line of wmsctl in this process: everything but the start of an interpreter."""
        out, err = io.StringIO(), io.StringIO()
        before = {name: os.environ.get(name) for name in self.environment if name.startswith("WMSCTL_")}
        os.environ.update({name: self.environment[name] for name in before})
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main.run(list(arguments))
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        return Ran(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start wmsctl without waiting; the caller waits for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "wmsctl", *arguments], env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def document(self, *arguments: str, codes: Sequence[int] = (0,)) -> dict[str, Any]:
        """The JSON document that a command prints."""
        done = self.cli(*arguments, "-o", "json")
        assert done.code in codes, done.text
        found: dict[str, Any] = json.loads(done.out)
        return found

    def killed_at(self, moment: str, *arguments: str) -> None:
        """Run wmsctl and let it die (SIGKILL) at a moment of its steps."""
        process = self.start(*arguments, env={"WMSCTL_DIE_AT": moment})
        out, err = process.communicate(timeout=120)
        assert process.returncode == -9, f"{moment} was not reached: {process.returncode}\n{out}{err}"

    def operations_of(self, kind: str) -> list[dict[str, Any]]:
        """The journal's operations of a kind, oldest first: their last line."""
        folder = self.folder / "state" / "local" / "operations"
        return [
            json.loads(path.read_text().splitlines()[-1])
            for path in sorted(folder.glob(f"*-partitions.{kind}-*.jsonl"))
        ]

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        path = self.folder / "state" / "local" / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    # The database

    @contextlib.contextmanager
    def owner(self) -> Iterator[psycopg.Connection[Any]]:
        """A session of the owner, in UTC."""
        with self.db.connect("wms_owner") as connection:
            connection.execute("SET timezone = 'UTC'")
            yield connection

    def value(self, statement: str, *parameters: Any) -> Any:
        """The first column of the owner's first row."""
        with self.owner() as connection:
            row = connection.execute(statement.encode(), parameters or None).fetchone()
        return row and row[0]

    def execute(self, statement: str, *parameters: Any) -> None:
        """One statement of the owner."""
        with self.owner() as connection:
            connection.execute(statement.encode(), parameters or None)

    def partitions(self, table: str = "inventory_transactions") -> list[str]:
        """The names of the attached partitions."""
        with self.owner() as connection:
            rows = connection.execute(
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass"
                " AND NOT inhdetachpending ORDER BY 1",
                (table,),
            ).fetchall()
        return [row[0] for row in rows]


@dataclass(frozen=True)
class Warehouse:
    """A tenant with SKUs and locations, whose stock comes from movements of old months and of now."""

    tenant: int
    warehouse: int
    skus: tuple[int, ...]
    codes: tuple[str, ...]
    locations: tuple[int, ...]


def warehouse(site: Site, name: str, skus: int = 20, locations: int = 10) -> Warehouse:
    """A tenant with one warehouse."""
    with site.owner() as c:

        def one(statement: str, *parameters: Any) -> int:
            row = c.execute(statement.encode(), parameters).fetchone()
            assert row is not None
            return int(row[0])

        tenant = one("INSERT INTO tenants (name) VALUES (%s) RETURNING tenant_id", name)
        place = one(
            "INSERT INTO warehouses (tenant_id, code, name) VALUES (%s, 'W1', 'W1') RETURNING warehouse_id",
            tenant,
        )
        codes = tuple(f"SKU-{n:06d}" for n in range(1, skus + 1))
        numbers = tuple(
            one(
                "INSERT INTO skus (tenant_id, code, name) VALUES (%s, %s, %s) RETURNING sku_id",
                tenant,
                code,
                code,
            )
            for code in codes
        )
        places = tuple(
            one(
                "INSERT INTO locations (tenant_id, warehouse_id, code, aisle, level, position)"
                " VALUES (%s, %s, %s, 'A', 1, %s) RETURNING location_id",
                tenant, place, f"A-1-{n}", n,
            )
            for n in range(1, locations + 1)
        )  # fmt: skip
    return Warehouse(tenant, place, numbers, codes, places)


HISTORY = """
WITH moves AS (
    INSERT INTO inventory_transactions
        (tenant_id, warehouse_id, sku_id, kind, from_location_id, to_location_id, quantity, reference, created_at)
    SELECT %(tenant)s, %(warehouse)s, (%(skus)s::bigint[])[1 + n %% cardinality(%(skus)s::bigint[])], 'receipt', NULL,
        (%(locations)s::bigint[])[1 + n %% cardinality(%(locations)s::bigint[])], 1 + n %% 7,
        CASE n %% 5 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'a "quoted", one' WHEN 3 THEN E'two\\nlines\\t\\\\N ç'
            ELSE 'ORD-' || n END,
        %(month)s::timestamptz + n * (interval '27 days' / %(rows)s)
    FROM generate_series(0, %(rows)s - 1) n
    RETURNING tenant_id, warehouse_id, sku_id, to_location_id, quantity
)
INSERT INTO inventory_master AS m (tenant_id, warehouse_id, sku_id, location_id, on_hand)
    SELECT tenant_id, warehouse_id, sku_id, to_location_id, sum(quantity) FROM moves GROUP BY 1, 2, 3, 4
    ON CONFLICT (tenant_id, warehouse_id, sku_id, location_id) DO UPDATE SET on_hand = m.on_hand + excluded.on_hand
"""


def history(site: Site, place: Warehouse, month: str, rows: int) -> str:
    """Receipts of an old month (2024-01), with texts that are hard to keep, and the stock they make. The name of the
    partition.
    """
    with site.owner() as c:
        c.execute("SELECT ensure_transaction_partitions(%s, 1)", (f"{month}-01",))
        c.execute(
            HISTORY.encode(),
            {
                "tenant": place.tenant, "warehouse": place.warehouse, "skus": list(place.skus),
                "locations": list(place.locations), "month": f"{month}-01 00:00:00+00", "rows": rows,
            },
        )  # fmt: skip
    return f"inventory_transactions_{month.replace('-', '_')}"


def differences(site: Site) -> list[tuple[Any, ...]]:
    """What the ledger, the carried balances and the stock do not agree about."""
    with site.owner() as c:
        return c.execute("SELECT * FROM ledger_differences()").fetchall()


@dataclass
class Load:
    """Clients that post movements and read the ledger, and what they were told."""

    acknowledged: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    """Seconds of every statement."""

    @property
    def worst_ms(self) -> float:
        return max(self.took, default=0.0) * 1000


@contextlib.contextmanager
def load(
    site: Site, place: Warehouse, *, writers: int = 2, readers: int = 1, pause_s: float = 0.01
) -> Iterator[Load]:
    """The service's own statements, from the service's role, until the body ends; every one is timed.

    Past the pooler: what is looked for are waits for locks, not for connections.
    """
    stop, found, guard = threading.Event(), Load(), threading.Lock()

    def post(c: Any, number: int, turn: int) -> None:
        key = f"load-{time.time_ns()}-{number}-{turn}"
        row = c.execute(
            "SELECT outcome, answer::jsonb ->> 'id' FROM post_movement(%s, %s, %s, %s, %s, 'receipt', NULL, %s, 1, %s)",
            (place.tenant, key, sha256(key.encode()).digest(), place.warehouse,
             place.codes[turn % len(place.codes)], f"A-1-{1 + turn % len(place.locations)}", key),
        ).fetchone()  # fmt: skip
        assert row[0] == "posted", row
        with guard:
            found.acknowledged.add(int(row[1]))

    def read(c: Any, number: int, turn: int) -> None:
        c.execute(
            "SELECT count(*) FROM movements_page(%s, %s, NULL, NULL, 50)", (place.tenant, place.warehouse)
        ).fetchone()

    def client(work: Any, number: int) -> None:
        try:
            with site.db.connect("wms_app") as c:
                for turn in range(10_000_000):
                    if stop.is_set():
                        return
                    started = time.monotonic()
                    work(c, number, turn)
                    elapsed = time.monotonic() - started
                    with guard:
                        found.took.append(elapsed)
                    time.sleep(pause_s)
        except Exception as error:
            with guard:
                found.failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=client, args=(post, n), daemon=True) for n in range(writers)]
    threads += [threading.Thread(target=client, args=(read, n), daemon=True) for n in range(readers)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def kept(site: Site, found: Load) -> None:
    """Every acknowledged movement is in the ledger, and the stock agrees with it. Raises AssertionError."""
    assert not found.failures, found.failures[:3]
    assert found.acknowledged
    with site.owner() as c:
        rows = c.execute(
            "SELECT count(*) FROM inventory_transactions WHERE transaction_id = ANY(%s)",
            (list(found.acknowledged),),
        ).fetchone()
    assert rows is not None and rows[0] == len(found.acknowledged)
    assert differences(site) == []


_WAITED = re.compile(rb"\[(\d+)\] LOG:  process \d+ acquired .* after (\d+\.\d+) ms")


@contextlib.contextmanager
def lock_waits(db: Database, role: str = "wms_app") -> Iterator[list[float]]:
    """Every wait for a lock of more than 5 ms of the sessions of `role`, in ms, as PostgreSQL itself tells in its log;
    filled in when the body ends. Unlike a client's clock it does not count that the machine was busy.
    """
    with db.connect("postgres") as c:
        c.execute("ALTER SYSTEM SET log_lock_waits = on")
        c.execute("ALTER SYSTEM SET deadlock_timeout = '5ms'")
        c.execute("ALTER SYSTEM SET log_line_prefix = '%u [%p] '")
        c.execute("SELECT pg_reload_conf()")
        log = db.home / "postgres.log"
        start, found = log.stat().st_size, list[float]()
        time.sleep(0.1)
        try:
            yield found
        finally:
            for line in log.read_bytes()[start:].splitlines():
                if line.startswith(role.encode()) and (waited := _WAITED.search(line)):
                    found.append(float(waited[2]))
            c.execute("ALTER SYSTEM RESET ALL")
            c.execute("SELECT pg_reload_conf()")
