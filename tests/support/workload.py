"""People at work in warehouses: clients that receive, order, pick, ship and count through the API, and what they were
told.

Every change has an Idempotency-Key of its own and is asked for until it is settled: done or refused. Who loses patience
leaves it unknown and turns to something else; `Load.settle` asks for those again, with the same keys, when all is over.
What was answered is the account that tests/support/books.py compares with the rows.
"""

from __future__ import annotations

import json
import random
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import urllib3

from wms.seed import TenantKey

PATIENCE_S = 30.0
"""The caller's own, the top of the ladder of timeouts."""
SHORT_S = 0.3
"""Of the impatient: what they asked for is unknown until it is settled."""
PAUSE_S = 0.02
"""Between two requests of one worker: people at work, not a load to the limit."""
SHARED_SKUS = 180
"""SKU-000001 and so on are ordered, picked and received by everybody; the ones after them have one worker each."""
MAX_WORKERS = 12
DEMAND = [1 / number for number in range(1, SHARED_SKUS + 1)]
"""How much a shared SKU is asked for, by Zipf's law: a fifth of them makes 70 %, and people meet at the first."""
UNKNOWN = 0
"""The status of a request without an answer."""
AWAY = -1
"""The status of a request whose sender went away before there could be an answer."""


class GaveUp(Exception):
    """The worker leaves what it was at: it was refused, is unknown, or the shift is over."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: when it ended (monotonic), what it was, how it was answered, and how long that took."""

    at: float
    kind: str
    status: int
    seconds: float
    problem: str = ""
    """The last word of the problem's type."""
    retry_after: bool = False

    @property
    def good(self) -> bool:
        """Done, or refused for a reason of the warehouse."""
        return 200 <= self.status < 300 or (
            self.status in (404, 409, 422) and self.problem != "request-in-flight"
        )


@dataclass(slots=True)
class Change:
    """A change under one key, however often it was asked for."""

    tenant: int
    warehouse: int
    kind: str
    path: str
    body: Mapping[str, Any]
    key: str
    status: int = UNKNOWN
    answer: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    at: float = 0.0
    """When it was settled (monotonic)."""
    asked: int = 0
    replayed: bool = False
    """Done by an earlier request, whose answer was lost."""
    lsn: str = ""
    """What its answer says of its commit."""

    @property
    def done(self) -> bool:
        return 200 <= self.status < 300


