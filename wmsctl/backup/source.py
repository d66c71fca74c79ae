"""Where a backup is taken from: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wmsctl.clients.patroni import ClusterState, MemberState
from wmsctl.errors import Refused, Unreachable
from wmsctl.inventory import Member

ORDER = ("reporting", "analytics", "", "reads")
"""Kinds of read traffic (row D3), those first whose readers mind a backup least."""


@dataclass(frozen=True)
class Source:
    """The node whose data are copied, and the one that leads."""

    node: str
    primary: str
    passed_over: tuple[str, ...] = ()
    """Replicas that were not taken, with the reason."""

    @property
    def standby(self) -> bool:
        return self.node != self.primary


def choose(cluster: ClusterState, members: Sequence[Member], lag_bytes: int, node: str = "") -> Source:
    """A replica that streams and is close, else the primary; `node` to ask for a certain one.

    Raises Unreachable when nobody leads: a backup begins and ends on the primary. Refused when `node` will not do.
    """
    leader = cluster.leader
    if leader is None or not leader.healthy:
        raise Unreachable(
            "no primary: a backup begins and ends with one", hint="see wmsctl status; wmsctl failover promote"
        )
    roles = {member.node: member.replica_role for member in members}
    troubles = {
        member.name: why for member in cluster.replicas if (why := _trouble(member, leader, lag_bytes))
    }
    troubles |= {
        name: "its agent does not answer"
        for name in roles
        if cluster.get(name) is None and name != leader.name
    }
    if node:
        if node not in roles:
            raise Refused(f"{node} is no PostgreSQL node; there are: {', '.join(roles)}")
        if node in troubles:
            raise Refused(
                f"{node} cannot be backed up: {troubles[node]}", hint="leave --from out to take one that can"
            )
        return Source(node, leader.name)
    fit = sorted(
        (member.name for member in cluster.replicas if member.name in roles and member.name not in troubles),
        key=lambda name: (ORDER.index(roles[name]) if roles[name] in ORDER else 1, name),
    )
    passed_over = tuple(f"{name}: {why}" for name, why in sorted(troubles.items()))
    return Source(fit[0] if fit else leader.name, leader.name, passed_over)


def _trouble(member: MemberState, leader: MemberState, lag_bytes: int) -> str:
    """Why a replica is not taken; empty when it may be."""
    if member.state != "streaming":
        return f"it is {member.state}"
    if member.timeline != leader.timeline:
        return f"it is on timeline {member.timeline}"
    if (member.lag or 0) > lag_bytes:
        return f"it is {member.lag} bytes behind"
    return ""
