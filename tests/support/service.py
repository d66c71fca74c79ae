"""The WMS service as a process of its own over a database of tests/support/postgres.py, and what it asked of it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import urllib3

from tests.support.pki import Authority
from tests.support.postgres import Database, database
from wms.api.warming import JOBS
from wms.seed import read_keys

ROOT = Path(__file__).resolve().parents[2]
PORT = 8000
_NUMBERS = count(1)

BACKGROUND = ("probe", "principal_of_api_key")
"""Statements of the role of requests that belong to no request, or to the first one with a key only."""
_COUNT = re.compile(
    r'^wms_database_statement_duration_seconds_count\{pool="(\w+)",statement="(\w+)"\} ([0-9.e+]+)$',
    re.MULTILINE,
)


def sent_by_requests(admin: psycopg.Connection[Any]) -> list[tuple[str, int]]:
    """(query, calls) of the role of requests since the last pg_stat_statements_reset, without the probes."""
    rows = admin.execute(
        "SELECT query, calls FROM pg_stat_statements WHERE userid = 'wms_app'::regrole "
        "AND query !~ 'schema_migrations'"
    ).fetchall()
    return [(query, calls) for query, calls in rows]


@dataclass(frozen=True)
class Tenant:
    """A tenant of the sample data, its administrator's key and its first warehouse."""

    id: int
    key: str
    warehouse: int


class Service:
    """The process and a client of it; with the scheme https it has a certificate as the stack gives it."""

    def __init__(
        self, db: Database, folder: Path, address: str, variables: Mapping[str, str], scheme: str = "http"
    ) -> None:
        self.url = f"{scheme}://{address}:{PORT}"
        self.log = folder / "service.log"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "WMS_INSTANCE": "app-1",
            "WMS_BIND_ADDRESS": address,
            "WMS_BIND_PORT": str(PORT),
            "WMS_DRAIN_MS": "0",
            # Other tests are about limits.
            **dict.fromkeys(("WMS_RATE_AUTHENTICATED", "WMS_RATE_ANONYMOUS", "WMS_RATE_PREMIUM"), "0"),
            **db.environment(),
            **variables,
        }
        self._pool = urllib3.HTTPConnectionPool(address, PORT, maxsize=64, retries=False, timeout=30)
        if scheme == "https":
            authority = Authority("service authority")
            authority.write_bundle(folder / "ca.crt")
            # One file with both, as the stack writes them.
            authority.write_node(folder / "node.pem", ("app-1",), address)
            environment |= dict.fromkeys(("WMS_TLS_CERT", "WMS_TLS_KEY"), str(folder / "node.pem"))
            self._pool = urllib3.HTTPSConnectionPool(
                address, PORT, maxsize=64, retries=False, timeout=30, ca_certs=str(folder / "ca.crt")
            )
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wms.serve"], cwd=folder, env=environment, stdout=file, stderr=file
            )

    def request(self, method: str, target: str, key: str = "", **options: Any) -> Any:
        """One request with an API key; `headers` and `json` as urllib3 takes them."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self._pool.request(method, target, headers=headers | options.pop("headers", {}), **options)

    def call(
        self, method: str, target: str, by: Tenant | str | None = None, body: object = None, **headers: str
    ) -> Any:
        """One request by a tenant, or with a credential; names of headers with _ for -. A POST has an idempotency key
        of its own unless it is given one.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            sent.setdefault("Idempotency-Key", f"key-{next(_NUMBERS)}")
        options = {} if body is None else {"json": body}
        key = by.key if isinstance(by, Tenant) else by or ""
        return self.request(method, target, key, headers=sent, **options)

    def get(self, target: str, by: Tenant | str | None = None, **headers: str) -> Any:
        """A GET, as `call`."""
        return self.call("GET", target, by, **headers)

    def data(self, target: str, tenant: Tenant) -> list[dict[str, Any]]:
        """The items of a list."""
        response = self.get(target, tenant)
        assert response.status == 200, response.data
        return list(response.json()["data"])

    def post(self, target: str, tenant: Tenant, body: Mapping[str, Any], key: str = "") -> Any:
        """A POST to the tenant's warehouse, with the idempotency key `key` or one of its own."""
        headers = {"Idempotency_Key": key} if key else {}
        return self.call("POST", target, tenant, {"warehouse_id": tenant.warehouse} | dict(body), **headers)

    def done(self, target: str, tenant: Tenant, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a POST that is to succeed."""
        response = self.post(target, tenant, body or {})
        assert response.status in (200, 201), response.data
        return response.json()

    def refused(self, status: int, kind: str, target: str, tenant: Tenant, body: Mapping[str, Any]) -> Any:
        """The problem of a POST that is to be refused."""
        response = self.post(target, tenant, body)
        problem = response.json()
        assert (response.status, problem["type"]) == (status, f"urn:wms:problem:{kind}"), response.data
        return problem

    def move(self, tenant: Tenant, kind: str, *, key: str = "", **body: Any) -> Any:
        """A movement of stock; `key` as of `post`."""
        return self.post("/api/v1/movements", tenant, {"type": kind, **body}, key)

    def state(self) -> str:
        """What it says of itself: ready, degraded, draining."""
        return str(self.get("/health/ready").json()["status"])

    def metric(self, line: str) -> float:
        """The value of the metric that begins with `line`, 0 when it is not there."""
        for found in self.get("/metrics").data.decode().splitlines():
            if found.startswith(f"{line} "):
                return float(found.rsplit(" ", 1)[1])
        return 0.0

    def wait(self, timeout_s: float = 15.0) -> None:
        """Until it is ready. Raises TimeoutError with its log."""
        try:
            until("ready", lambda: self.process.poll() is not None or self.state() == "ready", timeout_s)
            if self.process.poll() is None:
                return
        except TimeoutError:
            pass
        raise TimeoutError(f"the service is not ready:\n{self.log.read_text()[-3000:]}")

    def statements(self) -> Counter[tuple[str, str]]:
        """(pool, statement) → how often a request sent it: without the worker's, and those of BACKGROUND."""
        text = self.request("GET", "/metrics").data.decode()
        return Counter(
            {
                (pool, name): int(float(number))
                for pool, name, number in _COUNT.findall(text)
                if name not in BACKGROUND and not pool.startswith("worker")
            }
        )

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter[tuple[str, str]]]:
        """Fills the counter, at the end of the block, with the statements sent within it.

        One request that sends one statement, whatever it answers, has no N+1 (row D2):

            with service.counting() as sent:
                service.request("GET", "/api/v1/orders?warehouse_id=1", key)
            assert sent == {("read", "list_orders"): 1}
        """
        before = self.statements()
        sent: Counter[tuple[str, str]] = Counter()
        yield sent
        sent.update(self.statements() - before)

    def stop(self) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self._pool.close()


