"""Reads the snapshot that failovers are decided on: the store first, then every member and pooler at the same
time.

Nothing here decides. What does not answer becomes part of the snapshot; only a wrong inventory or login
raises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from wmsctl.clients import postgres
from wmsctl.clients.connect import Clients
from wmsctl.clients.etcd import Etcd
from wmsctl.clients.patroni import MemberStatus
from wmsctl.errors import Failed, Unreachable
from wmsctl.failover.poolers import PoolerControl
from wmsctl.failover.snapshot import (
    LeaderKey,
    MemberView,
    PoolerView,
    Snapshot,
    StoreView,
    SyncView,
    Unfinished,
)
from wmsctl.inventory import Inventory, Member
from wmsctl.journal import Journal

MEMBER_S = 1.5
"""How long one member may take to say how it is; a frozen one costs this much."""

KIND = "failover."
"""Prefix of the kinds of this package's operations in the journal."""


def snapshot(
    inventory: Inventory,
    clients: Clients,
    journal: Journal,
    etcd: Etcd,
    *,
    heartbeats: bool = False,
    powered_off: Callable[[], frozenset[str]] | None = None,
) -> Snapshot:
    """The whole snapshot. `heartbeats` asks every replica for the age of its newest heartbeat (a connection
    each); `powered_off` tells which nodes are fenced.
    """
    members = inventory.postgres.members
    with ThreadPoolExecutor(max_workers=2 * len(members) + len(inventory.pools.poolers) + 2) as pool:
        statuses = {m.node: pool.submit(_status, clients, m) for m in members}
        poolers = [pool.submit(_pooler, PoolerControl(client)) for client in clients.pgbouncers()]
        beats = {m.node: pool.submit(_heartbeat_age, clients, m) for m in members} if heartbeats else {}
        keys, store = _store(etcd)
        holder = store.leader.holder if store.leader else ""
        leader = next((m for m in members if m.node == holder), None)
        walsenders = _replication(clients, leader) if leader else None
        views = []
        for member in members:
            name = member.node
            status, trouble = statuses[name].result()
            stored = _document(keys, f"members/{name}")
            walsender = (walsenders or {}).get(name)
            views.append(
                _view(
                    name,
                    status,
                    trouble,
                    stored,
                    walsender,
                    sql=walsenders is not None if name == holder else None,
                    heartbeat=beats[name].result() if name in beats else None,
                )
            )
        pooler_views = tuple(future.result() for future in poolers)
    config = _document(keys, "config")
    return Snapshot(
        members=tuple(views),
        store=store,
        poolers=pooler_views,
        paused=bool(config.get("pause")),
        synchronous_nodes=int(config.get("synchronous_node_count") or inventory.postgres.synchronous_nodes),
        ttl_s=float(config.get("ttl") or inventory.postgres.ttl_s),
        write_database=inventory.pools.write_database,
        proxies=tuple(stats.node for stats in inventory.proxies.stats),
        unfinished=tuple(
            Unfinished(op.id, op.kind.removeprefix(KIND), op.started) for op in journal.unfinished(kind=KIND)
        ),
        powered_off=powered_off() if powered_off else frozenset(),
        power_control=inventory.hosts is not None,
        last_promotion_age=_promotion_age(keys, datetime.now(UTC)),
    )


def _status(clients: Clients, member: Member) -> tuple[MemberStatus | None, str]:
    client = clients.patroni_member(member)
    try:
        return client.status(timeout=MEMBER_S), ""
    except (Unreachable, Failed) as error:
        return None, error.message
    finally:
        client.close()


def _pooler(control: PoolerControl) -> PoolerView:
    try:
        found = control.look()
    except (Unreachable, Failed) as error:
        return PoolerView(control.name, answers=False, trouble=error.message)
    finally:
        control.close()
    return PoolerView(
        control.name,
        databases=tuple(database.name for database in found),
        paused=tuple(database.name for database in found if database.paused),
    )


def _heartbeat_age(clients: Clients, member: Member) -> float | None:
    try:
        with clients.postgres(member).connect(timeout=MEMBER_S, limit=MEMBER_S + 1) as connection:
            beat = postgres.heartbeat(connection)
    except (Unreachable, Failed):
        return None
    return beat.lag_ms / 1000 if beat else None


def _replication(clients: Clients, leader: Member) -> dict[str, postgres.Replication] | None:
    """Member → its walsender on the leader; None when the leader's PostgreSQL does not answer."""
    try:
        with clients.postgres(leader).connect(timeout=MEMBER_S, limit=MEMBER_S + 1) as connection:
            return {row.name: row for row in postgres.replication(connection)}
    except (Unreachable, Failed):
        return None


def _store(etcd: Etcd) -> tuple[Mapping[str, Any], StoreView]:
    try:
        keys, lease_left = etcd.keys()
    except Unreachable as error:
        return {}, StoreView(answers=False, trouble=error.message)
    leader = keys.get("leader")
    sync = _document(keys, "sync")
    optime = _document(keys, "status").get("optime")
    return keys, StoreView(
        leader=LeaderKey(leader.value, leader.mod_revision, lease_left) if leader else None,
        sync=parse_sync(sync),
        failover_pending=bool(_document(keys, "failover")),
        optime=int(optime) if isinstance(optime, int | str) and str(optime).isdigit() else None,
    )


def parse_sync(document: Mapping[str, Any]) -> SyncView | None:
    """Patroni's /sync document → SyncView, None when synchronous mode is not in force. Without `quorum`
    (plain synchronous mode) every listed standby has every commit: any one of them will do.
    """
    leader = document.get("leader")
    if not leader:
        return None
    voters = frozenset(
        name.strip() for name in (document.get("sync_standby") or "").split(",") if name.strip()
    )
    return SyncView(str(leader), voters, int(document.get("quorum") or 0))


def _view(
    name: str,
    status: MemberStatus | None,
    trouble: str,
    stored: Mapping[str, Any],
    walsender: postgres.Replication | None,
    *,
    sql: bool | None,
    heartbeat: float | None,
) -> MemberView:
    """`stored` is the member's own key in the store: its tags, and its timeline for when it does not say it
    itself (as a replica without a walreceiver).
    """
    tags = stored.get("tags") or {}
    priority = tags.get("failover_priority", 1)
    return MemberView(
        name=name,
        answers=status is not None,
        trouble=trouble,
        role=status.role if status else "",
        state=status.state if status else "",
        timeline=(status.timeline or stored.get("timeline")) if status else None,
        received=status.received if status else None,
        replayed=status.replayed if status else None,
        wal=status.wal if status else None,
        replay_paused=bool(status and status.replay_paused),
        streaming=walsender is not None and walsender.state == "streaming",
        sync_state=walsender.sync_state if walsender else "",
        flush_lag=walsender.flush_lag if walsender else None,
        replay_lag=walsender.replay_lag if walsender else None,
        priority=priority if isinstance(priority, int) else 1,
        nofailover=bool(tags.get("nofailover")) or priority == 0,
        sql=sql,
        heartbeat_age=heartbeat,
    )


def _document(keys: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The key's JSON object; empty when there is none."""
    found = keys.get(name)
    if found is None:
        return {}
    try:
        document = json.loads(found.value)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _promotion_age(keys: Mapping[str, Any], now: datetime) -> float | None:
    """Seconds since the newest entry of Patroni's timeline history."""
    found = keys.get("history")
    try:
        entries = json.loads(found.value) if found is not None else []
        moment = datetime.fromisoformat(entries[-1][3])
    except (ValueError, LookupError, TypeError):
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (now - moment).total_seconds())
