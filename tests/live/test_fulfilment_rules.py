"""The rules of orders, stock and picks as the database holds them: those of the domain, and under many hands."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.fulfilment import (
    NUMBERS,
    Connection,
    Tenant,
    balances,
    broken_invariants,
    location_id,
    new_order,
    product,
    released,
    rows,
    run,
    seed,
    value,
)
from tests.support.postgres import Database
from tests.support.service import migrated
from wms.domain.orders import ORDER, InsufficientStock, Want, plan
from wms.domain.picking import TASK, Stop, settle, walk
from wms.domain.shipments import SHIPMENT

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]
DATABASE_ADDRESS = "127.43.22.3"


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    """The two servers with the schema in place."""
    with migrated(DATABASE_ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def owner(db: Database) -> Iterator[Connection]:
    """The owner of the schema, who sees every tenant."""
    with db.connect("wms_owner") as connection:
        yield connection


@pytest.fixture
def app(db: Database) -> Iterator[Connection]:
    """The service's own role, past the service."""
    with db.connect("wms_app") as connection:
        yield connection


@pytest.fixture(scope="module")
def tenants(db: Database, owner: Connection, tmp_path_factory: pytest.TempPathFactory) -> list[Tenant]:
    """Two tenants."""
    return seed(db, owner, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def mine(tenants: list[Tenant]) -> Tenant:
    return tenants[0]


# The same rules in the domain and in the database


def undone(connection: Connection, work: Callable[[], None]) -> None:
    """Do `work` in a transaction that leaves nothing."""
    with connection.transaction():
        work()
        raise psycopg.Rollback


def test_the_database_makes_the_moves_of_the_tables_and_no_other(
    owner: Connection, app: Connection, mine: Tenant
) -> None:
    order, (task,) = released(app, mine, (product(owner, mine, A_1_1=1), 1))
    assert run(app, "confirm_pick", mine, task["id"], 1)[0] == "done"
    shipment = run(app, "create_shipment", mine, order, f"ENV-{order}", "X")[1]["id"]

    def attempt(table: str, key: str, identifier: int, state: str, function: str, *arguments: object) -> str:
        found = ""

        def work() -> None:
            nonlocal found
            owner.execute(f"UPDATE {table} SET status = %s WHERE {key} = %s".encode(), (state, identifier))
            outcome, answer = run(owner, function, mine, *arguments)
            found = outcome
            if outcome == "illegal_move":
                assert answer["state"] == state

        undone(owner, work)
        return found

    calls: dict[str, tuple[str, tuple[object, ...]]] = {
        "allocate": ("allocate_order", (order,)),
        "cancel": ("cancel_order", (order,)),
        "release": ("create_wave", ([order],)),
        "pack": ("create_shipment", (order, "other", "X")),
    }
    for state in ORDER.moves:
        for action, (function, arguments) in calls.items():
            outcome = attempt("orders", "order_id", order, state, function, *arguments)
            assert (outcome != "illegal_move") == (action in ORDER.allowed(state)), (state, action, outcome)
    _, (open_task,) = released(app, mine, (product(owner, mine, A_1_1=1), 1))
    for state in TASK.moves:
        outcome = attempt("pick_tasks", "task_id", open_task["id"], state, "confirm_pick", open_task["id"], 1)
        assert (outcome != "illegal_move") == ("confirm" in TASK.allowed(state)), (state, outcome)
    for state in SHIPMENT.moves:
        for action in sorted(SHIPMENT.actions):
            arguments = (shipment, action, "T" if action == "dispatch" else None)
            outcome = attempt("shipments", "shipment_id", shipment, state, "move_shipment", *arguments)
            assert (outcome == "done") == (action in SHIPMENT.allowed(state)), (state, action, outcome)


def planned_by_the_domain(
    wants: list[Want], free: dict[tuple[int, int], int]
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """(allocations as line, location, units; short lines as line, quantity, available): one of them is empty."""
    try:
        return [(x.line_number, x.location_id, x.quantity) for x in plan(wants, free)], []
    except InsufficientStock as error:
        return [], [(x.line_number, x.quantity, x.available) for x in error.lines]


def test_the_database_plans_as_the_domain_does(owner: Connection, app: Connection, mine: Tenant) -> None:
    random, planned, refused = Random(7), 0, 0
    places = [f"A-1-{number}" for number in range(1, 6)]
    ids = {place: location_id(owner, mine, place) for place in places}
    for _ in range(40):
        stock = [
            {
                place.replace("-", "_"): random.randint(1, 9)
                for place in random.sample(places, random.randint(1, 4))
            }
            for _ in range(2)
        ]
        skus = [product(owner, mine, **units) for units in stock]
        lines = [(random.choice(skus), random.randint(1, 8)) for _ in range(random.randint(1, 4))]
        free = {
            (number, ids[place.replace("_", "-")]): units
            for number, balance in enumerate(stock)
            for place, units in balance.items()
        }
        wants = [Want(n, skus.index(sku), quantity) for n, (sku, quantity) in enumerate(lines, 1)]
        order = new_order(app, mine, *lines)
        outcome, answer = run(app, "allocate_order", mine, order)
        expected, short = planned_by_the_domain(wants, free)
        assert outcome == ("insufficient" if short else "done")
        if short:
            refused += 1
            assert [(x["line_number"], x["quantity"], x["available"]) for x in answer["lines"]] == short
        else:
            planned += 1
            found = [(x["line_number"], ids[x["location"]], x["quantity"]) for x in answer["allocations"]]
            assert found == expected
    assert planned > 5
    assert refused > 5


def test_the_database_walks_as_the_domain_does(owner: Connection, app: Connection, mine: Tenant) -> None:
    random = Random(3)
    for aisle in ("Z", "Y2", "Y10", "z"):
        for position in (1, 2, 3):
            for level in (1, 2):
                owner.execute(
                    "INSERT INTO locations (tenant_id, warehouse_id, code, aisle, level, position) "
                    "VALUES (%s, %s, %s, %s, %s, %s)",
                    (mine.id, mine.warehouse, f"{aisle}-{level}-{position}", aisle, level, position),
                )
    codes = [
        row[0] for row in rows(owner, "SELECT code FROM locations WHERE aisle IN ('Z', 'Y2', 'Y10', 'z')")
    ]
    orders = []
    for _ in range(6):
        skus = [product(owner, mine, **{random.choice(codes).replace("-", "_"): 5}) for _ in range(5)]
        orders.append(new_order(app, mine, *((sku, 1) for sku in [*skus, skus[0]])))
        assert run(app, "allocate_order", mine, orders[-1])[0] == "done"
    outcome, wave = run(app, "create_wave", mine, orders)
    assert outcome == "done"
    found = rows(
        owner,
        "SELECT l.aisle, l.position, l.level, t.location_id, t.order_id, t.line_number, t.reservation_id "
        "FROM pick_tasks t JOIN locations l USING (tenant_id, warehouse_id, location_id) "
        "WHERE t.wave_id = %s ORDER BY t.sequence",
        wave["id"],
    )
    names = ("aisle", "position", "level", "location_id", "order_id", "line_number", "reservation_id")
    stops = [Stop(**dict(zip(names, row, strict=True))) for row in found]
    assert len({stop.aisle for stop in stops}) > 2
    shuffled = stops[:]
    random.shuffle(shuffled)
    assert walk(shuffled) == stops
    assert [task["sequence"] for task in wave["tasks"]] == list(range(1, 37))


# At the same time


def test_of_many_who_want_the_last_units_exactly_so_many_get_them(
    db: Database, owner: Connection, app: Connection, mine: Tenant
) -> None:
    sku = product(owner, mine, A_1_1=4, A_1_2=3)
    orders = [new_order(app, mine, (sku, 1)) for _ in range(24)]
    outcomes: Counter[str] = Counter()

    def work(part: list[int]) -> None:
        with db.connect("wms_app") as connection:
            for order in part:
                outcomes[run(connection, "allocate_order", mine, order)[0]] += 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, [orders[i::8] for i in range(8)]))
    assert outcomes == {"done": 7, "insufficient": 17}
    assert balances(owner, sku) == {"A-1-1": (4, 4), "A-1-2": (3, 3)}
    assert not broken_invariants(owner)


