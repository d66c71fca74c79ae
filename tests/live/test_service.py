"""The service against a real PostgreSQL behind a real PgBouncer, as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support import service as support
from tests.support.postgres import PASSWORDS, POOLER_PORT, Database
from tests.support.service import Service, Tenant, command, sent_by_requests, until
from wms.domain.movements import InsufficientStock, Movement, settle
from wms.migrations import files, runner

pytestmark = pytest.mark.live
ROOT = Path(__file__).resolve().parents[2]
DATABASE_ADDRESS = "127.43.9.1"
SERVICE_ADDRESS = "127.43.9.2"
PORT = 8000
KEYS = count()


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    """The two servers with the schema in place."""
    with support.migrated(DATABASE_ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(db: Database, tmp_path_factory: pytest.TempPathFactory) -> list[Tenant]:
    """Two tenants with sample data and keys."""
    return support.seeded(db, tmp_path_factory.mktemp("keys"), "--skus", "40")


SETTINGS = {"WMS_PROBE_INTERVAL_MS": "200", "WMS_DRAIN_MS": "500", "WMS_WRITE_ATTEMPT_MS": "1000"}


@pytest.fixture(scope="module")
def service(
    db: Database, tenants: list[Tenant], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with support.service(
        db, tmp_path_factory.mktemp("service"), SERVICE_ADDRESS, scheme="https", **SETTINGS
    ) as made:
        yield made


@pytest.fixture
def owner(db: Database) -> Iterator[psycopg.Connection[Any]]:
    with db.connect("wms_owner") as connection:
        yield connection


@pytest.fixture
def app(db: Database) -> Iterator[psycopg.Connection[Any]]:
    """The service's own role, past the service."""
    with db.connect("wms_app") as connection:
        yield connection


def value(connection: psycopg.Connection[Any], statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters or None).fetchone()
    return row[0] if row else None


def new_sku(owner: psycopg.Connection[Any], tenant: Tenant) -> str:
    """A SKU without stock."""
    code = f"T-{next(KEYS)}"
    owner.execute("INSERT INTO skus (tenant_id, code, name) VALUES (%s, %s, 'teste')", (tenant.id, code))
    return code


def ledger_rows(owner: psycopg.Connection[Any], sku: str) -> int:
    statement = (
        "SELECT count(*) FROM inventory_transactions JOIN skus USING (tenant_id, sku_id) WHERE code = %s"
    )
    return int(value(owner, statement, sku))


def differences(owner: psycopg.Connection[Any]) -> list[Any]:
    """Balances that are not the sum of their ledger."""
    return owner.execute(
        """
        WITH flow AS (
            SELECT tenant_id, warehouse_id, sku_id, to_location_id AS location_id, quantity
            FROM inventory_transactions WHERE to_location_id IS NOT NULL
            UNION ALL
            SELECT tenant_id, warehouse_id, sku_id, from_location_id, -quantity
            FROM inventory_transactions WHERE from_location_id IS NOT NULL
        ), summed AS (
            SELECT tenant_id, warehouse_id, sku_id, location_id, sum(quantity) AS units FROM flow GROUP BY 1,
            2, 3, 4
        )
        SELECT m.*, s.units FROM inventory_master m
        FULL JOIN summed s USING (tenant_id, warehouse_id, sku_id, location_id)
        WHERE coalesce(m.on_hand, 0) <> coalesce(s.units, 0)
        """
    ).fetchall()


# Migrations and sample data


def quiet(_text: str) -> None:
    pass


@pytest.fixture
def blank(db: Database) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """Opens owner connections to an empty database."""
    with db.connect("postgres") as connection:
        connection.execute("CREATE DATABASE blank OWNER wms_owner")
        opened: list[psycopg.Connection[Any]] = []

        def connect() -> psycopg.Connection[Any]:
            opened.append(db.connect("wms_owner", database="blank"))
            return opened[-1]

        try:
            yield connect
        finally:
            for other in opened:
                other.close()
            connection.execute("DROP DATABASE blank WITH (FORCE)")


def test_migrations_twice_change_nothing_the_second_time(db: Database) -> None:
    done = command(db, "wms.migrations", "up")
    assert (done.returncode, done.stderr) == (0, f"0 applied, schema is at {files.latest():04d}\n")
    status = command(db, "wms.migrations", "status")
    assert status.returncode == 0
    assert "pending" not in status.stdout


