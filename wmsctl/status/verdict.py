"""From a snapshot to a verdict. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from wmsctl.errors import Code
from wmsctl.status.snapshot import Snapshot

SLOTS = 16384

State = Literal["healthy", "degraded", "down", "unreachable"]
Severity = Literal["down", "degraded", "note"]

EXIT: dict[State, Code] = {
    "healthy": Code.DONE,
    "degraded": Code.OBJECTIVE_MISSED,
    "down": Code.FAILED,
    "unreachable": Code.UNREACHABLE,
}

ALERTING = ("critical", "warning")
"""Severities that count; info and a watchdog's heartbeat alert do not."""


@dataclass(frozen=True)
class Reason:
    severity: Severity
    """down: writes or requests fail; degraded: something is lost or late; note: worth knowing, no fault."""
    part: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """healthy: nothing wrong. degraded: it works, with less reserve or too late. down: writes or requests
    from outside are not served. unreachable: nothing at all answered.
    """

    state: State
    reasons: tuple[Reason, ...]


def verdict(snapshot: Snapshot) -> Verdict:
    """Judge the snapshot: the worst reason decides; reasons come worst first."""
    if not _anything(snapshot):
        return Verdict("unreachable", (Reason("down", "platform", "no server of the platform answers"),))
    order: dict[Severity, int] = {"down": 0, "degraded": 1, "note": 2}
    parts = (_cluster, _replicas, _poolers, _proxies, _store, _redis, _web, _alerts)
    reasons = sorted((reason for part in parts for reason in part(snapshot)), key=lambda r: order[r.severity])
    severities = {reason.severity for reason in reasons}
    state: State = "down" if "down" in severities else "degraded" if "degraded" in severities else "healthy"
    return Verdict(state, tuple(reasons))


def short(trouble: str) -> str:
    """The bare reason of a trouble, for a place that says already which server it is about."""
    return trouble.rpartition("does not answer: ")[2] or trouble


def _anything(snapshot: Snapshot) -> bool:
    return (
        any(member.api or not member.trouble for member in snapshot.cluster.members)
        or any(member.healthy for member in snapshot.store)
        or any(pooler.reachable for pooler in snapshot.poolers)
        or any(proxy.reachable for proxy in snapshot.proxies)
        or any(node.reachable for node in (snapshot.redis.nodes if snapshot.redis else ()))
        or any(check.status for check in snapshot.web)
        or bool(snapshot.alerts and snapshot.alerts.reachable)
    )


def _cluster(snapshot: Snapshot) -> Iterator[Reason]:
    cluster = snapshot.cluster
    if cluster.trouble:
        yield Reason("degraded", "postgres", "no Patroni answers: automatic failover is not assured")
    elif not cluster.leader:
        yield Reason("down", "postgres", "there is no primary: nobody holds the leader lock")
    if cluster.leader and not cluster.writable:
        trouble = next((m.trouble for m in cluster.members if m.node == cluster.leader), "")
        yield Reason(
            "down",
            "postgres",
            f"the primary {cluster.leader} takes no writes: {trouble or 'it is read-only'}",
        )
    if cluster.trouble and not any(m.role == "primary" for m in cluster.members):
        yield Reason("down", "postgres", "no server says that it is the primary")
    primaries = [m.node for m in cluster.members if m.role == "primary" and not m.trouble]
    if len(primaries) > 1:
        yield Reason("down", "postgres", f"more than one server is out of recovery: {', '.join(primaries)}")
    if cluster.paused:
        yield Reason("degraded", "postgres", "Patroni is paused: there is no automatic failover")
    age = cluster.heartbeat_age_ms
    if age is not None and age > 3000:
        yield Reason(
            "degraded", "postgres", f"the heartbeat is {age} ms old on the primary: lag in ms is not measured"
        )


def _replicas(snapshot: Snapshot) -> Iterator[Reason]:
    cluster, limits = snapshot.cluster, snapshot.limits
    synchronous = 0
    for member in cluster.members:
        if not member.api:
            yield Reason("degraded", member.node, "its Patroni does not answer")
        if member.pending_restart:
            yield Reason("note", member.node, "settings wait for a restart")
        if member.node == cluster.primary:
            continue
        synchronous += member.sync in ("quorum", "sync")
        if member.trouble:
            yield Reason("degraded", member.node, f"PostgreSQL: {short(member.trouble)}")
            continue
        if member.state not in ("running", "streaming"):
            yield Reason("degraded", member.node, f"the replica is {member.state}")
        if None not in (member.timeline, cluster.timeline) and member.timeline != cluster.timeline:
            yield Reason(
                "degraded", member.node, f"on timeline {member.timeline}, the primary on {cluster.timeline}"
            )
        if member.replay_paused:
            yield Reason("degraded", member.node, "its replay is paused")
        if member.lag_ms is not None and member.lag_ms > limits.lag_ms:
            yield Reason("degraded", member.node, f"lag {member.lag_ms} ms, limit {limits.lag_ms} ms")
        elif member.lag_bytes is not None and member.lag_bytes > limits.lag_bytes:
            yield Reason("degraded", member.node, f"lag {member.lag_bytes} bytes, limit {limits.lag_bytes}")
    if cluster.writable and synchronous < limits.synchronous_nodes:
        yield Reason(
            "degraded",
            "postgres",
            f"{synchronous} synchronous standbys stream, {limits.synchronous_nodes} are to",
        )


