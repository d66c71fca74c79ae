"""The WMS service as a process of its own over a database of tests/support/postgres.py, and what it asked of it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import urllib3

from tests.support.postgres import Database

ROOT = Path(__file__).resolve().parents[2]
PORT = 8000

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


class Service:
    """The process and a client of it; plain HTTP."""

    def __init__(self, db: Database, folder: Path, address: str, variables: Mapping[str, str]) -> None:
        self.url = f"http://{address}:{PORT}"
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
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wms.serve"], cwd=folder, env=environment, stdout=file, stderr=file
            )
        self._pool = urllib3.HTTPConnectionPool(address, PORT, maxsize=8, retries=False, timeout=30)

    def request(self, method: str, target: str, key: str = "", **options: Any) -> Any:
        """One request with an API key; `headers` and `json` as urllib3 takes them."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self._pool.request(method, target, headers=headers | options.pop("headers", {}), **options)

    def wait(self, timeout_s: float = 15.0) -> None:
        """Until it is ready. Raises TimeoutError with its log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if self.request("GET", "/health/ready").json()["status"] == "ready":
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
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

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self._pool.close()


@contextlib.contextmanager
def service(db: Database, folder: Path, address: str, **variables: str) -> Iterator[Service]:
    """A Service on `address` that is ready, ended afterwards."""
    made = Service(db, folder, address, variables)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


def module(db: Database, name: str, *arguments: str) -> None:
    """Run `python -m name` with the database's settings. Raises AssertionError with what it said when it fails."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | db.environment()
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