def test_runners_at_the_same_time_apply_each_migration_once(
    blank: Callable[[], psycopg.Connection[Any]],
) -> None:
    with ThreadPoolExecutor(3) as threads:
        counts = list(
            threads.map(lambda c: runner.up(c, files.read(), 10_000, quiet), [blank() for _ in range(3)])
        )
    assert sorted(counts) == [0, 0, files.latest()] or sum(counts) == files.latest()
    assert all(state.applied_at for state in runner.status(blank(), files.read()))


def test_a_changed_checksum_is_refused_and_a_failing_file_rolled_back(
    blank: Callable[[], psycopg.Connection[Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(files.FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    number = files.latest() + 1
    (folder / f"{number:04d}_broken.sql").write_text("CREATE TABLE half (); SELECT no_such_function();")
    connection = blank()
    with pytest.raises(files.MigrationError, match=r"rolled back: .*no_such_function"):
        runner.up(connection, files.read(folder), 3000, quiet)
    assert value(connection, "SELECT max(number) FROM schema_migrations") == files.latest()
    assert value(connection, "SELECT to_regclass('half')") is None

    (folder / f"{number:04d}_broken.sql").unlink()
    first = folder / "0001_tenants.sql"
    first.write_text(first.read_text() + "\n-- edited")
    with pytest.raises(files.MigrationError, match=r"0001_tenants\.sql has changed since it was applied"):
        runner.up(connection, files.read(folder), 3000, quiet)


def test_a_migration_waits_for_a_lock_only_so_long(blank: Callable[[], psycopg.Connection[Any]]) -> None:
    holder = blank()
    with holder.transaction():
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (runner.LOCK_KEY,))
        started = time.monotonic()
        with pytest.raises(files.MigrationError, match="a lock was not free within 200 ms"):
            runner.up(blank(), files.read(), 200, quiet)
        assert time.monotonic() - started < 5


def test_sample_data_twice_is_the_same_data_and_the_same_keys(
    db: Database, owner: psycopg.Connection[Any], tmp_path: Path
) -> None:
    arguments = (
        "--tenants",
        "3",
        "--skus",
        "30",
        "--warehouses",
        "1",
        "--keys-out",
        str(tmp_path / "keys.json"),
    )
    counted = "SELECT (SELECT count(*) FROM inventory_master), (SELECT count(*) FROM inventory_transactions)"
    seen = []
    for _ in range(2):
        assert command(db, "wms.seed", *arguments).returncode == 0
        seen.append((owner.execute(counted.encode()).fetchone(), (tmp_path / "keys.json").read_bytes()))
    assert seen[0] == seen[1]
    assert not differences(owner)


def test_months_are_partitions_of_utc_whatever_the_session_thinks(owner: psycopg.Connection[Any]) -> None:
    owner.execute("SET timezone = 'America/Sao_Paulo'")
    assert value(owner, "SELECT ensure_transaction_partitions('2031-01-15', 2)") == 2
    assert value(owner, "SELECT ensure_transaction_partitions('2031-01-01', 2)") == 0
    owner.execute("SET timezone = 'UTC'")
    bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s"
    found = value(owner, bounds, "inventory_transactions_2031_02")
    assert found == "FOR VALUES FROM ('2031-02-01 00:00:00+00') TO ('2031-03-01 00:00:00+00')"


def test_the_indexes_of_row_d1_exist(owner: psycopg.Connection[Any]) -> None:
    rows = owner.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'").fetchall()
    found = "\n".join(row[0] for row in rows)
    wanted = (
        "inventory_master USING btree (warehouse_id, sku_id, location_id) WHERE (status = 'ACTIVE'::text)"
    )
    assert wanted in found
    assert "inventory_transactions USING brin (created_at)" in found


# Movements


def test_a_movement_of_each_kind_is_one_ledger_row(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    tenant, sku = tenants[0], new_sku(owner, tenants[0])
    steps: list[tuple[str, dict[str, Any], dict[str, int]]] = [
        ("receipt", {"to_location": "A-1-1", "quantity": 10}, {"A-1-1": 10}),
        ("issue", {"from_location": "A-1-1", "quantity": 3}, {"A-1-1": 7}),
        (
            "transfer",
            {"from_location": "A-1-1", "to_location": "A-1-2", "quantity": 2},
            {"A-1-1": 5, "A-1-2": 2},
        ),
        (
            "transfer",
            {"from_location": "A-1-2", "to_location": "A-1-1", "quantity": 1},
            {"A-1-2": 1, "A-1-1": 6},
        ),
        ("adjustment", {"location": "A-1-2", "change": 4, "reference": "found"}, {"A-1-2": 5}),
        ("adjustment", {"location": "A-1-2", "change": -5, "reference": "broken"}, {"A-1-2": 0}),
    ]
    for number, (kind, body, balances) in enumerate(steps, start=1):
        response = service.move(tenant, kind, sku=sku, **body)
        assert response.status == 201, response.data
        assert {b["location"]: b["on_hand"] for b in response.json()["balances"]} == balances
        assert ledger_rows(owner, sku) == number
    stock = service.get(f"/api/v1/stock?warehouse_id={tenant.warehouse}&sku={sku}", tenant).json()["data"]
    assert {row["location"]: row["on_hand"] for row in stock} == {"A-1-1": 6, "A-1-2": 0}
    totals = service.get(f"/api/v1/stock/{sku}", tenant).json()
    assert (totals["on_hand"], totals["warehouses"][0]["locations"]) == (6, 2)
    assert not differences(owner)


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"quantity": 1}, 409, ""),
        ({"sku": "NONE"}, 422, "sku"),
        ({"from_location": "Z-9-9"}, 422, "from_location"),
        ({"warehouse_id": 999_999}, 422, "warehouse_id"),
    ],
)
def test_a_refused_movement_changes_nothing_and_keeps_no_key(
    service: Service,
    tenants: list[Tenant],
    owner: psycopg.Connection[Any],
    changes: dict[str, Any],
    status: int,
    field: str,
) -> None:
    sku, key = new_sku(owner, tenants[0]), f"refused-{next(KEYS)}"
    body = {"sku": sku, "from_location": "A-1-1", "quantity": 1} | changes
    response = service.move(tenants[0], "issue", key=key, **body)
    assert response.status == status, response.data
    assert [error["field"] for error in response.json().get("errors", [])] == ([field] if field else [])
    assert ledger_rows(owner, sku) == 0
    assert (
        value(
            owner, "SELECT count(*) FROM inventory_master m JOIN skus s USING (sku_id) WHERE code = %s", sku
        )
        == 0
    )
    assert (
        service.move(tenants[0], "receipt", key=key, sku=sku, to_location="A-1-1", quantity=1).status == 201
    )


