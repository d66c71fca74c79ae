"""Builders: valid values to start from, so that a test says only what it is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from wmsctl import inventory as inv
from wmsctl.clients.etcd import StoreMember
from wmsctl.clients.patroni import ClusterState, MemberState
from wmsctl.clients.postgres import Heartbeat, Replication, ServerState
from wmsctl.replication import ClusterView, MemberView, ServerView
from wmsctl.status.snapshot import (
    Alerts,
    Backend,
    Check,
    DatabasePool,
    Limits,
    PoolerView,
    ProxyView,
    RedisNodeView,
    RedisView,
    Snapshot,
)

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
ROLES = ("", "analytics", "reporting", "reads")


def inventory(**changes: Any) -> inv.Inventory:
    """A whole local platform on 127.99.*; `changes` replace top-level fields."""
    count = {"etcd": (1, 3), "pg": (2, 4), "proxy": (3, 2), "redis": (4, 6), "app": (6, 3), "gateway": (7, 2)}
    names = {"pg": "postgres"}
    nodes = tuple(
        inv.Node(
            name=f"{kind}-{index}",
            role=names.get(kind, kind),
            zone="abc"[(index - 1) % 3],
            address=f"127.99.{octet}.{index}",
            processes=(kind,),
        )
        for kind, (octet, number) in {**count, "edge": (8, 2), "monitor": (9, 1), "storage": (5, 1)}.items()
        for index in range(1, number + 1)
    )

    def endpoints(kind: str, octet: int, number: int, port: int, path: str = "") -> tuple[inv.Endpoint, ...]:
        return tuple(
            inv.Endpoint(node=f"{kind}-{i}", address=f"127.99.{octet}.{i}", port=port, tls=True, path=path)
            for i in range(1, number + 1)
        )

    values: dict[str, Any] = {
        "version": inv.VERSION,
        "platform": "wms",
        "environment": "local",
        "target": "local",
        "secrets": "file:/nowhere/secrets.json",
        "ca": "/nowhere/ca.crt",
        "nodes": nodes,
        "postgres": inv.Postgres(
            scope="wms",
            version=15,
            members=tuple(
                inv.Member(
                    node=f"pg-{i}",
                    address=f"127.99.2.{i}",
                    port=5432,
                    api_port=8008,
                    replica_role=ROLES[i - 1],
                )
                for i in range(1, 5)
            ),
            database="wms",
            superuser=inv.Login(user="postgres", secret="postgres/superuser"),
            operator=inv.Login(user="wms_ops", secret="postgres/ops"),
            api=inv.Login(user="patroni", secret="patroni/rest"),
            dcs=inv.Dcs(
                endpoints=endpoints("etcd", 1, 3, 2379),
                login=inv.Login(user="root", secret="etcd/root"),
                prefix="/service/wms/",
            ),
            synchronous_nodes=2,
            ttl_s=20,
            loop_wait_s=1,
        ),
        "pools": inv.Pools(
            poolers=tuple(inv.Pooler(node=f"proxy-{i}", address=f"127.99.3.{i}", port=6432) for i in (1, 2)),
            admin=inv.Login(user="wms_ops", secret="pgbouncer/admin"),
            write_database="wms",
            read_database="wms_read",
            max_client_connections=1000,
        ),
        "proxies": inv.Proxies(
            stats=tuple(
                inv.Endpoint(node=f"proxy-{i}", address=f"127.99.3.{i}", port=8404, path="/") for i in (1, 2)
            ),
            write_port=5000,
            read_port=5001,
            role_ports={"analytics": 5002},
        ),
        "redis": inv.Redis(
            nodes=endpoints("redis", 4, 6, 6379),
            admin=inv.Login(user="admin", secret="redis/admin"),
            masters=3,
        ),
        "web": inv.Web(
            edges=endpoints("edge", 8, 2, 8443, "/health"),
            gateways=endpoints("gateway", 7, 2, 8080, "/health"),
            services=endpoints("app", 6, 3, 8000, "/ready"),
        ),
        "monitoring": inv.Monitoring(
            alertmanager=inv.Endpoint(node="monitor-1", address="127.99.9.1", port=9093),
            prometheus=inv.Endpoint(node="monitor-1", address="127.99.9.1", port=9090),
        ),
        "hosts": inv.LocalHosts(home="/nowhere", supervisor="/nowhere/supervisor.sock"),
        "backup": backup_settings(),
    }
    return inv.Inventory(**{**values, **changes})


def backup_settings(**changes: Any) -> inv.Backup:
    """The backup section as row R5 has it."""
    values: dict[str, Any] = {
        "stanza": "wms",
        "process": "pgbackrest",
        "program": "/usr/bin/pgbackrest",
        "config": "pgbackrest.conf",
        "archive_config": "archive.conf",
        "long_term_config": "long-term.conf",
        "primary": "primary",
        "port": 8432,
        "repositories": (
            inv.Repository(number=1, bucket="wms-backup"),
            inv.Repository(number=2, bucket="wms-backup-long-term", long_term=True),
        ),
        "schedule": inv.BackupSchedule(
            daily="00:00", full_day="sunday", incremental=("06:00", "12:00", "18:00")
        ),
        "retention": inv.Retention(daily_days=7, weekly_weeks=4, monthly_months=12, archive_years=7),
        "wal_wait_s": 60,
        "newest_age_s": 28_800,
    }
    return inv.Backup(**{**values, **changes})


def member_state(name: str = "pg-2", **changes: Any) -> MemberState:
    """A healthy quorum standby as Patroni reports it."""
    return replace(
        MemberState(name, "quorum_standby", "streaming", timeline=1, lag=0, replay_lag=0), **changes
    )


def cluster_state(leader: str = "pg-1", **changes: Any) -> ClusterState:
    """Four members, `leader` leading (nobody when empty)."""
    members = tuple(
        member_state(f"pg-{i}", role="leader", state="running")
        if f"pg-{i}" == leader
        else member_state(f"pg-{i}", role="quorum_standby")
        for i in range(1, 5)
    )
    return replace(ClusterState("wms", members), **changes)


def server_view(
    in_recovery: bool = True, *, beat_ms: int = 100, senders: tuple[Replication, ...] = ()
) -> ServerView:
    """A server whose heartbeat row was written `beat_ms` before it was read, at NOON."""
    state = ServerState(
        in_recovery, 1, "0/3000000", "0/3000000" if in_recovery else "", False, in_recovery, NOON
    )
    return ServerView(state, Heartbeat(NOON - timedelta(milliseconds=beat_ms), NOON, "0/2FFFFF0"), senders)


def sender(name: str = "pg-2", lag: int = 0, **changes: Any) -> Replication:
    """A walsender of a quorum standby that is `lag` bytes behind in replay."""
    return replace(Replication(name, "streaming", "quorum", lag, lag, lag), **changes)


def member_view(node: str = "pg-2", **changes: Any) -> MemberView:
    """A healthy replica."""
    base = MemberView(
        node=node,
        role="replica",
        state="streaming",
        sync="quorum",
        timeline=1,
        lag_bytes=0,
        lag_ms=0,
        replay_paused=False,
        replica_role="",
        pending_restart=False,
        api=True,
        trouble="",
    )
    return replace(base, **changes)


def primary_view(node: str = "pg-1", **changes: Any) -> MemberView:
    """A healthy primary."""
    base = member_view(
        node, role="primary", state="running", sync="", lag_bytes=None, lag_ms=None, replay_paused=None
    )
    return replace(base, **changes)


def cluster_view(*members: MemberView, **changes: Any) -> ClusterView:
    """pg-1 leads three healthy replicas, with the given members in the place of those of the same name."""
    usual = {"pg-1": primary_view(), **{f"pg-{i}": member_view(f"pg-{i}") for i in range(2, 5)}}
    usual.update({member.node: member for member in members})
    base = ClusterView(
        scope="wms",
        leader="pg-1",
        primary="pg-1",
        timeline=1,
        paused=False,
        writable=True,
        heartbeat_age_ms=300,
        members=tuple(usual.values()),
    )
    return replace(base, **changes)


def pool(database: str = "wms", **changes: Any) -> DatabasePool:
    """A pool with some use and nobody waiting."""
    return replace(DatabasePool(database, 5, 0, 2, 8, 0, False), **changes)


def snapshot(**changes: Any) -> Snapshot:
    """A healthy platform of every part."""
    redis = tuple(
        RedisNodeView(
            f"redis-{i}",
            True,
            "master" if i <= 3 else "replica",
            (5461, 5462, 5461)[i - 1] if i <= 3 else 0,
            "ok",
        )
        for i in range(1, 7)
    )
    ways = (Backend("read", 3, 8, 4), Backend("write", 1, 4, 6))
    base = Snapshot(
        at="2026-01-02T12:00:00.000Z",
        took_ms=80,
        context="local",
        platform="wms",
        environment="local",
        write_database="wms",
        limits=Limits(lag_ms=1000, lag_bytes=16 * 1024 * 1024, synchronous_nodes=2),
        cluster=cluster_view(),
        store=tuple(StoreMember(f"etcd-{i}", True, leader=i == 1) for i in (1, 2, 3)),
        poolers=tuple(PoolerView(f"proxy-{i}", True, (pool(), pool("wms_read"))) for i in (1, 2)),
        proxies=tuple(ProxyView(f"proxy-{i}", True, ways) for i in (1, 2)),
        redis=RedisView("ok", 16384, 3, 3, redis),
        web=(
            Check("edge", "edge-1", True, 200, 4),
            Check("edge", "edge-2", True, 200, 5),
            Check("gateway", "gateway-1", True, 200, 3),
            Check("service", "app-1", True, 200, 2),
            Check("service", "app-2", True, 200, 2),
        ),
        alerts=Alerts(True),
    )
    return replace(base, **changes)
