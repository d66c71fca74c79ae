"""Reads against a real database through its two pools: pages, one statement each, and one's own writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Database, database
from tests.support.service import Service, module, service, without_jobs
from wms.seed import TenantKey, read_keys

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]
DATABASE_ADDRESS = "127.43.20.1"
SERVICE_ADDRESS = "127.43.20.2"


@pytest.fixture(scope="module")
def db() -> Iterator[Database]:
    with database(DATABASE_ADDRESS) as made:
        module(made, "wms.migrations", "up")
        yield made


@pytest.fixture(scope="module")
def keys(db: Database, tmp_path_factory: pytest.TempPathFactory) -> list[TenantKey]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    module(db, "wms.seed", "--skus", "30", "--warehouses", "1", "--keys-out", str(path))
    return list(read_keys(path))


@pytest.fixture(scope="module")
def wms(db: Database, keys: list[TenantKey], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    assert keys
    without_jobs(db)
    with service(db, tmp_path_factory.mktemp("service"), SERVICE_ADDRESS, WMS_CURSOR_KEY="k" * 32) as made:
        yield made


@pytest.fixture
def replica(db: Database) -> Iterator[psycopg.Connection[Any]]:
    """Makes the service take its server for a replica, which has replayed what the table says.

    Its role finds functions of these names before the server's own; a real replica only differs in what they say.
    """
    with db.connect("postgres") as connection:
        connection.execute("CREATE SCHEMA shadow")
        connection.execute("CREATE TABLE shadow.replayed AS SELECT '0/1'::pg_lsn AS lsn")
        connection.execute(
            "CREATE FUNCTION shadow.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'"
        )
        connection.execute(
            "CREATE FUNCTION shadow.pg_last_wal_replay_lsn() RETURNS pg_lsn LANGUAGE sql "
            "AS 'SELECT lsn FROM shadow.replayed'"
        )
        connection.execute(
            "GRANT USAGE ON SCHEMA shadow TO wms_app; GRANT SELECT ON shadow.replayed TO wms_app"
        )
        connection.execute("ALTER ROLE wms_app SET search_path = shadow, pg_catalog, public")
        try:
            yield connection
        finally:
            connection.execute("ALTER ROLE wms_app RESET search_path")
            connection.execute("DROP SCHEMA shadow CASCADE")


def renew(db: Database) -> None:
    """Make the pooler log in again: a role's settings are taken at login."""
    with psycopg.connect(
        host=db.address, port=6432, dbname="pgbouncer", user="wms_ops", password="pw-ops", autocommit=True,
        sslmode="require", prepare_threshold=None,
    ) as console:  # fmt: skip
        console.execute("RECONNECT")


def move(wms: Service, key: TenantKey, sku: str, number: str) -> str:
    """Receive a unit; the LSN of its commit."""
    body = {
        "type": "receipt", "warehouse_id": key.warehouses[0], "sku": sku, "to_location": "A-1-1", "quantity": 1,
    }  # fmt: skip
    headers = {"Idempotency-Key": f"reads-{number}"}
    response = wms.request("POST", "/api/v1/movements", key.api_key, headers=headers, json=body)
    assert response.status == 201, response.data
    return str(response.headers["wms-commit-lsn"])


def a_sku(wms: Service, key: TenantKey) -> str:
    found = wms.request("GET", "/api/v1/skus?limit=1", key.api_key)
    assert found.status == 200, found.data
    return str(found.json()["data"][0]["sku"])


