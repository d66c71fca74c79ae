"""PgBouncer: transaction pooling in front of HAProxy, one beside each.

Both poolers know both proxies, so the death of one HAProxy costs a reconnect and nothing else.
"""

from __future__ import annotations

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


def databases(platform: Platform) -> list[tuple[str, int, int]]:
    """(name clients connect to, HAProxy port behind it, pool size)."""
    name, pooler = platform.postgres.database, platform.pooler
    return [
        (name, platform.proxy.write_port, pooler.write_pool),
        (f"{name}_read", platform.proxy.read_port, pooler.read_pool),
        *((f"{name}_{role.name}", role.port, pooler.role_pool) for role in platform.postgres.replica_roles),
    ]
