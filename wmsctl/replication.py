"""The PostgreSQL cluster as a whole: who leads, and how far behind each replica is.

Three witnesses are put together: Patroni (roles, states), the primary (pg_stat_replication: bytes,
synchronous state), and each server itself (replay paused, heartbeat). `assemble` is pure; `tasks` names the
questions that it needs answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from wmsctl.clients.patroni import ClusterState
from wmsctl.deadline import Deadline
from wmsctl.parallel import Outcome, gather

if TYPE_CHECKING:
    from wmsctl.clients.connect import Clients
    from wmsctl.clients.postgres import Heartbeat, Replication, ServerState
    from wmsctl.inventory import Inventory, Member

BEAT_MS = 1000
"""The primary's node agent renews the heartbeat this often."""


@dataclass(frozen=True)
class ServerView:
    """What one server told about itself."""

    state: ServerState
    heartbeat: Heartbeat | None
    replicas: tuple[Replication, ...] = ()
    """On the primary: its walsenders."""


@dataclass(frozen=True)
class MemberView:
    """One member with everything known about it. Lags are None when unknown and on the primary."""

    node: str
    role: str
    """primary, replica, or unknown when nobody could tell."""
    state: str
    """running, streaming, or what is wrong with it in Patroni's words; unknown."""
    sync: str
    """quorum, sync, potential or async for a replica that streams; empty otherwise."""
    timeline: int | None
    lag_bytes: int | None
    lag_ms: int | None
    replay_paused: bool | None
    replica_role: str
    """analytics, reporting, reads, or empty."""
    pending_restart: bool
    api: bool
    """Its Patroni answers."""
    trouble: str
    """Why PostgreSQL could not be asked; empty when it answered."""


@dataclass(frozen=True)
class ClusterView:
    """The cluster at one moment."""

    scope: str
    leader: str
    """Who holds the leader lock; empty when nobody does or no Patroni could be asked."""
    primary: str
    """The leader, or, when no Patroni could be asked, the only server that is out of recovery."""
    timeline: int | None
    paused: bool
    """Patroni is in maintenance mode."""
    writable: bool
    """The primary's PostgreSQL answers, out of recovery and not read-only."""
    heartbeat_age_ms: int | None
    """Age of the heartbeat on the primary itself."""
    members: tuple[MemberView, ...]
    trouble: str = ""
    """Why no Patroni could be asked."""

    @property
    def replicas(self) -> tuple[MemberView, ...]:
        return tuple(member for member in self.members if member.node != self.primary)


def tasks(clients: Clients, timeout: float) -> dict[str, Callable[[], Any]]:
    """The questions behind a ClusterView, each bounded by `timeout` seconds, by name."""
    found: dict[str, Callable[[], Any]] = {}
    for member in clients.inventory.postgres.members:
        found[f"patroni {member.node}"] = partial(_cluster, clients, member, timeout)
        found[f"postgres {member.node}"] = partial(look, clients, member, timeout)
    return found


def _cluster(clients: Clients, member: Member, timeout: float) -> ClusterState:
    return clients.patroni_member(member).cluster(timeout=timeout)


def look(clients: Clients, member: Member, timeout: float) -> ServerView:
    """Ask one server about itself, on one connection. Raises Unreachable, Failed."""
    from wmsctl.clients import postgres

    server = clients.postgres(member)
    with server.connect(timeout=timeout, statement_timeout=timeout, limit=timeout) as connection:
        state = postgres.server_state(connection)
        beat = postgres.heartbeat(connection)
        return ServerView(state, beat, () if state.in_recovery else postgres.replication(connection))


def observe(clients: Clients, deadline: Deadline) -> ClusterView:
    """Look at the cluster now; never raises for a server that is away."""
    return assemble(clients.inventory, gather(tasks(clients, deadline.remaining()), deadline))


