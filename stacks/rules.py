"""What must hold between the values of a spec: pure checks, each returning what is wrong as text.

A single value's range is part of its type in `spec.py`; here is only what takes two values to see.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stacks.spec import Platform


def problems(platform: Platform) -> list[str]:
    """Every rule that `platform` breaks, as `key: found …; allowed …`; empty when it is sound."""
    return [text for rule in RULES for text in rule(platform)]


def timeout_ladder(platform: Platform) -> list[tuple[str, float, str]]:
    """The rungs from the client inwards: (key, seconds, who gives up there)."""
    t = platform.timeouts
    return [
        ("timeouts.client_s", t.client_s, "the caller"),
        ("timeouts.edge_s", t.edge_s, "Varnish, waiting for the gateway"),
        ("timeouts.gateway_s", t.gateway_s, "nginx, waiting for a service"),
        ("timeouts.service_s", t.service_s, "the service, with its retries"),
        ("timeouts.pool_wait_s", t.pool_wait_s, "PgBouncer, waiting for a server connection"),
        ("timeouts.statement_s", t.statement_s, "PostgreSQL, statement_timeout"),
        ("timeouts.lock_s", t.lock_s, "PostgreSQL, lock_timeout"),
    ]


def connection_budget(platform: Platform) -> list[tuple[str, int]]:
    """Server connections that may be open on one PostgreSQL member at once, by who opens them.

    Worst case: every pool of every pooler is full and, all but one member being lost, ends at the same one.
    """
    pooler, proxies = platform.pooler, platform.proxy.count
    roles = len(platform.postgres.replica_roles)
    return [
        ("write pools", proxies * (pooler.write_pool + pooler.reserve_pool)),
        ("read pools", proxies * (pooler.read_pool + pooler.reserve_pool)),
        ("role pools", proxies * roles * pooler.role_pool),
        ("worker pools", proxies * 2 * pooler.worker_pool),
        ("Patroni, exporter, operators", 8),
        ("reserved for the superuser", platform.postgres.superuser_reserved_connections),
    ]


def client_budget(platform: Platform) -> list[tuple[str, int]]:
    """Client connections that may be open on one PgBouncer at once, by who opens them.

    Worst case: the other poolers are gone, so that every pool of every service ends at this one.
    """
    service = platform.service
    return [
        ("services' write pools", service.count * service.write_pool),
        ("services' read pools", service.count * service.read_pool),
        ("services' worker pools", service.count * 2 * service.worker_pool),
        ("exporter, operators", 10),
    ]


def listeners(platform: Platform) -> dict[str, dict[str, int]]:
    """Node role → {key: port}: everything that listens on a node of that role."""
    p = platform
    return {
        "etcd": {"etcd.client_port": p.etcd.client_port, "etcd.peer_port": p.etcd.peer_port},
        "postgres": {
            "postgres.port": p.postgres.port,
            "patroni.api_port": p.patroni.api_port,
            "backup.port": p.backup.port,
            "monitor.postgres_port": p.monitor.postgres_port,
        },
        "proxy": {
            "proxy.write_port": p.proxy.write_port,
            "proxy.read_port": p.proxy.read_port,
            "proxy.stats_port": p.proxy.stats_port,
            "pooler.port": p.pooler.port,
            **{f"postgres.replica_roles[{i}].port": r.port for i, r in enumerate(p.postgres.replica_roles)},
            "monitor.pooler_port": p.monitor.pooler_port,
        },
        "redis": {"redis.port": p.redis.port, "redis.bus_port": p.redis.bus_port},
        "storage": {"storage.port": p.storage.port},
        "app": {"service.port": p.service.port},
        "gateway": {
            "gateway.port": p.gateway.port,
            "gateway.status_port": p.gateway.status_port,
            "monitor.nginx_port": p.monitor.nginx_port,
        },
        "edge": {
            "edge.port": p.edge.port,
            "edge.stats_port": p.edge.stats_port,
            "edge.management_port": p.edge.management_port,
            "monitor.varnish_port": p.monitor.varnish_port,
        },
        "monitor": {
            "monitor.prometheus_port": p.monitor.prometheus_port,
            "monitor.alertmanager_port": p.monitor.alertmanager_port,
            "monitor.node_port": p.monitor.node_port,
            "monitor.blackbox_port": p.monitor.blackbox_port,
            "monitor.redis_port": p.monitor.redis_port,
        },
    }


def _ports_do_not_overlap(platform: Platform) -> Iterator[str]:
    for role, ports in listeners(platform).items():
        users: dict[int, list[str]] = defaultdict(list)
        for key, port in ports.items():
            users[port].append(key)
        for port, keys in users.items():
            if len(keys) > 1:
                yield (
                    f"{keys[1]}: found {port}, taken by {keys[0]} on the same {role} nodes; "
                    "allowed: a free port"
                )


def _ladder_descends(platform: Platform) -> Iterator[str]:
    rungs = timeout_ladder(platform)
    for (outer, longer, _), (inner, shorter, _) in pairwise(rungs):
        if shorter >= longer:
            yield (
                f"{inner}: found {shorter:g}; "
                f"allowed: less than {outer} ({longer:g}), or the outer one gives up first"
            )


def _connections_fit(platform: Platform) -> Iterator[str]:
    needed = sum(count for _, count in connection_budget(platform))
    if needed > platform.postgres.max_connections:
        parts = ", ".join(f"{who} {count}" for who, count in connection_budget(platform))
        found = platform.postgres.max_connections
        yield f"postgres.max_connections: found {found}; allowed: at least {needed} ({parts})"


def _clients_fit(platform: Platform) -> Iterator[str]:
    needed, found = sum(count for _, count in client_budget(platform)), platform.pooler.max_client_connections
    if needed > found:
        parts = ", ".join(f"{who} {count}" for who, count in client_budget(platform))
        yield f"pooler.max_client_connections: found {found}; allowed: at least {needed} ({parts})"


def _retries_fit_the_ladder(platform: Platform) -> Iterator[str]:
    gateway, t = platform.gateway, platform.timeouts
    if t.gateway_s + gateway.retry_s > t.edge_s:
        yield (
            f"gateway.retry_s: found {gateway.retry_s:g}; allowed: at most timeouts.edge_s - "
            f"timeouts.gateway_s ({t.edge_s - t.gateway_s:g}), or the edge gives up during the second attempt"
        )
    if gateway.connect_timeout_s >= gateway.retry_s:
        yield (
            f"gateway.connect_timeout_s: found {gateway.connect_timeout_s:g}; allowed: less than "
            f"gateway.retry_s ({gateway.retry_s:g}), or a silent service is never passed over"
        )


def _redis_replicas_are_elsewhere(platform: Platform) -> Iterator[str]:
    from stacks import topology  # topology needs the types of `spec`, which imports this module

    try:
        topology.redis_shards(platform)
    except ValueError:
        r = platform.redis
        yield (
            f"zones: found {len(platform.zones)} for {r.masters} Redis masters with {r.replicas_per_master} "
            "replica(s) each; "
            "allowed: zones among which every replica is in another one than its master (three always do)"
        )


def _edge_threads_are_ordered(platform: Platform) -> Iterator[str]:
    e = platform.edge
    if e.threads_min >= e.threads_max:
        yield f"edge.threads_min: found {e.threads_min}; allowed: less than threads_max ({e.threads_max})"
    if e.healthy_grace_s > e.sick_grace_s:
        yield (
            f"edge.healthy_grace_s: found {e.healthy_grace_s}; "
            f"allowed: at most sick_grace_s ({e.sick_grace_s})"
        )


def _quorum_is_possible(platform: Platform) -> Iterator[str]:
    replicas, wanted = len(platform.postgres.replica_roles), platform.postgres.synchronous_nodes
    if wanted > replicas:
        yield (
            f"postgres.synchronous_nodes: found {wanted}; "
            f"allowed: at most the number of replicas ({replicas})"
        )
    names = [role.name for role in platform.postgres.replica_roles]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"postgres.replica_roles: found {name!r} twice; allowed: each name once"
    for name in sorted({"read", "worker"} & set(names)):
        yield f"postgres.replica_roles: found {name!r}; allowed: another name, a pool of the service has that one"


def _lease_outlives_retries(platform: Platform) -> Iterator[str]:
    p = platform.patroni
    needed = p.loop_wait_s + 2 * p.retry_timeout_s  # Patroni's own rule for its dynamic configuration
    if needed > p.ttl_s:
        yield (
            f"patroni.ttl_s: found {p.ttl_s}; allowed: at least loop_wait_s + 2 x retry_timeout_s ({needed})"
        )


def _elections_are_calm(platform: Platform) -> Iterator[str]:
    e = platform.etcd
    if e.election_ms < 5 * e.heartbeat_ms:
        yield (
            f"etcd.election_ms: found {e.election_ms}; "
            f"allowed: at least 5 x heartbeat_ms ({5 * e.heartbeat_ms})"
        )


def _wal_sizes_are_ordered(platform: Platform) -> Iterator[str]:
    p = platform.postgres
    if p.min_wal_size_mb > p.max_wal_size_mb:
        yield (
            f"postgres.min_wal_size_mb: found {p.min_wal_size_mb}; "
            f"allowed: at most max_wal_size_mb ({p.max_wal_size_mb})"
        )
    if p.wal_keep_size_mb > p.max_slot_wal_keep_size_mb:
        yield (
            f"postgres.wal_keep_size_mb: found {p.wal_keep_size_mb}; "
            f"allowed: at most max_slot_wal_keep_size_mb ({p.max_slot_wal_keep_size_mb})"
        )


def _certificates_are_renewed_in_time(platform: Platform) -> Iterator[str]:
    pki = platform.pki
    if pki.renew_before_days >= pki.certificate_days:
        yield (
            f"pki.renew_before_days: found {pki.renew_before_days}; "
            f"allowed: less than certificate_days ({pki.certificate_days})"
        )
    if pki.certificate_days >= pki.authority_days:
        yield (
            f"pki.certificate_days: found {pki.certificate_days}; "
            f"allowed: less than authority_days ({pki.authority_days})"
        )


def _network_is_loopback(platform: Platform) -> Iterator[str]:
    octet = int(platform.network.split(".")[1])
    if not 1 <= octet <= 254:
        yield f"network: found {platform.network!r}; allowed: 127.1 to 127.254"


SET_BY_KEY = {
    "max_connections": "postgres.max_connections",
    "superuser_reserved_connections": "postgres.superuser_reserved_connections",
    "shared_buffers": "postgres.shared_buffers_mb",
    "effective_cache_size": "postgres.effective_cache_size_mb",
    "work_mem": "postgres.work_mem_mb",
    "maintenance_work_mem": "postgres.maintenance_work_mem_mb",
    "max_wal_size": "postgres.max_wal_size_mb",
    "min_wal_size": "postgres.min_wal_size_mb",
    "wal_keep_size": "postgres.wal_keep_size_mb",
    "max_slot_wal_keep_size": "postgres.max_slot_wal_keep_size_mb",
    "wal_retrieve_retry_interval": "postgres.wal_retrieve_retry_ms",
    "checkpoint_timeout": "postgres.checkpoint_timeout_s",
    "max_standby_streaming_delay": "postgres.max_standby_streaming_delay_s",
    "log_min_duration_statement": "postgres.log_min_duration_statement_ms",
    "statement_timeout": "timeouts.statement_s",
    "lock_timeout": "timeouts.lock_s",
    "idle_in_transaction_session_timeout": "timeouts.idle_in_transaction_s",
    "archive_timeout": "backup.switch_wal_s",
}
"""PostgreSQL parameters that are values of the spec."""

DURABLE = frozenset(
    {
        "archive_command",
        "archive_library",
        "archive_mode",
        "fsync",
        "full_page_writes",
        "synchronous_commit",
        "synchronous_standby_names",
        "wal_level",
    }
)
"""Parameters on which it depends that no acknowledged write is lost."""


def _further_settings_are_further(platform: Platform) -> Iterator[str]:
    for name, value in platform.postgres.settings.items():
        if key := SET_BY_KEY.get(name):
            yield f"postgres.settings.{name}: found {value!r}; allowed: nothing, the key for it is {key}"
        if name in DURABLE:
            yield f"postgres.settings.{name}: found {value!r}; allowed: nothing, no write may be lost by it"


def _partitions_outlive_their_use(platform: Platform) -> Iterator[str]:
    names = [each.table for each in platform.partitions.tables]
    for index, each in enumerate(platform.partitions.tables):
        where = f"partitions.tables[{index}]"
        if each.table in names[:index]:
            yield f"{where}.table: found {each.table!r} twice; allowed: each table once"
        if each.archive and each.archive_months <= each.online_months:
            yield (
                f"{where}.archive_months: found {each.archive_months}; allowed: more than online_months "
                f"({each.online_months}), or an archive ends before it begins"
            )


def _backups_are_apart(platform: Platform) -> Iterator[str]:
    backup, bucket = platform.backup, platform.storage.bucket
    if backup.long_term_bucket == bucket:
        yield (
            f"backup.long_term_bucket: found {bucket!r}; allowed: another bucket than storage.bucket, for one that is "
            "lost must not take both repositories along"
        )
    times = [backup.schedule.daily, *backup.schedule.incremental]
    for clock in sorted({each for each in times if times.count(each) > 1}):
        yield f"backup.schedule.incremental: found {clock!r} twice in a day; allowed: each time once"
    if backup.switch_wal_s > backup.waiting_alert_s:
        yield (
            f"backup.switch_wal_s: found {backup.switch_wal_s}; allowed: at most waiting_alert_s "
            f"({backup.waiting_alert_s}), what the loss of the site may cost (row R3)"
        )


RULES = (
    _backups_are_apart,
    _further_settings_are_further,
    _network_is_loopback,
    _ports_do_not_overlap,
    _ladder_descends,
    _connections_fit,
    _clients_fit,
    _retries_fit_the_ladder,
    _redis_replicas_are_elsewhere,
    _edge_threads_are_ordered,
    _quorum_is_possible,
    _lease_outlives_retries,
    _elections_are_calm,
    _wal_sizes_are_ordered,
    _certificates_are_renewed_in_time,
    _partitions_outlive_their_use,
)