def test_h1_a_reader_sees_what_he_has_written(
    db: Database, wms: Service, keys: list[TenantKey], replica: psycopg.Connection[Any]
) -> None:
    renew(db)
    lsn = move(wms, keys[0], a_sku(wms, keys[0]), "own")
    # Not kept by any cache.
    target = f"/api/v1/receipts?warehouse_id={keys[0].warehouses[0]}"

    def pools(**headers: str) -> dict[str, int]:
        """Pool → statements that a read sent."""
        with wms.counting() as sent:
            response = wms.request("GET", target, keys[0].api_key, headers=headers)
            assert response.status == 200, response.data
        return {pool: number for (pool, _name), number in sent.items()}

    assert pools() == {"read": 1}
    # The replica has not replayed it: asked once, then the primary.
    assert pools(**{"WMS-Min-LSN": lsn}) == {"read": 1, "write": 1}
    assert "wms_database_reads_behind_total 0.0" not in wms.request("GET", "/metrics").data.decode()
    replica.execute("UPDATE shadow.replayed SET lsn = %s", (lsn,))
    assert pools(**{"WMS-Min-LSN": lsn}) == {"read": 1}


def test_h1_a_server_that_is_no_replica_has_everything(
    wms: Service, keys: list[TenantKey], db: Database
) -> None:
    renew(db)
    headers = {"WMS-Min-LSN": move(wms, keys[0], a_sku(wms, keys[0]), "primary")}
    target = f"/api/v1/receipts?warehouse_id={keys[0].warehouses[0]}"
    with wms.counting() as sent:
        assert wms.request("GET", target, keys[0].api_key, headers=headers).status == 200
    assert {pool for pool, _name in sent} == {"read"}


def test_d2_every_list_is_one_statement_at_any_length(wms: Service, keys: list[TenantKey]) -> None:
    key, warehouse = keys[0].api_key, keys[0].warehouses[0]
    document = wms.request("GET", "/api/v1/openapi.json").json()
    seen = 0
    for path, item in document["paths"].items():
        operation = item.get("get", {})
        parameters = {parameter["name"]: parameter for parameter in operation.get("parameters", ())}
        if "limit" not in parameters or any(parameter["in"] == "path" for parameter in parameters.values()):
            continue
        where = [f"warehouse_id={warehouse}"] if "warehouse_id" in parameters else []
        for limit in (1, 200):
            target = f"{path}?{'&'.join([*where, f'limit={limit}'])}"
            with wms.counting() as sent:
                response = wms.request("GET", target, key)
                assert response.status == 200, (target, response.data)
                assert len(response.json()["data"]) <= limit
            assert sum(sent.values()) <= 1, (target, sent)
        seen += 1
    assert seen >= 5


def test_a1_walking_the_pages_gives_the_list_once(wms: Service, keys: list[TenantKey]) -> None:
    whole = wms.request("GET", "/api/v1/skus?limit=200", keys[0].api_key).json()
    seen: list[Any] = []
    cursor = ""
    while True:
        target = "/api/v1/skus?limit=7" + (f"&cursor_after={cursor}" if cursor else "")
        page = wms.request("GET", target, keys[0].api_key).json()
        assert set(page) == {"data", "pagination"}
        assert set(page["pagination"]) == {"cursor_after", "has_more", "limit"}
        seen += page["data"]
        cursor = page["pagination"]["cursor_after"]
        if not page["pagination"]["has_more"]:
            break
    assert cursor is None
    assert [item["sku"] for item in seen] == [item["sku"] for item in whole["data"]]
    first = wms.request("GET", "/api/v1/skus?limit=7", keys[0].api_key).json()["pagination"]["cursor_after"]
    foreign = wms.request("GET", f"/api/v1/skus?limit=7&cursor_after={first}", keys[1].api_key)
    assert (foreign.status, foreign.json()["errors"][0]["field"]) == (400, "cursor_after")


def test_k1_an_unchanged_answer_is_not_sent_again(wms: Service, keys: list[TenantKey]) -> None:
    sku = a_sku(wms, keys[0])
    target = f"/api/v1/stock/{sku}"
    first = wms.request("GET", target, keys[0].api_key)
    headers = {"If-None-Match": first.headers["etag"]}
    again = wms.request("GET", target, keys[0].api_key, headers=headers)
    assert (again.status, again.data) == (304, b"")
    lsn = move(wms, keys[0], sku, "etag")
    changed = wms.request("GET", target, keys[0].api_key, headers=headers | {"WMS-Min-LSN": lsn})
    assert (changed.status, changed.headers["etag"] != first.headers["etag"]) == (200, True)
