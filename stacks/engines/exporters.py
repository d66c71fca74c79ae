"""The exporters: what turns each server's counters into Prometheus' format, beside it where it must be local.

They are many, so each is kept small: one Go thread, an early garbage collector, unneeded collectors off.
"""

from __future__ import annotations

from urllib.parse import urlencode

from stacks import topology
from stacks.engines.redis import EXPORTER as REDIS_USER
from stacks.render import Probe, Process, Site, nothing, secret, template
from stacks.spec import Platform
from stacks.topology import Node

POOLER_USER = "pooler_stats"
"""Console user of PgBouncer that may look and nothing else."""

HEARTBEAT_MS = 1000
"""Between two heartbeats of the primary (agent.heartbeat)."""

SMALL = {"GOMAXPROCS": "1", "GOGC": "40"}
"""Environment of a Go program that is to stay small."""


def processes(platform: Platform, site: Site) -> list[Process]:
    """All exporters but HAProxy's and the service's, which are built in."""
    of = {
        role: topology.of_role(platform, role) for role in ("postgres", "proxy", "gateway", "edge", "monitor")
    }
    return [
        *(_postgres(platform, site, node) for node in of["postgres"]),
        *(_pgbouncer(platform, site, node) for node in of["proxy"]),
        *(_nginx(platform, node) for node in of["gateway"]),
        *(_varnish(platform, site, node) for node in of["edge"]),
        *(
            process
            for node in of["monitor"]
            for process in (
                _redis(platform, site, node),
                _machine(platform, node),
                _blackbox(platform, site, node),
            )
        ),
    ]


def _postgres(platform: Platform, site: Site, node: Node) -> Process:
    port, folder = platform.monitor.postgres_port, site.folder(node.name, "postgres-exporter")
    database = f"{node.address}:{platform.postgres.port}/{platform.postgres.database}"
    options = urlencode({"sslmode": "verify-ca", "sslrootcert": site.ca, "connect_timeout": 3}, safe="/")
    return Process(
        node=node.name,
        name="postgres-exporter",
        command=(
            "/usr/bin/prometheus-postgres-exporter",
            f"--web.listen-address={node.address}:{port}",
            f"--extend.query-path={folder}/queries.yml",
            "--disable-settings-metrics",
            "--log.level=warn",
        ),
        files={
            "queries.yml": template(
                "postgres-queries.yml.j2", heartbeat_ms=HEARTBEAT_MS, tables=platform.partitions.tables
            )
        },
        environment={
            "DATA_SOURCE_URI": f"{database}?{options}",
            "DATA_SOURCE_USER": "exporter",
            "DATA_SOURCE_PASS": secret("postgres/exporter"),
            **SMALL,
        },
        probe=Probe("http", node.address, port, "/"),
    )


def _pgbouncer(platform: Platform, site: Site, node: Node) -> Process:
    # The packaged exporter opens one connection at its start and never another: after a restart of the pooler
    # it would answer with errors for ever.
    port = platform.monitor.pooler_port
    return Process(
        node=node.name,
        name="pgbouncer-exporter",
        command=(site.python, "-m", "agent.pooler_metrics"),
        environment={
            "PYTHONPATH": site.agent,
            "WMS_LISTEN_ADDRESS": node.address,
            "WMS_LISTEN_PORT": str(port),
            "WMS_POOLER_ADDRESS": node.address,
            "WMS_POOLER_PORT": str(platform.pooler.port),
            "WMS_POOLER_USER": POOLER_USER,
            "WMS_POOLER_PASSWORD": secret("pgbouncer/stats"),
            "WMS_POOLER_CA": site.ca,
        },
        probe=Probe("http", node.address, port, "/"),
    )


def _nginx(platform: Platform, node: Node) -> Process:
    port = platform.monitor.nginx_port
    return Process(
        node=node.name,
        name="nginx-exporter",
        command=(
            "/usr/bin/prometheus-nginx-exporter",
            f"-web.listen-address={node.address}:{port}",
            f"-nginx.scrape-uri=http://{node.address}:{platform.gateway.status_port}/stub_status",
            # It gives up when nginx is not there at its start.
            "-nginx.retries=30",
            "-nginx.retry-interval=1s",
        ),
        environment=SMALL,
        probe=Probe("http", node.address, port, "/"),
    )


def _varnish(platform: Platform, site: Site, node: Node) -> Process:
    port = platform.monitor.varnish_port
    return Process(
        node=node.name,
        name="varnish-exporter",
        command=(
            "/usr/bin/prometheus-varnish-exporter",
            f"-web.listen-address={node.address}:{port}",
            *("-varnishstat-path", "/usr/bin/varnishstat"),
            *("-n", f"{site.folder(node.name, 'varnish')}/work"),
        ),
        environment=SMALL,
        probe=Probe("http", node.address, port, "/"),
    )


def _redis(platform: Platform, site: Site, node: Node) -> Process:
    port = platform.monitor.redis_port
    return Process(
        node=node.name,
        name="redis-exporter",
        command=(
            "/usr/bin/prometheus-redis-exporter",
            f"-web.listen-address={node.address}:{port}",
            # No server of its own: Prometheus names the one to ask.
            "-redis.addr=",
            f"-tls-ca-cert-file={site.ca}",
            "-connection-timeout=3s",
            "-redis-only-metrics",
        ),
        environment={"REDIS_USER": REDIS_USER, "REDIS_PASSWORD": secret("redis/exporter"), **SMALL},
        probe=Probe("http", node.address, port, "/health"),
    )


def _machine(platform: Platform, node: Node) -> Process:
    port = platform.monitor.node_port
    collectors = ("cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "stat", "uname", "vmstat")
    return Process(
        node=node.name,
        name="node-exporter",
        command=(
            "/usr/bin/prometheus-node-exporter",
            f"--web.listen-address={node.address}:{port}",
            "--web.disable-exporter-metrics",
            "--collector.disable-defaults",
            *(f"--collector.{name}" for name in collectors),
            "--log.level=warn",
        ),
        environment=SMALL,
        probe=Probe("http", node.address, port, "/"),
    )


def _blackbox(platform: Platform, site: Site, node: Node) -> Process:
    port = platform.monitor.blackbox_port
    folder = site.folder(node.name, "blackbox-exporter")
    return Process(
        node=node.name,
        name="blackbox-exporter",
        command=(
            "/usr/bin/prometheus-blackbox-exporter",
            f"--web.listen-address={node.address}:{port}",
            f"--config.file={folder}/blackbox.yml",
            "--log.level=warn",
        ),
        files={"blackbox.yml": template("blackbox.yml.j2", ca=site.ca)},
        environment=SMALL,
        restart_only=nothing,
        reload_signal="HUP",
        probe=Probe("http", node.address, port, "/-/healthy"),
    )
