"""Stock, search, ledger, capacity, receipts and online migrations against a real PostgreSQL behind a real PgBouncer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest

from tests.support import service as support
from tests.support.postgres import POOLER_PORT, Database
from tests.support.service import Service, Tenant
from wms.domain.inventory import Balance, Insufficient
from wms.domain.receipts import MAX_LINES, RECEIPT
from wms.migrations import files, runner

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]
ROOT = Path(__file__).resolve().parents[2]
DATABASE_ADDRESS = "127.43.21.1"
SERVICE_ADDRESS = "127.43.21.2"
PORT = 8000
NUMBERS = count(1)
CATALOGUE = 20_000
WAREHOUSES_STEP = 4
BACKGROUND = ("schema_migrations", "BEGIN", "COMMIT", "pg_current_wal", "SET ")
LSN = "SELECT pg_current_wal_lsn()::text"
Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    """The two servers with the schema in place."""
    with support.migrated(DATABASE_ADDRESS) as made:
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
def tenants(db: Database, tmp_path_factory: pytest.TempPathFactory) -> list[Tenant]:
    """Two tenants."""
    return support.seeded(db, tmp_path_factory.mktemp("keys"), "--skus", "20")


@pytest.fixture
def mine(tenants: list[Tenant]) -> Tenant:
    return tenants[0]


@pytest.fixture(scope="module")
def service(
    db: Database, tenants: list[Tenant], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    support.without_jobs(db)
    with support.service(db, tmp_path_factory.mktemp("service"), SERVICE_ADDRESS, scheme="https") as made:
        yield made


def value(connection: Connection, statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters or None).fetchone()
    return row[0] if row else None


def new_sku(owner: Connection, tenant: Tenant, name: str = "teste") -> str:
    """A SKU without stock."""
    code = f"T-{next(NUMBERS)}"
    owner.execute("INSERT INTO skus (tenant_id, code, name) VALUES (%s, %s, %s)", (tenant.id, code, name))
    return code


def sku_id(owner: Connection, tenant: Tenant, code: str) -> int:
    return int(value(owner, "SELECT sku_id FROM skus WHERE tenant_id = %s AND code = %s", tenant.id, code))


def location_ids(owner: Connection, tenant: Tenant, *codes: str) -> list[int]:
    statement = "SELECT location_id FROM locations WHERE tenant_id = %s AND warehouse_id = %s AND code = %s"
    return [int(value(owner, statement, tenant.id, tenant.warehouse, code)) for code in codes]


def move(connection: Connection, tenant: Tenant, kind: str, sku: str, source: str | None, target: str | None,
         quantity: int) -> tuple[str, Any]:  # fmt: skip
    """post_movement; (outcome, answer)."""
    key = f"k-{next(NUMBERS)}"
    row = connection.execute(
        "SELECT outcome, answer FROM post_movement(%s, %s, %s, %s, %s, %s, %s, %s, %s, 'test')",
        (
            tenant.id,
            key,
            sha256(key.encode()).digest(),
            tenant.warehouse,
            sku,
            kind,
            source,
            target,
            quantity,
        ),
    ).fetchone()
    assert row is not None
    return row[0], json.loads(row[1]) if row[1] else None


def reserve(owner: Connection, tenant: Tenant, sku: str, units: int) -> None:
    owner.execute(
        "UPDATE inventory_master m SET reserved = reserved + %s FROM skus s "
        "WHERE s.tenant_id = m.tenant_id AND s.sku_id = m.sku_id AND s.tenant_id = %s AND s.code = %s",
        (units, tenant.id, sku),
    )


def differences(owner: Connection) -> list[Any]:
    return owner.execute("SELECT * FROM ledger_differences()").fetchall()


# Reserved stock


def test_h2_reserved_units_stay_where_they_are(
    service: Service, mine: Tenant, owner: Connection, app: Connection
) -> None:
    sku = new_sku(owner, mine)
    assert move(app, mine, "receipt", sku, None, "A-1-1", 10)[0] == "posted"
    reserve(owner, mine, sku, 7)
    for kind, target in (("issue", None), ("transfer", "A-1-2"), ("adjustment", None)):
        assert move(app, mine, kind, sku, "A-1-1", target, 4) == ("insufficient", {"on_hand": 3})
    (row,) = service.data(f"/api/v1/stock?warehouse_id={mine.warehouse}&sku={sku}", mine)
    assert (row["on_hand"], row["reserved"], row["available"]) == (10, 7, 3)
    total = service.get(f"/api/v1/stock/{sku}", mine).json()
    assert (total["on_hand"], total["reserved"], total["available"]) == (10, 7, 3)
    assert (total["warehouses"][0]["reserved"], total["warehouses"][0]["available"]) == (7, 3)
    assert move(app, mine, "transfer", sku, "A-1-1", "A-1-2", 3)[0] == "posted"
    assert not differences(owner)


def test_h2_a_pick_takes_its_own_reservation_and_no_other(
    mine: Tenant, owner: Connection, app: Connection
) -> None:
    sku = new_sku(owner, mine)
    move(app, mine, "receipt", sku, None, "A-1-1", 10)
    reserve(owner, mine, sku, 10)
    (place,) = location_ids(owner, mine, "A-1-1")

    def pick(units: int, release: int) -> tuple[Any, ...]:
        with app.transaction():
            app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(mine.id),))
            row = app.execute(
                "SELECT outcome, from_on_hand FROM move_stock(%s, %s, %s, 'issue', %s, NULL, %s, 'O-1', %s)",
                (mine.id, mine.warehouse, sku_id(owner, mine, sku), place, units, release),
            ).fetchone()
            assert row is not None
            return tuple(row)

    assert pick(5, 4) == ("insufficient", 4)
    assert pick(4, 4) == ("posted", 6)
    # Short: one taken, three released.
    assert pick(1, 3) == ("posted", 5)
    statement = (
        "SELECT on_hand, reserved FROM inventory_master JOIN skus USING (tenant_id, sku_id) WHERE code = %s"
    )
    assert owner.execute(statement, (sku,)).fetchone() == (5, 3)
    with pytest.raises(psycopg.errors.CheckViolation):
        pick(1, 4)


def test_k3_every_movement_leaves_one_event(mine: Tenant, owner: Connection, app: Connection) -> None:
    sku = new_sku(owner, mine)
    ids = [
        move(app, mine, "receipt", sku, None, "A-1-1", 5)[1]["id"],
        move(app, mine, "transfer", sku, "A-1-1", "A-1-2", 2)[1]["id"],
    ]
    assert move(app, mine, "issue", sku, "A-1-1", None, 4)[0] == "insufficient"
    rows = owner.execute(
        "SELECT type, entity, (payload ->> 'transaction_id')::bigint FROM outbox WHERE identifier = %s "
        "ORDER BY event_id",
        (sku,),
    ).fetchall()
    assert rows == [("stock.moved", "sku", ids[0]), ("stock.moved", "sku", ids[1])]


def test_h2_the_database_follows_the_rule_of_the_domain(
    mine: Tenant, owner: Connection, app: Connection
) -> None:
    random, sku = Random(21), new_sku(owner, mine)
    places = ("A-1-1", "A-1-2", "A-1-3")
    number, ids = sku_id(owner, mine, sku), location_ids(owner, mine, *places)
    model = [Balance(), Balance(), Balance()]
    app.execute("SELECT set_config('app.tenant_id', %s, false)", (str(mine.id),))
    for _ in range(250):
        source, target = random.sample(range(3), 2)
        units, kind = random.randint(1, 9), random.choice(("receipt", "issue", "transfer", "pick", "reserve"))
        release = min(units, model[source].reserved) if kind == "pick" else 0
        expected, after = "posted", list(model)
        try:
            if kind == "reserve":
                after[source] = model[source].reserve(units)
            elif kind != "receipt":
                after[source] = model[source].take(units, release)
            if kind in ("receipt", "transfer"):
                after[target] = model[target].put(units)
        except Insufficient as error:
            expected, free = "insufficient", error.free
        if kind == "reserve":
            if expected == "posted":
                owner.execute(
                    "UPDATE inventory_master SET reserved = reserved + %s WHERE sku_id = %s AND location_id = %s",
                    (units, number, ids[source]),
                )
        else:
            row = app.execute(
                "SELECT outcome, from_on_hand FROM move_stock(%s, %s, %s, %s, %s, %s, %s, NULL, %s)",
                (
                    mine.id,
                    mine.warehouse,
                    number,
                    "issue" if kind == "pick" else kind,
                    None if kind == "receipt" else ids[source],
                    ids[target] if kind in ("receipt", "transfer") else None,
                    units,
                    release,
                ),
            ).fetchone()
            assert row is not None
            assert row[0] == expected
            if expected == "insufficient":
                assert row[1] == free
        if expected == "posted":
            model = after
    found = {
        row[0]: Balance(row[1], row[2])
        for row in owner.execute(
            "SELECT location_id, on_hand, reserved FROM inventory_master WHERE sku_id = %s", (number,)
        )
    }
    assert [found.get(place, Balance()) for place in ids] == model
    assert not differences(owner)


def test_h2_under_eight_threads_stock_is_never_negative_and_the_ledger_sums_to_it(
    db: Database, mine: Tenant, owner: Connection
) -> None:
    skus = [new_sku(owner, mine) for _ in range(2)]
    numbers = [sku_id(owner, mine, sku) for sku in skus]
    places = ("A-1-1", "A-1-2", "A-1-3")
    ids = location_ids(owner, mine, *places)
    receipt = announce(owner, mine, [(sku, 1) for sku in skus])

    def work(seed: int) -> int:
        random, done = Random(seed), 0
        with db.connect("wms_app") as connection:
            connection.execute("SELECT set_config('app.tenant_id', %s, false)", (str(mine.id),))
            for _ in range(60):
                pick = random.randrange(2)
                source, target = random.sample(range(3), 2)
                units = random.randint(1, 5)
                action = random.choice(
                    ("receipt", "issue", "transfer", "transfer", "deliver", "reserve", "pick")
                )
                if action == "deliver":
                    lines = [
                        {"line_number": line, "location": place, "quantity": units}
                        for line in random.sample((1, 2), 2)
                        for place in random.sample(places, 2)
                    ]
                    key = f"k-{next(NUMBERS)}"
                    outcome = value(
                        connection,
                        "SELECT outcome FROM receive_lines(%s, %s, %s, %s, %s, %s)",
                        mine.id, key, sha256(key.encode()).digest(), mine.warehouse, receipt, json.dumps(lines),
                    )  # fmt: skip
                    assert outcome == "done"
                elif action == "reserve":
                    outcome = connection.execute(
                        "UPDATE inventory_master SET reserved = reserved + %s WHERE tenant_id = %s "
                        "AND warehouse_id = %s AND sku_id = %s AND location_id = %s AND on_hand - reserved >= %s",
                        (units, mine.id, mine.warehouse, numbers[pick], ids[source], units),
                    ).rowcount
                elif action == "pick":
                    with connection.transaction():
                        held = value(
                            connection,
                            "SELECT reserved FROM inventory_master WHERE tenant_id = %s AND warehouse_id = %s "
                            "AND sku_id = %s AND location_id = %s FOR NO KEY UPDATE",
                            mine.id, mine.warehouse, numbers[pick], ids[source],
                        )  # fmt: skip
                        if not held:
                            continue
                        outcome = value(
                            connection,
                            "SELECT outcome FROM move_stock(%s, %s, %s, 'issue', %s, NULL, %s, 'O', %s)",
                            mine.id, mine.warehouse, numbers[pick], ids[source], min(units, held), min(units, held),
                        )  # fmt: skip
                    # Promised units are there.
                    assert outcome == "posted"
                else:
                    outcome, answer = move(
                        connection,
                        mine,
                        action,
                        skus[pick],
                        None if action == "receipt" else places[source],
                        None if action == "issue" else places[target],
                        units,
                    )
                    assert outcome in ("posted", "insufficient")
                    if outcome == "insufficient":
                        assert 0 <= answer["on_hand"] < units
                done += 1
        return done

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) > 300
    rows = owner.execute(
        "SELECT on_hand, reserved FROM inventory_master WHERE sku_id = ANY (%s)", (numbers,)
    ).fetchall()
    assert rows
    assert all(0 <= reserved <= on_hand for on_hand, reserved in rows)
    assert not differences(owner)
    per_line = owner.execute(
        "SELECT sum(received)::bigint, (SELECT sum(quantity)::bigint FROM inventory_transactions t "
        "WHERE t.reference = (SELECT receipt_number FROM receipts r WHERE r.receipt_id = l.receipt_id)) "
        "FROM receipt_lines l WHERE receipt_id = %s GROUP BY receipt_id",
        (receipt,),
    ).fetchone()
    assert per_line is not None
    assert per_line[0] == per_line[1] > 0


# The ledger and what archived months leave behind


def test_d4_an_archived_month_leaves_its_balances_behind(
    mine: Tenant, owner: Connection, app: Connection
) -> None:
    sku = new_sku(owner, mine)
    number, (first, second) = sku_id(owner, mine, sku), location_ids(owner, mine, "A-1-1", "A-1-2")
    owner.execute("SELECT ensure_transaction_partitions('2024-01-01', 1)")
    old = (("receipt", None, first, 10), ("transfer", first, second, 4), ("issue", second, None, 4))
    for kind, source, target, units in old:
        owner.execute(
            "INSERT INTO inventory_transactions (tenant_id, warehouse_id, sku_id, kind, from_location_id, "
            "to_location_id, quantity, created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, '2024-01-31 23:59:59+00')",
            (mine.id, mine.warehouse, number, kind, source, target, units),
        )
    assert [row[3:] for row in differences(owner)] == [(first, 0, 6, 0)]
    owner.execute(
        "INSERT INTO inventory_master (tenant_id, warehouse_id, sku_id, location_id, on_hand) "
        "VALUES (%s, %s, %s, %s, 6)",
        (mine.id, mine.warehouse, number, first),
    )
    assert not differences(owner)
    # Carried and still attached, carried again, detached: it sums at every step.
    for _ in range(2):
        assert value(owner, "SELECT carry_forward('2024-01-15')") == 2
        assert not differences(owner)
    owner.execute(
        "ALTER TABLE inventory_transactions DETACH PARTITION inventory_transactions_2024_01 CONCURRENTLY"
    )
    assert not differences(owner)
    assert value(owner, "SELECT carry_forward('2024-01-15')") == 0
    assert move(app, mine, "issue", sku, "A-1-1", None, 1)[0] == "posted"
    assert not differences(owner)
    owner.execute(
        "UPDATE carried_balances SET quantity = quantity + 2 WHERE sku_id = %s AND location_id = %s",
        (number, first),
    )
    assert differences(owner) == [(mine.id, mine.warehouse, number, first, 5, -1, 8)]
    assert not owner.execute("SELECT * FROM ledger_differences(%s)", (mine.id + 1,)).fetchall()
    owner.execute(
        "UPDATE carried_balances SET quantity = quantity - 2 WHERE sku_id = %s AND location_id = %s",
        (number, first),
    )


def test_d4_a_month_that_is_not_over_is_not_carried(owner: Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="is not over for a day yet"):
        owner.execute("SELECT carry_forward(now()::date)")


def test_a1_the_ledger_is_paged_newest_first_over_its_months(
    service: Service, mine: Tenant, owner: Connection, app: Connection
) -> None:
    sku = new_sku(owner, mine)
    ids = [move(app, mine, "receipt", sku, None, "A-1-1", n)[1]["id"] for n in range(1, 8)]
    target = f"/api/v1/movements?warehouse_id={mine.warehouse}&sku={sku}&limit=3"
    seen: list[int] = []
    cursor = ""
    while True:
        page = service.get(target + cursor, mine).json()
        seen += [row["id"] for row in page["data"]]
        if len(seen) == 3:
            # A row that comes meanwhile is newer: no page changes.
            move(app, mine, "issue", sku, "A-1-1", None, 1)
        if not page["pagination"]["has_more"]:
            break
        cursor = f"&cursor_after={page['pagination']['cursor_after']}"
    assert seen == ids[::-1]
    first = service.data(f"/api/v1/movements?warehouse_id={mine.warehouse}&limit=1", mine)[0]
    assert (first["type"], first["from_location"], first["to_location"]) == ("issue", "A-1-1", None)
    assert first["posted_at"].endswith("Z")


# SKUs


@pytest.fixture(scope="module")
def catalogue(owner: Connection, tenants: list[Tenant]) -> Tenant:
    """The second tenant with 20 000 SKUs, of which two in a thousand are valves."""
    tenant = tenants[1]
    owner.execute(
        "INSERT INTO skus (tenant_id, code, name) SELECT %s, 'C-' || to_char(n, 'FM000000'), "
        "CASE WHEN n %% 500 = 0 THEN 'Válvula de retenção ' ELSE 'Parafuso sextavado ' END || n "
        "FROM generate_series(1, %s) n",
        (tenant.id, CATALOGUE),
    )
    owner.execute("VACUUM (ANALYZE) skus")
    return tenant


def scans(owner: Connection, index: str) -> int:
    """How often an index was asked."""
    return int(value(owner, "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s", index))


def search(connection: Connection, tenant: Tenant, query: str | None, after: str | None = None) -> list[str]:
    rows = connection.execute(
        "SELECT code FROM skus_page(%s, %s, NULL, %s, 51)", (tenant.id, query, after)
    ).fetchall()
    connection.execute("SELECT pg_stat_force_next_flush()")
    return [row[0] for row in rows]


def test_d1_the_search_uses_the_index_under_row_level_security(
    catalogue: Tenant, owner: Connection, app: Connection
) -> None:
    definition = value(owner, "SELECT indexdef FROM pg_indexes WHERE indexname = 'skus_name'")
    assert definition.endswith("skus USING gin (to_tsvector('portuguese'::regconfig, name))")
    before = scans(owner, "skus_name"), scans(owner, "skus_name_folded")
    started = time.monotonic()
    found = search(app, catalogue, "válvulas de retenção")
    assert time.monotonic() - started < 1
    assert len(found) == CATALOGUE // 500
    assert (scans(owner, "skus_name"), scans(owner, "skus_name_folded")) == (before[0] + 1, before[1] + 1)
    # A word that most names have is found along the codes.
    codes = scans(owner, "skus_tenant_id_code_key")
    assert len(search(app, catalogue, "parafusos", "C-010000")) == 51
    assert scans(owner, "skus_tenant_id_code_key") == codes + 1
    assert scans(owner, "skus_name") == before[0] + 1


def test_d1_without_the_narrow_function_the_index_is_not_asked(catalogue: Tenant, app: Connection) -> None:
    app.execute("SELECT set_config('app.tenant_id', %s, false)", (str(catalogue.id),))
    query = (
        "SELECT code FROM skus WHERE to_tsvector('portuguese', name) @@ to_tsquery('portuguese', 'válvula')"
    )
    assert "skus_name" not in str(app.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchall())


def test_d1_the_search_knows_portuguese_and_its_accents(
    service: Service, mine: Tenant, owner: Connection
) -> None:
    codes = {
        name: new_sku(owner, mine, name)
        for name in ("Válvulas de pressão zeta", "Proteção auricular zeta", "Cabo elétrico zeta", "100%_zeta")
    }
    for query, name in (
        ("válvula zeta", "Válvulas de pressão zeta"),
        ("valvula zeta", "Válvulas de pressão zeta"),
        ("VALVULAS ZETA", "Válvulas de pressão zeta"),
        ("protecao zeta", "Proteção auricular zeta"),
        ("elétricos zeta", "Cabo elétrico zeta"),
        ('"cabo elétrico" zeta', "Cabo elétrico zeta"),
        ("zeta -cabo -valvula -100", "Proteção auricular zeta"),
    ):
        found = service.get(f"/api/v1/skus?{urlencode({'q': query})}", mine).json()["data"]
        assert codes[name] in [row["sku"] for row in found], query
        if "-" not in query:
            assert len(found) == 1, query
    # Whatever people type is a search and never an error.
    for query in ("'", "\\", "&|!()", ":*", "a & ", "de", '"'):
        assert service.get(f"/api/v1/skus?{urlencode({'q': query})}", mine).status == 200, query


def test_a1_the_last_page_costs_what_the_first_costs(
    catalogue: Tenant, owner: Connection, app: Connection
) -> None:
    def buffers(query: str | None, after: str | None) -> int:
        statement = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM skus_page(%s, %s, NULL, %s, 51)"
        cursor = psycopg.ClientCursor(app)
        for _ in range(2):
            row = cursor.execute(statement.encode(), (catalogue.id, query, after)).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    first, last = buffers(None, "C-000000"), buffers(None, f"C-{CATALOGUE - 60:06d}")
    assert last <= 1.2 * first
    assert first < 200
    assert buffers("válvula", f"C-{CATALOGUE - 60:06d}") <= 1.2 * buffers("válvula", None)


def test_a1_pages_of_skus_are_whole(service: Service, catalogue: Tenant) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        page = service.get(f"/api/v1/skus?q=valvula&limit=15{cursor}", catalogue).json()
        seen += [row["sku"] for row in page["data"]]
        if not page["pagination"]["has_more"]:
            break
        cursor = f"&cursor_after={page['pagination']['cursor_after']}"
    assert len(seen) == len(set(seen)) >= CATALOGUE // 500
    assert seen == sorted(seen)


# Warehouses


def test_m4_capacity_counts_what_is_measured(service: Service, mine: Tenant, owner: Connection) -> None:
    target = f"/api/v1/warehouses/{mine.warehouse}/capacity"
    owner.execute("UPDATE locations SET capacity = NULL WHERE warehouse_id = %s", (mine.warehouse,))
    before = service.get(target, mine, WMS_Min_LSN=value(owner, LSN)).json()
    assert (before["capacity"], before["utilisation"]) == (None, None)
    assert before["warehouse_id"] == mine.warehouse
    held = "SELECT sum(on_hand)::bigint FROM inventory_master WHERE warehouse_id = %s"
    assert before["on_hand"] == value(owner, held, mine.warehouse)
    owner.execute(
        "UPDATE locations SET capacity = 1000000 WHERE warehouse_id = %s AND code IN ('A-1-1', 'A-1-2')",
        (mine.warehouse,),
    )
    after = service.get(target, mine, WMS_Min_LSN=value(owner, LSN)).json()
    measured = value(
        owner,
        "SELECT sum(on_hand)::bigint FROM inventory_master JOIN locations USING (tenant_id, warehouse_id, location_id) "
        "WHERE warehouse_id = %s AND code IN ('A-1-1', 'A-1-2')",
        mine.warehouse,
    )
    assert (after["capacity"], after["utilisation"]) == (2_000_000, round(measured / 2_000_000, 4))
    assert (after["on_hand"], after["locations"]) == (before["on_hand"], 200)
    (first,) = service.data(f"/api/v1/locations?warehouse_id={mine.warehouse}&limit=1", mine)
    assert first == {"location": "A-1-1", "aisle": "A", "level": 1, "position": 1, "capacity": 1_000_000}


# Receipts


def announce(owner: Connection, tenant: Tenant, lines: list[tuple[str, int]]) -> int:
    """A receipt by the function; its id."""
    number = f"R-{next(NUMBERS)}"
    asked = json.dumps([{"sku": sku, "expected": expected} for sku, expected in lines])
    row = owner.execute(
        "SELECT outcome, answer::jsonb -> 'id' FROM create_receipt(%s, %s, %s, %s, %s, 'Sul', %s)",
        (tenant.id, number, sha256(number.encode()).digest(), tenant.warehouse, number, asked),
    ).fetchone()
    assert row is not None
    assert row[0] == "done"
    return int(row[1])


def test_d2_a_delivery_of_many_lines_is_booked_at_once(
    service: Service, mine: Tenant, owner: Connection
) -> None:
    skus = [new_sku(owner, mine) for _ in range(40)]
    body = {"receipt_number": f"R-{next(NUMBERS)}", "supplier": "Ferragens São João"}
    lines = [{"sku": sku, "expected": 10} for sku in skus]
    made = service.post("/api/v1/receipts", mine, {**body, "lines": lines})
    assert made.status == 201, made.data
    receipt = made.json()
    assert (receipt["status"], len(receipt["lines"])) == ("EXPECTED", 40)
    target = f"/api/v1/receipts/{receipt['id']}"
    came = [{"line_number": n, "location": "A-2-1", "quantity": 7} for n in range(40, 0, -1)]
    came += [{"line_number": 1, "location": "A-2-2", "quantity": 5}]
    for _ in range(2):
        # The second time is a repetition, and books nothing.
        booked = service.post(f"{target}/lines", mine, {"lines": came}, key=f"delivery-{receipt['id']}")
        assert booked.status == 200, booked.data
        assert booked.json()["status"] == "RECEIVING"
    assert booked.headers["idempotency-replayed"] == "true"
    assert [line["received"] for line in booked.json()["lines"]] == [12] + [7] * 39
    rows = "SELECT count(*) FROM inventory_transactions WHERE kind = 'receipt' AND reference = %s"
    assert value(owner, rows, body["receipt_number"]) == 41
    assert service.get(f"/api/v1/stock/{skus[0]}", mine).json()["on_hand"] == 12
    assert not differences(owner)
    closed = service.post(f"{target}/close", mine, {})
    assert (closed.status, closed.json()["status"]) == (200, "RECEIVED")
    found = service.get(f"{target}?warehouse_id={mine.warehouse}", mine).json()
    assert found == closed.json()
    listed = service.data(f"/api/v1/receipts?warehouse_id={mine.warehouse}&status=RECEIVED&limit=1", mine)
    assert listed == [{name: found[name] for name in found if name != "lines"}]
    events = (
        "SELECT array_agg(type ORDER BY event_id) FROM outbox WHERE entity = 'receipt' AND identifier = %s"
    )
    assert value(owner, events, str(receipt["id"])) == [
        "receipt.created",
        "receipt.receiving",
        "receipt.received",
    ]


def test_h2_receipts_refuse_the_moves_that_the_domain_refuses(
    service: Service, mine: Tenant, owner: Connection
) -> None:
    sku = new_sku(owner, mine)
    for state in RECEIPT.moves:
        for action in sorted(RECEIPT.actions):
            receipt = announce(owner, mine, [(sku, 1)])
            owner.execute("UPDATE receipts SET status = %s WHERE receipt_id = %s", (state, receipt))
            stock = service.get(f"/api/v1/stock/{sku}", mine).json()["on_hand"]
            body: dict[str, Any] = {}
            if action == "receive":
                body = {"lines": [{"line_number": 1, "location": "A-1-1", "quantity": 1}]}
            path = "lines" if action == "receive" else action
            response = service.post(f"/api/v1/receipts/{receipt}/{path}", mine, body)
            after = value(owner, "SELECT status FROM receipts WHERE receipt_id = %s", receipt)
            if action in RECEIPT.moves[state]:
                assert (response.status, after) == (200, RECEIPT.after(state, action))
            else:
                assert (response.status, after) == (409, state), (state, action)
                assert response.json()["type"] == "urn:wms:problem:illegal-move"
                assert f"is {state}" in response.json()["detail"]
                assert service.get(f"/api/v1/stock/{sku}", mine).json()["on_hand"] == stock


def test_a_refused_delivery_books_nothing(
    service: Service, mine: Tenant, owner: Connection, app: Connection
) -> None:
    skus = [new_sku(owner, mine) for _ in range(2)]
    receipt = announce(owner, mine, [(sku, 5) for sku in skus])
    move(app, mine, "receipt", skus[1], None, "A-1-2", 1)
    owner.execute(
        "UPDATE inventory_master SET status = 'BLOCKED' WHERE sku_id = %s", (sku_id(owner, mine, skus[1]),)
    )
    good = {"line_number": 1, "location": "A-1-1", "quantity": 1}
    for bad, status, text in (
        ({"line_number": 3, "location": "A-1-1", "quantity": 1}, 422, "no such line: 3"),
        ({"line_number": 2, "location": "Z-9-9", "quantity": 1}, 422, "no such location: Z-9-9"),
        ({"line_number": 2, "location": "A-1-2", "quantity": 1}, 409, f"blocked: {skus[1]} at A-1-2"),
    ):
        response = service.post(f"/api/v1/receipts/{receipt}/lines", mine, {"lines": [good, bad]})
        assert (response.status, text in response.json()["detail"]) == (status, True), response.data
    assert value(owner, "SELECT status FROM receipts WHERE receipt_id = %s", receipt) == "EXPECTED"
    assert service.get(f"/api/v1/stock/{skus[0]}", mine).json()["warehouses"] == []
    line = {"sku": "NONE", "expected": 1}
    unknown = service.post(
        "/api/v1/receipts", mine, {"receipt_number": "R-X", "supplier": "x", "lines": [line]}
    )
    assert (unknown.status, unknown.json()["errors"][0]["field"]) == (422, "lines.sku")


def test_a_number_is_taken_once(service: Service, mine: Tenant, owner: Connection) -> None:
    body = {
        "receipt_number": f"R-{next(NUMBERS)}",
        "supplier": "x",
        "lines": [{"sku": new_sku(owner, mine), "expected": 1}],
    }
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: service.post("/api/v1/receipts", mine, body), range(6)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 5


# Every endpoint


def test_d2_each_endpoint_runs_one_statement(
    db: Database, service: Service, tenants: list[Tenant], owner: Connection
) -> None:
    mine, other = tenants
    # What nobody has asked for yet is in no cache.
    sku = new_sku(owner, mine)
    fresh = value(
        owner,
        "INSERT INTO warehouses (tenant_id, code, name) VALUES (%s, 'whx', 'CD Natal') RETURNING warehouse_id",
        mine.id,
    )
    receipt = announce(owner, mine, [(sku, 5)])
    warehouse = f"warehouse_id={mine.warehouse}"
    line = {"line_number": 1, "location": "A-1-1", "quantity": 5}
    steps: list[Callable[[], Any]] = [
        lambda: service.get("/api/v1/skus", mine),
        lambda: service.get("/api/v1/skus?q=parafuso&abc_class=C", mine),
        lambda: service.get(f"/api/v1/skus/{sku}", mine),
        lambda: service.get(f"/api/v1/stock?{warehouse}&sku={sku}", mine),
        lambda: service.get("/api/v1/warehouses", other),
        lambda: service.get(f"/api/v1/warehouses/{fresh}/capacity", mine),
        lambda: service.get(f"/api/v1/locations?{warehouse}", mine),
        lambda: service.get(f"/api/v1/movements?{warehouse}", mine),
        lambda: service.get(f"/api/v1/receipts?{warehouse}", mine),
        lambda: service.get(f"/api/v1/receipts/{receipt}?{warehouse}", mine),
        lambda: service.post(f"/api/v1/receipts/{receipt}/lines", mine, {"lines": [line]}),
        lambda: service.post(f"/api/v1/receipts/{receipt}/close", mine, {}),
    ]
    for tenant in tenants:
        assert service.get("/api/v1/skus", tenant).status == 200
    with db.connect("postgres") as root:
        for number, step in enumerate(steps):
            root.execute("SELECT pg_stat_statements_reset()")
            assert step().status == 200, number
            found = own_statements(root)
            # The list of warehouses was read when the service started.
            allowed: list[list[int]] = [[1], []] if number == WAREHOUSES_STEP else [[1]]
            assert [calls for _, calls in found] in allowed, (number, found)


def own_statements(root: Connection) -> list[tuple[str, int]]:
    """What the service ran, without what runs in its background and the frame of a write."""
    rows = root.execute(
        "SELECT s.query, s.calls FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid "
        "WHERE r.rolname = 'wms_app' AND s.toplevel"
    ).fetchall()
    return [(query, calls) for query, calls in rows if not any(word in query for word in BACKGROUND)]


def test_h2_a_tenant_reaches_nothing_of_another(
    service: Service, tenants: list[Tenant], owner: Connection, app: Connection
) -> None:
    mine, other = tenants
    sku = new_sku(owner, mine, "Exclusivo omega")
    receipt = announce(owner, mine, [(sku, 5)])
    warehouse = f"warehouse_id={mine.warehouse}"
    for target in (
        "/api/v1/skus?q=omega",
        f"/api/v1/locations?{warehouse}",
        f"/api/v1/movements?{warehouse}",
        f"/api/v1/receipts?{warehouse}",
        f"/api/v1/stock?{warehouse}&sku={sku}",
    ):
        assert service.data(target, mine) or "stock" in target or "movements" in target
        assert service.data(target, other) == [], target
    for target in (
        f"/api/v1/skus/{sku}",
        f"/api/v1/warehouses/{mine.warehouse}/capacity",
        f"/api/v1/receipts/{receipt}?{warehouse}",
    ):
        assert service.get(target, mine).status == 200
        assert service.get(target, other).status == 404
    body = {"warehouse_id": mine.warehouse}
    line = {"line_number": 1, "location": "A-1-1", "quantity": 1}
    assert service.post(f"/api/v1/receipts/{receipt}/lines", other, body | {"lines": [line]}).status == 404
    assert service.post(f"/api/v1/receipts/{receipt}/cancel", other, body).status == 404
    # The one function that runs as the owner: no tenant, no rows; a tenant, only its rows.
    matching = "SELECT count(*) FROM skus_matching('omega', NULL, NULL, 10)"
    assert value(app, matching) == 0
    for tenant, found in ((other, 0), (mine, 1)):
        app.execute("SELECT set_config('app.tenant_id', %s, false)", (str(tenant.id),))
        assert value(app, matching) == found
    app.execute("SELECT set_config('app.tenant_id', '', false)")
    for table in ("carried_balances", "receipts", "receipt_lines"):
        assert value(app, f"SELECT count(*) FROM {table}") == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("SELECT carry_forward('2024-01-01')")


# Migrations beside the traffic


@pytest.fixture
def blank(db: Database) -> Iterator[Callable[[], Connection]]:
    """Opens owner connections to a database that has every migration before the one of the search."""
    with db.connect("postgres") as connection:
        connection.execute("CREATE DATABASE blank OWNER wms_owner")
        opened: list[Connection] = []

        def connect() -> Connection:
            opened.append(db.connect("wms_owner", database="blank"))
            return opened[-1]

        try:
            runner.up(connect(), before_search(), 3000, print)
            yield connect
        finally:
            for other in opened:
                other.close()
            connection.execute("DROP DATABASE blank WITH (FORCE)")


def search_file() -> files.Migration:
    return next(migration for migration in files.read() if migration.name == "search")


def before_search() -> tuple[files.Migration, ...]:
    return tuple(migration for migration in files.read() if migration.number < search_file().number)


def through_search() -> tuple[files.Migration, ...]:
    return (*before_search(), search_file())


def is_valid(connection: Connection, index: str) -> bool | None:
    statement = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
    found = value(connection, statement, index)
    return None if found is None else bool(found)


def test_an_interrupted_build_is_dropped_and_built_again(blank: Callable[[], Connection]) -> None:
    connection, said = blank(), list[str]()
    connection.execute("INSERT INTO tenants (name) VALUES ('t')")
    connection.execute(
        "INSERT INTO skus (tenant_id, code, name) SELECT 1, n::text, 'n' FROM generate_series(1, 2) n"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("CREATE UNIQUE INDEX CONCURRENTLY skus_name ON skus (tenant_id)")
    assert is_valid(connection, "skus_name") is False
    # One month is done already, as after a runner that was killed.
    month = value(connection, "SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = "
                  "'inventory_transactions'::regclass")  # fmt: skip
    connection.execute(
        f"CREATE INDEX {month}_sku ON {month} (tenant_id, warehouse_id, sku_id, transaction_id)".encode()
    )
    assert runner.up(connection, through_search(), 3000, said.append) == 1
    assert "dropping skus_name, which an interrupted build has left invalid" in said
    assert f"{month}_sku is there already" in said
    for index in ("skus_name", "skus_name_folded", "inventory_transactions_sku"):
        assert is_valid(connection, index) is True, index
    # The months to come get it too.
    connection.execute("SELECT ensure_transaction_partitions('2031-01-01', 1)")
    assert is_valid(connection, "inventory_transactions_sku") is True
    assert (
        value(
            connection, "SELECT count(*) FROM pg_indexes WHERE tablename = 'inventory_transactions_2031_01'"
        )
        == 3
    )


def test_a_build_waits_so_long_and_holds_nobody_up(blank: Callable[[], Connection]) -> None:
    connection, reader, writer = blank(), blank(), blank()
    said: list[str] = []
    writer.execute("INSERT INTO tenants (name) VALUES ('t')")
    with reader.transaction():
        # An old transaction that has written: a build must wait for its end.
        reader.execute("INSERT INTO skus (tenant_id, code, name) VALUES (1, 'old', 'n')")
        with ThreadPoolExecutor(1) as threads:
            building = threads.submit(runner.up, connection, through_search(), 100, said.append)
            slowest, number = 0.0, 0
            while not building.done():
                started = time.monotonic()
                number += 1
                writer.execute(
                    "INSERT INTO skus (tenant_id, code, name) VALUES (1, %s, 'n')", (f"w{number}",)
                )
                slowest = max(slowest, time.monotonic() - started)
                time.sleep(0.02)
        assert slowest < 1
        with pytest.raises(files.MigrationError, match=r"a lock was not free within 100 ms .* run it again"):
            building.result()
    assert sum("trying again" in line for line in said) == runner.ATTEMPTS - 1
    assert is_valid(connection, "skus_name") is not True
    assert runner.up(connection, through_search(), 3000, said.append) == 1
    assert is_valid(connection, "skus_name") is True


def test_the_build_ran_through_the_pooler_in_transaction_mode(db: Database, owner: Connection) -> None:
    assert is_valid(owner, "skus_name") is True
    with db.connect("wms_owner", port=POOLER_PORT) as connection:
        # What the runner set for its session is not left to the next one.
        assert value(connection, "SHOW lock_timeout") == "0"


def test_a_request_of_the_most_lines_fits(service: Service, mine: Tenant, owner: Connection) -> None:
    sku = new_sku(owner, mine)
    lines = [{"sku": sku, "expected": 1_000_000}] * MAX_LINES
    body = {"receipt_number": f"R-{next(NUMBERS)}", "supplier": "x" * 200, "lines": lines}
    made = service.post("/api/v1/receipts", mine, body)
    assert made.status == 201, made.data
    came = [{"line_number": n, "location": "A-4-50", "quantity": 1_000_000} for n in range(1, MAX_LINES + 1)]
    started = time.monotonic()
    booked = service.post(f"/api/v1/receipts/{made.json()['id']}/lines", mine, {"lines": came})
    assert booked.status == 200, booked.data
    assert time.monotonic() - started < 2
