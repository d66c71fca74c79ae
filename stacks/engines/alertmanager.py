"""Alertmanager: groups alerts, and lets a critical one silence its warnings."""

from __future__ import annotations

from stacks import topology
from stacks.engines.exporters import SMALL
from stacks.render import Probe, Process, Site, nothing, template
from stacks.spec import Platform


def processes(platform: Platform, site: Site) -> list[Process]:
    """One on the monitor node, without the gossip of a cluster; its file is reloaded by SIGHUP."""
    port = platform.monitor.alertmanager_port
    return [
        Process(
            node=node.name,
            name="alertmanager",
            command=(
                "/usr/bin/prometheus-alertmanager",
                f"--config.file={site.folder(node.name, 'alertmanager')}/alertmanager.yml",
                f"--storage.path={site.folder(node.name, 'alertmanager')}/data",
                f"--web.listen-address={node.address}:{port}",
                f"--web.external-url=http://{node.address}:{port}/",
                "--cluster.listen-address=",
                "--log.level=warn",
            ),
            files={"alertmanager.yml": template("alertmanager.yml.j2")},
            environment=SMALL,
            restart_only=nothing,
            reload_signal="HUP",
            probe=Probe("http", node.address, port, "/-/ready"),
        )
        for node in topology.of_role(platform, "monitor")
    ]
