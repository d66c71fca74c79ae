"""Redis Cluster: cache, sessions and event streams. TLS only; every user by ACL; nothing by the default user.

The processes start as single nodes; `topology.redis_shards` and `redis_slots` say how they are joined.
"""

from __future__ import annotations

from stacks import topology
from stacks.render import Probe, Process, Site, template
from stacks.spec import Platform

ADMIN, APP, REPLICATION, EXPORTER = "admin", "app", "replication", "exporter"
"""ACL users; the secret of each is redis/<user>."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """One Redis per node. It has no reload signal, so every change is a restart, masters last."""
    return [
        Process(
            node=node.name,
            name="redis",
            command=("/usr/bin/redis-server", f"{site.folder(node.name, 'redis')}/redis.conf"),
            files={
                "redis.conf": template(
                    "redis.conf.j2",
                    node=node,
                    spec=platform.redis,
                    folder=site.folder(node.name, "redis"),
                    certificate=site.certificate(node.name),
                    ca=site.ca,
                ),
                "auth.conf": template("redis-auth.conf.j2", user=REPLICATION),
                "users.acl": template(
                    "users.acl.j2", admin=ADMIN, app=APP, replication=REPLICATION, exporter=EXPORTER
                ),
            },
            # Before the cluster is formed nothing more than the port can be ready.
            probe=Probe("tcp", node.address, platform.redis.port),
            stop_s=30,
            rollout="redis",
            leader="redis",
        )
        for node in topology.of_role(platform, "redis")
    ]