def _poolers(snapshot: Snapshot) -> Iterator[Reason]:
    away = [pooler for pooler in snapshot.poolers if not pooler.reachable]
    paused = [
        pooler.node
        for pooler in snapshot.poolers
        for pool in pooler.pools
        if pool.database == snapshot.write_database and pool.paused
    ]
    reachable = len(snapshot.poolers) - len(away)
    for pooler in away:
        severity: Severity = "degraded" if reachable else "down"
        yield Reason(severity, pooler.node, f"PgBouncer: {short(pooler.trouble)}")
    for node in paused:
        severity = "down" if len(paused) == reachable else "degraded"
        yield Reason(
            severity, node, f"PgBouncer holds back {snapshot.write_database} (paused): wmsctl failover resume"
        )
    for pooler in snapshot.poolers:
        for pool in pooler.pools:
            if pool.paused and pool.database != snapshot.write_database:
                yield Reason("degraded", pooler.node, f"PgBouncer holds back {pool.database} (paused)")
            elif not pool.paused and pool.max_wait_ms > snapshot.limits.pool_wait_ms:
                oldest = f"the oldest for {pool.max_wait_ms} ms"
                message = f"PgBouncer: {pool.clients_waiting} clients of {pool.database} wait, {oldest}"
                yield Reason("degraded", pooler.node, message)


def _proxies(snapshot: Snapshot) -> Iterator[Reason]:
    reachable = any(proxy.reachable for proxy in snapshot.proxies)
    for proxy in snapshot.proxies:
        if not proxy.reachable:
            yield Reason("degraded" if reachable else "down", proxy.node, f"HAProxy: {short(proxy.trouble)}")
        for backend in proxy.backends:
            if backend.up == 0:
                # Without a server to write to the cluster's own reasons say down; this one says where it
                # shows.
                yield Reason("degraded", proxy.node, f"HAProxy has no server up for {backend.name}")


def _store(snapshot: Snapshot) -> Iterator[Reason]:
    sick = [member for member in snapshot.store if not member.healthy]
    if sick and len(snapshot.store) - len(sick) <= len(snapshot.store) // 2:
        names = ", ".join(member.node for member in sick)
        yield Reason(
            "degraded",
            "etcd",
            f"no quorum ({names} away): writes go on in failsafe mode, no failover is possible",
        )
        return
    for member in sick:
        yield Reason("degraded", member.node, f"etcd: {short(member.trouble)}")


def _redis(snapshot: Snapshot) -> Iterator[Reason]:
    redis = snapshot.redis
    if redis is None:
        return
    if redis.state != "ok" or redis.slots_served < SLOTS:
        yield Reason(
            "degraded", "redis", f"the cluster serves {redis.slots_served} of {SLOTS} slots ({redis.state})"
        )
    for node in redis.nodes:
        if not node.reachable:
            yield Reason("degraded", node.node, f"Redis: {short(node.trouble)}")
        elif not node.link_up:
            yield Reason("degraded", node.node, "Redis: the link to its master is down")
    if redis.masters != redis.masters_expected:
        yield Reason("degraded", "redis", f"{redis.masters} masters, {redis.masters_expected} expected")


def _web(snapshot: Snapshot) -> Iterator[Reason]:
    for kind in ("edge", "gateway", "service", "store"):
        checks = [check for check in snapshot.web if check.kind == kind]
        fine = sum(check.ok for check in checks)
        for check in checks:
            if not check.ok:
                severity: Severity = "degraded" if fine or kind == "store" else "down"
                yield Reason(severity, check.node, f"{kind}: {short(check.trouble)}")


def _alerts(snapshot: Snapshot) -> Iterator[Reason]:
    alerts = snapshot.alerts
    if alerts is None:
        return
    if not alerts.reachable:
        yield Reason("degraded", "alerts", f"Alertmanager: {short(alerts.trouble)}")
    for alert in alerts.firing:
        if alert.severity in ALERTING:
            yield Reason("degraded", "alerts", f"{alert.name} ({alert.severity}) {alert.summary}".rstrip())