def test_whatever_many_do_at_once_the_rows_agree_and_nobody_deadlocks(
    db: Database, owner: Connection, app: Connection, mine: Tenant
) -> None:
    """Eight workers take, allocate, release, pick, cancel and ship orders for the same three scarce SKUs, over
    orders and tasks that they share.
    """
    skus = [
        product(owner, mine, A_1_1=60, A_1_2=50),
        product(owner, mine, A_1_2=80),
        product(owner, mine, A_1_1=90),
    ]
    orders = [new_order(app, mine, *((sku, 2) for sku in skus)) for _ in range(10)]
    tasks: list[tuple[int, int]] = []
    outcomes: Counter[tuple[str, str]] = Counter()

    def step(connection: Connection, random: Random) -> None:
        action = random.choice(
            ("take", "allocate", "allocate", "release", "pick", "pick", "picks", "cancel", "ship")
        )
        several = random.sample(orders, min(len(orders), random.randint(1, 4)))
        outcome, answer = "none", None
        if action == "take":
            lines = [(random.choice(skus), random.randint(1, 4)) for _ in range(random.randint(1, 3))]
            orders.append(new_order(connection, mine, *lines))
            outcome = "done"
        elif action == "allocate":
            outcome, _ = run(connection, "allocate_order", mine, several[0])
        elif action == "cancel":
            outcome, _ = run(connection, "cancel_order", mine, several[0])
        elif action == "release":
            outcome, answer = run(connection, "create_wave", mine, several)
            if outcome == "illegal_move":
                outcome, answer = run(connection, "create_wave", mine, several[:1])
            if outcome == "done":
                tasks.extend((task["id"], task["quantity"]) for task in answer["tasks"])
        elif action == "ship":
            number = f"ENV-{next(NUMBERS)}"
            outcome, answer = run(connection, "create_shipment", mine, several[0], number, "X")
            if outcome == "done":
                assert run(connection, "move_shipment", mine, answer["id"], "dispatch", "T")[0] == "done"
        elif tasks and action == "pick":
            task, quantity = random.choice(tasks)
            outcome, _ = run(connection, "confirm_pick", mine, task, random.randint(0, quantity))
        elif tasks:
            chosen = dict(random.sample(tasks, min(len(tasks), random.randint(1, 5))))
            outcome, _ = run(connection, "confirm_picks", mine, list(chosen), list(chosen.values()))
        outcomes[action, outcome] += 1

    def work(number: int) -> None:
        random = Random(number)
        with db.connect("wms_app") as connection:
            for _ in range(60):
                step(connection, random)

    wanted = {"take", "allocate", "release", "pick", "picks", "cancel", "ship"}
    # Who comes first is chance: a round may leave no task for the one who picks several at once.
    for turn in range(4):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8 * turn, 8 * turn + 8)))
        assert not broken_invariants(owner)
        did = {action for action, outcome in outcomes if outcome == "done"}
        if did == wanted:
            break
    assert did == wanted, outcomes
    assert {outcome for _, outcome in outcomes} <= {
        "done", "none", "illegal_move", "insufficient", "already_picked", "already_packed", "nothing_picked"
    }, outcomes  # fmt: skip


