"""nginx: load balancer and gateway. Round robin without affinity, compression, limits, timeouts, the cache of what
tenants read (layer 3 of row K1), the frontend's files, and its pictures in the size and format that is asked for.
"""

from __future__ import annotations

import math

from stacks import topology
from stacks.render import Probe, Process, Site, nothing, secret, template
from stacks.spec import Platform

IMAGE_WIDTHS = (48, 96, 192, 384)
"""Pixels; those that the frontend asks for (wms/web/src/parts/picture.tsx), the originals' own last. Anybody may ask,
so there are few: each picture of each format is made once per width."""

HEALTH = "/-/gateway"
"""Answered by the gateway itself, whatever the services do."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """One nginx per gateway node, unprivileged; every change is a graceful reload (SIGHUP)."""
    return [
        Process(
            node=node.name,
            name="nginx",
            # -e: before it has read its file it would log to a folder that is not ours.
            command=(
                "/usr/sbin/nginx",
                "-e",
                "stderr",
                "-p",
                site.folder(node.name, "nginx"),
                "-c",
                f"{site.folder(node.name, 'nginx')}/nginx.conf",
            ),
            files={
                "nginx.conf": template(
                    "nginx.conf.j2",
                    node=node,
                    spec=platform,
                    gateway=platform.gateway,
                    services=topology.of_role(platform, "app"),
                    edges=topology.of_role(platform, "edge"),
                    health=HEALTH,
                    image_widths=IMAGE_WIDTHS,
                    folder=site.folder(node.name, "nginx"),
                    certificate=site.certificate(node.name),
                    ca=site.ca,
                    web=site.web,
                ),
                # Apart from the rest because it holds a secret.
                "session.conf": f"set_hmac_sha256 $session '{secret('gateway/session')}' $http_authorization;\n"
                "set_encode_base64 $session;\n",
            },
            restart_only=nothing,
            reload_signal="HUP",
            probe=Probe("http", node.address, platform.gateway.port, HEALTH, tls=True),
            stop_signal="QUIT",
            stop_s=math.ceil(platform.timeouts.gateway_s) + 2,
            rollout="nginx",
        )
        for node in topology.of_role(platform, "gateway")
    ]
