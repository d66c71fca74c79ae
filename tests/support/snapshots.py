"""Builders of what failovers are decided on: a healthy cluster of four, and the same after the loss of its primary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wmsctl.failover.snapshot import LeaderKey, MemberView, PoolerView, Snapshot, StoreView, SyncView

REPLICAS = ("pg-2", "pg-3", "pg-4")
DATABASES = ("wms", "wms_read", "wms_reports")
LSN = 1_000_000_000


def primary(name: str = "pg-1", **changes: Any) -> MemberView:
    """A healthy leader on timeline 5."""
    base = MemberView(name, role="primary", timeline=5, wal=LSN, priority=100 - int(name[-1]), sql=True)
    return replace(base, **changes)


def replica(name: str = "pg-2", **changes: Any) -> MemberView:
    """A quorum standby that has everything."""
    base = MemberView(
        name,
        timeline=5,
        received=LSN,
        replayed=LSN,
        streaming=True,
        sync_state="quorum",
        flush_lag=0,
        replay_lag=0,
        priority=100 - int(name[-1]),
        heartbeat_age=0.4,
    )
    return replace(base, **changes)


def dead(name: str = "pg-1") -> MemberView:
    """A member that answers nothing."""
    return MemberView(name, answers=False, trouble="connection refused", role="", state="", sql=False)


def store(leader: str = "pg-1", **changes: Any) -> StoreView:
    """`leader` holds a fresh lease (nobody when empty), ANY 2 of the three others confirm."""
    voters = frozenset({"pg-1", *REPLICAS} - {leader or "pg-1"})
    base = StoreView(
        leader=LeaderKey(leader, 4711, 18.0) if leader else None,
        sync=SyncView(leader or "pg-1", voters, 1),
        optime=LSN,
    )
    return replace(base, **changes)


def pooler(name: str = "proxy-1", **changes: Any) -> PoolerView:
    return replace(PoolerView(name, databases=DATABASES), **changes)


def healthy(*members: MemberView, **changes: Any) -> Snapshot:
    """pg-1 leads; the given members take the place of those of the same name."""
    usual = {"pg-1": primary(), **{name: replica(name) for name in REPLICAS}}
    usual.update({member.name: member for member in members})
    base = Snapshot(
        members=tuple(usual.values()),
        store=store(),
        poolers=(pooler("proxy-1"), pooler("proxy-2")),
        proxies=("proxy-1", "proxy-2"),
    )
    return replace(base, **changes)


def lost(*members: MemberView, reachable: Sequence[str] = REPLICAS, **changes: Any) -> Snapshot:
    """pg-1 is dead and holds the lease still; of the replicas only `reachable` answer, none streams any more."""
    usual = {
        name: replica(name, streaming=False, sync_state="") if name in reachable else dead(name)
        for name in REPLICAS
    }
    usual.update({member.name: member for member in members})
    return healthy(dead(), *usual.values(), **changes)