def in_a_thread_that_waits(
    db: Database, owner: Connection, work: Callable[[Connection], Any]
) -> Callable[[], Any]:
    """Start `work` on a session of its own and return once it waits for a lock; the result gives its end."""
    connection = db.connect("wms_app")
    pid = connection.info.backend_pid
    threads = ThreadPoolExecutor(1)
    future = threads.submit(work, connection)
    deadline = time.monotonic() + 10
    while not value(owner, "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", pid):
        assert time.monotonic() < deadline, "nobody waits"
        assert not future.done(), future.result()
        time.sleep(0.01)

    def result() -> Any:
        try:
            return future.result(10)
        finally:
            threads.shutdown()
            connection.close()

    return result


def test_a_wave_whose_last_two_orders_are_completed_at_the_same_time_is_done(
    db: Database, owner: Connection, app: Connection, mine: Tenant
) -> None:
    orders = [new_order(app, mine, (product(owner, mine, A_1_1=1), 1)) for _ in range(2)]
    for order in orders:
        assert run(app, "allocate_order", mine, order)[0] == "done"
    wave = run(app, "create_wave", mine, orders)[1]
    first, second = (task["id"] for task in wave["tasks"])
    with app.transaction():
        assert run(app, "confirm_pick", mine, first, 1)[0] == "done"
        other = in_a_thread_that_waits(db, owner, lambda own: run(own, "confirm_pick", mine, second, 1))
    assert other()[0] == "done"
    assert value(owner, "SELECT status FROM waves WHERE wave_id = %s", wave["id"]) == "DONE"


def test_many_orders_are_locked_in_the_order_of_their_ids(
    db: Database, owner: Connection, app: Connection, mine: Tenant
) -> None:
    for function in ("confirm_picks", "create_wave"):
        orders, tasks = [], []
        for _ in range(2):
            lines = (product(owner, mine, A_1_1=1), 1)
            if function == "create_wave":
                orders.append(new_order(app, mine, lines))
                assert run(app, "allocate_order", mine, orders[-1])[0] == "done"
            else:
                order, (task,) = released(app, mine, lines)
                orders.append(order)
                tasks.append(task["id"])
        arguments = (tasks[::-1], [1, 1]) if tasks else (orders[::-1],)
        with app.transaction():
            app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(mine.id),))
            lock = "SELECT FROM orders WHERE order_id = %s FOR NO KEY UPDATE"
            app.execute(lock.encode(), (orders[0],))
            other = in_a_thread_that_waits(db, owner, lambda own: run(own, function, mine, *arguments))  # noqa: B023
            # Held by nobody: who waits for the first one has none yet.
            app.execute((lock + " NOWAIT").encode(), (orders[1],))
        assert other()[0] == "done"


