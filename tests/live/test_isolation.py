"""No tenant sees or changes a row of another one: not through any operation of the API, not as the service's own role.

Operations come from the description, tables and functions from the catalogue; by hand there are only the meanings of
fields and the reasons for exceptions. What is new and has none stops the test.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from tests.support import isolation
from tests.support.isolation import Connection
from tests.support.postgres import Database, database
from tests.support.redis import Cluster, cluster
from tests.support.service import Service, module, service
from tests.support.walk import OMIT, Operation, Request, Words, operations
from wms.store.keys import hash_of

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]
REDIS = ("127.54.1.1", "127.54.1.2", "127.54.1.3")
DATABASE_ADDRESS = "127.54.1.4"
SERVICE_ADDRESS = "127.54.1.5"
PASSWORD = "correct horse battery"
FIRST_ID = 5_000_001
"""Of every sequence, so that a tenant's ids are not found in a text by chance."""
NUMBERS = count(1)

NO_TENANT = {
    "schema_migrations": "The history of the schema: the service compares it with what it was built for."
}
"""Tables without a tenant that wms_app may read: why."""

MADE_UP: dict[str, Any] = {
    "warehouse_id": 987654301, "order_id": 987654302, "order_ids": [987654302], "receipt_id": 987654303,
    "wave_id": 987654304, "task_id": 987654305, "shipment_id": 987654306, "user_id": 987654307,
    "sku": "NOBODYS-SKU", "location": "NOBODYS-PLACE", "from_location": "NOBODYS-PLACE",
    "to_location": "NOBODYS-OTHER", "customer": "NOBODYS-CUSTOMER", "order_number": "NOBODYS-ORDER",
    "receipt_number": "NOBODYS-RECEIPT", "shipment_number": "NOBODYS-SHIPMENT", "username": "nobody",
    "key": "nobodys.key", "api_key_id": 987654308, "cursor_after": OMIT,
}  # fmt: skip
"""Every field that identifies something of a tenant, with what is nobody's."""

TO_BE_GIVEN = ("order_number", "receipt_number", "shipment_number", "username")
"""Names that a request gives to something new."""

OTHERS: dict[str, Any] = {
    "Idempotency-Key": lambda: f"walk-{next(NUMBERS)}", "If-Match": '"1"', "If-None-Match": OMIT, "WMS-Min-LSN": OMIT,
    "limit": 200, "q": "valvula", "status": OMIT, "abc_class": OMIT, "fields": OMIT,
    "quantity": 1, "change": 1, "expected": 1, "line_number": 1, "priority": 5, "unit_price": "1.00",
    "reference": "walk", "supplier": "walk", "carrier": "walk", "tracking_code": "walk", "display_name": "walk",
    "value": 1, "password": PASSWORD, "roles": ["viewer"],
    "name": "walk", "role": "viewer", "active": False, "old_password": PASSWORD, "new_password": PASSWORD + "!",
    # A credential, and no identifier: who has it is who it was given to.
    "refresh_token": "wmsr_" + "x" * 43,
}  # fmt: skip
"""What the other fields are sent as; a choice that is not here is sent as its first one."""


@dataclass(frozen=True)
class Tenant:
    """One tenant, all that it has, and the ways in as its administrator."""

    id: int
    key: str
    token: str
    words: Words

    @property
    def secret(self) -> str:
        """In every text of the tenant that is no identifier."""
        return secret_of(self.id)


def secret_of(tenant_id: int) -> str:
    return f"secret-of-{tenant_id}-valvula"


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    with database(DATABASE_ADDRESS) as made:
        module(made, "wms.migrations", "up")
        yield made


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster(*REDIS) as made:
        yield made


@pytest.fixture(scope="module")
def admin(db: Database) -> Iterator[Connection]:
    with db.connect("postgres") as connection:
        yield connection