class Load:
    """`workers` people at the warehouses of `tenants`, the last one of each impatient; a context manager.

    `readers` more only read. All of them ask `urls` by turns, and rest `pause_s` (readers: `glance_s`) in between.
    """

    def __init__(
        self,
        urls: Sequence[str],
        ca: str,
        tenants: Sequence[TenantKey],
        *,
        workers: int = 6,
        readers: int = 0,
        pause_s: float = PAUSE_S,
        glance_s: float = PAUSE_S,
    ) -> None:
        assert workers <= MAX_WORKERS
        self.run = f"L{uuid.uuid4().hex[:8]}"
        """What every number, reference and key of this run begins with."""
        self.urls, self.tenants = tuple(urls), tuple(tenants)
        self.pool = urllib3.PoolManager(
            ca_certs=ca, retries=False, timeout=PATIENCE_S, maxsize=workers + readers, num_pools=len(urls)
        )
        self.attempts: list[Attempt] = []
        self.changes: list[Change] = []
        self.wrong: list[str] = []
        """What a client was told and may never be told."""
        self.stopping = threading.Event()
        self._workers: list[Worker] = [
            Worker(
                self,
                number,
                tenants[number % len(tenants)],
                pause_s,
                SHORT_S if number >= workers - len(tenants) else PATIENCE_S,
            )
            for number in range(workers)
        ]
        self._workers += [
            Reader(self, workers + n, tenants[n % len(tenants)], glance_s) for n in range(readers)
        ]

    def __enter__(self) -> Load:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Have everybody finish the request at hand, and go."""
        self.stopping.set()
        for worker in self._workers:
            if worker.is_alive():
                worker.join(PATIENCE_S + 10)
                assert not worker.is_alive(), f"{worker.name} hangs"

    def settle(self, seconds: float = PATIENCE_S) -> int:
        """Ask again, with the same keys, for what nobody knows; returns how many those were.

        Raises AssertionError when one is not settled after `seconds`.
        """
        self.stop()
        unknown = [change for change in self.changes if change.status == UNKNOWN]
        asker = Worker(self, MAX_WORKERS, self.tenants[0], 0.0, seconds)
        for change in unknown:
            asker.tenant = next(t for t in self.tenants if t.tenant_id == change.tenant)
            try:
                asker.ask(change)
            except GaveUp:
                assert change.status != UNKNOWN, f"{change.kind} {change.key} is not settled: {change}"
        return len(unknown)

    # The account

    def done(self, since: float = 0.0) -> list[Change]:
        """The changes that were acknowledged, those settled after `since` (monotonic) only, as they were asked for."""
        return [change for change in list(self.changes) if change.done and change.at > since]

    def refused(self) -> Counter[tuple[str, str]]:
        """(kind, problem) of the changes that were refused."""
        return Counter((c.kind, c.problem) for c in self.changes if c.status >= 400)

    def gap_s(self, since: float) -> float:
        """The longest time without an acknowledged change from just before `since` (monotonic) to the end."""
        moments = sorted(change.at for change in self.done())
        before = [moment for moment in moments if moment <= since][-1:] or [since]
        after = [moment for moment in moments if moment > since]
        return max(
            (later - earlier for earlier, later in zip([*before, *after], after, strict=False)), default=0.0
        )

    def errors(self) -> list[Attempt]:
        """The requests that were not answered as they should be in good times."""
        return [a for a in self.attempts if not a.good and a.status != AWAY]

    def seconds(self, *kinds: str) -> list[float]:
        """How long requests took, in order; of these kinds, or all. Those that nobody waited for are left out."""
        return sorted(a.seconds for a in self.attempts if a.status != AWAY and (not kinds or a.kind in kinds))


class Worker(threading.Thread):
    """One client of one tenant with a SKU of its own; `patience_s` for each change."""

    def __init__(
        self, load: Load, number: int, tenant: TenantKey, pause_s: float, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(daemon=True, name=f"worker-{number}")
        self.load, self.number, self.tenant = load, number, tenant
        self.pause_s, self.patience_s = pause_s, patience_s
        self.warehouse = tenant.warehouses[0]
        self.random = random.Random(number)
        self.own = f"SKU-{SHARED_SKUS + number + 1:06d}"
        self.own_at = f"A-2-{number + 1}"
        self.own_units: int | None = None
        """Units of the own SKU at the own place; None when a change of it may be under way."""
        self.last_lsn = ""
        self._turn = number
        self._count = 0

    def run(self) -> None:
        try:
            while not self.load.stopping.is_set():
                self._count += 1
                try:
                    self.round()
                except GaveUp:
                    continue
        except Exception:
            self.load.wrong.append(f"{self.name}: {traceback.format_exc()}")

    def round(self) -> None:
        """A bit of everything."""
        if self._count % 3 == 1:
            self.receive()
        self.count_own()
        orders = [self.order() for _ in range(1 + self._count % 2)]
        self.read()
        if self._count % 5 == 0:
            self.cancel(orders.pop())
        if orders:
            self.pick(orders)
            for order in orders:
                self.ship(order)
        self.read()

    # What workers do

    def receive(self) -> None:
        """Two lines of a supplier's delivery; one comes in two parts."""
        lines = [{"sku": sku, "expected": self.random.randint(20, 40)} for sku in self.wanted(2)]
        first, second = self.random.sample(range(1, 51), 2)
        number = self.name_of("R")
        receipt = self.change(
            "receipt.create", "receipts", receipt_number=number, supplier="Metalúrgica Norte", lines=lines
        )["id"]
        deliveries = [
            [
                {"line_number": 1, "location": f"A-1-{first}", "quantity": 15},
                {"line_number": 2, "location": f"A-1-{second}", "quantity": 20},
            ],
            [{"line_number": 1, "location": f"A-2-{first}", "quantity": 9}],
        ]
        for delivery in deliveries:
            self.change("receipt.receive", f"receipts/{receipt}/lines", lines=delivery)
        self.change("receipt.close", f"receipts/{receipt}/close")

    def order(self) -> dict[str, Any]:
        """An order of two lines, with its stock reserved."""
        order = self.change(
            "order.create", "orders",
            order_number=self.name_of("O"), customer="CUST-000001", priority=self.random.randint(1, 9),
            lines=[
                {"sku": sku, "quantity": self.random.randint(1, 3), "unit_price": "12.50"}
                for sku in self.wanted(2)
            ],
        )  # fmt: skip
        allocated = self.change("order.allocate", f"orders/{order['id']}/allocate")
        seen = self.get(f"orders/{order['id']}?warehouse_id={self.warehouse}", "order.read", own=True)
        self.expect(seen.get("status") == "ALLOCATED", f"order {order['id']} is allocated, seen {seen}")
        return allocated

    def cancel(self, order: Mapping[str, Any]) -> None:
        self.change("order.cancel", f"orders/{order['id']}/cancel")

    def pick(self, orders: Sequence[Mapping[str, Any]]) -> None:
        """A wave of these orders, picked task by task or at once; every seventh pick is short."""
        wave = self.change("wave.create", "waves", order_ids=[order["id"] for order in orders])
        tasks = [
            (task["id"], task["quantity"] - (1 if (task["id"] + self._count) % 7 == 0 else 0))
            for task in wave["tasks"]
        ]
        if self._count % 4 == 0:
            picks = [{"task_id": task, "quantity": quantity} for task, quantity in tasks]
            self.change("picks.confirm", "picks/confirm", picks=picks)
            return
        for task, quantity in tasks:
            self.change("pick.confirm", f"picks/{task}/confirm", quantity=quantity)

    def ship(self, order: Mapping[str, Any]) -> None:
        number = self.name_of("S")
        shipment = self.change(
            "shipment.create", "shipments", order_id=order["id"], shipment_number=number, carrier="Rápido Sul",
            refusable=("nothing-picked",),
        )  # fmt: skip
        self.change("shipment.dispatch", f"shipments/{shipment['id']}/dispatch", tracking_code=f"T-{number}")

    def count_own(self) -> None:
        """Correct and move the own SKU, and see at once what became of it."""
        self.move_own(-3 if (self.own_units or 0) > 30 else 5)
        if self._count % 2 and (self.own_units or 0) > 2:
            self.move_own(-2, to=f"A-3-{self.number + 1}")
        seen = self.get(f"stock?warehouse_id={self.warehouse}&sku={self.own}", "stock.read", own=True)
        there = {b["location"]: b["on_hand"] for b in seen["data"]}.get(self.own_at, 0)
        self.expect(
            there == self.own_units, f"{self.own} has {self.own_units} after the own change, seen {there}"
        )

    def move_own(self, change: int, to: str = "") -> None:
        """Change the units at the own place; the answer shows the one before and this one, and no other."""
        before, self.own_units = self.own_units, None
        how: dict[str, Any] = {"type": "adjustment", "location": self.own_at, "change": change}
        if to:
            how = {"type": "transfer", "from_location": self.own_at, "to_location": to, "quantity": -change}
        answer = self.change("movement", "movements", sku=self.own, reference=self.name_of("A"), **how)
        self.own_units = next(b["on_hand"] for b in answer["balances"] if b["location"] == self.own_at)
        if before is not None:
            self.expect(
                self.own_units == before + change, f"{before} units of {self.own} {change:+} became {answer}"
            )

    def read(self) -> None:
        """One of the things that people look at."""
        (sku,), warehouse = self.wanted(1), self.warehouse
        mix = (
            ("stock.read", f"stock/{sku}"),
            ("stock.read", f"stock?warehouse_id={warehouse}&sku={sku}"),
            ("sku.read", f"skus/{sku}"),
            ("sku.search", "skus?q=parafuso&limit=20"),
            ("orders.read", f"orders?warehouse_id={warehouse}&limit=20&include=order_lines,customer"),
            ("picks.read", f"picks?warehouse_id={warehouse}&status=OPEN&limit=20"),
            ("summary.read", f"analytics/summary?warehouse_id={warehouse}"),
            ("warehouses.read", "warehouses"),
        )
        self._turn += 1
        kind, path = mix[self._turn % len(mix)]
        self.get(path, kind)

    def wanted(self, number: int) -> list[str]:
        """So many different SKUs, by demand."""
        found: set[int] = set()
        while len(found) < number:
            found.update(self.random.choices(range(1, SHARED_SKUS + 1), DEMAND))
        return [f"SKU-{each:06d}" for each in found]

    # How they ask

    def change(
        self, kind: str, path: str, refusable: Sequence[str] = ("insufficient-stock",), **body: Any
    ) -> dict[str, Any]:
        """Ask for a change until it is settled; its answer. Raises GaveUp."""
        if self.load.stopping.is_set():
            raise GaveUp
        made = Change(
            self.tenant.tenant_id, self.warehouse, kind, path, {"warehouse_id": self.warehouse, **body},
            f"{self.load.run}-{uuid.uuid4().hex}",
        )  # fmt: skip
        self.load.changes.append(made)
        self.ask(made)
        if not made.done:
            self.expect(made.problem in refusable, f"{kind} was refused: {made.status} {made.answer}")
            raise GaveUp
        return made.answer

    def ask(self, change: Change) -> None:
        """Send `change` until it is settled. Raises GaveUp when patience ends first."""
        deadline = time.monotonic() + self.patience_s
        headers = {"Idempotency-Key": change.key, "Content-Type": "application/json"}
        body = json.dumps(change.body)
        while True:
            change.asked += 1
            attempt, document, answered = self._send(
                change.kind, "POST", change.path, headers, body, deadline
            )
            if attempt.good:
                change.answer, change.problem = document, attempt.problem
                change.replayed = answered.get("idempotency-replayed") == "true"
                change.at, change.status = attempt.at, attempt.status
                self.last_lsn = change.lsn = answered.get("wms-commit-lsn", "")
                return
            if 400 <= attempt.status < 500 and attempt.status not in (409, 429):
                self.load.wrong.append(f"{change.kind} was answered {attempt.status}: {document}")
                raise GaveUp
            pause_s = float(answered.get("retry-after", "0.2")) * self.random.uniform(0.5, 1.0)
            if time.monotonic() + pause_s > deadline:
                raise GaveUp
            time.sleep(pause_s)

    def get(self, path: str, kind: str, *, own: bool = False) -> dict[str, Any]:
        """A document; `own`: that shows the own last change. Raises GaveUp."""
        headers = {"WMS-Min-LSN": self.last_lsn} if own and self.last_lsn else {}
        deadline = time.monotonic() + self.patience_s
        while not self.load.stopping.is_set():
            attempt, document, answered = self._send(kind, "GET", path, headers, None, deadline)
            if attempt.status == 200:
                return document
            pause_s = float(answered.get("retry-after", "0.2"))
            if time.monotonic() + pause_s > deadline:
                break
            time.sleep(pause_s)
        raise GaveUp

    def _send(
        self, kind: str, method: str, path: str, headers: Mapping[str, str], body: str | None, deadline: float
    ) -> tuple[Attempt, dict[str, Any], dict[str, str]]:
        self._turn += 1
        url = f"{self.load.urls[self._turn % len(self.load.urls)]}/api/v1/{path}"
        left = max(0.05, deadline - time.monotonic())
        started = time.monotonic()
        document: dict[str, Any] = {}
        answered: dict[str, str] = {}
        try:
            response = self.load.pool.request(
                method, url, body=body, headers={**headers, "Authorization": f"Bearer {self.tenant.api_key}"},
                timeout=left,
            )  # fmt: skip
            status, answered = response.status, {k.lower(): v for k, v in response.headers.items()}
            if response.data:
                document = json.loads(response.data)
        except urllib3.exceptions.HTTPError as error:
            # Its own patience is over, which is nobody's fault; or the connection was.
            gone = isinstance(error, urllib3.exceptions.TimeoutError) and self.patience_s < PATIENCE_S
            status, document = AWAY if gone else UNKNOWN, {"error": repr(error)}
        ended = time.monotonic()
        attempt = Attempt(
            ended,
            kind,
            status,
            ended - started,
            str(document.get("type", "")).rpartition(":")[2] if status >= 400 else "",
            "retry-after" in answered,
        )
        self.load.attempts.append(attempt)
        time.sleep(self.pause_s * self.random.uniform(0.5, 1.5))
        return attempt, document, answered

    def expect(self, fact: bool, text: str) -> None:
        # What the impatient left under way may be done at any time.
        if not fact and self.patience_s == PATIENCE_S:
            self.load.wrong.append(f"{self.name}: {text}")

    def name_of(self, what: str) -> str:
        """A number or reference that nobody else gives."""
        return f"{self.load.run}-{what}{self.number}-{uuid.uuid4().hex[:10]}"


class Reader(Worker):
    """Looks things up all day: what a SKU is and where it lies, and what became of the last orders."""

    def round(self) -> None:
        (sku,), warehouse = self.wanted(1), self.warehouse
        self.get(f"skus/{sku}", "sku.read")
        self.get(f"stock/{sku}", "stock.read")
        self.get(f"stock?warehouse_id={warehouse}&sku={sku}", "stock.read")
        recent = [
            change.answer["id"]
            for change in self.load.changes[-200:]
            if change.kind == "order.create" and change.done and change.tenant == self.tenant.tenant_id
        ]
        for order in self.random.sample(recent, min(2, len(recent))):
            self.get(f"orders/{order}?warehouse_id={warehouse}", "order.read")
        self.read()