def test_a_blocked_balance_refuses_every_movement(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    tenant, sku = tenants[0], new_sku(owner, tenants[0])
    for place in ("A-1-1", "A-1-2"):
        assert service.move(tenant, "receipt", sku=sku, to_location=place, quantity=5).status == 201
    owner.execute(
        "UPDATE inventory_master m SET status = 'BLOCKED' FROM skus s, locations l WHERE s.sku_id = m.sku_id "
        "AND l.location_id = m.location_id AND s.code = %s AND l.code = 'A-1-2'",
        (sku,),
    )
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("receipt", {"to_location": "A-1-2", "quantity": 1}),
        ("issue", {"from_location": "A-1-2", "quantity": 1}),
        ("transfer", {"from_location": "A-1-2", "to_location": "A-1-1", "quantity": 1}),
        ("transfer", {"from_location": "A-1-1", "to_location": "A-1-2", "quantity": 1}),
    ]
    for kind, body in bodies:
        response = service.move(tenant, kind, sku=sku, **body)
        assert (response.status, response.json()["type"]) == (409, "urn:wms:problem:balance-blocked")
    assert ledger_rows(owner, sku) == 2
    assert not differences(owner)


def test_exactly_as_many_issues_succeed_as_there_are_units(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    issuers, units = 40, 15
    sku = new_sku(owner, tenants[0])
    assert service.move(tenants[0], "receipt", sku=sku, to_location="A-1-1", quantity=units).status == 201
    start = threading.Barrier(issuers)

    def issue(_: int) -> int:
        start.wait(20)
        return int(service.move(tenants[0], "issue", sku=sku, from_location="A-1-1", quantity=1).status)

    with ThreadPoolExecutor(issuers) as threads:
        assert Counter(threads.map(issue, range(issuers))) == {201: units, 409: issuers - units}
    assert ledger_rows(owner, sku) == 1 + units
    assert not differences(owner)


def test_opposite_transfers_neither_deadlock_nor_lose_a_unit(
    service: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    service.move(tenants[0], "receipt", sku=sku, to_location="A-1-1", quantity=100)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'wms'"
    before = value(owner, deadlocks)

    def transfer(number: int) -> int:
        # A third location joins, so that target rows are being created meanwhile.
        places = [("A-1-1", "A-1-2"), ("A-1-2", "A-1-1"), ("A-1-1", "A-1-3"), ("A-1-3", "A-1-2")][number % 4]
        body = {"from_location": places[0], "to_location": places[1]}
        return int(service.move(tenants[0], "transfer", sku=sku, quantity=1, **body).status)

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(transfer, range(200))) <= {201, 409}
    assert service.get(f"/api/v1/stock/{sku}", tenants[0]).json()["on_hand"] == 100
    assert not differences(owner)
    owner.execute("SELECT pg_stat_clear_snapshot()")
    assert value(owner, deadlocks) == before


def test_the_database_follows_the_rule_of_the_domain(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    tenant, sku, random = tenants[0], new_sku(owner, tenants[0]), Random(3)
    expected: dict[str, int] = {}
    for _ in range(150):
        kind = random.choice(("receipt", "issue", "transfer"))
        source, target = random.sample(("A-1-1", "A-1-2", "A-1-3"), 2)
        sides = {} if kind == "receipt" else {"from_location": source}
        sides |= {} if kind == "issue" else {"to_location": target}
        quantity = random.randint(1, 12)
        movement = Movement(
            kind=kind,  # type: ignore[arg-type]
            warehouse_id=tenant.warehouse,
            sku=sku,
            source=sides.get("from_location"),
            target=sides.get("to_location"),
            quantity=quantity,
        )
        response = service.move(tenant, kind, sku=sku, quantity=quantity, **sides)
        refusal = ""
        try:
            expected = settle(expected, movement)
        except InsufficientStock as error:
            refusal = str(error)
        if refusal:
            assert (response.status, response.json()["detail"]) == (409, refusal)
            continue
        assert response.status == 201, response.data
        for balance in response.json()["balances"]:
            assert expected[balance["location"]] == balance["on_hand"]


# Idempotency


def test_a_repeated_request_gets_the_same_answer_and_moves_once(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    body: dict[str, Any] = {"sku": sku, "to_location": "A-1-1", "quantity": 5}
    first = service.move(tenants[0], "receipt", key="same", **body)
    service.move(tenants[0], "receipt", sku=sku, to_location="A-1-1", quantity=1)
    second = service.move(tenants[0], "receipt", key="same", **body)
    assert (first.status, second.status) == (201, 201)
    assert first.data == second.data
    assert second.headers["idempotency-replayed"] == "true"
    assert ledger_rows(owner, sku) == 2
    other = service.move(tenants[0], "receipt", key="same", **body | {"quantity": 6})
    assert (other.status, other.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
    # A key belongs to its tenant.
    foreign = new_sku(owner, tenants[1])
    assert service.move(tenants[1], "receipt", key="same", **body | {"sku": foreign}).status == 201


def test_one_of_many_simultaneous_requests_with_a_key_moves(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])

    def send(_: int) -> Any:
        return service.move(tenants[0], "receipt", key="rush", sku=sku, to_location="A-1-1", quantity=5)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(send, range(32)))
    assert {a.status for a in answers} <= {201, 409}
    assert len({a.data for a in answers if a.status == 201}) == 1
    assert ledger_rows(owner, sku) == 1


def test_a_key_in_flight_is_a_conflict(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    body: dict[str, Any] = {"sku": sku, "to_location": "A-1-1", "quantity": 1}
    with owner.transaction():
        owner.execute("SELECT pg_advisory_xact_lock(hashtextextended('held', %s))", (tenants[0].id,))
        response = service.move(tenants[0], "receipt", key="held", **body)
        assert (response.status, response.json()["type"]) == (409, "urn:wms:problem:request-in-flight")
        assert response.headers["retry-after"] == "1"
    assert service.move(tenants[0], "receipt", key="held", **body).status == 201


def test_a_repeated_attempt_waits_for_its_own_first_one(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    body: dict[str, Any] = {"sku": sku, "to_location": "A-1-1", "quantity": 1}
    assert service.move(tenants[0], "receipt", **body).status == 201
    with ThreadPoolExecutor(1) as threads:
        with owner.transaction():
            owner.execute(
                "SELECT FROM inventory_master JOIN skus USING (tenant_id, sku_id) WHERE code = %s FOR UPDATE",
                (sku,),
            )
            # The first attempt is given up meanwhile, but goes on waiting in the server, and holds its key.
            write = threads.submit(service.move, tenants[0], "receipt", **body)
            time.sleep(1.6)
            assert not write.done()
        assert write.result(20).status == 201
    assert ledger_rows(owner, sku) == 2
    assert not differences(owner)


def test_a_key_is_forgotten_after_24_hours(
    service: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    for key in ("old", "older"):
        assert (
            service.move(tenants[0], "receipt", key=key, sku=sku, to_location="A-1-1", quantity=1).status
            == 201
        )
    owner.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 s' "
        "WHERE key IN ('old', 'older')"
    )
    assert (
        service.move(tenants[0], "receipt", key="old", sku=sku, to_location="A-1-1", quantity=2).status == 201
    )
    with db.connect("wms_worker") as worker:
        assert value(worker, "SELECT forget_idempotency_keys(100)") == 1
    assert (
        value(owner, "SELECT string_agg(key, ',') FROM idempotency_keys WHERE key IN ('old', 'older')")
        == "old"
    )


# Tenants


def tenant_tables(owner: psycopg.Connection[Any]) -> list[str]:
    rows = owner.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE a.attname = 'tenant_id' AND c.relkind IN ('r', 'p') "
        "AND c.relnamespace = 'public'::regnamespace ORDER BY 1"
    ).fetchall()
    return [row[0] for row in rows]


def test_no_tenant_no_rows_and_a_tenant_only_its_rows(
    tenants: list[Tenant], owner: psycopg.Connection[Any], app: psycopg.Connection[Any]
) -> None:
    readable = 0
    for table in tenant_tables(owner):
        select = sql.SQL("SELECT DISTINCT tenant_id FROM {}").format(sql.Identifier(table))
        for setting, expected in (("", set()), (str(tenants[0].id), {tenants[0].id})):
            try:
                with app.transaction():
                    app.execute("SELECT set_config('app.tenant_id', %s, true)", (setting,))
                    found = {row[0] for row in app.execute(select).fetchall()}
            except psycopg.errors.InsufficientPrivilege:
                # Partitions are reached through their parent only, keys through a function only, events not at all.
                assert table in ("api_keys", "outbox") or table.startswith("inventory_transactions_")
                continue
            readable += 1
            assert found <= expected, table
    assert readable >= 14
    with app.transaction():
        app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(tenants[0].id),))
        assert value(app, "SELECT count(*) FROM inventory_master") > 0
    # Never set in this session, and set to nothing after a transaction that had it.
    assert value(app, "SELECT count(*) FROM inventory_master") == 0


def test_the_services_role_can_neither_bypass_nor_rewrite(
    tenants: list[Tenant], owner: psycopg.Connection[Any], app: psycopg.Connection[Any]
) -> None:
    rights = "rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb"
    assert value(owner, f"SELECT {rights} FROM pg_roles WHERE rolname = 'wms_app'") is False
    assert value(owner, "SELECT count(*) FROM pg_class WHERE relowner = 'wms_app'::regrole") == 0
    own, other = tenants[0].id, tenants[1].id
    for statement in (
        "UPDATE inventory_transactions SET quantity = 1",
        "DELETE FROM inventory_transactions",
        "DELETE FROM inventory_master",
        "UPDATE inventory_master SET tenant_id = tenant_id",
        "SELECT * FROM api_keys",
        "SELECT ensure_transaction_partitions('2040-01-01', 1)",
        "ALTER TABLE inventory_master DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine ()",
        f"INSERT INTO idempotency_keys VALUES ({other}, 'k', sha256(''), '{{}}', now())",
    ):
        with app.transaction():
            app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(own),))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())
            # An error leaves nothing to commit.
            raise psycopg.Rollback


