"""Which nodes a platform has, in which zone and at which address: pure, from the spec alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from stacks.spec import Platform

OCTETS = {
    "etcd": 1,
    "postgres": 2,
    "proxy": 3,
    "redis": 4,
    "storage": 5,
    "app": 6,
    "gateway": 7,
    "edge": 8,
    "monitor": 9,
}
"""Role → third octet of its nodes' addresses on the local target."""

PREFIXES = {"postgres": "pg"}
"""Role → prefix of its nodes' names, where it is not the role itself."""


@dataclass(frozen=True)
class Node:
    """One machine: a role, a zone and an address of its own."""

    name: str
    role: str
    index: int
    """From 1, within the role."""
    zone: str
    address: str


def nodes(platform: Platform) -> tuple[Node, ...]:
    """All nodes, by role and index; members of a role are spread over the zones in turn."""
    return tuple(
        Node(
            name=f"{PREFIXES.get(role, role)}-{index}",
            role=role,
            index=index,
            zone=platform.zones[(index - 1) % len(platform.zones)],
            address=f"{platform.network}.{OCTETS[role]}.{index}",
        )
        for role, count in counts(platform).items()
        for index in range(1, count + 1)
    )


def counts(platform: Platform) -> dict[str, int]:
    """Role → number of nodes."""
    return {
        "etcd": platform.etcd.members,
        "postgres": 1 + len(platform.postgres.replica_roles),
        "proxy": platform.proxy.count,
        "redis": platform.redis.masters * (1 + platform.redis.replicas_per_master),
        "storage": 1,
        "app": platform.service.count,
        "gateway": platform.gateway.count,
        "edge": platform.edge.count,
        "monitor": 1,
    }


def names(node: Node) -> tuple[str, ...]:
    """DNS names that the node's certificate carries, beside its address.

    The role is one of them: a client that balances over the nodes of a role verifies it. The address is there
    a second time, as a name: pgBackRest compares what it connects to with the DNS names only.
    """
    return (node.name, node.role, node.address, "localhost")


def of_role(platform: Platform, role: str) -> tuple[Node, ...]:
    """The nodes of one role, by index."""
    return tuple(node for node in nodes(platform) if node.role == role)


def redis_shards(platform: Platform) -> tuple[tuple[Node, tuple[Node, ...]], ...]:
    """(master, its replicas) of the cluster as first formed; a replica is never in its master's zone.

    The first nodes are the masters. Each further round of nodes replicates them in order, turned by the
    smallest offset that keeps zones apart. Raises ValueError when there is none (`rules` refuses the spec).
    """
    masters = platform.redis.masters
    members = of_role(platform, "redis")
    replicas: list[list[Node]] = [[] for _ in range(masters)]
    for start in range(masters, len(members), masters):
        batch = members[start : start + masters]
        turn = next(
            (
                offset
                for offset in range(masters)
                if all(node.zone != members[(i + offset) % masters].zone for i, node in enumerate(batch))
            ),
            None,
        )
        if turn is None:
            raise ValueError("no arrangement puts every Redis replica in another zone than its master")
        for i, node in enumerate(batch):
            replicas[(i + turn) % masters].append(node)
    return tuple((members[i], tuple(replicas[i])) for i in range(masters))


def redis_slots(platform: Platform) -> tuple[range, ...]:
    """The hash slots of each master, in order: 16384 in as even parts as possible."""
    masters = platform.redis.masters
    bounds = [round(i * 16384 / masters) for i in range(masters + 1)]
    return tuple(range(low, high) for low, high in pairwise(bounds))
