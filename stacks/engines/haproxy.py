"""HAProxy: sends writes to the primary and reads to replicas within the lag limit, by Patroni's health answers."""

from __future__ import annotations

from stacks import topology
from stacks.engines.patroni import replica_role
from stacks.render import Probe, Process, Site, nothing, template
from stacks.spec import Platform


def processes(platform: Platform, site: Site) -> list[Process]:
    """One HAProxy per proxy node, in master-worker mode: every change is a seamless reload (SIGUSR2)."""
    members = topology.of_role(platform, "postgres")
    return [
        Process(
            node=node.name,
            name="haproxy",
            command=(
                "/usr/sbin/haproxy",
                "-W",
                "-db",
                "-f",
                f"{site.folder(node.name, 'haproxy')}/haproxy.cfg",
            ),
            files={
                "haproxy.cfg": template(
                    "haproxy.cfg.j2",
                    node=node,
                    spec=platform,
                    members=members,
                    roles=[
                        (role, next(m for m in members if replica_role(platform, m.index) == role.name))
                        for role in platform.postgres.replica_roles
                    ],
                    lag_bytes=platform.thresholds.replication_lag_mb * 1024 * 1024,
                    folder=site.folder(node.name, "haproxy"),
                    ca=site.ca,
                )
            },
            restart_only=nothing,
            reload_signal="USR2",
            probe=Probe("http", node.address, platform.proxy.stats_port, "/metrics"),
            stop_signal="USR1",
            rollout="haproxy",
        )
        for node in topology.of_role(platform, "proxy")
    ]
