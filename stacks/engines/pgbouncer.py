"""PgBouncer: transaction pooling in front of HAProxy, one beside each.

Both poolers know both proxies, so the death of one HAProxy costs a reconnect and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from stacks import topology
from stacks.render import Probe, Process, Site, keeping, template
from stacks.spec import Platform

ADMIN = "pooler_admin"
"""Console user: no role of that name exists in PostgreSQL."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """One PgBouncer per proxy node; all but the listening sockets is applied by SIGHUP."""
    proxies = topology.of_role(platform, "proxy")
    return [
        Process(
            node=node.name,
            name="pgbouncer",
            command=("/usr/sbin/pgbouncer", f"{site.folder(node.name, 'pgbouncer')}/pgbouncer.ini"),
            files={
                "pgbouncer.ini": template(
                    "pgbouncer.ini.j2",
                    node=node,
                    spec=platform,
                    databases=databases(platform),
                    # The neighbour first: a hop less while it lives.
                    hosts=",".join(p.address for p in sorted(proxies, key=lambda p: p != node)),
                    folder=site.folder(node.name, "pgbouncer"),
                    certificate=site.certificate(node.name),
                    ca=site.ca,
                    admin=ADMIN,
                ),
                "userlist.txt": template("userlist.txt.j2", admin=ADMIN),
            },
            restart_only=keeping("listen_addr", "listen_port", "unix_socket_dir", "max_client_conn"),
            reload_signal="HUP",
            probe=Probe("tcp", node.address, platform.pooler.port),
            stop_signal="INT",
            rollout="pgbouncer",
        )
        for node in proxies
    ]


@dataclass(frozen=True, slots=True)
class Database:
    """A name that clients connect to, the port of HAProxy behind it, and its pools' size for each user."""

    name: str
    port: int
    size: int
    reserve: int


def databases(platform: Platform) -> list[Database]:
    """For requests, for the service's background work, and one for each replica role."""
    name, pooler, proxy = platform.postgres.database, platform.pooler, platform.proxy
    return [
        Database(name, proxy.write_port, pooler.write_pool, pooler.reserve_pool),
        Database(f"{name}_read", proxy.read_port, pooler.read_pool, pooler.reserve_pool),
        Database(f"{name}_worker", proxy.write_port, pooler.worker_pool, 0),
        Database(f"{name}_worker_read", proxy.read_port, pooler.worker_pool, 0),
        *(
            Database(f"{name}_{role.name}", role.port, pooler.role_pool, 0)
            for role in platform.postgres.replica_roles
        ),
    ]
