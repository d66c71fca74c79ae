"""Which replicas keep the lag limit, and when replay may be paused. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from wmsctl.errors import Refused, Unreachable
from wmsctl.replication import ClusterView, MemberView


@dataclass(frozen=True)
class Replica:
    """A replica against the limit; `within` is false also when its lag is unknown."""

    node: str
    replica_role: str
    state: str
    timeline: int | None
    sync: str
    lag_bytes: int | None
    lag_ms: int | None
    replay_paused: bool | None
    within: bool
    trouble: str


@dataclass(frozen=True)
class Report:
    """All replicas (document wmsctl.replicas/v1)."""

    primary: str
    timeline: int | None
    limit_ms: int
    within: bool
    replicas: tuple[Replica, ...]


def report(cluster: ClusterView, limit_ms: int) -> Report:
    """Hold every replica against `limit_ms` (row D3)."""
    rows = tuple(_replica(member, limit_ms) for member in cluster.replicas)
    return Report(cluster.primary, cluster.timeline, limit_ms, all(row.within for row in rows), rows)


def replay(cluster: ClusterView, node: str, *, paused: bool) -> list[str]:
    """The steps to pause or resume the replay on `node`; empty when it is so already.

    Raises Refused on the primary, and where pausing would leave the primary without any synchronous standby
    whose replay goes on (a synchronous commit waits for flushes only, but then no such standby could be
    promoted at once); Unreachable when the server cannot be asked.
    """
    member = next(view for view in cluster.members if view.node == node)
    if member.trouble:
        raise Unreachable(
            f"PostgreSQL on {node} cannot be asked: {member.trouble}", hint="see: wmsctl status"
        )
    if member.role == "primary":
        raise Refused(f"{node} is the primary: it replays nothing", hint="choose a replica: wmsctl replicas")
    if member.replay_paused == paused:
        return []
    if not paused:
        return [f"resume the replay on {node}"]
    others = [
        view
        for view in cluster.replicas
        if view.node != node and view.sync in ("quorum", "sync") and not view.replay_paused
    ]
    if member.sync in ("quorum", "sync") and not others:
        raise Refused(
            f"{node} is the last synchronous standby whose replay goes on",
            hint="resume another one first: wmsctl replicas resume NODE",
        )
    return [f"pause the replay on {node}: reads there will show the past"]


def _replica(member: MemberView, limit_ms: int) -> Replica:
    within = member.lag_ms is not None and member.lag_ms <= limit_ms and not member.trouble
    return Replica(
        node=member.node,
        replica_role=member.replica_role,
        state=member.state,
        timeline=member.timeline,
        sync=member.sync,
        lag_bytes=member.lag_bytes,
        lag_ms=member.lag_ms,
        replay_paused=member.replay_paused,
        within=within,
        trouble=member.trouble,
    )