@contextlib.contextmanager
def service(
    db: Database, folder: Path, address: str, scheme: str = "http", **variables: str
) -> Iterator[Service]:
    """A Service on `address` that is ready, ended afterwards; that it has ended by itself is an AssertionError."""
    made = Service(db, folder, address, variables, scheme)
    try:
        made.wait()
        yield made
        assert made.process.poll() is None, made.log.read_text()[-3000:]
    finally:
        made.stop()


@contextlib.contextmanager
def migrated(address: str) -> Iterator[Database]:
    """A database with the schema in place."""
    with database(address) as made:
        module(made, "wms.migrations", "up")
        yield made


def without_jobs(db: Database) -> None:
    """Note the jobs of the background as done for a day: a service that starts warms and classifies nothing, which are
    statements like those of requests.
    """
    with db.connect("postgres") as admin:
        admin.execute(
            "INSERT INTO periodic_jobs (name, holder, claimed_until, done_at) "
            "SELECT unnest(%s::text[]), 'test', now(), now() + interval '1 day'",
            (list(JOBS),),
        )


def seeded(db: Database, folder: Path, *sizes: str) -> list[Tenant]:
    """The tenants of the sample data, with a warehouse each; `folder` gets their keys."""
    path = folder / "keys.json"
    module(db, "wms.seed", "--warehouses", "1", "--keys-out", str(path), *sizes)
    return [Tenant(entry.tenant_id, entry.api_key, entry.warehouses[0]) for entry in read_keys(path)]


def command(db: Database, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m name` with the database's settings, through the pooler."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | db.environment() | variables
    return subprocess.run(
        [sys.executable, "-m", name, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def module(db: Database, name: str, *arguments: str, **variables: str) -> str:
    """What the command says. Raises AssertionError with what it said when it fails."""
    done = command(db, name, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(what: str, check: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Wait for `check`; network errors count as not yet. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, urllib3.exceptions.HTTPError):
            if check():
                return
        time.sleep(0.02)
    raise TimeoutError(f"not within {timeout_s} s: {what}")
