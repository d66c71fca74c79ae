"""The demonstration's API clients: they look stock up and move it, through the edge, and note every answer."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import urllib3

TIMEOUT_S = 30.0
"""The caller's own patience, the top of the ladder of timeouts."""

PAUSE_S = 0.05
"""Between two requests of one client: a demonstration, not a load test."""


SKU = "SKU-000001"
"""The sample data's first."""


@dataclass(frozen=True)
class Answer:
    """One request: when it ended (epoch seconds), what it was, its status (0: no answer) and how long it took."""

    at: float
    kind: str
    status: int
    seconds: float


@dataclass(frozen=True)
class Stock:
    """Where there is stock of what."""

    warehouse_id: int
    sku: str
    location: str


class Shop:
    """`clients` threads against the edges `urls`, with the API key `key`; use as a context manager."""

    def __init__(self, urls: Sequence[str], ca: str, key: str, clients: int = 4) -> None:
        self._pool = urllib3.PoolManager(
            ca_certs=ca,
            cert_reqs="CERT_REQUIRED",
            retries=False,
            timeout=TIMEOUT_S,
            maxsize=clients,
            num_pools=len(urls),
        )
        self._urls, self._key = tuple(urls), key
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._answers: list[Answer] = []
        stock = self.some_stock()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, args=(index, stock)) for index in range(clients)
        ]

    def __enter__(self) -> Shop:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)

    def answers(self) -> list[Answer]:
        """What was answered so far, in order of arrival."""
        with self._lock:
            return list(self._answers)

    def some_stock(self) -> Stock:
        """A place where the sample data has stock. Raises RuntimeError when the API does not show it."""
        found = self._document(f"/api/v1/stock/{SKU}")
        warehouse = int(found["warehouses"][0]["warehouse_id"])
        balances = self._document(f"/api/v1/stock?warehouse_id={warehouse}&sku={SKU}")
        return Stock(warehouse, SKU, str(balances["data"][0]["location"]))

    def _document(self, path: str) -> dict[str, Any]:
        answer = self._request("GET", f"{self._urls[0]}{path}")
        if answer.status != 200:
            raise RuntimeError(f"GET {path} answered {answer.status}: {answer.data[:200]!r}")
        document: dict[str, Any] = json.loads(answer.data)
        return document

    def _work(self, index: int, stock: Stock) -> None:
        url = self._urls[index % len(self._urls)]
        turn = 0
        while not self._stop.wait(PAUSE_S):
            turn += 1
            started = time.monotonic()
            kind = "read" if turn % 2 else "write"
            try:
                if kind == "read":
                    status = self._request("GET", f"{url}/api/v1/stock/{stock.sku}").status
                else:
                    status = self._request("POST", f"{url}/api/v1/movements", receipt(stock)).status
            except urllib3.exceptions.HTTPError:
                status = 0
            with self._lock:
                self._answers.append(Answer(time.time(), kind, status, time.monotonic() - started))

    def _request(self, method: str, url: str, body: object = None) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        return self._pool.request(
            method, url, headers=headers, body=None if body is None else json.dumps(body)
        )


def receipt(stock: Stock) -> dict[str, object]:
    """A movement that receives one piece where `stock` is."""
    return {
        "type": "receipt",
        "warehouse_id": stock.warehouse_id,
        "sku": stock.sku,
        "to_location": stock.location,
        "quantity": 1,
    }