def test_a_tenant_reaches_nothing_of_another_through_the_api(
    service: Service, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    mine, other = tenants
    sku = new_sku(owner, other)
    assert service.move(other, "receipt", sku=sku, to_location="A-1-1", quantity=5).status == 201
    assert service.get(f"/api/v1/stock/{sku}", mine).status == 404
    assert service.get(f"/api/v1/stock?warehouse_id={other.warehouse}&sku={sku}", mine).json() == {"data": []}
    assert service.get(f"/api/v1/stock?warehouse_id={other.warehouse}&sku=SKU-000001", mine).json() == {
        "data": []
    }
    body: dict[str, Any] = {
        "sku": "SKU-000001",
        "warehouse_id": other.warehouse,
        "from_location": "A-1-1",
        "quantity": 1,
    }
    response = service.move(mine, "issue", **body)
    assert (response.status, response.json()["errors"][0]["field"]) == (422, "warehouse_id")


def test_a_revoked_key_opens_nothing_after_its_time(
    db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any], app: psycopg.Connection[Any]
) -> None:
    owner.execute(
        "INSERT INTO api_keys (tenant_id, key_hash, name) VALUES (%s, sha256('gone'), 't')", (tenants[0].id,)
    )
    asked = "SELECT tenant_id FROM principal_of_api_key(sha256('gone'))"
    assert value(app, asked) == tenants[0].id
    owner.execute("UPDATE api_keys SET revoked_at = now() WHERE name = 't'")
    assert value(app, asked) is None


