"""What happened in a warehouse before now: a simulation, day by day, of receipts, transfers, counts, orders, waves,
picks and shipments. Pure but for the ids, which it is given.

It starts from nothing, whatever stock the warehouse has: what it takes it has received before, so that its ledger is
never below zero at any time, and what is left of it at the end is added to the balances. A day's rows are made in the
order receipts, transfers, counts, picks, and so are the times in them. Rows are text as COPY reads it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from random import Random
from typing import Protocol

from wms.seed.generate import Size, demand, location, places, prices

DAY_S = 86_400.0
DAYS_PER_MONTH = 30
WAVE_ORDERS = 12
RECEIPT_LINES = 12
_SUPPLIERS = (
    "Indústria Paulista",
    "Metalúrgica Serra",
    "Importadora Atlântica",
    "Fábrica do Vale",
    "Polímeros Sul",
)
_CARRIERS = ("Correios", "Rodonaves", "Jamef", "Braspress", "Total Express")

# Shares of a day at which each kind of work begins; picks end at SHIPPING.
_RECEIVING, _MOVING, _COUNTING, _ALLOCATING, _PICKING, _SHIPPING = 0.02, 0.30, 0.38, 0.44, 0.50, 0.94

OPEN_STATES = ("NEW", "ALLOCATED", "PICKING", "PICKED", "SHIPPED", "CANCELLED")
"""States of the last orders in turn, so that each is there."""

COLUMNS = {
    "orders": "order_id, order_number, customer_id, status, priority, total_value, created_at, updated_at",
    "order_lines": "order_id, line_number, sku_id, quantity, unit_price, allocated, picked",
    "reservations": "reservation_id, order_id, line_number, sku_id, location_id, quantity, status, created_at",
    "waves": "wave_id, status, created_at",
    "pick_tasks": "task_id, wave_id, reservation_id, order_id, line_number, sku_id, location_id, sequence, quantity, "
    "picked, status, updated_at",
    "receipts": "receipt_id, receipt_number, supplier, status, created_at, updated_at",
    "receipt_lines": "receipt_id, line_number, sku_id, expected, received",
    "shipments": "shipment_number, order_id, carrier, tracking_code, status, created_at, updated_at",
    "inventory_transactions": "created_at, sku_id, kind, from_location_id, to_location_id, quantity, reference",
}
"""Tables in the order in which they can be written, and the columns of their rows, after tenant and warehouse."""


class Ids(Protocol):
    """Gives the next id of a table: orders, reservations, waves, pick_tasks, receipts."""

    def __call__(self, table: str) -> int: ...


@dataclass(slots=True)
class Rows:
    """Lines of COPY text by table, without tenant and warehouse, and how many orders are among them."""

    orders: int = 0
    lines: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in COLUMNS})

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))


@dataclass(frozen=True, slots=True)
class Site:
    """A warehouse as the database knows it; sequences are by number of SKU (from 0), location and customer."""

    code: str
    sku_ids: Sequence[int]
    location_ids: Sequence[int]
    customer_ids: Sequence[int]


@dataclass(slots=True)
class _Task:
    """A reservation and its pick: of which order line, at which balance."""

    order_id: int
    order: str
    line: int
    balance: int
    quantity: int
    reservation_id: int
    wave_id: int = 0
    sequence: int = 0
    picked: int = 0
    status: str = ""


class History:
    """The simulation of one warehouse; `on_hand` and `reserved` are what it leaves at each balance."""

    def __init__(
        self, size: Size, tenant: int, warehouse: int, site: Site, until: datetime, ids: Ids
    ) -> None:
        self._size, self._site, self._ids = size, site, ids
        self._until = until.timestamp()
        self._random = Random(f"{size.seed}:{tenant}:{warehouse}:history")
        self._prices = prices(size, tenant)
        self._cumulative = list(
            accumulate(demand(size.seed, tenant, number) for number in range(1, size.skus + 1))
        )
        self._first = array("q", [0])
        """Index of the first balance of each SKU, and the end."""
        self.balance_sku, self.balance_place = array("q"), array("q")
        for number in range(1, size.skus + 1):
            for place in places(size, tenant, warehouse, number):
                self.balance_sku.append(number - 1)
                self.balance_place.append(place)
            self._first.append(len(self.balance_sku))
        self.on_hand = array("q", bytes(8 * len(self.balance_sku)))
        self.reserved = array("q", bytes(8 * len(self.balance_sku)))
        self._orders_made = self._receipts_made = self._shipments_made = 0
        self._open_from = size.orders - max(2 * len(OPEN_STATES), size.orders // 20)
        self._rows = Rows()

    def run(self, least: int = 50_000) -> Iterator[Rows]:
        """All rows, in pieces of at least so many (but the last). Each piece is of whole days."""
        days = self._size.months * DAYS_PER_MONTH
        for day in range(days):
            start = self._until - (days - day) * DAY_S
            due = self._size.orders * (day + 1) // days - self._size.orders * day // days
            self._day(start, due, last=day == days - 1)
            if len(self._rows) >= least:
                yield self._take()
        yield self._take()

    def touched(self) -> Iterator[tuple[int, int, int, int]]:
        """(sku_id, location_id, on hand, reserved) to add to every balance that is not left as it was."""
        for balance, units in enumerate(self.on_hand):
            if units or self.reserved[balance]:
                yield self._sku_id(balance), self._location_id(balance), units, self.reserved[balance]

    def _take(self) -> Rows:
        rows, self._rows = self._rows, Rows()
        # The ledger gives its ids as rows come, and its pages go by them; a line begins with its time.
        rows.lines["inventory_transactions"].sort()
        return rows

    def _day(self, start: float, due: int, last: bool) -> None:
        moves = self._transfers(start) if due else []
        moves += self._counts(start) if due else []
        needs: dict[int, int] = {}
        if last:
            # So that the day has a receipt that is at work.
            needs = {self._first[sku]: self._random.randint(40, 160) for sku in {*self._skus(3)}}
            for balance, units in needs.items():
                self.on_hand[balance] += units
        tasks: list[_Task] = []
        for number in range(due):
            tasks += self._order(start, (number + self._random.random()) / due, needs)
        self._receipts(start, needs, last)
        # Made after the receipts since their need is known only now, but earlier in the day.
        self._rows.lines["inventory_transactions"] += moves
        self._picks(start, tasks)

    def _order(self, start: float, share: float, needs: dict[int, int]) -> list[_Task]:
        """One order with its lines and reservations; returns those that are, or have been, in a wave."""
        random, lines = self._random, self._rows.lines
        index = self._orders_made
        self._orders_made += 1
        self._rows.orders += 1
        number = f"{self._site.code}-{self._orders_made:07d}"
        status, allocated_once, in_wave = self._fate(index)
        order_id = self._ids("orders")
        created = start + share * _ALLOCATING * DAY_S
        allocation = start + (_ALLOCATING + share * (_PICKING - _ALLOCATING)) * DAY_S
        total = 0
        tasks: list[_Task] = []
        sums: list[tuple[int, int, int, list[_Task]]] = []
        for line, sku in enumerate(dict.fromkeys(self._skus(random.choice((1, 1, 2, 2, 3, 4, 6)))), 1):
            quantity = 1 + int(random.expovariate(0.15))
            total += quantity * self._prices[sku]
            own: list[_Task] = []
            if allocated_once:
                for balance, units in self._allocate(sku, quantity, needs):
                    own.append(_Task(order_id, number, line, balance, units, self._ids("reservations")))
            sums.append((line, sku, quantity, own))
            tasks += own
        picking = len(tasks) // 2 if status == "PICKING" else len(tasks)
        for place, task in enumerate(tasks):
            self._settle(task, status, in_wave, place < picking)
        updated = allocation if status in ("ALLOCATED", "CANCELLED") and allocated_once else created
        if status in ("PICKING", "PICKED"):
            updated = start + _SHIPPING * DAY_S
        elif status == "SHIPPED":
            updated = self._ship(order_id, start)
        elif status == "CANCELLED" and in_wave:
            updated = start + (_PICKING + 0.01) * DAY_S
        if status == "PICKED" and index // len(OPEN_STATES) % 2:
            self._shipment(order_id, "PACKED", start + _SHIPPING * DAY_S, updated, "\\N")
        customer = self._site.customer_ids[random.randrange(len(self._site.customer_ids))]
        priority = random.choice((1, 3, 5, 5, 5, 5, 7, 9))
        lines["orders"].append(
            f"{order_id}\t{number}\t{customer}\t{status}\t{priority}\t{_money(total)}\t{_time(created)}\t{_time(updated)}\n"
        )
        for line, sku, quantity, own in sums:
            open_units = sum(task.quantity for task in own if task.status in ("OPEN", "RESERVED"))
            picked = sum(task.picked for task in own)
            lines["order_lines"].append(
                f"{order_id}\t{line}\t{self._site.sku_ids[sku]}\t{quantity}\t{_money(self._prices[sku])}\t"
                f"{open_units}\t{picked}\n"
            )
        moment = _time(allocation)
        for task in tasks:
            short = task.status == "SHORT"
            state = {"OPEN": "OPEN", "RESERVED": "OPEN", "CANCELLED": "RELEASED", "RELEASED": "RELEASED"}.get(
                task.status, "PICKED"
            )
            lines["reservations"].append(
                f"{task.reservation_id}\t{order_id}\t{task.line}\t{self._sku_id(task.balance)}\t"
                f"{self._location_id(task.balance)}\t{task.picked if short else task.quantity}\t{state}\t{moment}\n"
            )
        return tasks if in_wave else []

    def _fate(self, index: int) -> tuple[str, bool, bool]:
        """(state, was it allocated, was it in a wave) of the order made as number `index`."""
        if index >= self._open_from:
            status = OPEN_STATES[index % len(OPEN_STATES)]
        else:
            status = "CANCELLED" if self._random.random() < 0.04 else "SHIPPED"
        if status == "CANCELLED":
            depth = index % 3
            return status, depth > 0, depth > 1
        return status, status != "NEW", status in ("PICKING", "PICKED", "SHIPPED")

    def _settle(self, task: _Task, status: str, in_wave: bool, done: bool) -> None:
        """What became of a reservation of an order in this state."""
        if status == "CANCELLED":
            task.status = "CANCELLED" if in_wave else "RELEASED"
            self.reserved[task.balance] -= task.quantity
        elif not in_wave:
            task.status = "RESERVED"
        elif not done:
            task.status = "OPEN"
        else:
            # At least one unit: an order of which nothing was picked is not shipped.
            short = task.quantity > 1 and self._random.random() < 0.02
            task.status = "SHORT" if short else "PICKED"
            task.picked = self._random.randint(1, task.quantity - 1) if short else task.quantity
            self.reserved[task.balance] -= task.quantity
            self.on_hand[task.balance] -= task.picked

    def _allocate(self, sku: int, quantity: int, needs: dict[int, int]) -> Iterator[tuple[int, int]]:
        """Reserve units of a SKU: (balance, units). What is missing is received that morning, and then some."""
        own = range(self._first[sku], self._first[sku + 1])
        missing = quantity - sum(self.on_hand[b] - self.reserved[b] for b in own)
        if missing > 0:
            units = missing + self._random.randint(40, 160)
            needs[own[0]] = needs.get(own[0], 0) + units
            self.on_hand[own[0]] += units
        for balance in own:
            units = min(quantity, self.on_hand[balance] - self.reserved[balance])
            if units > 0:
                self.reserved[balance] += units
                quantity -= units
                yield balance, units

    def _picks(self, start: float, tasks: list[_Task]) -> None:
        """Waves of the day's orders, their tasks in walking order, and the ledger's rows of what was picked."""
        lines = self._rows.lines
        # Orders that are still picked come last, so that their wave is the open one.
        at_work = {task.order_id for task in tasks if task.status == "OPEN"}
        orders: dict[int, list[_Task]] = {}
        for task in tasks:
            orders.setdefault(task.order_id, []).append(task)
        for is_open in (False, True):
            chosen = [own for order_id, own in orders.items() if (order_id in at_work) == is_open]
            count = -(-len(chosen) // WAVE_ORDERS)
            for number in range(count):
                wave = [
                    task for own in chosen[number * WAVE_ORDERS : (number + 1) * WAVE_ORDERS] for task in own
                ]
                begin = start + (_PICKING + (_SHIPPING - _PICKING) * number / count * 0.8) * DAY_S
                wave_id = self._ids("waves")
                lines["waves"].append(f"{wave_id}\t{'OPEN' if is_open else 'DONE'}\t{_time(begin)}\n")
                step = (_SHIPPING - _PICKING) * DAY_S * 0.2 / (len(wave) + 1)
                for sequence, task in enumerate(self._walk(wave), 1):
                    self._task(
                        task, wave_id, sequence, begin if task.status == "OPEN" else begin + step * sequence
                    )

    def _task(self, task: _Task, wave_id: int, sequence: int, at: float) -> None:
        sku, place, moment = self._sku_id(task.balance), self._location_id(task.balance), _time(at)
        self._rows.lines["pick_tasks"].append(
            f"{self._ids('pick_tasks')}\t{wave_id}\t{task.reservation_id}\t{task.order_id}\t{task.line}\t{sku}\t{place}\t"
            f"{sequence}\t{task.quantity}\t{task.picked}\t{task.status}\t{moment}\n"
        )
        if task.picked:
            self._rows.lines["inventory_transactions"].append(
                f"{moment}\t{sku}\tissue\t{place}\t\\N\t{task.picked}\t{task.order}\n"
            )

    def _walk(self, tasks: list[_Task]) -> list[_Task]:
        """Tasks as they are walked: up one aisle, down the next (create_wave in the database does the same)."""
        there = [location(self.balance_place[task.balance]) for task in tasks]
        turns = {aisle: turn for turn, aisle in enumerate(sorted({place[1] for place in there}), 1)}

        def key(index: int) -> tuple[int, int, int]:
            _, aisle, level, position = there[index]
            turn = turns[aisle]
            return turn, position if turn % 2 else -position, level

        return [tasks[index] for index in sorted(range(len(tasks)), key=key)]

    def _ship(self, order_id: int, start: float) -> float:
        """The shipment of a picked order, sometimes at the second try; returns when it left."""
        packed = start + (_SHIPPING + 0.02 * self._random.random()) * DAY_S
        left = min(self._until, packed + self._random.random() * 0.03 * DAY_S)
        arrived = left + self._random.uniform(1, 4) * DAY_S
        if self._random.random() < 0.01:
            self._shipment(order_id, "CANCELLED", packed, packed, "\\N")
        tracking = f"BR{self._random.randrange(10**9):09d}"
        if arrived < self._until:
            self._shipment(order_id, "DELIVERED", packed, arrived, tracking)
        else:
            self._shipment(order_id, "DISPATCHED", packed, left, tracking)
        return left

    def _shipment(self, order_id: int, status: str, created: float, updated: float, tracking: str) -> None:
        self._shipments_made += 1
        self._rows.lines["shipments"].append(
            f"{self._site.code}-S{self._shipments_made:07d}\t{order_id}\t{self._random.choice(_CARRIERS)}\t{tracking}\t"
            f"{status}\t{_time(created)}\t{_time(updated)}\n"
        )

    def _receipts(self, start: float, needs: dict[int, int], last: bool) -> None:
        """The morning's deliveries of what the day needs; on the last day also some at work, expected, cancelled."""
        entries = list(needs.items())
        step = (_MOVING - _RECEIVING) * DAY_S / (len(entries) + 1)
        for first in range(0, len(entries), RECEIPT_LINES):
            chosen = entries[first : first + RECEIPT_LINES]
            at_work = last and first + RECEIPT_LINES >= len(entries)
            extra = self._more(needs) if at_work else []
            self._receipt(start + _RECEIVING * DAY_S + first * step, step, chosen, extra, at_work)
        if last:
            for status in ("EXPECTED", "EXPECTED", "EXPECTED", "CANCELLED"):
                receipt_id, _ = self._receipt_head(status, start, start)
                self._receipt_lines(
                    receipt_id, [(sku, self._random.randint(10, 200), 0) for sku in self._more({})]
                )

    def _receipt(
        self, at: float, step: float, entries: list[tuple[int, int]], extra: list[int], at_work: bool
    ) -> None:
        """One delivery of units for balances; `extra` SKUs have not been received yet."""
        end = at + step * len(entries)
        receipt_id, number = self._receipt_head("RECEIVING" if at_work else "RECEIVED", at, end)
        found = []
        for place, (balance, units) in enumerate(entries, 1):
            # What came is what came: now and then not what was announced.
            announced = (
                max(1, units + self._random.choice((-3, 5))) if self._random.random() < 0.03 else units
            )
            found.append((self.balance_sku[balance], announced, units))
            self._rows.lines["inventory_transactions"].append(
                f"{_time(at + step * place)}\t{self._sku_id(balance)}\treceipt\t\\N\t{self._location_id(balance)}\t"
                f"{units}\t{number}\n"
            )
        self._receipt_lines(receipt_id, found + [(sku, self._random.randint(10, 200), 0) for sku in extra])

    def _receipt_head(self, status: str, created: float, updated: float) -> tuple[int, str]:
        self._receipts_made += 1
        receipt_id, number = self._ids("receipts"), f"{self._site.code}-R{self._receipts_made:06d}"
        self._rows.lines["receipts"].append(
            f"{receipt_id}\t{number}\t{self._random.choice(_SUPPLIERS)}\t{status}\t{_time(created)}\t{_time(updated)}\n"
        )
        return receipt_id, number

    def _receipt_lines(self, receipt_id: int, entries: list[tuple[int, int, int]]) -> None:
        for line, (sku, expected, received) in enumerate(entries, 1):
            self._rows.lines["receipt_lines"].append(
                f"{receipt_id}\t{line}\t{self._site.sku_ids[sku]}\t{expected}\t{received}\n"
            )

    def _more(self, needs: dict[int, int]) -> list[int]:
        """Up to four SKUs that are not among `needs`."""
        taken = {self.balance_sku[balance] for balance in needs}
        return [sku for sku in dict.fromkeys(self._skus(4)) if sku not in taken]

    def _transfers(self, start: float) -> list[str]:
        """Units from one location of a SKU to its other one, where there are two and something is free."""
        wanted = self._size.orders * 2 // (self._size.months * DAYS_PER_MONTH) + 1
        made: list[str] = []
        for number, sku in enumerate(self._skus(wanted)):
            first, end = self._first[sku], self._first[sku + 1]
            if end - first < 2:
                continue
            source = max(range(first, end), key=lambda b: self.on_hand[b] - self.reserved[b])
            target = first if source != first else first + 1
            free = self.on_hand[source] - self.reserved[source]
            if free < 1:
                continue
            units = self._random.randint(1, min(free, 30))
            self.on_hand[source] -= units
            self.on_hand[target] += units
            at = start + (_MOVING + (_COUNTING - _MOVING) * number / wanted) * DAY_S
            made.append(
                f"{_time(at)}\t{self._sku_id(source)}\ttransfer\t{self._location_id(source)}\t"
                f"{self._location_id(target)}\t{units}\t\\N\n"
            )
        return made

    def _counts(self, start: float) -> list[str]:
        """Corrections after counting: mostly fewer than the books say."""
        wanted = self._size.orders // (self._size.months * DAYS_PER_MONTH * 3) + 1
        made: list[str] = []
        for number, sku in enumerate(self._skus(wanted)):
            balance = self._first[sku]
            free = self.on_hand[balance] - self.reserved[balance]
            sides, units, reason = (f"\\N\t{self._location_id(balance)}", 1, "contagem cíclica")
            if free > 0 and self._random.random() < 0.7:
                units = self._random.randint(1, min(free, 4))
                sides, reason = f"{self._location_id(balance)}\t\\N", "avaria"
                self.on_hand[balance] -= units
            else:
                self.on_hand[balance] += units
            at = start + (_COUNTING + (_ALLOCATING - _COUNTING) * number / wanted) * DAY_S
            made.append(f"{_time(at)}\t{self._sku_id(balance)}\tadjustment\t{sides}\t{units}\t{reason}\n")
        return made

    def _skus(self, count: int) -> list[int]:
        """So many SKUs (from 0), each as often as it is asked for."""
        total, random = self._cumulative[-1], self._random.random
        highest = len(self._cumulative) - 1
        return [min(highest, bisect_left(self._cumulative, random() * total)) for _ in range(count)]

    def _sku_id(self, balance: int) -> int:
        return self._site.sku_ids[self.balance_sku[balance]]

    def _location_id(self, balance: int) -> int:
        return self._site.location_ids[self.balance_place[balance]]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
