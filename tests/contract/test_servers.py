"""What the servers refuse, where their ports lead, and what is watched."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import closing
from typing import Any

import psycopg
import pytest
import yaml

from stacks.local.program import ROOT
from tests.support import isolation
from tests.support.platform import Live, eventually
from wmsctl.clients.http import Http, tls
from wmsctl.clients.prometheus import endpoint_client
from wmsctl.clients.redis import RedisConnection
from wmsctl.errors import Failed, Unreachable
from wmsctl.inventory import Endpoint

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


def connect(
    platform: Live, address: str, port: int, *, user: str, secret: str, database: str = "", **options: Any
) -> psycopg.Connection[tuple[Any, ...]]:
    """A plain libpq connection over verified TLS, unless `options` say otherwise."""
    settings = {"sslmode": "verify-ca", "sslrootcert": platform.inventory.ca, "connect_timeout": 5, **options}
    return psycopg.connect(
        host=address,
        port=port,
        user=user,
        password=platform.secrets.get(secret).reveal(),
        dbname=database or platform.inventory.postgres.database,
        prepare_threshold=None,
        autocommit=True,
        **settings,
    )


# Patroni


def test_patroni_refuses_every_change_without_a_login(platform: Live) -> None:
    before = platform.timeline()
    for member in platform.inventory.postgres.members:
        http = Http("Patroni", member.address, member.api_port, ca=platform.inventory.ca)
        for method, path, body in (
            ("POST", "/switchover", {"leader": platform.leader(), "candidate": "pg-2"}),
            ("POST", "/failover", {"candidate": "pg-2"}),
            ("PATCH", "/config", {"loop_wait": 10}),
            ("PUT", "/config", {}),
            ("POST", "/restart", {}),
            ("POST", "/reload", {}),
            ("POST", "/reinitialize", {}),
        ):
            assert http.request(method, path, body=body, expect=None).status == 401, f"{member.node} {path}"
        assert http.get("/patroni", expect=None).status in (200, 503)  # reading is what HAProxy does
        http.close()
    assert platform.timeline() == before


def test_patroni_speaks_tls_only(platform: Live) -> None:
    member = platform.inventory.postgres.members[0]
    with pytest.raises(Unreachable):
        Http("Patroni", member.address, member.api_port).get("/patroni", expect=None)


# etcd


def test_etcd_refuses_reads_and_writes_without_a_login(platform: Live) -> None:
    dcs = platform.inventory.postgres.dcs
    for endpoint in dcs.endpoints:
        http = Http("etcd", endpoint.address, endpoint.port, ca=platform.inventory.ca)
        for path, body in (
            ("/v3/kv/range", {"key": "Lw==", "range_end": "MA=="}),
            ("/v3/kv/put", {"key": "L2E=", "value": "Yg=="}),
            ("/v3/kv/deleterange", {"key": "Lw==", "range_end": "MA=="}),
            ("/v3/auth/disable", {}),
        ):
            answer = http.request("POST", path, body=body, expect=None)
            assert answer.status >= 400, f"{endpoint.node} {path}: {answer.text}"
            assert "user name is empty" in answer.text, answer.text
        wrong = http.request(
            "POST", "/v3/auth/authenticate", body={"name": "root", "password": "guess"}, expect=None
        )
        assert wrong.status >= 400
        http.close()


def test_patronis_user_in_etcd_sees_only_its_own_keys(platform: Live) -> None:
    endpoint = platform.inventory.postgres.dcs.endpoints[0]
    http = Http("etcd", endpoint.address, endpoint.port, ca=platform.inventory.ca)
    login = {"name": "patroni", "password": platform.secrets.get("etcd/patroni").reveal()}
    token = http.request("POST", "/v3/auth/authenticate", body=login).json()["token"]
    everything = {"key": "AA==", "range_end": "AA=="}
    answer = http.request(
        "POST", "/v3/kv/range", body=everything, headers={"Authorization": token}, expect=None
    )
    assert answer.status == 403 and "permission denied" in answer.text, answer.text
    assert platform.clients.etcd().leader() is not None  # with a login and within its keys it works


# Redis


def session(platform: Live, endpoint: Endpoint) -> RedisConnection:
    raw = socket.create_connection((endpoint.address, endpoint.port), 3)
    secured = tls(platform.inventory.ca).wrap_socket(raw, server_hostname=endpoint.address)
    return RedisConnection(endpoint.node, secured)


def test_redis_refuses_a_client_without_a_login(platform: Live) -> None:
    assert platform.inventory.redis is not None
    for endpoint in platform.inventory.redis.nodes:
        connection = session(platform, endpoint)
        for command in (("PING",), ("GET", "a"), ("CLUSTER", "NODES"), ("CONFIG", "GET", "*")):
            with pytest.raises(Failed, match="NOAUTH"):
                connection.call(*command)
        with pytest.raises(Failed, match="WRONGPASS"):
            connection.call("AUTH", "default", "")


def test_redis_speaks_tls_only(platform: Live) -> None:
    assert platform.inventory.redis is not None
    endpoint = platform.inventory.redis.nodes[0]
    with closing(socket.create_connection((endpoint.address, endpoint.port), 3)) as raw:
        raw.settimeout(3)
        raw.sendall(b"PING\r\n")
        try:
            answer = raw.recv(64)
        except ConnectionResetError:
            answer = b""
        assert not answer.startswith((b"+", b"-")), answer


def test_the_services_redis_user_may_not_administer(platform: Live) -> None:
    assert platform.inventory.redis is not None
    connection = session(platform, platform.inventory.redis.nodes[0])
    assert connection.call("AUTH", "app", platform.secrets.get("redis/app").reveal()) == "OK"
    assert connection.call("PING") == "PONG"
    for command in (
        ("CONFIG", "GET", "*"),
        ("FLUSHALL",),
        ("ACL", "LIST"),
        ("CLUSTER", "RESET"),
        ("KEYS", "*"),
    ):
        with pytest.raises(Failed, match="NOPERM"):
            connection.call(*command)


# PostgreSQL and PgBouncer


def test_postgres_and_pgbouncer_refuse_what_is_not_tls(platform: Live) -> None:
    app = {"user": "wms_app", "secret": "postgres/app", "sslmode": "disable"}
    for member in platform.inventory.postgres.members:
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            connect(platform, member.address, member.port, **app)
    for pooler in platform.inventory.pools.poolers:
        with pytest.raises(psycopg.OperationalError, match="SSL required"):
            connect(platform, pooler.address, pooler.port, **app)


def test_logins_use_scram_everywhere(platform: Live) -> None:
    app = {"user": "wms_app", "secret": "postgres/app"}
    postgres, pooler = platform.inventory.postgres.members[0], platform.inventory.pools.poolers[0]
    for place in (postgres, pooler):
        with connect(platform, place.address, place.port, **app, require_auth="scram-sha-256") as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("wms_app",)
        # The client insists on another method: the proof that it asks at all.
        with pytest.raises(psycopg.OperationalError, match=r"SASL|scram"):
            connect(platform, place.address, place.port, **app, require_auth="md5")
    found = platform.on(
        platform.leader(),
        "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolpassword NOT LIKE 'SCRAM-SHA-256$%%'",
    )
    assert found == [], "roles whose password is not kept as SCRAM"


def test_h2_the_services_roles_may_do_on_the_platform_what_they_may_in_the_tests(platform: Live) -> None:
    """Schemas of operations and of the pooler are here too, and the password of each role is its own."""
    postgres = platform.inventory.postgres
    (leader,) = [member for member in postgres.members if member.node == platform.leader()]
    root = {"user": "postgres", "secret": "postgres/superuser"}
    with connect(platform, leader.address, leader.port, **root) as connection:
        assert isolation.run_as_owner(connection, "wms_app") == set(isolation.OPEN_AS_OWNER)
        assert isolation.run_as_owner(connection, "wms_worker") == isolation.OF_THE_WORKER
        assert isolation.standing(connection, "wms_app")[:3] == (False, 0, 0)
        assert isolation.standing(connection, "wms_worker") == (False, 0, 0, 0)
    pooler = platform.inventory.pools.poolers[0]
    worker = {"user": "wms_worker", "database": f"{platform.inventory.pools.write_database}_worker"}
    with connect(platform, pooler.address, pooler.port, **worker, secret="postgres/worker") as connection:
        assert connection.execute("SELECT count(*) FROM warm_warehouses()").fetchone() is not None
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        connect(platform, pooler.address, pooler.port, **worker, secret="postgres/app")


def test_wrong_passwords_and_the_superuser_do_not_pass_the_pooler(platform: Live) -> None:
    pooler = platform.inventory.pools.poolers[0]
    for user, secret in (("wms_app", "postgres/owner"), ("postgres", "postgres/superuser")):
        with pytest.raises(psycopg.OperationalError, match=r"authentication failed|no such user"):
            connect(platform, pooler.address, pooler.port, user=user, secret=secret)


def test_what_the_design_asks_of_the_cluster_is_in_force(platform: Live) -> None:
    settings = dict(platform.on(platform.leader(), "SELECT name, setting FROM pg_settings"))
    assert settings["data_checksums"] == "on"
    assert settings["ssl"] == "on"
    assert settings["password_encryption"] == "scram-sha-256"
    assert int(settings["max_slot_wal_keep_size"]) > 0
    assert settings["wal_log_hints"] == "on"
    assert settings["synchronous_standby_names"].startswith("ANY 2 ("), settings["synchronous_standby_names"]
    config = platform.clients.patroni().config()
    assert config["synchronous_mode"] == "quorum" and config["synchronous_mode_strict"] is True
    assert config["failsafe_mode"] is True and config["synchronous_node_count"] == 2
    assert config["postgresql"]["use_pg_rewind"] is True and config["postgresql"]["use_slots"] is True


# Where the ports lead


def landed(platform: Live, address: str, port: int, database: str = "") -> tuple[str, bool]:
    """(address of the server that answered, whether it is a replica)"""
    with connect(
        platform, address, port, user="wms_ops", secret="postgres/ops", database=database
    ) as connection:
        found = connection.execute("SELECT host(inet_server_addr()), pg_is_in_recovery()").fetchone()
    assert found is not None
    return found[0], found[1]


def test_the_write_way_leads_to_the_primary(platform: Live) -> None:
    leader = platform.inventory.member(platform.leader()).address
    proxies = platform.inventory.proxies
    for stats in proxies.stats:
        assert landed(platform, stats.address, proxies.write_port) == (leader, False)
    for pooler in platform.inventory.pools.poolers:
        assert landed(platform, pooler.address, pooler.port, "wms") == (leader, False)


def test_the_read_way_goes_round_the_replicas_only(platform: Live) -> None:
    proxies = platform.inventory.proxies
    replicas = {platform.inventory.member(name).address for name in platform.replicas()}
    for stats in proxies.stats:
        counts: Counter[str] = Counter()
        for _ in range(9):
            address, replica = landed(platform, stats.address, proxies.read_port)
            assert replica
            counts[address] += 1
        assert set(counts) == replicas
    for pooler in platform.inventory.pools.poolers:
        assert landed(platform, pooler.address, pooler.port, "wms_read")[1]


def test_each_role_port_leads_to_its_replica(platform: Live) -> None:
    """Also in the pooler; while its replica leads, another replica serves the role."""
    proxies = platform.inventory.proxies
    owners = {m.replica_role: m for m in platform.inventory.postgres.members if m.replica_role}
    assert set(proxies.role_ports) == set(owners) == {"analytics", "reporting", "reads"}
    leader = platform.leader()
    for role, port in proxies.role_ports.items():
        ways = [(s.address, port, "") for s in proxies.stats]
        ways += [(p.address, p.port, f"wms_{role}") for p in platform.inventory.pools.poolers]
        for address, number, database in ways:
            found, replica = landed(platform, address, number, database)
            assert replica, f"{role} by {address}:{number} reads from the primary"
            if owners[role].node != leader:
                assert found == owners[role].address, f"{role} by {address}:{number}"


# Tenants


def test_the_service_role_sees_and_writes_only_its_tenants_rows(platform: Live) -> None:
    one, other = (tenant.tenant_id for tenant in platform.tenants[:2])
    pooler = platform.inventory.pools.poolers[0]
    with connect(platform, pooler.address, pooler.port, user="wms_app", secret="postgres/app") as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,"
            " (SELECT count(*) FROM pg_class WHERE relowner = pg_roles.oid)"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert rights == (False, False, False, False, 0)
        tables = [
            row[0]
            for row in connection.execute(
                "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
                " WHERE a.attname = 'tenant_id' AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
                " AND c.relnamespace = 'public'::regnamespace AND has_table_privilege(c.oid, 'SELECT')"
            )
        ]
        assert {"tenants", "skus", "warehouses", "inventory_master", "inventory_transactions"} <= set(tables)
        for table in tables:
            count = f"SELECT count(*), count(*) FILTER (WHERE tenant_id <> %s) FROM {table}"
            nothing = connection.execute(count, (one,)).fetchone()
            assert nothing == (0, 0), f"{table} shows rows without a tenant"
            with connection.transaction():
                connection.execute("SELECT set_config('app.tenant_id', %s, true)", (str(one),))
                found = connection.execute(count, (one,)).fetchone()
            assert found is not None and found[1] == 0, f"{table} shows another tenant's rows"
        with connection.transaction():
            connection.execute("SELECT set_config('app.tenant_id', %s, true)", (str(one),))
            own = connection.execute("SELECT count(*) FROM skus").fetchone()
            assert own is not None and own[0] > 0
            touched = connection.execute(
                "UPDATE inventory_master SET on_hand = on_hand WHERE tenant_id = %s", (other,)
            ).rowcount
            assert touched == 0
        after = connection.execute("SELECT count(*) FROM skus").fetchone()
        assert after == (0,), "the tenant outlives its transaction in the pooled session"


def test_every_table_with_a_tenant_is_protected(platform: Live) -> None:
    bare = platform.on(
        platform.leader(),
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')"
        " AND NOT c.relispartition"
        " AND c.relnamespace = 'public'::regnamespace AND NOT (c.relrowsecurity AND EXISTS"
        " (SELECT FROM pg_policy WHERE polrelid = c.oid))",
    )
    assert bare == []


def test_the_api_answers_by_every_edge_and_gateway_and_tells_tenants_apart(platform: Live) -> None:
    web, inventory = platform.web(), platform.inventory
    for endpoint in (*inventory.web.edges, *inventory.web.gateways):
        url = f"https://{endpoint.address}:{endpoint.port}"
        answers = [platform.stock(web, url, tenant) for tenant in (0, 1)]
        assert [a.status for a in answers] == [200, 200], [a.data for a in answers]
        numbers = [{w["warehouse_id"] for w in a.json()["warehouses"]} for a in answers]
        assert numbers[0].isdisjoint(numbers[1]), "two tenants share a warehouse"
        assert web.request("GET", f"{url}/api/v1/stock/SKU-000001").status == 401
        assert web.request("GET", f"{url}/metrics").status == 404, "counters are not for the public"


def test_the_object_store_has_the_bucket_and_refuses_strangers(platform: Live) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    store = platform.inventory.store
    assert store is not None
    url = f"https://{store.endpoint.address}:{store.endpoint.port}"

    def client(secret: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=platform.secrets.get(store.access_key).reveal(),
            aws_secret_access_key=secret,
            verify=platform.inventory.ca,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    known = client(platform.secrets.get(store.secret_key).reveal())
    assert store.bucket in {bucket["Name"] for bucket in known.list_buckets()["Buckets"]}
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied"):
        client("guess").list_buckets()
    assert platform.web().request("GET", f"{url}/{store.bucket}").status == 403


# Monitoring


def prometheus(platform: Live, path: str) -> Any:
    endpoint = platform.inventory.monitoring.prometheus
    assert endpoint is not None
    document = endpoint_client("Prometheus", endpoint, platform.inventory.ca).get(path).json()
    assert document["status"] == "success"
    return document["data"]


def test_prometheus_reaches_every_target(platform: Live) -> None:
    def down() -> list[str]:
        targets = prometheus(platform, "/api/v1/targets")["activeTargets"]
        if len(targets) <= 30:
            return [f"only {len(targets)} targets are known"]
        return [f"{t['scrapeUrl']}: {t['lastError']}" for t in targets if t["health"] != "up"]

    # The first scrape of each comes within an interval (5 s) of the start.
    eventually(lambda: not down(), 30, lambda: f"targets are down: {down()}")
    jobs = {t["labels"]["job"] for t in prometheus(platform, "/api/v1/targets")["activeTargets"]}
    assert {"etcd", "patroni", "postgres", "pgbouncer", "haproxy", "redis", "nginx", "node", "wms"} <= jobs


def test_every_rule_is_loaded_and_evaluates(platform: Live) -> None:
    groups = prometheus(platform, "/api/v1/rules")["groups"]
    found = {rule["name"]: rule for group in groups for rule in group["rules"]}
    wanted = {
        rule.get("alert") or rule["record"]
        for path in (ROOT / "alerts").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    }
    assert wanted and wanted <= set(found)
    eventually(
        lambda: all(
            rule["health"] == "ok"
            for group in prometheus(platform, "/api/v1/rules")["groups"]
            for rule in group["rules"]
        ),
        30,
        lambda: str({name: rule.get("lastError") for name, rule in found.items() if rule["health"] != "ok"}),
    )


def test_the_heartbeat_is_renewed_each_second(platform: Live) -> None:
    leader = platform.leader()
    seen: set[Any] = set()
    deadline = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < deadline:
        seen.add(platform.on(leader, "SELECT at FROM ops.heartbeat")[0][0])
        time.sleep(0.2)
    assert len(seen) >= 3
    eventually(
        lambda: all(
            platform.on(name, "SELECT clock_timestamp() - at < interval '3 s' FROM ops.heartbeat")[0][0]
            for name in platform.replicas()
        ),
        10,
        "the heartbeat does not reach every replica",
    )