# Any life


class Line:
    """A line of the model: what is wanted, and what is set aside for it as (location id, units, task id or 0)."""

    def __init__(self, sku: int, quantity: int) -> None:
        self.sku, self.quantity, self.picked = sku, quantity, 0
        self.open: list[tuple[int, int, int]] = []


class Lives(RuleBasedStateMachine):
    """A handful of orders over two scarce SKUs, moved at random; the domain foretells every outcome and balance."""

    def __init__(self, connection: Connection, owner: Connection, tenant: Tenant) -> None:
        super().__init__()
        self.connection, self.owner, self.tenant = connection, owner, tenant
        self.places = {f"A-1-{n}": location_id(owner, tenant, f"A-1-{n}") for n in (1, 2, 3)}
        self.skus = [product(owner, tenant, A_1_1=4, A_1_2=7, A_1_3=2), product(owner, tenant, A_1_1=5)]
        self.on_hand = {(0, "A-1-1"): 4, (0, "A-1-2"): 7, (0, "A-1-3"): 2, (1, "A-1-1"): 5}
        self.orders: list[int] = []
        self.state: dict[int, str] = {}
        self.lines: dict[int, list[Line]] = {}
        self.tasks: list[tuple[int, int, int]] = []
        """(task id, order, index of its line); done ones stay."""

    def reserved(self) -> dict[tuple[int, str], int]:
        """(SKU, location) → units set aside."""
        found = dict.fromkeys(self.on_hand, 0)
        names = {identifier: code for code, identifier in self.places.items()}
        for order in self.orders:
            for line in self.lines[order]:
                for place, units, _task in line.open:
                    found[line.sku, names[place]] += units
        return found

    def chosen(self, number: int) -> int:
        return self.orders[number % len(self.orders)]

    def move(self, order: int, action: str, function: str, *arguments: object) -> tuple[bool, Any]:
        """Call a command; whether the table allows it, and its answer. Checks that it is refused if not."""
        outcome, answer = run(self.connection, function, self.tenant, *arguments)
        if action not in ORDER.allowed(self.state[order]):
            assert (outcome, answer["state"]) == ("illegal_move", self.state[order])
            return False, None
        assert outcome != "illegal_move"
        if outcome == "done":
            self.state[order] = ORDER.after(self.state[order], action)
        return outcome == "done", answer

    @rule(lines=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5)), min_size=1, max_size=3))
    def take(self, lines: list[tuple[int, int]]) -> None:
        order = new_order(self.connection, self.tenant, *((self.skus[sku], units) for sku, units in lines))
        self.orders.append(order)
        self.state[order] = "NEW"
        self.lines[order] = [Line(sku, units) for sku, units in lines]

    @precondition(lambda self: self.orders)
    @rule(number=st.integers(0, 30))
    def allocate(self, number: int) -> None:
        order = self.chosen(number)
        legal = "allocate" in ORDER.allowed(self.state[order])
        reserved = self.reserved()
        free = {
            (sku, self.places[place]): units - reserved[sku, place]
            for (sku, place), units in self.on_hand.items()
        }
        wants = [Want(n, line.sku, line.quantity) for n, line in enumerate(self.lines[order], 1)]
        expected, short = planned_by_the_domain(wants, free)
        done, answer = self.move(order, "allocate", "allocate_order", order)
        assert done == (legal and not short)
        if done:
            found = [
                (x["line_number"], self.places[x["location"]], x["quantity"]) for x in answer["allocations"]
            ]
            assert found == expected
            for line_number, place, units in found:
                self.lines[order][line_number - 1].open.append((place, units, 0))

    @precondition(lambda self: self.orders)
    @rule(number=st.integers(0, 30))
    def release(self, number: int) -> None:
        order = self.chosen(number)
        done, wave = self.move(order, "release", "create_wave", [order])
        if done:
            for line in self.lines[order]:
                line.open = []
            for task in wave["tasks"]:
                index = task["line_number"] - 1
                reservation = (self.places[task["location"]], task["quantity"], task["id"])
                self.lines[order][index].open.append(reservation)
                self.tasks.append((task["id"], order, index))

    @precondition(lambda self: self.tasks)
    @rule(number=st.integers(0, 30), units=st.integers(0, 8))
    def confirm(self, number: int, units: int) -> None:
        task, order, index = self.tasks[number % len(self.tasks)]
        line = self.lines[order][index]
        found = [reservation for reservation in line.open if reservation[2] == task]
        function, arguments = "confirm_pick", (task, units)
        if number % 2:
            function, arguments = "confirm_picks", ([task], [units])  # type: ignore[assignment]
        outcome, _answer = run(self.connection, function, self.tenant, *arguments)
        if not found:
            # Done before: refused, whichever is noticed first.
            assert outcome in ("illegal_move", "too_many")
            return
        ((place, quantity, _),) = found
        if units > quantity:
            assert outcome == "too_many"
            return
        assert outcome == "done"
        line.open.remove(found[0])
        line.picked += settle(quantity, units).issued
        code = next(code for code, identifier in self.places.items() if identifier == place)
        self.on_hand[line.sku, code] -= units
        if not any(other.open for other in self.lines[order]):
            self.state[order] = ORDER.after(self.state[order], "complete")

    @precondition(lambda self: self.orders)
    @rule(number=st.integers(0, 30))
    def cancel(self, number: int) -> None:
        order = self.chosen(number)
        picked = sum(line.picked for line in self.lines[order])
        legal = "cancel" in ORDER.allowed(self.state[order])
        done, _answer = self.move(order, "cancel", "cancel_order", order)
        assert done == (legal and not picked)
        if done:
            for line in self.lines[order]:
                line.open = []

    @precondition(lambda self: self.orders)
    @rule(number=st.integers(0, 30))
    def ship(self, number: int) -> None:
        order = self.chosen(number)
        picked = sum(line.picked for line in self.lines[order])
        name = f"ENV-{next(NUMBERS)}"
        done, shipment = self.move(order, "pack", "create_shipment", order, name, "X")
        assert done == (bool(picked) and self.state[order] == "PICKED")
        if done:
            outcome, _ = run(self.connection, "move_shipment", self.tenant, shipment["id"], "dispatch", "T")
            assert outcome == "done"
            self.state[order] = ORDER.after(self.state[order], "dispatch")

    @invariant()
    def agree(self) -> None:
        """Balances and states are those of the model."""
        reserved = self.reserved()
        for number, sku in enumerate(self.skus):
            assert balances(self.owner, sku) == {
                place: (units, reserved[n, place])
                for (n, place), units in self.on_hand.items()
                if n == number
            }
        statement = "SELECT order_id, status FROM orders WHERE order_id = ANY(%s)"
        assert dict(rows(self.owner, statement, self.orders)) == self.state

    def teardown(self) -> None:
        assert not broken_invariants(self.owner)