def assemble(inventory: Inventory, outcomes: Mapping[str, Outcome[Any]]) -> ClusterView:
    """Put the answers together. Pure.

    Of several Patroni views the leader's own counts, else the first in the order of the inventory.
    """
    members = inventory.postgres.members
    views: dict[str, ClusterState] = {}
    servers: dict[str, ServerView] = {}
    for member in members:
        view, server = outcomes[f"patroni {member.node}"].value, outcomes[f"postgres {member.node}"].value
        if view is not None:
            views[member.node] = view
        if server is not None:
            servers[member.node] = server
    cluster = next(
        (view for node, view in views.items() if view.leader and view.leader.name == node),
        next(iter(views.values()), None),
    )
    leader = cluster.leader.name if cluster and cluster.leader else ""
    active = [node for node, server in servers.items() if not server.state.in_recovery]
    name = leader or (active[0] if cluster is None and len(active) == 1 else "")
    primary = servers[name] if name in active else None
    senders = {row.name: row for row in primary.replicas} if primary else {}
    beat = primary.heartbeat if primary else None
    return ClusterView(
        scope=inventory.postgres.scope,
        leader=leader,
        primary=name,
        timeline=primary.state.timeline
        if primary
        else (cluster.leader.timeline if cluster and cluster.leader else None),
        paused=bool(cluster and cluster.paused),
        writable=primary is not None and not primary.state.read_only,
        heartbeat_age_ms=_milliseconds(beat.now, beat.at) if beat else None,
        members=tuple(
            _member(
                member,
                cluster,
                name,
                servers.get(member.node),
                senders.get(member.node),
                beat,
                member.node in views,
                outcomes[f"postgres {member.node}"].trouble,
            )
            for member in members
        ),
        trouble=""
        if cluster
        else "; ".join(sorted({outcomes[f"patroni {m.node}"].trouble for m in members})),
    )


def lag_ms(
    primary: Heartbeat | None, replica: Heartbeat | None, sender: Replication | None, lag_bytes: int | None
) -> int | None:
    """A replica's lag in milliseconds; None when there is no evidence.

    The heartbeat comes once a second, so the plain age of the replica's row says 0 to 1000 ms for a replica
    that is not behind at all. What counts is since when it lacks a beat that the primary has written: from
    that beat on (or, with several lacking, one beat after the row that it shows). That is exact to one beat
    and never too much; between beats the primary's own measure (replay_lag) is finer, but stands still while
    replay is paused. The larger of both is right. Without a beat of the primary to compare with, the plain
    age is all there is.
    """
    measured = sender.replay_lag_ms if sender and lag_bytes else None
    if replica is None:
        return measured if measured is not None else (0 if sender and lag_bytes == 0 else None)
    if primary is None:
        return _milliseconds(replica.now, replica.at)
    if replica.at >= primary.at:
        behind = 0
    else:
        gap = _milliseconds(primary.at, replica.at)
        first_lacking_age = _milliseconds(replica.now, replica.at) - min(gap, BEAT_MS)
        behind = max(0, first_lacking_age)
    return max(behind, measured or 0)


def _member(
    member: Member,
    cluster: ClusterState | None,
    primary: str,
    server: ServerView | None,
    sender: Replication | None,
    beat: Heartbeat | None,
    api: bool,
    trouble: str,
) -> MemberView:
    reported = cluster.get(member.node) if cluster else None
    is_primary = member.node == primary
    if reported is not None or server is not None:
        in_recovery = server.state.in_recovery if server else not is_primary
        role = "replica" if in_recovery else "primary"
    else:
        role = "unknown"
    lag_bytes = lag = None
    if not is_primary:
        lag_bytes = sender.replay_lag if sender else (reported.replay_lag if reported else None)
        lag = lag_ms(beat, server.heartbeat if server else None, sender, lag_bytes)
    timeline = server.state.timeline if server else None
    if timeline is None and reported:
        timeline = reported.timeline
    return MemberView(
        node=member.node,
        role=role,
        state=reported.state if reported else ("running" if server else "unknown"),
        sync=sender.sync_state if sender else "",
        timeline=timeline,
        lag_bytes=lag_bytes,
        lag_ms=lag,
        replay_paused=server.state.replay_paused if server and not is_primary else None,
        replica_role=member.replica_role,
        pending_restart=bool(reported and reported.pending_restart),
        api=api,
        trouble=trouble,
    )


def _milliseconds(later: datetime, earlier: datetime) -> int:
    return max(0, round((later - earlier).total_seconds() * 1000))
