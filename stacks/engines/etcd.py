"""etcd: the store that holds the leader's lease. TLS for clients and peers; users are made after it is up."""

from __future__ import annotations

from stacks import topology
from stacks.render import Probe, Process, Site, template
from stacks.spec import Platform


def processes(platform: Platform, site: Site) -> list[Process]:
    """One member per etcd node; every setting needs a restart."""
    members = topology.of_role(platform, "etcd")
    return [
        Process(
            node=node.name,
            name="etcd",
            command=("/usr/bin/etcd", "--config-file", f"{site.folder(node.name, 'etcd')}/etcd.yml"),
            files={
                "etcd.yml": template(
                    "etcd.yml.j2",
                    node=node,
                    members=members,
                    spec=platform.etcd,
                    token=f"{platform.name}-{platform.environment}",
                    data=f"{site.folder(node.name, 'etcd')}/data",
                    certificate=site.certificate(node.name),
                    ca=site.ca,
                )
            },
            # No quorum before the second member starts, so readiness is only that the port answers.
            probe=Probe("tcp", node.address, platform.etcd.client_port),
            rollout="etcd",
        )
        for node in members
    ]