def test_any_life_of_orders_goes_as_the_domain_foretells(
    owner: Connection, app: Connection, mine: Tenant
) -> None:
    class Here(Lives):
        """In this database."""

        def __init__(self) -> None:
            super().__init__(app, owner, mine)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Tenants and cost


def test_h2_the_services_role_sees_the_rows_of_the_set_tenant_only(
    owner: Connection, app: Connection, tenants: list[Tenant]
) -> None:
    for tenant in tenants:
        released(app, tenant, (product(owner, tenant, A_1_1=9), 2))
    tables = (
        "customers",
        "orders",
        "order_lines",
        "reservations",
        "waves",
        "pick_tasks",
        "order_rows",
        "pick_rows",
    )
    for table in tables:
        assert value(app, f"SELECT count(*) FROM {table}") == 0, table
        for tenant in tenants:
            with app.transaction():
                app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(tenant.id),))
                assert rows(app, f"SELECT DISTINCT tenant_id FROM {table}") == [(tenant.id,)], table


def test_d2_a_confirmed_pick_updates_its_rows_in_place(
    db: Database, owner: Connection, mine: Tenant, app: Connection
) -> None:
    sku = product(owner, mine, A_1_1=99)
    _, tasks = released(app, mine, (sku, 1), (sku, 2))
    hot = (
        "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables "
        "WHERE relname IN ('pick_tasks', 'order_lines', 'reservations', 'inventory_master') ORDER BY 1"
    )
    # A session without earlier transactions whose numbers are still on their way.
    with db.connect("wms_app") as fresh, fresh.transaction():
        assert run(fresh, "confirm_pick", mine, tasks[0]["id"], 1)[0] == "done"
        assert rows(fresh, hot) == [
            (table, 1, 1) for table in ("inventory_master", "order_lines", "pick_tasks", "reservations")
        ]
