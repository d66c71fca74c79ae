"""Look at every part of a platform at once, within one deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from wmsctl import replication
from wmsctl.clients.etcd import EtcdMember, StoreMember
from wmsctl.clients.prometheus import endpoint_client
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed
from wmsctl.inventory import Endpoint, Inventory
from wmsctl.journal import now
from wmsctl.parallel import Outcome, gather
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

if TYPE_CHECKING:
    from wmsctl.clients.connect import Clients
    from wmsctl.clients.pgbouncer import PgBouncer, Pool, PooledDatabase
    from wmsctl.clients.redis import RedisView as NodeView

Kind = Literal["edge", "gateway", "service", "store"]
Outcomes = Mapping[str, Outcome[Any]]


def observe(clients: Clients, context: str, deadline: Deadline) -> Snapshot:
    """The platform now. Never raises for a server that is away: it is shown as such.

    One call takes most of what is left to the deadline, so that a slow server is reported by its own name in
    time.
    """
    inventory, started = clients.inventory, time.monotonic()
    timeout = max(0.1, deadline.remaining() * 0.9)
    outcomes = gather(tasks(clients, timeout), deadline)
    return Snapshot(
        at=now(),
        took_ms=round((time.monotonic() - started) * 1000),
        context=context,
        platform=inventory.platform,
        environment=inventory.environment,
        write_database=inventory.pools.write_database,
        limits=Limits(
            lag_ms=inventory.thresholds.replication_lag_ms,
            lag_bytes=inventory.thresholds.replication_lag_bytes,
            synchronous_nodes=inventory.postgres.synchronous_nodes,
        ),
        cluster=replication.assemble(inventory, outcomes),
        store=tuple(_store(e, outcomes[f"etcd {e.node}"]) for e in inventory.postgres.dcs.endpoints),
        poolers=tuple(_pooler(p.node, outcomes[f"pgbouncer {p.node}"]) for p in inventory.pools.poolers),
        proxies=tuple(_proxy(e.node, outcomes[f"haproxy {e.node}"]) for e in inventory.proxies.stats),
        redis=_redis(inventory, outcomes),
        web=tuple(
            _check(kind, endpoint, outcomes[f"{kind} {endpoint.node} {endpoint.port}"])
            for kind, endpoint in checks(inventory)
        ),
        alerts=_alerts(outcomes["alerts"]) if inventory.monitoring.alertmanager else None,
    )


def tasks(clients: Clients, timeout: float) -> dict[str, Callable[[], Any]]:
    """One question per server, by name."""
    inventory = clients.inventory
    found: dict[str, Callable[[], Any]] = dict(replication.tasks(clients, timeout))
    for member in clients.etcd().members:
        found[f"etcd {member.node}"] = partial(_ask_store, member, timeout)
    for bouncer in clients.pgbouncers():
        found[f"pgbouncer {bouncer.name}"] = partial(_ask_pooler, bouncer, timeout)
    for endpoint in inventory.proxies.stats:
        found[f"haproxy {endpoint.node}"] = partial(_ask_proxy, endpoint, inventory.ca, timeout)
    for node in clients.redis():
        found[f"redis {node.name}"] = partial(node.view, timeout=timeout)
    for kind, endpoint in checks(inventory):
        found[f"{kind} {endpoint.node} {endpoint.port}"] = partial(
            _ask_http, kind, endpoint, inventory.ca, timeout
        )
    manager = clients.alertmanager()
    if manager is not None:
        found["alerts"] = partial(manager.firing, timeout=timeout)
    return found


def checks(inventory: Inventory) -> list[tuple[Kind, Endpoint]]:
    """The HTTP health checks of the inventory, from the outside in."""
    found: list[tuple[Kind, Endpoint]] = [("edge", endpoint) for endpoint in inventory.web.edges]
    found += [("gateway", endpoint) for endpoint in inventory.web.gateways]
    found += [("service", endpoint) for endpoint in inventory.web.services]
    if inventory.store is not None and inventory.store.endpoint.path:
        found.append(("store", inventory.store.endpoint))
    return found


def parse_stats(text: str) -> tuple[Backend, ...]:
    """HAProxy's CSV statistics → its ways to PostgreSQL, by name. Raises Failed for anything else.

    The first line names the columns and begins with "# pxname". A server takes connections when its status
    begins with UP or is "no check"; a tracked one counts as the server that it tracks.
    """
    head, *lines = text.strip().splitlines() or [""]
    if not head.startswith("# pxname"):
        raise Failed("it answers, but not with HAProxy's statistics")
    columns = head.removeprefix("# ").split(",")
    counts: dict[str, list[int]] = {}
    sessions: dict[str, int] = {}
    for line in lines:
        row = dict(zip(columns, line.split(","), strict=False))
        name, server = row.get("pxname", ""), row.get("svname", "")
        if server == "BACKEND":
            sessions[name] = int(row.get("scur") or 0)
        elif server != "FRONTEND" and server:
            up = row.get("status", "").startswith("UP") or row.get("status") == "no check"
            tally = counts.setdefault(name, [0, 0])
            tally[0] += up
            tally[1] += 1
    return tuple(
        Backend(name, up, total, sessions.get(name, 0)) for name, (up, total) in sorted(counts.items())
    )


def sum_pools(pools: tuple[Pool, ...], databases: tuple[PooledDatabase, ...]) -> tuple[DatabasePool, ...]:
    """Pools per (database, user) → per database, in the order of the databases; one
    without clients counts 0.
    """
    found = []
    for database in databases:
        mine = [pool for pool in pools if pool.database == database.name]
        found.append(
            DatabasePool(
                database=database.name,
                clients_active=sum(pool.clients_active for pool in mine),
                clients_waiting=sum(pool.clients_waiting for pool in mine),
                servers_active=sum(pool.servers_active for pool in mine),
                servers_idle=sum(pool.servers_idle + pool.servers_used for pool in mine),
                max_wait_ms=round(max((pool.max_wait_s for pool in mine), default=0.0) * 1000),
                paused=database.paused,
            )
        )
    return tuple(found)


def _ask_store(member: EtcdMember, timeout: float) -> StoreMember:
    return member.health(timeout=timeout)


def _ask_pooler(bouncer: PgBouncer, timeout: float) -> tuple[DatabasePool, ...]:
    with bouncer.console(timeout=timeout, limit=timeout) as console:
        return sum_pools(console.pools(), console.databases())


def _ask_proxy(endpoint: Endpoint, ca: str, timeout: float) -> tuple[Backend, ...]:
    # The CSV is the statistics page's own address with ";csv" behind it.
    client = endpoint_client("HAProxy", endpoint, ca, timeout=timeout)
    return parse_stats(client.get(f"{endpoint.path or '/'};csv").text)


def _ask_http(kind: Kind, endpoint: Endpoint, ca: str, timeout: float) -> tuple[int, int]:
    """(status, milliseconds)"""
    started = time.monotonic()
    answer = endpoint_client(kind, endpoint, ca, timeout=timeout).get(endpoint.path, expect=None)
    return answer.status, round((time.monotonic() - started) * 1000)


def _store(endpoint: Endpoint, outcome: Outcome[Any]) -> StoreMember:
    found: StoreMember | None = outcome.value
    return found or StoreMember(endpoint.node, False, trouble=outcome.trouble)


def _pooler(node: str, outcome: Outcome[Any]) -> PoolerView:
    return PoolerView(node, outcome.value is not None, outcome.value or (), outcome.trouble)


def _proxy(node: str, outcome: Outcome[Any]) -> ProxyView:
    return ProxyView(node, outcome.value is not None, outcome.value or (), outcome.trouble)


def _redis(inventory: Inventory, outcomes: Outcomes) -> RedisView | None:
    if inventory.redis is None:
        return None
    nodes, states = [], set()
    for endpoint in inventory.redis.nodes:
        outcome = outcomes[f"redis {endpoint.node}"]
        view: NodeView | None = outcome.value
        if view is None or view.me is None:
            nodes.append(
                RedisNodeView(endpoint.node, False, trouble=outcome.trouble or "it does not know itself")
            )
            continue
        me = view.me
        states.add(view.state)
        nodes.append(
            RedisNodeView(
                node=endpoint.node,
                reachable=True,
                role="master" if me.is_master else "replica",
                slots=me.slots,
                state=view.state,
                # A node's own line always says connected: only the replication role needs its master's line.
                link_up=me.is_master or any(p.id == me.master_id and not p.failing for p in view.peers),
            )
        )
    serving = [node for node in nodes if node.role == "master" and node.slots]
    return RedisView(
        state="unknown" if not states else "ok" if states == {"ok"} else "fail",
        slots_served=sum(node.slots for node in serving),
        masters=len(serving),
        masters_expected=inventory.redis.masters,
        nodes=tuple(nodes),
    )


def _check(kind: Kind, endpoint: Endpoint, outcome: Outcome[Any]) -> Check:
    if outcome.value is None:
        return Check(kind, endpoint.node, False, 0, 0, outcome.trouble)
    status, milliseconds = outcome.value
    ok = 200 <= status < 400
    return Check(
        kind, endpoint.node, ok, status, milliseconds, "" if ok else f"answered {status} to {endpoint.path}"
    )


def _alerts(outcome: Outcome[Any]) -> Alerts:
    return Alerts(outcome.value is not None, outcome.value or (), outcome.trouble)