# Cost


def test_each_endpoint_runs_one_statement_of_its_own(
    service: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    service.move(tenants[0], "receipt", sku=sku, to_location="A-1-1", quantity=5)
    post = [
        "BEGIN",
        "COMMIT",
        "SELECT outcome, answer FROM post_movement",
        "SELECT pg_current_wal_flush_lsn()::text",
    ]
    wanted: list[tuple[Callable[[], Any], list[str]]] = [
        (
            lambda: service.get(f"/api/v1/stock?warehouse_id={tenants[0].warehouse}&sku={sku}", tenants[0]),
            ["SELECT location, on_hand, reserved, updated_at FROM stock_lookup"],
        ),
        (
            lambda: service.get(f"/api/v1/stock/{sku}", tenants[0]),
            ["SELECT name, warehouse_id, warehouse, on_hand, reserved, locations FROM stock_totals"],
        ),
        # Four statements, but one message: one round trip. So is a read with the question how far its server is.
        (lambda: service.move(tenants[0], "issue", sku=sku, from_location="A-1-1", quantity=1), post),
    ]
    with db.connect("postgres") as admin:
        for call, statements in wanted:
            admin.execute("SELECT pg_stat_statements_reset()")
            assert call().status in (200, 201)
            rows = [row for row in sent_by_requests(admin) if "pg_last_wal_replay_lsn" not in row[0]]
            assert sorted((row[0].split("(%")[0].split("($")[0], row[1]) for row in rows) == [
                (statement, 1) for statement in sorted(statements)
            ]


# Trouble


def test_a_pooler_that_dies_degrades_and_a_write_rides_it_out(
    service: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    db.kill("pgbouncer")
    try:
        until("degraded", lambda: service.state() == "degraded")
        assert service.get("/health/ready").status == 200
        assert service.get("/health/live").status == 200
        started = time.monotonic()
        response = service.get(f"/api/v1/stock?warehouse_id={tenants[0].warehouse}&sku={sku}", tenants[0])
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert time.monotonic() - started < 3
        with ThreadPoolExecutor(1) as threads:
            body: dict[str, Any] = {"sku": sku, "to_location": "A-1-1", "quantity": 1}
            write = threads.submit(service.move, tenants[0], "receipt", **body)
            time.sleep(1)
            assert not write.done()
            db.start("pgbouncer")
            assert write.result(20).status == 201
    finally:
        if "pgbouncer" not in db._running:
            db.start("pgbouncer")
    until("ready", lambda: service.state() == "ready")
    assert ledger_rows(owner, sku) == 1


def test_a_frozen_database_is_answered_in_time_and_the_pooler_survives_it(
    service: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    body: dict[str, Any] = {"sku": sku, "to_location": "A-1-1", "quantity": 1}
    db.signal("postgres", signal.SIGSTOP)
    try:
        started = time.monotonic()
        with ThreadPoolExecutor(9) as threads:
            reads = [threads.submit(service.get, f"/api/v1/stock/{sku}", tenants[0]) for _ in range(8)]
            write = threads.submit(service.move, tenants[0], "receipt", key="frozen", **body)
            assert {read.result(30).status for read in reads} == {503}
            assert time.monotonic() - started < 4
            assert write.result(30).status == 503
        assert time.monotonic() - started < 8
        assert service.get("/health/ready").status == 200
    finally:
        db.signal("postgres", signal.SIGCONT)
    until("ready", lambda: service.state() == "ready")
    # Whether the lost attempts committed is unknown; the key makes it once.
    assert service.move(tenants[0], "receipt", key="frozen", **body).status == 201
    assert ledger_rows(owner, sku) == 1
    assert db._running["pgbouncer"].poll() is None


def test_statements_of_a_lost_server_session_are_tried_again(
    service: Service, db: Database, tenants: list[Tenant], owner: psycopg.Connection[Any]
) -> None:
    sku = new_sku(owner, tenants[0])
    stop = threading.Event()

    def terminate() -> None:
        with db.connect("postgres") as admin:
            while not stop.wait(0.05):
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE usename = 'wms_app' AND backend_type = 'client backend'"
                )

    killer = threading.Thread(target=terminate)
    killer.start()
    try:
        for _ in range(60):
            assert service.move(tenants[0], "receipt", sku=sku, to_location="A-1-1", quantity=1).status == 201
            assert service.get(f"/api/v1/stock/{sku}", tenants[0]).status == 200
    finally:
        stop.set()
        killer.join(10)
    assert ledger_rows(owner, sku) == 60
    assert not differences(owner)


def test_a_stop_loses_no_request(
    db: Database, service: Service, tenants: list[Tenant], tmp_path: Path
) -> None:
    second = Service(db, tmp_path, "127.43.9.3", SETTINGS | {"WMS_ACCESS_LOG": "all"}, "https")
    try:
        until("ready", lambda: second.state() == "ready")
        target = f"/api/v1/stock?warehouse_id={tenants[0].warehouse}&sku=SKU-000001"
        drained = threading.Event()

        def read() -> list[int]:
            seen = []
            # Until readiness says so, which is when a balancer goes away.
            while not drained.is_set():
                seen.append(second.get(target, tenants[0]).status)
            return seen

        with ThreadPoolExecutor(4) as threads:
            readers = [threads.submit(read) for _ in range(4)]
            time.sleep(0.3)
            second.process.terminate()
            until("draining", lambda: second.get("/health/ready").status == 503, 5)
            drained.set()
            statuses = [status for reader in readers for status in reader.result(10)]
        assert set(statuses) == {200}
        assert second.process.wait(10) == 0
        log = second.log.read_text()
        assert log.count('"event":"request"') >= len(statuses)
        assert tenants[0].key not in log
        for password in PASSWORDS.values():
            assert password not in log
    finally:
        second.stop()


def test_a_busy_port_is_an_error_that_names_it(service: Service, db: Database) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "WMS_BIND_ADDRESS": SERVICE_ADDRESS,
        **db.environment(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "wms.serve"], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert f"cannot listen on {SERVICE_ADDRESS}:{PORT}: Address already in use" in done.stderr


def test_a_service_before_its_migrations_says_so(db: Database, tmp_path: Path) -> None:
    names = ("WMS_DB_WRITE_NAME", "WMS_DB_READ_NAME", "WMS_WORKER_WRITE_NAME", "WMS_WORKER_READ_NAME")
    elsewhere = {"WMS_DB_HOSTS": f"{DATABASE_ADDRESS}:{5432}"} | dict.fromkeys(names, "postgres")
    early = Service(db, tmp_path, "127.43.9.4", SETTINGS | elsewhere, "https")
    try:
        until("up", lambda: early.state() == "degraded")
        until("schema", lambda: "schema_migrations" in str(early.get("/health/ready").json()["checks"]))
        response = early.get("/api/v1/stock/S", Tenant(1, "wms_x", 1))
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert "python -m wms.migrations up" in early.log.read_text()
    finally:
        assert early.stop() == 0


def test_the_pooler_is_in_transaction_mode_and_serves_both_pools(db: Database, service: Service) -> None:
    with db.connect("wms_ops", database="pgbouncer", port=POOLER_PORT) as console:
        rows = psycopg.ClientCursor(console).execute("SHOW POOLS").fetchall()
    modes = {(row[1], row[0]): row[-1] for row in rows if row[1] in ("wms_app", "wms_worker")}
    assert modes == dict.fromkeys(
        (
            ("wms_app", "wms"),
            ("wms_app", "wms_read"),
            ("wms_worker", "wms_worker"),
            ("wms_worker", "wms_worker_read"),
        ),
        "transaction",
    )
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", PORT), timeout=1)
