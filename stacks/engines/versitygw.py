"""The S3 gateway: backups and archives go to it. A folder is the store; old versions are kept beside it."""

from __future__ import annotations

from stacks import topology
from stacks.render import Probe, Process, Site, secret
from stacks.spec import Platform

HEALTH = "/health"
"""Path of its health check."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """One gateway on the storage node; every setting is a flag, so every change is a restart."""
    return [
        Process(
            node=node.name,
            name="versitygw",
            # It wants its two folders to exist.
            command=(
                "/bin/sh",
                "-euc",
                'mkdir -p data versions; exec "$@"',
                "versitygw",
                site.versitygw,
                "--port",
                f"{node.address}:{platform.storage.port}",
                "--cert",
                site.certificate(node.name),
                "--key",
                site.certificate(node.name),
                "--region",
                platform.storage.region,
                "--health",
                HEALTH,
                "--keep-alive",
                "--quiet",
                "posix",
                "--versioning-dir",
                f"{site.folder(node.name, 'versitygw')}/versions",
                f"{site.folder(node.name, 'versitygw')}/data",
            ),
            environment={
                "ROOT_ACCESS_KEY": secret("s3/access_key"),
                "ROOT_SECRET_KEY": secret("s3/secret_key"),
                "GOMAXPROCS": "2",
                "GOGC": "50",
            },
            probe=Probe("http", node.address, platform.storage.port, HEALTH, tls=True),
            rollout="versitygw",
        )
        for node in topology.of_role(platform, "storage")
    ]