@pytest.fixture(scope="module")
def wms(db: Database, nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    variables = nodes.environment() | {"WMS_JWT_KEYS": "a:" + "s" * 32, "WMS_RATE_SIGN_IN": "0"}
    with service(db, tmp_path_factory.mktemp("service"), SERVICE_ADDRESS, **variables) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(wms: Service, db: Database, admin: Connection) -> tuple[Tenant, Tenant]:
    """(the one that asks, the one that it must not reach), both with rows in every table of tenants."""
    admin.execute("SELECT setval(oid::regclass, %s, false) FROM pg_class WHERE relkind = 'S'", (FIRST_ID,))
    with db.connect("wms_owner") as owner:
        mine, theirs = furnished(wms, owner, "mine"), furnished(wms, owner, "theirs")
    empty = [table for table, (rows, _) in isolation.digests(admin, theirs.id).items() if not rows]
    assert not empty, f"give the tenants of this test rows in {empty}, else nothing is shown for them"
    at_rest(admin)
    return mine, theirs


@pytest.fixture(scope="module")
def walk(wms: Service) -> list[Operation]:
    return operations(wms.request("GET", "/api/v1/openapi.json").json())


def furnished(wms: Service, owner: Connection, name: str) -> Tenant:
    """A tenant that has two of everything, each text with its secret."""
    key = f"wms_{name}_{'k' * 40}"
    tenant = one(owner, "INSERT INTO tenants (name) VALUES (%s) RETURNING tenant_id", name)
    secret = secret_of(tenant)

    def named(kind: str) -> list[str]:
        return [f"{kind}-of-{tenant}-{number}" for number in (1, 2)]

    def rows(table: str, column: str, columns: str, *values: tuple[object, ...]) -> list[int]:
        marks = ", ".join(["%s"] * (1 + len(values[0])))
        statement = f"INSERT INTO {table} (tenant_id, {columns}) VALUES ({marks}) RETURNING {column}"
        return [one(owner, statement, tenant, *row) for row in values]

    rows(
        "api_keys",
        "api_key_id",
        "key_hash, name, role, tier",
        (hash_of(key), secret, "administrator", "premium"),
    )
    skus, places, customers = named("sku"), named("place"), named("customer")
    warehouse, _ = rows("warehouses", "warehouse_id", "code, name", *((code, secret) for code in "VW"))
    sku_id, _ = rows("skus", "sku_id", "code, name", *((code, secret) for code in skus))
    location_id, _ = rows(
        "locations",
        "location_id",
        "warehouse_id, code, aisle, level, position",
        *((warehouse, code, secret, 1, place) for place, code in enumerate(places, 1)),
    )
    rows("customers", "customer_id", "code, name", *((code, secret) for code in customers))
    rows(
        "carried_balances",
        "month",
        "warehouse_id, sku_id, location_id, month, quantity",
        (warehouse, sku_id, location_id, "2020-01-01", 0),
    )
    here = {"warehouse_id": warehouse}

    def post(target: str, **body: Any) -> Any:
        return asked(wms, "POST", target, key, body)

    post(
        "movements",
        **here,
        type="receipt",
        sku=skus[0],
        to_location=places[0],
        quantity=900,
        reference=secret,
    )
    receipt, _ = [
        post(
            "receipts",
            **here,
            receipt_number=number,
            supplier=secret,
            lines=[{"sku": skus[0], "expected": 5}],
        )
        for number in named("receipt")
    ]
    lines = [{"sku": skus[0], "quantity": 3, "unit_price": "2.50"}]
    orders = [
        post("orders", **here, order_number=f"order-of-{tenant}-{n}", customer=customers[0], lines=lines)[
            "id"
        ]
        for n in range(5)
    ]
    waves, tasks = [], []
    for order in orders[1:]:
        post(f"orders/{order}/allocate", **here)
        waves.append(post("waves", **here, order_ids=[order])["id"])
        picks = asked(wms, "GET", f"picks?warehouse_id={warehouse}&wave_id={waves[-1]}", key)
        tasks.append(picks["data"][0]["id"])
    for task in tasks[2:]:
        post(f"picks/{task}/confirm", **here, quantity=3)
    shipment, _ = [
        post("shipments", **here, order_id=order, shipment_number=number, carrier=secret)
        for order, number in zip(orders[3:], named("shipment"), strict=True)
    ]
    people = named("user")
    user, _ = [
        post("users", username=person, display_name=secret, password=PASSWORD, roles=["administrator"])
        for person in people
    ]
    signed = post("tokens", username=people[0], password=PASSWORD)
    spare = post("api-keys", name=secret, role="viewer")
    entries = named("key")
    for entry in entries:
        asked(wms, "PUT", f"configuration/{entry}", key, {"value": secret}, {"If-None-Match": "*"})
    words = here | {
        "order_id": orders[0], "order_ids": [orders[0]], "receipt_id": receipt["id"], "wave_id": waves[0],
        "task_id": tasks[0], "shipment_id": shipment["id"], "user_id": user["user_id"], "sku": skus[0],
        "location": places[0], "from_location": places[0], "to_location": places[1], "customer": customers[0],
        "order_number": f"order-of-{tenant}-0", "receipt_number": named("receipt")[0],
        "shipment_number": named("shipment")[0], "api_key_id": spare["api_key_id"], "username": people[0],
        "key": entries[0], "cursor_after": OMIT,
    }  # fmt: skip
    assert words.keys() == MADE_UP.keys()
    return Tenant(tenant, key, signed["access_token"], words)


def one(connection: Connection, statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def asked(
    wms: Service, method: str, target: str, key: str, body: Any = None, headers: dict[str, str] | None = None
) -> Any:
    """The JSON of an answer that must be a success."""
    sent = {"Idempotency-Key": f"made-{next(NUMBERS)}"} | (headers or {})
    answer = wms.request(method, f"/api/v1/{target}", key, headers=sent, json=body)
    assert answer.status in (200, 201), (target, answer.data)
    return answer.json()


def at_rest(admin: Connection) -> None:
    """Until the background has done what it does with new rows: classes of SKUs, numbers of events."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        waiting = one(admin, "SELECT count(*) FROM outbox WHERE sequence IS NULL")
        done = one(
            admin, "SELECT count(*) FROM periodic_jobs WHERE name = 'stock.abc' AND done_at > '-infinity'"
        )
        if done and not waiting:
            return
        time.sleep(0.1)
    raise TimeoutError("the service's background does not come to rest")


def send(wms: Service, request: Request, credential: str) -> Any:
    body = {} if request.body is None else {"json": request.body}
    return wms.request(request.method, request.target, credential, headers=dict(request.headers), **body)


# Through the API


def test_h2_each_operation_shows_its_own_tenant_what_there_is(
    wms: Service, tenants: tuple[Tenant, Tenant], walk: list[Operation]
) -> None:
    """The control: the identifiers that the other tenant will send are good ones. It also fills every cache."""
    theirs = tenants[1]
    shown = set()
    for operation in walk:
        if operation.method == "GET":
            for request in operation.requests(theirs.words, OTHERS):
                answer = send(wms, request, theirs.key)
                assert answer.status == 200, (operation.name, answer.data)
                if theirs.secret.encode() in answer.data:
                    shown.add(operation.name)
    assert len(shown) > 10, shown


def test_h2_no_operation_shows_or_changes_a_row_of_another_tenant(
    wms: Service, admin: Connection, tenants: tuple[Tenant, Tenant], walk: list[Operation]
) -> None:
    """Every operation is asked with one identifier of the other tenant among good ones of one's own, and with all of
    them. The answer is the one that a made-up identifier gets, has no text of the other tenant in it, and that tenant's
    rows are afterwards what they were.
    """
    mine, theirs = tenants
    before = isolation.digests(admin, theirs.id)
    fresh = {name: (lambda name=name: f"{name.replace('_', '-')}-{next(NUMBERS)}") for name in TO_BE_GIVEN}
    own = {**mine.words, **fresh}
    compared = 0
    for operation in walk:
        found = operation.identifiers(MADE_UP, OTHERS)
        changed = sorted({(name,) for name in found} | {tuple(found)})
        for names, credential in ((names, way) for names in changed for way in (mine.key, mine.token)):
            foreign, unknown = (
                [
                    send_one(wms, made, credential)
                    for made in operation.requests(own | {n: words[n] for n in names}, OTHERS)
                ]
                for words in (theirs.words, MADE_UP)
            )
            for there, nowhere in zip(foreign, unknown, strict=True):
                assert theirs.secret not in there.text, (operation.name, names)
                assert there.status < 500, (operation.name, names, there.text)
                assert there.essence == nowhere.essence, (operation.name, names)
                compared += 1
    assert {operation.name for operation in walk} and compared > 2 * len(walk)
    at_rest(admin)
    assert isolation.digests(admin, theirs.id) == before


@dataclass(frozen=True)
class Seen:
    """An answer, and what of it must not depend on whether somebody else has what was asked for."""

    status: int
    text: str
    essence: Any


def send_one(wms: Service, request: Request, credential: str) -> Seen:
    answer = send(wms, request, credential)
    text = answer.data.decode()
    if answer.status < 400:
        # What is one's own may have changed between two requests.
        return Seen(answer.status, text, (answer.status, answer.headers.get("idempotency-replayed")))
    problem = json.loads(text)
    del problem["request_id"]
    said = json.dumps(problem, sort_keys=True)
    for value in request.identifiers.values():
        for part in value if isinstance(value, list) else [value]:
            said = re.sub(rf"\b{re.escape(str(part))}\b", "…", said)
    return Seen(answer.status, text, said)


def test_h2_a_cursor_of_another_tenant_is_no_cursor(
    wms: Service, tenants: tuple[Tenant, Tenant], walk: list[Operation]
) -> None:
    mine, theirs = tenants
    whole_lists = {**theirs.words, "sku": OMIT, "wave_id": OMIT}
    refused = 0
    for operation in walk:
        if "cursor_after" in (parameter["name"] for parameter in operation.raw["parameters"]):
            (request,) = operation.requests(whole_lists, OTHERS | {"limit": 1})
            cursor = send(wms, request, theirs.key).json()["pagination"]["cursor_after"]
            assert cursor, f"{operation.name}: give the tenants of this test more than one"
            target = f"{request.target}&cursor_after={quote(cursor)}"
            assert wms.request("GET", target, theirs.key).status == 200, operation.name
            answer = wms.request("GET", target, mine.key)
            assert (answer.status, answer.json()["errors"][0]["field"]) == (400, "cursor_after"), (
                operation.name
            )
            refused += 1
    assert refused > 9


def test_h2_a_key_of_idempotency_that_another_tenant_used_is_unused(
    wms: Service, admin: Connection, tenants: tuple[Tenant, Tenant]
) -> None:
    mine, theirs = tenants
    used = one(admin, "SELECT min(key) FROM idempotency_keys WHERE tenant_id = %s", theirs.id)
    before = isolation.digests(admin, theirs.id)["idempotency_keys"]
    body = {"type": "receipt", "quantity": 1} | {
        n: mine.words[n] for n in ("warehouse_id", "sku", "to_location")
    }
    answer = wms.request("POST", "/api/v1/movements", mine.key, headers={"Idempotency-Key": used}, json=body)
    assert (answer.status, answer.headers.get("idempotency-replayed")) == (201, None)
    assert isolation.digests(admin, theirs.id)["idempotency_keys"] == before


# As the service's own role


@pytest.mark.parametrize("named", [True, False], ids=["another tenant named", "no tenant named"])
def test_h2_the_role_of_requests_sees_and_changes_no_row_of_another_tenant_in_any_table(
    db: Database, admin: Connection, tenants: tuple[Tenant, Tenant], named: bool
) -> None:
    mine, theirs = tenants
    before = isolation.digests(admin, theirs.id)
    tried = {"SELECT": 0, "INSERT": 0, "UPDATE": 0, "DELETE": 0}
    with db.connect("wms_app") as app:

        def run(statement: str, *parameters: object) -> Any:
            """The one value that a statement gives, undone afterwards."""
            with app.transaction(force_rollback=True):
                if named:
                    app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(mine.id),))
                return one(app, statement, *parameters)

        for table, has_tenant in isolation.tables(admin).items():
            granted, columns = isolation.granted(admin, "wms_app", table)
            assert not granted & {"TRUNCATE", "REFERENCES", "TRIGGER"}, table
            assert "tenant_id" not in columns, f"{table}: a row could be given to another tenant"
            if not has_tenant:
                assert not granted - {"SELECT"} and (not granted or table in NO_TENANT), table
                continue
            if "SELECT" in granted:
                tried["SELECT"] += 1
                others = run(f"SELECT count(*) FROM {table} WHERE tenant_id <> %s", mine.id)
                own = run(f"SELECT count(*) FROM {table} WHERE tenant_id = %s", mine.id)
                assert (others, own > 0) == (0, named), table
            counted = "WITH done AS ({} RETURNING 1) SELECT count(*) FROM done"
            for column in columns:
                tried["UPDATE"] += 1
                statement = f"UPDATE {table} SET {column} = {column} WHERE tenant_id = %s"
                assert run(counted.format(statement), theirs.id) == 0, (table, column)
            if "DELETE" in granted:
                tried["DELETE"] += 1
                assert run(counted.format(f"DELETE FROM {table} WHERE tenant_id = %s"), theirs.id) == 0, table
            if "INSERT" in granted:
                tried["INSERT"] += 1
                row = one(
                    admin, f"SELECT row_to_json(t) FROM {table} t WHERE tenant_id = %s LIMIT 1", theirs.id
                )
                names = ", ".join(isolation.insertable(admin, "wms_app", table))
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                    run(
                        f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM "
                        f"json_populate_record(NULL::{table}, %s::json) RETURNING 1",
                        json.dumps(row),
                    )
    assert all(number > 3 for kind, number in tried.items() if kind != "DELETE"), tried
    assert isolation.digests(admin, theirs.id) == before


def test_h2_nothing_that_the_role_of_requests_may_call_crosses_tenants(
    db: Database, admin: Connection, tenants: tuple[Tenant, Tenant]
) -> None:
    assert isolation.run_as_owner(admin, "wms_app") == set(isolation.OPEN_AS_OWNER)
    above, owned, member, _ = isolation.standing(admin, "wms_app")
    assert (above, owned, member) == (False, 0, 0)
    mine, theirs = tenants
    key = one(admin, "SELECT key_hash FROM api_keys WHERE tenant_id = %s", theirs.id)
    with db.connect("wms_app") as app:
        # What is open keeps to the reason for which it is.
        assert app.execute("SELECT * FROM principal_of_api_key(%s)", (key[:-1] + b"x",)).fetchall() == []
        assert one(app, "SELECT tenant_of_refresh_token(%s)", key) is None
        search = "SELECT DISTINCT name FROM skus_matching('valvula', NULL, NULL, 100)"
        assert app.execute(search).fetchall() == []
        with app.transaction():
            app.execute("SELECT set_config('app.tenant_id', %s, true)", (str(mine.id),))
            assert app.execute(search).fetchall() == [(mine.secret,)]
        for statement in ("SELECT warm_warehouses()", "SET ROLE wms_worker", "SET ROLE wms_owner"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement.encode())


def test_h2_the_workers_role_may_call_its_functions_and_reads_no_table(
    db: Database, admin: Connection
) -> None:
    assert isolation.run_as_owner(admin, "wms_worker") == isolation.OF_THE_WORKER
    assert isolation.standing(admin, "wms_worker") == (False, 0, 0, 0)
    with db.connect("wms_worker") as worker:
        assert len(worker.execute("SELECT * FROM warm_warehouses()").fetchall()) >= 2
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            worker.execute("SELECT * FROM orders")
