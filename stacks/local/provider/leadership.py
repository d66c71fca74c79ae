"""Whether a process leads its group, and handing the role to another before it is restarted."""

from __future__ import annotations

from typing import Literal

from stacks.local.provider import patroni, rediscluster
from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Inputs
from stacks.local.provider.waiting import until

FAILOVER_SECONDS = 60.0


class Leader(Inputs, frozen=True, kw_only=True):
    """How to ask a member for its role.

    patroni: `url` is the member's own REST URL, `name` its Patroni name (default: the node's name).
    redis: `address` and `port` are the member's own; TLS when `ca` is given.
    """

    kind: Literal["patroni", "redis"]
    url: str = ""
    name: str = ""
    address: str = ""
    port: int = 6379
    ca: str = ""
    user: str = ""
    password: str = ""


def leads(leader: Leader | None, node: str) -> bool:
    """Whether this member leads now; False when it does not answer, for then it serves nobody."""
    if leader is None:
        return False
    try:
        if leader.kind == "patroni":
            found = patroni.view(access(leader)).leader
            return found is not None and found.name == (leader.name or node)
        return leads_redis(leader)
    except Unreachable:
        return False


def relieve(leader: Leader, node: str) -> None:
    """Hand the role to another member. Raises ProviderError when nobody can take it, and after a deadline."""
    if leader.kind == "patroni":
        patroni.relieve(access(leader), leader.name or node)
    else:
        relieve_redis(leader)


def access(leader: Leader) -> patroni.Access:
    """The member's own REST API."""
    return patroni.Access((leader.url,), leader.ca, leader.user, leader.password)


def redis_access(leader: Leader) -> rediscluster.Access:
    """How to log in to the nodes of the cluster."""
    return rediscluster.Access(leader.user, leader.password, leader.ca)


def leads_redis(leader: Leader) -> bool:
    """Whether this node is a master that owns slots: one without serves nobody. Raises Unreachable."""
    me = rediscluster.myself(rediscluster.view(redis_access(leader), (leader.address, leader.port)))
    return me.is_master and bool(me.slots)


def relieve_redis(leader: Leader) -> None:
    """Make a replica take over by CLUSTER FAILOVER and wait until every node that answers sees it as master.

    OK means only that the failover is scheduled, so every node's own view is what counts.
    Raises ProviderError when no replica is sound.
    """
    import redis

    access, here = redis_access(leader), (leader.address, leader.port)
    nodes = rediscluster.view(access, here)
    me = rediscluster.myself(nodes)
    heirs = sorted((n for n in nodes if n.master == me.id and n.sound), key=lambda n: n.place)
    if not heirs:
        raise ProviderError(
            f"Redis at {here[0]}:{here[1]} owns slots and has no replica that could take over",
            "Bring its replica back (wmsctl status shows it), then run pulumi up again",
        )
    heir = heirs[0]
    try:
        access.ask(heir.place, "CLUSTER", "FAILOVER")
    except redis.ResponseError as error:
        raise ProviderError(
            f"Redis at {heir.place[0]}:{heir.place[1]} refuses CLUSTER FAILOVER: {error}",
            "See wmsctl status; then run pulumi up again",
        ) from None

    def agreed() -> bool:
        for node in nodes:
            try:
                seen = {each.id: each for each in rediscluster.view(access, node.place)}
            except Unreachable:
                continue
            if heir.id not in seen or not seen[heir.id].is_master or not seen[heir.id].slots:
                return False
            if me.id not in seen or seen[me.id].is_master:
                return False
        return True

    until(
        agreed,
        seconds=FAILOVER_SECONDS,
        interval=0.1,
        what=f"the failover of Redis from {here[0]}:{here[1]} to {heir.place[0]}:{heir.place[1]}",
        do="See wmsctl status; then run pulumi up again",
    )
